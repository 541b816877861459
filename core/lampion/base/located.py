"""Errors of ops say which layer of a model they happened in. Floor 0; imports nothing.

Nothing is noted while a model runs: when an op fails, the frames of the stack are looked at, and
whoever knows what a frame is part of (`lampion.nn` knows its modules) names the place.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# Set by lampion.nn: text about the place that a stack belongs to, "" for none.
place: list[Callable[[FrameType], str]] = []


def located(function: F) -> F:
    """`function`, whose errors name their place. Its caller may have missed in a cache: that is no
    cause of the error, and is taken out of what a traceback shows."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        missed = sys.exc_info()[1]
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if missed is not None:
                _without(error, missed, sys._getframe(1))
            tell(error)
            raise

    return call  # type: ignore[return-value]


def tell(error: BaseException) -> BaseException:
    """Add the place to an error's text, once; the error."""
    if not hasattr(error, "_located"):
        error._located = True  # type: ignore[attr-defined]
        if place and error.args and isinstance(error.args[0], str):
            where = place[0](sys._getframe(1))
            if where:
                error.args = (f"{error.args[0]}\n{where}", *error.args[1:])
    return error


def _without(error: BaseException, missed: BaseException, caller: FrameType) -> None:
    """Unlink a cache miss of `caller` from the exceptions that led to `error`."""
    trace = missed.__traceback__
    if trace is None or trace.tb_frame is not caller:
        return  # the program calls the op while it handles an exception of its own
    last: BaseException | None = error
    while last is not None and last.__context__ is not missed:
        last = last.__context__
    if last is not None:
        last.__context__ = missed.__context__


HERE = located.__code__.co_filename
