"""Running a module with parameters and inputs of another dtype. Floor 7; imports func."""

from __future__ import annotations

from typing import Any

from ...func import functional_call
from ...nn.modules.module import Module
from ...tensor import Tensor
from ...utils import _pytree as pytree


def cast(tree: Any, dtype: Any) -> Any:
    """A tree whose floating-point tensors have this dtype."""
    def one(t: Any) -> Any:
        return t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t

    return tree if dtype is None else pytree.tree_map(one, tree)


def run(module: Module, args: Any, kwargs: Any, params: Any, buffers: Any, inputs: Any,
        kept: tuple[type, ...] = ()) -> Any:
    """`module(*args, **kwargs)` with these dtypes (None: as they are); modules of the classes
    `kept` keep theirs. Gradients arrive in the dtypes of the parameters."""
    args, kwargs = cast(args, inputs), cast(kwargs, inputs)
    if params is None and buffers is None:
        return module(*args, **kwargs)
    same = tuple(f"{n}." if n else "" for n, m in module.named_modules() if isinstance(m, kept))
    found = {}
    for named, dtype in ((module.named_parameters(), params), (module.named_buffers(), buffers)):
        found.update({n: t.to(dtype) for n, t in named
                      if dtype is not None and t.is_floating_point()
                      and t.dtype is not dtype and not n.startswith(same or ("\0",))})
    return functional_call(module, found, args, kwargs) if found else module(*args, **kwargs)
