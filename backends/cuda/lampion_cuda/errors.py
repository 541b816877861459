"""What the driver's and NVRTC's result codes mean to a user, and what to do about them."""

from __future__ import annotations

from typing import Any

from lampion.base.errors import OutOfMemoryError

OUT_OF_MEMORY = 2
INVALID_CONTEXT, INVALID_HANDLE = 201, 400
_HINTS = {
    3: "the driver was not started in this process; after a fork it cannot be",
    4: "the driver has shut down: the process is ending",
    34: "the installed libcuda.so.1 is a stub without a driver",
    35: "the driver is too old for this toolkit: update it",
    46: "the device is held by another process (exclusive compute mode)",
    100: "no GPU that CUDA can use was found: look at `nvidia-smi`, CUDA_VISIBLE_DEVICES, and, "
         "in a container, at its --gpus option",
    101: "there is no device of that number",
    209: "the kernel was compiled for another architecture",
    218: "the kernel's PTX was refused",
    222: "the driver is older than the compiler that made the kernel: update the driver, or "
         "install an older nvidia-cuda-nvrtc",
    700: "a kernel read or wrote memory that is not its own",
    701: "the kernel wants more registers or shared memory than a multiprocessor has",
    702: "the kernel ran longer than the display driver allows",
    710: "an assertion failed in a kernel",
    715: "a kernel ran an illegal instruction",
    716: "a kernel used a misaligned address",
    717: "a kernel mixed up address spaces",
    719: "a kernel failed",
    803: "the driver and its kernel module are of different versions: reboot after an update",
    804: "this GPU does not support forward compatibility",
    900: "this is not possible while a graph is captured",
    901: "the capture of a graph was broken by an earlier call",
    906: "another stream depends on work that is being captured",
}
# These end the context: nothing works afterwards, whatever is called.
STICKY = {700, 702, 710, 714, 715, 716, 717, 718, 719}
_ASYNC = (" Kernels run asynchronously, so the cause may be an earlier op: set LAMPION_CUDA_SYNC=1 "
          "to see which. The GPU's context is lost; start the process again.")

FORKED: list[bool] = []  # not empty in a process that was forked after the driver had started
AFTER_FORK = (
    "this process was forked from one that had started the CUDA driver, and a driver cannot be "
    "used across a fork. Start processes by 'spawn': multiprocessing.set_start_method('spawn'), or "
    "DataLoader(..., multiprocessing_context='spawn'); or use the GPU only after forking.")
NO_DRIVER = (
    "no NVIDIA driver was found: libcuda.so.1 cannot be loaded ({why}). It comes with the GPU's "
    "driver, not with pip; in a container it is mounted by the NVIDIA container toolkit "
    "(docker run --gpus all).")
NO_BINDINGS = ("the Python package cuda.bindings cannot be imported ({why}). Install it with "
               "`pip install lampion-cuda`.")
NO_NVRTC = ("the kernel compiler NVRTC cannot be loaded ({why}). Install it with "
            "`pip install nvidia-cuda-nvrtc`.")
OLD_DRIVER = (
    "the NVIDIA driver supports CUDA {found}, but the kernel compiler NVRTC is {needed}: the "
    "driver's major version must not be lower. Update the driver, or install an older compiler: "
    "`pip install \"nvidia-cuda-nvrtc=={major}.*\"`.")


def name_of(code: int) -> str:
    """The driver's own name of a result code."""
    from cuda.bindings import driver

    try:
        text = driver.cuGetErrorName(driver.CUresult(code))[1]
        return text.decode() if isinstance(text, bytes) else str(text)
    except (ValueError, RuntimeError):
        return f"CUDA_ERROR_{code}"


def explain(code: Any, doing: str, memory: str = "") -> Exception:
    """The exception to raise for a driver result met while `doing` something."""
    number = int(code)
    if number == OUT_OF_MEMORY:
        return OutOfMemoryError(f"out of device memory while {doing}. {memory}".rstrip())
    hint = _HINTS.get(number, "")
    text = f"{name_of(number)} ({number}) while {doing}" + (f": {hint}." if hint else ".")
    return RuntimeError(text + (_ASYNC if number in STICKY else ""))
