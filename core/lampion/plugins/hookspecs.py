"""Every hook that lampion calls in a plug-in: the whole contract, in the order of a life.

Nothing runs here. A plug-in is a module, named by an entry point, with functions of these names:

    [project.entry-points."lampion.backends"]     a device
    acme = "lampion_acme"
    [project.entry-points."lampion.ops"]          ops, or kernels for somebody's device
    acme-ops = "acme_ops.plugin"
    [project.entry-points."lampion.cli"]          a command, named as the entry point
    acme-top = "lampion_acme.top"
    [project.entry-points."lampion.api"]          the contract it was written for (required)
    acme = "v0_1"

A function may take fewer arguments than its hook has: that is how hooks grow. The decorator
`lampion.plugins.hookimpl` is welcome and not needed. Hooks are called when something is looked
for, never per operation. Floor 2: imports the standard library and, for types, runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

if TYPE_CHECKING:
    import argparse
    from types import ModuleType

    from lampion.config import Option
    from lampion.runtime.backend import Backend

hookspec = pluggy.HookspecMarker("lampion")


class Command(NamedTuple):
    """A command of the `lampion` program: its name, one line of help, arguments, and the work.

    `run` gets the parsed arguments and returns the exit status.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


# --- when a device is first used -----------------------------------------------------------------


@hookspec
def lampion_config_schema() -> Mapping[str, Option | tuple[Any, ...]]:  # type: ignore[empty-body]
    """Options of the table `[backend.NAME]`: option -> (type, default, one line of help).

    Types are bool, int, float, str, list, dict, or a tuple of words to choose from. Read them with
    `lampion.config.get("backend.NAME.option")`.

    Called once, right after the import and before any other hook of this plug-in. A setting that
    does not fit fails the plug-in with an error that names file, key and the nearest known key.

    Group: lampion.backends. Since 0.1.
    """


@hookspec
def lampion_backend() -> Backend | type[Backend] | Callable[[], Backend]:  # type: ignore[empty-body]
    """The backend: an instance, its class, or a function that makes it. The device's only need.

    Called once per process, when the device is first used, never at import. An exception is kept,
    shown by `lampion doctor`, and raised again, with its traceback, wherever the device is used.

    Group: lampion.backends. Since 0.1.
    """


# --- when a program names the device in code ------------------------------------------------------


@hookspec
def lampion_namespace() -> ModuleType:  # type: ignore[empty-body]
    """The module that programs see as `lampion.NAME`, NAME being that of the entry point.

    Called when `lampion.NAME` is first looked up or imported, which may be before
    `lampion_backend` and where there is no device: the module imports without one, and its
    `is_available()` says False. Its attributes that are modules can be imported as submodules.
    Without this hook the device gets `lampion.device_namespaces.DeviceNamespace`.

    Group: lampion.backends. Since 0.2.
    """


@hookspec
def lampion_switches() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """The switches of libraries that the device uses: `lampion.backends.NAME`, by name.

    Each is an object whose class has the switches as properties and functions, and if it can be
    asked, `is_available()` and `version()`; "NAME.part" is for `lampion.backends.NAME.part`. They
    may be asked and set before `lampion_backend` and where there is no device. Switches that no
    plug-in has are remembered and mean nothing.

    Called when a switch of a library is first asked for or set. Group: lampion.backends. Since 0.2.
    """


@hookspec
def lampion_tensor_attributes() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Attributes to add to `Tensor`, by name: functions and properties, for protocols that other
    libraries look for. They must say no on tensors of other devices, a property by AttributeError.

    Called once, after the backend was made. `Tensor.NAME()`, `Tensor.is_NAME` and `Module.NAME()`
    need no hook: every device has them. A name that tensors have fails the call.

    Group: lampion.backends. Since 0.2.
    """


# --- when the op registry is complete ------------------------------------------------------------


@hookspec
def lampion_ops(registry: Any) -> None:
    """Declare ops, with the decorators of the op registry, in a namespace of your own.

    Called once, after the built-in ops exist. They then run on every device, with gradients.

    Group: lampion.ops. Since 0.1.
    """


@hookspec
def lampion_kernels(registry: Any) -> None:
    """Offer kernels: for your own device or for anyone's, with constraints and a priority.

    Called once, after `lampion_ops` of every plug-in. The order of calls means nothing: between
    two kernels that fit, the explicit priority decides.

    Groups: lampion.backends, lampion.ops. Since 0.1.
    """


# --- on the command line -------------------------------------------------------------------------


@hookspec
def lampion_cli_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """Commands of the `lampion` program; the one named as the entry point is run.

    Called when that command is asked for; `lampion --help` shows names without importing anything.

    Group: lampion.cli. Since 0.1.
    """
