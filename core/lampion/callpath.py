"""The call path: turns every registered op into functions and methods.

Floor 5; imports everything below. For each op a flat Python function is generated whose fast
path is one dict probe on interned metas, one launch, one result object and, if an operand needs
gradients, one node. Whatever is unusual (a new meta, numbers of odd types, subclasses that
override ops, active modes, out=) goes to `slow`, which does all the checking.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

from . import argument_names
from .autograd import node as autograd_node
from .autograd.node import AccumulateGrad, Node, Select, record
from .autograd.state import clock, mode
from .base.device import device
from .base.dtype import dtype, of_type
from .base.located import HERE as LOCATED
from .base.meta import Meta
from .linking import link
from .ops import plans as P
from .ops import registry as R
from .ops.results import named
from .overlap import check_overlap
from .runtime import tracing
from .runtime.devices import resolve

# Namespace of all generated functions. `modes` counts active layers (autocast, tracing, saved
# tensor hooks...) in any thread: while it is not 0 every call takes the slow path. `levels` counts
# function transforms that are running; their tensors reach the slow path by their metas. `built` is
# told of every function that is generated (see `watching`).
NS: dict[str, Any] = {"modes": 0, "levels": 0, "built": None, "new": object.__new__, "mode": mode,
                      "record": record, "clock": clock, "getframe": sys._getframe, "ref": ref,
                      "by_name": argument_names.by_name, "in_numpy": argument_names.in_numpy}
layers: list[Callable[..., Any]] = []
_numbers = (bool, int, float)


class Layer:
    """A mode that sees every op call: `handler(op, values) -> result or NotImplemented`."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.handler = handler

    def __enter__(self) -> "Layer":
        layers.append(self.handler)
        NS["modes"] += 1
        return self

    def __exit__(self, *exc: Any) -> None:
        layers.remove(self.handler)
        NS["modes"] -= 1


_REF = "{n} if {n} is None else {n}.{a}"


def _signature(op: R.Op, *, skip_out: bool = False, extra: bool = True) -> tuple[str, dict]:
    """Python source of an op's parameter list, and the defaults it refers to."""
    detour = getattr(op, "detour", None)
    more = detour.extra if detour is not None and extra else ()
    texts = [f"{p.name}=_default_{p.name}" for p in more]
    texts += ["out=None"] if not skip_out and op.out else []
    return argument_names.signature(op, texts), {
        **argument_names.defaults(op), **{f"_default_{p.name}": p.default for p in more}}


_LOCALS = r"[prdbfcem]|root|kids|edges|out|op|plans|iplans|detour|[tmdne]\d+"


# Globals of the generated code that an argument must not hide.
RESERVED = frozenset(("modes", "mode", "new", "record", "clock", "getframe", "ref", "Tensor",
                      "Parameter", "slow", "prune", "by_name", "in_numpy", "len", "type", "tuple"))


def _arg(p: R.Param) -> str:
    """The name of an argument inside the generated code, which has names of its own."""
    return f"{p.name}_arg" if re.fullmatch(_LOCALS, p.name) else p.name


def _aliases(op: R.Op) -> list[str]:
    """Lines that free the generated code's own names."""
    return [f"    {_arg(p)} = {p.name}" for p in op.params if _arg(p) != p.name]


def _operand_code(op: R.Op, method: bool) -> tuple[list[str], list[str], list[str], list[str]]:
    """(setup lines, key parts, launch arguments, node names) of an op's arguments."""
    setup, key, launch, nodes = [], [], [], []
    for k, p in enumerate(op.params):
        n = _arg(p)
        if p.kind == R.TENSOR or (method and k == 0 and p.kind != R.LIST):
            key.append(f"{n}.meta")
            launch.append(f"{n}.data_")
            nodes.append(f"{n}.node")
        elif p.kind == R.TENSOR_OR_NUMBER:
            setup += [f"t{k} = type({n})", f"if t{k} is Tensor or t{k} is Parameter:",
                      f"    m{k} = {n}.meta; d{k} = {n}.data_; n{k} = {n}.node",
                      "else:", f"    m{k} = t{k}; d{k} = {n}; n{k} = None"]
            key.append(f"m{k}")
            launch.append(f"d{k}")
            nodes.append(f"n{k}")
        elif p.kind == R.OPTIONAL:
            setup.append(f"m{k} = None if {n} is None else {n}.meta")
            key.append(f"m{k}")
            launch.append(f"?{n}")
            nodes.append(f"?{n}")
        elif p.kind in (R.SCALAR, R.INTEGER):
            key.append(f"type({n})")
            launch.append(n)
            if op.kind == "elementwise":
                nodes.append("None")
        elif p.kind == R.LIST:
            setup.append(f"m{k} = tuple([t.meta for t in {n}])")
            key.append(f"m{k}")
            launch.append(f"*{n}")
            nodes.append(f"*{n}")
        else:
            key.append(n)
    return setup, key, launch, nodes


