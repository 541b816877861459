"""Compiles for the host: the simulator's own libraries, and CUDA kernels as images of the host.

`Toolchain` takes the place of the plug-in's compiler. Everything built is kept on disk under a name
made from all that went into it. Imports lampion.config for the place, and no vendor's package.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "src"
KERNEL_HEADERS = ("hostcuda.h", "hostcuda_math.h", "hostcuda_abi.h")
COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden")
# Kernels are compiled in a fraction of a second and run on little data. They are computed as
# written: no contraction to fused operations, no assumption about aliases of other types.
KERNEL = ("-O1", "-w", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-math-errno",
          "-fwrapv")

# library -> (sources, further arguments of the linker)
LIBRARIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "libhostcuda.so": (("hostcuda.cpp",), ()),
    "libcuda.so.1": (("driver_device.cpp", "driver_memory.cpp", "driver_copy.cpp",
                      "driver_stream.cpp", "driver_graph.cpp", "driver_module.cpp"),
                     ("-L.", "-l:libhostcuda.so", "-ldl", "-pthread")),
    "libcublasLt.so.13": (("cublaslt.cpp",), ("-L.", "-l:libcuda.so.1")),
}

NO_COMPILER = (
    "the CUDA simulator needs a C++ compiler: none of $CXX, g++, clang++ was found. Install one, "
    "or `pip install ziglang`, which brings one.")


@functools.cache
def compiler() -> tuple[str, ...]:
    """The command of a C++ compiler. RuntimeError with the remedy if there is none."""
    chosen = os.environ.get("CXX", "").split()
    for command in ([chosen] if chosen else []) + [["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return tuple(command)
    if importlib.util.find_spec("ziglang") is not None:
        # it would otherwise check for undefined behaviour, and trap
        return (sys.executable, "-m", "ziglang", "c++", "-fno-sanitize=all")
    raise RuntimeError(NO_COMPILER)


@functools.cache
def _compiler_id() -> str:
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True)
    return " ".join([*compiler(), done.stdout, platform.machine()])


def _extra() -> tuple[str, ...]:
    """What makes kernels link sooner: no C++ library, of which they use nothing."""
    if "ziglang" in compiler():
        return ("-nostdlib++", "-lm")
    return ("-nodefaultlibs", "-lm", "-lc", "-lgcc") if _is_gcc() else ("-lm",)


def _is_gcc() -> bool:
    return "Free Software Foundation" in _compiler_id()


def _digest(*parts: str | bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(part.encode() if isinstance(part, str) else part)
        h.update(b"\0")
    return h.hexdigest()[:32]


def cache_folder() -> Path:
    """Where built files are kept: the user's cache, or else a temporary folder."""
    from lampion import config

    folder = config.cache_dir() / "cuda-simulator"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"lampion-cuda-simulator-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _run(command: Sequence[str], what: str, source: str = "", cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        lines = "\n".join(f"{k:4} {line}" for k, line in enumerate(source.split("\n"), 1))
        text = f"\n--- source ---\n{lines}" if source else ""
        raise RuntimeError(f"{what} does not compile for the host:\n{done.stderr}{text}")


# -- the simulator's libraries --------------------------------------------------------------------


@functools.cache
def libraries() -> Path:
    """The folder with the built libraries; builds them if they were not yet."""
    texts = [path.read_bytes() for path in [Path(__file__), *sorted(SOURCES.iterdir())]]
    folder = cache_folder() / f"libraries-{_digest(_compiler_id(), *texts)}"
    if folder.exists():
        return folder
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _build_libraries(aside)
        try:
            aside.rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _build_libraries(folder: Path) -> None:
    def compile_one(source: str) -> None:
        _run([*compiler(), *COMMON, "-O1", "-Wall", "-Wextra", "-pthread", "-c",
              str(SOURCES / source), "-o", f"{source}.o"], source, cwd=folder)

    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        list(workers.map(compile_one, [s for sources, _ in LIBRARIES.values() for s in sources]))
    if _is_gcc():  # it then reads the header in half the time
        shutil.copytree(SOURCES, folder / "include", ignore=shutil.ignore_patterns("*.cpp"))
        _run([*compiler(), *COMMON, *KERNEL, "-x", "c++-header", "include/hostcuda.h", "-o",
              "include/hostcuda.h.gch"], "hostcuda.h", cwd=folder)
    for name, (sources, arguments) in LIBRARIES.items():
        _run([*compiler(), "-shared", *(f"{s}.o" for s in sources), f"-Wl,-soname,{name}",
              "-Wl,-rpath,$ORIGIN", "-o", name, *arguments], name, cwd=folder)
    for path in folder.glob("*.o"):
        path.unlink()


