"""Writing ONNX models: `export` and the `ONNXProgram` that it returns. Floor 7; imports export and
this package."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import lampion

from ..export import Dim
from ..export.graph import Graph, Ref, Size, map_leaves
from ..export.program import ExportedProgram, record
from ..export.tracing import Levels
from ..nn import Module
from . import expressions, kernels, views
from .emit import OPSET, TRANSLATIONS, WHOLE, Writer
from .values import CODES, package

_FAMILIES = (expressions, kernels, views)  # that declare translations
_LARGE = 1 << 30  # bytes of weights above which they go to a file beside the model


class TrainingMode(enum.IntEnum):
    """In which mode a module is exported."""

    EVAL = 0
    PRESERVE = 1
    TRAINING = 2


class ONNXProgram:
    """An ONNX model, `model_proto`; calling it runs it by `lampion.onnx.load`."""

    def __init__(self, model_proto: Any, exported_program: ExportedProgram) -> None:
        self.model_proto, self.exported_program = model_proto, exported_program
        self._loaded: Any = None

    def save(self, destination: Any, *, include_initializers: bool = True,
             keep_initializers_as_inputs: bool = False, external_data: bool | None = None) -> None:
        """Write the model to a path or a binary file; large weights go to a file beside it
        (with `external_data`, all do)."""
        onnx, proto = package(), self.model_proto
        if not include_initializers or keep_initializers_as_inputs:
            proto = _with_inputs(onnx, proto, include_initializers)
        if hasattr(destination, "write"):
            destination.write(proto.SerializeToString())
            return
        if external_data is None:
            external_data = sum(len(t.raw_data) for t in proto.graph.initializer) > _LARGE
        if not external_data:
            onnx.save(proto, os.fspath(destination))
            return
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        onnx.save(copy, os.fspath(destination), save_as_external_data=True,
                  location=os.path.basename(os.fspath(destination)) + ".data", size_threshold=1024)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The results of the model, by lampion."""
        if self._loaded is None:
            from .importing import load

            self._loaded = load(self.model_proto)
        return self._loaded(*args, **kwargs)

    def __repr__(self) -> str:
        graph = self.model_proto.graph
        return (f"ONNXProgram({', '.join(i.name for i in graph.input)} -> "
                f"{', '.join(o.name for o in graph.output)}; {len(graph.node)} nodes)")


def _with_inputs(onnx: Any, proto: Any, values: bool) -> Any:
    """A model whose initializers are inputs, too (or only that)."""
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    for t in proto.graph.initializer:
        out.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    if not values:
        del out.graph.initializer[:]
    return out


