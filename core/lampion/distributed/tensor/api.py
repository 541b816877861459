"""`DTensor`: one tensor that the processes of a mesh have together.

What is done element by element is done by each process on its part. Everything else is done by all
on the whole tensor, which is collected for it: right, and as large. Floor 7; imports the
collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lampion

from ... import watching
from ...autograd.function import Function
from ...autograd.modes import no_grad
from ...base.meta import meta
from ...holding import Holding
from ...nn.modules.module import Module
from ...ops import registry as R
from ...tensor import Tensor, make_tensor
from ...utils import _pytree as pytree
from .. import collectives
from ..device_mesh import DeviceMesh, _current
from .placement_types import Partial, Placement, Replicate, Shard

__all__ = ["DTensor", "distribute_module", "distribute_tensor", "empty", "full", "ones", "rand",
           "randn", "zeros"]
_REDUCE = {"sum": "SUM", "avg": "AVG", "max": "MAX", "min": "MIN", "product": "PRODUCT"}


def _mesh(device_mesh: DeviceMesh | None) -> DeviceMesh:
    if device_mesh is not None:
        return device_mesh
    if not _current:
        raise RuntimeError("DTensor: give device_mesh, or use a mesh as a `with` block")
    return _current[-1]


def _placed(mesh: DeviceMesh, placements: Sequence[Placement] | None, ndim: int,
            ) -> tuple[Placement, ...]:
    """Placements, one for each dim of the mesh, with dims from 0 on."""
    found = tuple(placements or [Replicate()] * mesh.ndim)
    if len(found) != mesh.ndim:
        raise ValueError(f"`placements` must have the same length as `device_mesh.ndim`! Found "
                         f"placements length: {len(found)}, and device_mesh.ndim: {mesh.ndim}.")
    out: list[Placement] = []
    for p in found:
        if isinstance(p, Shard):
            if not -ndim <= p.dim < ndim:
                raise ValueError(f"DTensor: {p} of a tensor with {ndim} dims")
            p = Shard(p.dim % ndim)
        elif not isinstance(p, Placement):
            raise TypeError(f"DTensor: {p!r} is no placement")
        out.append(p)
    return tuple(out)


def _part(whole: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Tensor:
    """This process's part of a tensor that it has all of."""
    at = mesh.get_coordinate()
    if at is None:
        raise RuntimeError("DTensor: this process is not in the mesh")
    for d, p in enumerate(placements):
        n = mesh.size(d)
        if isinstance(p, Shard):
            rows, first = Shard.local_shard_size_and_offset(whole.shape[p.dim], n, at[d])
            whole = whole.narrow(p.dim, first, rows)
        elif isinstance(p, Partial) and n > 1 and p.reduce_op == "sum":
            whole = whole / n
        elif isinstance(p, Partial) and n > 1 and p.reduce_op == "product" and at[d]:
            whole = lampion.ones_like(whole)
    return whole


def _whole(local: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...],
           shape: tuple[int, ...]) -> Tensor:
    """The whole tensor from this process's part and those of the others."""
    at = mesh.get_coordinate() or ()
    for d in reversed(range(mesh.ndim)):
        p, n = placements[d], mesh.size(d)
        if n == 1:
            continue
        if isinstance(p, Partial):
            local = local.clone()
            collectives.all_reduce(local, collectives.ReduceOp[_REDUCE[p.reduce_op]],
                                   group=mesh.get_group(d))
        elif isinstance(p, Shard):
            rest = shape[p.dim]  # of what the dims of the mesh before this one leave
            for e in range(d):
                if placements[e] == p:
                    rest = Shard.local_shard_size_and_offset(rest, mesh.size(e), at[e])[0]
            parts = []
            for k in range(n):
                rows = Shard.local_shard_size_and_offset(rest, n, k)[0]
                size = (*local.shape[:p.dim], rows, *local.shape[p.dim + 1:])
                parts.append(local.new_empty(size))
            collectives.all_gather(parts, local, mesh.get_group(d))
            local = lampion.cat(parts, p.dim)
    return local


