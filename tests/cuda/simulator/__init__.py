"""A CUDA driver, kernels and cuBLASLt without a GPU: the whole plug-in on the host's memory.

    simulator.install(devices=2, deferred=True, seed=1)
    x = lampion.randn(4, device="cuda")

`install` builds the libraries (once per machine), loads them under the names libcuda.so.1 and
libcublasLt.so.13, under which the bindings then find them, and gives the plug-in a compiler whose
images run on the host. A process does this once and never talks to a real driver afterwards, nor
before: tests that need it run in a process of their own, or in the session of tests/cuda, whose
conftest.py installs it unless LAMPION_CUDA_REAL=1.

What it checks that a GPU does not say: reads of memory that nobody wrote, in device and shared
memory (poison: NaN, -1); accesses behind an allocation (the process dies); memory used after it was
freed; barriers that not all threads reach; orders of threads and blocks (`order`); work on streams
that nobody ordered (`deferred`, `seed`); what is alive at the end (`counts`). What it cannot:
weak memory order, rounding of the device's functions, time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import hostcc

_installed: list[ctypes.CDLL] = []
_toolchain: list[hostcc.Toolchain] = []

# Settings of the driver with their defaults (see `Settings` in src/driver.h).
SETTINGS = {"devices": 1, "capability": 90, "total_memory": 8 << 30, "driver_version": 13000,
            "units": 4, "init_error": 0, "fail_after_bytes": -1, "fail_launch": 0,
            "fail_code": 719, "peers": 1, "null_launches": 0, "deferred": 0, "seed": 0}
COUNTS = ("allocations", "bytes", "peak_bytes", "pinned", "waiting", "streams", "events",
          "modules", "graphs", "graph_execs", "pools", "launches", "graph_launches", "violations")


def driver_is_loaded() -> bool:
    """Whether this process has a libcuda.so.1 loaded, a real one or this one."""
    try:
        ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    return True


def install(**settings: int) -> None:
    """Load the simulator into this process, with settings by name (see SETTINGS), which the
    environment overrides: LAMPION_SIMULATOR="devices=2,deferred=1,seed=7,order=-1". There, "on"
    sets nothing, but has tests/conftest.py install the simulator, texts=FOLDER keeps the texts of
    kernels for the compile gate, and exact=1 has the plug-in ask for buffers of the size it needs
    instead of some sizes in common, so that a kernel meets the end of the memory at once.

    A second call only changes settings. RuntimeError if a real driver is loaded, or if there is
    no compiler to build with.
    """
    if not _installed:
        if driver_is_loaded():
            raise RuntimeError("a CUDA driver is already loaded into this process: the simulator "
                               "needs a process of its own")
        folder = hostcc.libraries()
        # In the order of their dependencies. Whoever opens them by name gets these: a loader looks
        # at the names of the libraries that it has first.
        loaded = [ctypes.CDLL(str(folder / name)) for name in hostcc.LIBRARIES]
        library = loaded[1]
        library.simulator_get.restype = ctypes.c_int64
        library.simulator_get.argtypes = [ctypes.c_char_p]
        library.simulator_set.argtypes = [ctypes.c_char_p, ctypes.c_int64]
        library.simulator_message.restype = ctypes.c_char_p
        _installed[:] = [library, loaded[0]]
        _replace_compiler()
        # NVIDIA's own cuDNN would end the process that has this driver (see `cudnn.installed`)
        sys.modules.setdefault("cudnn", None)  # type: ignore[arg-type]
    numbers = {name: int(value) for name, value in _environment().items()
               if name not in ("texts", "exact")}
    set(**{**settings, **numbers})


def _environment() -> dict[str, str]:
    pairs = (item.partition("=") for item in os.environ.get("LAMPION_SIMULATOR", "").split(","))
    return {name.strip(): value for name, _, value in pairs if value}


def _replace_compiler() -> None:
    try:
        from lampion_cuda import compiler
    except ImportError:  # the simulator works without the plug-in, too
        return
    folder = _environment().get("texts")
    _toolchain[:] = [hostcc.Toolchain(Path(folder) if folder else None)]
    compiler.use_toolchain(_toolchain[0])
    if int(_environment().get("exact", 0)):
        _exact_buffers()


def _exact_buffers() -> None:
    from lampion_cuda import launch, memory

    def size(nbytes: int) -> int:
        return max(16, -(-nbytes // 16) * 16)

    memory.round_size = launch.round_size = size


def toolchain() -> hostcc.Toolchain:
    """The compiler that the plug-in was given."""
    return _toolchain[0]


def library() -> ctypes.CDLL:
    """The loaded driver. RuntimeError if the simulator is not installed."""
    if not _installed:
        raise RuntimeError("the CUDA simulator is not installed in this process")
    return _installed[0]


def set(**settings: int) -> None:
    """Change settings of the driver, or `order`, in which threads and blocks run: 0 forwards, -1
    backwards, a positive number at random. ValueError if there is no such setting."""
    for name, value in settings.items():
        if name == "order":
            library()
            _installed[1].hc_set_order(int(value))
        elif library().simulator_set(name.encode(), int(value)):
            raise ValueError(f"the simulator has no setting {name!r}: it has "
                             f"{', '.join([*SETTINGS, 'order'])}")


def get(name: str) -> int:
    """A setting or a count. ValueError if there is no such."""
    if name not in SETTINGS and name not in COUNTS:
        raise ValueError(f"the simulator has no setting or count {name!r}")
    return int(library().simulator_get(name.encode()))


def is_installed() -> bool:
    """Whether this process runs on the simulator."""
    return bool(_installed)


def current(name: str) -> int:
    """A setting, `order` included."""
    return int(_installed[1].hc_get_order()) if name == "order" else get(name)


@contextmanager
def using(**settings: int) -> Iterator[None]:
    """Settings for a while."""
    before = {name: current(name) for name in settings}
    set(**settings)
    try:
        yield
    finally:
        set(**before)


def counts() -> dict[str, int]:
    """What is alive, and how much was done, by name."""
    return {name: get(name) for name in COUNTS}


def message() -> str:
    """The last thing that was found wrong."""
    text: bytes = library().simulator_message()
    return text.decode()


def reset() -> None:
    """Forget asynchronous errors, injected failures and violations."""
    library().simulator_reset()