def _gather(items: list[str], attr: str, names: Sequence[str]) -> str:
    """Source of the argument list, with optional and list tensors spread in."""
    out = []
    for item in items:
        if item.startswith("?"):
            out.append(f"*(() if {item[1:]} is None else ({item[1:]}.{attr},))")
        elif item.startswith("*"):
            out.append(f"*[t.{attr} for t in {item[1:]}]")
        else:
            out.append(item)
    return ", ".join(out)


def function_source(op: R.Op, name: str, *, method: bool = False, dunder: bool = False) -> str:
    """Source of an op's function; `method` knows that the first argument is a tensor."""
    sig, _ = _signature(op, skip_out=method and dunder, extra=not dunder)
    pos = ", ".join(map(_arg, op.positional))
    kw = ", ".join(f"{p.name!r}: {_arg(p)}" for p in op.params if p.kwonly)
    has_out = op.out and not (method and dunder)
    slow_kw = "{" + ", ".join(filter(None, (kw, "'out': out" if has_out else ""))) + "}"
    comma = "," if len(op.positional) == 1 else ""
    slow = f"return slow(op, ({pos}{comma}), {slow_kw})"
    if dunder:
        slow = f"return slow_dunder(op, ({pos}{comma}), {slow_kw})"
    setup, key, launch, nodes = _operand_code(op, method)
    keys = key[0] if len(key) == 1 else "(" + ", ".join(key) + ")"
    condition = "modes or out is not None" if has_out else "modes"
    form = "operator" if dunder else "function"
    lines = [f"def {name}({sig}):", *argument_names.lines(op), *_aliases(op),
             *_detour_code(op, form),
             f"    if {condition}:", f"        {slow}", "    try:"]
    lines += ["        " + s for s in setup]
    lines += [f"        p = plans[{keys}]",
              "    except (KeyError, TypeError, AttributeError):", f"        {slow}"]
    if op.kind == "view":
        lines += _view_body(op)
    else:
        lines += _launch_body(op, launch, nodes, slow)
    return "\n".join(lines)


def _detour_code(op: R.Op, form: str) -> list[str]:
    """Source that sends the calls of an op's detour there."""
    way = getattr(op, "detour", None)
    if way is None or (way.extra and form == "operator"):
        return []
    args = [_arg(p) if not p.kwonly else f"{p.name}={_arg(p)}" for p in op.params]
    args += [f"{p.name}={p.name}" for p in way.extra]
    args += ["out=out"] if form == "function" and op.out else []
    when = way.when
    for p in (*op.params, *way.extra):
        when = when.replace(f"${p.name}", f"_default_{p.name}")
    return [f"    if {when}:", f"        return detour(op, {form!r}, {', '.join(args)})"]


