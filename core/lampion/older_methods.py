"""Methods of tensors from PyTorch's earlier years, which programs still call.

Floor 6; imports tensor, interop. None of them records for autograd.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .tensor import Tensor


def _storage(self: Tensor) -> Any:
    """The storage of this tensor and its views, as a row of elements."""
    from .storage import storage

    return storage(self)


def _new(self: Tensor, *args: Any, device: Any = None) -> Tensor:
    """A tensor of this dtype and device: of sizes, uninitialised, or of a sequence or tensor."""
    if len(args) == 1 and not isinstance(args[0], int | tuple):
        return self.new_tensor(args[0], device=device)
    if len(args) == 1 and type(args[0]) is tuple:  # a Size says a shape, another tuple values
        return self.new_tensor(args[0], device=device)
    shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args or (0,)
    return self.new_empty(shape, device=device)


def _on_host(self: Tensor, name: str) -> None:
    if not self.is_cpu:
        raise TypeError(f"{name} is only implemented on CPU tensors, not on '{self.device}': it "
                        "calls a Python function per element")
    if self.requires_grad:
        raise RuntimeError(f"{name}: it cannot be recorded; call detach() first")


def _apply_(self: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Replace every element x by callable(x): slow, one call per element."""
    _on_host(self, "apply_")
    values = [callable(x) for x in self.reshape(-1).tolist()]
    return self.copy_(self.new_tensor(values).reshape(self.shape)) if values else self


