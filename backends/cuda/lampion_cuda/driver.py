"""The driver: loading it, checking its results, and what one opened GPU holds.

One `Device` per GPU: its primary context (shared with other libraries in the process), its
properties, memory pool, current stream and loaded kernels. Importing this loads no driver;
`discover` does. Imports cuda.bindings and lampion's floors 0-2.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from lampion import config
from lampion.logging import get_logger

from .errors import AFTER_FORK, FORKED, NO_BINDINGS, NO_DRIVER, OLD_DRIVER, explain

_log = get_logger("cuda")


def bindings() -> Any:
    """The module cuda.bindings.driver. RuntimeError with the remedy if it is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise RuntimeError(NO_BINDINGS.format(why=error)) from error
    return driver


def check(result: Any, doing: str) -> Any:
    """The values of a driver call's result. Raises what `errors.explain` makes of a failure."""
    code = result[0]
    if code:
        raise explain(code, doing)
    return result[1] if len(result) == 2 else result[1:]


class Found(NamedTuple):
    """One GPU as the driver lists it."""

    index: int
    name: str
    capability: tuple[int, int]
    memory: int
    units: int


_started: list[int] = []
_devices: list[Any] = []  # those opened in this process


def _after_fork() -> None:
    """In a forked child the driver is dead: every way to it gives the error that says so."""
    from .streams import Forked

    if _started:
        FORKED.append(True)
        for d in _devices:
            d.current.stream = Forked()


os.register_at_fork(after_in_child=_after_fork)


def start() -> int:
    """Initialise the driver, once. Its CUDA version, e.g. 13000."""
    refuse_fork()
    if _started:
        return _started[0]
    drv = bindings()
    try:
        check(drv.cuInit(0), "starting the driver")
    except RuntimeError as error:
        # the bindings' own complaint that there is no library comes without a result code
        if "while starting" in str(error):
            raise
        raise RuntimeError(NO_DRIVER.format(why=error)) from error
    version = int(check(drv.cuDriverGetVersion(), "asking for the driver's version"))
    _started.append(version)
    return version


def refuse_fork() -> None:
    """RuntimeError in a process that was forked after the driver had started."""
    if FORKED:
        raise RuntimeError(AFTER_FORK)