def _launch_body(op: R.Op, launch: list[str], nodes: list[str], slow: str) -> list[str]:
    args = _gather(launch, "data_", [])
    values = f"({', '.join(map(_arg, op.params))},)" if op.params else "()"
    if op.kind == "elementwise":
        values = "(" + ", ".join(_arg(p) for p in op.params if p.kind != R.ATTR) + ",)"
    lines = ["    if p.launch is None:", f"        {slow}"] if op.kind == "kernel" else []
    if getattr(op, "noutputs", 1) > 1:
        edges = _gather(nodes, "node", [])
        return lines + [f"    return finish_many(p, p.launch({args}), "
                        f"({edges}{',' if edges else ''}), {values})"]
    if op.differentiable and len(nodes) <= 4 and [n[0] for n in nodes].count("?") == 1 \
            and not any(n[0] == "*" for n in nodes):
        return lines + _optional_body(launch, nodes, values)
    lines += ["    r = new(Tensor)", f"    r.data_ = p.launch({args})", "    r.meta = p.meta",
              "    r.root = r.kids = None"]
    live = [n for n in nodes if n != "None"]
    if not live or not op.differentiable:
        return lines + ["    r.node = None", "    return r"]
    if not any(n[0] in "?*" for n in nodes) and len(nodes) <= 5:
        names, cond = [], []
        for k, n in enumerate(nodes):
            if n == "None":
                names.append("None")
                continue
            if "." in n:
                lines.append(f"    e{k} = {n}")
                n = f"e{k}"
            names.append(n)
            cond.append(f"{n} is not None")
        needs = "True"
        if op.kind == "elementwise":
            flags = ["False" if n == "None" else f"{n} is not None" for n in names]
            needs = f"({', '.join(flags)},)"
        lines += [f"    if ({' or '.join(cond)}) and p.diff and mode.enabled:",
                  f"        r.node = record(p, ({', '.join(names)},), {values}, (r,), {needs})",
                  "    else:", "        r.node = None", "    return r"]
        return lines
    finish = f"return finish_one(p, r, ({_gather(nodes, 'node', [])},), {values})"
    if not any(n[0] == "?" for n in nodes):  # look before building the edges
        lines.append("    if p.diff and mode.enabled:")
        for n in live:
            lines += [f"        for e in {n[1:]}:", "            if e.node is not None:",
                      f"                {finish}"] if n[0] == "*" else [
                          f"        if {n} is not None:", f"            {finish}"]
        return lines + ["    r.node = None", "    return r"]
    return lines + [f"    {finish}"]


def _optional_body(launch: list[str], nodes: list[str], values: str) -> list[str]:
    """A call with one optional tensor, branching on whether it is there."""
    at = next(n for n in nodes if n[0] == "?")
    x, edges = at[1:], [f"e{k}" for k in range(len(nodes))]
    own = edges[nodes.index(at)]
    rest = [e for e in edges if e != own]
    return ["    r = new(Tensor)", "    r.meta = p.meta", "    r.root = r.kids = None",
            *[f"    {e} = {n}" for e, n in zip(edges, nodes) if n != at],
            f"    if {x} is None:", f"        {own} = None",
            f"        r.data_ = p.launch({', '.join(a for a in launch if a != at)})",
            "    else:", f"        {own} = {x}.node",
            f"        r.data_ = p.launch({', '.join(launch).replace(at, x + '.data_')})",
            f"    if ({' or '.join(f'{e} is not None' for e in edges)}) and p.diff "
            "and mode.enabled:",
            f"        e = ({', '.join(rest)},) if {x} is None else ({', '.join(edges)},)",
            f"        r.node = record(p, e, {values}, (r,), True)",
            "    else:", "        r.node = None", "    return r"]


def _view_body(op: R.Op) -> list[str]:
    """A view: shares the storage, links to its base, is recorded if its source is."""
    x = _arg(op.params[0])
    packed = ", ".join(map(_arg, op.params))
    return ["    m = p.meta", "    if m is None:",
            f"        return op.compose({packed})",
            f"    d = {x}.data_", "    r = new(Tensor)",
            "    r.data_ = d if p.offset == 0 else d.view(p.offset)",
            "    r.meta = m", "    r.kids = None", f"    e = {x}.node",
            "    if e is not None and p.diff and mode.enabled:",
            f"        r.node = record(p, (e,), ({packed},), (r,))",
            "    else:", "        r.node = None", f"    root = {x}.root",
            f"    r.root = root = {x} if root is None else root", "    kids = root.kids",
            "    if kids is None:", "        root.kids = [ref(r)]",
            "    else:", "        kids.append(ref(r))",
            "        if not len(kids) & 31:", "            prune(root)", "    return r"]


