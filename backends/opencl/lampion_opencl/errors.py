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


def explain(error: Any, doing: str, memory: str = "") -> Exception:
    """The exception to raise for a `pyopencl.Error` met while `doing` something."""
    code = getattr(error, "code", None)
    routine = getattr(error, "routine", "") or ""
    if code in _MEMORY or isinstance(error, MemoryError):
        return OutOfMemoryError(f"out of device memory while {doing} ({routine} {code}). {memory}")
    hint = _HINTS.get(code, "")  # type: ignore[arg-type]
    return RuntimeError(f"OpenCL error while {doing}: {error}" + (f" ({hint})" if hint else ""))
