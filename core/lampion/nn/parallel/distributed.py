"""`DistributedDataParallel`: the same module in several processes, with averaged gradients.

Floor 7; imports nn and distributed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lampion
from lampion import distributed
from lampion.distributed.algorithms.join import Join, Joinable, JoinHook
from lampion.distributed.reducing import Reducer
from lampion.nn.modules.module import Module


class DistributedDataParallel(Module, Joinable):
    """`module`, whose gradients are averaged over the processes of a group in backward passes.

    Parameters and buffers are those of the first process, at the start (`init_sync`); buffers
    before every forward pass (`broadcast_buffers`). `bucket_cap_mb` is how many megabytes of
    gradients travel at a time. With `find_unused_parameters` parameters may have no part in a loss.
    The state dict's keys begin with "module.", as PyTorch's. ValueError without a process group
    (`distributed.init_process_group`); RuntimeError for a module that has nothing to train.

    >>> lampion.distributed.init_process_group("gloo", world_size=1, rank=0)
    >>> net = nn.parallel.DistributedDataParallel(nn.Linear(2, 3))
    >>> list(net.state_dict())
    ['module.weight', 'module.bias']
    >>> lampion.distributed.destroy_process_group()
    """

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None,
                 dim: int = 0, broadcast_buffers: bool | None = None, init_sync: bool = True,
                 process_group: Any = None, bucket_cap_mb: float | None = None,
                 find_unused_parameters: bool = False, check_reduction: bool = False,
                 gradient_as_bucket_view: bool = False, static_graph: bool = False,
                 delay_all_reduce_named_params: Any = None, param_to_hook_all_reduce: Any = None,
                 mixed_precision: Any = None, device_mesh: Any = None,
                 skip_all_reduce_unused_params: bool = False,
                 bucket_cap_mb_list: list[int] | None = None, batched_grad_copy: bool = False,
                 forward_sync_buffers: bool | None = None) -> None:
        super().__init__()
        Joinable.__init__(self)
        if mixed_precision is not None:
            raise NotImplementedError("DistributedDataParallel: `mixed_precision` is not in "
                                      "lampion; use torch.autocast")
        if device_mesh is not None:
            process_group = device_mesh.get_group(0)
        group = distributed.groups._the(process_group)
        if not any(p.requires_grad for p in module.parameters()):
            raise RuntimeError("DistributedDataParallel is not needed when a module doesn't have "
                               "any parameter that requires a gradient.")
        if device_ids is not None and len(device_ids) > 1:
            raise ValueError("device_ids can only be None or contain a single element.")
        self.module = module
        self.process_group, self.device_mesh = group, device_mesh
        self.device_ids, self.output_device, self.dim = device_ids, output_device, dim
        self.device = next(module.parameters()).device
        self.broadcast_buffers = broadcast_buffers is not False
        self.find_unused_parameters = find_unused_parameters or static_graph
        self.gradient_as_bucket_view = gradient_as_bucket_view
        self.static_graph = static_graph
        self.require_forward_param_sync = True
        self.parameters_to_ignore = set(getattr(
            module, "_ddp_params_and_buffers_to_ignore", ()))
        if init_sync:
            self._sync([t.detach() for _, t in self._ours(module.named_parameters())] +
                       [t for _, t in self._ours(module.named_buffers())])
        self.reducer = Reducer(self._ours(module.named_parameters()), group, bucket_cap_mb or 25,
                               self.find_unused_parameters)

    def _ours(self, named: Any) -> list[tuple[str, Any]]:
        return [(n, t) for n, t in named if n not in self.parameters_to_ignore]

    def _sync(self, tensors: list[Any]) -> None:
        """Take tensors over from the first process."""
        if self.process_group.size() > 1:
            for t in tensors:
                distributed.broadcast(t, group=self.process_group, group_src=0)

    @property
    def require_backward_grad_sync(self) -> bool:
        """Whether the next backward passes average gradients."""
        return self.reducer.sync

    @require_backward_grad_sync.setter
    def require_backward_grad_sync(self, on: bool) -> None:
        self.reducer.sync = on

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        recording = lampion.is_grad_enabled() and self.reducer.sync
        if recording and self.process_group.size() > 1:
            there = Join.notify_join_context(self)
            if there is not None:
                there.wait()
                config = self._join_config
                self.reducer.divisor = self.process_group.size() if (
                    config.divides_by_initial) else int(there.result()[0])
        if self.broadcast_buffers and self.require_forward_param_sync and self.training:
            self._sync([t for _, t in self._ours(self.module.named_buffers())])
        outputs = self.module(*inputs, **kwargs)
        if recording:
            self.reducer.prepare(outputs)
        return outputs

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Add gradients up without averaging them over the group."""
        before, self.reducer.sync = self.reducer.sync, False
        try:
            yield
        finally:
            self.reducer.sync = before

    def register_comm_hook(self, state: Any, hook: Any) -> None:
        """Let `hook(state, bucket)` combine gradients: it gives a future of a row of numbers. It
        can be said once."""
        if not callable(hook):
            raise TypeError("Communication hook must be callable.")
        if self.reducer.hook is not None:
            raise RuntimeError("register_comm_hook or register_builtin_comm_hook can only be "
                               "called once.")
        self.reducer.state, self.reducer.hook = state, hook

    # ---- processes with unequal numbers of batches

    def join(self, divide_by_initial_world_size: bool = True, enable: bool = True,
             throw_on_early_termination: bool = False) -> Join:
        """A block in which processes may have unequal numbers of batches: those that are done take
        part in the others' backward passes, without gradients. Averages divide by the size of the
        group, or by the number of those that are not done."""
        return Join([self], enable, throw_on_early_termination,
                    divide_by_initial_world_size=divide_by_initial_world_size)

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """What a process does that is done."""
        self._join_config.divides_by_initial = kwargs.get("divide_by_initial_world_size", True)
        return _Shadow(self)

    @property
    def join_device(self) -> Any:
        """The device of the parameters."""
        return self.device

    @property
    def join_process_group(self) -> Any:
        """The group."""
        return self.process_group


class _Shadow(JoinHook):
    """Takes part in the steps of processes that are not done."""

    def __init__(self, ddp: DistributedDataParallel) -> None:
        self.ddp = ddp

    def main_hook(self) -> None:
        ddp = self.ddp
        if ddp.broadcast_buffers and ddp.require_forward_param_sync and ddp.training:
            ddp._sync([t for _, t in ddp._ours(ddp.module.named_buffers())])
        ddp.reducer.shadow()

    def post_hook(self, is_last_joiner: bool) -> None:
        ddp = self.ddp
        flags = [None] * ddp.process_group.size()
        distributed.all_gather_object(flags, is_last_joiner, ddp.process_group)
        last = max(k for k, flag in enumerate(flags) if flag)
        with lampion.no_grad():
            for t in ddp.module.parameters():
                distributed.broadcast(t, group=ddp.process_group, group_src=last)
