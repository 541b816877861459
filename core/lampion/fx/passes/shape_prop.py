"""`ShapeProp`: shapes and dtypes of the values of a graph. Floor 7; imports interpreter."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...base.layout import channels_last, channels_last_3d, contiguous_format
from ...tensor import Tensor
from ..interpreter import Interpreter
from ..node import Node, map_aggregate

__all__ = ["TensorMetadata", "ShapeProp"]


class TensorMetadata(NamedTuple):
    """What is known of a tensor without its values."""

    shape: Any
    dtype: Any
    requires_grad: bool
    stride: tuple[int, ...]
    memory_format: Any
    is_quantized: bool
    qparams: dict[str, Any]


def _extract_tensor_metadata(result: Tensor, include_contiguity: bool = True) -> TensorMetadata:
    """The metadata of a tensor."""
    order = None
    if include_contiguity:
        order = next((f for f in (contiguous_format, channels_last, channels_last_3d)
                      if _laid_out(result, f)), None)
    return TensorMetadata(result.shape, result.dtype, result.requires_grad, result.stride(), order,
                          False, {})


def _laid_out(x: Tensor, order: Any) -> bool:
    needs = {channels_last: 4, channels_last_3d: 5}.get(order)
    return (needs is None or x.dim() == needs) and x.is_contiguous(memory_format=order)


class ShapeProp(Interpreter):
    """Runs a graph and keeps the metadata of every value in `node.meta["tensor_meta"]`.

    >>> from lampion import fx
    >>> made = fx.symbolic_trace(lambda x: x.sum(0))
    >>> result = fx.passes.shape_prop.ShapeProp(made).propagate(lampion.ones(2, 3))
    >>> [n.meta["tensor_meta"].shape for n in made.graph.nodes if n.op == "call_method"]
    [lampion.Size([3])]
    """

    def __init__(self, gm: Any, fake_mode: Any = None) -> None:
        super().__init__(gm)
        self.real_module = self.module

    def run_node(self, n: Node) -> Any:
        """The value of a node, whose metadata is kept."""
        try:
            result = super().run_node(n)
        except Exception as error:
            raise RuntimeError(f"ShapeProp error for: node={n.format_node()} with "
                               f"meta={n.meta}") from error
        found = False

        def metadata(x: Any) -> Any:
            nonlocal found
            if isinstance(x, Tensor):
                found = True
                return _extract_tensor_metadata(x)
            return x

        meta = map_aggregate(result, metadata)
        if found:
            n.meta["tensor_meta"] = meta
        n.meta["type"] = type(result)
        return result

    def propagate(self, *args: Any) -> Any:
        """Run the graph on arguments; what it returns."""
        return super().run(*args)
