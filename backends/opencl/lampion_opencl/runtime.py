"""Drivers, devices, queues and compiled programs.

One `Device` per OpenCL device: its context, one in-order queue, its memory pool and the programs
built for it. Finds the CPU runtime that pip installed where its own registration is broken, and
refuses devices that would abort the process. Imports pyopencl and lampion's floors 0-2.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lampion import config
from lampion.logging import get_logger

from .errors import FORKED, NO_DRIVER, NO_LINKER, Forked, explain, refuse_fork

_log = get_logger("opencl")
_POCL = "Portable Computing Language"
_WORKERS = ("POCL_AFFINITY", "POCL_MAX_PTHREAD_COUNT", "POCL_CPU_MAX_CU_COUNT")


_started: list[bool] = []
_devices: weakref.WeakSet[Any] = weakref.WeakSet()  # those opened in this process


def _after_fork() -> None:
    """A driver's threads are not in a forked child, where calls would wait for them for ever: every
    way to it gives the error that says so."""
    if _started:
        FORKED.append(True)
        for d in _devices:
            d.disable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def prepare_environment() -> None:
    """Before pyopencl is imported: kernel cache folder, and drivers that pip left unregistered."""
    try:
        cache = config.cache_dir()
        if "POCL_CACHE_DIR" not in os.environ:
            folder = cache / "pocl"
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["POCL_CACHE_DIR"] = str(folder)
        if "OCL_ICD_VENDORS" not in os.environ:
            library = Path(sys.prefix) / "lib" / "libintelocl.so"
            if library.exists():
                os.environ["OCL_ICD_VENDORS"] = str(_vendors(cache, library))
    except OSError as error:
        _log.info("kernel cache unusable", why=str(error))


def _vendors(cache: Path, library: Path) -> Path:
    """A registry folder with the system's drivers and `library`."""
    folder = cache / "icd" / hashlib.sha256(str(library).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "intel-cpu.icd").write_text(f"{library}\n")
    for icd in Path("/etc/OpenCL/vendors").glob("*.icd"):
        target = folder / icd.name
        if not target.exists():
            target.write_text(icd.read_text())
    return folder


@contextmanager
def _workers_apart() -> Iterator[None]:
    """Within this, PoCL starts its worker threads each tied to a core of its own.

    They are woken while the caller still runs, so one of them finds no idle core and queues behind
    another; the system does not move what ran a moment ago, and half the machine stays idle.
    Only where every core is ours: PoCL ties worker k to core k, whatever the process may use.
    """
    ours = getattr(os, "sched_getaffinity", lambda _: None)(0) == set(range(os.cpu_count() or 0))
    if not ours or any(n in os.environ for n in _WORKERS):
        yield
        return
    os.environ[_WORKERS[0]] = "1"
    try:
        yield
    finally:  # a child process may have fewer cores
        del os.environ[_WORKERS[0]]


def discover() -> list[Any]:
    """All usable OpenCL devices, GPUs first. RuntimeError with the remedy if there is none."""
    refuse_fork()
    prepare_environment()
    try:
        import pyopencl as cl
    except ImportError as error:
        raise RuntimeError(
            f"the Python package pyopencl cannot be imported ({error}). Install it with "
            "`pip install lampion-opencl`.") from error
    _started[:] = [True]
    where = f" (now {os.environ['OCL_ICD_VENDORS']!r})" if "OCL_ICD_VENDORS" in os.environ else ""
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        raise RuntimeError(NO_DRIVER.format(where=where)) from error
    wanted = config.get("backend.opencl.platform").lower()
    found, refused = [], []
    for p in platforms:
        if wanted and wanted not in p.name.lower():
            refused.append(f"{p.name}: not the platform {wanted!r} that the settings ask for")
            continue
        try:
            with _workers_apart():
                devices = p.get_devices()
        except cl.Error as error:
            refused.append(f"{p.name}: {error}")
            continue
        for d in devices:
            problem = _problem(cl, p, d)
            if problem:
                refused.append(problem)
            else:
                found.append(d)
    for reason in refused:
        _log.info("device refused", why=reason)
    if not found:
        raise RuntimeError("; ".join(refused) if refused else NO_DRIVER.format(where=where))
    found.sort(key=lambda d: _rank(cl, d))
    return found