# -- kernels --------------------------------------------------------------------------------------

_ATTRIBUTE = r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?"
_ENTRY = re.compile(r'(?:extern\s+"C"\s+__global__|LMP_KERNEL)\s+' + _ATTRIBUTE + r"void\s+"
                    + _ATTRIBUTE + r"(\w+)\s*\(")


def entry_points(source: str) -> list[str]:
    """The names of the kernels of a text: functions that are extern "C" and __global__.

    >>> entry_points('extern "C" __global__ void __launch_bounds__(64) scale(float *x) {}')
    ['scale']
    """
    return list(dict.fromkeys(_ENTRY.findall(source)))


@functools.cache
def _header_digest() -> str:
    return _digest(*((SOURCES / name).read_bytes() for name in KERNEL_HEADERS))


def kernel_image(source: str, name: str = "kernel") -> bytes:
    """The bytes of a host library with all kernels of a CUDA C text. RuntimeError with the
    compiler's messages and the text if it does not compile."""
    names = entry_points(source)
    if not names:
        raise RuntimeError(f'{name}: no `extern "C" __global__ void` function in the text')
    exports = "\n".join(f"HC_EXPORT({n})" for n in names)
    text = f'#include "hostcuda.h"\n#line 1 "{name}.cu"\n{source}\n{exports}\n'
    key = _digest(_compiler_id(), _header_digest(), repr(KERNEL), text)
    return _cached(cache_folder() / f"{key}.so", lambda out: _compile_kernel(text, name, out))


def _compile_kernel(text: str, name: str, out: Path) -> None:
    source = out.with_suffix(".cpp")
    source.write_text(text)
    try:
        include = libraries() / "include" if _is_gcc() else SOURCES
        _run([*compiler(), *COMMON, *KERNEL, f"-I{include}", str(source), "-o", str(out),
              *_extra()], f"the kernel {name!r}", text)
    finally:
        source.unlink()


def _cached(path: Path, make: Callable[[Path], None]) -> bytes:
    if not path.exists():
        folder = Path(tempfile.mkdtemp(dir=path.parent))
        try:
            make(folder / path.name)
            os.replace(folder / path.name, path)  # whole, or not at all
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return path.read_bytes()


class Toolchain:
    """Stands in for the plug-in's compiler (`lampion_cuda.compiler.use_toolchain`).

    For the compile gate it keeps the texts that it was given: in `texts`, with the kernel's name,
    and, if there is a `folder`, there as NAME-HASH.cu."""

    def __init__(self, folder: Path | None = None, version: tuple[int, int] = (13, 0)) -> None:
        self._version = version
        self.texts: dict[str, str] = {}
        self.folder = folder

    def version(self) -> tuple[int, int]:
        """The (major, minor) version that it claims to have."""
        return self._version

    def image(self, source: str, name: str, arch: str) -> bytes:
        """An image of the host for any architecture."""
        if source not in self.texts:
            self.texts[source] = name
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / f"{name}-{_digest(source)[:16]}.cu").write_text(source)
        return kernel_image(source, name)


# -- kernels without a driver ---------------------------------------------------------------------


class Kernels:
    """The kernels of a text, to be called on NumPy arrays without any driver:
    `Kernels(text)["scale"](grid, block, [array, ctypes.c_float(2)], shared=0, order=-1)`."""

    def __init__(self, source: str) -> None:
        self.runtime = ctypes.CDLL(str(libraries() / "libhostcuda.so"))
        self.runtime.hc_error.restype = ctypes.c_char_p
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(kernel_image(source))
            file.flush()
            self.image = ctypes.CDLL(file.name)

    def __getitem__(self, name: str) -> Callable[..., None]:
        kernel = ctypes.c_char.in_dll(self.image, f"hc_kernel_{name}")

        def run(grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared: int = 0,
                order: int = 0) -> None:
            """RuntimeError if the kernel deadlocks, diverges at a barrier or fails."""
            sizes = [(ctypes.c_uint * 3)(*(*s, 1, 1)[:3]) for s in (grid, block)]
            values = [a if isinstance(a, ctypes._SimpleCData) else ctypes.c_void_p(a.ctypes.data)
                      for a in args]
            table = (ctypes.c_void_p * max(len(values), 1))(*map(ctypes.addressof, values))
            self.runtime.hc_set_order(order)
            if self.runtime.hc_run(ctypes.byref(kernel), *sizes, ctypes.c_size_t(shared), table):
                raise RuntimeError(self.runtime.hc_error().decode())

        return run
