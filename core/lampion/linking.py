"""How views know what they are views of, and it them.

Floor 5; imports autograd. A tensor lists its views weakly, so that a recorded write to it or to one
of them can update the history of all.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from .autograd import node
from .base.meta import Meta


def viewed(source: Any, m: Meta) -> Any:
    """The memory of a tensor under another meta, as a view without a history."""
    r = node.make_tensor(source.data_, m, None)
    link(r, source)
    return r


def link(r: Any, source: Any) -> None:
    """Make `r` a view of what `source` is, or is a view of."""
    root = source.root
    r.root = root = source if root is None else root
    r.kids = None
    if root.kids is None:
        root.kids = []
    root.kids.append(ref(r))
    if not len(root.kids) & 31:
        prune(root)


def prune(root: Any) -> None:
    """Forget the dead among the views of `root`."""
    root.kids = [k for k in root.kids if k() is not None]


__all__ = ["viewed", "link", "prune"]
