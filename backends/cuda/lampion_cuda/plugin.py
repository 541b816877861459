"""The CUDA backend's door: NVIDIA GPUs.

The entry point of group `lampion.backends`. Importing this loads neither driver nor compiler;
making the backend does. May import lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from lampion import config
from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.ir.kernel import Kernel, KernelCall, Program
from lampion.runtime.backend import (
    Backend,
    Capabilities,
    DeviceInfo,
    KernelImpl,
    Launch,
    OpCall,
    TextKernel,
)

# "host-functions": what has no kernel here, such as LAPACK where cuSOLVER is not installed, may run
# on the host's processor, with copies; a plan's `chosen` says so.
_CAPABILITIES = Capabilities(frozenset(dt.ALL), frozenset(("kernel-ir", "host-functions")))


class Chosen(threading.local):
    """The number of each thread's current GPU."""

    index = 0


class CUDABackend(Backend):
    """All NVIDIA GPUs of the machine; each is opened when it is first used."""

    name = "cuda"

    def __init__(self) -> None:
        from . import driver
        from .streams import BACKEND

        self._driver = driver
        self._found = driver.discover()
        self._opened: dict[int, Any] = {}
        self._lock = threading.RLock()
        self.chosen = Chosen()
        BACKEND[:] = [self]

    @property
    def current(self) -> int | None:  # type: ignore[override]
        """The GPU that `cuda` means in this thread; None where there is but one."""
        return self.chosen.index if len(self._found) > 1 else None

    def opened(self, where: Any) -> Any:
        """The opened GPU of a device, its name, its number, or None (the current one).

        ValueError for a device of another kind, RuntimeError for a number that does not exist.
        """
        if where is None:
            return self.open(self.chosen.index)
        if isinstance(where, int) and not isinstance(where, bool):
            return self.open(where)
        d = device(where)
        if d.type != self.name:
            raise ValueError(f"Expected a cuda device, but got: {d}")
        return self.open(self.chosen.index if d.index is None else d.index)

    def open(self, index: int | None) -> Any:
        """The opened GPU of an index."""
        k = index or 0
        found = self._opened.get(k)
        if found is None:
            with self._lock:
                found = self._opened.get(k)
                if found is None:
                    if not 0 <= k < len(self._found):
                        count = len(self._found)
                        raise RuntimeError(f"device cuda:{k} does not exist: there "
                                           f"{'is' if count == 1 else 'are'} {count}")
                    where = device("cuda", k if len(self._found) > 1 else None)
                    found = self._opened[k] = self._driver.Device(self._found[k], where)
        return found

    def devices(self) -> list[DeviceInfo]:
        from .compiler import toolchain

        version = self._driver.start()
        details = {"driver": f"CUDA {version // 1000}.{version % 1000 // 10}",
                   "compiler": f"NVRTC {'.'.join(map(str, toolchain().version()))}"}
        return [DeviceInfo(d.name, f"compute capability {d.capability[0]}.{d.capability[1]}",
                           {**details, "multiprocessors": d.units, "memory": d.memory})
                for d in self._found]

    def capabilities(self, index: int) -> Capabilities:
        return _CAPABILITIES

    def allocate(self, nbytes: int, device: device) -> Any:
        return self.open(device.index).pool.allocate(nbytes)

    def copy_from_host(self, data: Any, storage: Any) -> None:
        import numpy as np

        from .driver import check

        view = memoryview(data)
        if view.nbytes:
            source = np.frombuffer(view.cast("B"), np.uint8)
            d = storage.bin.pool.device
            if d.current.stream.capture is not None:
                d.current.stream.capture.refuse("copying from pageable host memory")
            d.activate()
            # The driver has read pageable memory when this returns, but not pinned memory.
            check(d.drv.cuMemcpyHtoDAsync(storage.ptr, source.ctypes.data, view.nbytes,
                                          d.current.stream.cu), f"copying to {d.where}")
            what = d.drv.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
            if not d.drv.cuPointerGetAttribute(what, source.ctypes.data)[0]:
                d.current.stream.synchronize()

    def copy_to_host(self, storage: Any, nbytes: int) -> Any:
        import numpy as np

        from .driver import check

        out = np.empty(nbytes, np.uint8)
        if nbytes:
            d = storage.bin.pool.device
            d.activate()
            s = d.current.stream
            if s.capture is not None:
                s.capture.refuse("reading values on the host")
            check(d.drv.cuMemcpyDtoHAsync(out.ctypes.data, storage.ptr, nbytes, s.cu),
                  f"copying from {d.where}")
            check(d.drv.cuStreamSynchronize(s.cu), f"copying from {d.where}")
            d.poll()
        return out.data

    def copy(self, src: Any, dst: Any, nbytes: int) -> bool:
        from .copies import between

        return between(src, dst, nbytes)

    def program(self, program: Program, outputs: Sequence[int], device: device) -> Launch:
        from .launch import program_launch

        return program_launch(self.open(device.index), program, outputs)

    def compile(self, kernel: Kernel) -> Callable[[Sequence[Any], Sequence[int]], None]:
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

    def sequence(self, parts: Sequence[tuple[Launch, Sequence[tuple[int, int]]]], kinds: str,
                 constants: dict[int, Any], device: device) -> Callable[..., None]:
        from .sequence import sequence

        return sequence(self.open(device.index), parts, kinds, constants)

    def allocator(self, nbytes: int, device: device) -> Callable[[], Any]:
        made: Callable[[], Any] = self.open(device.index).pool.recurring(nbytes)
        return made

    def check_later(self, status: Any, nbytes: int, explain: Callable[..., None], call: OpCall,
                    inputs: tuple[Any, ...]) -> None:
        d = status.bin.pool.device
        if d.checks is None:
            from .checks import Checks

            d.checks = Checks(d)
        d.checks.add(status, nbytes, explain, call, inputs)

    def languages(self) -> Sequence[str]:
        return ("CUDA C",)

    def text_program(self, text: TextKernel, outputs: Sequence[int], device: device) -> Launch:
        from .launch import text_program

        return text_program(self.open(device.index), text, outputs)

    def kernels(self) -> Sequence[KernelImpl]:
        return _kernels(self.open)

    def synchronize(self, device: device) -> None:
        self.open(device.index).finish()

    def mark(self, device: device) -> Any:
        from .streams import Mark

        gpu = self.open(device.index)
        return None if gpu.current.stream.capture is not None else Mark(gpu)

    def mark_times(self, device: device, marks: Sequence[Any]) -> list[int]:
        from .streams import times

        self.open(device.index).finish()
        return times(marks)

    def memory_stats(self, device: device) -> dict[str, int]:
        return dict(self.open(device.index).pool.stats())

    def pinned(self, nbytes: int) -> Any:
        from .pinned import POOL

        return POOL.allocate(self.opened(None), nbytes)

    def is_pinned(self, source: Any) -> bool:
        from .pinned import POOL, address

        return POOL.find(address(source), 1) is not None

    def send(self, source: Any, storage: Any, nbytes: int) -> bool:
        from .pinned import send

        return send(source, storage, nbytes)

    def fetch(self, storage: Any, target: Any, nbytes: int, wait: bool) -> bool:
        from .pinned import fetch

        return fetch(storage, target, nbytes, wait)

    dlpack = 2

    def wrap_device(self, pointer: int, nbytes: int, owner: Any, device: device) -> Any:
        return self.open(device.index).pool.foreign(pointer, nbytes, owner)

    def share(self, device: device, stream: int | None) -> None:
        from .sharing import hand_over

        hand_over(self.open(device.index), stream)

    def stream_number(self, device: device) -> int | None:
        return int(self.open(device.index).current.stream.handle)

    def adopt(self, data: Any) -> Any:
        from .sharing import adopted

        return adopted(self, data)

    def using(self, storage: Any, stream: Any) -> None:
        storage.bin.pool.lend(storage, stream)

    def empty_cache(self) -> None:
        from .pinned import POOL

        for d in self._opened.values():
            d.pool.empty_cache()
            POOL.empty_cache(d)

    def report(self) -> dict[str, str]:
        from .doctor import report

        return report()

    def options(self) -> dict[str, Any]:
        return dict(lampion_config_schema())


