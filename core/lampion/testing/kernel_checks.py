"""Checks for what compiles kernels: values that find mistakes, and comparison to the last bit.

Floor 7; imports base, ir. A backend's tests run a kernel and `lampion.ir.interpret` on the same
values and compare with `same`; `check` does all of that for any backend. `many` and `reductions`
make kernels of many cases, since compiling one can take a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.dtype import dtype
from ..ir import expr as E
from ..ir import interpret
from ..ir.expr import Expr
from ..ir.kernel import (
    Arg,
    ArgReduce,
    Kernel,
    KernelCall,
    Params,
    Program,
    Reduce,
    Stage,
    Store,
    dot,
)


def sample(rng: np.random.Generator, d: dtype, n: int, kind: str = "mixed") -> Any:
    """`n` values of a dtype. "mixed" starts with special ones (NaN, infinities, both zeros, the
    ends of an integer's range) and is wild; "small" has small ones only."""
    if d.kind == "b":
        return rng.integers(0, 2, n).astype(bool)
    if d.kind in "iu":
        info = np.iinfo(d.np)
        small = rng.integers(-9 if d.kind == "i" else 0, 10, n).astype(d.np)
        if kind == "small":
            return small
        wild = rng.integers(int(info.min), int(info.max), n, endpoint=True,
                            dtype=np.uint64 if d is dt.uint64 else np.int64).astype(d.np)
        out = np.where(rng.random(n) < 0.5, small, wild)
        edges = np.array([0, 1, int(info.min), int(info.max)], d.np)
        out[:min(n, 4)] = edges[:min(n, 4)]
        return out
    out = rng.standard_normal(n) * (1 if kind == "small" else 10)
    if kind == "mixed":
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, -2.5, 1e-42, 1e30])
        out[:min(n, 10)] = special[:min(n, 10)]
    with np.errstate(all="ignore"):
        return out.astype(d.np)


def same(got: Any, want: Any, ulps: float = 0, where: object = "") -> None:
    """AssertionError unless equal bit for bit (NaN equals NaN, 0 equals -0), or within some ulps.
    `where` is said in the error."""
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype.kind not in "biu":
        if got.dtype.itemsize == 2:
            got, want = got.astype(np.float32), want.astype(np.float32)
        with np.errstate(all="ignore"):
            near = np.abs(got.astype(np.longdouble) - want) <= ulps * np.spacing(np.abs(want))
            ok = (np.isnan(got) & np.isnan(want)) | (got == want) | near
    else:
        ok = got == want
    bad = np.flatnonzero(~ok)
    if len(bad):
        raise AssertionError((where, bad[:5], got.ravel()[bad[:5]], want.ravel()[bad[:5]]))


def typed(e: Any, d: dtype) -> E.Expr:
    """An expression with its types fixed, numbers as `d`."""
    return E.typed([E.wrap(e)], {}, d)[0]


def ix(e: Any) -> E.Expr:
    """An index expression."""
    return typed(e, dt.int64)


# ---------------------------------------------------------------- running kernels on a backend

def launch(backend: Any, where: Any, kernel: Kernel, params: Sequence[int],
           buffers: Sequence[Any]) -> None:
    """Run a kernel on copies of `buffers` (arrays, numbers for scalars) on device `where`, and
    write the results back into the arrays."""
    slots = tuple(range(len(kernel.args)))
    made = backend.program(Program((KernelCall(kernel, tuple(params), slots),)), (), where)
    args: list[Any] = []
    for arg, b in zip(kernel.args, buffers):
        if arg.kind == "scalar":
            args.append(b)
            continue
        s = backend.allocate(b.nbytes, where)
        backend.copy_from_host(np.ascontiguousarray(b).view(np.uint8), s)
        args.append(s)
    made.into(*args)
    for arg, b, s in zip(kernel.args, buffers, args):
        if arg.kind in ("out", "inout"):
            b[...] = np.frombuffer(backend.copy_to_host(s, b.nbytes), b.dtype).reshape(b.shape)


