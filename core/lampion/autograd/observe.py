"""Seeing every recorded call: what saved-tensor hooks and anomaly detection are made of.

Floor 4; imports node (and, when first used, callpath). While an observer is entered all calls of
the process take the general path, so this costs nothing to programs that use none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .node import Node, Select


class Observer:
    """Calls `seen(node)` for every node recorded while it is entered, by this thread or (with
    `everywhere`) by any."""

    def __init__(self, seen: Callable[[Node], None], everywhere: bool = False) -> None:
        self.seen, self.everywhere = seen, everywhere
        self.thread = 0

    def __enter__(self) -> "Observer":
        from ..callpath import NS, layers

        self.thread = threading.get_ident()
        self.handler = self.handle  # one bound method: it is found again by equality
        layers.append(self.handler)
        NS["modes"] += 1
        return self

    def __exit__(self, *exc: Any) -> None:
        from ..callpath import NS, layers

        layers.remove(self.handler)
        NS["modes"] -= 1

    def handle(self, op: Any, values: Any) -> Any:
        """Run a call through the layers below and look at the nodes of its results."""
        from ..callpath import call, layers

        if not self.everywhere and self.thread != threading.get_ident():
            return NotImplemented
        below = layers[:layers.index(self.handler)] if self.handler in layers else []
        result = NotImplemented
        for layer in reversed(below):
            result = layer(op, values)
            if result is not NotImplemented:
                break
        if result is NotImplemented:
            result = call(op, list(values))
        for node in nodes_of(result):
            self.seen(node)
        return result


def nodes_of(result: Any) -> list[Node]:
    """The nodes of a call's results, each once."""
    many = result if isinstance(result, (tuple, list)) else (result,)
    found: dict[Node, None] = {}
    for t in many:
        n = getattr(t, "node", None)
        if n is not None:
            found[n.parent if type(n) is Select else n] = None
    return list(found)


__all__ = ["Observer", "nodes_of"]
