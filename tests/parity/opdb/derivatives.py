"""Derivatives against PyTorch's: gradients, gradients of gradients, forward mode, vmap.

Each check is a function (job) -> Outcome like those of `checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import lampion

from . import compare, convert, entries, names
from .checks import Call, Job, ambiguous, exact_of, fresh, is_random, masked_out
from .outcome import Outcome


def _differentiable(x: Any) -> list[torch.Tensor]:
    return [t for t in convert.tensors(x) if t.requires_grad
            and (t.dtype.is_floating_point or t.dtype.is_complex)]


def _cotangent(t: torch.Tensor, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(t.shape, dtype=t.dtype, generator=g)


def calls(job: Job) -> Iterator[tuple[Any, Any, Any, Any]]:
    """(number, fresh call, mask of what to leave out, what PyTorch does to the output first) of
    each sample whose results are determined."""
    if job.op.name in entries.RANDOM or job.op.name in entries.UNINITIALIZED:
        return
    for k, sample in entries.samples(job.op, job.dtype, job.count, job.seed, grad=True):
        if not is_random(job.op, sample):
            process = getattr(sample, "output_process_fn_grad", None) or (lambda x: x)
            yield k, fresh(sample), masked_out(job.op, sample), process


def grad(job: Job, order: int = 1) -> Outcome:
    """Gradients of all inputs that require them, for random output gradients; with order 2 also
    the gradients of these, with respect to the inputs and the output gradients."""
    out = Outcome()
    fn = names.find(names.function_of, job.op, out)
    if fn is None:
        return out
    for k, call, mask, process in calls(job):
        try:
            want = _torch_grads(job, call, process, mask, order)
        except Exception:  # PyTorch has no gradient for this sample
            continue
        if want is None:
            continue

        def body(call: Any = call, process: Any = process, mask: Any = mask,
                 want: Any = want) -> None:
            got = _lampion_grads(job, fn, call, process, mask, order)
            if len(got) != len(want):
                raise compare.Difference("structure", f"{len(got)} gradients, not {len(want)}")
            for n, (a, b) in enumerate(zip(want, got)):
                if _both_nothing(a, b, f"gradient {n}"):
                    continue
                try:
                    compare.same(a, b, None, f"gradient {n}", scaled=True)
                except compare.Difference as d:
                    if d.kind != "value" or not compare.undetermined(a, b, (
                            _torch_grads(job, call.map(nudge), process, mask, order)[n]
                            for nudge in _nudges())):
                        raise

        out.attempt(k, body)
    return out


def _nudges() -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Functions that move floating point numbers a few units in the last place up or down: equal
    ones alike, and 0 not at all, so that ties and edges stay what they are."""
    def nudge(t: torch.Tensor, k: int) -> torch.Tensor:
        if not (t.dtype.is_floating_point or t.dtype.is_complex):
            return t
        way = torch.sin(k * torch.view_as_real(t.detach().resolve_conj()).sum(-1)
                        if t.dtype.is_complex else k * t.detach()).sign()
        moved = t.detach() * (1 + way * 2 * torch.finfo(t.dtype).eps)
        return moved.requires_grad_(t.requires_grad)

    for k in (1000, 1717, 2929):
        yield lambda t, k=k: nudge(t, k)


def _both_nothing(a: Any, b: Any, where: str) -> bool:
    """Whether two derivatives vanish, if one of them is None; Difference if the other does not."""
    if a is not None and b is not None:
        return False
    other = a if b is None else convert.back(b)
    if other is not None and bool((other != 0).any()):
        raise compare.Difference("value", f"{where} is {'None' if b is None else 'not None'}")
    return True


def gradgrad(job: Job) -> Outcome:
    """`grad` to the second order."""
    return grad(job, 2)