def check(backend: Any, where: Any, kernel: Kernel, params: Sequence[int],
          buffers: Sequence[Any], ulps: float = 0) -> list[Any]:
    """Compare a launch with the interpreter, each on copies of the buffers; returns the launch's.
    AssertionError that shows the kernel where they differ."""
    mine, theirs = ([b.copy() if isinstance(b, np.ndarray) else b for b in buffers]
                    for _ in range(2))
    launch(backend, where, kernel, params, mine)
    interpret.run(kernel, params, theirs)
    for k, arg in enumerate(kernel.args):
        if arg.kind in ("out", "inout"):
            same(mine[k], theirs[k], ulps, f"slot {k} of {kernel}\nparams {params}")
    return mine


def many(cases: Sequence[tuple[Callable[..., Any], dtype]], ins: Sequence[dtype]) -> Kernel:
    """One kernel over one axis: `cases` are (function of the loads, output dtype)."""
    first = len(cases)
    loads = [E.load(first + k, E.index(0), d) for k, d in enumerate(ins)]
    body = tuple(Store(k, E.index(0), typed(fn(*loads), out)) for k, (fn, out) in enumerate(cases))
    args = (*[Arg("out", out) for _, out in cases], *[Arg("in", d) for d in ins])
    return Kernel("many", args, (E.param(0),), (Stage((), body),), 1)


def spanned(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many elements of memory a layout reaches over."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides))


def reductions(rng: np.random.Generator, ops: Sequence[tuple[str, dtype]], shape: Sequence[int],
               strides: Sequence[int], inner: Sequence[int],
               ) -> tuple[Kernel, list[int], list[Any]]:
    """(kernel, params, buffers): all reductions of `ops` over the dims `inner`, each of its own
    input of the same layout. An op is a reduction's name, or argmax or argmin, with a dtype."""
    p = Params()
    outer = [k for k in range(len(shape)) if k not in inner]
    grid = tuple([p.of(shape[k]) for k in outer])
    ranges = tuple([p.of(shape[k]) for k in inner])
    axes: list[Any] = [None] * len(shape)
    for at, k in enumerate([*outer, *inner]):
        axes[k] = E.index(at)
    source = dot(axes, [p.stride(s) for s in strides])
    sizes = [int(np.prod([shape[j] for j in outer[k + 1:]], dtype=int))
             for k in range(len(outer))]
    out = ix(dot([E.index(k) for k in range(len(outer))], [p.stride(n) for n in sizes]))
    position: Expr = E.const(0, dt.int64)
    for at, k in enumerate(inner):
        position = E.op("add", E.op("mul", position, p.of(shape[k])), E.index(len(outer) + at))
    size = int(np.prod([shape[k] for k in outer], dtype=int))
    args: list[Arg] = []
    body: list[Any] = []
    stores: list[Any] = []
    outs = sum(2 if op.startswith("arg") else 1 for op, _ in ops)
    for k, (op, d) in enumerate(ops):
        x = E.load(outs + k, source, d)
        if op.startswith("arg"):
            body.append(ArgReduce(f"r{k}", op[3:], x, ix(position)))
            stores += [Store(len(args), out, E.ref(f"r{k}", dt.int64)),
                       Store(len(args) + 1, out, E.ref(f"r{k}_value", d))]
            args += [Arg("out", dt.int64), Arg("out", d)]
        else:
            body.append(Reduce(f"r{k}", op, x))
            stores.append(Store(len(args), out, E.ref(f"r{k}", d)))
            args.append(Arg("out", d))
    buffers = [np.zeros(size, a.dtype.np) for a in args]
    for op, d in ops:
        kind = "mixed" if op.startswith("arg") or op in ("max", "min") else "small"
        buffers.append(sample(rng, d, max(spanned(shape, strides), 1), kind))
        args.append(Arg("in", d))
    stages = (Stage(ranges, tuple(body)), Stage((), tuple(stores)))
    return Kernel("reduce", tuple(args), grid, stages, len(p.values)), p.values, buffers


__all__ = ["sample", "same", "typed", "ix", "launch", "check", "many", "reductions", "spanned"]