def _problem(cl: Any, platform: Any, d: Any) -> str | None:
    """Why a device cannot be used, or None."""
    if not d.available or not d.compiler_available:
        return f"{d.name}: the driver says that it is not available or has no compiler"
    if _POCL in platform.name and d.type & cl.device_type.CPU and shutil.which("ld") is None:
        return NO_LINKER.format(platform=f"{platform.name} ({d.name.strip()})")
    return None


def _rank(cl: Any, d: Any) -> tuple[int, int]:
    """GPUs, accelerators, then processors; among these the runtime that is faster."""
    kind = 0 if d.type & cl.device_type.GPU else 1 if d.type & cl.device_type.ACCELERATOR else 2
    return kind, int(_POCL in d.platform.name)


class Device:
    """An opened device."""

    def __init__(self, cl_device: Any, where: Any) -> None:
        import pyopencl as cl

        from .dialect import OpenCLC
        from .gate import Gate
        from .memory import Pool

        self.cl, self.cl_device, self.where = cl, cl_device, where
        self.name = cl_device.name.strip()
        self.platform = cl_device.platform.name.strip()
        try:
            self.context = cl.Context([cl_device])
            self.timed = bool(config.get("backend.opencl.profiling"))
            self.commands = cl.CommandQueue(
                self.context, cl_device,
                cl.command_queue_properties.PROFILING_ENABLE if self.timed else 0)
        except cl.Error as error:
            raise explain(error, f"opening {self.name}") from error
        self.units = max(1, cl_device.max_compute_units)
        extensions = cl_device.extensions.split()
        self.doubles = bool(getattr(cl_device, "double_fp_config", 0)) or (
            "cl_khr_fp64" in extensions)
        self.processor = bool(cl_device.type & cl.device_type.CPU)
        self.gate = None
        if self.processor and _POCL in self.platform:
            self.gate = Gate(self.context, self.commands)
            weakref.finalize(self, self.gate.release)  # an unset event would block the exit
        self.max_group = int(cl_device.max_work_group_size)
        self.local_memory = int(cl_device.local_mem_size)
        fraction = config.get("backend.opencl.memory_fraction")
        self.pool = Pool(self.context, where, int(cl_device.global_mem_size * fraction),
                         int(cl_device.max_mem_alloc_size))
        choice = config.get("backend.opencl.schedule")
        self.lanes = self.processor if choice == "auto" else choice == "cpu"
        correct = cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        self.options = ["-w"] + (["-cl-fp32-correctly-rounded-divide-sqrt"]
                        if cl_device.single_fp_config & correct else [])
        self._programs: dict[str, Any] = {}
        self.variants: dict[Any, Compiled] = {}
        self._lock = threading.RLock()
        self._local = _Kernels(self)
        self.dialect = OpenCLC(lanes=self.lanes, doubles=self.doubles,
                               fused=self.lanes and self._contracts())
        _devices.add(self)

    @property
    def queue(self) -> Any:
        """The command queue for whoever waits: nothing is held back by the gate any more."""
        if self.gate is not None:
            self.gate.release()
        return self.commands

    @property
    def kernels(self) -> dict[Any, Any]:
        """Kernel objects of this thread by compiled program (see `Compiled`)."""
        return self._local.table

    def build(self, source: str, name: str) -> Compiled:
        """Compile a source text once. RuntimeError with source and log if it does not compile."""
        found = self._programs.get(source)
        if found is not None:
            return found
        with self._lock:
            found = self._programs.get(source)
            if found is None:
                found = self._programs[source] = Compiled(self, self._compile(source, name), name)
        return found

    def _compile(self, source: str, name: str) -> Any:
        cl = self.cl
        _log.debug("compiling", kernel=name, device=str(self.where))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # PoCL caches binaries itself; for other drivers pyopencl does.
                if _POCL in self.platform:
                    program = cl.Program(self.context, source).build(self.options,
                                                                     cache_dir=False)
                else:
                    program = cl.Program(self.context, source).build(self.options)
            cl.Kernel(program, name)  # some drivers report a broken kernel only here
            return program
        except cl.Error as error:
            numbered = "\n".join(f"{k:4} {line}" for k, line in enumerate(source.split("\n"), 1))
            raise RuntimeError(
                f"the OpenCL compiler of {self.platform} refused the kernel {name!r} for "
                f"{self.name}:\n{error}\n--- source ---\n{numbered}") from error

    def _contracts(self) -> bool:
        """Whether a * b + c is rounded once where contraction is switched on. It is much faster
        than the library's fma on processors, but only right if the hardware has the instruction."""
        import numpy as np

        cl = self.cl
        types = ["float", "double"] if self.doubles else ["float"]
        text = "\n".join(
            f"{{ __global {t}8 *p = (__global {t}8 *)(x + {k} * 64); "
            f"const {t}8 a = p[0], b = p[1], c = p[2]; p[3] = a * b + c; }}"
            for k, t in enumerate(types))
        source = (f"{self._prelude()}__kernel __attribute__((reqd_work_group_size(1, 1, 1))) "
                  f"void contraction(__global ulong *x) {{\n"
                  f"_Pragma(\"OPENCL FP_CONTRACT ON\")\n{text}\n}}")
        data = np.zeros(128, np.uint64)
        kinds: tuple[Any, ...] = (np.float32, np.float64)
        for k, real in enumerate(kinds):
            eps = np.finfo(real).eps
            rows = data[k * 64:(k + 1) * 64].view(real)
            rows[:8], rows[8:16], rows[16:24] = 1 + eps, 1 + eps, -(1 + 2 * eps)
        try:
            compiled = self.build(source, "contraction")
            buf = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, data.nbytes)
            cl.enqueue_copy(self.queue, buf, data)
            compiled.kernel()(self.queue, (1,), (1,), buf)
            cl.enqueue_copy(self.queue, data, buf)
        except (RuntimeError, cl.Error) as error:
            _log.info("contraction probe failed", why=str(error)[:200])
            return False
        good = [bool((data[k * 64:(k + 1) * 64].view(real)[24:32] == np.finfo(real).eps**2).all())
                for k, real in enumerate(kinds[:len(types)])]
        return all(good)

    def _prelude(self) -> str:
        return ("#ifdef cl_khr_fp64\n#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n#endif\n"
                if self.doubles else "")

    def disable(self) -> None:
        """After a fork: launches raise, and nothing is held back or let go."""
        self._local.table = Forked()
        if self.gate is not None:
            self.gate.event, self.gate.room = None, 1 << 62

    def mark(self) -> Any:
        """A mark in the queue for `mark_times`, or None if the queue keeps no times."""
        return self.cl.enqueue_marker(self.queue) if self.timed else None

    def mark_times(self, marks: Any) -> list[int]:
        """When marks were reached, in nanoseconds from the first on."""
        self.queue.finish()
        times = [m.profile.end for m in marks]
        return [int(t - times[0]) for t in times]

    def finish(self) -> None:
        """Wait for the queue."""
        self.queue.finish()


class Compiled:
    """A built program with one entry point. Kernel objects hold argument values, so every thread
    has its own."""

    __slots__ = ("device", "program", "name")

    def __init__(self, device: Device, program: Any, name: str) -> None:
        self.device, self.program, self.name = device, program, name

    def kernel(self) -> Any:
        """A kernel object for this thread."""
        table = self.device.kernels
        k = table.get(self)
        if k is None:
            k = table[self] = self.device.cl.Kernel(self.program, self.name)
        return k


class _Kernels(threading.local):
    """The kernel objects of one thread, with the bound methods that launches call."""

    def __init__(self, device: Device) -> None:
        self.table: dict[Any, Any] = Forked() if FORKED else {}
