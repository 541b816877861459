"""Names for stretches of a program. Floor 7; imports the standard library.

Nothing is recorded by them: `lampion.profiler` has the labels that libraries set, no profiler.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["record_function"]


class record_function:
    """A named stretch of the program, as a `with` block or a decorator.

    >>> with lampion.profiler.record_function("forward"):
    ...     lampion.ones(2).sum()
    tensor(2.)
    """

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self.args = name, args

    def __enter__(self) -> record_function:
        return self

    def __exit__(self, *error: Any) -> None:
        """Nothing was begun."""

    def __call__(self, fn: Any) -> Any:
        @functools.wraps(fn)
        def named(*args: Any, **kwargs: Any) -> Any:
            with self:
                return fn(*args, **kwargs)

        return named
