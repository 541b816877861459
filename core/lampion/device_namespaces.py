"""`lampion.NAME` and `import lampion.NAME` for a device NAME, and the methods named after devices.

A plug-in's hook `lampion_namespace` gives the module of its device; a plug-in without the hook, or
one that cannot be used, gets `DeviceNamespace`, which asks the backend and answers truthfully that
there is no device. A device that is not installed has a namespace if the meta package offers to
install it, so that programs may ask `is_available()` of what is not there; the core knows no names.
Floor 7; imports plugins and, when asked, the tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import plugins
from .base.errors import OutOfMemoryError

_PACKAGE = __package__
also_named: set[str] = set()  # devices that programs may name although nothing here provides them
_busy: set[str] = set()  # names that are being looked for: the look-up itself imports


def find(name: str) -> Any:
    """The namespace of the device called `name`; None if no plug-in provides or knows it."""
    if name.startswith("_") or not name.isidentifier() or name in _busy:
        return None
    _busy.add(name)
    try:
        records = [r for r in plugins.records("lampion.backends") if r.name == name]
        if not records:
            known = name in also_named or name in plugins.offered()
            return DeviceNamespace(name) if known else None
        record = plugins.load(next((r for r in records if r.usable), records[0]))
        made = plugins.call(record, "lampion_namespace", once=False)
        if made is None:
            return DeviceNamespace(name)
        if not hasattr(made, "__path__"):
            made.__path__ = []  # it may have submodules
        sys.modules[f"{_PACKAGE}.{name}"] = made
        setattr(sys.modules[_PACKAGE], name, made)  # the next look-up is a plain one
        return made
    finally:
        _busy.discard(name)


class _Absent:
    """Base of the classes that stand for what a missing device would have."""

    _device = _what = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"{_PACKAGE}.{self._device}.{self._what} needs the device "
                           f"'{self._device}': {_why_not(self._device)}")


class DeviceNamespace(ModuleType):
    """`lampion.NAME` of a device whose plug-in brings no namespace of its own, or is not usable.

    Questions are answered for what is there: without the device, `is_available()` is False and
    sizes are 0. What needs the device raises the reason why there is none.
    """

    OutOfMemoryError = OutOfMemoryError

    def __init__(self, name: str) -> None:
        super().__init__(f"{_PACKAGE}.{name}", f"The device {name}.")
        self._device = name
        self.__path__: list[str] = []
        for kind in ("Stream", "Event"):
            setattr(self, kind, type(kind, (_Absent,), {"_device": name, "_what": kind}))

    def __getattr__(self, name: str) -> Any:
        if name == "amp":  # mixed precision is the same on every device
            from .amp.autocast_mode import of_device

            self.amp = of_device(self._device)
            return self.amp
        raise AttributeError(f"{self.__name__} has no attribute {name!r}: "
                             f"{_why_not(self._device) or 'its plug-in does not provide it'}")

    def _devices(self) -> Sequence[Any]:
        try:
            return plugins.devices(self._device)
        except plugins.PluginError:
            return ()

    def _used(self, device: Any = None) -> Any:
        """The device of an argument: a device, a name, an index or None."""
        from .runtime.devices import resolve

        return resolve(f"{self._device}:{device}" if isinstance(device, int)
                       else device or self._device)

    def is_available(self) -> bool:
        """Whether there is a device of this kind that works."""
        return bool(self._devices())

    def device_count(self) -> int:
        """Number of devices."""
        return len(self._devices())

    @property
    def _initialized(self) -> bool:
        return self.is_initialized()

    def is_initialized(self) -> bool:
        """Whether the device has been used."""
        from .base.device import device

        return device(self._device).backend is not None

    def current_device(self) -> int:
        """The index that the name without an index means."""
        return self._used().index or 0

    def get_device_name(self, device: Any = None) -> str:
        """What the device is called by its maker."""
        return str(plugins.devices(self._device)[self._used(device).index or 0].name)

    def synchronize(self, device: Any = None) -> None:
        """Wait for everything enqueued."""
        d = self._used(device)
        d.backend.synchronize(d)

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """Bytes by name, as far as the backend counts them."""
        if not self.is_available():
            return {}
        d = self._used(device)
        return dict(d.backend.memory_stats(d))

    def memory_allocated(self, device: Any = None) -> int:
        """Bytes of live tensors."""
        return self.memory_stats(device).get("allocated", 0)

    def max_memory_allocated(self, device: Any = None) -> int:
        """The most that was allocated so far."""
        return self.memory_stats(device).get("peak", 0)

    def memory_reserved(self, device: Any = None) -> int:
        """Bytes taken from the system."""
        return self.memory_stats(device).get("reserved", 0)

    def empty_cache(self) -> None:
        """Give cached memory back to the system."""
        if self.is_initialized():
            self._used().backend.empty_cache()

    def manual_seed(self, seed: int) -> None:
        """Start the stream of random numbers of `seed` on the current device."""
        self._seed(seed, [self._device])

    def manual_seed_all(self, seed: int) -> None:
        """Start the stream of random numbers of `seed` on all devices of this kind."""
        self._seed(seed, [f"{self._device}:{k}" for k in range(self.device_count())])

    def get_rng_state(self, device: Any = None) -> Any:
        """The state of a device's random numbers."""
        from .random import generator_of

        return generator_of(self._used(device)).get_state()

    def get_rng_state_all(self) -> list[Any]:
        """The states of all devices of this kind."""
        return [self.get_rng_state(k) for k in range(self.device_count())]

    def set_rng_state(self, new_state: Any, device: Any = None) -> None:
        """Put a device's random numbers into a state."""
        from .random import generator_of

        generator_of(self._used(device)).set_state(new_state)

    def set_rng_state_all(self, new_states: Any) -> None:
        """Put the devices of this kind into the states that `get_rng_state_all` gave."""
        for k, state in enumerate(new_states):
            self.set_rng_state(state, k)

    def _seed(self, seed: int, names: list[str]) -> None:
        from .random import generator_of, seed_value

        seed_value(seed)
        if self.is_available():
            for name in names:
                generator_of(self._used(name)).manual_seed(seed)


