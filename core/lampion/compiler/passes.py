"""Graph passes that need no kernels: renaming, common calls, dead calls.

Floor 6; imports graph. A pass takes a graph and changes it in place; each is one function and is
tested alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .graph import Buffer, Call, Graph, HostCall, Ref, SetGrads, Uses, escaping, move, moved


def functionalize(graph: Graph) -> None:
    """Give every elementwise in-place write to all of a made buffer a buffer of its own: later
    reads name the new one. What is left of in-place writes are those to views and to memory that
    outlives the run. (The memory plan puts the two buffers in one place again.)"""
    now: dict[Buffer, tuple[Buffer, int]] = {}
    written: set[Buffer] = set()
    number = max([r.buffer.number for c in graph.calls for r in c.refs], default=0)

    for item in graph.items:
        if type(item) is SetGrads:
            item.grads = [(leaf, moved(v, now)) for leaf, v in item.grads]
        if type(item) is not Call:
            continue
        item.reads = tuple([moved(x, now) for x in item.reads])
        fresh = []
        for w in item.writes:
            b = w.buffer
            if b.kind == "made" and b in written and w.whole and elementwise(item):
                number += 1
                now[b] = Buffer("made", number, b.nbytes, b.device), 0
            written.add(b)
            fresh.append(moved(w, now))
        item.writes = tuple(fresh)
    graph.outputs = [moved(r, now) for r in graph.outputs]


def elementwise(call: Call) -> bool:
    """Whether a call is a generated kernel of an elementwise op."""
    return call.generated and call.plan is not None and call.plan.op.kind == "elementwise"


def share_common(graph: Graph) -> None:
    """Run calls that compute the same from the same once. Calls that write in place, or whose
    results are written later, stay."""
    versions: dict[Buffer, int] = {}
    count: dict[Buffer, int] = {}
    for c in graph.calls:
        for w in c.writes:
            count[w.buffer] = count.get(w.buffer, 0) + 1
    seen: dict[Any, Call] = {}
    instead: dict[Buffer, tuple[Buffer, int]] = {}
    items: list[Any] = []
    keep = escaping(graph)
    for item in graph.items:
        if type(item) is not Call:
            if type(item) is HostCall:  # it may write to whatever lives outside
                seen.clear()
            items.append(item)
            continue
        item.reads = tuple([moved(x, instead) for x in item.reads])
        key = (item.op, id(item.launch), item.part, tuple(
            (x.buffer, x.offset, x.meta, versions.get(x.buffer, 0)) if type(x) is Ref else
            (type(x), repr(x)) for x in item.reads))
        fresh = all(w.buffer.kind == "made" and count[w.buffer] == 1 and w.whole
                    and w.buffer not in keep for w in item.writes)
        twin = seen.get(key)
        if fresh and twin is not None and not item.status:
            for w, t in zip(item.writes, twin.writes):
                instead[w.buffer] = t.buffer, 0
            continue
        for w in item.writes:
            versions[w.buffer] = versions.get(w.buffer, 0) + 1
        if fresh and item.writes:
            seen[key] = item
        items.append(item)
    graph.items = items
    move(graph, instead)


def elide_copies(graph: Graph) -> None:
    """Leave out copies whose source nobody uses afterwards: the source is the copy."""
    uses = Uses(graph)
    reads, writes, keep = uses.reads, uses.writes, uses.escaping
    instead: dict[Buffer, tuple[Buffer, int]] = {}
    items: list[Any] = []
    for k, item in enumerate(graph.items):
        if type(item) is Call and item.op in _COPIES and _same_bytes(item):
            source, copy = moved(item.reads[0], instead).buffer, item.writes[0].buffer
            if source.kind == copy.kind == "made" and source not in keep \
                    and writes.get(copy) == [k] and max(reads.get(source, [0])) <= k \
                    and max(writes.get(source, [k])) < k:
                instead[copy] = source, 0
                reads[source] = reads.get(source, []) + reads.get(copy, [])
                if copy in keep:
                    keep.add(source)
                continue
        items.append(item)
    graph.items = items
    move(graph, instead)


_COPIES = ("duplicate", "convert")


def _same_bytes(c: Call) -> bool:
    """Whether a call copies all bytes of a buffer to all bytes of another."""
    r, w = c.reads[0], c.writes[0]
    return type(r) is Ref and len(c.reads) == 1 and r.whole and w.whole \
        and r.meta.dtype is w.meta.dtype and r.meta.nbytes == w.meta.nbytes and (
            (r.meta.strides == w.meta.strides and r.meta.shape == w.meta.shape)
            or (r.meta.contiguous and w.meta.contiguous))


def drop_dead(graph: Graph) -> None:
    """Leave calls out whose results nobody reads. Those that may raise (status words) stay."""
    live = escaping(graph)
    kept: list[Any] = []
    for item in reversed(graph.items):
        if type(item) is Call and not item.status and not any(
                w.buffer.kind != "made" or w.buffer in live for w in item.writes):
            continue
        if type(item) is Call:
            live.update(r.buffer for r in item.reads if type(r) is Ref)
        kept.append(item)
    graph.items = kept[::-1]


def stretches(items: Sequence[Any]) -> Iterable[list[Any]]:
    """The items cut at what is no call: [calls], [item], [calls], ..."""
    row: list[Any] = []
    for x in items:
        if type(x) is Call:
            row.append(x)
        else:
            if row:
                yield row
            yield [x]
            row = []
    if row:
        yield row


def dependencies(calls: Sequence[Call]) -> list[set[int]]:
    """For each call the earlier ones that have to run before it: those that write what it reads,
    and those that read or write what it writes."""
    writer: dict[Buffer, int] = {}
    users: dict[Buffer, list[int]] = {}
    out: list[set[int]] = []
    for k, c in enumerate(calls):
        before: set[int] = set()
        for r in c.reads:
            if type(r) is Ref and r.buffer in writer:
                before.add(writer[r.buffer])
        for w in c.writes:
            if w.buffer in writer:
                before.add(writer[w.buffer])
            before.update(users.get(w.buffer, ()))
        for r in c.reads:
            if type(r) is Ref:
                users.setdefault(r.buffer, []).append(k)
        for w in c.writes:
            writer[w.buffer] = k
            users[w.buffer] = []
        before.discard(k)
        out.append(before)
    return out


__all__ = ["functionalize", "share_common", "elide_copies", "drop_dead", "elementwise", "stretches",
           "dependencies"]
