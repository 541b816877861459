"""Arguments of calls by the signature of what is called.

Floor 7; imports the standard library. Signatures are those of Python functions; a function has
one, where PyTorch's may have several.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["ArgsKwargsPair", "check_for_mutable_operation", "get_signature_for_torch_op",
           "create_type_hint", "type_matches", "normalize_function", "normalize_module"]


class ArgsKwargsPair(NamedTuple):
    """Positional and keyword arguments."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def check_for_mutable_operation(target: Callable[..., Any], args: tuple[Any, ...],
                                kwargs: dict[str, Any]) -> None:
    """RuntimeError for a function that writes to its arguments."""
    name = getattr(target, "__name__", "")
    if (name.endswith("_") and not name.endswith("__")) or kwargs.get("out") is not None \
            or (kwargs.get("inplace") is True):
        raise RuntimeError(f"Tried to trace mutable operation {name}. FX only supports functional "
                           "code, so operations that mutate operands in-place (e.g. via `out` "
                           "arguments) are not supported")


def get_signature_for_torch_op(op: Callable[..., Any], return_schemas: bool = False) -> Any:
    """The signatures of a function, a list of one; None if it has none."""
    try:
        found = [inspect.signature(op)]
    except (TypeError, ValueError):
        return (None, None) if return_schemas else None
    return (found, None) if return_schemas else found


def create_type_hint(x: Any) -> Any:
    """A type for the values of a list or tuple of types.

    >>> create_type_hint([int, int])
    list[int]
    """
    if not isinstance(x, list | tuple):
        return x
    base = list if isinstance(x, list) else tuple
    if not x:
        return base[Any] if base is list else tuple[Any, ...]
    first = x[0]
    same = all(isinstance(t, type) and isinstance(first, type) and (
        issubclass(t, first) or issubclass(first, t)) for t in x)
    inside = first if same else Any
    return list[inside] if base is list else tuple[inside, ...]  # type: ignore[valid-type]


def type_matches(signature_type: Any, argument_type: Any) -> bool:
    """Whether an argument of one type may be given where another is asked for."""
    if signature_type is argument_type or signature_type in (Any, inspect.Parameter.empty):
        return True
    origin = typing.get_origin(signature_type)
    if origin is typing.Union or type(signature_type).__name__ == "UnionType":
        return any(type_matches(t, argument_type) for t in typing.get_args(signature_type))
    if origin in (list, tuple):
        inside = [t for t in typing.get_args(signature_type) if t is not ...]
        if typing.get_origin(argument_type) in (list, tuple):
            return all(any(type_matches(t, a) for t in inside)
                       for a in typing.get_args(argument_type) if a is not ...)
        return argument_type in inside
    if signature_type is float and argument_type is int:
        return True
    return isinstance(signature_type, type) and isinstance(argument_type, type) and issubclass(
        argument_type, signature_type)


def normalize_function(target: Callable[..., Any], args: tuple[Any, ...],
                       kwargs: dict[str, Any] | None = None, arg_types: Any = None,
                       kwarg_types: Any = None,
                       normalize_to_only_use_kwargs: bool = False) -> ArgsKwargsPair | None:
    """The arguments of a call in the order of the function's signature, defaults included; None if
    the function has no signature, or they do not fit it.

    >>> normalize_function(lampion.nn.functional.relu, (1,), {}, None, None, True)
    ArgsKwargsPair(args=(), kwargs={'input': 1, 'inplace': False})
    """
    found = get_signature_for_torch_op(target)
    if not found:
        return None
    return _normalized(found[0], args, kwargs or {}, normalize_to_only_use_kwargs)


def normalize_module(root: Any, target: str, args: tuple[Any, ...],
                     kwargs: dict[str, Any] | None = None,
                     normalize_to_only_use_kwargs: bool = False) -> ArgsKwargsPair | None:
    """The arguments of a call of the submodule `target` in the order of its forward's signature."""
    try:
        module = root.get_submodule(target)
    except AttributeError as error:
        raise RuntimeError(f"Tried to normalize arguments of the module {target!r}, which {root} "
                           "does not have") from error
    return _normalized(inspect.signature(module.forward), args, kwargs or {},
                       normalize_to_only_use_kwargs)


def _normalized(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any],
                by_name: bool) -> ArgsKwargsPair | None:
    kinds = {p.kind for p in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    places, names = [], {}
    for k, (name, value) in enumerate(bound.arguments.items()):
        if by_name or k >= len(args) or name in kwargs:
            names[name] = value
        else:
            places.append(value)
    return ArgsKwargsPair(tuple(places), names)
