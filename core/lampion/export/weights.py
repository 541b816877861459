"""Tensors of a module under names with dots: `layer.0.weight` becomes the parameter `weight` of a
submodule `0` of a submodule `layer`, so that `state_dict` has these names. Floor 7; imports nn."""

from __future__ import annotations

from typing import Any

from ..nn import Module


def place(root: Module, name: str, tensor: Any, *, parameter: bool, persistent: bool = True,
          ) -> tuple[dict[str, Any], str]:
    """Put a tensor into a module; returns the table that holds it and its key there, by which it
    is found after it was moved or replaced."""
    *path, last = name.split(".")
    owner = root
    for part in path:
        inner = owner._modules.get(part)
        if inner is None:
            inner = owner._modules[part] = Module()
        owner = inner
    table: dict[str, Any] = owner._parameters if parameter else owner._buffers
    table[last] = tensor
    if not parameter and not persistent:
        owner._non_persistent_buffers_set.add(last)
    return table, last


__all__ = ["place"]