def export(model: Any, args: tuple[Any, ...] = (), f: Any = None, *,
           kwargs: Mapping[str, Any] | None = None, verbose: bool | None = None,
           input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None,
           opset_version: int | None = None, dynamo: bool = True,
           external_data: bool | None = None, dynamic_shapes: Any = None,
           custom_translation_table: Mapping[Any, Any] | None = None, report: bool = False,
           optimize: bool = True, verify: bool = False, profile: bool = False,
           dump_exported_program: bool = False, artifacts_dir: Any = ".",
           fallback: bool = False, export_params: bool = True,
           keep_initializers_as_inputs: bool = False, dynamic_axes: Any = None,
           training: TrainingMode = TrainingMode.EVAL, operator_export_type: Any = None,
           do_constant_folding: bool = True, custom_opsets: Mapping[str, int] | None = None,
           export_modules_as_functions: Any = False, autograd_inlining: bool = True,
           ) -> ONNXProgram | None:
    """Write a module, a function or an ExportedProgram as an ONNX model.

    Args:
        model, args, kwargs: what is run on which example arguments, as in `lampion.export`; a
            module in `eval` mode unless `training` says otherwise.
        f: the path or binary file to write to; None only returns the program.
        input_names, output_names: of the graph; by default those of the arguments, and "output".
        opset_version: of the operators; 18 by default.
        dynamic_axes: which dims may change: `{"x": {0: "batch"}}` or `{"x": [0]}`, by the names of
            inputs; those of outputs are found out.
        dynamic_shapes: the same in the words of `lampion.export`.
        custom_translation_table: functions that write ONNX for ops, by the op's name (or the op's
            function): `fn(g, *args, **kwargs)`, where `g.node(operator, *names, **attributes)`
            adds a node and returns the name of its result, and tensors have `.name`.
        verify: run the model by lampion and compare with what was exported.
        export_params: without them, weights become inputs of the graph.

    Further arguments are PyTorch's, and change nothing here. Returns the ONNXProgram, or None with
    `dynamo=False`. Raises ExportError for what is no graph of ops, UnsupportedError for ops that
    ONNX has no words for, ImportError without the onnx package.

    Example:
        >>> import lampion, io
        >>> net = lampion.nn.Linear(3, 2)
        >>> lampion.onnx.export(net, (lampion.zeros(1, 3),), io.BytesIO(), input_names=["x"])
        ONNXProgram(x -> output; 1 nodes)
    """
    package()
    functions = {_name_of(k): fn for k, fn in (custom_translation_table or {}).items()}
    known = TRANSLATIONS.keys() | functions.keys()
    if isinstance(model, ExportedProgram):
        program = model
        if not program.graph.known:
            raise ValueError("a program that was read from a file does not know its shapes: export "
                             "the module again, or its module() with arguments")
    else:
        if not isinstance(args, tuple):
            args = tuple(args) if isinstance(args, list) else (args,)
        if args and isinstance(args[-1], dict) and not kwargs and not dynamo:
            args, kwargs = args[:-1], args[-1]
        shapes = dynamic_shapes
        if dynamic_axes:
            shapes = _axes(model, args, dict(kwargs or {}), input_names, dynamic_axes)
        with _mode(model, training):
            program = record(model, args, kwargs, shapes, Levels(
                lambda op: op.qualname not in known, WHOLE))
    proto = _model(program, opset_version or OPSET, input_names, output_names, functions)
    made = ONNXProgram(proto, program)
    if verify:
        _verify(made, model, args, kwargs)
    if f is not None:
        made.save(f, include_initializers=export_params,
                  keep_initializers_as_inputs=keep_initializers_as_inputs,
                  external_data=external_data if not hasattr(f, "write") else None)
    return made if dynamo else None


class _mode:
    """A module in the mode that is to be exported; afterwards as it was."""

    def __init__(self, model: Any, training: TrainingMode) -> None:
        self.modules = [(m, m.training) for m in model.modules()] if isinstance(
            model, Module) and training != TrainingMode.PRESERVE else []
        self.training = training == TrainingMode.TRAINING

    def __enter__(self) -> None:
        for m, _ in self.modules:
            m.training = self.training

    def __exit__(self, *error: Any) -> None:
        for m, was in self.modules:
            m.training = was


def _name_of(key: Any) -> str:
    from ..ops import registry as R

    if isinstance(key, str):
        return key
    for op in R.REGISTRY.values():
        if op is key or op.__dict__.get("fn") is key:
            return str(op.qualname)
    raise ValueError(f"custom_translation_table: {key!r} is no op; give its name")


def _axes(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: Any, axes: Any) -> Any:
    """`dynamic_axes` in the words of `dynamic_shapes`."""
    from ..export.program import _by_name

    given, _ = _by_name(model, args, kwargs)
    tensors = [k for k, v in given.items() if isinstance(v, lampion.Tensor)]
    if len(tensors) != len(given):
        tensors = list(given)
    called = dict(zip(names or tensors, tensors)) | {t: t for t in tensors}
    out: dict[str, Any] = {}
    for name, dims in axes.items():
        if name not in called:
            continue  # an output: its dims follow
        pairs = dims.items() if isinstance(dims, Mapping) else [
            (d, f"{name}_dim_{d}") for d in dims]
        out[called[name]] = {d: Dim("".join(c if c.isalnum() else "_" for c in str(n)) if str(
            n)[:1].isalpha() else f"dim_{n}") for d, n in pairs}
    return out


