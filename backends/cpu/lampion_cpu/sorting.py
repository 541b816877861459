"""Sorting and selection on the CPU through NumPy, whose sorts of 64-bit words are vectorised.

Elements of at most 32 bits become sortable 32-bit keys; key and position share one 64-bit word, so
that an unstable sort of words is a stable sort of (key, position), and the position comes out with
the key. Wider elements take NumPy's stable argsort, unless their range fits 32 bits.

May import: numpy, lampion's floors 0-2.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lampion.base.meta import Meta
from lampion.runtime.backend import KernelImpl, Launch, OpCall

SHORT = 128  # shorter lines are left to the generated kernel, which has no NumPy overhead

Array = Any


def kernels() -> Sequence[KernelImpl]:
    """sort, topk and entry_at (kthvalue, median)."""
    return [KernelImpl("sort", "cpu", build_sort, long_lines, 10, "cpu.numpy"),
            KernelImpl("topk", "cpu", build_topk, long_lines, 10, "cpu.numpy"),
            KernelImpl("entry_at", "cpu", build_entry, has_elements, 10, "cpu.numpy")]


def line_length(call: OpCall) -> int:
    """Length of the sorted dim."""
    m: Meta = call.args["input"]
    return m.shape[call.dim] if m.ndim else 1


def long_lines(call: OpCall) -> bool:
    """Whether NumPy pays; float64 bits and complex numbers aside, every dtype is served."""
    m: Meta = call.args["input"]
    return m.dtype.kind != "c" and m.numel > 0 and (
        line_length(call) > SHORT or m.numel > 64 * SHORT)


def has_elements(call: OpCall) -> bool:
    """Whether there is an entry to pick, in an ordered dtype."""
    m: Meta = call.args["input"]
    return m.dtype.kind != "c" and m.numel > 0


def array(storage: Any, m: Meta) -> Array:
    """A NumPy view of a storage's elements."""
    buffer = (ctypes.c_char * m.span).from_address(storage.ptr)
    return np.ndarray(m.shape, m.dtype.np, buffer,
                      strides=tuple(s * m.dtype.itemsize for s in m.strides))


def keys32(x: Array) -> Array:
    """uint32 keys that order like the elements of at most 32 bits; NaN is the largest."""
    if x.dtype.kind in "ub":
        return x.astype(np.uint32)
    if x.dtype.kind == "i":
        return (x.astype(np.int32).view(np.uint32)) ^ np.uint32(1 << 31)
    f = x.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    u = f.view(np.uint32)
    sign = (u.view(np.int32) >> 31).view(np.uint32)
    u = u ^ (sign | np.uint32(1 << 31))
    u[f != f] = 0xFFFFFFFF
    return u


def keys_of(x: Array) -> Array | None:
    """uint32 keys, or None if 32 bits do not tell the elements apart."""
    if x.dtype.itemsize <= 4:
        return keys32(x)
    if x.dtype.kind in "iu":
        low, high = x.min(), x.max()
        if int(high) - int(low) < 1 << 32:
            return (x - low).astype(np.uint32)
    return None


def words(x: Array, descending: bool) -> Array | None:
    """(key, position) words of lines along the last axis."""
    if x.shape[-1] >= 1 << 32:
        return None
    k = keys_of(x)
    if k is None:
        return None
    if descending:
        k = ~k
    w = k.astype(np.uint64)
    w <<= np.uint64(32)
    w |= np.arange(x.shape[-1], dtype=np.uint64)
    return w


def positions(w: Array) -> Array:
    """The positions in words, as int64."""
    return (w & np.uint64(0xFFFFFFFF)).view(np.int64)


def by_digits(x: Array, descending: bool) -> Array | None:
    """The order of integers of a small range by radix passes over 16 bits (NumPy's stable sort of
    uint16 is one); None for anything else."""
    if x.dtype.kind not in "iu" or not x.size:
        return None
    low, high = int(x.min()), int(x.max())
    if high - low >= 1 << 32 or (high - low >= 1 << 16 and x.ndim > 1):
        return None
    wide = x.astype(np.int64) if x.dtype != np.uint64 else x
    k = (high - wide if descending else wide - low).astype(np.uint32)
    order = np.argsort(k.astype(np.uint16), axis=-1, kind="stable")
    if high - low < 1 << 16:
        return order
    return order[np.argsort((k[order] >> 16).astype(np.uint16), kind="stable")]


