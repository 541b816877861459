"""The arithmetic of recurrent cells: one kernel a step and direction, one for its gradient.

Floor 3. Operands ending in x are the gates' parts from the input, those ending in h their parts
from the hidden state. A step with several gates takes them as the product left them, side by side,
and its gradient has them side by side for the next product. `nn` imports this module.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..ir import expr as E
from ..ir.kernel import Store
from ..runtime.lowering import Nest
from . import batch_rules
from .activation import logistic
from .registry import REGISTRY, elementwise, kernel_op

CELL = {"where": (), "method": False, "kinds": "f"}


def _fit(op, count, state, **gates):
    """RuntimeError unless each of `gates` has a row of `count` gates for every row of states."""
    for name, m in gates.items():
        shape = (*state.shape[:-1], count * state.shape[-1]) if state.ndim else ()
        if not state.ndim or m.shape != shape or m.dtype is not state.dtype:
            raise RuntimeError(
                f"{op}: {name} ({m.dtype!r}{list(m.shape)}) must hold {count} gates for each of "
                f"the states ({state.dtype!r}{list(state.shape)}), in their dtype")


class _Rows:
    """A kernel over the states of a call. `of(operand, k)` reads gate k of an operand that has
    rows of gates, `store` writes values to outputs or, as (output, k), to gates of outputs."""

    def __init__(self, call, state):
        self.nest = Nest(call.op, state.shape, compute=dt.opmath(state.dtype))
        metas = (*call.outputs, *call.inputs)
        made = [self.nest.output(m, m.strides) for m in call.outputs]
        made += [self.nest.input(m, m.strides) for m in call.inputs]
        self.steps = {o: state.shape[-1] * m.strides[-1] for o, m in zip(made, metas)}
        self.nest.start()
        self.outs, self.ins = made[:len(call.outputs)], made[len(call.outputs):]

    def _index(self, operand, k):
        return operand.offset + self.nest.of(k * self.steps[operand]) if k else operand.offset

    def of(self, operand, k):
        return operand.at(self._index(operand, k))

    def store(self, *pairs):
        body = []
        for target, value in pairs:
            out, k = target if type(target) is tuple else (target, 0)
            body.append(Store(out.slot, self.nest._index(self._index(out, k)),
                              self.nest._into(out, value)))
        self.nest.stage(*body)
        return self.nest.program()


@kernel_op("gates_x: T, gates_h: T, cell: T")
class lstm_step:
    """(h', c', gates) of gates (..., 4 H) in two parts and a cell (..., H): c' = f c + i g and
    h' = o tanh(c') (Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000). The gates
    i, f, g, o are given out for the gradient."""

    where = ()
    noutputs = 3
    absent_grads = True
    save = ("cell", "out1", "out2")
    batch = batch_rules.unless_ranks_differ
    samples = """
        f(2, 12), f(2, 12), f(2, 3)
        f(2, 12).strided, f(2, 12).transposed, f(2, 3).transposed
        f(2, 5, 4), f(2, 5, 4), f(2, 5, 1)
        f(0, 8), f(0, 8), f(0, 2)
    """

    def meta(gates_x, gates_h, cell):
        _fit("lstm_step", 4, cell, gates_x=gates_x, gates_h=gates_h)
        return [(cell.dtype, cell.shape), (cell.dtype, cell.shape), (cell.dtype, gates_x.shape)]

    def lower(call):
        r = _Rows(call, call.cell)
        (h, c, gates), (x, y, cell) = r.outs, r.ins
        i, f, g, o = [(E.tanh if k == 2 else logistic)(r.of(x, k) + r.of(y, k)) for k in range(4)]
        new = f * cell() + i * g
        return r.store((h, o * E.tanh(new)), (c, new),
                       *[((gates, k), value) for k, value in enumerate((i, f, g, o))])

    def compose(gates_x, gates_h, cell):
        i, f, g, o = (gates_x + gates_h).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        new = f * cell + i * g
        return o * new.tanh(), new, REGISTRY["cat"].fn([i, f, g, o], -1)

    def vjp(ctx, gh, gc, ggates):
        new, gates = ctx.out1, ctx.out2
        grad = gcell = None
        if gh is not None or gc is not None:
            gh = new.new_zeros(new.meta.shape) if gh is None else gh
            gc = new.new_zeros(new.meta.shape) if gc is None else gc
            grad, gcell = lstm_step_backward.fn(gh, gc, ctx.cell, new, gates)
        if ggates is not None:  # of a second derivative
            i, f, g, o = gates.chunk(4, -1)
            slope = REGISTRY["cat"].fn([i - i * i, f - f * f, 1 - g * g, o - o * o], -1)
            grad = ggates * slope if grad is None else grad + ggates * slope
        return grad, grad, gcell


@kernel_op("grad_hidden: T, grad_cell: T, cell: T, after: T, gates: T")
class lstm_step_backward:
    """The gradients of lstm_step for either part of its gates, and for its cell."""

    where = ()
    noutputs = 2
    batch = batch_rules.unless_ranks_differ

    def meta(grad_hidden, grad_cell, cell, after, gates):
        return [(gates.dtype, gates.shape), (cell.dtype, cell.shape)]

    def lower(call):
        r = _Rows(call, call.cell)
        (grad, gcell), (gh, gc, cell, after, gates) = r.outs, r.ins
        i, f, g, o = [r.of(gates, k) for k in range(4)]
        t = E.tanh(after())
        through = gc() + gh() * o * (1.0 - t * t)
        parts = (through * g * i * (1.0 - i), through * cell() * f * (1.0 - f),
                 through * i * (1.0 - g * g), gh() * t * o * (1.0 - o))
        return r.store(*[((grad, k), value) for k, value in enumerate(parts)],
                       (gcell, through * f))

    def compose(grad_hidden, grad_cell, cell, after, gates):
        i, f, g, o = gates.chunk(4, -1)
        t = after.tanh()
        through = grad_cell + grad_hidden * o * (1 - t * t)
        parts = [through * g * i * (1 - i), through * cell * f * (1 - f),
                 through * i * (1 - g * g), grad_hidden * t * o * (1 - o)]
        return REGISTRY["cat"].fn(parts, -1), through * f


@kernel_op("gates_x: T, gates_h: T, hidden: T")
class gru_step:
    """(h', gates) of gates (..., 3 H) in two parts and a state (..., H): h' = (1 - z) n + z h with
    n = tanh(nx + r nh) (Cho et al. 2014). The gates r, z, n are given out for the gradient."""

    where = ()
    noutputs = 2
    absent_grads = True
    save = ("gates_h", "hidden", "out1")
    batch = batch_rules.unless_ranks_differ
    samples = """
        f(2, 9), f(2, 9), f(2, 3)
        f(2, 9).strided, f(2, 9).transposed, f(2, 3).transposed
        f(2, 5, 3), f(2, 5, 3), f(2, 5, 1)
        f(0, 6), f(0, 6), f(0, 2)
    """

    def meta(gates_x, gates_h, hidden):
        _fit("gru_step", 3, hidden, gates_x=gates_x, gates_h=gates_h)
        return [(hidden.dtype, hidden.shape), (hidden.dtype, gates_x.shape)]

    def lower(call):
        r = _Rows(call, call.hidden)
        (new, gates), (x, y, hidden) = r.outs, r.ins
        reset, z = [logistic(r.of(x, k) + r.of(y, k)) for k in range(2)]
        n = E.tanh(r.of(x, 2) + reset * r.of(y, 2))
        return r.store((new, n + z * (hidden() - n)), ((gates, 0), reset), ((gates, 1), z),
                       ((gates, 2), n))

    def compose(gates_x, gates_h, hidden):
        (rx, zx, nx), (rh, zh, nh) = gates_x.chunk(3, -1), gates_h.chunk(3, -1)
        reset, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
        n = (nx + reset * nh).tanh()
        return n + z * (hidden - n), REGISTRY["cat"].fn([reset, z, n], -1)

    def vjp(ctx, g, ggates):
        part, hidden, gates = ctx.gates_h, ctx.hidden, ctx.out1
        gx = gh = ghidden = None
        if g is not None:
            gx, gh, ghidden = gru_step_backward.fn(g, part, hidden, gates)
        if ggates is not None:  # of a second derivative
            size = hidden.meta.shape[-1]
            (reset, z, n), (gr, gz, gn) = gates.chunk(3, -1), ggates.chunk(3, -1)
            gn = gn * (1 - n * n)
            gr = (gr + gn * part.narrow(-1, 2 * size, size)) * (reset - reset * reset)
            gz = gz * (z - z * z)
            cat = REGISTRY["cat"].fn
            more_x, more_h = cat([gr, gz, gn], -1), cat([gr, gz, gn * reset], -1)
            gx = more_x if gx is None else gx + more_x
            gh = more_h if gh is None else gh + more_h
        return gx, gh, ghidden


@kernel_op("grad: T, gates_h: T, hidden: T, gates: T")
class gru_step_backward:
    """The gradients of gru_step for both parts of its gates, and for its state."""

    where = ()
    noutputs = 3
    batch = batch_rules.unless_ranks_differ

    def meta(grad, gates_h, hidden, gates):
        return [(gates.dtype, gates.shape), (gates.dtype, gates.shape),
                (hidden.dtype, hidden.shape)]

    def lower(call):
        r = _Rows(call, call.hidden)
        (gx, gh, ghidden), (grad, part, hidden, gates) = r.outs, r.ins
        reset, z, n = [r.of(gates, k) for k in range(3)]
        gn = grad() * (1.0 - z) * (1.0 - n * n)
        gr = gn * r.of(part, 2) * reset * (1.0 - reset)
        gz = grad() * (hidden() - n) * z * (1.0 - z)
        return r.store(((gx, 0), gr), ((gx, 1), gz), ((gx, 2), gn),
                       ((gh, 0), gr), ((gh, 1), gz), ((gh, 2), gn * reset), (ghidden, grad() * z))

    def compose(grad, gates_h, hidden, gates):
        size = hidden.meta.shape[-1]
        reset, z, n = gates.chunk(3, -1)
        gn = grad * (1 - z) * (1 - n * n)
        gr = gn * gates_h.narrow(-1, 2 * size, size) * reset * (1 - reset)
        gz = grad * (hidden - n) * z * (1 - z)
        cat = REGISTRY["cat"].fn
        return cat([gr, gz, gn], -1), cat([gr, gz, gn * reset], -1), grad * z


@elementwise(**CELL)
def tanh_hidden_state(x, h):
    """h' = tanh(x + h) (Elman 1990)."""
    return E.tanh(x + h)


@elementwise(**CELL)
def relu_hidden_state(x, h):
    """h' = max(0, x + h)."""
    return E.maximum(x + h, 0.0)


@relu_hidden_state.grad
def _relu_hidden_state(g, out, x, h):
    through = E.select(out <= 0.0, 0.0, g)
    return through, through
