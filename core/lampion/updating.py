"""Calls that write into tensors they are given: in place through an `update` rule, and out=.

Floor 5; imports callpath, ops. In place, the target is written by the kernels themselves, without
a copy, and the call is recorded as the op's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from . import callpath
from .autograd.node import record
from .autograd.state import mode
from .base.dtype import can_cast
from .base.errors import CastError
from .callpath import NS
from .ops import plans as P
from .runtime import tracing


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
    if (NS["levels"] or target.meta.virtual) and callpath.stands(values):
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
    if tracing.active:
        tracing.active[-1].ran(p, inputs, (target.data_,))
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


def call_out(op: Any, values: list[Any], out: Any) -> Any:
    """Run with out=: resized if it has another shape, then written; never recorded."""
    refuse_recorded(op, out, values)
    rule = out_rule(op, values)
    if rule == "dtype" and hasattr(out, "meta"):
        values = [out.meta.dtype if p.name == "dtype" and v is None else v
                  for p, v in zip(op.params, values)]
    return write_out(op, out, callpath.call(op, values) if op.kind != "composite"
                     else op.body(*[v for p, v in zip(op.params, values) if not p.kwonly],
                                **{p.name: v for p, v in zip(op.params, values) if p.kwonly}),
                     rule)


def out_rule(op: Any, values: Sequence[Any]) -> str:
    """Which dtypes out= may have in the call with these arguments (see `Op.out_cast`)."""
    return op.out_cast if isinstance(op.out_cast, str) else op.out_cast(*values)


def refuse_recorded(op: Any, out: Any, values: Sequence[Any]) -> None:
    """RuntimeError if a call with out= would have to be recorded."""
    outs = out if isinstance(out, (tuple, list)) else (out,)
    for t in (*outs, *values):
        if getattr(t, "node", None) is not None and mode.enabled:
            raise RuntimeError(
                f"{op.qualname}(): functions with out=... arguments don't support automatic "
                "differentiation, but one of the arguments requires grad.")


def wrong_type(op: Any, args: Sequence[Any], kwargs: dict[str, Any],
               error: AttributeError) -> Exception:
    """What to raise for an attribute that was missing in a composite: a TypeError that names the
    argument, if it is one of the call's arguments that is no tensor."""
    given = [(k, p.name, v) for k, (p, v) in enumerate(zip(op.params, args))]
    given += [(k, p.name, kwargs[p.name]) for k, p in enumerate(op.params) if p.name in kwargs]
    for k, name, v in given:
        if v is error.obj and not isinstance(v, NS["BaseTensor"]):
            return TypeError(f"{op.qualname}(): argument '{name}' (position {k + 1}) must be "
                             f"Tensor, not {type(v).__name__}")
    return error


def write_out(op: Any, out: Any, result: Any, rule: str) -> Any:
    """Copy a result into its out= tensor(s), whose dtypes `rule` allows, with PyTorch's checks."""
    if isinstance(result, tuple):
        if not isinstance(out, (tuple, list)):
            raise TypeError(f"{op.qualname}(): argument 'out' must be tuple of Tensors, not "
                            f"{type(out).__name__}")
        if len(out) != len(result):
            raise TypeError(f"{op.qualname}(): out must hold {len(result)} tensors, "
                            f"not {len(out)}")
        for o, r in zip(out, result):
            write_out(op, o, r, rule)
        return callpath.result_tuple(op, list(out))
    if not isinstance(out, NS["BaseTensor"]):
        raise TypeError(f"{op.qualname}(): argument 'out' must be Tensor, not "
                        f"{type(out).__name__}")
    if out.meta.device is not result.meta.device:
        raise RuntimeError(f"{op.qualname}: expected out tensor to be on {result.meta.device}, "
                           f"but it is on {out.meta.device}")
    if out.meta.overlapping and out.meta.numel:
        raise RuntimeError(
            f"{op.qualname}: unsupported operation: more than one element of the written-to "
            "tensor refers to a single memory location. Please clone() the tensor before "
            "performing the operation.")
    have, want = result.meta.dtype, out.meta.dtype
    if have is not want and rule != "any":
        if rule == "kind" and have.kind != want.kind:
            raise NotImplementedError(f"{op.qualname}: not implemented for out= of dtype "
                                      f"{want.name}; give one of dtype {have.name}")
        if rule in ("same", "dtype"):
            raise RuntimeError(f"{op.qualname}: Expected out tensor to have dtype {have.name}, but "
                               f"got {want.name} instead")
        if rule == "safe" and not can_cast(have, want):
            raise CastError(f"{op.qualname}: result type {P._word(have)} can't be cast to the "
                            f"desired output type {P._word(want)}")
    if out.meta.shape != result.meta.shape:
        if out.meta.numel:
            warnings.warn(f"{op.qualname}: out= of shape {list(out.meta.shape)} was resized to "
                          f"{list(result.meta.shape)}; give one of that shape, or an empty one.",
                          UserWarning, stacklevel=4)
        out.resize_(result.meta.shape)
    previous = mode.enabled
    mode.enabled = False
    try:
        out.copy_(result)
    finally:
        mode.enabled = previous
    return out


NS["inplace_kernel"] = inplace_kernel
NS["call_out"] = call_out
NS["write_out"] = write_out
NS["out_rule"] = out_rule
NS["refuse_recorded"] = refuse_recorded
NS["wrong_type"] = wrong_type
NS["through_layers"] = through_layers
