"""functional_call: a module's forward with other parameters and buffers.

May import: nn.modules.module.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lampion.nn.modules.module import Module
from lampion.tensor import Tensor


def functional_call(module: Module, parameters_and_buffers: Any, args: Any = None,
                    kwargs: dict[str, Any] | None = None, *, tie_weights: bool = True,
                    strict: bool = False) -> Any:
    """`module(*args, **kwargs)` with the named tensors in place of its own.

    parameters_and_buffers: a dictionary by dotted name, or a tuple of them with distinct keys.
    Names that mean one tensor in the module (tied weights) all get the given one. With `strict`
    the names must be exactly the module's. The module is as before afterwards, also after an
    error.

    >>> layer = nn.Linear(2, 1)
    >>> given = {"weight": lampion.ones(1, 2), "bias": lampion.zeros(1)}
    >>> nn.utils.stateless.functional_call(layer, given, lampion.ones(1, 2)).tolist()
    [[2.0]]
    """
    given = _joined(parameters_and_buffers)
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    with _swapped(module, given, tie_weights, strict):
        return module(*arguments, **(kwargs or {}))


def _joined(given: Any) -> dict[str, Tensor]:
    if isinstance(given, dict):
        return given
    if not isinstance(given, (list, tuple)) or not all(isinstance(d, dict) for d in given):
        raise ValueError("Expected all elements of parameter_and_buffer_dicts to be dictionaries")
    names = [name for d in given for name in d]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{sorted(repeated)} appeared in multiple dictionaries; behavior of "
                         "functional call is ambiguous")
    return {name: tensor for d in given for name, tensor in d.items()}


def _places(module: Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Dotted name -> (the table that holds the tensor, its name there)."""
    found = {}
    for path, sub in module.named_modules(remove_duplicate=False):
        for table in (sub._parameters, sub._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    found[f"{path}.{name}" if path else name] = (table, name)
    return found


def _with_ties(given: dict[str, Tensor],
               places: dict[str, tuple[dict[str, Any], str]]) -> dict[str, Tensor]:
    """`given` completed by the other names of the same tensors."""
    groups: dict[int, list[str]] = {}
    for name, (table, key) in places.items():
        groups.setdefault(id(table[key]), []).append(name)
    full = dict(given)
    for names in groups.values():
        here = [name for name in names if name in given]
        if len({id(given[name]) for name in here}) > 1:
            raise ValueError(f"functional_call got multiple values for keys {sorted(here)}, which "
                             "are tied. Consider using tie_weights=False")
        for name in names if here else ():
            full[name] = given[here[0]]
    return full


@contextlib.contextmanager
def _swapped(module: Module, given: dict[str, Tensor], tie_weights: bool,
             strict: bool) -> Iterator[None]:
    places = _places(module)
    full = _with_ties(given, places) if tie_weights else given
    unexpected = [name for name in full if name not in places]
    missing = [name for name in places if name not in full] if strict else []
    if strict and (unexpected or missing):
        problems = [f"{what} key(s): {', '.join(map(repr, names))}."
                    for what, names in (("Unexpected", unexpected), ("Missing", missing)) if names]
        raise RuntimeError(f"Error(s) in reparametrizing for {module._get_name()}:\n\t"
                           + "\n\t".join(problems))
    swaps = []
    for name in full:
        if name in places:
            swaps.append((*places[name], full[name]))
        else:
            raise AttributeError(f"{module._get_name()} has no parameter or buffer `{name}`")
    before = [(table, key, table[key]) for table, key, _ in swaps]
    try:
        for table, key, tensor in swaps:
            table[key] = tensor
        yield
    finally:
        for table, key, tensor in before:
            table[key] = tensor
