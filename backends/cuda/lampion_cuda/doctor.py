"""What `lampion doctor` says of CUDA: driver, compiler and libraries, with versions and paths.

Loads the libraries to ask them. Imports this package's driver and compiler.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from typing import Any, NamedTuple

from .compiler import toolchain
from .driver import start


class Library(NamedTuple):
    """A library of NVIDIA's: its name, its name for the loader, the extra that brings it, and the
    function that tells its version ("": none; "*": through a pointer)."""

    name: str
    soname: str
    extra: str
    asks: str
    kind: str


LIBRARIES = (
    Library("cuBLASLt", "cublasLt", "blas", "cublasLtGetVersion", ""),
    Library("cuDNN", "cudnn", "cudnn", "cudnnGetVersion", ""),
    Library("cuFFT", "cufft", "fft", "cufftGetVersion", "*"),
    Library("cuSOLVER", "cusolver", "linalg", "cusolverGetVersion", "*"),
)


def report() -> dict[str, str]:
    """Lines by name."""
    version = start()
    lines = {
        "driver": f"CUDA {version // 1000}.{version % 1000 // 10}{_driver_release()}",
        "NVRTC": f"{'.'.join(map(str, toolchain().version()))}{_path_of('nvrtc')}"}
    lines.update({library.name: _found(library) for library in LIBRARIES})
    lines["cuDNN's frontend"] = _frontend()
    return lines


def _frontend() -> str:
    """The version of the package without which cuDNN is not used."""
    try:
        return importlib.metadata.version("nvidia-cudnn-frontend")
    except importlib.metadata.PackageNotFoundError:
        return 'not found; pip install "lampion-cuda[cudnn]"'


def _driver_release() -> str:
    """The driver's own version, which Linux tells in a file."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:
            words = file.readline().split()
        return next((f", driver {w}" for w in words if w[0].isdigit() and "." in w), "")
    except OSError:
        return ""


def _load(soname: str) -> Any:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return load_nvidia_dynamic_lib(soname)


def _path_of(soname: str) -> str:
    try:
        return f" at {_load(soname).abs_path}"
    except Exception:  # a compiler of another kind, or one that the loader finds by itself
        return ""


def _found(library: Library) -> str:
    try:
        loaded = _load(library.soname)
    except Exception:  # each way of not finding it has an exception of its own
        return f"not found; pip install \"lampion-cuda[{library.extra}]\""
    return f"{_version(library, loaded.abs_path)} at {loaded.abs_path}"


def _version(library: Library, path: Any) -> str:
    try:
        function = getattr(ctypes.CDLL(path), library.asks)
    except (OSError, AttributeError, TypeError):
        return "of unknown version"
    if library.kind == "*":
        number = ctypes.c_int()
        function(ctypes.byref(number))
        value = number.value
    else:
        function.restype = ctypes.c_size_t
        value = function()
    big = 10000 if value >= 100000 or library.soname == "cudnn" else 1000
    return f"{value // big}.{value % big // 100}.{value % 100}"
