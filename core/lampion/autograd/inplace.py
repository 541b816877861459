"""History of tensors written in place, and of the views that share their memory.

Floor 4; imports node. A recorded write to a view is a write to its base: the base's new history
(`CopySlices`) sends the gradient of the written part through the op and the rest to the old
history. Views of a rewritten base get a fresh `AsStrided` history that reads from the base.
"""

from __future__ import annotations

from typing import Any

from ..base.meta import Meta
from .node import AccumulateGrad, Node, Select, _new


class CopySlices(Node):
    """base' = base with the region of a view replaced by fn's output."""

    __slots__ = ("fn", "base_meta", "view_meta", "offset")

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "CopySlices"

    def out_meta(self, k: int) -> Meta:
        return self.base_meta

    def apply(self, grads: list[Any]) -> Any:
        """The region's gradient goes through fn; the base keeps the rest (fn's first input,
        the view's old value, is part of the base)."""
        full, region = layout(self.base_meta, self.view_meta, self.offset, grads[0])
        inner = self.fn.apply([region.clone()])
        if inner[0] is None:
            region.zero_()
        else:
            region.copy_(inner[0])
        return [full, *list(inner)[1:]]

    def release(self) -> None:
        self.fn.release()


def layout(base: Meta, view: Meta, offset: int, g: Any, values: bool = True) -> tuple[Any, Any]:
    """(gradient of the base, the part of it that belongs to a view), sharing memory.

    The view's strides are in the base's memory, so the gradient is laid out as the base is. It
    is a copy of `g`, or zeros with values=False.
    """
    flat = g.new_zeros((max(base.span // base.dtype.itemsize, 1),))
    full = flat.as_strided(base.shape, base.strides, 0)
    if values:
        full.copy_(g)
    return full, flat.as_strided(view.shape, view.strides, offset)


class AsStrided(Node):
    """A view's history rebuilt from its base after the base was written."""

    __slots__ = ("base_meta", "view_meta", "offset")

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "AsStridedBackward0"

    def out_meta(self, k: int) -> Meta:
        return self.view_meta

    def apply(self, grads: list[Any]) -> Any:
        full, region = layout(self.base_meta, self.view_meta, self.offset, grads[0], False)
        if self.view_meta.overlapping:
            from ..ops.movement import as_strided_backward

            v = self.view_meta
            return [as_strided_backward(grads[0], self.base_meta, v.shape, v.strides,
                                        self.offset)]
        region.copy_(grads[0])
        return [full]


def _bare(cls: Any, edges: tuple[Any, ...], epoch: int) -> Any:
    n = _new(cls)
    n.edges, n.saved, n.extra, n.epoch = edges, (), None, epoch
    return n


def check_view(view: Any, name: str) -> None:
    """RuntimeError for a recorded write to a view of a leaf, or to a view that a custom Function
    returned (the history of its base would bypass the Function's backward)."""
    if type(view.root.node) is AccumulateGrad:
        raise RuntimeError(
            f"{name}: a view of a leaf Variable that requires grad is being used in an in-place "
            "operation. Wrap the update in torch.no_grad(), or write to a clone().")
    if is_custom(view.node):
        raise RuntimeError(
            f"{name}: output of {view.node.name()} is a view and is being modified inplace. This "
            "view was created inside a custom Function (or because an input was returned as-is) "
            "and the autograd logic to handle view+inplace would override the custom backward "
            "associated with the custom Function, leading to incorrect gradients. You can fix "
            "this by cloning the output of the custom Function.")


def is_custom(node: Any) -> bool:
    """Whether a tensor with this node comes out of a custom Function."""
    if type(node) is Select:
        node = node.parent
    return getattr(node, "function", None) is not None


def element_offset(root: Any, view: Any) -> int:
    """Offset of a view from its base tensor, in elements."""
    return (view.data_.offset - root.data_.offset) // root.meta.dtype.itemsize


def rebase_view(root: Any, view: Any, node: Node) -> None:
    """Record a write of `node`'s output into `view` as a change of `root`."""
    old = root.node
    n = _bare(CopySlices, (old, *node.edges[1:]), node.epoch)
    n.fn, n.base_meta, n.view_meta = node, root.meta.plain, view.meta.plain
    n.offset = element_offset(root, view)
    root.node = n
    view.node = as_strided_node(root, view)


def as_strided_node(root: Any, view: Any) -> Any:
    """A node that reads `view` from `root`'s present history, or None if it needs no gradient."""
    if root.node is None or type(root.node) is AccumulateGrad or view.meta.dtype.kind not in "fc":
        return view.node if type(root.node) is AccumulateGrad else None
    n = _bare(AsStrided, (root.node,), root.node.epoch)
    n.base_meta, n.view_meta = root.meta.plain, view.meta.plain
    n.offset = element_offset(root, view)
    return n


def refresh_views(root: Any, kids: list[Any], written: Any) -> None:
    """Rebuild the history of the base's living views after a recorded write."""
    for r in list(kids):
        v = r()
        if v is not None and v is not written:
            if is_custom(v.node):
                raise RuntimeError(
                    f"output of {v.node.name()} is a view whose base (or another view of it) has "
                    "been modified inplace. Its history would bypass the custom Function's "
                    "backward; clone the output of the custom Function.")
            v.node = as_strided_node(root, v)
