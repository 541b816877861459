"""Decorators of programs written for a script compiler: functions and modules run as Python.

`script` and `trace` give back what they are given and say so once; what only a compiler can do
(saving its code, loading it) raises. Floor 7; imports nn.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

from . import futures
from .logging import get_logger
from .nn import Module

T = TypeVar("T")
_said: list[bool] = []


def _say() -> None:
    if not _said:
        _said.append(True)
        get_logger("jit").warning("jit.script and jit.trace run Python: nothing is compiled")


def script(obj: T, optimize: Any = None, _frames_up: int = 0, _rcb: Any = None,
           example_inputs: Any = None) -> T:
    """The function, class or module itself.

    >>> lampion.jit.script(lambda x: x * 2)(lampion.ones(1))
    tensor([2.])
    """
    _say()
    return obj


def trace(func: Any, example_inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The function or module itself, after one run on the example inputs."""
    _say()
    if example_inputs is not None:
        func(*example_inputs) if isinstance(example_inputs, tuple) else func(example_inputs)
    return func


def trace_module(mod: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The module itself, after one run of each method on its inputs."""
    _say()
    for name, given in inputs.items():
        getattr(mod, name)(*given) if isinstance(given, tuple) else getattr(mod, name)(given)
    return mod


def script_if_tracing(fn: T) -> T:
    """The function itself."""
    return fn


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """The function itself, or a decorator."""
    return drop if callable(drop) else lambda fn: fn


def unused(fn: T) -> T:
    """The function itself."""
    return fn


export = script_method = interface = rpc_async = unused


def is_scripting() -> bool:
    """False: this is Python."""
    return False


def is_tracing() -> bool:
    """False: nothing is traced."""
    return False


def annotate(the_type: Any, the_value: T) -> T:
    """The value."""
    return the_value


def isinstance_(obj: Any, target_type: Any) -> bool:
    """Whether an object is of a type, those of `typing` looked into: `list[int]` is a list of
    numbers, an empty list is one of anything. A tuple of types is any of them.

    >>> lampion.jit.isinstance_([1, 2], list[int]), lampion.jit.isinstance_(None, int | None)
    (True, True)
    """
    if isinstance(target_type, tuple):
        return any(isinstance_(obj, t) for t in target_type)
    kind, inner = get_origin(target_type), get_args(target_type)
    if kind is None:
        return target_type is Any or isinstance(obj, target_type or type(None))
    if kind is Union or kind is UnionType:
        return any(isinstance_(obj, t) for t in inner)
    if not isinstance(obj, kind):
        return False
    if kind is tuple and inner[-1:] != (...,):
        return len(obj) == len(inner) and all(map(isinstance_, obj, inner))
    if issubclass(kind, dict):
        return all(isinstance_(k, inner[0]) and isinstance_(v, inner[1]) for k, v in obj.items())
    return not inner or all(isinstance_(x, inner[0]) for x in obj)


def freeze(mod: Any, preserved_attrs: Any = None, optimize_numerics: bool = True) -> Any:
    """The module in evaluation mode."""
    return mod.eval() if hasattr(mod, "eval") else mod


def optimize_for_inference(mod: Any, other_methods: Any = None) -> Any:
    """The module in evaluation mode."""
    return freeze(mod)


def fork(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The call, done at once; `wait` gives its result."""
    return _Done(func(*args, **kwargs))


class _Done:
    """A result that is there."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def wait(self) -> Any:
        """The result."""
        return self._value


def wait(future: Any) -> Any:
    """The result of `fork`."""
    return future.wait()


def _no_code(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("there is no script compiler, so its files can be neither written "
                              "nor read; save a state_dict with save(), load it with load()")


save = load = _no_code


class TracerWarning(Warning):
    """What a tracer would warn of; filters of warnings name it."""


class ScriptModule(Module):
    """A module; it runs as Python."""


class ScriptFunction:
    """No function is one."""


class CompilationUnit:
    """Functions as script text: there is no script compiler, so making one is an error."""

    def __init__(self, lang: Any = None, _frames_up: int = 0) -> None:
        raise NotImplementedError("there is no script compiler; define the functions in Python")


class Error(RuntimeError):
    """An exception of a script: none is raised, as scripts run as Python."""


class strict_fusion:
    """A block in which a script compiler fuses all ops; Python's calls are left alone."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


_strategy: list[list[tuple[str, int]]] = [[("STATIC", 2), ("DYNAMIC", 10)]]


def set_fusion_strategy(strategy: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """How a script compiler would specialise: it is remembered; what it was before."""
    before, _strategy[0] = _strategy[0], strategy
    return before


def export_opnames(m: Any) -> list[str]:
    """The ops of a script: none."""
    return []


Attribute = annotate
RecursiveScriptModule = ScriptModule
Future = futures.Future
__all__ = ["Attribute", "CompilationUnit", "Error", "Final", "Future", "RecursiveScriptModule",
           "ScriptFunction", "ScriptModule", "TracerWarning", "annotate", "export",
           "export_opnames", "fork", "freeze", "ignore", "interface", "is_scripting",
           "is_tracing", "load", "optimize_for_inference",
           "save", "script", "script_if_tracing", "script_method", "set_fusion_strategy",
           "strict_fusion", "trace", "trace_module", "unused", "wait"]
