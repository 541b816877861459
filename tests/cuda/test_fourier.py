"""Fourier transforms on the CUDA device, against NumPy: by generated passes, and by cuFFT, whose
place a stand-in on the simulator's memory takes (with LAMPION_CUDA_REAL=1 it is the library)."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from real import REAL

import lampion as torch
from lampion import callpath
from lampion.ops.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("gpu")
_TYPES = {0: np.float32, 1: np.float64, 4: np.complex64, 5: np.complex128}
PRIMITIVES = ("fft_c2c", "fft_r2c", "fft_c2r")


class StandIn:
    """cuFFT's calls, as its documentation describes them, computed by NumPy in host memory."""

    def __init__(self):
        self.plans, self.count, self.calls = {}, itertools.count(1), 0

    def get_version(self):
        return 12000

    def create(self):
        handle = next(self.count)
        self.plans[handle] = {}
        return handle

    def destroy(self, handle):
        del self.plans[handle]

    def set_auto_allocation(self, handle, automatic):
        assert automatic == 0 and not self.plans[handle]

    def xt_make_plan_many(self, handle, rank, n, inembed, istride, idist, intype, onembed, ostride,
                          odist, outtype, batch, execution):
        assert rank == len(n) == len(inembed) == len(onembed) <= 3
        assert execution == (5 if intype in (1, 5) else 4)
        self.plans[handle] = {
            "n": n, "source": (inembed, istride, idist, _TYPES[intype]),
            "target": (onembed, ostride, odist, _TYPES[outtype]), "batch": batch}
        return 64 * batch

    def set_stream(self, handle, stream):
        self.plans[handle]["stream"] = stream

    def set_work_area(self, handle, address):
        assert address % 256 == 0
        self.plans[handle]["work"] = address

    @staticmethod
    def lines(address, shape, layout, batch):
        embed, step, distance, kind = layout
        size = np.dtype(kind).itemsize
        strides = [step * size] * len(shape)
        for k in range(len(shape) - 2, -1, -1):
            strides[k] = strides[k + 1] * embed[k + 1]
        last = sum((m - 1) * s for m, s in zip(shape, strides)) + (batch - 1) * distance * size
        buffer = (ctypes.c_char * (last + size)).from_address(address)
        return np.ndarray((batch, *shape), kind, buffer, strides=(distance * size, *strides))

    def xt_exec(self, handle, source, target, direction):
        self.calls += 1
        p = self.plans[handle]
        assert p["work"] and direction in (-1, 1)
        n, half = list(p["n"]), [*p["n"][:-1], p["n"][-1] // 2 + 1]
        real_in, real_out = (p[w][3] in (np.float32, np.float64) for w in ("source", "target"))
        x = self.lines(source, half if real_out else n, p["source"], p["batch"])
        y = self.lines(target, half if real_in else n, p["target"], p["batch"])
        axes = tuple(range(1, len(n) + 1))
        if real_in:
            y[...] = np.fft.rfftn(x, axes=axes)
        elif real_out:
            result = np.fft.irfftn(x, n, axes=axes, norm="forward")
            x[...] = np.nan  # the library may overwrite it
            y[...] = result
        else:
            run = np.fft.fftn if direction < 0 else np.fft.ifftn
            y[...] = run(x, axes=axes, norm="backward" if direction < 0 else "forward")


@pytest.fixture
def cufft(gpu):
    """cuFFT's stand-in in the library's place, all plans made anew."""
    from lampion.runtime.devices import resolve
    from lampion_cuda import fourier

    torch.zeros(1, device="cuda")
    if REAL:
        if fourier.library(resolve("cuda").backend.open(0)) is None:
            pytest.skip("cuFFT is not installed")
        yield None
        return
    device = resolve("cuda").backend.open(0)
    before = device.libraries.get("cufft")
    standing = StandIn()
    device.libraries["cufft"] = fourier.Library(device, standing)
    for name in PRIMITIVES:
        REGISTRY[name].plans.clear()
    yield standing
    device.libraries["cufft"] = before
    for name in PRIMITIVES:
        REGISTRY[name].plans.clear()


def numbers(shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape)
    if np.dtype(kind).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    return a.astype(kind)


def agree(got, want, kind):
    tolerance = 2e-5 if kind in (np.float32, np.complex64) else 1e-12
    scale = max(1.0, float(np.abs(want).max()))
    assert got.shape == want.shape
    np.testing.assert_allclose(got.cpu().numpy(), want, atol=tolerance * scale)


CASES = [((8,), (0,)), ((4, 6), (1,)), ((4, 6), (0,)), ((3, 4, 5), (1,)), ((3, 4, 5), (0, 2)),
         ((3, 4, 5), (2, 1)), ((3, 4, 5), (0, 1, 2)), ((2, 3, 2, 3, 4), (0, 1, 2, 3, 4)),
         ((2, 3, 2, 3, 4), (4, 1, 3, 0)), ((1, 7), (0, 1)), ((17, 3), (0,))]


def check(name, shape, dims, kind, norm):
    x = numbers(shape, kind)
    t = torch.tensor(x, device="cuda")
    got = getattr(torch.fft, name)(t, dim=dims, norm=norm)
    agree(got, getattr(np.fft, name)(x.astype(np.result_type(x, np.float64)), axes=dims,
                                     norm=norm), kind)


@pytest.mark.parametrize("shape, dims", CASES)
def test_complex(cufft, shape, dims):
    for name, norm in (("fftn", None), ("ifftn", None), ("fftn", "ortho")):
        check(name, shape, dims, np.complex64, norm)
    check("ifftn", shape, dims, np.complex128, "forward")
    check("fftn", shape, dims, np.float32, None)
    if cufft is not None:
        assert cufft.calls


@pytest.mark.parametrize("shape, dims", CASES)
def test_half_of_a_real_one(cufft, shape, dims):
    check("rfftn", shape, dims, np.float32, None)
    check("rfftn", shape, dims, np.float64, "ortho")
    x = numbers(shape, np.float64)
    got = torch.fft.ihfftn(torch.tensor(x, device="cuda"), dim=dims)
    agree(got, np.conj(np.fft.rfftn(x, axes=dims, norm="forward")), np.float64)


@pytest.mark.parametrize("shape, dims", CASES)
@pytest.mark.parametrize("odd", [0, 1])
def test_real_from_half(cufft, shape, dims, odd):
    x = numbers(shape, np.complex128)
    sizes = [shape[d] for d in dims]
    sizes[-1] = max(1, 2 * (sizes[-1] - 1) + odd)
    t = torch.tensor(x, device="cuda")
    agree(torch.fft.irfftn(t, s=sizes, dim=dims), np.fft.irfftn(x, sizes, dims), np.float64)
    agree(torch.fft.hfftn(t, s=sizes, dim=dims, norm="forward"),
          np.fft.irfftn(np.conj(x), sizes, dims, norm="backward"), np.float64)
    np.testing.assert_array_equal(t.cpu().numpy(), x)


def test_layouts_of_views(cufft):
    x = numbers((6, 8, 4), np.complex64)
    t = torch.tensor(x, device="cuda")
    for view, a in ((t.permute(2, 0, 1), x.transpose(2, 0, 1)), (t[::2, 1:], x[::2, 1:]),
                    (t[:1].expand(6, 8, 4), np.broadcast_to(x[:1], x.shape))):
        for dims in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
            agree(torch.fft.fftn(view, dim=dims), np.fft.fftn(a, axes=dims), np.complex64)


def test_gradients(cufft):
    x = torch.tensor(numbers((4, 6), np.float32), device="cuda", requires_grad=True)
    torch.fft.rfft(x, norm="ortho").abs().square().sum().backward()
    y = x.detach().cpu().requires_grad_()
    torch.fft.rfft(y, norm="ortho").abs().square().sum().backward()
    np.testing.assert_allclose(x.grad.cpu().numpy(), y.grad.numpy(), atol=1e-4)


def test_the_library_is_chosen_and_its_absence_is_no_error(cufft):
    x = torch.zeros(4, 8, dtype=torch.complex64, device="cuda")
    op = REGISTRY["fft_c2c"]

    def chosen():
        return callpath.planned(op, op.bind((x, (1,), 0, True), {}))[0].chosen

    assert chosen().startswith("kernel cuda.fourier")
    if not REAL:
        from lampion.runtime.devices import resolve

        resolve("cuda").backend.open(0).libraries["cufft"] = None
        op.plans.clear()
        assert chosen() == "generated from the kernel IR"


def test_a_failed_plan_is_destroyed(cufft):
    if REAL:
        pytest.skip("of the stand-in")

    def refuse(*args):
        raise RuntimeError("no such plan")

    cufft.xt_make_plan_many = refuse
    with pytest.raises(RuntimeError, match="no such plan"):
        torch.fft.fft(torch.zeros(4, dtype=torch.complex64, device="cuda"))
    assert not cufft.plans


@pytest.mark.parametrize("shape, dims", CASES[:6])
def test_generated_passes(shape, dims):
    check("fftn", shape, dims, np.complex64, None)
    check("rfftn", shape, dims, np.float32, "ortho")