def _torch_grads(job: Job, call: Call, process: Any, mask: Any, order: int) -> Any:
    leaves = _differentiable([call.input, list(call.args), call.kwargs])
    if not leaves:
        return None
    result = job.op.op(call.input, *call.args, **call.kwargs)
    if mask is not None:
        result = torch.where(mask, result, torch.zeros((), dtype=result.dtype))
    outs = _differentiable(process(result))
    if not outs:
        return None
    seeds = [_cotangent(t, job.seed + n).requires_grad_(order > 1) for n, t in enumerate(outs)]
    first = torch.autograd.grad(outs, leaves, seeds, allow_unused=True, create_graph=order > 1)
    if order == 1:
        return list(first)
    live = [g for g in first if g is not None and g.requires_grad]
    if not live:
        return None
    again = [_cotangent(g, job.seed + 100 + n) for n, g in enumerate(live)]
    return list(torch.autograd.grad(live, [*leaves, *seeds], again, allow_unused=True))


def _lampion_grads(job: Job, fn: Any, call: Call, process: Any, mask: Any, order: int) -> Any:
    c = convert.Converter(job.device)
    args = c([call.input, list(call.args), call.kwargs])
    leaves = [t for t in convert.tensors(args, lampion.Tensor) if t.requires_grad]
    result = fn(args[0], *args[1], **args[2])
    if mask is not None:
        result = lampion.where(c(mask), result, lampion.zeros((), dtype=result.dtype,
                                                               device=result.device))
    outs = [t for t in convert.tensors(c(process)(result), lampion.Tensor) if t.requires_grad]
    if not outs:
        return [None] * len(leaves)
    seeds = [c(_cotangent(_shape(t), job.seed + n)).requires_grad_(order > 1)
             for n, t in enumerate(outs)]
    first = lampion.autograd.grad(outs, leaves, seeds, allow_unused=True, create_graph=order > 1)
    if order == 1:
        return list(first)
    live = [g for g in first if g is not None and g.requires_grad]
    if not live:
        return [None] * (len(leaves) + len(seeds))
    again = [c(_cotangent(_shape(g), job.seed + 100 + n)) for n, g in enumerate(live)]
    return list(lampion.autograd.grad(live, [*leaves, *seeds], again, allow_unused=True))


def _shape(t: Any) -> torch.Tensor:
    """An empty PyTorch tensor of the shape and dtype of one of lampion's."""
    return torch.empty(tuple(t.shape), dtype=convert.dtype_back(t.dtype), device="meta")


def forward_mode(job: Job) -> Outcome:
    """Directional derivatives by dual numbers."""
    out = Outcome()
    fn = names.find(names.function_of, job.op, out)
    if fn is None:
        return out
    for k, call, mask, process in calls(job):
        if not _differentiable([call.input, list(call.args), call.kwargs]):
            continue
        try:
            want = _torch_duals(job, call, process)
        except Exception:
            continue

        def body(call: Any = call, process: Any = process, want: Any = want,
                 mask: Any = mask) -> None:
            got = _lampion_duals(job, fn, call, process)
            if len(got) != len(want):
                raise compare.Difference("structure", f"{len(got)} tangents, not {len(want)}")
            for n, (a, b) in enumerate(zip(want, got)):
                if _both_nothing(a, b, f"tangent {n}"):
                    continue
                if mask is not None and a.shape == mask.shape:
                    a = torch.where(mask, a, torch.zeros((), dtype=a.dtype))
                    b = lampion.where(convert.Converter(job.device)(mask), b,
                                      lampion.zeros((), dtype=b.dtype, device=b.device))
                compare.same(a, b, None, f"tangent {n}", scaled=True)

        out.attempt(k, body)
    return out


def _torch_duals(job: Job, call: Call, process: Any) -> Any:
    import torch.autograd.forward_ad as fw

    with fw.dual_level():
        count = iter(range(10**6))
        dual = call.map(lambda t: fw.make_dual(t.detach(), _cotangent(t, job.seed + next(count)))
                        if t.requires_grad else t)
        result = process(job.op.op(dual.input, *dual.args, **dual.kwargs))
        return [_plain(fw.unpack_dual(t).tangent) for t in convert.tensors(result)
                if t.dtype.is_floating_point or t.dtype.is_complex]


