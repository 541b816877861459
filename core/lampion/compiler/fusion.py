"""Fusion: elementwise calls over one shape become one kernel.

Floor 6; imports graph, passes, ir and runtime. Calls join a group if they compute over the same
points and no other call stands between them and the group, whether one feeds the other (vertical)
or both read the same (horizontal). Inside a kernel a value stays in a register; it is rounded to
the dtype of the tensor it was, so that the numbers are those of the unfused calls. Values that
somebody else reads are stored too. The result is a kernel of the kernel IR: every backend that
compiles kernels has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..base.dtype import int64 as _INT64
from ..base.meta import Meta, expand_strides
from ..ir import expr as E
from ..ir.kernel import Arg, Kernel, KernelCall, Params, Program, Stage, Store, dot
from ..ops import plans as P
from ..runtime import lowering
from ..runtime.backend import OpCall
from .graph import Buffer, Call, Graph, Late, Ref, escaping
from .passes import dependencies, elementwise, stretches

MOST_OPERANDS = 24  # of a kernel: beyond that, registers and address arithmetic cost more
MOST_NODES = 400


def fuse(graph: Graph) -> None:
    """Fuse what can be fused, between the host's calls."""
    keep = escaping(graph)
    later: list[set[Buffer]] = []
    rows = list(stretches(graph.items))
    read: set[Buffer] = set(keep)
    for row in reversed(rows):
        later.append(set(read))
        for x in row:
            if type(x) is Call:
                read.update(r.buffer for r in x.reads if type(r) is Ref)
    items: list[Any] = []
    for row, needed in zip(rows, reversed(later)):
        items += _fuse_row(row, needed) if type(row[0]) is Call else row
    graph.items = items


def _fuse_row(calls: list[Call], needed: set[Buffer]) -> list[Call]:
    """The calls of a stretch with groups replaced by kernels; `needed` is read later."""
    groups = _groups(calls)
    out: list[Call] = []
    for members in groups:
        if len(members) == 1:
            out.append(calls[members[0]])
            continue
        inside = set(members)
        read = set(needed)
        for k, c in enumerate(calls):
            if k not in inside:
                read.update(r.buffer for r in c.reads if type(r) is Ref)
        out.append(_kernel([calls[k] for k in members], read))
    return out


def _groups(calls: Sequence[Call]) -> list[list[int]]:
    """Calls by group, in an order that respects what depends on what."""
    before = dependencies(calls)
    group = list(range(len(calls)))  # of each call, by the number of its first member
    members: dict[int, list[int]] = {k: [k] for k in group}
    above: dict[int, int] = {}  # group -> bits of the groups that have to run before it
    for k, c in enumerate(calls):
        mask = 0
        for j in before[k]:
            mask |= above[group[j]] | 1 << group[j]
        above[k] = mask
        if not _fusible(c):
            continue
        for g in _candidates(calls, before, group, members, k):
            # no path from g to this call by way of another group
            if any(above[group[j]] >> g & 1 for j in before[k] if group[j] != g):
                continue
            if not _fits([calls[j] for j in members[g]], c):
                continue
            extra = mask & ~(1 << g)
            members[g].append(k)
            group[k] = g
            del members[k], above[k]
            above[g] |= extra
            for h in above:
                if above[h] >> g & 1:
                    above[h] |= extra
            break
    return [members[g] for g in _ordered(members, above)]


def _candidates(calls: Sequence[Call], before: Sequence[set[int]], group: Sequence[int],
                members: dict[int, list[int]], k: int) -> list[int]:
    """Groups that call `k` may join, the best first: those that feed it, then those that read a
    tensor that it reads."""
    c = calls[k]
    shape = c.writes[0].meta.shape
    mine = {r.buffer for r in c.reads if type(r) is Ref and r.meta.numel > 1}
    found: dict[int, int] = {}
    for j in range(k - 1, max(-1, k - 64), -1):
        g = group[j]
        if g in found or not _fusible(calls[j]) or calls[j].writes[0].meta.shape != shape \
                or calls[j].call.device is not c.call.device:
            continue
        if j in before[k]:
            found[g] = 0
        elif mine & {r.buffer for r in calls[j].reads if type(r) is Ref}:
            found[g] = 1
    return sorted(found, key=lambda g: (found[g], -g))


def _ordered(members: dict[int, list[int]], above: dict[int, int]) -> list[int]:
    """Groups in topological order, as near as possible to the order of their last members."""
    waiting = sorted(members, key=lambda g: members[g][-1])
    done, out = 0, []
    while waiting:
        for at, g in enumerate(waiting):
            if not above[g] & ~done:
                out.append(g)
                done |= 1 << g
                del waiting[at]
                break
        else:
            raise RuntimeError("fusion made a cycle")
    return out


def _fusible(c: Call) -> bool:
    if not elementwise(c) or (c.plan.op.divisor and not _is_float(c)) or not c.writes[0].meta.numel:
        return False
    return all(w.meta.dtype.kind != "c" for w in c.writes) and all(
        r.meta.dtype.kind != "c" for r in c.reads if type(r) is Ref)


def _is_float(c: Call) -> bool:
    return all(w.meta.dtype.kind == "f" for w in c.writes)


