"""In-place and out= forms: PyTorch's own outcome (value, or type of exception) is the spec."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from . import compare, convert, entries, names
from .checks import Job, ambiguous, contains_sparse, exact_of, fresh, ours, raised_by, theirs
from .outcome import Outcome


def inplace(job: Job) -> Outcome:
    """`x.op_(...)`: the result is x itself with the function's values, or the same exception."""
    out = Outcome()
    if job.op.inplace_variant is None:
        return out
    fn = names.find(names.inplace_of, job.op, out)
    if fn is None:
        return out
    for k, sample in entries.samples(job.op, job.dtype, job.count, job.seed):
        if not isinstance(sample.input, torch.Tensor) or contains_sparse(sample.input):
            continue
        out.attempt(k, lambda s=sample: _inplace(job, fn, s))
    return out


def _inplace(job: Job, fn: Any, sample: Any) -> None:
    error = raised_by(lambda: theirs(job.op.inplace_variant, sample))
    c = convert.Converter(job.device)
    x = c(sample.input)
    args, kwargs = [c(a) for a in sample.args], {k: c(v) for k, v in sample.kwargs.items()}
    if error is not None:
        return _must_raise(error, lambda: fn(x, *args, **kwargs))
    want = theirs(job.op.inplace_variant, sample)
    got = fn(x, *args, **kwargs)
    if got is not x:
        raise compare.Difference("structure", "the result is not the input itself")
    if job.op.name in entries.RANDOM:
        want, got = torch.zeros_like(want), got.zero_()
    compare.same(want, got, exact_of(job.op, sample, job.dtype))
    return None


def _must_raise(error: type, call: Any) -> None:
    try:
        call()
    except error:
        return
    except Exception as e:
        raise compare.Difference("exception", f"{type(e).__name__}: {str(e)[:120]}; PyTorch: "
                                 f"{error.__name__}") from None
    raise compare.Difference("silent", f"no exception; PyTorch raises {error.__name__}")


def out(job: Job) -> Outcome:
    """`op(..., out=t)` for outs that fit, are empty, have another shape, layout or dtype, or
    require grad."""
    result = Outcome()
    if not job.op.supports_out or job.op.name in entries.UNINITIALIZED:
        return result
    fn = names.find(names.function_of, job.op, result)
    if fn is None:
        return result
    for k, sample in entries.samples(job.op, job.dtype, job.count, job.seed):
        if contains_sparse([sample.input, *sample.args]):
            continue
        try:
            want = theirs(job.op.op, sample)
        except Exception:
            continue
        single = isinstance(want, torch.Tensor)
        wants = [want] if single else list(want) if isinstance(want, (tuple, list)) else []
        if not wants or not all(isinstance(t, torch.Tensor) for t in wants):
            continue
        for label, outs in _outs(wants):
            if (job.op.name, job.check, label) in entries.EXCUSED:
                continue

            def body(s: Any = sample, outs: Any = outs, single: bool = single) -> None:
                _out(job, fn, s, outs, single)

            result.attempt(f"{k}/{label}", body)
    return result


def _outs(wants: list[torch.Tensor]) -> list[tuple[str, list[torch.Tensor]]]:
    """Tensors to write results into, by what is special about them."""
    def like(f: Any) -> list[torch.Tensor]:
        return [f(t.detach().resolve_conj().resolve_neg()) for t in wants]

    found = [("fits", like(lambda t: torch.full_like(t, 1))),
             ("empty", like(lambda t: torch.empty(0, dtype=t.dtype))),
             ("strided", like(lambda t: torch.full_like(t, 1).expand(
                 2, *t.shape).clone().movedim(0, -1)[..., 0] if t.ndim else torch.full_like(t, 1))),
             ("larger", like(lambda t: torch.full((*t.shape, 2), 1, dtype=t.dtype)))]
    if all(t.dtype.is_floating_point for t in wants):
        found.append(("long", like(lambda t: torch.full_like(t, 1, dtype=torch.long))))
    if all(t.dtype is torch.float32 for t in wants):
        found.append(("double", like(lambda t: torch.full_like(t, 1, dtype=torch.double))))
    return found


def _out(job: Job, fn: Any, sample: Any, outs: list[torch.Tensor], single: bool) -> None:
    def torch_call() -> Any:
        targets = [t.clone(memory_format=torch.preserve_format) if t.is_contiguous() else
                   t.clone().copy_(t) for t in outs]
        c = fresh(sample)
        job.op.op(c.input, *c.args, **c.kwargs, out=targets[0] if single else tuple(targets))
        return targets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = raised_by(torch_call)
        c = convert.Converter(job.device)
        targets = [c(t) for t in outs]
        c(sample.input)

        def call() -> Any:
            return ours(lambda *a, **k: fn(*a, **k, out=targets[0] if single else tuple(targets)),
                        sample, job.device)

        if error is not None:
            return _must_raise(error, call)
        want = torch_call()
        got = call()
    if job.op.name in entries.RANDOM:
        return None
    found = [got] if single else list(got)
    for a, b in zip(found, targets):
        if a is not b:
            raise compare.Difference("structure", "the result is not the out= tensor")
    process = sample.output_process_fn_grad if ambiguous(
        job.op, getattr(sample, "output_process_fn_grad", None)) else list
    exact = exact_of(job.op, sample, job.dtype, (lambda x: [x]) if single else process)
    want, targets = ([convert.narrowed(t, job.dtype) for t in ts] for ts in (want, targets))
    if process is not list:
        want, targets = process(want), convert.function(process)(targets)
    compare.same(want, targets, exact)
    return None
