"""Plug-ins: found by entry points, loaded when needed, each guarded.

Importing this package imports neither the loader, nor pluggy, nor any plug-in. The contract is
`hookspecs`; the functions below are those of the one `Loader` of this process. Floor 2.

    names = plugins.backend_names()        # ['acme', 'cpu']
    backend = plugins.backend("acme")      # imports it, or raises PluginError with its cause
    for record in plugins.records(): ...   # what `lampion doctor` shows
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lampion.base.errors import PluginError

if TYPE_CHECKING:
    from lampion.plugins.loader import Loader
    from lampion.plugins.plugin_record import PluginRecord

    _typed = Loader()
    records, record, backend_names = _typed.records, _typed.record, _typed.backend_names
    backend, devices, load, call = _typed.backend, _typed.devices, _typed.load, _typed.call
    load_ops, load_kernels = _typed.load_ops, _typed.load_kernels
    register, unregister, refresh = _typed.register, _typed.unregister, _typed.refresh
    offered, made = _typed.offered, _typed.made
    hookimpl: Any

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
    "made",
    "offered",
    "on_backend",
    "record",
    "records",
    "refresh",
    "register",
    "unregister",
]

_OF_THE_LOADER = {*__all__} - {"PluginError", "PluginRecord", "hookimpl", "on_backend"}

_after_backend: list[Callable[[], object]] = []


def on_backend(callback: Callable[[], object]) -> None:
    """Call `callback` after each backend that is made, before anyone gets it.

    The op registry collects kernels so; plug-ins use the hook `lampion_kernels`.
    """
    _after_backend.append(callback)


def __getattr__(name: str) -> Any:
    """The functions of the loader, which is made when the first of them is used."""
    if name in _OF_THE_LOADER:
        from lampion.plugins.loader import process_loader

        loader = process_loader(_after_backend)
        for function in _OF_THE_LOADER:
            globals()[function] = getattr(loader, function)
        return globals()[name]
    if name == "PluginRecord":
        from lampion.plugins.plugin_record import PluginRecord

        return PluginRecord
    if name == "hookimpl":  # the decorator for plug-ins; made late, since it needs pluggy
        import pluggy

        globals()["hookimpl"] = marker = pluggy.HookimplMarker("lampion")
        return marker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
