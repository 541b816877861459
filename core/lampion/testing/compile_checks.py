"""What an op gets tested for when it is compiled, from the samples of its block.

Floor 7; imports op_checks and the compiler. A compiled call must agree with the op's own: values,
dtypes and strides, for other values than it was traced with, and gradients.

>>> from lampion.ops.registry import REGISTRY
>>> check_compiled(REGISTRY["silu"], limit=2)
2
"""

from __future__ import annotations

from typing import Any

import numpy as np

import lampion

from ..ops import samples as S
from .op_checks import TOLERANCE, _call, _flat, _host, _loose, _maker, _shown, _usable
from .op_checks import generator as _generator


def check_compiled(op: Any, device: str = "cpu", limit: int | None = None,
                   fullgraph: bool = False) -> int:
    """Compare the op, and a chain around it, compiled and not, on its samples, twice each; returns
    how many samples were compared. AssertionError where they differ. With `fullgraph`, what cannot
    be compiled raises."""
    done, rng = 0, _generator(op, "compiled")
    for sample in _usable(op, device, limit):
        kinds = sample.tensors()
        if not kinds:
            continue

        floats = set(_loose(sample)) if op.domain is None and op.kind == "elementwise" else set()

        def chain(*tensors: Any, sample: S.Sample = sample, floats: set[int] = floats) -> Any:
            loose = [t * 1.5 + 0.25 if t.is_floating_point() and k in floats else t
                     for k, t in enumerate(tensors)]
            rest = iter(loose)
            found = _flat(_call(op, sample.map(lambda _: next(rest))))
            found = [o for o in found if isinstance(o, lampion.Tensor)]
            return tuple([o.relu() if o.is_floating_point() else o for o in found])

        compiled = lampion.compile(chain, fullgraph=fullgraph)
        where = f"{op.qualname}({_shown(sample)}) compiled on {device}"
        for _ in range(3):
            tensors = [_maker(device)(S.draw(t, rng)) for t in kinds]
            with lampion.no_grad():
                _same(compiled(*tensors), chain(*tensors), where)
        if op.differentiable and _loose(sample):
            for _ in range(2):
                _gradients(op, sample, compiled, chain, rng, device, where)
        done += 1
    return done


def _gradients(op: Any, sample: S.Sample, compiled: Any, chain: Any, rng: np.random.Generator,
               device: str, where: str) -> None:
    buffers = [S.draw(t, rng) for t in sample.tensors()]
    got = []
    seeds: list[Any] = []
    for f in (chain, compiled):
        tensors = [_maker(device)(b) for b in buffers]
        leaves = [tensors[k].requires_grad_() for k in _loose(sample)]
        outs = [o for o in f(*tensors) if o.requires_grad]
        if not seeds:
            seeds = [lampion.tensor(rng.standard_normal(tuple(o.shape))).to(device, o.dtype)
                     for o in outs]
        if not outs:
            return
        got.append(lampion.autograd.grad(outs, leaves, seeds, allow_unused=True))
    for a, b in zip(*got):
        assert (a is None) == (b is None), f"{where}: a gradient is missing"
        if a is not None:
            _same([b], [a], f"{where}, gradient")


def _same(got: Any, want: Any, where: str) -> None:
    assert len(got) == len(want), where
    for g, w in zip(got, want):
        assert g.dtype is w.dtype and g.shape == w.shape, f"{where}: {g.meta} instead of {w.meta}"
        assert "gradient" in where or g.stride() == w.stride(), (
            f"{where}: strides {g.stride()}, not {w.stride()}")
        if not w.numel():
            continue
        rtol = 4 * TOLERANCE.get(w.dtype.name, 0.0)
        a, b = _host(g), _host(w)
        scale = np.abs(b[np.isfinite(b)]).max(initial=0.0) if rtol else 0.0
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=where)


__all__ = ["check_compiled"]
