"""Classes and modes that take part in every op: the `__torch_function__` protocol.

Floor 6; imports tensor, callpath. An op given an instance of a class with `__torch_function__`
hands the call over as (public function, types, args, kwargs). Functions written in terms of other
ops are seen as these ops.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

from . import callpath
from .callpath import NS
from .ops import registry as R
from .tensor import Tensor, overrides_ops


def public_function(op: R.Op, inplace: bool = False) -> Callable[..., Any]:
    """What a handler sees as `func`: the function of the public namespace, or the in-place
    method."""
    return getattr(Tensor, op.name + "_") if inplace else op.fn


NS["public"] = public_function


class DisableTorchFunctionSubclass:
    """Context manager: ops of this thread do not call `__torch_function__`."""

    def __enter__(self) -> None:
        NS["no_override"].depth += 1

    def __exit__(self, *exc: Any) -> None:
        NS["no_override"].depth -= 1


DisableTorchFunction = DisableTorchFunctionSubclass


def default_torch_function(cls: type, func: Callable[..., Any], types: Iterable[type],
                           args: Any = (), kwargs: Any = None) -> Any:
    """What `super().__torch_function__` does: run the function, and give its tensors the class.

    NotImplemented if another class than `cls` and its bases takes part.
    """
    if not all(issubclass(cls, t) for t in types):
        return NotImplemented
    with DisableTorchFunctionSubclass():
        result = func(*args, **(kwargs or {}))
    return result if func in get_default_nowrap_functions() else _as_class(result, cls)


def _as_class(value: Any, cls: type) -> Any:
    """Tensors of a result as instances of `cls`."""
    if cls is Tensor:
        return value
    if isinstance(value, Tensor):
        return value if isinstance(value, cls) else value.as_subclass(cls)
    if isinstance(value, (tuple, list)):
        items = [_as_class(v, cls) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


@functools.lru_cache(None)
def get_default_nowrap_functions() -> frozenset[Any]:
    """Functions whose results stay plain tensors."""
    return frozenset({Tensor.grad.fget, Tensor._base.fget})  # type: ignore[attr-defined]


def _takes_part(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.meta.override is not None and not x.meta.virtual
    return hasattr(type(x), "__torch_function__")


def has_torch_function(relevant_args: Iterable[Any]) -> bool:
    """Whether an argument's class has its own `__torch_function__`, or a mode is active."""
    if _modes():
        return True
    return not NS["no_override"].depth and any(map(_takes_part, relevant_args))


def has_torch_function_unary(arg: Any) -> bool:
    """`has_torch_function` of one argument."""
    return has_torch_function((arg,))


def has_torch_function_variadic(*args: Any) -> bool:
    """`has_torch_function` of the arguments."""
    return has_torch_function(args)


def handle_torch_function(public_api: Callable[..., Any], relevant_args: Iterable[Any],
                          *args: Any, **kwargs: Any) -> Any:
    """Call the arguments' `__torch_function__`, subclasses first. TypeError if none answers."""
    found: list[Any] = []
    for a in relevant_args:
        if _takes_part(a) and not any(type(a) is type(f) for f in found):
            at = next((k for k, f in enumerate(found) if issubclass(type(a), type(f))),
                      len(found))
            found.insert(at, a)
    types = tuple(map(type, found))
    modes = _modes()
    if modes:
        with _below(modes) as mode:
            result = mode.__torch_function__(public_api, types, args, kwargs)
        if result is not NotImplemented:
            return result
    for a in found:
        result = type(a).__torch_function__(public_api, types, args, kwargs)
        if result is not NotImplemented:
            return result
    raise TypeError(f"no implementation found for '{resolve_name(public_api)}' on types that "
                    f"implement __torch_function__: {list(types)}")


