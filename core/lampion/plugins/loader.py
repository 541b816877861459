"""Loading plug-ins, each guarded: one that is broken harms nobody but its own users.

`Loader` keeps the records of `discovery`, imports a plug-in when it is first needed, checks its
hooks in a second step, creates backends once, and remembers every exception. pluggy is touched
here and nowhere else; nothing of this module is in the path of an operation. Floor 2: imports
base, config, logging, this package, and `runtime.backend` when a backend has been made.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lampion import config
from lampion.base.errors import PluginError
from lampion.logging import get_logger
from lampion.plugins.plugin_record import BACKENDS, CLI, FOUND, GROUPS, LOADED, OPS, PluginRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from lampion.runtime.backend import Backend, DeviceInfo

__all__ = ["Loader"]

_log = get_logger("plugins")

SLOW = 1.0  # seconds that importing a plug-in may take before that is worth a warning

# What a plug-in of each group must have at least one of.
_NEEDS = {
    BACKENDS: ("lampion_backend",),
    OPS: ("lampion_ops", "lampion_kernels"),
    CLI: ("lampion_cli_commands",),
}


class Loader:
    """The plug-ins of one process. The module `lampion.plugins` holds the one that is used.

    `after_backend` is a list of functions to call after each backend that is made.
    """

    def __init__(self, after_backend: list[Callable[[], object]] | None = None) -> None:
        self._lock = threading.RLock()
        self._records: list[PluginRecord] | None = None
        self._in_process: list[PluginRecord] = []
        self._backends: dict[str, Backend] = {}
        self._devices: dict[str, list[DeviceInfo]] = {}
        self._busy: list[PluginRecord] = []
        self._offered: frozenset[str] | None = None
        self._after = [] if after_backend is None else after_backend
        self._manager: Any = None

    # --- looking ---------------------------------------------------------------------------------

    def records(self, group: str | None = None) -> list[PluginRecord]:
        """All plug-ins, in use or not, of one group or of all; imports none of them."""
        with self._lock:
            if self._records is None:
                from lampion.plugins.discovery import discover

                self._records = discover()
            found = self._in_process + self._records
        return [r for r in found if group is None or r.group == group]

    def record(self, name: str, group: str = BACKENDS) -> PluginRecord:
        """The plug-in that answers to a name; the usable one, if several wheels claim it.

        Raises PluginError when no installed wheel provides it.
        """
        claims = [r for r in self.records(group) if r.name == name]
        if not claims:
            raise self._unknown(name, group)
        return next((r for r in claims if r.usable), claims[0])

    def backend_names(self) -> list[str]:
        """The devices that installed plug-ins provide and that have not failed, sorted."""
        return sorted({r.name for r in self.records(BACKENDS) if r.usable})

    def offered(self) -> frozenset[str]:
        """The devices that can be installed: NAME is one if the meta package `lampion` has an
        extra NAME that brings the wheel `lampion-NAME`. The core itself knows no names."""
        if self._offered is None:
            from lampion.plugins.discovery import offers

            self._offered = offers()
        return self._offered

    # --- loading ---------------------------------------------------------------------------------

    def load(self, record: PluginRecord) -> PluginRecord:
        """Import a plug-in and check its hooks, once. Never raises: look at `record.status`."""
        with self._lock:
            if record.status != FOUND:
                return record
            began = time.perf_counter()
            try:
                record.plugin = record.source = _import(record.module)
            except (Exception, SystemExit) as error:
                record.fail(f"importing {record.module}", error)
            else:
                self._register(record)
                self._configure(record)
            record.seconds = time.perf_counter() - began
        if record.seconds > SLOW:
            _log.warning("slow to load", plugin=record.name, wheel=record.wheel,
                         seconds=round(record.seconds, 2))
        if record.status == LOADED:
            _log.debug("loaded", plugin=record.name, wheel=record.wheel, seconds=record.seconds)
        else:
            _log.info(record.status, plugin=record.name, wheel=record.wheel, why=record.reason)
        return record

    def backend(self, name: str) -> Backend:
        """The backend of a device, made when it is first asked for.

        Raises PluginError that says which plug-in, what went wrong and what to do; its cause is
        the exception of the plug-in.
        """
        made = self._backends.get(name)
        if made is not None:
            return made
        with self._lock:
            made = self._backends.get(name)
            if made is not None:
                return made
            record = self.load(self.record(name))
            if record.status == LOADED:
                self._create(record)
            if record.status == LOADED:
                for callback in self._after:
                    callback()
            if record.status == LOADED:
                self._deprecations(record, self._backends[name])
            if record.status != LOADED:
                self._backends.pop(name, None)
                raise record.problem()
            return self._backends[name]

    def made(self) -> tuple[Backend, ...]:
        """The backends that are in use."""
        return tuple(self._backends.values())

    def devices(self, name: str) -> list[DeviceInfo]:
        """The devices of a backend; asked once, and again after it raised.

        Raises PluginError whose cause is what the backend raised.
        """
        known = self._devices.get(name)
        if known is not None:
            return known
        backend, record = self.backend(name), self.record(name)
        try:
            known = list(backend.devices())
        except Exception as error:
            record.device_error = error
            raise PluginError(
                f"device '{name}' cannot be used: {record.wheel} is installed but finds no device: "
                f"{type(error).__name__}: {error}\n  more: lampion doctor"
            ) from error
        record.device_error = None
        if known:
            self._devices[name] = known
        return known

    def load_ops(self, registry: Any) -> list[PluginRecord]:
        """Load every op plug-in and call its `lampion_ops`, once; returns their records."""
        records = [self.load(r) for r in self.records(OPS)]
        for record in records:
            self.call(record, "lampion_ops", registry=registry)
            if not record.usable:
                _log.warning(
                    "ops are missing", plugin=record.name, wheel=record.wheel, why=record.reason
                )
        return records

    def load_kernels(self, registry: Any) -> list[PluginRecord]:
        """Call `lampion_kernels` of each loaded plug-in that was not asked yet. A backend whose
        plug-in lacks the hook is asked for its `kernels`."""
        records = [r for r in self.records() if r.status == LOADED and r.group != CLI]
        for record in records:
            self.call(record, "lampion_kernels", registry=registry)
            made = self._backends.get(record.name) if record.group == BACKENDS else None
            if made is not None and not record.called & {"lampion_kernels", "kernels"}:
                record.called.add("kernels")
                try:
                    for impl in made.kernels():
                        registry.register_kernel(impl)
                except Exception as error:
                    record.fail("offering its kernels", error)
        return records

    def call(self, record: PluginRecord, hook: str, once: bool = True, **arguments: Any) -> Any:
        """Call one hook of one plug-in; an exception fails the plug-in and is kept.

        Returns what the hook returned; None if the plug-in lacks it, is not loaded or raised.
        """
        with self._lock:
            if record.status != LOADED or hook not in record.hooks:
                return None
            if once and hook in record.called:
                return None
            record.called.add(hook)
            others = [p for p in self._manager.get_plugins() if p is not record.plugin]
            caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
            try:
                results = caller(**arguments)
            except (Exception, SystemExit) as error:
                record.fail(f"in its hook {hook}", error)
                return None
            return results[0] if results else None

    # --- changing --------------------------------------------------------------------------------

    def register(self, plugin: Any, name: str, group: str = BACKENDS) -> PluginRecord:
        """Use a module or an object of this process as a plug-in, without a wheel.

        For notebooks, tutorials and tests. Raises PluginError if the name is taken or the hooks
        are wrong.
        """
        if group not in GROUPS:
            raise PluginError(f"there is no plug-in group '{group}', only {', '.join(GROUPS)}")
        with self._lock:
            if any(r.name == name and r.usable for r in self.records(group)):
                taken = self.record(name, group)
                raise PluginError(f"'{name}' is already provided by {taken.wheel}")
            module = getattr(plugin, "__name__", type(plugin).__name__)
            record = PluginRecord(name, group, module, "(this process)")
            record.plugin = record.source = plugin
            self._register(record)
            self._configure(record)
            if record.status != LOADED:
                raise record.problem()
            self._in_process.append(record)
            return record

    def unregister(self, name: str, group: str = BACKENDS) -> None:
        """Take back a `register`; tensors of the device must be gone."""
        with self._lock:
            record = next((r for r in self._in_process if r.key == (group, name)), None)
            if record is None:
                raise PluginError(f"'{name}' was not registered in this process")
            self._in_process.remove(record)
            self._manager.unregister(record.plugin)
            self._backends.pop(name, None)
            self._devices.pop(name, None)
            space = f"lampion.{name}"
            for module in [m for m in sys.modules if m == space or m.startswith(f"{space}.")]:
                del sys.modules[module]
            vars(sys.modules["lampion"]).pop(name, None)

    def refresh(self) -> None:
        """Look for wheels again, as after `pip install` in a notebook; failed ones get a retry.

        What is loaded stays as it is.
        """
        importlib.invalidate_caches()
        with self._lock:
            kept = [r for r in self._records or [] if r.status == LOADED]
            from lampion.plugins.discovery import discover

            fresh = discover()
            same = {(*r.key, r.distribution): r for r in kept}
            self._records = [same.get((*r.key, r.distribution), r) for r in fresh]
            self._offered = None

    # --- inside ----------------------------------------------------------------------------------

    def _register(self, record: PluginRecord) -> None:
        """Second step: the hooks must be ours and fit. pluggy keeps a plug-in that it rejected,
        so that it has to be taken out again."""
        manager = self._pluggy()
        problem = _misspelt(manager, record.plugin)
        if problem:
            record.refuse(problem, _author(record))
            return
        label = f"{record.group}:{record.name}:{record.distribution}"
        self._share(record)
        try:
            manager.register(record.plugin, label)
            manager.check_pending()
        except Exception as error:
            if manager.has_plugin(label):
                manager.unregister(name=label)
            record.refuse(f"its hooks do not fit: {error}", _author(record), error)
            return
        callers = manager.get_hookcallers(record.plugin) or []
        record.hooks = tuple(sorted(caller.name for caller in callers))
        if not any(need in record.hooks for need in _NEEDS[record.group]):
            manager.unregister(name=label)
            wanted = " or ".join(_NEEDS[record.group])
            record.refuse(f"module {record.module} has no hook {wanted}", _author(record))
            return
        record.status = LOADED
        self._deprecations(record)

    def _share(self, record: PluginRecord) -> None:
        """Let one module stand for several entry points: pluggy wants an object for each. A hook
        is still called once for each group, and once in all if it is of several groups."""
        for other in self.records():
            if other is not record and other.status == LOADED and other.source is record.plugin:
                if other.group != record.group:
                    record.called = other.called
                record.plugin = ModuleType(other.source.__name__)
                record.plugin.__dict__.update(vars(other.source))
                return

    def _pluggy(self) -> Any:
        if self._manager is None:
            from lampion.plugins import hookspecs
            from lampion.plugins.manager import Manager

            self._manager = Manager("lampion")
            self._manager.add_hookspecs(hookspecs)
        return self._manager

    def _create(self, record: PluginRecord) -> None:
        if record in self._busy:
            raise PluginError(f"plug-in {record.wheel} uses its own device while it is being made")
        self._busy.append(record)
        began = time.perf_counter()
        try:
            made = self.call(record, "lampion_backend")
            if record.status == LOADED:
                self._accept(record, made)
        finally:
            self._busy.remove(record)
            record.seconds += time.perf_counter() - began
        if record.status == LOADED:
            _log.debug("backend ready", plugin=record.name, seconds=record.seconds)
        else:
            _log.info(record.status, plugin=record.name, wheel=record.wheel, why=record.reason)

    def _deprecations(self, record: PluginRecord, backend: Any = None) -> None:
        """Keep, and warn about, what a plug-in uses that will go away."""
        from lampion.plugins import api

        for what in api.deprecated(record.hooks, backend):
            if what not in record.deprecated:
                record.deprecated = (*record.deprecated, what)
                warnings.warn(f"plug-in {record.wheel}: {what}", api.PluginDeprecationWarning, 4)

    def _configure(self, record: PluginRecord) -> None:
        """Check the settings of a backend against the options that it declares."""
        schema = self.call(record, "lampion_config_schema")
        if record.group != BACKENDS or not schema:
            return
        try:
            config.register_schema(f"backend.{record.name}", schema)
        except config.ConfigError as error:
            record.fail("reading its options", error)

    def _accept(self, record: PluginRecord, made: Any) -> None:
        """Make the instance if we were given its class, and check that it is what we need."""
        from lampion.runtime.backend import Backend

        try:
            if not isinstance(made, Backend) and callable(made):
                made = made()
        except (Exception, SystemExit) as error:
            record.fail("making its backend", error)
            return
        if not isinstance(made, Backend):
            record.refuse(
                f"lampion_backend gave {made!r}, which is no lampion.runtime.backend.Backend",
                _author(record),
            )
            return
        if made.name not in ("", record.name):
            record.refuse(
                f"its entry point is named '{record.name}' and its backend '{made.name}'",
                _author(record),
            )
            return
        made.name = record.name
        self._backends[record.name] = made

    def _unknown(self, name: str, group: str) -> PluginError:
        import difflib

        kind = {BACKENDS: "device", OPS: "op plug-in", CLI: "command"}[group]
        names = sorted({r.name for r in self.records(group)})
        close = difflib.get_close_matches(name, names, n=1)
        lines = [f"no installed plug-in provides {kind} '{name}'"]
        lines[0] += f" (did you mean '{close[0]}'?)" if close else ""
        lines.append(f"  installed: {', '.join(names) or 'none'}")
        if name in self.offered():
            lines.append(f'  try: pip install "lampion[{name}]"')
        return PluginError("\n".join(lines))


_process: list[Loader] = []
_process_lock = threading.Lock()


def process_loader(after_backend: list[Callable[[], object]]) -> Loader:
    """The loader of this process, made by the first caller."""
    with _process_lock:
        if not _process:
            _process.append(Loader(after_backend))
        return _process[0]


def _import(reference: str) -> Any:
    """The module of an entry point, or, for `module:name`, the object in it."""
    module, _, attribute = reference.partition(":")
    found: Any = importlib.import_module(module.strip())
    for part in filter(None, attribute.strip().split(".")):
        found = getattr(found, part)
    return found


def _misspelt(manager: Any, plugin: Any) -> str:
    """A sentence about functions that look like hooks and are none, or an empty string."""
    import difflib

    from lampion.plugins import hookspecs

    known = [n for n, f in vars(hookspecs).items() if n.startswith("lampion_") and callable(f)]
    wrong = []
    for name in dir(plugin):
        if name in known or manager.parse_hookimpl_opts(plugin, name) is None:
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        wrong.append(f"'{name}'" + (f" (did you mean '{close[0]}'?)" if close else ""))
    if not wrong:
        return ""
    return f"there is no hook {', '.join(wrong)}; hooks are {', '.join(known)}"


def _author(record: PluginRecord) -> str:
    if not record.version:
        return ""
    return (
        f"pip install --upgrade {record.distribution}, or tell its author; "
        "the hooks are described in lampion.plugins.hookspecs"
    )


def is_own_function(plugin: Any, name: str) -> bool:
    """Whether attribute `name` is a function that the plug-in defines, not one it imported."""
    import inspect

    found = getattr(plugin, name, None)
    if not inspect.isroutine(found):
        return False
    return not isinstance(plugin, ModuleType) or found.__module__ == plugin.__name__