def check_versions() -> None:
    """RuntimeError if kernels of the installed compiler would not load with this driver."""
    from .compiler import toolchain

    found, needed = start(), toolchain().version()
    if needed[0] > found // 1000:
        raise RuntimeError(OLD_DRIVER.format(
            found=f"{found // 1000}.{found % 1000 // 10}", needed=".".join(map(str, needed)),
            major=found // 1000))


def discover() -> list[Found]:
    """All GPUs. RuntimeError with the remedy if there is no driver or no GPU."""
    start()
    drv = bindings()
    attribute = drv.CUdevice_attribute
    count = check(drv.cuDeviceGetCount(), "counting GPUs")
    if not count:
        raise explain(100, "counting GPUs")
    check_versions()
    found = []
    for k in range(count):
        d = check(drv.cuDeviceGet(k), f"opening GPU {k}")

        def ask(what: Any, d: Any = d) -> int:
            return int(check(drv.cuDeviceGetAttribute(what, d), "reading GPU properties"))

        name = check(drv.cuDeviceGetName(256, d), "reading a GPU's name")
        found.append(Found(
            k, name.split(b"\0")[0].decode(),
            (ask(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
             ask(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)),
            int(check(drv.cuDeviceTotalMem(d), "reading a GPU's memory")),
            ask(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)))
    return found


class Device:
    """An opened GPU."""

    def __init__(self, found: Found, where: Any) -> None:
        from .dialect import CUDAC
        from .memory import Pool
        from .streams import Current, Stream

        self.drv = drv = bindings()
        self.lock = threading.RLock()
        self.index, self.name, self.where = found.index, found.name, where
        self.capability, self.units, self.memory = found.capability, found.units, found.memory
        self.arch = f"sm_{found.capability[0]}{found.capability[1]}"
        self.handle = check(drv.cuDeviceGet(found.index), "opening a GPU")
        self.context = check(drv.cuDevicePrimaryCtxRetain(self.handle), f"opening {self.name}")
        self.activate()
        self.max_group = self.attribute("MAX_THREADS_PER_BLOCK")
        self.shared_memory = self.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        self.dialect = CUDAC(loose_sums=config.get("backend.cuda.scatter") == "atomic")
        self.pool = Pool(self)
        self.priorities = check(drv.cuCtxGetStreamPriorityRange(), "asking for priorities")
        self.queues: dict[int, list[Any]] = {}  # streams made by programs, by priority
        self.foreign: dict[int, Any] = {}       # streams of other libraries, by handle
        self.default_stream = Stream.fresh(self)
        self.current = Current(self.default_stream)
        self.kernels: dict[str, Any] = {}   # compiled kernels by source text
        self.variants: dict[Any, Any] = {}  # and by kernel and schedule (see `compiler`)
        self.libraries: dict[str, Any] = {}  # handles of vendor libraries, by name
        self.checks: Any = None  # of indices, when the first is made
        self.captures: list[Any] = []  # of graphs, going on
        # held while a compiled program is captured: the driver waits for no GPU meanwhile
        self.quiet = threading.RLock()
        self._peers: dict[int, bool] = {}
        _devices.append(self)

    def attribute(self, name: str) -> int:
        """A `CU_DEVICE_ATTRIBUTE_...` by the end of its name."""
        which = getattr(self.drv.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(check(self.drv.cuDeviceGetAttribute(which, self.handle),
                         "reading GPU properties"))

    def activate(self) -> None:
        """Make this GPU's context the current one of the calling thread."""
        refuse_fork()
        check(self.drv.cuCtxSetCurrent(self.context), f"activating {self.name}")

    @property
    def stream(self) -> Any:
        """The calling thread's current stream."""
        return self.current.stream

    def library(self, name: str, make: Callable[[Device], Any], without: str) -> Any:
        """The vendor library that `make` opens here, or the reason (a str) why there is none. It is
        looked for once; `without` is what the log says if it is missing."""
        if name not in self.libraries:
            with self.lock:
                if name not in self.libraries:
                    try:
                        found = make(self)
                    # loaders and libraries have exceptions of their own for what is missing
                    except Exception as error:
                        found = str(error).strip().split("\n")[0] or type(error).__name__
                        _log.info(without, why=found)
                        if self.current.stream.capture is not None:
                            return found  # a capture may be why: the next call tries again
                    self.libraries[name] = found
        return self.libraries[name]

    def reaches(self, other: Device) -> bool:
        """Whether this GPU can read and write the other's memory; makes it so at the first call.

        The stream-ordered pools are not opened by `cuCtxEnablePeerAccess`, each wants to be told.
        """
        found = self._peers.get(other.index)
        if found is None:
            drv = self.drv
            doing = f"asking whether {self.where} reaches {other.where}"
            found = bool(check(drv.cuDeviceCanAccessPeer(self.handle, other.handle), doing))
            if found:
                entry = drv.CUmemAccessDesc()
                entry.location.type = drv.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
                entry.location.id = self.index
                entry.flags = drv.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                check(drv.cuMemPoolSetAccess(other.pool.handle, [entry], 1), doing)
            self._peers[other.index] = found
        return found

    def finish(self) -> None:
        """Wait for all work of all streams of this GPU."""
        for going_on in (*self.captures, self.current.stream.capture):
            if going_on is not None:
                going_on.refuse("waiting for a GPU")
        self.activate()
        with self.quiet:
            check(self.drv.cuCtxSynchronize(), f"waiting for {self.where}")
        self.poll()

    def poll(self) -> None:
        """Raise the error of an op that has run and found one (see `checks`)."""
        if self.checks is not None and self.checks.waiting:
            self.checks.poll()
