"""Marks of how stable a name is. Floor 7; imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def compatibility(is_backward_compatible: bool) -> Callable[[F], F]:
    """Decorator: says whether a function or class keeps its signature; it changes nothing."""
    def mark(fn: F) -> F:
        return fn

    return mark
