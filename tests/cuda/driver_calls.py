"""Driver calls for tests: results checked, NumPy arrays as memory. Uses cuda.bindings."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from cuda.bindings import driver as drv

NON_BLOCKING = 1


class DriverError(RuntimeError):
    """A driver call failed; `code` is its result."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} returned {code}")
        self.code = code


class Calls:
    """`calls.MemAlloc(n)` is cuMemAlloc(n): its values, or a DriverError."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(drv, f"cu{name}")

        def call(*args: Any) -> Any:
            code, *values = function(*args)
            if code:
                raise DriverError(f"cu{name}", int(code))
            return values[0] if len(values) == 1 else tuple(values)

        setattr(self, name, call)
        return call


cu = Calls()


def use_device(index: int = 0) -> None:
    """Start the driver and make a device current."""
    cu.Init(0)
    cu.CtxSetCurrent(cu.DevicePrimaryCtxRetain(cu.DeviceGet(index)))


def to_device(array: np.ndarray) -> int:
    """Device memory with the bytes of an array."""
    pointer = int(cu.MemAlloc(array.nbytes))
    cu.MemcpyHtoD(pointer, array.ctypes.data, array.nbytes)
    return pointer


def from_device(pointer: int, like: np.ndarray) -> np.ndarray:
    """An array of the form of `like` with the bytes at `pointer`."""
    out = np.empty_like(like)
    cu.MemcpyDtoH(out.ctypes.data, pointer, out.nbytes)
    return out


def floats(pointer: int, n: int, kind: Any = np.float32) -> np.ndarray:
    """The n numbers at a host address, without a copy."""
    size = np.dtype(kind).itemsize * n
    return np.frombuffer((ctypes.c_char * size).from_address(int(pointer)), kind)


def load(source: str, name: str) -> Any:
    """A function of a CUDA C text, compiled for the simulator."""
    from simulator import hostcc

    return cu.ModuleGetFunction(cu.ModuleLoadData(hostcc.kernel_image(source, name)),
                                name.encode())


def launch(function: Any, grid: int, block: int, args: list[Any], stream: Any = 0,
           shared: int = 0) -> None:
    """Launch with ctypes numbers or device addresses as arguments."""
    values = [a if isinstance(a, ctypes._SimpleCData) else ctypes.c_void_p(int(a)) for a in args]
    table = (ctypes.c_void_p * max(len(values), 1))(*map(ctypes.addressof, values))
    cu.LaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, ctypes.addressof(table), 0)