def _model(program: ExportedProgram, opset: int, input_names: Any, output_names: Any,
           functions: dict[str, Any]) -> Any:
    """The ModelProto of a program."""
    onnx, graph = package(), program.graph
    names = list(input_names or [i.name for i in graph.inputs])[:len(graph.inputs)]
    names += [i.name for i in graph.inputs[len(names):]]
    g = Writer(graph, program._tensors, opset, names, functions)
    for call in graph.calls:
        g.write(call)
    outputs = _outputs(g, graph, output_names)
    _drop_unused(g, [o.name for o in outputs])
    inputs = [onnx.helper.make_tensor_value_info(n, CODES[i.dtype], list(i.shape))
              for n, i in zip(names, graph.inputs)]
    weights = [onnx.numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n)
               for n, a in g.initializers.items()]
    made = onnx.helper.make_graph(g.nodes, "lampion", inputs, outputs, weights)
    proto = onnx.helper.make_model(made, producer_name="lampion",
                                   producer_version=lampion.__version__,
                                   opset_imports=[onnx.helper.make_opsetid("", opset)])
    proto.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return proto


def _outputs(g: Writer, graph: Graph, names: Any) -> list[Any]:
    """The graph's results, under names of their own."""
    leaves: list[Any] = []
    map_leaves(leaves.append, graph.results)
    refs = [v for v in leaves if isinstance(v, (Ref, Size)) or type(v) in (int, float, bool)]
    wanted = list(names or [])
    wanted += ["output" if len(refs) == 1 else f"output_{k}" for k in range(len(wanted), len(refs))]
    out = []
    for v, name in zip(refs, wanted):
        kind = g.known(v.number).dtype if isinstance(v, Ref) else (
            lampion.int64 if isinstance(v, (Size, int)) else lampion.float32)
        source = g.name_of(v.number) if isinstance(v, Ref) else g.number(v, kind)
        g.nodes.append(g.onnx.helper.make_node("Identity", [source], [name],
                                               name=f"result_{name}"))
        shape: list[Any] = list(g.known(v.number).shape) if isinstance(v, Ref) else []
        if graph.dims:  # which of them change is for shape inference to say
            shape = [None] * len(shape)
        out.append(g.onnx.helper.make_tensor_value_info(name, CODES[kind], shape))
    return out


def _drop_unused(g: Writer, results: Sequence[str]) -> None:
    """Leave nodes and constants out that no result needs, and copies that only rename."""
    _join_results(g)
    needed, kept = set(results), []
    for node in reversed(g.nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    g.nodes = kept[::-1]
    g.initializers = {n: a for n, a in g.initializers.items() if n in needed}


def _join_results(g: Writer) -> None:
    """A result that one node makes, and nobody else reads, has its name at once."""
    made = {o: n for n in g.nodes for o in n.output}
    used: dict[str, int] = {}
    for n in g.nodes:
        for i in n.input:
            used[i] = used.get(i, 0) + 1
    left = []
    for n in g.nodes:
        source = n.input[0] if n.name.startswith("result_") else ""
        if source in made and used[source] == 1:
            outputs = made[source].output
            outputs[list(outputs).index(source)] = n.output[0]
        else:
            left.append(n)
    g.nodes = left


def _verify(made: ONNXProgram, model: Any, args: Any, kwargs: Any) -> None:
    """RuntimeError unless the ONNX model agrees with what was exported."""
    want: list[Any] = []
    with lampion.no_grad():
        map_leaves(want.append, made.exported_program(*args, **(kwargs or {})))
        from ..utils import _pytree

        leaves = [t for t in _pytree.tree_leaves((args, kwargs or {}))
                  if isinstance(t, lampion.Tensor)]
        got = made(*leaves)
    got = list(got) if isinstance(got, tuple) else [got]
    want = [w for w in want if isinstance(w, lampion.Tensor)]
    for k, (a, b) in enumerate(zip(got, want)):
        try:
            lampion.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        except AssertionError as error:
            raise RuntimeError(f"the ONNX model's output {k} differs from what was exported: "
                               f"{error}") from error


def is_in_onnx_export() -> bool:
    """Whether a model is being exported. Modules run as they always do meanwhile, so False."""
    return False


__all__ = ["ONNXProgram", "TrainingMode", "export", "is_in_onnx_export"]
