"""Plug-ins: found by entry points, loaded when needed, each guarded.

Importing this package imports neither pluggy nor any plug-in. The contract is `hookspecs`; the
functions below are those of the one `Loader` of this process. Floor 2.

    names = plugins.backend_names()        # ['acme', 'cpu']
    backend = plugins.backend("acme")      # imports it, or raises PluginError with its cause
    for record in plugins.records(): ...   # what `lampion doctor` shows
"""

from __future__ import annotations

from typing import Any

from lampion.base.errors import PluginError
from lampion.plugins.loader import Loader
from lampion.plugins.records import PluginRecord

__all__ = [
    "PluginError",
    "PluginRecord",
    "backend",
    "backend_names",
    "call",
    "devices",
    "hookimpl",
    "load",
    "load_kernels",
    "load_ops",
    "record",
    "records",
    "refresh",
    "register",
    "unregister",
]

_loader = Loader()

records = _loader.records
record = _loader.record
backend_names = _loader.backend_names
backend = _loader.backend
devices = _loader.devices
load = _loader.load
load_ops = _loader.load_ops
load_kernels = _loader.load_kernels
call = _loader.call
register = _loader.register
unregister = _loader.unregister
refresh = _loader.refresh


def __getattr__(name: str) -> Any:
    if name == "hookimpl":  # the decorator for plug-ins; made late, since it needs pluggy
        import pluggy

        globals()["hookimpl"] = marker = pluggy.HookimplMarker("lampion")
        return marker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
