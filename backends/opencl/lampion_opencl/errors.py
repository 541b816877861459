"""What OpenCL's error codes mean to a user, and what to do about them."""

from __future__ import annotations

from typing import Any

from lampion.base.errors import OutOfMemoryError

_MEMORY = {-4, -5, -6, -61}
_HINTS = {
    -1: "no device of the kind that was asked for",
    -2: "the device is not available: another process may hold it",
    -11: "the kernel did not compile",
    -36: "the command queue is no longer valid: the device was reset",
    -38: "a buffer does not belong to this device",
    -48: "the kernel object is no longer valid",
    -52: "a kernel argument was not set",
    -54: "the work group is too large for the device",
    -1001: "no OpenCL driver is registered",
}
NO_DRIVER = (
    "no OpenCL driver was found. Install one: the vendor's for a GPU, or a CPU runtime by "
    "`pip install \"lampion-opencl[pocl]\"` (or [intel]). Drivers are registered in "
    "/etc/OpenCL/vendors, or by the environment variable OCL_ICD_VENDORS{where}.")
NO_LINKER = (
    "the OpenCL runtime {platform} needs the linker `ld` and would abort the process without it. "
    "Install binutils (Debian, Ubuntu: apt install binutils) or use another runtime "
    "(pip install \"lampion-opencl[intel]\").")


FORKED: list[bool] = []  # not empty in a process that was forked after drivers had been started
AFTER_FORK = (
    "this process was forked from one that had started an OpenCL driver, whose threads are not in "
    "the child. Start processes by 'spawn': multiprocessing.set_start_method('spawn'), or "
    "DataLoader(..., multiprocessing_context='spawn'); or use the device only after forking.")


def refuse_fork() -> None:
    """RuntimeError in a process that was forked after drivers had been started."""
    if FORKED:
        raise RuntimeError(AFTER_FORK)


class Forked(dict):
    """What stands for the kernels of a thread in such a process: using it says what is wrong."""

    def __missing__(self, key: Any) -> Any:
        refuse_fork()

    def get(self, key: Any, default: Any = None) -> Any:
        refuse_fork()


def explain(error: Any, doing: str, memory: str = "") -> Exception:
    """The exception to raise for a `pyopencl.Error` met while `doing` something."""
    code = getattr(error, "code", None)
    routine = getattr(error, "routine", "") or ""
    if code in _MEMORY or isinstance(error, MemoryError):
        return OutOfMemoryError(f"out of device memory while {doing} ({routine} {code}). {memory}")
    hint = _HINTS.get(code, "")  # type: ignore[arg-type]
    return RuntimeError(f"OpenCL error while {doing}: {error}" + (f" ({hint})" if hint else ""))
