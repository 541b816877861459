"""The OpenCL backend's door: GPUs and processors of any vendor with an OpenCL driver.

The entry point of group `lampion.backends`. Importing this loads no driver; making the backend
does. May import lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from lampion import config
from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.ir.kernel import Kernel, Program
from lampion.runtime.backend import (
    Backend,
    Capabilities,
    DeviceInfo,
    KernelImpl,
    Launch,
    OpCall,
    TextKernel,
)

_WITHOUT_DOUBLES = frozenset(dt.ALL) - {dt.float64, dt.complex128}


class OpenCLBackend(Backend):
    """All OpenCL devices of the machine; each is opened when it is first used."""

    name = "opencl"

    def __init__(self) -> None:
        from . import runtime

        self._runtime = runtime
        self._found = runtime.discover()
        self._opened: dict[int, Any] = {}
        self._lock = threading.RLock()

    def open(self, index: int | None) -> Any:
        """The opened device of an index. RuntimeError after a fork."""
        self._runtime.refuse_fork()
        k = index or 0
        found = self._opened.get(k)
        if found is None:
            with self._lock:
                found = self._opened.get(k)
                if found is None:
                    if not 0 <= k < len(self._found):
                        raise RuntimeError(
                            f"device opencl:{k} does not exist: there "
                            f"{'is' if len(self._found) == 1 else 'are'} {len(self._found)}")
                    where = device("opencl", k if k else None)
                    found = self._opened[k] = self._runtime.Device(self._found[k], where)
        return found

    def devices(self) -> list[DeviceInfo]:
        infos = []
        for k, d in enumerate(self._found):
            details = {
                "platform": d.platform.name.strip(), "version": d.version.strip(),
                "driver": d.driver_version, "compute_units": d.max_compute_units,
                "memory": d.global_mem_size, "largest_buffer": d.max_mem_alloc_size,
                "float64": "cl_khr_fp64" in d.extensions}
            if k in self._opened:
                details["schedule"] = "cpu" if self._opened[k].lanes else "gpu"
            infos.append(DeviceInfo(d.name.strip(), d.platform.name.strip(), details))
        return infos

    def capabilities(self, index: int) -> Capabilities:
        doubles = self.open(index).doubles
        return Capabilities(frozenset(dt.ALL) if doubles else _WITHOUT_DOUBLES,
                            frozenset(("kernel-ir",)))

    def allocate(self, nbytes: int, device: device) -> Any:
        return self.open(device.index).pool.allocate(nbytes)

    def copy_from_host(self, data: Any, storage: Any) -> None:
        import numpy as np
        import pyopencl as cl

        view = memoryview(data)
        if view.nbytes:
            source = np.frombuffer(view.cast("B"), np.uint8)
            cl.enqueue_copy(self._of(storage).queue, storage.buf, source,
                            dst_offset=storage.offset, is_blocking=True)

    def copy_to_host(self, storage: Any, nbytes: int) -> Any:
        import numpy as np
        import pyopencl as cl

        out = np.empty(nbytes, np.uint8)
        if nbytes:
            cl.enqueue_copy(self._of(storage).queue, out, storage.buf,
                            src_offset=storage.offset, is_blocking=True)
        return out.data

    def copy(self, src: Any, dst: Any, nbytes: int) -> bool:
        import pyopencl as cl

        here = self._of(dst)
        if self._of(src) is not here:
            return False
        if src.buf is dst.buf and abs(src.offset - dst.offset) < nbytes:
            return src.offset == dst.offset
        if nbytes:
            cl.enqueue_copy(here.commands, dst.buf, src.buf, byte_count=nbytes,
                            src_offset=src.offset, dst_offset=dst.offset)
        return True

    def _of(self, storage: Any) -> Any:
        return self.open(storage.bin.pool.device.index)

    def program(self, program: Program, outputs: Sequence[int], device: device) -> Launch:
        from .launch import program_launch

        return program_launch(self.open(device.index), program, outputs)

    def sequence(self, parts: Sequence[tuple[Launch, Sequence[tuple[int, int]]]], kinds: str,
                 constants: dict[int, Any], device: device) -> Callable[..., None]:
        from .sequence import sequence

        return sequence(self.open(device.index), parts, kinds, constants)

    def compile(self, kernel: Kernel) -> Callable[[Sequence[Any], Sequence[int]], None]:
        from lampion.ir.kernel import KernelCall

        from .launch import program_launch

        bound: dict[tuple[int, ...], Launch] = {}
        slots = tuple(range(len(kernel.args)))

        def run(args: Sequence[Any], params: Sequence[int]) -> None:
            key = tuple(params)
            if key not in bound:
                call = KernelCall(kernel, key, slots)
                bound[key] = program_launch(self.open(0), Program((call,)), ())
            bound[key].into(*args)

        return run

    def languages(self) -> Sequence[str]:
        return ("OpenCL C",)

    def text_program(self, text: TextKernel, outputs: Sequence[int], device: device) -> Launch:
        from .launch import text_program

        return text_program(self.open(device.index), text, outputs)

    def kernels(self) -> Sequence[KernelImpl]:
        return _kernels(self.open)

    def synchronize(self, device: device) -> None:
        self.open(device.index).finish()

    def mark(self, device: device) -> Any:
        return self.open(device.index).mark()

    def mark_times(self, device: device, marks: Sequence[Any]) -> list[int]:
        return self.open(device.index).mark_times(marks)

    def memory_stats(self, device: device) -> dict[str, int]:
        return dict(self.open(device.index).pool.stats())

    def empty_cache(self) -> None:
        for d in self._opened.values():
            d.pool.empty_cache()

    def options(self) -> dict[str, Any]:
        return dict(lampion_config_schema())


def lampion_config_schema() -> dict[str, Any]:
    """The hook: options of the table [backend.opencl]."""
    return {
        "schedule": config.Option(
            str, "auto", "how kernels are written: for few wide cores or for many threads",
            ("auto", "cpu", "gpu"), ("LAMPION_OPENCL_SCHEDULE",)),
        "platform": config.Option(
            str, "", "use only platforms whose name contains this", (),
            ("LAMPION_OPENCL_PLATFORM",)),
        "memory_fraction": config.Option(
            float, 0.9, "part of the device's memory that may be reserved"),
        "profiling": config.Option(
            bool, False, "let profiles take the device's own times, at some microseconds a launch",
            (), ("LAMPION_OPENCL_PROFILING",)),
    }


def lampion_backend() -> Backend:
    """The hook: make the backend."""
    return OpenCLBackend()


def _kernels(open_device: Callable[[int | None], Any] | None = None) -> list[KernelImpl]:
    """The hand-written kernels. Without `open_device` the call's own backend is asked, so that
    offering them opens no driver."""
    def impl(op: str, make: Callable[[Any, OpCall], Launch | None], source: str) -> KernelImpl:
        def build(call: OpCall) -> Launch | None:
            index = call.device.index
            opened = open_device(index) if open_device else call.device.backend.open(index)
            return make(opened, call)

        return KernelImpl(op, "opencl", build, None, 10, f"opencl.{source}")

    def contract(d: Any, call: OpCall) -> Launch | None:
        from . import gemm

        return gemm.contract(d, call)

    def forward(d: Any, call: OpCall) -> Launch | None:
        from . import conv

        return conv.forward(d, call)

    def data(d: Any, call: OpCall) -> Launch | None:
        from . import conv

        return conv.backward_data(d, call)

    def weight(d: Any, call: OpCall) -> Launch | None:
        from . import conv

        return conv.backward_weight(d, call, len(call.outputs) == 2)

    return [impl("contract", contract, "gemm"), impl("conv_forward", forward, "conv"),
            impl("conv_backward_data", data, "conv"), impl("conv_backward_weight", weight, "conv"),
            impl("conv_backward_weight_bias", weight, "conv")]


def lampion_kernels(registry: Any) -> None:
    """The hook: offer the hand-written kernels."""
    for impl in _kernels():
        registry.register_kernel(impl)
