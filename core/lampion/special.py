"""`lampion.special`: special functions, with PyTorch's names.

Floor 7; imports library. Its functions are the ops declared for this namespace, looked up at first
use.
"""

from __future__ import annotations

from typing import Any

from . import library


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    found = globals()[name] = library.lookup(__name__, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *library.public("special")})
