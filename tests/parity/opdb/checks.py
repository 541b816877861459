"""Forward checks: results of samples, of reference samples, of other layouts; errors.

Each check is a function (job) -> Outcome, where a Job says entry, dtype, device, seed, count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import lampion

from . import compare, convert, entries, names
from .outcome import Outcome


@dataclass(frozen=True)
class Job:
    """One check of one entry."""

    op: Any
    check: str
    dtype: torch.dtype | None
    device: str
    seed: int
    count: int


def theirs(fn: Callable[..., Any], sample: Any) -> Any:
    """PyTorch's result on copies of the sample's tensors."""
    copies = fresh(sample)
    return fn(copies.input, *copies.args, **copies.kwargs)


class Call:
    """The arguments of one call: an input, more, keywords."""

    __slots__ = ("input", "args", "kwargs")

    def __init__(self, input: Any, args: Any, kwargs: Any) -> None:
        self.input, self.args, self.kwargs = input, args, kwargs

    def map(self, f: Callable[[Any], Any]) -> Call:
        """Another with f applied to every tensor."""
        return Call(convert.map_tensors(f, self.input), convert.map_tensors(f, tuple(self.args)),
                    convert.map_tensors(f, dict(self.kwargs)))


def copy_of(t: torch.Tensor) -> torch.Tensor:
    """A leaf with the same values and layout in its own memory."""
    if t.layout is not torch.strided:
        return t.detach().clone()
    base = t.detach()
    flags = base.is_conj(), base.is_neg()
    if flags[0]:
        base = base.conj()
    if base.is_neg():
        base = base.resolve_neg()
    flat = torch.empty(0, dtype=base.dtype).set_(base.untyped_storage().clone())
    r = flat.as_strided(base.shape, base.stride(), base.storage_offset())
    if flags[0]:
        r = r.conj()
    return r.detach().requires_grad_(t.requires_grad)


def fresh(sample: Any) -> Call:
    """The sample's call on copies of its tensors."""
    return Call(sample.input, sample.args, sample.kwargs).map(copy_of)


def widened(sample: Any, dtype: torch.dtype) -> Call:
    """The sample's call with every tensor of `dtype` in double precision."""
    wide = compare.WIDER[dtype]
    call = Call(sample.input, sample.args, sample.kwargs).map(
        lambda t: t.detach().to(wide) if t.dtype is dtype else copy_of(t))
    for key in ("dtype",):
        if call.kwargs.get(key) is dtype:
            call.kwargs[key] = wide
    return call


def exact_of(op: Any, sample: Any, dtype: torch.dtype, post: Callable[[Any], Any] = lambda x: x,
             ) -> Callable[[], Any] | None:
    """A function for PyTorch's result in double precision, or None where nothing is wider."""
    known = entries.EXACT.get(op.name)
    if known is not None and dtype is torch.float64:
        return lambda: post(torch.from_numpy(np.asarray(known(sample.input.detach().numpy()))))
    if dtype not in compare.WIDER:
        return None
    found: list[Any] = []

    def exact() -> Any:
        if not found:
            call = widened(sample, dtype)
            try:
                found.append(post(op.op(call.input, *call.args, **call.kwargs)))
            except Exception:  # not defined in double precision: PyTorch's own value decides
                found.append(_Nothing())
        return found[0]

    return exact


class _Nothing:
    """In place of a result that there is not, at any depth."""

    def __getitem__(self, k: Any) -> Any:
        return self


def ours(fn: Callable[..., Any], sample: Any, device: str) -> Any:
    """lampion's result."""
    c = convert.Converter(device)
    return fn(c(sample.input), *[c(a) for a in sample.args],
              **{k: c(v) for k, v in sample.kwargs.items()})


