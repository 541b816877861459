"""Writing ONNX graphs: nodes, constants, sizes, and what writes in place mean there.

Floor 7; imports export and this package. An ONNX value never changes. A write to a tensor of the
recorded graph therefore gives its memory a new value: the tensor that owns the memory is renamed,
and views of it are made anew when they are next read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import lampion

from ..base.dtype import dtype
from ..base.errors import UnsupportedError
from ..export.graph import DEVICE, Call, Graph, Known, Ref, Size, map_leaves
from ..interop import host_array
from ..ops import registry as R
from .values import CODES, package

OPSET = 18  # what is written unless another is asked for
TRANSLATIONS: dict[str, Callable[..., Any]] = {}
WHOLE: dict[str, Callable[..., bool]] = {}  # composites that are written as one, if this accepts


def translation(*names: str) -> Callable[[Any], Any]:
    """Decorator: the function writes ONNX for calls of the ops of these names.

    It is called as `fn(g, *args, **kwargs)`, with the Writer, and a `Value` for every tensor; it
    returns the name of the result, or names of several."""
    def declare(fn: Any) -> Any:
        for name in names:
            TRANSLATIONS[name] = fn
        return fn

    return declare


class Value:
    """A tensor of the recorded graph in ONNX: its name, dtype, and shape in the recorded run."""

    __slots__ = ("name", "dtype", "shape", "varying")

    def __init__(self, name: str, known: Known) -> None:
        self.name, self.dtype, self.shape, self.varying = (name, known.dtype, known.shape,
                                                           known.varying)

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return len(self.shape)


class Writer:
    """Collects the nodes and constants of one graph."""

    def __init__(self, graph: Graph, tensors: Sequence[Any], opset: int,
                 input_names: Sequence[str], functions: dict[str, Any] | None = None) -> None:
        self.onnx, self.graph, self.opset = package(), graph, opset
        self.functions = functions or {}
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.constants: dict[Any, str] = {}
        self.dim_values: dict[str, str] = {}
        self.count = 0
        self.taken = set(input_names)
        self.names: dict[int, str] = {}
        self.calls: dict[int, tuple[Call, int]] = {}  # number -> the call that made it, which part
        self.written: dict[int, int] = {}  # memory -> how often it was written
        self.seen: dict[int, int] = {}  # number -> the count when its name was made
        self.owner: dict[int, int] = {}  # memory -> the number of the tensor that owns it
        self.call: Call | None = None
        n = len(graph.inputs)
        for k, name in enumerate(input_names):
            self._own(k, name)
        for k, (w, t) in enumerate(zip(graph.weights, tensors), n):
            name = self.fresh(w.name)
            self.initializers[name] = host_array(t.detach().cpu())
            self._own(k, name)

    # ---- names ---------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that nothing has."""
        name = hint
        while name in self.taken:
            self.count += 1
            name = f"{hint}_{self.count}"
        self.taken.add(name)
        return name

    def known(self, number: int) -> Known:
        """What is known of a value."""
        return self.graph.known[number]

    def _own(self, number: int, name: str) -> None:
        memory = self.known(number).memory
        self.names[number] = name
        self.owner.setdefault(memory, number)
        self.seen[number] = self.written.get(memory, 0)

    def name_of(self, number: int) -> str:
        """The name of the value that a tensor has now."""
        memory = self.known(number).memory
        if self.seen[number] != self.written.get(memory, 0):
            call, part = self.calls[number]
            made = self.translated(call)
            self.names[number] = made[part]
            self.seen[number] = self.written.get(memory, 0)
        return self.names[number]

    # ---- nodes ---------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str | None, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; returns the name of its result, or a list of names."""
        given = [i or "" for i in inputs]
        while given and not given[-1]:
            given.pop()
        try:
            self.onnx.defs.get_schema(op, self.opset)
        except Exception as error:  # onnx.defs.SchemaError
            raise UnsupportedError(f"{self.where()}needs the ONNX operator {op}, which opset "
                                   f"{self.opset} lacks; ask for a newer opset_version") from error
        made = [self.fresh(f"{op.lower()}_{len(self.nodes)}") for _ in range(outputs)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(self.onnx.helper.make_node(op, given, made, name=made[0], **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, array: Any, kind: dtype | None = None) -> str:
        """The name of a constant: an array, or a number of a dtype."""
        if kind is not None:
            array = host_array(lampion.tensor(float(array), dtype=kind)) \
                if kind.name == "bfloat16" else np.asarray(array).astype(kind.np)
        array = np.asarray(array)
        key = (array.dtype.str, array.dtype.name, array.shape, array.tobytes())
        name = self.constants.get(key)
        if name is None:
            name = self.constants[key] = self.fresh(f"constant_{len(self.constants)}")
            self.initializers[name] = array
        return name

    def ints(self, values: Any) -> str:
        """A vector of integers, of which some may be sizes."""
        values = list(values)
        if not any(isinstance(v, Size) for v in values):
            return self.constant(np.array(values, np.int64))
        return self.node("Concat", *[self.node("Reshape", self.size(v), self.constant(
            np.array([1]))) if isinstance(v, Size) else self.constant(np.array([v], np.int64))
            for v in values], axis=0)

    def size(self, v: Any) -> str:
        """An integer that follows from sizes of inputs, as a 0-d value."""
        if not isinstance(v, Size):
            return self.constant(np.array(v, np.int64))
        if v.inverse:
            total = self.node("Cast", self.size(Size(v.terms)), to=CODES[lampion.float32])
            return self.node("Div", self.constant(np.float32(v.scale)), total)
        scale = math.lcm(*[f.denominator for f, _ in v.terms])
        total = None
        for f, dims in v.terms:
            term = self.constant(np.array(int(f * scale), np.int64))
            for d in dims:
                term = self.node("Mul", term, self.dim(d)) if f * scale != 1 or d is not dims[0] \
                    else self.dim(d)
            total = term if total is None else self.node("Add", total, term)
        assert total is not None
        return total if scale == 1 else self.node("Div", total, self.constant(
            np.array(scale, np.int64)))

    def dim(self, name: str) -> str:
        """The size of a dim that may change, as a 0-d value."""
        if name not in self.dim_values:
            k, d = next((k, i.shape.index(name)) for k, i in enumerate(self.graph.inputs)
                        if name in i.shape)
            shape = self.node("Shape", self.graph.inputs[k].name if k not in self.names
                              else self.names[k])
            self.dim_values[name] = self.node("Gather", shape, self.constant(
                np.array(d, np.int64)), axis=0)
        return self.dim_values[name]

    def first(self, v: Any) -> Any:
        """A number, or a size as it was in the recorded run."""
        if not isinstance(v, Size):
            return v
        dims = {d: s for k, i in enumerate(self.graph.inputs)
                for d, s in zip(i.shape, self.known(k).shape) if isinstance(d, str)}
        return v.value(dims)

    def number(self, v: Any, kind: dtype) -> str:
        """A number (or a size) as a 0-d value of a dtype."""
        if isinstance(v, Size):
            return self.node("Cast", self.size(v), to=CODES[kind])
        return self.constant(np.asarray(v), kind)

    def fixed(self, input: Value, dims: Any = None) -> tuple[int, ...]:
        """The shape of a tensor. UnsupportedError if one of `dims` (by default all) changes: what
        is asked for can be written only of sizes that are known."""
        if input.varying if dims is None else input.varying.intersection(
                d % max(input.ndim, 1) for d in dims):
            raise UnsupportedError(f"{self.where()}is written to ONNX only where the dims it works "
                                   "on do not change; export with fewer dynamic dims")
        return input.shape

    def cast(self, name: str, have: dtype, want: dtype) -> str:
        """A value in another dtype."""
        return name if have is want else self.node("Cast", name, to=CODES[want])

    def shape(self, name: str) -> str:
        """The shape of a value."""
        return self.node("Shape", name)

    def reduce(self, op: str, name: str, dims: Sequence[int], keepdim: bool) -> str:
        """A ReduceX node; its axes are an attribute in old opsets."""
        if not dims:
            return self.node("Identity", name)
        if self.opset >= 18 or (op == "ReduceSum" and self.opset >= 13):
            return self.node(op, name, self.ints(dims), keepdims=int(keepdim))
        return self.node(op, name, axes=list(dims), keepdims=int(keepdim))

    # ---- calls ---------------------------------------------------------------------------------

    def where(self) -> str:
        """The call that is being written, for error messages."""
        c = self.call
        return "" if c is None else f"{c.op}{f' ({c.line})' if c.line else ''} "

    def write(self, call: Call) -> None:
        """Write a call of the recorded graph."""
        self.call = call
        if call.op in ("copy_", "fill_"):
            self._assign(call)
            return
        for number, name in zip(call.outputs, self.translated(call), strict=True):
            known = self.known(number)
            self.names[number] = name
            self.calls[number] = (call, call.outputs.index(number))
            self.owner.setdefault(known.memory, number)
            self.seen[number] = self.written.get(known.memory, 0)

    def translated(self, call: Call) -> list[str]:
        """The names of a call's results. UnsupportedError if ONNX has no words for the op."""
        def leaf(v: Any) -> Any:
            if isinstance(v, Ref):
                if self.known(v.number).dtype.kind == "c":
                    raise UnsupportedError(f"{self.where()}is given complex numbers, on which "
                                           "ONNX has no arithmetic")
                return Value(self.name_of(v.number), self.known(v.number))
            return None if v is DEVICE else v

        args, kwargs = map_leaves(leaf, call.args), map_leaves(leaf, call.kwargs)
        fn = self.functions.get(call.op) or TRANSLATIONS.get(call.op)
        if fn is not None:
            made = fn(self, *args, **kwargs)
        else:
            op = R.REGISTRY[call.op]
            if not isinstance(op, R.ElementwiseOp):
                raise UnsupportedError(
                    f"{self.where()}has no translation to ONNX; custom_translation_table={{"
                    f"{call.op!r}: function}} gives one")
            from .expressions import written

            made = written(self, op, op.bind(args, kwargs))
        return [made] if isinstance(made, str) else list(made)

    def _assign(self, call: Call) -> None:
        """A write: the memory of the target gets a new value."""
        target = call.args[0].number
        t = self.known(target)
        value = call.args[1]
        if isinstance(value, Ref):
            source = self.known(value.number)
            new = self.cast(self.name_of(value.number), source.dtype, t.dtype)
            whole = source.shape == t.shape
        else:
            new, whole = self.number(value, t.dtype), False
        if not whole:
            new = self.node("Expand", new, self.shape(self.name_of(target)))
        owner = self.owner[t.memory]
        if owner != target:
            new = self._scattered(owner, target, new)
        self.written[t.memory] = self.written.get(t.memory, 0) + 1
        self.names[owner] = new
        self.seen[owner] = self.written[t.memory]

    def _scattered(self, owner: int, target: int, new: str) -> str:
        """The owner of a memory with the elements of a view replaced: a view of the elements'
        positions tells which."""
        o = self.known(owner)
        if o.varying:
            raise UnsupportedError(f"{self.where()}writes into a part of a tensor, which ONNX can "
                                   "say only if no dim changes; export without dynamic shapes, or "
                                   "use lampion.where or cat")
        positions = host_array(self._view(target, owner))
        if positions.size == math.prod(o.shape):
            flat = np.argsort(positions.reshape(-1))
            new = self.node("Gather", self.node("Reshape", new, self.ints([-1])),
                            self.constant(flat), axis=0)
        else:
            flat = self.node("Reshape", self.name_of(owner), self.ints([-1]))
            new = self.node("ScatterElements", flat, self.constant(positions.reshape(-1)),
                            self.node("Reshape", new, self.ints([-1])), axis=0)
        return self.node("Reshape", new, self.ints(o.shape))

    def _view(self, number: int, owner: int) -> Any:
        """The positions of the elements of a view in its owner."""
        if number == owner:
            shape = self.known(owner).shape
            return lampion.arange(math.prod(shape)).reshape(shape)
        call, part = self.calls[number]
        source = next(a.number for a in call.args if isinstance(a, Ref))
        base = self._view(source, owner)
        args = [base if isinstance(a, Ref) else a for a in call.args]
        made = R.REGISTRY[call.op].fn(*args, **call.kwargs)
        return made if isinstance(made, lampion.Tensor) else made[part]


__all__ = ["OPSET", "TRANSLATIONS", "Value", "Writer", "translation"]