def _fits(group: Sequence[Call], c: Call) -> bool:
    """Whether a group may take a call: it reads the group's values as they are, and the kernel
    does not become too large."""
    if any(g.launch is c.launch and g.reads == c.reads for g in group):
        return False  # it is made again so that it need not be kept
    made = {w.buffer: w for g in group for w in g.writes}
    for r in c.reads:
        if type(r) is Ref and r.buffer in made and r != made[r.buffer]:
            return False
    for w in c.writes:
        if w.buffer in made or any(type(r) is Ref and r.buffer is w.buffer and r != w
                                   for g in group for r in g.reads):
            return False
        if w.meta.overlapping:
            return False
    # what the call writes in place must not be read by the group at other points
    refs = {(r.buffer, r.offset, r.meta) for g in (*group, c) for r in g.refs}
    return len(refs) <= MOST_OPERANDS and sum(map(_size, (*group, c))) <= MOST_NODES


def _size(c: Call) -> int:
    found = c.plan.cache.get("nodes")
    if found is None:
        exprs = c.plan.op.trace(c.plan.attrs)
        found = c.plan.cache["nodes"] = sum(1 for _ in E.walk(exprs))
    return int(found)


def values_of(calls: Sequence[Call], read: Any) -> dict[tuple[Buffer, int, Meta], E.Expr]:
    """The typed values that a group of calls computes, by the ref they are written to; `read(x)` is
    the typed value of an operand that comes from outside."""
    known: dict[tuple[Buffer, int, Meta], E.Expr] = {}
    for c in calls:
        op = c.plan.op
        operands = [c.call.args[p.name] for p in op.operands]
        compute = P.elementwise_compute(op, operands, c.plan.attrs)
        names = [(p.name, op.fixed.get(p.name, compute)) for p in op.operands]
        roots = E.typed(op.trace(c.plan.attrs), dict(names), compute)
        table: dict[E.Expr, E.Expr] = {}
        for (name, want), x, slot in zip(names, c.reads, c.call.inputs):
            value = known.get(tuple(x)) if type(x) is Ref else None  # type: ignore[arg-type]
            if value is None:
                value = read(x) if type(x) in (Ref, Late) else E.const(
                    float(x) if slot.kind == "f" else int(x), slot)
            table[E.var(name, want)] = lowering.convert(value, want)
        for w, v in zip(c.writes, E.substitute(roots, table)):
            known[tuple(w)] = lowering.convert(v, w.meta.dtype)  # type: ignore[index]
    return known


def _kernel(calls: Sequence[Call], read: set[Buffer]) -> Call:
    """One call for a group; results in `read` are stored, and what is written outside."""
    written: dict[Any, Ref] = {}
    ins: dict[Any, Any] = {}
    for c in calls:
        for x in c.reads:
            if type(x) is Late or (type(x) is Ref and tuple(x) not in written):
                ins.setdefault(tuple(x), x)
        for w in c.writes:
            written[tuple(w)] = w
    outs = [w for w in written.values() if w.buffer.kind != "made" or w.buffer in read]
    inputs = list(ins.values())
    shape = calls[0].writes[0].meta.shape
    tensors = [x.meta for x in inputs if type(x) is Ref]
    rows = [list(w.meta.strides) for w in outs]
    rows += [list(expand_strides(m.shape, m.strides, shape)) for m in tensors]
    order = lowering.loop_order(shape, rows)
    sizes, rows = lowering.collapse([shape[d] for d in order],
                                    [[r[d] for d in order] for r in rows])
    if not sizes:
        sizes, rows = [1], [[1] for _ in rows]
    params = Params()
    grid = tuple(params.of(n) for n in sizes)
    axes = [E.index(k) for k in range(len(sizes))]
    offsets = [dot(axes, [params.stride(s) for s in row]) for row in rows]
    args = [Arg("out", w.meta.dtype) for w in outs]
    loads: dict[Any, E.Expr] = {}
    at = len(outs)
    for k, x in enumerate(inputs):
        slot = len(outs) + k
        if type(x) is Ref:
            args.append(Arg("in", x.meta.dtype))
            loads[tuple(x)] = E.typed([E.load(slot, offsets[at], x.meta.dtype)], {},
                                      x.meta.dtype)[0]
            at += 1
        else:
            args.append(Arg("scalar", _INT64))
            loads[tuple(x)] = E.scalar(slot, _INT64)
    known = values_of(calls, lambda x: loads[tuple(x)])
    body = tuple(Store(k, offsets[k], known[tuple(w)])  # type: ignore[index]
                 for k, w in enumerate(outs))
    names = list(dict.fromkeys(c.call.op for c in calls))
    name = "_".join(names[:6]) + (f"_and_{len(names) - 6}" if len(names) > 6 else "")
    kernel = Kernel(name, tuple(args), grid, (Stage((), body),), len(params.values))
    program = Program((KernelCall(kernel, tuple(params.values),
                                  tuple(range(len(outs) + len(inputs)))),))
    where = calls[0].call.device
    launch = P.backend_of(where).program(program, [w.meta.span for w in outs], where)
    metas = tuple(x.meta if type(x) is Ref else _INT64 for x in inputs)
    call = OpCall(name, metas, {}, tuple(w.meta for w in outs), where)
    return Call(f"fused({', '.join(c.op for c in calls)})", call, launch, tuple(inputs),
                tuple(outs), where=calls[-1].where, kernel=kernel, kernels=program)


__all__ = ["fuse", "values_of"]
