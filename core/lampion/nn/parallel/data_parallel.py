"""`DataParallel`: the module behind a name, so that state dicts have PyTorch's keys. Floor 7."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from lampion.nn.modules.module import Module


class DataParallel(Module):
    """`module`, run on one device: batches are not split over `device_ids`.

    The state dict's keys begin with "module.", as PyTorch's. Results do not depend on how many
    devices share a batch, except for what layers such as batch norm see of it; naming several
    devices warns once that the first one does the work. `module` must be there already.

    >>> nn.DataParallel(nn.Linear(2, 3)).state_dict().keys()
    odict_keys(['module.weight', 'module.bias'])
    """

    def __init__(self, module: Module, device_ids: Sequence[Any] | None = None,
                 output_device: Any = None, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.module = module
        self.device_ids = list(device_ids or [])
        self.output_device = output_device if output_device is not None else (
            self.device_ids[0] if self.device_ids else None)
        if len(self.device_ids) > 1:
            warnings.warn(f"DataParallel: devices {self.device_ids} are named; the batch is not "
                          "split, the device that holds the module does all the work",
                          stacklevel=2)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def data_parallel(module: Module, inputs: Any, device_ids: Sequence[Any] | None = None,
                  output_device: Any = None, dim: int = 0, module_kwargs: Any = None) -> Any:
    """`module(*inputs)`, on the device that holds the module.

    >>> nn.parallel.data_parallel(nn.Identity(), lampion.ones(2))
    tensor([1., 1.])
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return module(*given, **(module_kwargs or {}))
