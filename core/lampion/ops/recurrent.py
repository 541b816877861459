"""The arithmetic of recurrent cells: one kernel a step and direction, one for its gradient.

Floor 3. Operands ending in x are a gate's part from the input, those ending in h its part from the
hidden state. `nn` imports this module.
"""

from __future__ import annotations

from ..ir import expr as E
from .activation import logistic
from .registry import elementwise

CELL = {"where": (), "method": False, "kinds": "f"}


@elementwise(**CELL)
def lstm_cell_state(ix, ih, fx, fh, gx, gh, cell):
    """c' = f c + i g (Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000)."""
    return logistic(fx + fh) * cell + logistic(ix + ih) * E.tanh(gx + gh)


@elementwise(**CELL)
def lstm_hidden_state(ox, oh, cell):
    """h' = o tanh(c')."""
    return logistic(ox + oh) * E.tanh(cell)


@elementwise(**CELL)
def gru_hidden_state(rx, rh, zx, zh, nx, nh, hidden):
    """h' = (1 - z) n + z h with n = tanh(nx + r nh) (Cho et al. 2014)."""
    n = E.tanh(nx + logistic(rx + rh) * nh)
    return n + logistic(zx + zh) * (hidden - n)


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
