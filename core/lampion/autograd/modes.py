"""Gradient modes as context managers and decorators. Floor 4; imports state.

All are per thread and re-entrant; as decorators they work on functions, generators, coroutines
and classes' methods.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .state import mode


class _Guard:
    """Context manager and decorator that sets grad mode inside."""

    def __call__(self, fn: Any) -> Any:
        if inspect.isclass(fn):
            return fn
        if inspect.isgeneratorfunction(fn):
            return _wrap_generator(fn, self.fresh)

        @functools.wraps(fn)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.fresh():
                return fn(*args, **kwargs)

        return wrapped

    def fresh(self) -> "_Guard":
        """Another guard with the same arguments."""
        return type(self)()

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *exc: Any) -> None:
        raise NotImplementedError


def _wrap_generator(fn: Callable[..., Any], fresh: Callable[[], _Guard]) -> Any:
    """Run every resumption of a generator inside the mode, and the caller outside of it."""
    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        gen = fn(*args, **kwargs)
        with fresh():
            try:
                value = next(gen)
            except StopIteration as stop:
                return stop.value
        while True:
            try:
                sent = yield value
            except GeneratorExit:
                with fresh():
                    gen.close()
                raise
            except BaseException as error:
                with fresh():
                    try:
                        value = gen.throw(error)
                    except StopIteration as stop:
                        return stop.value
            else:
                with fresh():
                    try:
                        value = gen.send(sent)
                    except StopIteration as stop:
                        return stop.value

    return wrapped


class no_grad(_Guard):
    """Operations inside are not recorded.

    >>> import lampion
    >>> x = lampion.ones(2, requires_grad=True)
    >>> with lampion.no_grad():
    ...     y = x + x
    >>> y.requires_grad
    False
    """

    def __new__(cls, fn: Any = None) -> Any:
        guard = object.__new__(cls)
        guard.stack = []
        return guard if fn is None else guard(fn)

    def __enter__(self) -> None:
        self.stack.append(mode.enabled)
        mode.enabled = False

    def __exit__(self, *exc: Any) -> None:
        mode.enabled = self.stack.pop()


class enable_grad(no_grad):
    """Operations inside are recorded, also within `no_grad`."""

    def __enter__(self) -> None:
        self.stack.append(mode.enabled)
        mode.enabled = True


class inference_mode(_Guard):
    """Like `no_grad`; kept for programs that use PyTorch's name. `inference_mode(False)` records.

    lampion's tensors do not differ by the mode they were made in, so those made inside may be
    used with autograd later.
    """

    def __new__(cls, mode: Any = True) -> Any:
        guard = object.__new__(cls)
        guard.on, guard.stack = True, []
        if callable(mode):
            return guard(mode)
        guard.on = bool(mode)
        return guard

    def fresh(self) -> "inference_mode":
        return type(self)(self.on)

    def __enter__(self) -> None:
        self.stack.append((mode.enabled, mode.inference))
        mode.enabled, mode.inference = not self.on, self.on

    def __exit__(self, *exc: Any) -> None:
        mode.enabled, mode.inference = self.stack.pop()


class set_grad_enabled(_Guard):
    """Set grad mode at once; as a context manager, restore it at the end."""

    def __init__(self, mode: bool) -> None:
        _set = globals()["mode"]
        self.on, self.previous = bool(mode), _set.enabled
        _set.enabled = self.on

    def __call__(self, fn: Any) -> Any:
        mode.enabled = self.previous  # a decorator acts only inside the function
        return super().__call__(fn)

    def fresh(self) -> "set_grad_enabled":
        return set_grad_enabled(self.on)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: Any) -> None:
        mode.enabled = self.previous


class set_multithreading_enabled(_Guard):
    """Ask for backward passes in several threads, or in one; they run in the caller's in any
    case."""

    def __init__(self, mode: bool) -> None:
        self.on = bool(mode)

    def fresh(self) -> "set_multithreading_enabled":
        return set_multithreading_enabled(self.on)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: Any) -> None:
        pass


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return mode.enabled


def is_inference_mode_enabled() -> bool:
    """Whether `inference_mode` is active in this thread."""
    return mode.inference
