"""Attention in blocks of query rows, without all scores at once.

A block of scores is a product, a kernel over its rows and another product; with `causal` the
columns after a block's last row are left out, which are almost half of all. Of the forward
direction the logsumexp of each row stays, from which the backward one makes the block's weights
again. All this is one program of the steps that `gemm` plans and of kernels of the kernel IR. The
batch is taken a few matrices at a time, so that the caches hold a block.

May import lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lampion.base import dtype as dt
from lampion.base.meta import Meta, expand_strides, meta
from lampion.ir import expr as E
from lampion.ir.kernel import Reduce, Store
from lampion.ir.schedule import split
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest

from . import codegen
from .gemm import View, matmul_steps, transpose_step
from .program import Step, make_program
from .sequence import Place, inlined, layout

_ROWS, _MORE_ROWS, _LONG = 64, 128, 512  # of a block, of one of a query of more than _LONG rows
_LEAST_ROWS = 2 * _ROWS  # of a causal query: with fewer nothing is left out
_MOST_SCORES = 32 << 20  # bytes of scores that are kept rather than made again
_BLOCK_BYTES = 1 << 20
_MOST_CHUNKS = 16
_ALIGN = 64


class _Block(NamedTuple):
    """Stretches [first, last) of the first batch dim and of query rows; columns looked at."""

    items: tuple[int, int]
    rows: tuple[int, int]
    columns: int


class _Part(NamedTuple):
    """Steps over slots of their own, which are at `where` in the whole program."""

    steps: Sequence[Step]
    scratch: Sequence[int]
    where: Sequence[Place]
    derived: Sequence[tuple[int, int]] = ()


class _Operand:
    """A tensor of the call: its slot and meta, of which blocks are taken."""

    def __init__(self, slot: int, m: Meta) -> None:
        self.slot, self.meta = slot, m

    def block(self, items: tuple[int, int], rows: tuple[int, int] | None = None,
              columns: int | None = None) -> tuple[Place, Meta]:
        """(place, meta) of stretches of the first dim and the second to last, and of the first
        `columns` of the last."""
        m = self.meta
        shape, at = list(m.shape), 0
        if m.ndim > 2 and shape[0] > 1:
            shape[0] = items[1] - items[0]
            at += items[0] * m.strides[0]
        if rows is not None and shape[-2] > 1:
            shape[-2] = rows[1] - rows[0]
            at += rows[0] * m.strides[-2]
        if columns is not None and shape[-1] > 1:
            shape[-1] = columns
        return (self.slot, at * m.dtype.itemsize), meta(m.dtype, shape, m.strides, m.device)


    def first(self, columns: int) -> tuple[Place, Meta]:
        """(place, meta) of the first columns."""
        m = self.meta
        return (self.slot, 0), meta(m.dtype, (*m.shape[:-1], columns), m.strides, m.device)


class _Plan:
    """Collects the parts of a call's program."""

    def __init__(self, call: OpCall) -> None:
        self.call = call
        self.parts: list[_Part] = []
        self.room: list[int] = []  # bytes of scratch
        count = len(call.outputs)
        self.outputs = [_Operand(k, m) for k, m in enumerate(call.outputs)]
        names = [n for n, m in call.args.items() if isinstance(m, Meta)]
        self.inputs = {n: _Operand(count + k, call.args[n]) for k, n in enumerate(names)}
        self.first_scratch = count + len(names)
        q, k = call.query, call.key
        self.batch, self.rows, self.columns = q.shape[:-2], q.shape[-2], k.shape[-2]
        self.acc = dt.opmath(q.dtype)
        self.block_rows = _ROWS if self.rows <= _LONG else _MORE_ROWS

    def scratch(self, nbytes: int) -> int:
        """The slot of memory that lives as long as the program runs."""
        self.room.append(nbytes)
        return self.first_scratch + len(self.room) - 1

    def dense(self, slot: int, items: tuple[int, int], *sizes: int) -> tuple[Place, Meta]:
        """(place, meta) of a block in scratch memory."""
        shape = (*self._batch(items), *sizes)
        return (slot, 0), meta(self.acc, shape, None, self.call.device)

    def bytes_of(self, m: Meta, blocks: Sequence[_Block]) -> int:
        """Of a tensor's part for the items of a block, without gaps."""
        part = _Operand(0, m).block(blocks[0].items)[1]
        return part.numel * m.dtype.itemsize

    def _batch(self, items: tuple[int, int]) -> tuple[int, ...]:
        return (items[1] - items[0], *self.batch[1:]) if self.batch else ()

    def blocks(self) -> list[_Block]:
        """The blocks, the last rows first: their columns are all there are."""
        step = self.block_rows
        each = math.prod(self.batch[1:]) * step * self.columns * self.acc.itemsize
        count = self.batch[0] if self.batch else 1
        chunk = max(1, _BLOCK_BYTES // each, -(-count // _MOST_CHUNKS))
        out = []
        for item in range(0, count, chunk):
            for row in reversed(range(0, self.rows, step)):
                last = min(row + step, self.rows)
                all_ = not self.call.causal or last == self.rows
                out.append(_Block((item, min(item + chunk, count)), (row, last),
                                  self.columns if all_ else min(last, self.columns)))
        return out

    def product(self, out: tuple[Place, Meta], a: tuple[Place, Meta], b: tuple[Place, Meta],
                ta: bool = False, add: bool = False) -> None:
        """out (+)= a @ b, `a` transposed first if `ta`."""
        plan = matmul_steps(_view(1, a[1], ta), _view(2, b[1]), _view(0, out[1]), None,
                            "sum" if add else None, first_scratch=3)
        if plan is None:
            raise LookupError("no product")
        self.parts.append(_Part(plan.steps, plan.scratch, (out[0], a[0], b[0])))

    def turned(self, slot: int, x: tuple[Place, Meta]) -> _Operand:
        """x with its last two dims exchanged, copied to scratch memory: products read their
        right operand faster along its rows."""
        m = x[1]
        shape = (*m.shape[:-2], m.shape[-1], m.shape[-2])
        to = meta(m.dtype, shape, None, m.device)
        step = transpose_step(_view(1, m), _view(0, to))
        if step is not None:
            self.parts.append(_Part([step], (), ((slot, 0), x[0])))
        else:
            n = Nest("attention_turn", shape, compute=self.acc)
            o = n.output(to, to.strides)
            i = n.input(m, (*m.strides[:-2], m.strides[-1], m.strides[-2]))
            n.start()
            n.store(o, i())
            self.kernel(n, ((slot, 0), x[0]))
        return _Operand(slot, to)

    def kernel(self, n: Nest, places: Sequence[Place]) -> None:
        """What a nest computes."""
        program = split(n.program())
        steps, _ = codegen.steps(program)
        self.parts.append(_Part(steps, program.scratch, places))

    def launch(self) -> Launch:
        """All parts as one program."""
        inputs = "s" * len(self.inputs)
        common = max(layout(p.scratch)[1] for p in self.parts)
        shared = self.scratch(common)
        first = self.first_scratch + len(self.room)
        derived: dict[tuple[int, int], int] = {}

        def slot(source: int, amount: int) -> int:
            if source >= 0 and not amount:
                return source
            return first + derived.setdefault((source, amount), len(derived))

        steps = [s for p in self.parts for s in inlined(p, p.where, shared, slot)]
        made = make_program(steps, inputs, [m.span for m in self.call.outputs], self.room,
                            derived=list(derived))
        return Launch(made.launch, made.into, [self.call.op], made)


def _view(slot: int, m: Meta, turn: bool = False) -> View:
    shape, strides = m.shape, m.strides
    if turn:
        shape = (*shape[:-2], shape[-1], shape[-2])
        strides = (*strides[:-2], strides[-1], strides[-2])
    return View(slot, shape, strides, m.dtype.name)


def _pays(call: OpCall) -> bool:
    """Whether blocks are better than all scores at once."""
    q, k, v = call.query, call.key, call.value
    if q.dtype.name not in ("float32", "float64") or not q.numel or not k.numel or not v.numel:
        return False
    if any(m.overlapping for m in call.outputs):
        return False
    if call.causal and q.shape[-2] >= _LEAST_ROWS:
        return True
    return math.prod(q.shape[:-1]) * k.shape[-2] * q.dtype.itemsize >= _MOST_SCORES


def _scores(plan: _Plan, n: Nest, a: Any, mask: Any, block: _Block) -> Any:
    """The typed value of a score: scaled, masked."""
    value = a() * plan.call.scale
    if mask is not None:
        value = E.select(mask(), value, -math.inf) if mask.dtype.kind == "b" else value + mask()
    if plan.call.causal:
        rank = len(n.shape)
        row = n.coord(rank - 2) + n.of(block.rows[0])
        value = E.select(n.coord(rank - 1) <= row, value, -math.inf)
    return value


def _mask(plan: _Plan, n: Nest, block: _Block) -> tuple[Any, list[Place]]:
    """The operand of the mask's block, and its place."""
    operand = plan.inputs.get("mask")
    if operand is None:
        return None, []
    m = operand.meta
    rank = len(n.shape)
    shape = (*plan.batch, plan.rows, plan.columns)
    whole = _Operand(operand.slot, meta(m.dtype, shape, expand_strides(m.shape, m.strides, shape),
                                        m.device))
    place, part = whole.block(block.items, block.rows, block.columns)
    assert len(part.strides) == rank
    return n.input(part, part.strides), [place]


def forward(call: OpCall) -> Launch | None:
    """`fused_attention`."""
    if not _pays(call):
        return None
    plan = _Plan(call)
    blocks = plan.blocks()
    out, lse = plan.outputs
    q, k, v = (plan.inputs[name] for name in ("query", "key", "value"))
    per_row = max(math.prod(plan._batch(b.items)) for b in blocks) * plan.acc.itemsize \
        * plan.block_rows
    scores_slot, sums_slot = plan.scratch(per_row * plan.columns), plan.scratch(per_row)
    turned_slot = plan.scratch(plan.bytes_of(k.meta, blocks))
    lse_rows = _Operand(lse.slot, _column(lse.meta))
    try:
        for b in blocks:
            rows = b.rows[1] - b.rows[0]
            if b.rows[1] == plan.rows:
                keys = plan.turned(turned_slot, k.block(b.items))
            scores = plan.dense(scores_slot, b.items, rows, b.columns)
            sums = plan.dense(sums_slot, b.items, rows, 1)
            plan.product(scores, q.block(b.items, b.rows), keys.first(b.columns))
            _weigh(plan, b, scores, sums, lse_rows.block(b.items, b.rows))
            o = out.block(b.items, b.rows)
            plan.product(o, scores, v.block(b.items, (0, b.columns)))
            _divide(plan, o, sums)
    except LookupError:
        return None
    return plan.launch()


def _column(m: Meta) -> Meta:
    """A tensor of rows with a last dim of size 1."""
    return meta(m.dtype, (*m.shape, 1), (*m.strides, 0), m.device)


def _weigh(plan: _Plan, b: _Block, scores: tuple[Place, Meta], sums: tuple[Place, Meta],
           lse: tuple[Place, Meta]) -> None:
    """exp(score - the row's largest) in place of the scores, with its sum and the logsumexp."""
    s = scores[1]
    n = Nest("attention_weights", s.shape, [s.ndim - 1], compute=plan.acc, merge=False)
    o, total_out = n.output(s, s.strides), n.output(sums[1], (*sums[1].strides[:-1], 0))
    lse_out = n.output(lse[1], (*lse[1].strides[:-1], 0))
    a = n.input(s)
    mask, places = _mask(plan, n, b)
    n.start()
    value = _scores(plan, n, a, mask, b)
    top = n.reduce("max", value)
    top = E.select(E.eq(top, -math.inf), 0.0, top)
    weight = n.typed(E.exp(value - top))
    # one pass, which reads a score before it writes the weight there
    n.stage(Reduce("total", "sum", weight), Store(o.slot, o.offset, weight))
    total = E.ref("total", weight.dtype)
    n.store(total_out, total, inner=False)
    n.store(lse_out, top + E.log(total), inner=False)
    plan.kernel(n, (scores[0], sums[0], lse[0], scores[0], *places))


def _divide(plan: _Plan, out: tuple[Place, Meta], sums: tuple[Place, Meta]) -> None:
    """Divide rows by their sums; a row with nothing allowed is 0."""
    m = out[1]
    n = Nest("attention_rows", m.shape, [m.ndim - 1], compute=plan.acc)
    o, x, s = n.output(m, m.strides), n.input(m), n.input(sums[1])
    n.start()
    n.store(o, E.select(E.eq(s(), 0.0), 0.0, x() / s()))
    plan.kernel(n, (out[0], out[0], sums[0]))


def backward(call: OpCall) -> Launch | None:
    """`fused_attention_backward`."""
    if not _pays(call) or any(m.shape[:-2] != call.query.shape[:-2]
                              for m in (call.key, call.value)):
        return None
    plan = _Plan(call)
    blocks = plan.blocks()
    gq, gk, gv = plan.outputs
    g, q, k, v, o, lse = (plan.inputs[name] for name in (
        "grad", "query", "key", "value", "output", "logsumexp"))
    per_row = max(math.prod(plan._batch(b.items)) for b in blocks) * plan.acc.itemsize \
        * plan.block_rows
    weights_slot, grads_slot = (plan.scratch(per_row * plan.columns) for _ in range(2))
    inner_slot = plan.scratch(per_row)
    turned_slots = [plan.scratch(plan.bytes_of(x.meta, blocks)) for x in (k, v)]
    lse_rows = _Operand(lse.slot, _column(lse.meta))
    try:
        for b in blocks:
            rows, columns = b.rows[1] - b.rows[0], (0, b.columns)
            weights = plan.dense(weights_slot, b.items, rows, b.columns)
            grads = plan.dense(grads_slot, b.items, rows, b.columns)
            inner = plan.dense(inner_slot, b.items, rows, 1)
            g_rows, q_rows = g.block(b.items, b.rows), q.block(b.items, b.rows)
            later = b.rows[1] != plan.rows
            if not later:
                keys, values = (plan.turned(slot, x.block(b.items))
                                for slot, x in zip(turned_slots, (k, v)))
            plan.product(weights, q_rows, keys.first(b.columns))
            plan.product(grads, g_rows, values.first(b.columns))
            _inner(plan, inner, g_rows, o.block(b.items, b.rows))
            _weigh_again(plan, b, weights, grads, lse_rows.block(b.items, b.rows), inner)
            plan.product(gv.block(b.items, columns), weights, g_rows, ta=True, add=later)
            plan.product(gq.block(b.items, b.rows), grads, k.block(b.items, columns))
            plan.product(gk.block(b.items, columns), grads, q_rows, ta=True, add=later)
    except LookupError:
        return None
    return plan.launch()


def _inner(plan: _Plan, out: tuple[Place, Meta], g: tuple[Place, Meta],
           o: tuple[Place, Meta]) -> None:
    """Sums of grad * output over each row: what each row's weights sum to with their gradients."""
    m = g[1]
    n = Nest("attention_inner", m.shape, [m.ndim - 1], compute=plan.acc)
    to = n.output(out[1], (*out[1].strides[:-1], 0))
    x, y = n.input(m), n.input(o[1])
    n.start()
    n.store(to, n.reduce("sum", x() * y()), inner=False)
    plan.kernel(n, (out[0], g[0], o[0]))


def _weigh_again(plan: _Plan, b: _Block, weights: tuple[Place, Meta], grads: tuple[Place, Meta],
                 lse: tuple[Place, Meta], inner: tuple[Place, Meta]) -> None:
    """The weights in place of the scores, the gradients of the scores in place of the weights'."""
    s = weights[1]
    n = Nest("attention_gradients", s.shape, [s.ndim - 1], compute=plan.acc, merge=False)
    p_out, g_out = n.output(s, s.strides), n.output(grads[1], s.strides)
    a, x = n.input(s), n.input(grads[1])
    log, both = n.input(lse[1]), n.input(inner[1])
    mask, places = _mask(plan, n, b)
    n.start()
    value = _scores(plan, n, a, mask, b)
    weight = E.select(E.eq(log(), -math.inf), 0.0, E.exp(value - log()))
    weight = n.typed(weight)
    grad = n.typed(weight * (x() - both()) * plan.call.scale)
    n.stage(Store(p_out.slot, p_out.offset, weight), Store(g_out.slot, g_out.offset, grad))
    plan.kernel(n, (weights[0], grads[0], weights[0], grads[0], lse[0], inner[0], *places))
