"""Handles of hooks, by which they are taken off again. Floor 7; imports optim's hooks."""

from __future__ import annotations

import warnings
from typing import Any

from ..optim._hooks import RemovableHandle

__all__ = ["RemovableHandle", "unserializable_hook", "warn_if_has_hooks"]


def unserializable_hook(f: Any) -> Any:
    """Mark a hook that is lost when its tensor is saved, so that saving does not warn."""
    f.__torch_unserializable__ = True
    return f


def warn_if_has_hooks(tensor: Any) -> None:
    """Warn of hooks of a tensor that are lost when it is saved."""
    for hook in (getattr(tensor, "_backward_hooks", None) or {}).values():
        if not hasattr(hook, "__torch_unserializable__"):
            warnings.warn(f"backward hook {hook!r} on tensor will not be serialized. If this is "
                          "expected, decorate it with utils.hooks.unserializable_hook",
                          stacklevel=2)
