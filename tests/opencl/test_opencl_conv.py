"""Convolutions as matrix products against the direct loop nests, in both schedules."""

from __future__ import annotations

import numpy as np
import pytest

import lampion  # noqa: F401  declares the ops
from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.base.meta import meta
from lampion.ops.registry import REGISTRY
from lampion.runtime.backend import OpCall

WHERE = device("opencl")
rng = np.random.default_rng(2)

CASES = [  # input, weight, stride, padding, dilation
    ((2, 3, 9, 10), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 1, 8, 8), (16, 1, 3, 3), (1, 1), (0, 0), (1, 1)),
    ((2, 4, 11, 12), (6, 4, 3, 2), (2, 3), (1, 0), (1, 2)),
    ((2, 4, 7, 9), (6, 4, 1, 1), (1, 1), (0, 0), (1, 1)),
    ((2, 4, 40), (7, 4, 5), (2,), (2,), (1,)),
    ((1, 2, 5, 6, 7), (4, 2, 2, 3, 3), (1, 2, 1), (0, 1, 1), (1, 1, 1)),
    ((2, 4, 40), (7, 4, 11), (2,), (5,), (1,)),                      # many positions in a row
    ((2, 3, 4, 90), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1)),           # long rows
    ((3, 2, 4, 4), (4, 2, 7, 7), (1, 1), (4, 4), (1, 1)),            # rows all in the padding
    ((2, 3, 12, 13), (4, 3, 3, 3), (1, 1), (3, 3), (3, 3)),
    ((1, 1, 12, 12), (4, 1, 3, 3), (1, 1), (1, 1), (1, 1)),          # one plane
    # channels enough for vectors: a stride and a dilation, remainders without a tap, several panels
    ((3, 20, 11, 12), (24, 20, 3, 2), (2, 3), (1, 0), (1, 2)),
    ((2, 40, 7, 9), (70, 40, 1, 1), (2, 2), (0, 0), (1, 1)),
    ((2, 9, 40), (33, 9, 11), (2,), (5,), (2,)),
    ((2, 17, 5, 6, 7), (16, 17, 2, 3, 3), (1, 2, 1), (0, 1, 1), (1, 1, 1)),
    ((8, 35, 4, 4), (64, 35, 7, 7), (1, 1), (3, 3), (1, 1)),
    ((5, 8, 12, 13), (8, 8, 3, 3), (3, 3), (4, 4), (3, 3)),
]
# Too few places for a product in the schedule of many threads: it keeps the loop nest.
FEW = ((3, 16, 2, 2), (40, 16, 3, 3), (1, 1), (1, 1), (1, 1))


def call_of(name, d, *values):
    """The OpCall of a convolution kernel: shapes become contiguous metas."""
    op = REGISTRY[name]
    values = [meta(d, v[1], None, WHERE) if isinstance(v, tuple) and v[:1] == ("T",) else v
              for v in values]
    outs = tuple(meta(*o[:2], o[2] if len(o) > 2 else None, WHERE) for o in op.meta(*values))
    inputs = tuple(v for v in values if hasattr(v, "strides"))
    return op, OpCall(name, inputs, dict(zip([p.name for p in op.params], values)), outs, WHERE)


def compare(backend, name, d, *values):
    op, call = call_of(name, d, *values)
    (impl,) = [k for k in backend.kernels() if k.op == name]
    fast = impl.build(call)
    assert fast is not None, call
    slow = backend.program(op.lower(call), [m.span for m in call.outputs], WHERE)
    stores = []
    for m in call.inputs:
        data = rng.standard_normal(m.shape).astype(d.np)
        stores.append(backend.allocate(data.nbytes, WHERE))
        backend.copy_from_host(data, stores[-1])
    got, want = fast.launch(*stores), slow.launch(*stores)
    if len(call.outputs) == 1:
        got, want = (got,), (want,)
    for m, a, b in zip(call.outputs, got, want):
        a, b = (np.frombuffer(backend.copy_to_host(s, m.nbytes), d.np) for s in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [*CASES, FEW], ids=str)
def test_the_three_products(backend, case):
    x, w, stride, padding, dilation = case
    if case is FEW and backend.schedule == "gpu":
        (impl,) = [k for k in backend.kernels() if k.op == "conv_forward"]
        _, call = call_of("conv_forward", dt.float32, ("T", x), ("T", w), None, stride, padding,
                          padding, dilation, 1)
        assert impl.build(call) is None
        return
    d = dt.float32
    space = tuple((n + 2 * p - k_d * (k - 1) - 1) // s + 1 for n, p, k_d, k, s in zip(
        x[2:], padding, dilation, w[2:], stride))
    y = (x[0], w[0], *space)
    X, W, Y = ("T", x), ("T", w), ("T", y)
    compare(backend, "conv_forward", d, X, W, None, stride, padding, padding, dilation, 1)
    compare(backend, "conv_forward", d, X, W, ("T", w[:1]), stride, padding, padding, dilation, 1)
    compare(backend, "conv_backward_data", d, Y, W, stride, padding, dilation, 1, x[2:])
    geometry = (stride, padding, dilation, 1, w[2:])
    compare(backend, "conv_backward_weight", d, X, Y, *geometry)
    compare(backend, "conv_backward_weight_bias", d, X, Y, *geometry)


def test_float64_and_uneven_padding(backend):
    X, W = ("T", (2, 3, 9, 8)), ("T", (4, 3, 3, 3))
    compare(backend, "conv_forward", dt.float64, X, W, None, (1, 1), (1, 0), (2, 1), (1, 1), 1)


def test_what_the_direct_kernels_keep(backend):
    (impl,) = [k for k in backend.kernels() if k.op == "conv_forward"]
    rest = ((1, 1), (1, 1), (1, 1), (1, 1))
    _, grouped = call_of("conv_forward", dt.float32, ("T", (2, 4, 9, 9)), ("T", (4, 1, 3, 3)), None,
                         *rest, 4)
    _, half = call_of("conv_forward", dt.bfloat16, ("T", (2, 4, 9, 9)), ("T", (4, 4, 3, 3)), None,
                      *rest, 1)
    assert impl.build(grouped) is None and impl.build(half) is None
