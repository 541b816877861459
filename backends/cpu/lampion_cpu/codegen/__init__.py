"""Kernels to machine code: `compile_kernel` for one, `steps` for a whole program.

A kernel is expanded (transcendental functions become arithmetic), given a plan for the sizes at
hand, written as LLVM IR with explicit vectors, and compiled. Kernels are kept by (key, plan), so
shapes that want the same schedule share their code. May import: lampion, the modules here, jit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from collections.abc import Sequence
from typing import NamedTuple

from lampion.ir.kernel import Kernel, Program

from .. import jit
from .expand import expand_kernel
from .lower import Lowering
from .plan import GRAIN_WORK, Plan, choose, evaluate, units_grain

__all__ = ["Compiled", "compile_kernel", "kernel_text", "steps", "work_of"]


class Compiled(NamedTuple):
    """Machine code of a kernel under a plan."""

    address: int
    kernel: Kernel
    plan: Plan

    def units_grain(self, params: Sequence[int]) -> tuple[int, int]:
        """Units of a launch with these params, and the fewest worth giving to a thread."""
        return units_grain(self.kernel, self.plan, params)


_compiled: dict[tuple[str, Plan], Compiled] = {}
_expanded: dict[str, Kernel] = {}
_lock = threading.Lock()


def kernel_text(kernel: Kernel, plan: Plan) -> tuple[str, str, frozenset[str]]:
    """(symbol, LLVM IR, names of C library functions it calls) of an expanded kernel."""
    bits = jit.host_vector_bits()
    lowering = Lowering(kernel, plan, bits, jit.host_features())
    symbol = "k_" + "".join(c if c.isalnum() else "_" for c in kernel.name)
    text = lowering.text(symbol)
    return symbol, text, frozenset(lowering.em.symbols)


def compile_kernel(kernel: Kernel, params: Sequence[int], plan: Plan | None = None) -> Compiled:
    """Machine code for `kernel`, scheduled for a problem with these runtime sizes.

    The code is right for every `params`; the sizes only steer which axis is vectorised. Raises
    ValueError for an intrinsic or type that cannot be printed.
    """
    expanded = _expanded.get(kernel.key)
    if expanded is None:
        expanded = _expanded[kernel.key] = expand_kernel(kernel)
    if plan is None:
        plan = choose(expanded, params, jit.host_vector_bits())
    key = (kernel.key, plan)
    found = _compiled.get(key)
    if found is None:
        with _lock:
            found = _compiled.get(key)
            if found is None:
                symbol, text, needs = kernel_text(expanded, plan)
                symbols = {name: _libm(name) for name in sorted(needs)}
                address = jit.compile_ir(text, [symbol], symbols)[symbol]
                found = _compiled[key] = Compiled(address, expanded, plan)
    return found


def steps(program: Program) -> list["Step"]:  # noqa: F821 - imported late
    """The launches of a program, in order, for `make_program`."""
    from ..program import Step

    out = []
    for call in program.calls:
        if any(evaluate(n, call.params) == 0 for n in call.kernel.grid):
            continue  # an empty grid: nothing to run
        compiled = compile_kernel(call.kernel, call.params)
        units, grain = compiled.units_grain(call.params)
        out.append(Step(compiled.address, tuple(call.params), tuple(call.slots), units, grain))
    return out


def work_of(found: Sequence["Step"]) -> float:  # noqa: F821
    """Roughly how many element-operations a list of steps does (some nanoseconds per 32)."""
    return sum(s.units / s.grain for s in found) * GRAIN_WORK


_math: ctypes.CDLL | None = None


def _libm(name: str) -> int:
    """Address of a C math library function."""
    global _math
    if _math is None:
        found = ctypes.util.find_library("m")
        _math = ctypes.CDLL(found) if found else ctypes.CDLL(None)
    address = ctypes.cast(getattr(_math, name), ctypes.c_void_p).value
    assert address is not None
    return address