def lampion_config_schema() -> dict[str, Any]:
    """The hook: options of the table [backend.cuda]."""
    return {
        "memory_fraction": config.Option(
            float, 0.95, "part of the GPU's memory that may be reserved"),
        "blas": config.Option(
            str, "auto", "what multiplies matrices: cuBLASLt if it is there, or always (its "
            "absence is an error), or generated kernels", ("auto", "cublas", "generated")),
        "checks": config.Option(
            str, "late", "when an index out of range is an error: when the host waits for the GPU "
            "anyway, or at the call, which then waits", ("late", "now"),
            ("LAMPION_CUDA_CHECKS",)),
        "autotune": config.Option(
            bool, False, "time cuBLASLt's algorithms for a large product when it first runs"),
        "dnn": config.Option(
            str, "auto", "what convolves, and attends in 16 bits: cuDNN if it is there, or always "
            "(its absence is an error), or generated kernels", ("auto", "cudnn", "generated")),
        "dnn_attention": config.Option(bool, True, "whether cuDNN is for attention, too"),
        "dnn_tf32": config.Option(
            bool, False, "whether cuDNN may round float32 to TF32 in convolutions"),
        "dnn_deterministic": config.Option(
            bool, True, "use those of cuDNN's kernels alone that give the same every time"),
        "dnn_benchmark": config.Option(
            bool, False, "time cuDNN's kernels for a convolution when it first runs"),
        "dnn_benchmark_limit": config.Option(int, 10, "how many of them"),
        "check_plans": config.Option(
            bool, False, "compare the first result of each of cuDNN's plans with that of a "
            "generated kernel", (), ("LAMPION_CUDA_CHECK",)),
        "graphs": config.Option(
            bool, True, "run compiled programs as CUDA graphs once their memory comes again"),
        "scatter": config.Option(
            str, "ordered", "how floats are added by index: in order, reproducibly, or by atomic "
            "additions", ("ordered", "atomic")),
    }


