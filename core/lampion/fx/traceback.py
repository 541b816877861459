"""What later tracers are told about the nodes of an earlier graph that they run.

Floor 7; imports nothing. While `preserve_node_meta` is active, an Interpreter says which node it
runs (`set_current_meta`), and nodes that are traced meanwhile get that node's meta.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import traceback
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["annotate", "annotate_fn", "preserve_node_meta", "has_preserved_node_meta",
           "set_stack_trace", "set_grad_fn_seq_nr", "reset_grad_fn_seq_nr", "format_stack",
           "set_current_meta", "get_current_meta"]

current_meta: dict[str, Any] = {}
_preserve = False


@contextlib.contextmanager
def preserve_node_meta(enable: bool = True) -> Iterator[None]:
    """A `with` block in which nodes get the meta of the node that is run."""
    global _preserve, current_meta
    was, meta = _preserve, copy.copy(current_meta)
    _preserve = enable
    try:
        yield
    finally:
        _preserve, current_meta = was, meta


def has_preserved_node_meta() -> bool:
    """Whether nodes get the meta of the node that is run."""
    return _preserve


@contextlib.contextmanager
def annotate(annotation_dict: dict[str, Any]) -> Iterator[None]:
    """A `with` block whose nodes have these values in `meta["custom"]`."""
    global current_meta
    had = current_meta.get("custom")
    current_meta["custom"] = {**(had or {}), **annotation_dict}
    try:
        with preserve_node_meta():
            yield
    finally:
        if had is None:
            current_meta.pop("custom", None)
        else:
            current_meta["custom"] = had


def annotate_fn(annotation_dict: dict[str, Any]) -> Callable[..., Any]:
    """Decorator: `annotate` around a function."""
    def deco(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def annotated(*args: Any, **kwargs: Any) -> Any:
            with annotate(annotation_dict):
                return fn(*args, **kwargs)

        return annotated

    return deco


def set_stack_trace(stack: list[str]) -> None:
    """Let nodes that are traced now come from these lines."""
    if _preserve and stack:
        current_meta["stack_trace"] = "".join(stack)


def set_grad_fn_seq_nr(seq_nr: int) -> None:
    """Note which node of autograd is being run."""
    if _preserve:
        current_meta["grad_fn_seq_nr"] = [*current_meta.get("grad_fn_seq_nr", []), seq_nr]
        current_meta["in_grad_fn"] = current_meta.get("in_grad_fn", 0) + 1


def reset_grad_fn_seq_nr() -> None:
    """Undo the last `set_grad_fn_seq_nr`."""
    level = current_meta.get("in_grad_fn", 0)
    if _preserve and level:
        if level == 1:
            del current_meta["in_grad_fn"], current_meta["grad_fn_seq_nr"]
        else:
            current_meta["in_grad_fn"] = level - 1
            current_meta["grad_fn_seq_nr"] = current_meta["grad_fn_seq_nr"][:-1]


def format_stack() -> list[str]:
    """The lines where the program is, or those that were set."""
    if _preserve:
        return [current_meta.get("stack_trace", "")]
    return traceback.format_list(traceback.extract_stack()[:-1])


@contextlib.contextmanager
def set_current_meta(node: Any, pass_name: str = "") -> Iterator[None]:
    """A `with` block that runs a node."""
    global current_meta
    if not _preserve or not node.meta:
        yield
        return
    before = current_meta
    current_meta = {**node.meta, "from_node": [*node.meta.get("from_node", []),
                                               (node.name, node.target)]}
    try:
        yield
    finally:
        current_meta = before


def get_current_meta() -> dict[str, Any]:
    """The meta for nodes that are traced now."""
    return current_meta
