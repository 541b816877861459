"""Range checks of indices held in tensors.

Floor 3. The kernels of an indexing op clamp what they read, so that memory is safe; beside them,
in the same launch, runs a kernel that leaves a status word other than 0 if an index was out of
range. Only then is the index looked at on the host, to name it in the error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..base import dtype as dt
from ..base.meta import meta
from ..ir import expr as E
from ..ir.kernel import Program
from ..runtime.lowering import Nest

CHUNK = 8192
MOST_WORDS = 64


class IndexRangeError(IndexError, RuntimeError):
    """An index outside its dim. Both IndexError (what it is) and RuntimeError (what PyTorch raises
    from some of its indexing functions)."""


def need_tensors(op, **arguments):
    """TypeError naming the first of the arguments that is no tensor."""
    for k, (name, v) in enumerate(arguments.items(), 1):
        if not hasattr(v, "meta"):
            raise TypeError(f"{op}(): argument '{name}' (position {k}) must be Tensor, not "
                            f"{type(v).__name__}")


def words_for(m):
    """Status words for an index of this meta: one per chunk of a large contiguous one."""
    if not m.contiguous or m.numel < 2 * CHUNK:
        return 1
    return min(MOST_WORDS, -(-m.numel // CHUNK))


def check_call(m, size, *, slot, status, first, words, lowest):
    """The kernel call that sets status words [first, first + words) if an index is outside
    [lowest, size)."""
    int64 = meta(dt.int64, (words,), None, m.device)
    if words == 1:
        n = Nest("index_check", m.shape, range(m.ndim), compute=dt.int64)
        o, i = n.output(int64), n.input(m)
        n.start()
        value, where = i(), n.of(first)
        mask = None
    else:
        length = -(-m.numel // words)
        n = Nest("index_check_chunks", (words, length), [1], compute=dt.int64, merge=False)
        o, i = n.output(int64), n.input(m, (length, 1))
        n.start()
        mask = E.op("lt", i.offset, n.of(m.numel))
        value, where = i(mask=mask, other=0), n.of(first) + n.coord(0)
    value = E.cast(value, dt.int64)
    bad = (value < n.of(lowest)) | (value >= n.of(size))
    if mask is not None:
        bad = bad & mask
    flag = n.reduce("or", E.select(bad, E.const(1, dt.int64), E.const(0, dt.int64)))
    n.store_at(o, where, flag, inner=False)
    return n.call((status, slot))


def checked(call, calls, ranges, scratch=()):
    """A Program of `calls` (which number their slots as if there were no status) that checks
    index inputs first. `ranges` lists (input number, dim, size, lowest index allowed)."""
    k = len(call.outputs)
    ranges = [r for r in ranges if call.inputs[r[0]].numel]
    if not ranges:
        return Program(tuple(calls), tuple(scratch))
    out, first = [], 0
    for slot, _, size, lowest in ranges:
        m = call.inputs[slot]
        words = words_for(m)
        out.append(check_call(m, size, slot=k + 1 + slot, status=k, first=first, words=words,
                              lowest=lowest))
        first += words
    for c in calls:
        out.append(replace(c, slots=tuple(s + 1 if s >= k else s for s in c.slots)))
    return Program(tuple(out), tuple(scratch), status=first)


def refuse_empty(size, m, dim, op=""):
    """IndexRangeError for any index into a dim of size 0."""
    if size == 0 and m.numel:
        raise IndexRangeError(f"{op}index is out of bounds for dimension {dim} with size 0")


def wrapped(i, size):
    """An index expression made non-negative and clamped into [0, size)."""
    i = E.cast(i, dt.int64)
    return clamped(E.select(i < 0, i + size, i), size)


def clamped(i, size):
    """An index expression clamped into [0, size)."""
    return E.maximum(E.minimum(E.cast(i, dt.int64), size - 1), E.const(0, dt.int64))


def inside(n, i, lowest, size):
    """Whether an index is in [lowest, size)."""
    i = E.cast(i, dt.int64)
    return (i >= n.of(lowest)) & (i < n.of(size))


def host(storage, m):
    """A NumPy copy of a storage's values."""
    raw = m.device.backend.copy_to_host(storage, m.span)
    strides = [s * m.dtype.itemsize for s in m.strides]
    return np.ndarray(m.shape, m.dtype.np, bytes(raw), strides=strides)


def explain_by(ranges, text="{op}index {index} is out of bounds for dimension {dim} with size "
               "{size}", op=""):
    """The `explain` of an op whose index ranges `ranges(call)` lists: names the first bad one."""
    def explain(call, inputs):
        for slot, dim, size, lowest in ranges(call):
            values = host(inputs[slot], call.inputs[slot]).ravel()
            bad = values[(values < lowest) | (values >= size)]
            if bad.size:
                raise IndexRangeError(text.format(op=op, index=bad[0], dim=dim, size=size))
        raise IndexRangeError(f"{op}index out of range in self")

    return explain


def index_dtype(m, op):
    """RuntimeError unless the dtype can index."""
    if m.dtype is not dt.int64 and m.dtype is not dt.int32:
        raise RuntimeError(f"{op}(): Expected dtype int32 or int64 for index, got {m.dtype!r}")
