"""`DistributedDataParallel` in a process group of one: gradients are complete as they are.

Floor 7; imports nn and distributed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lampion import distributed
from lampion.nn.modules.module import Module


class DistributedDataParallel(Module):
    """`module`, whose gradients are averaged over the processes of a group: over one.

    The state dict's keys begin with "module.", as PyTorch's. ValueError without a process group
    (`distributed.init_process_group`); RuntimeError for a module that has nothing to train.

    >>> lampion.distributed.init_process_group("gloo", world_size=1, rank=0)
    >>> net = nn.parallel.DistributedDataParallel(nn.Linear(2, 3))
    >>> list(net.state_dict())
    ['module.weight', 'module.bias']
    >>> lampion.distributed.destroy_process_group()
    """

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None,
                 dim: int = 0, broadcast_buffers: bool = True, init_sync: bool = True,
                 process_group: Any = None, bucket_cap_mb: float | None = None,
                 find_unused_parameters: bool = False, check_reduction: bool = False,
                 gradient_as_bucket_view: bool = False, static_graph: bool = False,
                 delay_all_reduce_named_params: Any = None, param_to_hook_all_reduce: Any = None,
                 mixed_precision: Any = None, device_mesh: Any = None,
                 skip_all_reduce_unused_params: bool = False,
                 batched_grad_copy: bool = False) -> None:
        super().__init__()
        if mixed_precision is not None or device_mesh is not None:
            raise NotImplementedError("DistributedDataParallel: `mixed_precision` and "
                                      "`device_mesh` are not in lampion; use torch.autocast")
        distributed.get_world_size(process_group)
        if not any(p.requires_grad for p in module.parameters()):
            raise RuntimeError("DistributedDataParallel is not needed when a module doesn't have "
                               "any parameter that requires a gradient.")
        if device_ids is not None and len(device_ids) > 1:
            raise ValueError("device_ids can only be None or contain a single element.")
        self.module = module
        self.process_group = process_group
        self.device_ids, self.output_device, self.dim = device_ids, output_device, dim
        self.device = next(module.parameters()).device
        self.broadcast_buffers = broadcast_buffers
        self.find_unused_parameters = find_unused_parameters
        self.gradient_as_bucket_view = gradient_as_bucket_view
        self.static_graph = static_graph
        self.require_backward_grad_sync = True
        self.require_forward_param_sync = True

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Add gradients up without averaging them over the group."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    @contextmanager
    def join(self, divide_by_initial_world_size: bool = True, enable: bool = True,
             throw_on_early_termination: bool = False) -> Iterator[None]:
        """For processes with unequal numbers of batches: one has none to wait for."""
        yield
