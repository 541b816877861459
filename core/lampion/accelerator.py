"""The device that is not the host, whatever it is called: questions that do not name it.

It is the default device, or the first other installed device that works. Floor 7.
"""

from __future__ import annotations

from typing import Any

from . import plugins
from .base.device import device
from .base.device import device as _device


def current_accelerator(check_available: bool = False) -> device | None:
    """The device other than the host that programs should use; None if there is none."""
    from .runtime.devices import default_device

    names = [default_device().type, *(r.name for r in plugins.records("lampion.backends"))]
    for name in names:
        if name != "cpu" and _count(name):
            return device(name)
    return None


def _count(name: str) -> int:
    try:
        return len(plugins.devices(name))
    except plugins.PluginError:
        return 0


def is_available() -> bool:
    """Whether there is a device other than the host."""
    return current_accelerator() is not None


def device_count() -> int:
    """How many of them there are."""
    found = current_accelerator()
    return 0 if found is None else _count(found.type)


def _namespace() -> Any:
    from . import device_namespaces

    found = current_accelerator()
    if found is None:
        raise RuntimeError("there is no device other than the host; `lampion devices` lists them")
    return device_namespaces.find(found.type)


def current_device_index() -> int:
    """The index of the one in use."""
    return int(_namespace().current_device())


current_device_idx = current_device_index


def set_device_index(device: Any, /) -> None:
    """Use another of them."""
    _namespace().set_device(device)


set_device_idx = set_device_index


def synchronize(device: Any = None, /) -> None:
    """Wait for everything enqueued."""
    _namespace().synchronize(device)


def current_stream(device: Any = None, /) -> Any:
    """The current stream, where devices have streams."""
    return _namespace().current_stream(device)


def set_stream(stream: Any) -> None:
    """Make a stream the current one."""
    _namespace().set_stream(stream)


def empty_cache() -> None:
    """Give cached memory back."""
    _namespace().empty_cache()


def memory_stats(device: Any = None, /) -> Any:
    """Bytes by name."""
    return _namespace().memory_stats(device)


def memory_allocated(device: Any = None, /) -> int:
    """Bytes of live tensors."""
    return int(_namespace().memory_allocated(device))


def max_memory_allocated(device: Any = None, /) -> int:
    """The most so far."""
    return int(_namespace().max_memory_allocated(device))


def memory_reserved(device: Any = None, /) -> int:
    """Bytes taken from the system."""
    return int(_namespace().memory_reserved(device))


def max_memory_reserved(device: Any = None, /) -> int:
    """The most so far."""
    return int(_namespace().max_memory_reserved(device))


def reset_peak_memory_stats(device: Any = None, /) -> None:
    """Start counting peaks anew."""
    _namespace().reset_peak_memory_stats(device)


def get_device_module(device: Any = None) -> Any:
    """The module of a device's functions (`lampion.NAME`); of the accelerator's, or the
    processor's, without an argument. RuntimeError if there is none."""
    import lampion

    where = current_accelerator() or _device("cpu") if device is None else _device(device)
    found = getattr(lampion, where.type, None)
    if found is None:
        raise RuntimeError(f"there is no module for the device '{where}'")
    return found


__all__ = [n for n in dict(globals()) if not n.startswith("_") and n not in (
    "annotations", "Any", "device", "plugins", "get_device_module")]