def forward(job: Job, reference: bool = False, layout: Callable[[Any], Any] | None = None,
            ) -> Outcome:
    """Results of samples: structure, dtype, shape, values."""
    out = Outcome()
    fn = names.find(names.function_of, job.op, out)
    if fn is None:
        return out
    for k, sample in entries.samples(job.op, job.dtype, job.count, job.seed, reference=reference):
        if layout is not None:
            sample = layout(sample)
        try:
            want = theirs(entries.function_of(job.op), sample)
        except Exception:  # PyTorch itself does not take this one
            continue
        if contains_sparse(want) or contains_sparse([sample.input, *sample.args]):
            continue
        out.attempt(k, lambda s=sample, w=want: compare_call(job, fn, s, w))
    return out


def contains_sparse(x: Any) -> bool:
    """Whether a tensor in `x` is not strided."""
    return any(t.layout is not torch.strided for t in convert.tensors(x))


def compare_call(job: Job, fn: Callable[..., Any], sample: Any, want: Any) -> None:
    """Difference unless lampion's result of the sample equals `want`."""
    if is_random(job.op, sample):
        return random_call(job, fn, sample, want)
    got = ours(fn, sample, job.device)
    if job.op.name in entries.UNINITIALIZED:
        return compare.geometry(want, got, "result", strides=want.numel() > 1)
    mask = masked_out(job.op, sample)
    if mask is not None:
        want = torch.where(mask, want, torch.zeros((), dtype=want.dtype))
        got = lampion.where(convert.Converter(job.device)(mask), got,
                            lampion.zeros((), dtype=got.dtype, device=got.device))
    if job.op.name in entries.POSITIONS and not sample.kwargs.get("stable"):
        found = convert.Converter(job.device)(sample.input)
        return compare.same(at_positions(job.op, sample, sample.input, want),
                            at_positions(job.op, sample, found, got))
    process = getattr(sample, "output_process_fn_grad", None)
    if ambiguous(job.op, process):
        c = convert.function(process)
        got, want = c(got), process(want)
        return compare.same(want, got, exact_of(job.op, sample, job.dtype, process))
    compare.same(want, got, exact_of(job.op, sample, job.dtype))
    return None


def at_positions(op: Any, sample: Any, x: Any, result: Any) -> Any:
    """The result with positions replaced by the values there (of x, a tensor of either library),
    in place of a whole order also by which positions there are."""
    *values, where = result if isinstance(result, tuple) else (result,)
    k = entries.POSITIONS[op.name]
    dim = sample.kwargs.get("dim", sample.args[k] if len(sample.args) > k else -1)
    if x.ndim == 0:
        return (*values, where)
    full = where.unsqueeze(dim) if where.ndim < x.ndim else where
    every = full.sort(dim)[0] if op.name in ("sort", "argsort") else where * 0
    return (*values, x.gather(dim, full), every)


def is_random(op: Any, sample: Any) -> bool:
    """Whether the values of a result are random."""
    if op.name == "nn.functional.multi_head_attention_forward":
        return bool(sample.args[9])  # the probability of dropout
    return op.name in entries.RANDOM or sample.kwargs.get("dropout_p", 0) > 0


# Results that are unique only up to signs and phases: their products are compared.
AMBIGUOUS = frozenset("""linalg.svd svd linalg.eig linalg.eigh""".split())


def ambiguous(op: Any, process: Any) -> bool:
    """Whether results are to be compared after the sample's `process`."""
    return op.name in AMBIGUOUS and process is not None


def masked_out(op: Any, sample: Any) -> torch.Tensor | None:
    """For masked operators: where the result is defined."""
    if not op.name.startswith("masked."):
        return None
    if op.name == "masked.logaddexp":
        a, b = sample.kwargs.get("input_mask"), sample.kwargs.get("other_mask")
        return None if a is None or b is None else torch.logical_and(a, b)
    if sample.kwargs.get("mask") is None:
        return None
    return torch.masked._output_mask(op.op, sample.input, *sample.args, **sample.kwargs)


