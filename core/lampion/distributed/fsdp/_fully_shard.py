"""`fully_shard`: FSDP for modules in place, where there is nothing to shard.

Floor 7; imports the mesh.
"""

from __future__ import annotations

from typing import Any

from ...nn.modules.module import Module
from .. import groups
from . import _casting
from .api import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

_classes: dict[type, type] = {}
_AS_IT_IS, _WHERE_IT_IS = MixedPrecisionPolicy(), OffloadPolicy()


class UnshardHandle:
    """What `unshard(async_op=True)` gives: the parameters are there."""

    def wait(self) -> None:
        """Nothing is waited for."""


class FSDPModule:
    """What a module is after `fully_shard`, besides what it was. In a group of one process
    parameters are whole at any time."""

    _mp_policy: MixedPrecisionPolicy
    _synced = True

    def reshard(self) -> None:
        """Keep only a part of the parameters: all of them."""

    def unshard(self, async_op: bool = False) -> UnshardHandle | None:
        """Collect the parameters: they are there."""
        return UnshardHandle() if async_op else None

    def set_requires_gradient_sync(self, requires_gradient_sync: bool, *,
                                   recurse: bool = True) -> None:
        """Whether backward passes average gradients: over one process."""
        for m in self.modules() if recurse else (self,):  # type: ignore[attr-defined]
            if isinstance(m, FSDPModule):
                m._synced = requires_gradient_sync

    def _hint(self, *args: Any, **kwargs: Any) -> None:
        """How several processes move data: here none is moved."""

    set_is_last_backward = set_requires_all_reduce = set_reshard_after_forward = _hint
    set_reshard_after_backward = set_modules_to_forward_prefetch = _hint
    set_modules_to_backward_prefetch = set_unshard_in_backward = reset_iter_state = _hint
    set_post_optim_event = set_allocate_memory_from_process_group_for_comm = _hint
    set_separate_reduce_scatter_group = set_reduce_scatter_max_input_buffers = _hint
    set_reduce_scatter_unused_params = set_force_sum_reduction_for_comms = _hint

    def _refused(self, *args: Any, **kwargs: Any) -> None:
        """NotImplementedError: in one process nothing is combined that this could change."""
        raise NotImplementedError("fully_shard: one process combines no gradients, so nothing can "
                                  "take the place of that")

    set_custom_all_gather = set_custom_reduce_scatter = set_all_reduce_hook = _refused
    set_symm_mem_for_comm = set_reduce_scatter_divide_factor = set_gradient_divide_factor = _refused

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        policy = self._mp_policy
        if policy.param_dtype is None and policy.output_dtype is None:
            return Module.__call__(self, *args, **kwargs)  # type: ignore[arg-type]
        inputs = policy.param_dtype if policy.cast_forward_inputs else None
        plain = super().__call__  # type: ignore[misc]
        if _running(self):
            return plain(*args, **kwargs)
        self.__dict__["_casting"] = True
        try:
            found = _casting.run(self, args, kwargs,  # type: ignore[arg-type]
                                 policy.param_dtype, None, inputs)
        finally:
            del self.__dict__["_casting"]
        return _casting.cast(found, policy.output_dtype)


def _running(module: Any) -> bool:
    """Whether the module is being run with cast parameters already."""
    return "_casting" in module.__dict__


def fully_shard(module: Any, *, mesh: Any = None, reshard_after_forward: bool | int | None = None,
                shard_placement_fn: Any = None,
                mp_policy: MixedPrecisionPolicy = _AS_IT_IS,
                offload_policy: OffloadPolicy = _WHERE_IT_IS,
                ignored_params: Any = None, **kwargs: Any) -> Any:
    """Share the parameters of a module out among the processes of `mesh`, in place: of one
    process, which keeps them. The module also is an `FSDPModule` afterwards; `mp_policy` is
    followed. NotImplementedError for more processes, or to keep parameters of another device on
    the host."""
    for m in module if isinstance(module, (list, tuple)) else (module,):
        if isinstance(m, FSDPModule):
            raise AssertionError("Each distinct module can only have one state of fully_shard")
        size = groups.get_world_size() if mesh is None and groups.is_initialized() else (
            1 if mesh is None else mesh.size())
        if size != 1:
            raise NotImplementedError(f"fully_shard: a mesh of {size} processes; lampion does not "
                                      "share parameters out. Use DistributedDataParallel, if the "
                                      "model fits into each process")
        if isinstance(offload_policy, CPUOffloadPolicy) and any(
                not p.is_cpu for p in m.parameters()):
            raise NotImplementedError("fully_shard: CPUOffloadPolicy for parameters on another "
                                      "device")
        cls = type(m)
        if cls not in _classes:
            _classes[cls] = type(f"FSDP{cls.__name__}", (FSDPModule, cls), {})
        m.__class__ = _classes[cls]
        m._mp_policy = mp_policy
    return module


def register_fsdp_forward_method(module: Module, method_name: str) -> None:
    """Treat another method as `forward`: parameters are whole in it as well. AttributeError if
    there is none."""
    if not isinstance(module, FSDPModule):
        return
    if not hasattr(module, method_name):
        raise ValueError(f"{type(module)} does not have a method {method_name}")


def share_comm_ctx(modules: list[FSDPModule]) -> None:
    """Let modules use the same means of moving data: they move none. ValueError for others."""
    if not all(isinstance(m, FSDPModule) for m in modules):
        raise ValueError("share_comm_ctx: expects modules that fully_shard was called with")
