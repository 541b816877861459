"""What an op gets tested for in forward mode and under vmap, from the samples of its block.

Floor 7; imports op_checks, func. No reference is needed: tangents must agree with gradients, as
<u, J v> = <J^T u, v>, and a batch with its examples.

>>> from lampion.ops.registry import REGISTRY
>>> check_tangents(REGISTRY["cumsum"]) > 0 and check_batches(REGISTRY["cumsum"]) > 0
True
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import lampion

from ..autograd import forward_ad
from ..func import vmap
from ..ops import samples as S
from .op_checks import _call, _dot, _double, _flat, _host, _loose, _maker, _noise, _shown, _usable
from .op_checks import generator as _generator


def check_tangents(op: Any, device: str = "cpu", limit: int | None = None) -> int:
    """Compare forward with reverse mode in float64, along random directions; returns how many
    samples were compared. AssertionError where they differ."""
    done, rng = 0, _generator(op, "tangents")
    for sample in _usable(op, device, None):
        loose = _loose(sample)
        if not (op.differentiable and loose) or (limit is not None and done >= limit):
            continue
        sample = sample.each(_double)
        buffers = [S.draw(t, rng) for t in sample.tensors()]
        made = [_maker(device)(b) for b in buffers]
        along = {k: _noise(rng, buffers[k].array()) for k in loose}
        leaves = {k: made[k].requires_grad_() for k in loose}
        outs = _outputs(op, sample, made)
        if not any(o.requires_grad for o in outs):
            continue
        seeds = [_noise(rng, _host(o)) for o in outs]
        live = [(o, lampion.tensor(u).to(device)) for o, u in zip(outs, seeds) if o.requires_grad]
        grads = lampion.autograd.grad([o for o, _ in live], list(leaves.values()),
                                      [u for _, u in live], allow_unused=True)
        want = sum(float(_dot(g, along[k])) for k, g in zip(loose, grads) if g is not None)
        got = size = 0.0
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(t.detach(), lampion.tensor(along[k]).to(device))
                    if k in along else t for k, t in enumerate(made)]
            for o, u in zip(_outputs(op, sample, dual), seeds):
                t = forward_ad.unpack_dual(o).tangent
                if t is not None:
                    assert t.shape == o.shape and t.dtype is o.dtype
                    got += float(_dot(t, u))
                    size += float((t.abs() * lampion.tensor(np.abs(u)).to(device)).sum())
        assert abs(got - want) <= 1e-7 * (0.1 + size), (
            f"{op.qualname}({_shown(sample)}) on {device}: <u, J v> is {got!r} in forward mode and "
            f"{want!r} in reverse mode")
        done += 1
    return done


def _outputs(op: Any, sample: S.Sample, tensors: list[Any]) -> list[Any]:
    """The floating results of the op on these tensors."""
    rest = iter(tensors)
    call = sample.map(lambda _: next(rest))
    if op.name.endswith("_"):
        call = S.Sample(call.args[0] * 1, *call.args[1:], **call.kwargs)
    return [o for o in _flat(_call(op, call)) if hasattr(o, "data_")
            and (o.is_floating_point() or o.is_complex())]


def check_batches(op: Any, device: str = "cpu", limit: int | None = None) -> int:
    """Compare vmap over two examples with the op on each; returns how many samples were compared.
    AssertionError where they differ. Samples of which vmap says that it cannot (control flow or
    shapes by values) are not counted."""
    done, rng = 0, _generator(op, "batches")
    for sample in _usable(op, device, limit):
        kinds = sample.tensors()
        if not kinds:
            continue
        examples = [[_maker(device)(S.draw(t, rng)) for t in kinds] for _ in range(2)]

        def one(*tensors: Any, sample: S.Sample = sample) -> Any:
            rest = iter(tensors)
            found = _flat(_call(op, sample.map(lambda _: next(rest))))
            return tuple([o for o in found if isinstance(o, lampion.Tensor)])

        where = f"{op.qualname}({_shown(sample)}) on {device}, under vmap"
        want = [one(*tensors) for tensors in examples]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = vmap(one)(*[lampion.stack(list(pair)) for pair in zip(*examples)])
        except RuntimeError as e:
            if "vmap:" in str(e):
                continue
            raise AssertionError(f"{where}: {e}") from e
        for k, row in enumerate(want):
            for g, w in zip(got, row):
                assert g[k].shape == w.shape and g.dtype is w.dtype, (
                    f"{where}: {g.dtype}{list(g[k].shape)}, not {w.dtype}{list(w.shape)}")
                tolerance = 1e-2 if w.dtype.itemsize < 4 else 2e-5
                np.testing.assert_allclose(_host(g[k]).astype(np.complex128),
                                           _host(w).astype(np.complex128), tolerance, tolerance,
                                           err_msg=where)
        done += 1
    return done


__all__ = ["check_tangents", "check_batches"]
