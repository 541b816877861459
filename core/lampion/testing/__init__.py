"""Helpers for tests of programs: `assert_close` and `make_tensor`. Floor 7."""

from ._closeness import assert_close
from ._making import make_tensor

__all__ = ["assert_close", "make_tensor"]