def inplace_source(op: R.Op, name: str) -> str:
    """Source of the in-place method of an elementwise op."""
    sig, _ = _signature(op, skip_out=True)
    setup, key, launch, nodes = _operand_code(op, True)
    first = _arg(op.params[0])
    pos = ", ".join(map(_arg, op.positional))
    comma = "," if len(op.positional) == 1 else ""
    kw = ", ".join(f"{p.name!r}: {_arg(p)}" for p in op.params if p.kwonly)
    slow = f"return slow_inplace(op, ({pos}{comma}), {{{kw}}})"
    keys = key[0] if len(key) == 1 else "(" + ", ".join(key) + ")"
    lines = [f"def {name}({sig}):", *_aliases(op), *_detour_code(op, "inplace"),
             "    if modes:", f"        {slow}", "    try:"]
    lines += ["        " + s for s in setup]
    lines += [f"        p = iplans[{keys}]",
              "    except (KeyError, TypeError, AttributeError):", f"        {slow}",
              f"    d = {first}.data_", "    b = d.base"]
    cond = ["d is not b and d.epoch",  # a view whose writes are not counted
            *[f"{n} is not None" for n in nodes if n != "None"]]
    for arg in launch[1:]:
        if arg.startswith("d"):
            cond.append(f"({arg} is not d and getattr({arg}, 'base', None) is b)")
    lines += [f"    if {' or '.join(cond)}:", f"        {slow}",
              f"    p.into(d, d, {', '.join(launch[1:])})" if launch[1:]
              else "    p.into(d, d)",
              "    f = getframe(1)",
              f"    b.version += 1; clock[0] = c = clock[0] + 1; b.epoch = c; "
              f"b.writer = ({name!r}, f.f_code, f.f_lasti)",
              f"    return {first}"]
    return "\n".join(lines)


def build(op: R.Op, source: str, name: str, extra: dict[str, Any] | None = None) -> Any:
    """Compile generated source; the function's globals are NS, per-op values its defaults."""
    _, defaults = _signature(op)
    way = getattr(op, "detour", None)
    local = {"op": op, "plans": op.plans, "iplans": op.iplans, **defaults,  # type: ignore
             **({} if way is None else {"detour": way.serve}), **(extra or {})}
    outer = f"def make({', '.join(local)}):\n" + "\n".join(
        "    " + line for line in source.split("\n")) + f"\n    return {name}"
    scope: dict[str, Any] = {}
    exec(compile(outer, f"<lampion op {op.qualname}>", "exec"), NS, scope)
    fn = scope["make"](**local)
    fn.__doc__ = op.doc
    fn.__module__, fn.__qualname__ = "lampion", name
    return fn


def finish_one(p: P.Plan, r: Any, edges: tuple[Any, ...], values: tuple[Any, ...]) -> Any:
    """Attach a node if an edge needs gradients."""
    r.node = None
    if p.diff and any(e is not None for e in edges) and mode.enabled:
        needs = tuple([e is not None for e in edges]) if p.op.kind == "elementwise" else True
        r.node = record(p, edges, values, (r,), needs)
    return r


def finish_many(p: P.Plan, datas: tuple[Any, ...], edges: tuple[Any, ...],
                values: tuple[Any, ...]) -> Any:
    """Wrap several outputs, with a Select node each if gradients are recorded."""
    make = NS["make_tensor"]
    outs = [make(d, m, None) for d, m in zip(datas, p.metas)]
    if p.diff and any(e is not None for e in edges) and mode.enabled:
        needs = tuple([e is not None for e in edges]) if p.op.kind == "elementwise" else True
        node = record(p, edges, values, tuple(outs), needs)
        for k, o in enumerate(outs[:getattr(p.op, "diff_outputs", None)]):
            if o.meta.dtype.kind in "fc":
                o.node = Select(node, k)
    return result_tuple(p.op, outs)


def result_tuple(op: R.Op, outs: Sequence[Any]) -> Any:
    """A tuple, or the op's named tuple ("values", "indices")."""
    if not op.returns:
        return tuple(outs)
    return named(op.result_name or op.name, op.returns)(*outs)


