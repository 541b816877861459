"""Pinned memory: memory of the host that devices copy from and to without anyone waiting.

`Tensor.pin_memory()` and `is_pinned()`, and the same for batches of a data loader. The memory is a
backend's (`Backend.pinned`); where no device has such, tensors stay where they are. Floor 6;
imports tensor, conversion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import plugins
from .base.device import device as Device
from .base.meta import meta
from .conversion import raw_copy
from .ops import plans as P
from .runtime.devices import default_device
from .tensor import Tensor, make_tensor


def _candidates() -> Iterator[Any]:
    """Backends that may have pinned memory: the default device's, those in use, then the others."""
    yield default_device().backend
    yield from plugins.made()
    for name in plugins.backend_names():
        try:
            yield plugins.backend(name)
        except plugins.PluginError:
            continue


def _block(nbytes: int, device: Any = None) -> Any:
    """Pinned memory of a device, or of the first that has any; None if none has."""
    if device is not None:
        return plugins.backend(Device(device).type).pinned(nbytes)
    for backend in _candidates():
        block = backend.pinned(nbytes)
        if block is not None:
            return block
    return None


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """A copy in pinned memory, from which `to(device, non_blocking=True)` returns at once; the
    tensor itself if it is pinned, or if no device has such memory.

    `device`: whose memory, if several devices have some. RuntimeError for tensors off the host.
    """
    m = self.meta.plain
    host = P.backend_of(m.device)
    if "host-memory" not in host.capabilities(0).features:
        raise RuntimeError(f"cannot pin a tensor on {m.device}: only dense tensors of the host "
                           "can be pinned")
    if not m.numel or is_pinned(self, device):
        return self
    dense = m if m.span == m.nbytes and not m.overlapping else meta(m.dtype, m.shape, None,
                                                                   m.device)
    block = _block(dense.span, device)
    if block is None:
        return self
    storage = host.wrap_host(block.pointer, dense.span, block, dense.device)
    pinned = make_tensor(storage, dense, None)
    raw_copy(self, pinned)
    return pinned


def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the memory is pinned (for a device, or for any in use)."""
    if "host-memory" not in P.backend_of(self.meta.device).capabilities(0).features:
        return False
    backends = plugins.made() if device is None else [plugins.backend(Device(device).type)]
    return any(backend.is_pinned(self.data_) for backend in backends)


def pin(batch: Any, device: Any = None) -> Any:
    """A batch with its tensors pinned: in mappings, sequences, named tuples, and objects with a
    method `pin_memory`."""
    if isinstance(batch, Tensor):
        return pin_memory(batch, device)
    if hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, (str, bytes)):
        return batch
    if isinstance(batch, Mapping):
        values = {k: pin(v, device) for k, v in batch.items()}
        try:
            return values if type(batch) is dict else type(batch)(values)  # type: ignore[call-arg]
        except TypeError:
            return values
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*[pin(v, device) for v in batch])
    if isinstance(batch, Sequence):
        items = [pin(v, device) for v in batch]
        try:
            return items if type(batch) is list else type(batch)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    return batch


Tensor.pin_memory = pin_memory  # type: ignore[attr-defined]
Tensor.is_pinned = is_pinned  # type: ignore[attr-defined]
