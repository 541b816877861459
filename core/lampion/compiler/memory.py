"""The memory plan: one arena for everything that does not outlive a run.

Floor 6; imports graph. Every made buffer lives from the call that writes it first to the last that
reads it; buffers whose lives do not meet share bytes. An elementwise kernel may write its result
over an operand that nobody reads later. What was freed last is given out first, as it is in the
caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .graph import Buffer, Call, Graph, Ref, SetGrads, escaping
from .passes import elementwise

ALIGN = 64


class Plan:
    """Where each buffer is in the arena; `size` is the arena's, `total` what it would be if every
    buffer had memory of its own."""

    def __init__(self) -> None:
        self.at: dict[Buffer, int] = {}
        self.size = 0
        self.total = 0
        self._free: list[tuple[int, int]] = []  # (offset, bytes), the most recently freed last

    def take(self, n: int) -> int:
        """`n` bytes: the most recent free block they fit well into, or new ones at the end."""
        best = -1
        for k in range(len(self._free) - 1, -1, -1):
            have = self._free[k][1]
            if have >= n and (best < 0 or have < self._free[best][1]) and (
                    have <= 2 * n or best < 0):
                best = k
                if have == n:
                    break
        if best >= 0:
            at, have = self._free.pop(best)
            if have > n:
                self._free.append((at + n, have - n))
            return at
        tail = next((k for k, (at, have) in enumerate(self._free) if at + have == self.size), -1)
        if tail >= 0:
            at = self._free.pop(tail)[0]
            self.size = at + n
            return at
        at = self.size
        self.size += n
        return at

    def give(self, at: int, n: int) -> None:
        """Free bytes; joined with free neighbours."""
        for k in range(len(self._free) - 1, -1, -1):
            other, have = self._free[k]
            if other + have == at:
                at, n = other, n + have
                del self._free[k]
            elif at + n == other:
                n += have
                del self._free[k]
        self._free.append((at, n))


def rounded(n: int) -> int:
    """Bytes of a block for `n`."""
    return max(ALIGN, -(-n // ALIGN) * ALIGN)


def plan(graph: Graph, checks: dict[int, int] | None = None) -> Plan:
    """Place the buffers. `checks[k]` is the position at which the status of call `k` is looked at:
    until then its operands stay, because an error shows their values."""
    items = graph.items
    out = escaping(graph)
    last: dict[Buffer, int] = {}
    for k, x in enumerate(items):
        for b in _touched(x):
            last[b] = max(last.get(b, 0), k)
        if checks and k in checks:
            for b in _touched(x):
                last[b] = max(last[b], checks[k])
    ends: dict[int, list[Buffer]] = {}
    for b, k in last.items():
        if b.kind == "made" and b not in out:
            ends.setdefault(k, []).append(b)
    made = Plan()
    for k, x in enumerate(items):
        if type(x) is not Call:
            for b in ends.get(k, ()):
                made.give(made.at[b], rounded(b.nbytes))
            continue
        dying = list(ends.get(k, ()))
        for r in x.reads:  # a tensor without elements, which nothing wrote
            if type(r) is Ref and r.buffer.kind == "made" and r.buffer not in made.at \
                    and r.buffer not in out:
                made.at[r.buffer] = made.take(rounded(r.buffer.nbytes))
        for w in x.writes:
            b = w.buffer
            if b.kind != "made" or b in out or b in made.at:
                continue
            made.total += rounded(b.nbytes)
            over = _overwritten(x, w, dying, made)
            if over is not None:
                made.at[b] = made.at[over]
                dying.remove(over)
            else:
                made.at[b] = made.take(rounded(b.nbytes))
        for b in dying:
            made.give(made.at[b], rounded(b.nbytes))
    return made


def _touched(x: Any) -> set[Buffer]:
    if type(x) is Call:
        return {r.buffer for r in x.refs}
    if type(x) is SetGrads:
        return {v.buffer for _, v in x.grads if type(v) is Ref}
    return set()


def _overwritten(c: Call, w: Ref, dying: Sequence[Buffer], made: Plan) -> Buffer | None:
    """An operand over which an elementwise kernel may write: it ends here, has the same layout, and
    is read at no other points."""
    if c.kernel is None and not elementwise(c):
        return None
    for b in dying:
        if b.nbytes != w.buffer.nbytes or b not in made.at or any(v.buffer is b for v in c.writes):
            continue
        refs = [r for r in c.reads if type(r) is Ref and r.buffer is b]
        if refs and all(r.whole and r.meta.shape == w.meta.shape and r.meta.strides
                        == w.meta.strides and r.meta.dtype.itemsize == w.meta.dtype.itemsize
                        for r in refs) and w.whole:
            return b
    return None


__all__ = ["Plan", "plan", "rounded", "ALIGN"]
