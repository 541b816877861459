"""The recorded graph as users see it: hooks on saved tensors, gradient edges, multi-node hooks.

Floor 4; imports node, observe, state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..base.meta import Meta
from ..ops import registry as R
from . import node as N
from .node import FREED, AccumulateGrad, Handle, Node, Select
from .observe import Observer
from .state import mode


def _hooks() -> list[Any]:
    """This thread's stack of (pack, unpack) pairs, innermost last."""
    found = getattr(mode, "saved_hooks", None)
    if found is None:
        found = mode.saved_hooks = []  # type: ignore[attr-defined]
    return found


class saved_tensors_hooks:
    """Context manager: tensors saved for backward go through `pack_hook`, and through
    `unpack_hook` when the backward asks for them.

    `pack_hook(tensor)` may return anything; `unpack_hook(packed)` a tensor with the same values,
    shape and dtype.

    >>> import lampion
    >>> x = lampion.tensor(3.0, requires_grad=True)
    >>> with lampion.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(), lampion.from_numpy):
    ...     y = x * x
    >>> y.backward()
    """

    def __init__(self, pack_hook: Callable[[Any], Any],
                 unpack_hook: Callable[[Any], Any]) -> None:
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self) -> None:
        refused = getattr(mode, "saved_hooks_refused", None)
        if refused:
            raise RuntimeError(refused)
        _hooks().append((self.pack_hook, self.unpack_hook))
        self.observer = Observer(_pack_node).__enter__()

    def __exit__(self, *exc: Any) -> None:
        self.observer.__exit__()
        _hooks().pop()


class save_on_cpu(saved_tensors_hooks):
    """Keep tensors saved for backward in host memory, and bring them back when needed."""

    def __init__(self, pin_memory: bool = False, device_type: str | None = None) -> None:
        def pack(t: Any) -> Any:
            return t.device, t.detach().cpu().clone() if t.device.type == "cpu" else t.cpu()

        def unpack(packed: Any) -> Any:
            device, t = packed
            return t.to(device)

        super().__init__(pack, unpack)


class disable_saved_tensors_hooks:
    """Context manager (and decorator) in which `saved_tensors_hooks` is an error with this
    message."""

    def __init__(self, error_message: str) -> None:
        self.message = error_message

    def __enter__(self) -> None:
        self.previous = getattr(mode, "saved_hooks_refused", None)
        mode.saved_hooks_refused = self.message  # type: ignore[attr-defined]

    def __exit__(self, *exc: Any) -> None:
        mode.saved_hooks_refused = self.previous  # type: ignore[attr-defined]

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        import functools

        @functools.wraps(fn)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with disable_saved_tensors_hooks(self.message):
                return fn(*args, **kwargs)

        return wrapped


# ---------------------------------------------------------------- packing

class _Packed:
    """A packed item: what the hook returned and what is needed to rebuild the saved one."""

    __slots__ = ("value", "unpack", "owner", "meta", "storage")

    def __init__(self, t: Any, hooks: Any, storage: bool) -> None:
        if t.meta.virtual:
            raise RuntimeError("saved tensor hooks are not supported on tensors of function "
                               "transforms (vmap, jvp, forward_ad): a hook would cut what the "
                               "transform derives. Leave the hooks before transforming.")
        previous, mode.enabled = mode.enabled, False
        held, mode.saved_hooks = _hooks(), []  # type: ignore[attr-defined]
        try:
            self.value = hooks[0](t.detach())
        finally:
            mode.enabled = previous
            mode.saved_hooks = held  # type: ignore[attr-defined]
        self.unpack, self.meta, self.storage = hooks[1], t.meta, storage
        self.owner = None if storage else t.node

    def get(self) -> Any:
        t = self.unpack(self.value)
        if not hasattr(t, "data_"):
            raise TypeError("Output of saved tensor unpack_hook expected to be a Tensor but got "
                            f"result of type {type(t).__name__}")
        if self.storage:
            return in_layout(t, self.meta).data_
        return N.make_tensor(t.data_, t.meta, self.owner)