def _map_(self: Tensor, tensor: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
    """Replace every element x by callable(x, y), where y is `tensor`'s: slow."""
    _on_host(self, "map_")
    other = tensor.expand(self.shape).reshape(-1).tolist()
    values = [callable(x, y) for x, y in zip(self.reshape(-1).tolist(), other, strict=True)]
    return self.copy_(self.new_tensor(values).reshape(self.shape)) if values else self


def _is_set_to(self: Tensor, tensor: Tensor) -> bool:
    """Whether both show the same elements of the same storage."""
    return (self.untyped_storage() == tensor.untyped_storage()
            and self.storage_offset() == tensor.storage_offset()
            and self.shape == tensor.shape and self.stride() == tensor.stride())


def _dim_order(self: Tensor, ambiguity_check: bool | list[Any] = False) -> tuple[int, ...]:
    """The dims from the outermost in memory to the innermost.

    >>> lampion.empty(2, 3, 5).permute(1, 2, 0).dim_order()
    (2, 0, 1)
    """
    strides, shape = self.stride(), self.shape
    order = sorted(range(self.dim()), key=lambda k: (-strides[k], shape[k] == 1, k))
    if ambiguity_check is True and any(
            strides[a] == strides[b] for a, b in itertools.pairwise(order)):
        raise RuntimeError("The tensor does not have unique dim order, or cannot map to exact one "
                           "of the given memory formats.")
    return tuple(order)


def _module_load(self: Tensor, other: Tensor, assign: bool = False) -> Tensor:
    """What a parameter becomes when `other` is loaded into it."""
    return other.detach() if assign else self.copy_(other).detach()


def _to_dense(self: Tensor, dtype: Any = None, *, masked_grad: bool = True) -> Tensor:
    """This tensor, which is dense, in a dtype."""
    return self if dtype is None else self.to(dtype)


def _sparse_method(name: str) -> Callable[..., Any]:
    """A method of dense tensors that `lampion.sparse` has."""
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        from .sparse import dense

        return getattr(dense, name)(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"`{name}` of a dense tensor, see `lampion.sparse`."
    return method


def _resize(self: Tensor, *sizes: Any) -> Tensor:
    """`reshape`, by its older name."""
    return self.reshape(*sizes)


def _resize_as(self: Tensor, tensor: Tensor) -> Tensor:
    """`reshape` to the shape of another tensor, by its older name."""
    return self.reshape(tensor.shape)


def _is_distributed(self: Tensor) -> bool:
    """False: a tensor lies on one device."""
    return False


def _storage_type(self: Tensor) -> type:
    """The class of the storage."""
    return type(_storage(self))


def _div(self: Tensor, other: Any) -> Tensor:
    """`self / other`, by the name that Python 2 gave it."""
    return self.div(other)


def _idiv(self: Tensor, other: Any) -> Tensor:
    """`self /= other`, by the name that Python 2 gave it."""
    return self.div_(other)


def _reversed(self: Tensor) -> Tensor:
    """The elements in reverse order of the first dim."""
    return self.flip(0) if self.dim() else self


def _never(self: Tensor) -> bool:
    """False: no tensor is a promise of zeros."""
    return False


def _gone(name: str, instead: str) -> Callable[..., Any]:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"This function was deprecated since version 1.9 and is now removed. "
                           f"{instead} is what `{name}` is called now.")

    refuse.__name__ = name
    refuse.__doc__ = f"RuntimeError: {instead} is what this is called now."
    return refuse


def _map2_(self: Tensor, x: Tensor, y: Tensor, callable: Callable[[Any, Any, Any], Any]) -> Tensor:
    """Replace each element by `callable(element, element of x, element of y)`, on the host."""
    _on_host(self, "map2_")
    others = (t.expand(self.shape).reshape(-1).tolist() for t in (x, y))
    made = [callable(*each) for each in zip(self.reshape(-1).tolist(), *others)]
    return self.copy_(self.new_tensor(made).view(self.shape))


def _unsafe_split_with_sizes(self: Tensor, split_sizes: Any, dim: int = 0) -> Any:
    """`split_with_sizes`, whose parts may be written to in place as if they were no views."""
    return self.split_with_sizes(split_sizes, dim)


def _to_padded_tensor(self: Tensor, padding: float, output_size: Any = None) -> Tensor:
    """RuntimeError: nested tensors are padded."""
    raise RuntimeError("to_padded_tensor: a nested tensor is padded, not a dense one")


for _name in ("to_sparse", "to_sparse_coo", "to_sparse_csr", "to_sparse_csc", "to_sparse_bsr",
              "to_sparse_bsc", "sparse_mask", "sparse_dim", "dense_dim", "coalesce", "is_coalesced",
              "indices", "values", "_indices", "_values", "_nnz", "crow_indices", "col_indices",
              "ccol_indices", "row_indices", "smm", "sspaddmm", "sparse_resize_",
              "sparse_resize_and_clear_", "resize_as_sparse_"):
    setattr(Tensor, _name, _sparse_method(_name))
for _name, _fn in (("__div__", _div), ("__idiv__", _idiv), ("__reversed__", _reversed),
                   ("__long__", Tensor.__int__), ("__nonzero__", Tensor.__bool__),
                   ("_typed_storage", _storage), ("_conj", lambda self: self.conj()),
                   ("_is_zerotensor", _never), ("_lazy_clone", lambda self: self.clone()),
                   ("_is_all_true", lambda self: self.all()),
                   ("_is_any_true", lambda self: self.any()),
                   ("storage", _storage), ("new", _new), ("apply_", _apply_), ("map_", _map_),
                   ("is_set_to", _is_set_to), ("dim_order", _dim_order), ("resize", _resize),
                   ("module_load", _module_load), ("to_dense", _to_dense),
                   ("resize_as", _resize_as), ("is_distributed", _is_distributed),
                   ("storage_type", _storage_type),
                   ("map2_", _map2_), ("to_padded_tensor", _to_padded_tensor),
                   ("unsafe_split_with_sizes", _unsafe_split_with_sizes),
                   ("eig", _gone("eig", "torch.linalg.eig")),
                   ("lstsq", _gone("lstsq", "torch.linalg.lstsq")),
                   ("solve", _gone("solve", "torch.linalg.solve")),
                   ("symeig", _gone("symeig", "torch.linalg.eigh")),
                   ("reinforce", _gone("reinforce", "torch.distributions")),
                   ("const_data_ptr", lambda self: self.data_ptr())):
    if not hasattr(Tensor, _name):
        setattr(Tensor, _name, _fn)
