"""Runs an update rule on tensors, in place: as one fused kernel, or as recorded tensor operations.

`updater(rule, flags)` gives the callable `update(p, g, *buffers, *scalars)` that an optimizer
calls once per parameter. The fused form traces the rule to scalar expressions and lowers them to
one kernel that reads and writes the parameter and its buffers; like every op it is planned once
per combination of metas, and a call is one dict probe and one launch.

Floor 7; imports the public lampion API, `ops.fused_optim` and the planning below it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lampion

from ..autograd.state import clock
from ..base import dtype as dt
from ..callpath import NS
from ..ir import expr as E
from ..ops import plans
from ..ops.fused_optim import Rule
from ..ops.registry import plan_holders
from ..runtime import lowering
from ..runtime.backend import OpCall
from .optimizer import _with_hooks

Update = Callable[..., None]


class TensorMath:
    """The functions of a rule on tensors; second operands may be numbers."""

    @staticmethod
    def sqrt(x: Any) -> Any:
        return lampion.sqrt(x)

    @staticmethod
    def abs(x: Any) -> Any:
        return lampion.abs(x)

    @staticmethod
    def sign(x: Any) -> Any:
        return lampion.sign(x)

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return lampion.maximum(a, b) if isinstance(b, lampion.Tensor) else a.clamp_min(b)

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        return lampion.minimum(a, b) if isinstance(b, lampion.Tensor) else a.clamp_max(b)

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):  # a comparison of numbers
            return a if condition else b
        return lampion.where(condition, a, b)


class ExprMath:
    """The functions of a rule on scalar expressions."""

    sqrt = staticmethod(E.sqrt)
    abs = staticmethod(E.abs_)
    maximum = staticmethod(E.maximum)
    minimum = staticmethod(E.minimum)
    where = staticmethod(E.select)

    @staticmethod
    def sign(x: Any) -> Any:
        """-1, 0 or 1; NaN stays NaN."""
        return E.select(x > 0, 1.0, E.select(x < 0, -1.0, x))


_updaters: dict[Any, Update] = {}


def updater(rule: Rule, flags: dict[str, bool], differentiable: bool = False,
            held: tuple[str, ...] = ()) -> Update:
    """The in-place update `(p, g, *buffers, *scalars) -> None` of a rule with fixed options.

    Scalars are Python numbers, those named in `held` 0-d tensors on the parameter's device. With
    `differentiable` all may be tensors, and the update is made of ordinary operations that autograd
    records.
    """
    key = (rule.name, differentiable, held, *flags.items())
    found = _updaters.get(key)
    if found is None:
        found = recorded(rule, flags) if differentiable else fused(rule, flags, held)
        _updaters[key] = found
    return found


def recorded(rule: Rule, flags: dict[str, bool]) -> Update:
    """The rule as ordinary tensor operations."""
    update, buffers = rule.update, len(rule.buffers)

    def run(p: Any, g: Any, *rest: Any) -> None:
        tensors = [p, g, *rest[:buffers]]
        if p.is_complex():
            tensors = [lampion.view_as_real(t) for t in tensors]
        new = update(TensorMath, *tensors, *rest[buffers:], **flags)
        tensors.pop(1)
        for old, value in zip(tensors, new):
            old.copy_(value)

    return run


_SOURCE = """
def {name}(p, g, {args}):
    try:
        into = plans[p.meta, g.meta, {metas}]
    except KeyError:
        into = plan(p, g, {buffers})
    if into is None or NS["modes"]:
        return slow(p, g, {args})
    d0 = p.data_{loads}
    into(d0, {outs}d0, g.data_, {outs}{scalars})
    clock[0] = c = clock[0] + 1
    s = d0.base
    s.version += 1
    s.epoch = c
    s.writer = writer
"""
_TOUCH = """    s = {d}.base
    s.version += 1
    s.epoch = c
