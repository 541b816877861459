"""Arguments of transforms: which are differentiated, and trees of dims.

Floor 7; imports utils._pytree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..tensor import Tensor


def name_of(func: Any) -> str:
    """The name of a callable in messages."""
    if hasattr(func, "__name__"):
        return str(func.__name__)
    if isinstance(func, functools.partial):
        return f"functools.partial({name_of(func.func)}, ...)"
    return repr(func)


def wraps(func: Any) -> Callable[[Any], Any]:
    """functools.wraps for any callable."""
    return functools.wraps(func, assigned=[a for a in functools.WRAPPER_ASSIGNMENTS
                                           if hasattr(func, a)], updated=())


def positions(argnums: Any, count: int) -> Any:
    """`argnums` as non-negative positions, an int or a tuple as given. RuntimeError for what names
    no argument or one twice."""
    if not isinstance(argnums, (int, tuple)):
        raise RuntimeError(f"argnums must be int or Tuple[int, ...], got: {type(argnums)}")
    many = argnums if isinstance(argnums, tuple) else (argnums,)
    if not many:
        raise RuntimeError("argnums must be non-empty")
    found = []
    for k in many:
        if not isinstance(k, int):
            raise RuntimeError(f"argnum must be int, got: {type(k)}")
        if not -count <= k < count:
            raise RuntimeError(f"Got argnum={k}, but only {count} positional inputs")
        found.append(k % count)
    if len(set(found)) != len(found):
        raise RuntimeError(f"argnums elements must be unique, got {argnums}")
    return tuple(found) if isinstance(argnums, tuple) else found[0]


def pick(args: tuple[Any, ...], at: Any) -> Any:
    """The arguments at `positions`."""
    return args[at] if isinstance(at, int) else tuple(args[k] for k in at)


def replaced(args: tuple[Any, ...], at: Any, new: Any) -> tuple[Any, ...]:
    """The arguments with those at `positions` exchanged."""
    out = list(args)
    for k, v in [(at, new)] if isinstance(at, int) else zip(at, new):
        out[k] = v
    return tuple(out)


def with_aux(result: Any, what: str) -> tuple[Any, Any]:
    """(output, aux) of a function that returns both."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise RuntimeError(f"{what}: output of function f should be a tuple: (output, aux) if "
                           "has_aux is True")
    return result


def only_tensors(leaves: list[Any], what: str, argument: str) -> None:
    """RuntimeError unless there is a tensor and nothing else."""
    if not leaves:
        raise RuntimeError(f"{what}: Expected {argument} to contain at least one Tensor.")
    for t in leaves:
        if not isinstance(t, Tensor):
            raise RuntimeError(f"{what}: Expected {argument} to only contain Tensors, got "
                               f"{type(t)}")


def outputs(leaves: list[Any], what: str) -> None:
    """RuntimeError unless a function returned tensors and nothing else."""
    if not leaves or (len(leaves) == 1 and leaves[0] is None):
        raise RuntimeError(f"{what}: Expected f to be a function that has non-empty output (got "
                           f"output = {leaves})")
    for t in leaves:
        if not isinstance(t, Tensor):
            raise RuntimeError(f"{what}: expected f(*primals) to return only tensors, got "
                               f"unsupported type {type(t)}")


def spread(prefix: Any, spec: Any) -> list[Any] | None:
    """The leaves of a tree `prefix` of a tree with this spec, each as often as the tree below it
    has leaves; None if it is no prefix."""
    from ..utils._pytree import tree_structure

    own = tree_structure(prefix)
    if not own.children_specs and own.type is None:
        return [prefix] * spec.num_leaves
    if spec.type is not own.type or len(own.children_specs) != len(spec.children_specs) \
            or own.context != spec.context:
        return None
    found: list[Any] = []
    for child, under in zip(own.node.flatten(prefix)[0], spec.children_specs):
        part = spread(child, under)
        if part is None:
            return None
        found += part
    return found