class _Collect(Function):
    """A part -> the whole tensor; its gradient's part is the gradient."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, mesh: DeviceMesh, placements: Any, shape: Any) -> Tensor:
        ctx.mesh = mesh
        ctx.placements = tuple(Replicate() if isinstance(p, Partial) else p for p in placements)
        return _whole(local, mesh, placements, shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _part(g, ctx.mesh, ctx.placements), None, None, None


class _Distribute(Function):
    """The whole tensor -> a part; the parts of the gradient are collected."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, mesh: DeviceMesh, placements: Any) -> Tensor:
        ctx.mesh, ctx.shape = mesh, tuple(whole.shape)
        ctx.placements = tuple(Replicate() if isinstance(p, Partial) else p for p in placements)
        return _part(whole, mesh, placements).clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _whole(g.contiguous(), ctx.mesh, ctx.placements, ctx.shape), None, None


class DTensor(Holding):
    """A tensor that the processes of a mesh have together. `distribute_tensor` and `from_local`
    make one; `placements` say how it lies on each dim of the mesh."""

    _sees_whole_calls = True
    _mesh: DeviceMesh
    _placements: tuple[Placement, ...]
    _global: tuple[int, ...]

    @staticmethod
    def from_local(local_tensor: Tensor, device_mesh: DeviceMesh | None = None,
                   placements: Sequence[Placement] | None = None, *, run_check: bool = False,
                   shape: Any = None, stride: Any = None) -> DTensor:
        """The tensor of which this process has `local_tensor`. Parts are all of one size unless
        `shape` says the whole one's."""
        mesh = _mesh(device_mesh)
        placed = _placed(mesh, placements, local_tensor.dim())
        if shape is None:
            sizes = list(local_tensor.shape)
            for d, p in enumerate(placed):
                if isinstance(p, Shard):
                    sizes[p.dim] *= mesh.size(d)
            shape = sizes
        return _made(local_tensor, mesh, placed, tuple(shape))

    def to_local(self, *, grad_placements: Any = None) -> Tensor:
        """What this process has."""
        return self._held

    @property
    def _local_tensor(self) -> Tensor:
        """PyTorch's name of it, which programs use."""
        return self._held

    def local_offsets(self) -> tuple[int, ...]:
        """Where this process's part begins in the whole tensor."""
        first, sizes = [0] * len(self._global), list(self._global)
        at = self._mesh.get_coordinate() or ()
        for d, p in enumerate(self._placements):
            if isinstance(p, Shard):
                rows, skip = Shard.local_shard_size_and_offset(sizes[p.dim], self._mesh.size(d),
                                                               at[d])
                first[p.dim] += skip
                sizes[p.dim] = rows
        return tuple(first)

    def full_tensor(self, *, grad_placements: Any = None) -> Tensor:
        """The whole tensor, in every process."""
        if all(p.is_replicate() for p in self._placements):
            return self._held
        return _Collect.apply(self._held, self._mesh, self._placements, self._global)

    def redistribute(self, device_mesh: DeviceMesh | None = None,
                     placements: Sequence[Placement] | None = None, *, async_op: bool = False,
                     forward_dtype: Any = None, backward_dtype: Any = None) -> DTensor:
        """The same tensor with other placements."""
        mesh = device_mesh or self._mesh
        placed = _placed(mesh, placements, len(self._global))
        if mesh == self._mesh and placed == self._placements:
            return self
        whole = self.full_tensor()
        local = whole if all(p.is_replicate() for p in placed) else (
            _Distribute.apply(whole, mesh, placed))
        return _made(local, mesh, placed, self._global)

    @property
    def device_mesh(self) -> DeviceMesh:
        """The mesh."""
        return self._mesh

    @property
    def placements(self) -> tuple[Placement, ...]:
        """How the tensor lies on each dim of the mesh."""
        return self._placements

    @property
    def shape(self) -> Any:  # type: ignore[override]
        """The size of the whole tensor."""
        return lampion.Size(self._global)

    def size(self, dim: int | None = None) -> Any:
        """The shape of the whole tensor, or the size of one dim."""
        return self.shape if dim is None else self._global[dim]

    def numel(self) -> int:
        """The number of elements of the whole tensor."""
        return self.shape.numel()

    nelement = numel

    def __len__(self) -> int:
        return self._global[0]

    def backward(self, gradient: Any = None, *args: Any, **kwargs: Any) -> None:
        """Accumulate gradients."""
        whole = self.full_tensor()
        whole.backward(gradient.full_tensor() if isinstance(gradient, DTensor) else gradient,
                       *args, **kwargs)

    def detach(self) -> DTensor:
        """The same elements without their history."""
        return self._with(self._held.detach())

    @property
    def data(self) -> DTensor:  # type: ignore[override]
        """`detach()`."""
        return self.detach()

    def item(self) -> Any:
        """The one element."""
        return self.full_tensor().item()

    def tolist(self) -> Any:
        """The elements of the whole tensor."""
        return self.full_tensor().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """The whole tensor as an array."""
        return self.full_tensor().numpy(*args, **kwargs)

    def _with(self, local: Tensor) -> DTensor:
        return _made(local, self._mesh, self._placements, self._global)

    def __deepcopy__(self, memo: dict[int, Any]) -> DTensor:
        made = self._with(self._held.detach().clone().requires_grad_(self.requires_grad))
        memo[id(self)] = made
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return (f"DTensor(local_tensor={self._held}, device_mesh={self._mesh}, "
                f"placements={self._placements})")

    __str__ = __repr__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _made(local: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...],
          shape: tuple[int, ...]) -> DTensor:
    """A distributed tensor of parts that fit."""
    watching.follow_classes()
    zero = lampion.zeros(1, dtype=local.dtype, device=local.device)
    seen = meta(local.dtype, shape, (0,) * len(shape), local.device)
    found: DTensor = make_tensor(zero.data_, seen, None).as_subclass(DTensor)
    found._held, found._mesh, found._placements = local, mesh, placements
    found._global = shape
    return found