"""


def fused(rule: Rule, flags: dict[str, bool], held: tuple[str, ...] = ()) -> Update:
    """The rule as one in-place kernel; generated flat, because it runs per parameter and step."""
    table: dict[Any, Any] = {}
    plan_holders.append(table)
    names = [f"b{k}" for k in range(len(rule.buffers))]
    datas = [f"d{k + 1}" for k in range(len(names))]
    source = _SOURCE.format(
        name=f"update_{rule.name}",
        args=", ".join([*names, *rule.scalars]),
        metas="".join(f"{n}.meta, " for n in (*names, *held)),
        buffers=", ".join([*names, *held]),
        loads="".join(f"; {d} = {n}.data_" for d, n in zip(datas, names)),
        outs="".join(f"{d}, " for d in datas),
        scalars=", ".join(f"{n}.data_" if n in held else n for n in rule.scalars),
    ) + "".join(_TOUCH.format(d=d) for d in datas)

    def plan(*tensors: Any) -> Any:
        if tensors[1].layout is not lampion.strided:
            return None
        found = _plan(rule, flags, tensors, held)
        table[tuple(t.meta for t in tensors)] = found
        return found

    scope = {
        "plans": table,
        "plan": plan,
        "slow": _slow(rule, flags, held),
        "NS": NS,
        "clock": clock,
        "writer": (f"the {rule.name} optimizer's step()", _with_hooks.__code__, 0),
    }
    exec(compile(source, f"<lampion optim {rule.name}>", "exec"), scope)
    return scope[f"update_{rule.name}"]


def _slow(rule: Rule, flags: dict[str, bool], held: tuple[str, ...]) -> Update:
    """Complex parameters as pairs of reals; otherwise tensor operations."""
    by_ops = recorded(rule, flags)
    tensors = 2 + len(rule.buffers)

    def run(*args: Any) -> None:
        if args[1].layout is not lampion.strided:
            on_places(rule, flags, args)
        elif args[0].is_complex() and not NS["modes"]:
            pairs = [lampion.view_as_real(t) for t in args[:tensors]]
            updater(rule, flags, False, held)(*pairs, *args[tensors:])
        else:
            by_ops(*args)

    return run


def on_places(rule: Rule, flags: dict[str, bool], args: Any) -> None:
    """The rule where a sparse gradient has elements. RuntimeError if zeros count as well."""
    if not rule.sparse or flags.get("decay"):
        why = "weight_decay is not compatible with them" if rule.sparse else (
            "please consider SparseAdam instead")
        raise RuntimeError(f"the {rule.name} optimizer does not support sparse gradients, {why}")
    count = 2 + len(rule.buffers)
    g = args[1].coalesce()
    places = tuple(g.indices())
    written = [args[0], *args[2:count]]
    values = [t[places] for t in written]
    new = rule.update(TensorMath, values[0], g.values(), *values[1:], *args[count:], **flags)
    for t, v in zip(written, new):
        t[places] = v


def _plan(rule: Rule, flags: dict[str, bool], tensors: Any, held: tuple[str, ...]) -> Any:
    """The kernel's `into(*written, *read, *scalars)`, or None where operations must do.

    None is for complex numbers (see `_slow`), state of another shape, overlapping memory, and
    devices that compile no kernels: there the tensor operations run, or say what is wrong.
    """
    count = len(tensors) - len(held)
    metas = [t.meta.plain for t in tensors[:count]]
    numbers = {name: t.meta.plain for name, t in zip(held, tensors[count:])}
    p = metas[0]
    alike = all(m.shape == p.shape and m.device is p.device for m in metas) and all(
        m.device is p.device for m in numbers.values())
    if not alike or p.dtype.kind != "f" or any(m.overlapping for m in (p, *metas[2:])):
        return None
    compute = dt.opmath(p.dtype)
    outputs = (p, *metas[2:])
    inputs = (*metas, *[numbers.get(name, dt.float64) for name in rule.scalars])
    names = ["p", "g", *rule.buffers, *rule.scalars]
    values = rule.update(ExprMath, *map(E.var, names), **flags)
    variables = [(name, compute) for name in names]
    call = OpCall(rule.name, inputs, dict(zip(names, inputs)) | flags, outputs, p.device)

    def lower() -> Any:
        return lowering.elementwise(
            f"optim_{rule.name}", values, variables, inputs, outputs, compute
        )

    op = SimpleNamespace(qualname=f"optim::{rule.name}")
    launch, _ = plans.choose(op, call, lower)
    if launch is None:
        return None
    made = SimpleNamespace(op=op, call=call, launch_of=launch, launch=launch.launch,
                           into=launch.into)
    for told in plans.on_plan:
        told(made)
    return made.into
