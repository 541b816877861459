"""`lampion.cuda.nvtx`: named ranges in profiles of NVIDIA's tools.

Uses the package nvtx (`pip install nvtx`) if it is there; without it the calls keep their depth and
mark nothing. Imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["range", "range_push", "range_pop", "mark"]


class _Depth(threading.local):
    value = 0


_depth = _Depth()


def _library() -> Any:
    try:
        import nvtx
    except ImportError:
        return None
    return nvtx


def range_push(msg: str) -> int:
    """Open a range; returns its depth, counted from 0."""
    library = _library()
    if library is not None:
        library.push_range(msg)
    _depth.value += 1
    return _depth.value - 1


def range_pop() -> int:
    """Close the innermost range; returns its depth, or a negative number if none was open."""
    if not _depth.value:
        return -1
    library = _library()
    if library is not None:
        library.pop_range()
    _depth.value -= 1
    return _depth.value


def mark(msg: str) -> None:
    """Mark a moment."""
    library = _library()
    if library is not None:
        library.mark(msg)


@contextlib.contextmanager
def range(msg: str, *args: Any, **kwargs: Any) -> Iterator[None]:
    """Context manager and decorator: a range named `msg.format(*args, **kwargs)`."""
    range_push(msg.format(*args, **kwargs))
    try:
        yield
    finally:
        range_pop()
