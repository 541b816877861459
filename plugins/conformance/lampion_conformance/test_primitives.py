"""L1: every primitive op in every dtype and layout, compared with the oracle device.

A primitive is what a device runs itself: elementwise ops, kernel ops, views. Nothing may fall back.
The same call must give the same dtype, shape, strides and values, or the same kind of error.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lampion
from lampion.base import dtype as dt
from lampion.base.dtype import dtype as Dtype
from lampion.ops import samples as S
from lampion.testing import op_checks

from .subjects import STANDING, TESTED, host_functions

PRIMITIVES = [op for op in TESTED if op.kind != "composite"]
FEW = (dt.float64, dt.float16, dt.int64, dt.uint8, dt.bool_, dt.complex64)  # of a quick run
LAYOUTS = ("transposed", "strided", "expanded", "offset", "0-d", "empty")


def standing(op):
    return () if op.qualname in STANDING else pytest.mark.full


def usable(op, caps):
    """The op's samples without the device's own limits, the first of each signature."""
    found = S.samples_of(op, op_checks.generator(op, "samples"))
    return [s for s in found if all(getattr(lampion, t.dtype) in caps.dtypes for t in s.tensors())]


def floating(t):
    return t.dtype.startswith(("float", "bfloat"))


def in_dtype(sample, d):
    """The sample with its float tensors (or, without any, its integer tensors without given
    values) in another dtype; None if that changes nothing."""
    tensors = sample.tensors()
    moved = floating if any(map(floating, tensors)) else (
        lambda t: t.dtype == "int64" and t.values is None)
    if not any(moved(t) for t in tensors):
        return None
    given = any(isinstance(a, Dtype) for a in (*sample.args, *sample.kwargs.values()))
    return None if given else sample.map(lambda t: t.to(d.name) if moved(t) else t)


@pytest.mark.parametrize("d", [
    pytest.param(d, id=d.name, marks=() if d in FEW else pytest.mark.full)
    for d in dt.ALL if d is not dt.float32])
@pytest.mark.parametrize("op", [pytest.param(op, id=op.qualname, marks=standing(op))
                                for op in PRIMITIVES if op.kind != "view"])
def test_dtypes(device, oracle, caps, record_property, op, d):
    if d not in caps.dtypes:
        pytest.skip(f"the device does not claim {d.name}")
    samples = [m for s in usable(op, caps)[:2] if (m := in_dtype(s, d)) is not None]
    if not samples:
        pytest.skip("its samples fix their dtypes")
    with host_functions(device):
        ran = [op_checks.check_same(op, sample, device, oracle) for sample in samples]
    record_property("computed", any(ran))  # else the op refuses the dtype, as it should


def in_layout(sample, layout):
    """The sample with its tensors laid out otherwise; None if they have too few dims. 0-d and
    empty: those whose sizes the arguments do not name."""
    tensors = sample.tensors()
    if layout in ("0-d", "empty"):
        if any(t.values is not None for t in tensors):
            return None
        if layout == "0-d":
            return sample.map(lambda t: dataclasses.replace(t, shape=(), layout="contiguous"))
        return sample.map(lambda t: dataclasses.replace(
            t, shape=(0, *t.shape[1:]) if t.shape else (), layout="contiguous"))
    if layout != "offset" and all(len(t.shape) < 2 for t in tensors):
        return None
    return sample.map(lambda t: dataclasses.replace(t, layout=layout) if len(t.shape) > 1
                      or layout == "offset" else t)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [pytest.param(op, id=op.qualname, marks=standing(op))
                                for op in PRIMITIVES])
def test_layouts(device, oracle, caps, op, layout):
    """0-d and empty tensors give the same results, or the same errors."""
    samples = [m for s in usable(op, caps)[:2] if (m := in_layout(s, layout)) is not None]
    if not samples:
        pytest.skip("its samples have no tensor that can lie so")
    with host_functions(device):
        for sample in samples:
            op_checks.check_same(op, sample, device, oracle)


@pytest.mark.parametrize("op", [pytest.param(op, id=op.qualname) for op in PRIMITIVES
                                if op.kind == "elementwise" and len(op.operands) == 2
                                and op.qualname in ("add", "sub", "mul", "div", "maximum",
                                                    "eq", "lt")])
def test_two_dtypes_are_promoted(device, oracle, caps, op, quick):
    """All pairs of dtypes, also with a tensor of no dims and with a number."""
    few = (dt.bool_, dt.uint8, dt.int64, dt.float16, dt.float32, dt.complex64)
    dtypes = [d for d in dt.ALL if d in caps.dtypes and (d in few or not quick)]
    for a in dtypes:
        for b in dtypes if not quick or op.qualname == "add" else dtypes[:2]:
            one = S.T((3,), a.name, low=1, high=9)
            op_checks.check_same(op, S.Sample(one, S.T((2, 3), b.name, low=1, high=9)), device,
                                 oracle)
        op_checks.check_same(op, S.Sample(one, S.T((), "float64", low=1, high=9)), device, oracle)
        op_checks.check_same(op, S.Sample(one, 2), device, oracle)


BIG = (1 << 22) + 3


def test_large_tensors(device, oracle):
    """Four million elements and three: elementwise, along rows, along columns, of one byte."""
    a = np.random.default_rng(0).integers(-50, 50, BIG).astype(np.float32)
    x = lampion.tensor(a).to(device)
    np.testing.assert_array_equal((x * 2 + 1).cpu().numpy(), a * 2 + 1)
    assert x.sum().item() == a.sum(dtype=np.float64)
    assert x.argmax().item() == a.argmax()
    grid = x[3:].view(1 << 11, 1 << 11)
    square = a[3:].reshape(1 << 11, 1 << 11)
    np.testing.assert_array_equal(grid.t().contiguous().cpu().numpy(), square.T)
    np.testing.assert_array_equal(grid.sum(0).cpu().numpy(), square.sum(0))
    np.testing.assert_array_equal(grid.amax(1).cpu().numpy(), square.max(1))
    full = lampion.full((BIG,), 7, dtype=lampion.uint8, device=device).cpu().numpy()
    assert (full == 7).all()


def test_tensors_of_many_dims(device):
    a = np.arange(2**10, dtype=np.int64).reshape((2,) * 10)
    x = lampion.tensor(a).to(device)
    order = (9, 0, 8, 1, 7, 2, 6, 3, 5, 4)
    y = x.permute(order) + x
    np.testing.assert_array_equal(y.cpu().numpy(), a.transpose(order) + a)
    np.testing.assert_array_equal(y.sum((0, 3, 5)).cpu().numpy(),
                                  (a.transpose(order) + a).sum((0, 3, 5)))


def test_views_share_memory(device):
    x = lampion.arange(24, device=device).view(2, 3, 4)
    x.transpose(0, 2)[1:, ::2][..., 1].add_(100)
    want = np.arange(24).reshape(2, 3, 4)
    want.transpose(2, 1, 0)[1:, ::2][..., 1] += 100
    np.testing.assert_array_equal(x.cpu().numpy(), want)
