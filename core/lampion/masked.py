"""`lampion.masked`: reductions and normalisations with a mask, under PyTorch's names.

Floor 7; imports library. `lampion.masked.sum` is the op `masked_sum`, looked up at first use.
"""

from __future__ import annotations

from typing import Any

from . import library


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        found = globals()[name] = library.lookup(__name__, f"masked_{name}")
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *(n.removeprefix("masked_") for n in library.public("masked"))})
