"""Kernels to machine code: `compile_kernel` for one, `steps` for a whole program.

A kernel is expanded (transcendental functions become arithmetic), given a plan for the sizes at
hand, written as LLVM IR with explicit vectors, and compiled. Kernels are kept by (key, plan), so
shapes that want the same schedule share their code. May import: lampion, the modules here, jit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from lampion.ir.kernel import Kernel, Program

from .. import jit
from .expand import expand_kernel
from .lower import Lowering
from .plan import GRAIN_WORK, Plan, choose, evaluate, units_grain
from .rare import RESOLVER

__all__ = ["Compiled", "compile_kernel", "kernel_text", "steps", "work_of"]


class Compiled(NamedTuple):
    """Machine code of a kernel under a plan."""

    address: int
    kernel: Kernel
    plan: Plan
    asks: bool = False  # whether it may call Python to have an arm compiled

    def units_grain(self, params: Sequence[int]) -> tuple[int, int]:
        """Units of a launch with these params, and the fewest worth giving to a thread."""
        return units_grain(self.kernel, self.plan, params)


_compiled: dict[tuple[str, Plan], Compiled] = {}
_expanded: dict[str, Kernel] = {}
_lock = threading.Lock()


def kernel_text(kernel: Kernel, plan: Plan) -> tuple[str, str, dict[str, int]]:
    """(symbol, LLVM IR, addresses of the names it declares) of an expanded kernel."""
    bits = jit.host_vector_bits()
    lowering = Lowering(kernel, plan, bits, jit.host_features())
    symbol = "k_" + "".join(c if c.isalnum() else "_" for c in kernel.name)
    text = lowering.text(symbol)
    return symbol, text, lowering.em.symbols


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
                symbol, text, symbols = kernel_text(expanded, plan)
                address = jit.compile_ir(text, [symbol], symbols)[symbol]
                found = _compiled[key] = Compiled(address, expanded, plan, RESOLVER in symbols)
    return found


def steps(program: Program) -> tuple[list["Step"], bool]:  # noqa: F821 - imported late
    """The launches of a program, in order, for `make_program`; and whether threads that run them
    may call Python, so that the GIL must be free."""
    from ..program import Step

    out, asks = [], False
    for call in program.calls:
        if any(evaluate(n, call.params) == 0 for n in call.kernel.grid):
            continue  # an empty grid: nothing to run
        compiled = compile_kernel(call.kernel, call.params)
        units, grain = compiled.units_grain(call.params)
        out.append(Step(compiled.address, tuple(call.params), tuple(call.slots), units, grain))
        asks = asks or (compiled.asks and units > grain)
    return out, asks


def work_of(found: Sequence["Step"]) -> float:  # noqa: F821
    """Roughly how many element-operations a list of steps does (some nanoseconds per 32)."""
    return sum(s.units / s.grain for s in found) * GRAIN_WORK
