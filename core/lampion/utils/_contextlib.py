"""Context managers that are decorators, too. Floor 7; imports the standard library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["context_decorator"]


def context_decorator(ctx: Any, func: Callable[..., Any]) -> Callable[..., Any]:
    """`func`, each call of which runs inside `ctx`: a context manager, or a function that makes
    one. Generators run inside it while they run."""
    make = ctx if callable(ctx) and not hasattr(ctx, "__enter__") else lambda: ctx
    if inspect.isclass(func):
        raise RuntimeError(f"cannot decorate the class {func.__name__}; decorate its methods")
    if inspect.isgeneratorfunction(func):
        @functools.wraps(func)
        def generator(*args: Any, **kwargs: Any) -> Any:
            with make():
                steps = func(*args, **kwargs)
            given: Any = None
            try:
                while True:
                    with make():
                        made = steps.send(given)
                    given = yield made
            except StopIteration as end:
                return end.value
            finally:
                steps.close()

        return generator

    @functools.wraps(func)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        with make():
            return func(*args, **kwargs)

    return decorated


class _DecoratorContextManager:
    """Base of context managers that may decorate functions; each call enters a `clone()`."""

    def __call__(self, orig_func: Callable[..., Any]) -> Callable[..., Any]:
        return context_decorator(self.clone, orig_func)

    def __enter__(self) -> None:
        raise NotImplementedError

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        raise NotImplementedError

    def clone(self) -> Any:
        """Another one with the same arguments; override it if there are some."""
        return self.__class__()


class _NoParamDecoratorContextManager(_DecoratorContextManager):
    """One that may decorate without parentheses."""

    def __new__(cls, orig_func: Any = None) -> Any:
        made = super().__new__(cls)
        if orig_func is None:
            return made
        made.__init__()
        return made(orig_func)