def random_call(job: Job, fn: Callable[..., Any], sample: Any, want: Any) -> None:
    """Structure of one result, then the distribution of many."""
    def flat(x: Any, kind: type) -> list[Any]:
        return convert.tensors(x, kind)

    lampion.manual_seed(job.seed)
    first = ours(fn, sample, job.device)
    a, b = flat(want, torch.Tensor), flat(first, lampion.Tensor)
    if len(a) != len(b):
        raise compare.Difference("structure", f"{len(b)} tensors, not {len(a)}")
    for x, y in zip(a, b):
        if y.dtype.name != str(x.dtype).removeprefix("torch."):
            raise compare.Difference("dtype", f"{y.dtype.name}, not {x.dtype}")
        if tuple(y.shape) != tuple(x.shape):
            raise compare.Difference("shape", f"{list(y.shape)}, not {list(x.shape)}")
    if not a or not a[0].numel() or job.op.name in ("svd_lowrank", "pca_lowrank"):
        return
    pools: tuple[list[Any], list[Any]] = ([], [])
    torch.manual_seed(job.seed)
    inner = unseeded(entries.function_of(job.op))
    # the test is of independent numbers: one of each channel that is dropped as a whole
    dims = entries.BY_CHANNEL.get(job.op.name, 0)
    one = (..., *[0] * (max(a[0].ndim - 2, 0) if dims is None else dims))
    for _ in range(max(2, min(40, 400 // a[0][one].numel()))):
        pools[0].append(flat(theirs(inner, sample), torch.Tensor)[0][one])
        pools[1].append(convert.back(flat(ours(fn, sample, job.device), lampion.Tensor)[0])[one])
    compare.distribution(*pools, "result")


def unseeded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """An entry's function without the fixed seed that op_db wraps around it."""
    import types

    if "wrapper_set_seed" in getattr(fn, "__globals__", {}):
        plain = {**fn.__globals__, "wrapper_set_seed": lambda op, *a, **k: op(*a, **k)}
        return types.FunctionType(fn.__code__, plain, fn.__name__, fn.__defaults__,
                                  fn.__closure__)
    return fn


def reference(job: Job) -> Outcome:
    """`forward` on op_db's larger set: extremal values, empty and 0-d tensors, odd strides."""
    return forward(job, reference=True)


def layouts(job: Job) -> Outcome:
    """`forward` on non-contiguous copies of the samples."""
    return forward(job, layout=lambda s: s.noncontiguous())


def errors(job: Job) -> Outcome:
    """Calls that raise in PyTorch raise the same type of exception."""
    out = Outcome()
    found = entries.error_samples(job.op, 0, job.seed)
    if not found:
        return out
    fn = names.find(names.function_of, job.op, out)
    if fn is None:
        return out
    for k, e in found:
        s = e.sample_input
        if contains_sparse([s.input, *s.args, *s.kwargs.values()]) or any(
                t.is_meta for t in convert.tensors([s.input, list(s.args), s.kwargs])) or (
                s.kwargs.get("layout", torch.strided) is not torch.strided):
            continue
        kind = raised_by(lambda s=s: theirs(job.op.op, s))
        if kind is None:
            continue  # only an error on other devices

        def body(s: Any = s, kind: type = kind) -> None:
            c = convert.Converter(job.device)
            args = [c(s.input), *map(c, s.args)]
            kwargs = {n: c(v) for n, v in s.kwargs.items()}
            try:
                got = fn(*args, **kwargs)
            except kind:
                return
            except Exception as other:
                raise compare.Difference(
                    "exception", f"{type(other).__name__}: {str(other)[:120]}; PyTorch: "
                    f"{kind.__name__}: {e.error_regex[:90]}") from None
            raise compare.Difference("silent", f"{got!r:.60}; PyTorch: {kind.__name__}: "
                                     f"{e.error_regex[:90]}")

        out.attempt(k, body)
    return out


def raised_by(f: Callable[[], Any]) -> type | None:
    """The built-in type of the exception that a call raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f()
    except Exception as e:
        return next(t for t in type(e).__mro__ if t.__module__ == "builtins")
    return None
