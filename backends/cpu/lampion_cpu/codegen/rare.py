"""Seldom-taken arms of selects: out-of-line functions, called when some lane wants them.

The arm becomes a function of the values it shares with the rest of the kernel, so that one piece
of machine code serves every place (main loop, tail, several uses in one expression, other kernels)
where the same expansion occurs. It is half of the code of a sine, so it is compiled when it is
first wanted: a kernel calls it through a cell, and Python fills an empty cell. A program with arms
runs its threads without the GIL, because any of them may have to ask Python.
May import: lampion, emit, intrinsics, types, jit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from lampion.ir.expr import Expr, substitute, var

from .. import jit
from . import types as ty
from .emit import Emitter, Lanes, Scope, Val


def frontier(em: Emitter, arm: Expr) -> list[Expr]:
    """The nodes under `arm` that are emitted already, or must be (loads and loop variables)."""
    out: list[Expr] = []
    seen: set[int] = set()
    stack = [arm]
    while stack:
        x = stack.pop()
        if id(x) in seen or x.op == "const":
            continue
        seen.add(id(x))
        if not x.args or x.op == "load" or (x is not arm and em.find(x) is not None):
            out.append(x)
        else:
            stack.extend(reversed(x.args))
    return out


RESOLVER = "lampion_resolve_arm"  # void (ptr cell): compiles the arm of a cell


class Slot:
    """Where the address of an arm's function will be: one 8-byte cell for each arm and width, for
    all kernels of the process. `build` writes the function when it is first called."""

    def __init__(self, body: Expr, variables: Sequence[Expr], width: int, bits: int,
                 features: frozenset[str]) -> None:
        self.body, self.variables, self.width = body, variables, width
        self.bits, self.features = bits, features
        self.cell = jit.pin(ctypes.c_void_p())
        self.address = ctypes.addressof(self.cell)

    @property
    def types(self) -> list[str]:
        """The types of the function's arguments."""
        return [ty.vec(ty.reg(v.dtype), self.width) for v in self.variables if v.dtype is not None]

    @property
    def result(self) -> str:
        """The type of its result."""
        assert self.body.dtype is not None
        return ty.vec(ty.reg(self.body.dtype), self.width)

    def text(self) -> tuple[str, Emitter]:
        """LLVM IR of the function `arm`, and the emitter that wrote it."""
        em = Emitter((), frozenset(), self.bits, self.features)
        wide = self.width > 1
        if wide:
            em.lanes = Lanes(-1, self.width, 1, "0")
        for k, v in enumerate(self.variables):
            em.bind(("v", v.value), Val((f"%in{k}",), wide, em.root))
        value = em.value(self.body)
        assert self.body.dtype is not None
        result = (em.vectors(value, self.body.dtype) if wide else value.regs)[0]
        given = ", ".join(f"{t} %in{k}" for k, t in enumerate(self.types))
        t = self.result
        return em.module(f"define {t} @arm({given}) #1", f"ret {t} {result}"), em

    def build(self) -> None:
        """Compile the function and put its address into the cell."""
        text, em = self.text()
        self.cell.value = jit.compile_ir(text, ["arm"], em.symbols)["arm"]


_slots: dict[tuple[int, int, int], Slot] = {}
_by_address: dict[int, Slot] = {}


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _resolve(address: int) -> None:
    """Called by kernels, from any thread, when an arm is wanted that is not compiled yet."""
    try:
        _by_address[address].build()
    except BaseException:  # there is no way back into Python through the kernel
        import os
        import traceback

        traceback.print_exc()
        os.abort()


def function(em: Emitter, arm: Expr, inputs: list[Expr], width: int) -> str:
    """The name of a function computing `arm` from `inputs`: it calls the arm's own, which is
    compiled when that happens for the first time."""
    variables = [var(f"in{k}", x.dtype) for k, x in enumerate(inputs)]
    body = substitute([arm], dict(zip(inputs, variables)))[0]
    key = (id(body), width, em.bits)
    slot = _slots.get(key)
    if slot is None:
        slot = _slots[key] = Slot(body, variables, width, em.bits, em.features)
        _by_address[slot.address] = slot
    name = next((n for n, s in em.arms.items() if s is slot), "")
    if name:
        return f"@{name}"
    name = f"rare{len(em.arms)}"
    em.arms[name] = slot
    em.symbols[f"{name}_slot"] = slot.address
    address = ctypes.cast(_resolve, ctypes.c_void_p).value
    assert address is not None
    em.symbols[RESOLVER] = address
    em.declares.add(f"declare void @{RESOLVER}(ptr)")
    given = ", ".join(f"{t} %in{k}" for k, t in enumerate(slot.types))
    em.bodies.append(f"""@{name}_slot = external global ptr
define internal {slot.result} @{name}({given}) #1 {{
entry:
  %known = load atomic ptr, ptr @{name}_slot acquire, align 8
  %none = icmp eq ptr %known, null
  br i1 %none, label %make, label %call
make:
  call void @{RESOLVER}(ptr @{name}_slot)
  %made = load atomic ptr, ptr @{name}_slot acquire, align 8
  br label %call
call:
  %f = phi ptr [ %known, %entry ], [ %made, %make ]
  %r = call {slot.result} %f({given}) #1
  ret {slot.result} %r
}}
""")
    return f"@{name}"


def lazy_select(em: Emitter, e: Expr, scope: Scope, vec: bool) -> Val:
    """`wanted ? arm : usual`, calling the arm's function only if some lane wants it."""
    lanes = em.lanes
    width = lanes.width if vec and lanes is not None else 1
    count = lanes.count if vec and lanes is not None else 1
    arm = e.args[1]
    assert e.dtype is not None and arm.dtype is not None

    def get(x: Expr) -> tuple[str, ...]:
        v = em.value(x)
        assert x.dtype is not None
        return em.vectors(v, x.dtype) if vec else v.regs

    wanted, usual = get(e.args[0]), get(e.args[2])
    inputs = frontier(em, arm)
    given = [get(x) for x in inputs]
    name = function(em, arm, inputs, width)
    condition = wanted[0]
    b, t = ty.vec("i1", width), ty.vec(ty.reg(e.dtype), width)
    for w in wanted[1:]:
        condition = em.put(f"or {b} {condition}, {w}", scope)
    if width > 1:
        whole = em.put(f"bitcast {b} {condition} to i{width}", scope)
        condition = em.put(f"icmp ne i{width} {whole}, 0", scope)
    types = [ty.vec(ty.reg(x.dtype), width) for x in inputs if x.dtype is not None]
    hidden = em.scopes[scope.depth + 1:]
    del em.scopes[scope.depth + 1:]

    def then() -> list[str]:
        out = []
        for u in range(count):
            args = ", ".join(f"{k} {g[u]}" for k, g in zip(types, given))
            seldom = em.put(f"call {t} {name}({args})")
            out.append(em.put(f"select {b} {wanted[u]}, {t} {seldom}, {t} {usual[u]}"))
        return out

    try:
        out = em.branch(condition, then, [(t, x) for x in usual], scope)
    finally:
        em.scopes.extend(hidden)
    return Val(tuple(out), vec, scope)
