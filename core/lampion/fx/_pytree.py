"""Taking nested arguments apart by a spec. Floor 7; imports nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["tree_flatten_spec", "register_pytree_flatten_spec"]

_by_type: dict[type, Any] = {}


def register_pytree_flatten_spec(cls: type, flatten_fn_spec: Any,
                                 flatten_fn_exact_match_spec: Any = None) -> None:
    """Say how instances of a class are taken apart: `flatten_fn_spec(value, spec) -> children`."""
    _by_type[cls] = flatten_fn_spec


def tree_flatten_spec(tree: Any, spec: Any, exact_structural_match: bool = False) -> list[Any]:
    """The leaves of `tree` in the order of `spec`; what spec says is a leaf is not looked into.

    ValueError if the tree is of another structure.
    """
    if spec.is_leaf():
        return [tree]
    own = _by_type.get(spec.type)
    if own is not None:
        children = own(tree, spec)
    elif isinstance(tree, dict):
        children = [tree[k] for k in spec.context]
    else:
        children = list(tree)
    parts = spec.children_specs
    if len(children) != len(parts):
        raise ValueError(f"arguments of {len(children)} parts do not match the spec, which has "
                         f"{len(parts)}: {spec}")
    return [leaf for child, part in zip(children, parts)
            for leaf in tree_flatten_spec(child, part, exact_structural_match)]