_OF_PARTS = frozenset(("clone", "contiguous", "to", "float", "double", "half", "bfloat16", "cpu",
                       "zeros_like", "ones_like", "empty_like", "full_like", "zero_", "fill_"))


def _call(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """A function of distributed tensors: by parts, or of the whole tensors."""
    name = getattr(func, "__name__", "")
    op = R.REGISTRY.get(name.removesuffix("_").strip("_"))
    given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    ours = [t for t in given if isinstance(t, DTensor)]
    first = ours[0]
    alike = all(isinstance(t, DTensor) and t._placements == first._placements
                and t._mesh == first._mesh and t._global == first._global for t in given)
    pointwise = name in _OF_PARTS or (op is not None and op.kind == "elementwise")
    linear = not any(p.is_partial() for p in first._placements) or name in _OF_PARTS
    if alike and pointwise and linear:
        result = _replaced(func, args, kwargs, lambda t: t._held)
        if result is first._held:
            return first
        return pytree.tree_map(lambda t: first._with(t) if isinstance(t, Tensor) else t, result)
    if name.endswith("_") and not name.endswith("__") and isinstance(args[0], DTensor) and not (
            all(p.is_replicate() for p in args[0]._placements)):
        raise RuntimeError(f"{name}: a distributed tensor is written to in place by tensors of "
                           "the same placements only; redistribute() them")
    result = _replaced(func, args, kwargs, lambda t: t.full_tensor())
    mesh = first._mesh
    placed: tuple[Placement, ...] = (Replicate(),) * mesh.ndim
    return pytree.tree_map(lambda t: _made(t, mesh, placed, tuple(t.shape))
                           if isinstance(t, Tensor) else t, result)


def _replaced(func: Callable[..., Any], args: Any, kwargs: dict[str, Any],
              plain: Callable[[DTensor], Tensor]) -> Any:
    args, kwargs = pytree.tree_map(lambda t: plain(t) if isinstance(t, DTensor) else t,
                                   (tuple(args), kwargs))
    return func(*args, **kwargs)


def distribute_tensor(tensor: Tensor, device_mesh: DeviceMesh | None = None,
                      placements: Sequence[Placement] | None = None, *,
                      src_data_rank: int | None = 0) -> DTensor:
    """A distributed tensor of what the first process of each row of the mesh has; with
    `src_data_rank=None` of what each process has itself, without moving data.

    >>> from lampion.distributed.tensor import Shard, distribute_tensor
    >>> lampion.distributed.init_process_group("gloo", world_size=1, rank=0)
    >>> mesh = lampion.distributed.init_device_mesh("cpu", (1,))
    >>> distribute_tensor(lampion.arange(3), mesh, [Shard(0)]).full_tensor()
    tensor([0, 1, 2])
    >>> lampion.distributed.destroy_process_group()
    """
    mesh = _mesh(device_mesh)
    placed = _placed(mesh, placements, tensor.dim())
    if isinstance(tensor, DTensor):
        if tensor._mesh != mesh or tensor._placements != placed:
            raise ValueError("distribute_tensor: it is distributed otherwise already; use "
                             "redistribute()")
        return tensor
    if not tensor.is_leaf:
        raise RuntimeError("`distribute_tensor` should be used to distribute leaf tensors! but "
                           "found non-leaf tensor!")
    whole = tensor.detach()
    if src_data_rank is not None and mesh.size() > 1:
        whole = whole.clone()
        for d in range(mesh.ndim):
            collectives.broadcast(whole, group=mesh.get_group(d), group_src=src_data_rank)
    with no_grad():
        local = _part(whole, mesh, placed).clone()
    return _made(local, mesh, placed, tuple(tensor.shape)).requires_grad_(tensor.requires_grad)


def distribute_module(module: Module, device_mesh: DeviceMesh | None = None,
                      partition_fn: Any = None, input_fn: Any = None,
                      output_fn: Any = None) -> Module:
    """A module in a mesh of one process: `partition_fn(name, module, mesh)` is called for each
    module inside, `input_fn(module, inputs, mesh)` and `output_fn(module, outputs, mesh)` at every
    call. NotImplementedError for larger meshes."""
    mesh = _mesh(device_mesh)
    if mesh.size() > 1:
        raise NotImplementedError(f"distribute_module: a mesh of {mesh.size()} processes; lampion "
                                  "distributes tensors, not the parameters of modules. Use "
                                  "DistributedDataParallel")
    for name, inner in module.named_modules() if partition_fn is not None else ():
        partition_fn(name, inner, mesh)
    if input_fn is not None:
        module.register_forward_pre_hook(lambda m, inputs: input_fn(m, inputs, mesh))
    if output_fn is not None:
        module.register_forward_hook(lambda m, inputs, outputs: output_fn(m, outputs, mesh))
    return module


def _factory(name: str) -> Callable[..., DTensor]:
    def make(*size: Any, requires_grad: bool = False, dtype: Any = None, layout: Any = None,
             device_mesh: DeviceMesh | None = None, placements: Any = None,
             **kwargs: Any) -> DTensor:
        mesh = _mesh(device_mesh)
        whole = getattr(lampion, name)(*size, dtype=dtype, **kwargs)
        placed = _placed(mesh, placements, whole.dim())
        return _made(_part(whole, mesh, placed).clone(), mesh, placed,
                     tuple(whole.shape)).requires_grad_(requires_grad)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = (f"`lampion.{name}` as a distributed tensor. Random numbers are the same as "
                    "without a mesh, if all processes have the same seed.")
    return make


zeros, ones, empty, full, rand, randn = map(
    _factory, ("zeros", "ones", "empty", "full", "rand", "randn"))