def lampion_switches() -> dict[str, Any]:
    """The hook: `lampion.backends.cudnn` and its like."""
    from .switches import SWITCHES

    return SWITCHES


def lampion_namespace() -> Any:
    """The hook: `lampion.cuda`."""
    from . import namespace

    return namespace


def lampion_tensor_attributes() -> dict[str, Any]:
    """The hook: what other libraries look for on tensors."""
    from .sharing import interface

    return {"__cuda_array_interface__": property(interface)}


def lampion_backend() -> Backend:
    """The hook: make the backend."""
    from .switches import watch

    watch()
    return CUDABackend()


# op -> (module, function) of the kernels that are not generated from the IR; each function is
# called as function(opened GPU, OpCall) and gives a Launch, or None to decline.
_LIBRARY: dict[str, tuple[str, str]] = {
    "contract": ("lt", "contract"),
    "conv_forward": ("conv", "forward"),
    "conv_backward_data": ("conv", "backward_data"),
    "conv_backward_weight": ("conv", "backward_weight"),
    "conv_backward_weight_bias": ("conv", "backward_weight_bias"),
    "fused_attention": ("attention", "forward"),
    "fused_attention_backward": ("attention", "backward"),
    "sort": ("sorting", "sort"), "topk": ("sorting", "topk"), "entry_at": ("sorting", "entry_at"),
    "layer_norm_backward": ("norms", "layer_norm_backward"),
    "cummax": ("scans", "extreme"), "cummin": ("scans", "extreme"),
    "fft_c2c": ("fourier", "transform"), "fft_r2c": ("fourier", "transform"),
    "fft_c2r": ("fourier", "transform"),
    "linalg_cholesky_ex": ("solver", "cholesky"), "cholesky_solve": ("solver", "cholesky_solve"),
    "cholesky_inverse": ("solver", "cholesky_inverse"), "linalg_lu_factor_ex": ("solver", "lu"),
    "lu_substitute": ("solver", "lu_solve"), "solve_with_factors": ("solver", "solve"),
    "linalg_inv_ex": ("solver", "inverse"), "det_with_factors": ("solver", "determinant"),
    "slogdet_with_factors": ("solver", "determinant"), "lu_rows": ("solver", "permutation"),
    "linalg_solve_triangular": ("solver", "triangular"), "geqrf": ("solver", "reflectors"),
    "linalg_householder_product": ("solver", "product_of_reflectors"),
    "ormqr": ("solver", "apply_reflectors"), "qr_factors": ("solver", "qr"),
    "linalg_eigh": ("solver", "eigh"), "eigvalsh_only": ("solver", "eigh"),
    "linalg_svd": ("solver", "svd"), "svdvals_only": ("solver", "svd"),
}
# The same for kernels that are tried before those.
_FIRST: dict[str, tuple[str, str]] = {
    "conv_forward": ("cudnn", "forward"),
    "conv_backward_data": ("cudnn", "backward_data"),
    "conv_backward_weight": ("cudnn", "backward_weight"),
    "conv_backward_weight_bias": ("cudnn", "backward_weight_bias"),
    "fused_attention": ("cudnn", "attend"),
    "fused_attention_backward": ("cudnn", "attend_backward"),
}
# The same for kernels that are tried after those.
_SECOND: dict[str, tuple[str, str]] = {
    "contract": ("gemm", "contract"),
}


def _kernels(open_device: Callable[[int | None], Any] | None = None) -> list[KernelImpl]:
    """The kernels that are not generated from the IR. Without `open_device` the call's own backend
    is asked, so that offering them opens no driver."""
    def impl(op: str, module: str, function: str, priority: int) -> KernelImpl:
        def build(call: OpCall) -> Launch | None:
            from importlib import import_module

            index = call.device.index
            opened = open_device(index) if open_device else call.device.backend.open(index)
            made: Launch | None = getattr(import_module(f".{module}", __package__), function)(
                opened, call)
            return made

        return KernelImpl(op, "cuda", build, None, priority, f"cuda.{module}")

    return [impl(op, module, function, priority)
            for table, priority in ((_FIRST, 15), (_LIBRARY, 10), (_SECOND, 5))
            for op, (module, function) in table.items()]


def lampion_kernels(registry: Any) -> None:
    """The hook: offer the kernels that are not generated."""
    for impl in _kernels():
        registry.register_kernel(impl)
