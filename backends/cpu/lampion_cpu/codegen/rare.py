"""Seldom-taken arms of selects: out-of-line functions, called when some lane wants them.

The arm becomes a function of the values it shares with the rest of the kernel, so that one piece
of machine code serves every place (main loop, tail, several uses in one expression) where the
same expansion occurs. May import: lampion, emit, intrinsics, types.
"""

from __future__ import annotations

from lampion.ir.expr import Expr, substitute, var

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


def function(em: Emitter, arm: Expr, inputs: list[Expr], width: int) -> str:
    """The name of a function computing `arm` from `inputs`, written on first use."""
    variables = [var(f"in{k}", x.dtype) for k, x in enumerate(inputs)]
    body = substitute([arm], dict(zip(inputs, variables)))[0]
    key = (id(body), width)
    found = em.functions.get(key)
    if found is not None:
        return found
    name = em.functions[key] = f"@rare{len(em.functions)}"
    sub = Emitter((), frozenset(), em.bits, em.features)
    sub.declares, sub.symbols, sub.functions = em.declares, em.symbols, em.functions
    sub.bodies = em.bodies
    given = []
    if width > 1:
        sub.lanes = Lanes(-1, width, 1, "0")
    for k, v in enumerate(variables):
        assert v.dtype is not None
        given.append(f"{ty.vec(ty.reg(v.dtype), width)} %in{k}")
        sub.bind(("v", v.value), Val((f"%in{k}",), width > 1, sub.root))
    assert body.dtype is not None
    value = sub.value(body)
    result = (sub.vectors(value, body.dtype) if width > 1 else value.regs)[0]
    t = ty.vec(ty.reg(body.dtype), width)
    lines = "\n".join(x if x.endswith(":") else "  " + x for x in sub.root.lines)
    em.bodies.append(f"define internal {t} {name}({', '.join(given)}) #1 {{\nentry:\n{lines}\n"
                     f"  ret {t} {result}\n}}\n")
    return name


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