def wrap_torch_function(dispatcher: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: gives a function the protocol; `dispatcher(*args)` returns the arguments to ask.
    """
    def deco(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            relevant = dispatcher(*args, **kwargs)
            if has_torch_function(relevant):
                return handle_torch_function(wrapped, relevant, *args, **kwargs)
            return func(*args, **kwargs)

        return wrapped

    return deco


# ---------------------------------------------------------------- modes

_local = threading.local()


def _modes() -> list[Any]:
    """This thread's active modes, innermost last."""
    found = getattr(_local, "modes", None)
    if found is None:
        found = _local.modes = []
    return found


class _below:
    """Inside, only the modes below the innermost are active."""

    def __init__(self, modes: list[Any]) -> None:
        self.modes = modes

    def __enter__(self) -> Any:
        self.top = self.modes.pop()
        return self.top

    def __exit__(self, *exc: Any) -> None:
        self.modes.append(self.top)


def _handle(op: R.Op, values: Any) -> Any:
    """The layer of all modes: gives a call to the innermost mode of this thread."""
    modes = _modes()
    if not modes:
        return NotImplemented
    args, kwargs = op.as_called(values)
    types = tuple(dict.fromkeys(type(v) for v in values if _takes_part(v)))
    with _below(modes) as mode:
        return mode.__torch_function__(NS["public"](op), types, args, kwargs)


class TorchFunctionMode:
    """Context manager whose `__torch_function__(func, types, args, kwargs)` sees every op of this
    thread. Inside the method the mode itself is off.

    >>> import lampion
    >>> class Log(lampion.overrides.TorchFunctionMode):
    ...     def __torch_function__(self, func, types, args=(), kwargs=None):
    ...         print(func.__name__)
    ...         return func(*args, **(kwargs or {}))
    >>> with Log():
    ...     y = lampion.ones(2).exp()
    exp
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        raise NotImplementedError("a mode defines __torch_function__")

    def __enter__(self) -> "TorchFunctionMode":
        _modes().append(self)
        callpath.layers.append(_handle)
        NS["modes"] += 1
        return self

    def __exit__(self, *exc: Any) -> None:
        _modes().remove(self)
        callpath.layers.remove(_handle)
        NS["modes"] -= 1


class BaseTorchFunctionMode(TorchFunctionMode):
    """A mode that changes nothing."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- facts

def is_tensor_like(inp: Any) -> bool:
    """Whether this is a Tensor or has `__torch_function__`."""
    return isinstance(inp, Tensor) or hasattr(inp, "__torch_function__")


def get_overridable_functions() -> dict[str, list[Any]]:
    """The functions that call `__torch_function__`, by namespace."""
    found: dict[str, list[Any]] = {}
    for op in R.REGISTRY.values():
        if op.kind != "composite":
            for place in op.where:
                found.setdefault(place, []).append(op.fn)
    return found


@functools.lru_cache(None)
def _overridable() -> frozenset[Any]:
    return frozenset(f for fns in get_overridable_functions().values() for f in fns)


def is_tensor_method_or_property(func: Callable[..., Any]) -> bool:
    """Whether this is a method of Tensor, or how one of its properties is read."""
    name = getattr(func, "__name__", "")
    return name == "__get__" or getattr(Tensor, name, None) is func


def get_ignored_functions() -> set[Any]:
    """Functions that make tensors of none, or ask about types: no argument can override them."""
    import lampion

    names = [
        "arange", "empty", "empty_strided", "eye", "from_numpy", "frombuffer", "full",
        "from_dlpack", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm",
        "tensor", "as_tensor", "zeros", "is_tensor", "is_storage", "manual_seed",
        "initial_seed", "seed", "save", "load", "set_default_dtype", "get_default_dtype",
        "set_num_threads", "get_num_threads", "promote_types", "result_type", "can_cast",
        "no_grad", "enable_grad", "set_grad_enabled", "is_grad_enabled", "compile"]
    return {f for f in (getattr(lampion, n, None) for n in names) if f is not None}


def get_testing_overrides() -> dict[Any, Callable[..., int]]:
    """For each function that can be overridden, one of the same signature that returns -1."""
    def dummy(fn: Callable[..., Any]) -> Callable[..., int]:
        def minus_one(*args: Any, **kwargs: Any) -> int:
            return -1

        return functools.wraps(fn)(minus_one)

    return {fn: dummy(fn) for fn in _overridable()}


def resolve_name(f: Callable[..., Any]) -> str:
    """A readable name of a function."""
    module = getattr(f, "__module__", None)
    name = getattr(f, "__qualname__", getattr(f, "__name__", repr(f)))
    return f"{module}.{name}" if module else name


__all__ = ["DisableTorchFunction", "DisableTorchFunctionSubclass", "default_torch_function",
           "get_default_nowrap_functions", "has_torch_function", "has_torch_function_unary",
           "has_torch_function_variadic", "handle_torch_function", "wrap_torch_function",
           "TorchFunctionMode", "BaseTorchFunctionMode", "is_tensor_like",
           "get_ignored_functions", "get_overridable_functions", "get_testing_overrides",
           "is_tensor_method_or_property", "resolve_name", "overrides_ops"]
