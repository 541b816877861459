"""Function transforms of every entry against lampion itself: `vmap` against a Python loop over
different examples, with all tensors batched and with the first alone.

The values come from PyTorch's samples; the second example holds those of the first in reversed
order, so that they stay in the op's domain. Where the loop itself refuses them there is nothing to
compare.
"""

from __future__ import annotations

import warnings
from typing import Any

import lampion

from . import compare, convert, entries, names
from .checks import Call, Job, fresh, is_random
from .outcome import Outcome


def vmap_loop(job: Job) -> Outcome:
    """`vmap(op)` over two different examples equals the op on each."""
    out = Outcome()
    try:
        fn = names.function_of(job.op)
    except AttributeError as e:
        out.total = 1
        out.fail("all", "missing", str(e))
        return out
    if job.op.name in entries.RANDOM or job.op.name in entries.UNINITIALIZED:
        return out
    for k, sample in entries.samples(job.op, job.dtype, job.count, job.seed):
        if is_random(job.op, sample):
            continue
        c = convert.Converter(job.device)
        torch_call = fresh(sample)
        call = Call(c(torch_call.input), [c(a) for a in torch_call.args],
                    {n: c(v) for n, v in torch_call.kwargs.items()})
        tensors = convert.tensors([call.input, list(call.args), call.kwargs], lampion.Tensor)
        patterns = {"all": [True] * len(tensors), "first": [True] + [False] * (len(tensors) - 1)}
        if len(tensors) == 1:
            del patterns["first"]
        for word, batched in patterns.items() if tensors else ():
            pairs = [(t, t.reshape(-1).flip(0).reshape(t.shape)) if b else (t, t)
                     for t, b in zip(tensors, batched)]
            try:
                want = [_run(fn, call, [p[j].clone() for p in pairs]) for j in (0, 1)]
            except Exception:  # the op refuses the second example
                continue

            def body(call: Any = call, pairs: Any = pairs, batched: Any = batched,
                     want: Any = want) -> None:
                stacked = [lampion.stack(list(p)) if b else p[0].clone()
                           for p, b in zip(pairs, batched)]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    got = lampion.func.vmap(
                        lambda *leaves: _run(fn, call, leaves),
                        in_dims=tuple(0 if b else None for b in batched))(*stacked)
                for j in (0, 1):
                    compare.same(convert.back(want[j]), convert.map_tensors(
                        lambda t, j=j: t[j], got, lampion.Tensor), None, f"example {j}")

            out.attempt(f"{k}/{word}", body)
    return out


def _run(fn: Any, call: Call, leaves: Any) -> Any:
    rest = iter(leaves)
    args = convert.map_tensors(lambda _: next(rest), [call.input, list(call.args), call.kwargs],
                               lampion.Tensor)
    return _plain(fn(args[0], *args[1], **args[2]))


def _plain(result: Any) -> Any:
    """Tuples and lists of tensors; what is no tensor is left out, since vmap cannot return it."""
    if isinstance(result, (tuple, list)):
        return tuple(_plain(r) for r in result
                     if isinstance(r, (tuple, list, lampion.Tensor)))
    return result if isinstance(result, lampion.Tensor) else ()
