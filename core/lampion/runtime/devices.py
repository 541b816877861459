"""Devices by name, and the memory calls every floor above needs.

Floor 2; imports base and plugins. `resolve` turns what users write into an interned device
with its backend attached.
"""

from __future__ import annotations

from typing import Any

from ..base.device import device


def backend(name: str) -> Any:
    """The backend instance called `name`. PluginError with the cause if it cannot be used."""
    from .. import plugins

    return plugins.backend(name)


def resolve(where: Any) -> device:
    """A device, device string or None (the default device) as a device that can be used.

    Index 0 is dropped from the name when a backend has one device, as `cpu` is written.
    RuntimeError if the index does not exist.
    """
    if where is None:
        return default_device()
    d = where if isinstance(where, device) else device(where)
    if d.backend is None:
        b = backend(d.type)
        if d.index:
            count = len(b.devices())
            if d.index >= count:
                raise RuntimeError(f"device {d} does not exist: backend {d.type!r} has {count} "
                                   f"device{'s' if count != 1 else ''}")
        d.backend = b
    if d.index == 0 and d.backend is not None:
        plain = device(d.type)
        if plain.backend is None:
            plain.backend = d.backend
        return plain
    return d


_default: list[device] = []


def default_device() -> device:
    """The device of factory functions: the innermost of `with device(...)`,
    `set_default_device`, and the configured priority list."""
    if _default:
        return _default[-1]
    from ..plugins.select import default_device as choose

    d = resolve(choose())
    _default.append(d)
    return d


def set_default_device(where: Any) -> None:
    """Make `where` the device of factory functions; None returns to the configuration."""
    del _default[:]
    if where is not None:
        _default.append(resolve(where))


def get_default_device() -> device:
    """The device of factory functions (see `default_device`)."""
    return default_device()


def synchronize(where: Any = None) -> None:
    """Wait for everything enqueued on a device (default: the default device)."""
    d = resolve(where)
    d.backend.synchronize(d)
