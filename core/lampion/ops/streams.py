"""How many random numbers the draws take from their stream.

Floor 3; imports base. Apart from the ops themselves (`random.py`), so that the functions which
advance generators need not load these.
"""

from __future__ import annotations

from ..base import dtype as dt

TRIES = 24  # of a rejection that accepts three of four: all fail once in 10**14
GAMMA_TRIES, GAMMA_COUNTERS = 12, 2  # of a rejection that accepts 95 of 100; counters of each

_DOUBLES = {"draw_uniform", "draw_between", "draw_normal", "draw_log_normal", "draw_exponential",
            "draw_cauchy", "draw_bernoulli_each"}


def per_group(op_name: str, d: dt.dtype, wide: bool = False) -> int:
    """How many values of an op one group gives."""
    return 2 if wide or op_name == "draw_order" or (d is dt.float64 and op_name in _DOUBLES) else 4