def argsort(x: Array, descending: bool) -> Array:
    """Stable order of lines along the last axis."""
    found = by_digits(x, descending)
    if found is not None:
        return found
    w = words(x, descending)
    if w is not None:
        w.sort(axis=-1)
        return positions(w)
    if not descending:
        return np.argsort(x, axis=-1, kind="stable")
    back = np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return x.shape[-1] - 1 - back


def select(x: Array, k: int, largest: bool) -> Array:
    """Positions of the k extreme entries in order, ties by position."""
    n = x.shape[-1]
    if x.ndim == 1 and k > 0 and 16 * k < n and x.dtype.kind in "iuf" and x.dtype.itemsize >= 4:
        found = select_line(x, k, largest)
        if found is not None:
            return found
    w = words(x, largest) if 4 * k < n else None
    if w is None:
        return argsort(x, largest)[..., :k]
    w.partition(min(k, n - 1), axis=-1)
    w = np.sort(w[..., :k], axis=-1)
    return positions(w)


def select_line(x: Array, k: int, largest: bool) -> Array | None:
    """`select` on one line: only what reaches the k-th value is sorted. None if there are NaN."""
    n = len(x)
    limit = np.partition(x, n - k)[n - k] if largest else np.partition(x, k - 1)[k - 1]
    if x.dtype.kind == "f" and np.isnan(x).any():
        return None
    near = np.flatnonzero(x >= limit if largest else x <= limit)
    return near[argsort(x[near], largest)[:k]]


def build(call: OpCall, order: Callable[[Array], Array]) -> Launch:
    """A launch that writes entries and their positions along the op's dim."""
    from . import native

    m, values, indices = call.args["input"], *call.outputs
    dim = call.dim

    def into(v: Any, i: Any, x: Any) -> None:
        source, target, places = array(x, m), array(v, values), array(i, indices)
        if m.ndim:
            source, target, places = (np.moveaxis(a, dim, -1) for a in (source, target, places))
        else:
            source, target, places = (a.reshape(1) for a in (source, target, places))
        found = order(source)
        places[...] = found
        target[...] = source[found] if source.ndim == 1 else np.take_along_axis(source, found, -1)

    def launch(x: Any) -> Any:
        outs = native.empty(values.span), native.empty(indices.span)
        into(*outs, x)
        return outs

    return Launch(launch, into, [f"numpy.{call.op}"])


def build_sort(call: OpCall) -> Launch | None:
    """sort through sortable words."""
    descending = bool(call.descending)
    return build(call, lambda x: argsort(x, descending))


def build_topk(call: OpCall) -> Launch | None:
    """topk through a partition of words."""
    k, largest = call.k, bool(call.largest)
    if call.args["input"].dtype.kind == "c" or not call.outputs[0].numel:
        return None
    return build(call, lambda x: select(x, k, largest))


def entry(x: Array, k: int | str) -> Array:
    """Position of the k-th entry of every line, ties by position; see the op for words as k."""
    n = x.shape[-1]
    if isinstance(k, str):
        nans = (x != x).sum(-1, keepdims=True) if x.dtype.kind not in "biu" else None
        if nans is not None and nans.any():
            middle = np.maximum((n - nans - 1) // 2, 0)
            wanted = middle if k == "nanmedian" else np.where(nans, n - nans, (n - 1) // 2)
            return np.take_along_axis(argsort(x, False), wanted, -1)
        k = (n - 1) // 2
    w = words(x, False)
    if w is None:
        return argsort(x, False)[..., k:k + 1]
    w.partition(k, axis=-1)
    return positions(w[..., k:k + 1])


def build_entry(call: OpCall) -> Launch | None:
    """entry_at through a partition of words; short lines are counted by a generated kernel."""
    m, k = call.args["input"], call.k
    n = m.shape[call.dim] if m.ndim else 1
    if m.ndim and m.dtype.kind != "c" and (n <= 16 or (n <= 256 and m.numel <= 1024)):
        return None
    return build(call, lambda x: entry(x, k))
