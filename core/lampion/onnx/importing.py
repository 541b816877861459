"""Running ONNX models: `load` makes an `nn.Module` of one. Floor 7; imports nn and this package.

A model becomes a list of steps over named values, each an operator of the table with its
attributes bound. What decides about shapes (`Operator.host`) is read on the host: from constants
without waiting, and from what the model computes (`Shape` and arithmetic on its result stay in host
memory).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lampion

from ..base.errors import UnsupportedError
from ..export.weights import place
from ..interop import host_device
from ..nn import Module, Parameter
from . import table
from .values import DTYPES, encoded, from_array, from_proto, is_host_only, package, to_array

_OLDEST = 7  # of the operator sets whose operators the table has
_MOST_SIZES = 64  # a vector of more integers is no shape


class Scope(NamedTuple):
    """What a step sees beside its inputs: the values of all names, and the model's device."""

    names: dict[str, Any]
    device: Any


class Step(NamedTuple):
    """One node: what it runs, the names it reads ("" for an argument left out), the names it
    makes, the names that nothing reads afterwards, and further names that its graphs read."""

    run: Callable[[list[Any], Scope], tuple[Any, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str
    further: frozenset[str] = frozenset()
    dead: tuple[str, ...] = ()


class Graph:
    """Steps, with the names of inputs and results; `free` are names that an outer graph has, and
    `kinds` (dtype code, sizes) of results, where the model says so."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.steps: list[Step] = []
        self.free: set[str] = set()
        self.kinds: list[tuple[int, list[int]]] = []

    def run(self, names: dict[str, Any], device: Any) -> list[Any]:
        """Results, given the values of inputs and outer names; `names` is used up."""
        names[""] = None
        scope = Scope(names, device)
        for step in self.steps:
            try:
                results = step.run([names[n] for n in step.inputs], scope)
            except Exception as error:
                _say_where(error, step)
                raise
            for name, value in zip(step.outputs, results):
                names[name] = value
            for name in step.dead:
                names.pop(name, None)
        return [names[n] for n in self.outputs]


def _say_where(error: Exception, step: Step) -> None:
    """Let an error name the node; once, where it was raised."""
    if not getattr(error, "_node", None):
        error._node = step.label  # type: ignore[attr-defined]
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]} (in the ONNX node {step.label})",)


class Body:
    """A graph among a node's attributes, as a function of its inputs within a scope."""

    def __init__(self, graph: Graph, scope: Scope | None = None) -> None:
        self.graph, self.scope = graph, scope

    def within(self, scope: Scope) -> Body:
        """The same graph, with the names and the device of a scope."""
        return Body(self.graph, scope)

    def __call__(self, *inputs: Any) -> list[Any]:
        assert self.scope is not None
        names = {n: self.scope.names[n] for n in self.graph.free}
        names.update(zip(self.graph.inputs, inputs))
        return self.graph.run(names, self.scope.device)

    def nothing(self, first: int) -> list[Any]:
        """What results from the `first` on are when there are none to be joined."""
        assert self.scope is not None
        return [lampion.zeros(0, *sizes, dtype=DTYPES[code], device=self.scope.device)
                for code, sizes in self.graph.kinds[first:]]


class Importer:
    """Makes steps of nodes; collects the constants of all graphs of a model."""

    def __init__(self, model: Any, folder: str = "") -> None:
        self.onnx, self.model, self.folder = package(), model, folder
        self.operators = table.load()
        self.versions = {o.domain if o.domain != "ai.onnx" else "": o.version
                         for o in model.opset_import}
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.constants: dict[str, Any] = {}
        self.statistics: set[str] = set()
        self.read: set[str] = set()  # constants that are also read as tensors
        self.fresh = 0

    def graph(self, proto: Any, rename: dict[str, str], bound: dict[str, Any] | None = None,
              ) -> Graph:
        """A GraphProto or FunctionProto. `rename` maps names of outer constants and of constants
        that an inner graph hides; `bound` are the attributes of a function's call."""
        rename = dict(rename)
        is_graph = hasattr(proto, "initializer")
        for t in proto.initializer if is_graph else ():
            self._constant(t.name, from_proto(t, self.folder), rename)
        for s in proto.sparse_initializer if is_graph else ():
            self._constant(s.values.name, _dense(s), rename)
        inputs = [v.name if is_graph else v for v in proto.input]
        if is_graph:
            inputs = [n for n in inputs if n not in {t.name for t in proto.initializer}]
        for n in inputs:
            rename.pop(n, None)
        outputs = [v.name if is_graph else v for v in proto.output]
        g = Graph(inputs, outputs)
        g.kinds = [_kind(v) for v in proto.output] if is_graph else []
        steps = []
        for node in proto.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and not bound:
                self._constant(node.output[0], self._value_of(node), rename)
                continue
            for o in node.output:
                rename.pop(o, None)
            steps.append(self.step(node, rename, bound or {}))
        g.outputs = [rename.get(n, n) for n in outputs]
        self.read.update(n for n in g.outputs if n in self.constants)
        self._settle(g, steps)
        return g

    def _settle(self, g: Graph, steps: list[Step]) -> None:
        """Say when values are not needed any more, and what comes from outside."""
        made = set(g.inputs) | {o for s in steps for o in s.outputs}
        needed = {n for s in steps for n in (*s.inputs, *s.further)} | set(g.outputs)
        g.free = needed - made - {""}
        seen = set(g.outputs)
        out: list[Step] = []
        for s in reversed(steps):
            reads = {*s.inputs, *s.further}
            dead = tuple(n for n in (reads | set(s.outputs)) - seen - {""} if n in made)
            seen |= reads
            out.append(s._replace(dead=dead))
        g.steps = out[::-1]

    def _constant(self, name: str, array: Any, rename: dict[str, str]) -> None:
        key = name
        while key in self.constants:
            self.fresh += 1
            key = f"{name}_{self.fresh}"
        rename[name] = key
        self.constants[key] = array

    def _value_of(self, node: Any) -> Any:
        a = node.attribute[0]
        if a.name == "value":
            return from_proto(a.t, self.folder)
        if a.name == "sparse_value":
            return _dense(a.sparse_tensor)
        value = self.onnx.helper.get_attribute_value(a)
        kind: Any = np.float32 if "float" in a.name else np.int64
        if "string" in a.name:
            value, kind = _text(value), object
        return np.asarray(value, kind)

    # ---- nodes ---------------------------------------------------------------------------------

    def step(self, node: Any, rename: dict[str, str], bound: dict[str, Any]) -> Step:
        """A node as a step."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        inputs = tuple(rename.get(n, n) for n in node.input)
        label = f"{node.op_type} {node.name!r}" if node.name else (
            f"{node.op_type} of {', '.join(map(repr, node.output))}")
        attributes = self._attributes(node, rename, bound)
        function = self.functions.get((node.domain, node.op_type))
        op = None if function is not None else self.operators.get((domain, node.op_type))
        if function is None and op is None:
            function = self._definition(node, domain)
        if function is not None:
            run, further = self._call(function, attributes)
            return Step(run, inputs, tuple(node.output), label, further)
        if op is None:
            raise UnsupportedError(
                f"lampion.onnx has no operator {node.op_type!r} of the domain "
                f"{node.domain or 'ai.onnx'!r} (node {label}); lampion.onnx.operator declares one")
        self._check_age(node, domain, label)
        if node.op_type == "BatchNormalization":
            self.statistics.update(inputs[3:5])
        further = frozenset(n for v in attributes.values() if isinstance(v, Body)
                            for n in v.graph.free)
        return Step(self._bind(op, node, inputs, attributes, label), inputs, tuple(node.output),
                    label, further)

    def _check_age(self, node: Any, domain: str, label: str) -> None:
        """UnsupportedError for operators that have changed since, up to the oldest opset known."""
        version = self.versions.get(domain, _OLDEST)
        if domain or version >= _OLDEST:
            return
        get = self.onnx.defs.get_schema
        if get(node.op_type, version).since_version != get(node.op_type, _OLDEST).since_version:
            raise UnsupportedError(
                f"the model is of opset {version}, and lampion.onnx reads {node.op_type} of opset "
                f"{_OLDEST} and newer (node {label}); onnx.version_converter.convert_version("
                "model, 13) makes it newer")

    def _attributes(self, node: Any, rename: dict[str, str], bound: dict[str, Any],
                    ) -> dict[str, Any]:
        kinds = self.onnx.AttributeProto
        out: dict[str, Any] = {}
        for a in node.attribute:
            if a.ref_attr_name:
                if bound.get(a.ref_attr_name) is not None:
                    out[a.name] = bound[a.ref_attr_name]
                continue
            value = self.onnx.helper.get_attribute_value(a)
            if a.type == kinds.GRAPH:
                value = Body(self.graph(value, rename, bound or None))
            elif a.type == kinds.TENSOR:
                value = from_proto(value, self.folder)
            elif a.type == kinds.SPARSE_TENSOR:
                value = _dense(value)
            elif a.type in (kinds.STRING, kinds.STRINGS):
                value = _text(value)
            elif a.type in (kinds.FLOATS, kinds.INTS):
                value = list(value)
            out[a.name] = value
        return out

    def _call(self, function: Any, attributes: dict[str, Any],
              ) -> tuple[Callable[[list[Any], Scope], tuple[Any, ...]], frozenset[str]]:
        """A call of a function that the model or ONNX defines, and the constants it reads."""
        if any(isinstance(v, Body) for v in attributes.values()):
            raise UnsupportedError(f"the ONNX function {function.name!r} is given a graph")
        get = self.onnx.helper.get_attribute_value
        own = {a.name: get(a) for a in getattr(function, "attribute_proto", ())}
        own = {k: _text(v) if isinstance(v, bytes) else v for k, v in own.items()}
        bound = {**dict.fromkeys(function.attribute), **own, **attributes}
        versions, self.versions = self.versions, {**self.versions, **{
            o.domain: o.version for o in function.opset_import}}
        graph = self.graph(function, {}, bound)
        self.versions = versions

        def run(args: list[Any], scope: Scope) -> tuple[Any, ...]:
            names = {n: scope.names[n] for n in graph.free}
            names.update(zip(graph.inputs, [*args, *[None] * (len(graph.inputs) - len(args))]))
            return tuple(graph.run(names, scope.device))

        return run, frozenset(graph.free)

    def _definition(self, node: Any, domain: str) -> Any:
        """The function by which ONNX defines an operator, or None."""
        try:
            schema = self.onnx.defs.get_schema(node.op_type, self.versions.get(domain, 1), domain)
        except Exception:  # onnx.defs.SchemaError: nobody knows the operator
            return None
        if not schema.has_function:
            return None
        body = self.onnx.FunctionProto()
        body.CopyFrom(schema.function_body)
        body.domain = node.domain
        own = {a.name for a in body.attribute_proto}
        for name, a in schema.attributes.items():
            if name in body.attribute and a.default_value.name and name not in own:
                body.attribute_proto.append(a.default_value)
        return body

    def _bind(self, op: table.Operator, node: Any, inputs: tuple[str, ...],
              attributes: dict[str, Any], label: str,
              ) -> Callable[[list[Any], Scope], tuple[Any, ...]]:
        """What a step runs: the operator with attributes, asked values and host inputs."""
        given = {k: v for k, v in attributes.items() if k in op.attributes}
        older = {op.inputs.index(k): v for k, v in attributes.items()
                 if k in op.inputs and k not in given}  # inputs that were attributes once
        unknown = attributes.keys() - given.keys() - set(op.inputs) - {"consumed_inputs"}
        if unknown:
            raise UnsupportedError(f"the ONNX node {label} has the attribute "
                                   f"{sorted(unknown)[0]!r}, which {op.name} does not know")
        if "opset" in op.asks:
            given["opset"] = self.versions.get(op.domain, 1)
        if "outputs" in op.asks:
            given["outputs"] = max([k + 1 for k, n in enumerate(node.output) if n], default=1)
        bodies = {k: v for k, v in given.items() if isinstance(v, Body)}
        call = functools.partial(op.fn, **given)
        older = {k: np.asarray(v) if k in op.host else v for k, v in older.items()}
        asks_device = "device" in op.asks
        twins = {k: from_array(self.constants[n], host_device()) for k, n in enumerate(inputs)
                 if n in self.constants and _is_size(self.constants[n])}
        self.read.update(n for k, n in enumerate(inputs) if k not in op.host)

        def run(args: list[Any], scope: Scope) -> tuple[Any, ...]:
            args = _prepared(op, args, scope.device, twins)
            for k, v in older.items():
                args += [None] * (k + 1 - len(args))
                args[k] = v if args[k] is None else args[k]
            late = {k: b.within(scope) for k, b in bodies.items()}
            if asks_device:
                late["device"] = scope.device
            if op.moves and any(isinstance(a, np.ndarray) and k not in op.host
                                for k, a in enumerate(args)):
                return _on_codes(op, call, args, late)
            result = call(*args, **late)
            return result if isinstance(result, tuple) else (result,)

        return run


def _is_size(array: Any) -> bool:
    """Whether a constant may be part of a shape."""
    return array.dtype.kind in "iu" and array.ndim <= 1 and array.size <= _MOST_SIZES


def _prepared(op: table.Operator, args: list[Any], device: Any, twins: dict[int, Any],
              ) -> list[Any]:
    """Host inputs as arrays; the others on one device. Where host memory has the rest of a
    shape, it is `twins`, the constants' copies there, that take part."""
    out, devices = [], set()
    for k, a in enumerate(args):
        if a is not None and k in op.host:
            a = to_array(a)
        elif isinstance(a, lampion.Tensor):
            devices.add(a.device)
        out.append(a)
    while out and out[-1] is None:
        out.pop()
    if len(devices) > 1 and not op.host_only:
        host = host_device()
        if all(k in twins or k in op.host or a is None or a.device is host
               for k, a in enumerate(out)):
            return [twins.get(k, a) if k not in op.host else a for k, a in enumerate(out)]
        out = [a.to(device) if isinstance(a, lampion.Tensor) else a for a in out]
    return out


def _kind(info: Any) -> tuple[int, list[int]]:
    """(dtype code, sizes) of a ValueInfoProto; sizes that are not known are 0."""
    t = info.type.tensor_type
    return (t.elem_type if t.elem_type in DTYPES else 1,
            [d.dim_value for d in t.shape.dim] if t.HasField("shape") else [])


def _on_codes(op: table.Operator, call: Any, args: list[Any], named: Any) -> tuple[Any, ...]:
    """An operator that moves values, on codes of values whose dtype lampion lacks."""
    at = [k for k, a in enumerate(args) if is_host_only(a) and k not in op.host]
    codes, decode = encoded([args[k] for k in at])
    args = list(args)
    for k, c in zip(at, codes):
        args[k] = c
    result = call(*args, **named)
    results = result if isinstance(result, tuple) else (result,)
    kind = codes[0].dtype
    return tuple(decode(r) if r.dtype is kind and op.name not in ("Shape", "Size") else r
                 for r in results)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else [v.decode() for v in value]


def _dense(sparse: Any) -> Any:
    """A SparseTensorProto as an array."""
    values = from_proto(sparse.values)
    out = np.zeros(tuple(sparse.dims), values.dtype)
    index = from_proto(sparse.indices)
    if index.ndim == 1:
        out.reshape(-1)[index] = values
    else:
        out[tuple(index.T)] = values
    return out


class ImportedModel(Module):
    """An ONNX model. Call it with the graph's inputs, in order or by name; it returns the result,
    or a tuple of several.

    Floating initializers are parameters (of `requires_grad` False: switch it on to train them), all
    other constants are buffers; both keep their names. `input_names` and `output_names` are the
    graph's.
    """

    def __init__(self, model: Any, folder: str = "") -> None:
        super().__init__()
        importer = Importer(model, folder)
        self.graph = importer.graph(model.graph, {})
        self.input_names, self.output_names = self.graph.inputs, [
            o.name for o in model.graph.output]
        self.opsets = dict(importer.versions)
        weights = {t.name for t in model.graph.initializer}
        self._on_host: dict[str, Any] = {}
        self._places: dict[str, Any] = {}  # of the other constants
        for name, array in importer.constants.items():
            value = from_array(array)
            if name not in importer.read or is_host_only(value):
                self._on_host[name] = value if is_host_only(value) else array
            elif name in weights and value.is_floating_point() \
                    and name not in importer.statistics:
                self._places[name] = place(self, name, Parameter(value, requires_grad=False),
                                           parameter=True)
            else:
                self._places[name] = place(self, name, value, parameter=False,
                                           persistent=name in weights)

    @property
    def device(self) -> Any:
        """Where the parameters are; without any, where the last inputs were."""
        for tensors, key in self._places.values():
            return tensors[key].device
        return self._seen_device or lampion.get_default_device()

    _seen_device: Any = None

    def constants(self, names: set[str]) -> dict[str, Any]:
        """The values of constants."""
        found = {n: self._places[n] for n in names if n in self._places}
        return {**{n: tensors[key] for n, (tensors, key) in found.items()},
                **{n: self._on_host[n] for n in names if n in self._on_host}}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph. TypeError for inputs that are missing or not the graph's."""
        names = self._bound(args, kwargs)
        given = [v for v in names.values() if isinstance(v, lampion.Tensor)]
        self._seen_device = given[0].device if given else None
        results = self.graph.run({**self.constants(self.graph.free), **names}, self.device)
        return results[0] if len(results) == 1 else tuple(results)

    def _bound(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        wanted = self.input_names
        if len(args) > len(wanted):
            raise TypeError(f"the model has {len(wanted)} inputs ({', '.join(wanted)}), and "
                            f"{len(args)} were given")
        names = {**dict(zip(wanted, args)), **kwargs}
        missing, unknown = [n for n in wanted if n not in names], names.keys() - set(wanted)
        if missing or unknown:
            what = f"lacks the input {missing[0]!r}" if missing else (
                f"has no input {sorted(unknown)[0]!r}")
            raise TypeError(f"the call of the model {what}; its inputs are {', '.join(wanted)}")
        return {k: from_array(v, self._device_of_weights()) if isinstance(v, np.ndarray) else v
                for k, v in names.items()}

    def _device_of_weights(self) -> Any:
        return self.device if self._places else None

    def extra_repr(self) -> str:
        """Inputs, results and size."""
        return (f"{', '.join(self.input_names)} -> {', '.join(self.output_names)}; "
                f"{len(self.graph.steps)} nodes")


def load(model: Any) -> ImportedModel:
    """An ONNX model as a module that runs on any device.

    Args:
        model: the path of a .onnx file, its bytes, an open binary file, or an `onnx.ModelProto`.

    Returns a module with the graph's inputs as arguments; `.to(device)` moves it. Raises
    UnsupportedError for operators that are not in the table, RuntimeError for a file that is no
    ONNX model, ImportError without the onnx package.

    Example:
        >>> import lampion
        >>> model = lampion.onnx.load("model.onnx")                      # doctest: +SKIP
        >>> model(lampion.rand(1, 3, 224, 224)).shape                    # doctest: +SKIP
        lampion.Size([1, 1000])
    """
    onnx = package()
    if isinstance(model, onnx.ModelProto):
        return ImportedModel(model)
    folder = ""
    if hasattr(model, "read"):
        data = model.read()
    elif isinstance(model, (bytes, bytearray)):
        data = bytes(model)
    else:
        data, folder = Path(model).read_bytes(), str(Path(os.fspath(model)).parent)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, wherever that lives
        raise RuntimeError(f"not an ONNX model: {error}") from error
    if not proto.graph.node and not proto.graph.output:
        raise RuntimeError("not an ONNX model: it has no graph")
    return ImportedModel(proto, folder)


__all__ = ["ImportedModel", "load"]