def _plain(t: Any) -> Any:
    return None if t is None else t.detach().clone()


def _lampion_duals(job: Job, fn: Any, call: Call, process: Any) -> Any:
    import importlib

    fw = importlib.import_module("lampion.autograd.forward_ad")
    c = convert.Converter(job.device)
    with fw.dual_level():
        count = iter(range(10**6))
        args = c([call.input, list(call.args), call.kwargs])
        args = convert.map_tensors(
            lambda t: fw.make_dual(t.detach(), c(_cotangent(_shape(t), job.seed + next(count))))
            if t.requires_grad else t, args, lampion.Tensor)
        result = c(process)(fn(args[0], *args[1], **args[2]))
        return [fw.unpack_dual(t).tangent for t in convert.tensors(result, lampion.Tensor)
                if t.dtype.is_floating_point or t.dtype.is_complex]


def vmap(job: Job) -> Outcome:
    """The op under vmap over two equal examples equals the op on each; the batch dim of the
    tensors is 0, and for a second call the last."""
    out = Outcome()
    fn = names.find(names.function_of, job.op, out)
    if fn is None:
        return out
    if job.op.name in entries.RANDOM or job.op.name in entries.UNINITIALIZED:
        return out
    for k, sample in entries.samples(job.op, job.dtype, job.count, job.seed):
        call = fresh(sample)
        flat = convert.tensors([call.input, list(call.args), call.kwargs])
        if not flat:
            continue
        theirs, ours = job.op.op, fn
        process = getattr(sample, "output_process_fn_grad", None)
        if ambiguous(job.op, process):
            theirs, ours = _after(process, theirs), _after(convert.function(process), ours)
        exact = exact_of(job.op, sample, job.dtype, _twice if theirs is job.op.op else
                         lambda r, p=process: _twice(p(r)))
        for dim in (0, -1):
            try:
                want = _batched(torch, theirs, call, flat, dim)
            except Exception:  # PyTorch cannot
                continue

            def body(call: Any = call, dim: int = dim, want: Any = want, ours: Any = ours,
                     exact: Any = exact) -> None:
                c = convert.Converter(job.device)
                args = Call(c(call.input), [c(a) for a in call.args],
                            {n: c(v) for n, v in call.kwargs.items()})
                tensors = convert.tensors([args.input, list(args.args), args.kwargs],
                                          lampion.Tensor)
                got = _batched(lampion, ours, args, tensors, dim)
                mask = masked_out(job.op, call)
                if mask is not None:
                    want = torch.where(mask, want, torch.zeros((), dtype=want.dtype))
                    got = lampion.where(c(mask), got, lampion.zeros((), dtype=got.dtype,
                                                                     device=got.device))
                compare.same(want, got, exact)

            out.attempt(f"{k}/{dim}", body)
    return out


def _after(process: Any, fn: Any) -> Any:
    return lambda *args, **kwargs: process(fn(*args, **kwargs))


def _twice(result: Any) -> Any:
    """The batch of two equal results."""
    return convert.map_tensors(lambda t: torch.stack([t, t]),
                               tuple(result) if isinstance(result, tuple) else result)


def _batched(lib: Any, fn: Any, call: Call, flat: list[Any], dim: int) -> Any:
    """vmap of a call over two copies of each tensor, stacked at `dim`."""
    import importlib

    func = importlib.import_module(f"{lib.__name__}.func")
    kind = lib.Tensor

    def run(*leaves: Any) -> Any:
        rest = iter(leaves)
        args = convert.map_tensors(lambda _: next(rest),
                                   [call.input, list(call.args), call.kwargs], kind)
        return fn(args[0], *args[1], **args[2])

    stacked = [lib.stack([t.detach(), t.detach()], dim) for t in flat]
    return func.vmap(run, in_dims=dim)(*stacked)
