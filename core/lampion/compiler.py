"""`compile` and the questions that programs ask a compiler. Functions run as they are so far.

There is no graph compiler yet: `compile` gives back what it is given and says so once. Floor 7.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from .logging import get_logger

_said: list[bool] = []


def compile(model: Any = None, *, fullgraph: bool = False, dynamic: bool | None = None,
            backend: Any = "", mode: str | None = None, options: Any = None,
            disable: bool = False) -> Any:
    """The function or module itself, which goes on running op by op; or a decorator.

    All options are accepted. The first call says in one line that nothing is compiled.

    >>> lampion.compile(lambda x: x + 1)(lampion.ones(2))
    tensor([2., 2.])
    """
    if mode is not None and options is not None:
        raise RuntimeError("Either mode or options can be specified, but both can't be specified "
                           "at the same time.")
    if model is None:
        return lambda m: compile(m, fullgraph=fullgraph, dynamic=dynamic, backend=backend,
                                 mode=mode, options=options, disable=disable)
    if not callable(model):
        raise RuntimeError(f"compile expects a function or a module, not {type(model).__name__}")
    if not _said and not disable:
        _said.append(True)
        get_logger("compile").warning("compile() runs eagerly: there is no graph compiler yet")
    return model


def is_compiling() -> bool:
    """False: code runs, it is not traced by a compiler."""
    return False


is_dynamo_compiling = is_exporting = is_compiling


def _same(fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
    """A function as it is; used with arguments, a decorator."""
    if fn is None or not callable(fn):
        return lambda f: f
    return fn


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """The function as it is: nothing compiles it."""
    return _same(fn)


def allow_in_graph(fn: Any) -> Any:
    """The function as it is."""
    return fn


def assume_constant_result(fn: Any) -> Any:
    """The function as it is."""
    return fn


def substitute_in_graph(original_fn: Any, **options: Any) -> Any:
    """A decorator that gives its function back."""
    return lambda fn: fn


def wrap_numpy(fn: Any) -> Any:
    """The function as it is."""
    return fn


def reset() -> None:
    """Nothing is kept."""


def list_backends(exclude_tags: Any = ("debug", "experimental")) -> list[str]:
    """The names for `compile(backend=...)`: "eager" is what all of them are."""
    return ["eager"]


@contextmanager
def set_stance(stance: str = "default", **options: Any) -> Any:
    """A block in which nothing is compiled, as anywhere."""
    yield


def __getattr__(name: str) -> Any:
    if name.endswith("_mark_step_begin"):  # no recorded step is replayed
        return lambda: None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["allow_in_graph", "assume_constant_result", "compile",
           "disable", "is_compiling", "is_dynamo_compiling", "is_exporting", "list_backends",
           "reset", "set_stance", "substitute_in_graph", "wrap_numpy"]