def slow_dunder(op: R.Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`slow` for operators: NotImplemented for operands that are no tensors or numbers."""
    rest = [operand(a) for a in args[1:]]
    if any(a is NotImplemented for a in rest):
        return NotImplemented
    return slow(op, (args[0], *rest), kwargs)


def operand(a: Any) -> Any:
    """What an operator computes with: a tensor, a number, an array of numbers as a tensor, an
    object that overrides ops; NotImplemented for anything else."""
    if isinstance(a, (NS["BaseTensor"], bool, int, float, complex)) or _numpy_scalar(a) \
            or hasattr(a, "__torch_function__"):
        return a
    if type(a).__module__ == "numpy" and hasattr(a, "__array_interface__") \
            and a.dtype.kind in "biufc":
        return NS["as_tensor"](a)
    return NotImplemented


def _numpy_scalar(a: Any) -> bool:
    return type(a).__module__ == "numpy" and getattr(a, "shape", None) == ()


def slow(op: R.Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The general call: overrides, layers, conversions, then plan and run."""
    out = kwargs.pop("out", None)
    values = op.bind(args, kwargs)
    handled = override(op, values, out)
    if handled is not NotImplemented:
        return handled
    for layer in reversed(layers):
        result = layer(op, values)
        if result is not NotImplemented:
            return result if out is None else NS["write_out"](
                op, out, result, NS["out_rule"](op, values))
    if out is not None:
        return NS["call_out"](op, values, out)
    return call(op, values)


def stands(values: Sequence[Any]) -> bool:
    """Whether a tensor among the arguments belongs to a function transform."""
    for v in values:
        if isinstance(v, (list, tuple)):
            if any(t.meta.virtual for t in v if hasattr(t, "data_")):
                return True
        elif hasattr(v, "data_") and v.meta.virtual:
            return True
    return False


def call(op: R.Op, values: list[Any]) -> Any:
    """Plan (cached) and run a bound call without overrides or layers."""
    if stands(values):
        return NS["transformed"](op, values)
    if op.kind == "view":
        return call_view(op, values)  # type: ignore[arg-type]
    p, values = planned(op, values)
    if p.launch is None:
        return op.compose(*values)  # type: ignore[attr-defined]
    return run(op, p, values)


def planned(op: R.Op, values: list[Any]) -> tuple[P.Plan, list[Any]]:
    """The plan (cached) of a bound call, and its arguments in canonical form."""
    values = convert(op, values)
    key, metas = plan_key(op, values)
    p = op.plans.get(key)
    if p is None:
        p = make_plan(op, metas)
        if len(op.plans) > 20_000:
            op.plans.clear()
        op.plans[key] = p
    return p, values


def run(op: R.Op, p: P.Plan, values: list[Any]) -> Any:
    """Launch a plan and wrap its results."""
    inputs, edges, operands = split(op, values)
    datas = p.launch(*inputs)  # type: ignore[misc]
    if tracing.active:
        tracing.active[-1].ran(p, inputs, datas if type(datas) is tuple else (datas,))
    if getattr(op, "noutputs", 1) > 1:
        return finish_many(p, datas, edges, operands)
    return finish_one(p, NS["make_tensor"](datas, p.meta, None), edges, operands)


def make_plan(op: R.Op, metas: list[Any], outputs: Any = None) -> P.Plan:
    """Build the plan of a call from its metas."""
    if isinstance(op, R.ElementwiseOp):
        operands = [m for m, p in zip(metas, op.params) if p.kind != R.ATTR]
        attrs = {p.name: m for m, p in zip(metas, op.params) if p.kind == R.ATTR}
        return P.elementwise_plan(op, operands, attrs, outputs)
    return P.kernel_plan(op, metas, outputs)  # type: ignore[arg-type]


def plan_key(op: R.Op, values: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The cache key that the generated code probes, and the values with metas for tensors."""
    metas: list[Any] = []
    for p, v in zip(op.params, values):
        if p.kind == R.LIST:
            metas.append([t.meta.plain for t in v])
        elif p.kind in (R.SCALAR, R.INTEGER) or (p.kind == R.TENSOR_OR_NUMBER
                                                 and type(v) in _numbers):
            metas.append(type(v))
        elif p.kind != R.ATTR and v is not None:
            metas.append(v.meta.plain)
        else:
            metas.append(v)
    parts = [tuple(m) if type(m) is list else m for m in metas]
    return (parts[0] if len(parts) == 1 else tuple(parts)), metas


def split(op: R.Op, values: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...], tuple[Any, ...]]:
    """(launch arguments, edges, recorded operands) of converted values."""
    inputs: list[Any] = []
    edges: list[Any] = []
    is_ew = op.kind == "elementwise"
    for p, v in zip(op.params, values):
        if p.kind == R.ATTR or v is None:
            continue
        if p.kind == R.LIST:
            inputs.extend(t.data_ for t in v)
            edges.extend(t.node for t in v)
        elif hasattr(v, "data_"):
            inputs.append(v.data_)
            edges.append(v.node)
        else:
            inputs.append(v)
            if is_ew:
                edges.append(None)
    operands = tuple(v for p, v in zip(op.params, values) if p.kind != R.ATTR) if is_ew \
        else tuple(values)
    return inputs, tuple(edges), operands


def convert(op: R.Op, values: list[Any]) -> list[Any]:
    """Arguments in canonical form: tensors, plain numbers, hashable attributes."""
    BaseTensor = NS["BaseTensor"]
    values = list(values)
    anchor = None
    for k, p in enumerate(op.params):
        v = values[k]
        if p.kind == R.TENSOR or (p.kind == R.OPTIONAL and v is not None):
            if not isinstance(v, BaseTensor):
                raise TypeError(f"{op.qualname}(): argument '{p.name}' (position {k + 1}) must be "
                                f"Tensor, not {type(v).__name__}")
        elif p.kind == R.LIST:
            values[k] = _tensor_list(op, p, v)
        elif p.kind in (R.SCALAR, R.INTEGER):
            values[k] = _number(op, p, v)
        elif p.kind == R.ATTR:
            values[k] = _attribute(p, v)
        if anchor is None and isinstance(v, BaseTensor) and v.meta.ndim:
            anchor = v
    _operands(op, values, anchor)
    if getattr(op, "normalize", None) is not None:
        values = list(op.normalize(*values))  # type: ignore[attr-defined]
    return values


def _operands(op: R.Op, values: list[Any], anchor: Any) -> None:
    """Numbers among tensor-or-number arguments; host scalars next to device tensors."""
    BaseTensor = NS["BaseTensor"]
    kinds = (R.TENSOR_OR_NUMBER, R.TENSOR) if op.kind == "elementwise" else (R.TENSOR_OR_NUMBER,)
    slots = [k for k, p in enumerate(op.params) if p.kind in kinds]
    if not slots:
        return
    if not any(isinstance(values[k], BaseTensor) for k, p in enumerate(op.params)
               if p.kind in (R.TENSOR_OR_NUMBER, R.TENSOR)):
        k = slots[0]
        if getattr(op, "numbers", False) and isinstance(values[k], (*_numbers, complex)):
            values[k] = NS["scalar_tensor"](values[k])
        else:
            raise TypeError(f"{op.qualname}(): argument '{op.params[k].name}' (position {k + 1}) "
                            f"must be Tensor, not {type(values[k]).__name__}")
    like = anchor if anchor is not None else next(
        values[k] for k in range(len(values)) if isinstance(values[k], BaseTensor))
    for k in slots:
        v = values[k]
        if isinstance(v, BaseTensor):
            if v.meta.device is not like.meta.device and v.meta.ndim == 0 and v.node is None \
                    and "host-memory" in P.backend_of(v.meta.device).capabilities(0).features:
                values[k] = v.to(like.meta.device)
        elif isinstance(v, complex) or (_numpy_scalar(v) and v.dtype.kind == "c"):
            values[k] = NS["complex_operand"](op, complex(v), values, like)
        else:
            values[k] = _number(op, op.params[k], v)


def _number(op: R.Op, p: R.Param, v: Any) -> Any:
    if type(v) in _numbers:
        return v
    if _numpy_scalar(v) or isinstance(v, (bool, int, float)):
        return v.item() if hasattr(v, "item") else (
            int(v) if isinstance(v, int) else float(v))
    if isinstance(v, NS["BaseTensor"]):
        return v.item()
    if hasattr(v, "__index__"):
        return int(v)
    if isinstance(v, complex) and v.imag == 0:
        return v.real
    raise TypeError(f"{op.qualname}(): argument '{p.name}' must be Number, not "
                    f"{type(v).__name__}")


def _tensor_list(op: R.Op, p: R.Param, v: Any) -> Any:
    if not isinstance(v, (list, tuple)):
        raise TypeError(f"{op.qualname}(): argument '{p.name}' must be tuple of Tensors, not "
                        f"{type(v).__name__}")
    for k, t in enumerate(v):
        if not isinstance(t, NS["BaseTensor"]):
            raise TypeError(f"expected Tensor as element {k} in argument '{p.name}' of "
                            f"{op.qualname}(), but got {type(t).__name__}")
    return v


def _attribute(p: R.Param, v: Any) -> Any:
    if isinstance(v, list):
        return tuple(_attribute(p, x) for x in v)
    if type(v) is tuple:
        return tuple([_attribute(p, x) for x in v]) if not all(type(x) is int for x in v) else v
    if isinstance(v, tuple):
        return tuple(v)
    if isinstance(v, NS["BaseTensor"]) and v.meta.ndim == 0:
        return v.item()
    if type(v).__module__ == "numpy" and hasattr(v, "item") and getattr(v, "shape", 1) == ():
        return v.item()
    if p.name == "device":
        return resolve(v)
    if type(v) is type and p.name == "dtype":
        return of_type(v)
    if isinstance(v, tracing.Seen):
        return int.__pos__(v)
    return v


def override(op: R.Op, values: Sequence[Any], out: Any = None, inplace: bool = False) -> Any:
    """Give classes with `__torch_function__` the call. NotImplemented if there are none."""
    found: list[Any] = []
    for v in values:
        for t in (v if isinstance(v, (list, tuple)) else (v,)):
            m = getattr(t, "meta", None)
            if (type(m) is Meta and m.override is not None and not m.virtual) or (
                    m is None and hasattr(type(t), "__torch_function__")):
                found.append(t)
    if not found or NS["no_override"].depth:
        return NotImplemented
    types = tuple(dict.fromkeys(type(t) for t in found))
    if any(not isinstance(t, NS["BaseTensor"]) for t in found):
        from .watching import follow_classes

        follow_classes()  # composites cannot know such a class by its meta
    args, kwargs = op.as_called(values)
    if out is not None:
        kwargs["out"] = out
    found.sort(key=lambda t: -len(type(t).__mro__))
    for t in found:
        result = type(t).__torch_function__(NS["public"](op, inplace), types, args, kwargs)
        if result is not NotImplemented:
            return result
    raise TypeError(f"no implementation found for 'lampion.{op.qualname}' on types that implement "
                    f"__torch_function__: {[t.__name__ for t in types]}")


def call_view(op: R.ViewOp, values: list[Any]) -> Any:
    """Make a view: strides and offset from the op's rule; raises what the rule raises."""
    source = values[0]
    if not isinstance(source, NS["BaseTensor"]):
        raise TypeError(f"{op.qualname}(): argument '{op.params[0].name}' (position 1) must be "
                        f"Tensor, not {type(source).__name__}")
    rest = [_attribute(p, v) for p, v in zip(op.params[1:], values[1:])]
    m = source.meta.plain
    key = (m, *rest) if rest else m
    p = op.plans.get(key)
    if p is None:
        spec = op.view(m, *rest)
        if spec is None:  # only a copy will do
            p = P.no_view
        else:
            shape, strides, offset = spec[:3]
            d = spec[3] if len(spec) > 3 else m.dtype
            start = int(offset * m.dtype.itemsize)
            if not m.numel and 0 in shape:
                start = 0  # no elements: no place either
            p = P.ViewPlan(op, NS["meta"](d, shape, strides, m.device), start,
                           {q.name: v for q, v in zip(op.params, [m, *rest])})
        if len(op.plans) > 20_000:
            op.plans.clear()
        op.plans[key] = p
    if p.meta is None:
        return op.compose(source, *rest)
    if tracing.active:
        tracing.active[-1].viewed(p)
    d0 = source.data_
    r = object.__new__(NS["Tensor"])
    r.data_ = d0 if p.offset == 0 else d0.view(p.offset)
    r.meta = p.meta
    return finish_view(p, r, source, (source, *rest))


def finish_view(p: Any, r: Any, source: Any, values: tuple[Any, ...]) -> Any:
    """Link a view to its base and record it (the generated code does the same inline)."""
    e = source.node
    if e is not None and p.diff and mode.enabled:
        r.node = record(p, (e,), values, (r,))
    else:
        r.node = None
    link(r, source)
    return r


# ---------------------------------------------------------------- in place

def slow_inplace(op: R.Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The general in-place call of an elementwise op."""
    values = op.bind(args, kwargs)
    handled = override(op, values, inplace=True)
    if handled is not NotImplemented:
        return handled
    target = values[0]
    handled = NS["through_layers"](op, op.name + "_", target, values)
    if handled is not NotImplemented:
        return handled
    if stands(values):
        return NS["transformed_inplace"](op, op.name + "_", values)
    values = convert(op, values)
    check_leaf(target, op.name + "_")
    key, metas = plan_key(op, values)
    for v in values[1:]:
        check_overlap(op, target, v)
    p = op.iplans.get(key)  # type: ignore[attr-defined]
    if p is None:
        p = make_plan(op, metas, [target.meta.plain])
        op.iplans[key] = p  # type: ignore[attr-defined]
    inputs, edges, operands = split(op, values)
    recording = p.diff and mode.enabled and any(e is not None for e in edges)
    node = None
    if recording:
        needs = tuple([e is not None for e in edges])
        operands = save_before_write(op, p, target, operands, needs)
    p.into(target.data_, *inputs)
    if tracing.active:
        tracing.active[-1].ran(p, inputs, (target.data_,))
    wrote(target, op.name + "_", 2)
    if recording:
        node = record(p, edges, operands, (target,), needs)
        rebase(target, node)
    return target


def save_before_write(op: Any, p: P.Plan, target: Any, operands: tuple[Any, ...],
                      needs: tuple[bool, ...]) -> tuple[Any, ...]:
    """If the gradient reads the old value of the target, keep a copy of it."""
    b = op.backward(p.attrs, needs, any(m.dtype.kind == "c" for m in p.metas))
    names = [q.name for q in op.operands]
    out = list(operands)
    for k, (name, v) in enumerate(zip(names, operands)):
        if name in b.saved and getattr(v, "data_", None) is not None \
                and v.data_.base is target.data_.base:
            copy = v.detach().clone()
            copy.node = v.node
            out[k] = copy
    return tuple(out)


def check_leaf(target: Any, name: str) -> None:
    """RuntimeError for a recorded write to a leaf or to a view of one."""
    if not mode.enabled:
        return
    if type(target.node) is AccumulateGrad:
        raise RuntimeError(
            f"{name}: a leaf Variable that requires grad is being used in an in-place operation. "
            "Wrap the update in torch.no_grad(), or write to a clone().")
    if target.root is not None:
        from .autograd.inplace import check_view

        check_view(target, name)


def wrote(target: Any, name: str, depth: int) -> None:
    """Count a write: version, clock and who did it."""
    base = target.data_.base
    base.version += 1
    if target.data_.epoch < 0:  # backend.UNCOUNTED
        return
    f = sys._getframe(depth)
    while f.f_back is not None and f.f_code.co_filename.startswith(("<lampion op", LOCATED)):
        f = f.f_back  # the caller of the generated code
    clock[0] += 1
    base.epoch = clock[0]
    base.writer = (name, f.f_code, f.f_lasti)


def rebase(target: Any, node: Node) -> None:
    """Make `node` the history of a written tensor, of its base and of the base's other views."""
    root = target.root
    if root is None:
        target.node = node
    else:
        from .autograd.inplace import rebase_view

        rebase_view(root, target, node)
    owner = target if root is None else root
    if owner.kids:
        from .autograd.inplace import refresh_views

        refresh_views(owner, owner.kids, None if root is None else target)


__all__ = ["NS", "Layer", "slow", "call", "build", "function_source", "inplace_source", "wrote",
           "rebase", "check_leaf", "check_overlap", "override", "autograd_node", "device", "dtype"]
