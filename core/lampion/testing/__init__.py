"""Helpers for tests of programs: `assert_close` and `make_tensor`. Floor 7.

What an op is tested for from its samples is in `lampion.testing.op_checks`.
"""

from ._closeness import assert_close
from ._making import make_tensor

__all__ = ["assert_close", "make_tensor"]