def _why_not(name: str) -> str:
    """Why a device cannot be used and what to do; empty if it can."""
    try:
        return "" if plugins.devices(name) else f"its plug-in finds no device '{name}'"
    except plugins.PluginError as error:
        return str(error)


# ---- import lampion.NAME -----------------------------------------------------------------------

class _Finder:
    """Finds `lampion.NAME` and its submodules: what no file provides and `find` does. A submodule
    of a namespace, or of a module with `open_names`, is any module that is an attribute of it."""

    @staticmethod
    def find_spec(fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The import system asks this last, for modules that no file provides."""
        head, _, rest = fullname.partition(".")
        if head != _PACKAGE or not rest:
            return None
        parent, _, name = rest.rpartition(".")
        if not parent:
            found = find(name)
        else:
            owner = sys.modules.get(f"{head}.{parent}")
            # vars: the module's own look-up of missing names may import, which would ask us again
            opened = owner is not None and "open_names" in vars(owner)
            if not (opened or parent.partition(".")[0] in device_names()):
                return None
            found = getattr(owner, name, None)
        if found is None or (parent and not isinstance(found, ModuleType)):
            return None
        return ModuleSpec(fullname, _Loader(found), is_package=True)


class _Loader:
    """Gives a module that exists, as it is."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.spec = getattr(module, "__spec__", None)

    def create_module(self, spec: ModuleSpec) -> Any:
        """The module itself."""
        return self.module

    def exec_module(self, module: Any) -> None:
        """Undo what the import system changed."""
        module.__spec__ = self.spec


# ---- Tensor.NAME(), Tensor.is_NAME, Module.NAME() ----------------------------------------------

def mover(name: str) -> Callable[..., Any]:
    """The method `NAME(device=None)` of tensors and modules that moves to the device."""
    def move(self: Any, device: Any = None, non_blocking: bool = False,
             memory_format: Any = None) -> Any:
        where = f"{name}:{device}" if isinstance(device, int) else device or name
        extra = {} if memory_format is None else {"memory_format": memory_format}
        return self.to(device=where, non_blocking=non_blocking, **extra)

    move.__name__ = name
    move.__doc__ = f"Move to the device `{name}` (or `{name}:index`)."
    return move


def is_on(name: str) -> property:
    """The property `is_NAME` of tensors."""
    return property(lambda self: self.meta.device.type == name,
                    doc=f"Whether this is on a device called {name}.")


def device_names() -> set[str]:
    """The devices of installed plug-ins, usable or not, and those that could be installed."""
    from .plugins.discovery import is_device_name

    named = {r.name for r in plugins.records("lampion.backends") if is_device_name(r.name)}
    return named | set(plugins.offered()) | also_named


def module_method(name: str) -> Callable[..., Any] | None:
    """The method of `nn.Module` that moves it to the device called `name`, if there is such."""
    return None if name.startswith("_") or name not in device_names() else mover(name)


_attached: set[str] = set()


def attach_names() -> None:
    """Give tensors `NAME()` and `is_NAME` for all devices that are known by now."""
    from .tensor import Tensor

    for name in device_names() - _attached:
        _attached.add(name)
        for attribute, value in ((name, mover(name)), (f"is_{name}", is_on(name))):
            if not hasattr(Tensor, attribute):
                setattr(Tensor, attribute, value)


def attach() -> None:
    """Give tensors the methods of all devices. Called after each backend that is made, which is
    before its first tensor."""
    from .tensor import Tensor

    attach_names()
    for record in plugins.records("lampion.backends"):
        given = plugins.call(record, "lampion_tensor_attributes")
        for attribute, value in (given or {}).items():
            if hasattr(Tensor, attribute):
                record.fail("in its hook lampion_tensor_attributes",
                            AttributeError(f"tensors have an attribute {attribute!r} already"))
                break
            setattr(Tensor, attribute, value)


plugins.on_backend(attach)
sys.meta_path.append(_Finder)  # type: ignore[arg-type]
