"""`lampion.linalg`: linear algebra, with PyTorch's names.

Floor 7; imports library. Its functions are the ops declared for this namespace, looked up at first
use; an op called `linalg_NAME` is `NAME` here.
"""

from __future__ import annotations

from typing import Any

from . import library
from .base.errors import LinAlgError as LinAlgError


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if f"linalg_{name}" in library.public("linalg"):
        found = globals()[name] = library.lookup(__name__, f"linalg_{name}")
        return found
    return library.lookup(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(n.removeprefix("linalg_") for n in library.public("linalg"))})
