"""Matrix products on OpenCL devices, in both schedules, against NumPy in higher precision."""

from __future__ import annotations

import numpy as np
import pytest

from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.base.meta import meta
from lampion.runtime.backend import OpCall

WHERE = device("opencl")
rng = np.random.default_rng(1)


def product(backend, d, a_shape, b_shape, a_order=None, b_order=None, bias=None):
    """Run `contract` on operands whose memory is laid out in the given dim orders."""
    arrays, metas, stores = [], [], []
    for shape, order in ((a_shape, a_order), (b_shape, b_order)):
        order = order or tuple(range(len(shape)))
        base = (rng.standard_normal([shape[k] for k in order])).astype(d.np)
        view = base.transpose(np.argsort(order))
        arrays.append(view)
        metas.append(meta(d, shape, [s // d.itemsize for s in view.strides], WHERE))
        s = backend.allocate(base.nbytes + 64, WHERE).view(64)
        backend.copy_from_host(base.view(np.uint8), s)
        stores.append(s)
    wide = np.float32 if d.itemsize == 2 else np.float64
    want = arrays[0].astype(wide) @ arrays[1].astype(wide)
    if bias is not None:
        base = rng.standard_normal(bias).astype(d.np)
        metas.append(meta(d, bias, None, WHERE))
        stores.append(backend.allocate(base.nbytes, WHERE))
        backend.copy_from_host(base.view(np.uint8), stores[-1])
        want = want + base.astype(wide)
    out = meta(d, want.shape, None, WHERE)
    (impl,) = [k for k in backend.kernels() if k.op == "contract"]
    call = OpCall("contract", tuple(metas), {}, (out,), WHERE)
    made = impl.build(call)
    assert made is not None, call
    r = made.launch(*stores)
    got = np.frombuffer(backend.copy_to_host(r, out.nbytes), d.np).reshape(want.shape)
    k = a_shape[-1]
    eps = {2: 8e-3 if d is dt.bfloat16 else 1e-3, 4: 1.2e-7, 8: 2.3e-16}[d.itemsize]
    # k roundings of partial sums that grow like the square root of their length
    bound = 2 * (1.2e-7 if d.itemsize == 2 else eps) * k
    error = np.abs(got.astype(wide) - want).max()
    assert error <= bound + (eps * np.abs(want).max() if d.itemsize == 2 else 0), error


SHAPES = [((32, 32), (32, 32)), ((64, 40), (40, 33)), ((97, 300), (300, 70)), ((33, 7), (7, 65)),
          ((130, 513), (513, 129))]


@pytest.mark.parametrize("d", [dt.float32, dt.float64, dt.bfloat16, dt.float16],
                         ids=lambda d: d.name)
def test_products_of_every_type(backend, d):
    for a, b in SHAPES:
        product(backend, d, a, b)


def test_transposed_operands(backend):
    for a_order in ((0, 1), (1, 0)):
        for b_order in ((0, 1), (1, 0)):
            product(backend, dt.float32, (70, 50), (50, 90), a_order, b_order)


@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=lambda d: d.name)
def test_rows_far_apart(backend, d):
    """Such factors are copied before they are multiplied."""
    product(backend, d, (300, 70), (70, 140), (1, 0), bias=(140,))
    product(backend, d, (131, 1024), (1024, 150), bias=(131, 1))
    product(backend, d, (2, 3, 260, 80), (2, 3, 80, 130), (0, 1, 3, 2))


@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=lambda d: d.name)
def test_few_rows_by_a_transposed_matrix(backend, d):
    """A linear layer: its weight is not packed, the result is computed transposed."""
    for m, n, k in ((2, 523, 16), (33, 100, 17), (96, 97, 600), (31, 36, 257)):
        for a_order in ((0, 1), (1, 0)):
            product(backend, d, (m, k), (k, n), a_order, (1, 0), bias=(n,))
        product(backend, d, (m, k), (k, n), None, (1, 0), bias=(m, 1))
    product(backend, d, (2, 3, 27, 300), (2, 3, 300, 40), None, (0, 1, 3, 2), bias=(3, 1, 40))
    product(backend, d, (4, 8200), (8200, 260), None, (1, 0))  # too deep for it


def test_batches(backend):
    product(backend, dt.float32, (3, 40, 50), (3, 50, 60))
    product(backend, dt.float32, (2, 3, 40, 50), (2, 3, 50, 60), (0, 2, 1, 3), (1, 0, 3, 2))
    product(backend, dt.float32, (3, 40, 50), (50, 60))
    product(backend, dt.float32, (4, 1, 40, 50), (3, 50, 60))
    product(backend, dt.float32, (5, 40, 50), (50, 60), (1, 0, 2))
    product(backend, dt.bfloat16, (3, 40, 50), (3, 50, 60))


@pytest.mark.parametrize("d", [dt.float32, dt.bfloat16], ids=lambda d: d.name)
def test_bias(backend, d):
    product(backend, d, (70, 50), (50, 90), bias=(90,))
    product(backend, d, (70, 50), (50, 45), bias=(70, 1))
    product(backend, d, (3, 40, 50), (50, 60), bias=(60,))
    product(backend, d, (3, 40, 50), (3, 50, 60), bias=(3, 1, 60))
    product(backend, d, (2, 40, 300), (300, 60), bias=(40, 60))


def test_small_and_thin_products_are_left_to_the_generic_kernel(backend):
    (impl,) = [k for k in backend.kernels() if k.op == "contract"]
    for m, k, n in ((1, 50, 50), (50, 50, 1), (4, 0, 4)):
        metas = tuple(meta(dt.float32, s, None, WHERE) for s in ((m, k), (k, n)))
        call = OpCall("contract", metas, {}, (meta(dt.float32, (m, n), None, WHERE),), WHERE)
        assert impl.build(call) is None
