"""Devices by name, and the memory calls every floor above needs.

Floor 2; imports base and plugins. `resolve` turns what users write into an interned device
with its backend attached.
"""

from __future__ import annotations

import threading
from typing import Any

from ..base.device import device


def backend(name: str) -> Any:
    """The backend instance called `name`. PluginError with the cause if it cannot be used."""
    from .. import plugins

    return plugins.backend(name)


def resolve(where: Any) -> device:
    """A device, device string or None (the default device) as a device that can be used.

    A name without an index is the backend's current device; where that is always the first,
    index 0 is dropped from the name, as `cpu` is written. RuntimeError if the index does not exist.
    """
    if where is None:
        return default_device()
    d = where if isinstance(where, device) else device(where)
    b = d.backend
    if b is None:
        b = backend(d.type)
        if d.index:
            count = len(b.devices())
            if d.index >= count:
                raise RuntimeError(f"device {d} does not exist: backend {d.type!r} has {count} "
                                   f"device{'s' if count != 1 else ''}")
        d.backend = b
    current = b.current
    if current is None:
        return _attached(device(d.type), b) if d.index == 0 else d
    return _attached(device(d.type, current), b) if d.index is None else d


def _attached(d: device, b: Any) -> device:
    if d.backend is None:
        d.backend = b
    return d


def lasting(where: Any, d: device) -> Any:
    """For keys of caches: what `where` was resolved to, `d`, or `where` itself (a device or its
    name; None is the default device) if it will always mean `d`."""
    if where is None or (d.backend.current is not None and device(where).index is None):
        return d
    return where


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


class _Entered(threading.local):
    """What each thread's `with device(...)` blocks have to restore."""

    def __init__(self) -> None:
        self.before: list[list[device]] = []


_entered = _Entered()


def _enter(self: device) -> device:
    """Make this the device of factory functions inside the block."""
    d = resolve(self)
    _entered.before.append(list(_default))
    _default.append(d)
    return d


def _leave(self: device, *exc: Any) -> None:
    _default[:] = _entered.before.pop()


device.__enter__, device.__exit__ = _enter, _leave  # type: ignore[attr-defined]


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
