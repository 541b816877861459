"""`record_function`: names for stretches of a program. Floor 7; imports the standard library.

While nothing is recorded, a stretch costs one look at a list.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["record_function"]

# Who records: objects with `open(kind, name)` and `close(event)`. The recorder that is running.
recorders: list[Any] = []


class record_function:
    """A named stretch of the program, as a `with` block or a decorator.

    >>> with lampion.profiler.record_function("forward"):
    ...     lampion.ones(2).sum()
    tensor(2.)
    """

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self.args = name, args
        self._open: list[Any] = []

    def __enter__(self) -> record_function:
        if recorders:
            self._open.append([(r, r.open("user_annotation", self.name)) for r in recorders])
        elif self._open:
            self._open.append([])
        return self

    def __exit__(self, *error: Any) -> None:
        if self._open:
            for recorder, event in reversed(self._open.pop()):
                recorder.close(event)

    def __call__(self, fn: Any) -> Any:
        @functools.wraps(fn)
        def named(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name, self.args):
                return fn(*args, **kwargs)

        return named
