"""References of the steps of recurrent networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit


def _lstm_step(gates_x: Any, gates_h: Any, cell: Any) -> Any:
    i, f, g, o = np.split(gates_x + gates_h, 4, -1)
    i, f, g, o = expit(i), expit(f), np.tanh(g), expit(o)
    new = f * cell + i * g
    return o * np.tanh(new), new, np.concatenate([i, f, g, o], -1)


def _gru_step(gates_x: Any, gates_h: Any, hidden: Any) -> Any:
    (rx, zx, nx), (rh, zh, nh) = np.split(gates_x, 3, -1), np.split(gates_h, 3, -1)
    r, z = expit(rx + rh), expit(zx + zh)
    n = np.tanh(nx + r * nh)
    return (1 - z) * n + z * hidden, np.concatenate([r, z, n], -1)


REFERENCE = {"lstm_step": _lstm_step, "gru_step": _gru_step}
