"""In-place calls of kernel ops that have an `update` rule.

Floor 5; imports callpath, ops. The target is written by the kernels themselves, without a copy,
and the call is recorded as the op's.
"""

from __future__ import annotations

from typing import Any

from . import callpath
from .autograd.node import record
from .autograd.state import mode
from .base.dtype import can_cast
from .callpath import NS
from .ops import plans as P


def inplace_kernel(op: Any, name: str, target: Any, args: tuple[Any, ...],
                   kwargs: dict[str, Any]) -> Any:
    """Run `op` with its first tensor as the result. RuntimeError for leaves and for targets whose
    elements share memory."""
    values = op.bind((target, *args), kwargs)
    if NS["modes"] or target.meta.override is not None:
        handled = callpath.override(op, values, inplace=True)
        if handled is not NotImplemented:
            return handled
        handled = through_layers(op, name, target, values)
        if handled is not NotImplemented:
            return handled
    if NS["levels"] and callpath.stands(values):
        return NS["transformed_inplace"](op, name, values)
    values = callpath.convert(op, values)
    callpath.check_leaf(target, name)
    key, metas = callpath.plan_key(op, values)
    p = op.iplans.get(key)
    if p is None:
        m = target.meta.plain
        op.meta(*metas)  # the checks of the arguments
        P.check_write(op, m, m.dtype, m.shape)
        p = op.iplans[key] = P.kernel_plan(op, metas, [m], op.update)
    if p.into is None:
        return NS["assign"](target, op.fn(*values), name)
    base = target.data_.base
    for k, v in enumerate(values[1:], 1):
        values[k] = apart(v, base)
    inputs, edges, _ = callpath.split(op, values)
    recording = p.diff and mode.enabled and any(e is not None for e in edges)
    if recording and op.params[0].name in op.save:
        copy = target.detach().clone()
        copy.node = target.node
        values[0] = copy
    p.into(target.data_, *inputs)
    callpath.wrote(target, name, 3)
    if recording:
        callpath.rebase(target, record(p, edges, tuple(values), (target,)))
    return target


def apart(v: Any, base: Any) -> Any:
    """An argument with memory of its own if it shares that of the target."""
    if isinstance(v, (list, tuple)):
        return tuple([apart(t, base) for t in v])
    if getattr(v, "data_", None) is not None and v.data_.base is base:
        return v.clone()
    return v


def through_layers(op: Any, name: str, target: Any, values: list[Any]) -> Any:
    """An in-place call as the active layers want it: out of place, then copied. NotImplemented if
    no layer takes it."""
    if not callpath.layers:
        return NotImplemented
    callpath.check_leaf(target, name)
    if mode.enabled:  # what the call saves must outlive the write
        values = [apart(v, target.data_.base) for v in values]
    for layer in reversed(callpath.layers):
        result = layer(op, values)
        if result is not NotImplemented:
            if not can_cast(result.meta.dtype, target.meta.dtype):
                raise RuntimeError(f"{name}: result type {P._word(result.meta.dtype)} can't be "
                                   "cast to the desired output type "
                                   f"{P._word(target.meta.dtype)}")
            return target.copy_(result)
    return NotImplemented


NS["inplace_kernel"] = inplace_kernel
NS["through_layers"] = through_layers