def in_layout(t: Any, m: Meta) -> Any:
    """A tensor's values in the strides of `m`."""
    if t.meta.plain is m.plain:
        return t
    if t.meta.shape != m.shape or t.meta.dtype is not m.dtype:
        raise RuntimeError(f"the unpack hook returned {t.meta.dtype!r} {list(t.meta.shape)} for a "
                           f"saved {m.dtype!r} {list(m.shape)}")
    previous, mode.enabled = mode.enabled, False
    try:
        made = t.new_empty(max(m.span // m.dtype.itemsize, 1)).as_strided(m.shape, m.strides, 0)
        return made.copy_(t)
    finally:
        mode.enabled = previous


def _pack_node(node: Node) -> None:
    """Send what a new node saved through the innermost hooks."""
    hooks = _hooks()
    if not hooks or not node.saved or node.saved is FREED or not hasattr(node, "plan"):
        return
    extra = node.more()
    if extra.unpack is not None:
        return
    node.saved = tuple([_pack_item(node, k, v, hooks[-1]) for k, v in enumerate(node.saved)])
    extra.unpack = _unpack_items


def _pack_item(node: Node, k: int, item: Any, hooks: Any) -> Any:
    if hasattr(item, "data_"):
        return _Packed(item, hooks, False)
    if hasattr(item, "base") and hasattr(item, "view"):  # the memory of an output
        m = node.plan.metas[_output_number(node, k)]
        return _Packed(N.make_tensor(item, m, None), hooks, True)
    if type(item) in (list, tuple):
        return [_Packed(t, hooks, False) if hasattr(t, "data_") else t for t in item]
    return item


def _output_number(node: Node, k: int) -> int:
    """Which output the saved item `k` is."""
    op = node.plan.op
    if op.kind != "elementwise":
        return int(op.save[k][3:] or 0)
    is_complex = any(m.dtype.kind == "c" for m in (*node.plan.metas, *node.plan.call.inputs)
                     if isinstance(m, Meta))
    names = op.backward(node.plan.attrs, node.needs, is_complex).saved
    return R.output_number(names[k])


def _unpack_items(saved: Sequence[Any]) -> list[Any]:
    return [v.get() if type(v) is _Packed else
            [t.get() if type(t) is _Packed else t for t in v] if type(v) is list else v
            for v in saved]


# ---------------------------------------------------------------- edges and hooks of nodes

class GradientEdge(NamedTuple):
    """A place in the graph: a node and which of its outputs."""

    node: Node
    output_nr: int


def get_gradient_edge(tensor: Any) -> GradientEdge:
    """The edge at which the gradient of a tensor is computed. RuntimeError without
    requires_grad."""
    if tensor.node is None:
        raise RuntimeError("It is not possible to get the gradient edge for a Tensor that does "
                           "not require gradients")
    n = tensor.node
    return GradientEdge(n.parent, n.index) if type(n) is Select else GradientEdge(n, 0)


def register_multi_grad_hook(tensors: Sequence[Any], fn: Callable[..., Any], *,
                             mode: str = "all") -> Any:
    """Call `fn` in the backward: with the list of all gradients once the last arrived ("all"), or
    with the first one that arrives ("any")."""
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of ('all', 'any') but got {mode}")
    got: list[Any] = [None] * len(tensors)
    state = {"count": 0, "fired": False}

    def hook_of(k: int) -> Callable[[Any], None]:
        def hook(g: Any) -> None:
            if mode == "any":
                if not state["fired"]:
                    state["fired"] = True
                    fn(g)
                return
            got[k] = g
            state["count"] += 1  # type: ignore[operator]
            if state["count"] == len(tensors):
                grads = list(got)
                got[:], state["count"] = [None] * len(tensors), 0
                fn(grads)

        return hook

    return _Handles([t.register_hook(hook_of(k)) for k, t in enumerate(tensors)])


class _Handles:
    """Several handles as one."""

    def __init__(self, handles: list[Handle]) -> None:
        self.handles = handles

    def remove(self) -> None:
        """Remove all of them."""
        for h in self.handles:
            h.remove()

    def __enter__(self) -> "_Handles":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()


__all__ = ["saved_tensors_hooks", "save_on_cpu", "disable_saved_tensors_hooks", "GradientEdge",
           "get_gradient_edge", "register_multi_grad_hook", "Node", "AccumulateGrad"]
