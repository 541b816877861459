"""From kernel IR to loaded kernels: picks the schedule, prints, compiles with NVRTC, loads.

Compiled kernels are kept on disk, by source, options and compiler version. `toolchain` is what
turns text into an image; a simulator may put its own in its place. Imports lampion.ir, lampion's
floors 0-2 and this package's driver.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion import config
from lampion.ir import cfamily_threads
from lampion.ir.cfamily_lanes import sizes
from lampion.ir.kernel import Kernel
from lampion.ir.math import expand_kernel
from lampion.logging import get_logger

from .driver import check
from .errors import NO_NVRTC

if TYPE_CHECKING:
    from .driver import Device

_log = get_logger("cuda")


class NVRTC:
    """NVIDIA's run-time compiler: CUDA C++ text to a cubin. Needs neither a GPU nor a driver."""

    options = ("--std=c++17", "--device-as-default-execution-space", "--fmad=false",
               "--generate-line-info")

    def __init__(self) -> None:
        try:
            from cuda.bindings import nvrtc

            self._nvrtc = nvrtc
            _, *version = nvrtc.nvrtcVersion()
        except (ImportError, RuntimeError, OSError) as error:
            raise RuntimeError(NO_NVRTC.format(why=error)) from error
        self._version = (int(version[0]), int(version[1]))

    def version(self) -> tuple[int, int]:
        """The compiler's (major, minor) version."""
        return self._version

    def image(self, source: str, name: str, arch: str) -> bytes:
        """A cubin for `arch` ("sm_90"), from the cache if it was made before."""
        options = [*self.options, f"--gpu-architecture={arch}"]
        key = hashlib.sha256("\0".join([str(self._version), *options, source]).encode())
        return _cached(f"{key.hexdigest()[:40]}.cubin",
                       lambda: self.compile(source, name, options)[0])

    def compile(self, source: str, name: str, options: Sequence[str]) -> tuple[bytes, str]:
        """(cubin, the compiler's log). RuntimeError with log and text if it does not compile."""
        n = self._nvrtc
        text = [o.encode() for o in options]
        code, program = n.nvrtcCreateProgram(source.encode(), f"{name}.cu".encode(), 0, [], [])
        self._ok(code, name)
        try:
            failed = n.nvrtcCompileProgram(program, len(text), text)[0]
            size = n.nvrtcGetProgramLogSize(program)[1]
            log = bytearray(size)  # never bytes: those of length 1 are shared by all of Python
            n.nvrtcGetProgramLog(program, log)
            said = bytes(log).rstrip(b" \0").decode(errors="replace")
            if failed:
                lines = source.split("\n")
                numbered = "\n".join(f"{k:4} {line}" for k, line in enumerate(lines, 1))
                raise RuntimeError(
                    f"NVRTC {'.'.join(map(str, self._version))} refused the kernel {name!r} "
                    f"({' '.join(options)}):\n{said}\n--- source ---\n{numbered}")
            size = self._ok(*n.nvrtcGetCUBINSize(program), name=name)
            image = bytearray(size)
            self._ok(n.nvrtcGetCUBIN(program, image)[0], name)
            return bytes(image), said
        finally:
            n.nvrtcDestroyProgram(program)

    def _ok(self, code: Any, value: Any = None, name: str = "") -> Any:
        if code:
            text = self._nvrtc.nvrtcGetErrorString(code)[1]
            raise RuntimeError(f"NVRTC failed on the kernel {name or value!r}: {text!r}")
        return value


def _cached(file: str, make: Any) -> bytes:
    """The bytes of a file in the cache, made if it is missing; without a cache, made anew."""
    try:
        folder = config.cache_dir() / "cuda"
        path = folder / file
        if path.exists():
            return path.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.info("kernel cache unusable", why=str(error))
        return bytes(make())
    image = bytes(make())
    try:
        # written aside and renamed, so that no other process sees half a file
        handle, temporary = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as out:
            out.write(image)
        os.replace(temporary, path)
    except OSError as error:
        _log.info("kernel cache unusable", why=str(error))
    return image


_toolchain: list[Any] = []


def toolchain() -> Any:
    """What compiles: an object with `version()` and `image(source, name, arch)`."""
    if not _toolchain:
        _toolchain.append(NVRTC())
    return _toolchain[0]


def use_toolchain(other: Any) -> None:
    """Compile with `other` from now on."""
    _toolchain[:] = [other]


class Compiled(NamedTuple):
    """A loaded kernel: the driver's function, its name and its module (kept alive)."""

    function: Any
    name: str
    module: Any


def build(device: Device, source: str, name: str) -> Compiled:
    """Compile and load the kernel `name` of a source text, once per device."""
    found = device.kernels.get(source)
    if found is not None:
        return found
    with device.lock:
        found = device.kernels.get(source)
        if found is None:
            _log.debug("compiling", kernel=name, device=str(device.where))
            image = toolchain().image(source, name, device.arch)
            device.activate()
            drv = device.drv
            module = check(drv.cuModuleLoadData(image), f"loading the kernel {name!r}")
            function = check(drv.cuModuleGetFunction(module, name.encode()),
                             f"finding the kernel {name!r}")
            found = device.kernels[source] = Compiled(function, name, module)
        return found


class Bound(NamedTuple):
    """A kernel with everything that does not depend on the call: launch sizes in blocks and
    threads, bytes of dynamic shared memory, and integer arguments (the kernel's parameters, then
    the schedule's). `compiled` is None when there is nothing to do."""

    compiled: Compiled | None
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    integers: tuple[int, ...]


NOTHING = Bound(None, (0, 0, 0), (0, 0, 0), 0, ())


def bind(device: Device, kernel: Kernel, params: Sequence[int]) -> Bound:
    """Compile `kernel` in the variant that suits `params`."""
    params = tuple(params)
    if 0 in sizes(kernel, params)[0]:
        return NOTHING
    variant = cfamily_threads.choose(kernel, params, min(1024, device.max_group),
                                     device.dialect)
    items, extra = cfamily_threads.geometry(kernel, variant, params)
    if 0 in items:
        return NOTHING
    key = (kernel.key, variant)
    compiled = device.variants.get(key)
    if compiled is None:
        name = entry_name(kernel)
        compiled = device.variants[key] = build(
            device, render(device.dialect, kernel, variant, name), name)
    group = variant.group
    return Bound(compiled, (items[0] // group, items[1], 1), (group, 1, 1), 0,
                 params + tuple(extra))


def entry_name(kernel: Kernel) -> str:
    """A C identifier that tells what the kernel is."""
    return "k_" + re.sub(r"\W", "_", kernel.name)[:40]


def render(dialect: Any, kernel: Kernel, variant: Any, name: str) -> str:
    """The CUDA C++ text of a kernel."""
    return cfamily_threads.render(expand_kernel(kernel, dialect.expands), dialect, variant, name)
