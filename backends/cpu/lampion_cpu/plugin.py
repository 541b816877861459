"""The CPU backend: native storages, generated vector kernels, oneDNN and BLAS where they win.

The entry point of group `lampion.backends`. May import lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from typing import Any

from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.ir.kernel import Program
from lampion.runtime.backend import (
    Backend,
    Capabilities,
    DeviceInfo,
    KernelImpl,
    Launch,
    TextKernel,
)

NOGIL_WORK = 200_000.0  # kernels with more work than this release the GIL
_KINDS = {dt.float64: "f", dt.int64: "i", dt.uint64: "i"}


class CpuBackend(Backend):
    """The host processor."""

    name = "cpu"

    def __init__(self) -> None:
        from . import native

        self.native = native
        self._capabilities = Capabilities(
            frozenset(dt.ALL), frozenset(("kernel-ir", "host-memory", "host-functions")))

    def devices(self) -> list[DeviceInfo]:
        from . import jit, onednn, pool

        ok, reason = onednn.available()
        details = {
            "threads": pool.get_num_threads(), "vector_bits": jit.host_vector_bits(),
            "native": self.native.is_native(),
            "onednn": "yes" if ok else f"no: {reason}"}
        return [DeviceInfo("cpu", platform.processor() or platform.machine(), details)]

    def capabilities(self, index: int) -> Capabilities:
        return self._capabilities

    def set_num_threads(self, count: int) -> None:
        from . import blas, pool

        pool.set_num_threads(count)
        blas.limit_lapack(count)

    def get_num_threads(self) -> int:
        from . import pool

        return pool.get_num_threads()

    def allocate(self, nbytes: int, device: device) -> Any:
        return self.native.empty(nbytes)

    def copy_from_host(self, data: Any, storage: Any) -> None:
        if type(data) is bytes:
            ctypes.memmove(storage.ptr, data, len(data))
            return
        view = memoryview(data)
        if not view.nbytes:
            return
        source = (ctypes.c_char * view.nbytes).from_buffer_copy(view) if view.readonly else (
            ctypes.c_char * view.nbytes).from_buffer(view.cast("B"))
        ctypes.memmove(storage.ptr, source, view.nbytes)

    def copy_to_host(self, storage: Any, nbytes: int) -> Any:
        return ctypes.string_at(storage.ptr, nbytes)

    def host_view(self, storage: Any) -> memoryview | None:
        view: memoryview = self.native.host_buffer(storage)
        return view

    def wrap_host(self, pointer: int, nbytes: int, owner: Any, device: device) -> Any:
        return self.native.wrap(pointer, nbytes, owner)

    def copy(self, src: Any, dst: Any, nbytes: int) -> bool:
        ctypes.memmove(dst.ptr, src.ptr, nbytes)
        return True

    def program(self, program: Program, outputs: Sequence[int], device: device) -> Launch:
        from lampion.ir.schedule import split

        from . import codegen
        from .program import make_program

        program = split(program)
        steps, asks = codegen.steps(program)
        inputs = _input_kinds(program, len(outputs))
        made = make_program(steps, inputs, tuple(outputs), program.scratch,
                            nogil=asks or codegen.work_of(steps) > NOGIL_WORK)
        return Launch(made.launch, made.into, [c.kernel.name for c in program.calls], made)

    def languages(self) -> Sequence[str]:
        return ("LLVM IR",)

    def text_program(self, text: TextKernel, outputs: Sequence[int], device: device) -> Launch:
        from .text import text_program

        return text_program(text, outputs)

    def sequence(self, parts: Any, kinds: str, constants: dict[int, Any], device: device) -> Any:
        from .sequence import sequence

        return sequence(parts, kinds, constants)

    def kernels(self) -> Sequence[KernelImpl]:
        from .kernels import kernels

        return kernels()

    def memory_stats(self, device: device) -> dict[str, int]:
        return dict(self.native.memory_stats())

    def empty_cache(self) -> None:
        self.native.empty_cache()


def _input_kinds(program: Program, noutputs: int) -> str:
    """One letter per input slot of the program, read off the kernels' argument kinds."""
    kinds: dict[int, str] = {}
    for call in program.calls:
        for arg, slot in zip(call.kernel.args, call.slots):
            kinds[slot] = _KINDS[arg.dtype] if arg.kind == "scalar" else "s"
    first_scratch = max(kinds, default=-1) + 1 - len(program.scratch)
    return "".join(kinds.get(k, "s") for k in range(noutputs, first_scratch))


def lampion_config_schema() -> dict[str, Any]:
    """The hook: options of the table `[backend.cpu]`."""
    from .options import SCHEMA

    return SCHEMA


def lampion_backend() -> Backend:
    """The hook: make the backend."""
    from .options import apply

    apply()
    return CpuBackend()


def lampion_kernels(registry: Any) -> None:
    """The hook: offer the library kernels."""
    from .kernels import kernels

    for impl in kernels():
        registry.register_kernel(impl)
