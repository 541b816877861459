"""Exported programs: what `export` returns, and the module that runs one.

Floor 7; imports nn and this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import lampion

from ..nn import Module
from ..ops import registry as R
from ..tensor import Tensor
from . import sizes
from .graph import DEVICE, Call, Drawn, Graph, Input, Ref, Size, Weight, map_leaves, parts_of
from .tracing import ExportError, Levels, Recording
from .weights import place


class ExportGraphSignature(NamedTuple):
    """The names of a program's inputs, parameters, buffers, constants and results."""

    user_inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    lifted_tensor_constants: tuple[str, ...]
    user_outputs: tuple[str, ...]


class ExportedProgram:
    """A program as a graph of op calls with its weights; neither needs the code it came from.

    Print `graph` to read it, call `module()` (or the program itself) to run it, `.to(device)` the
    module to run it elsewhere.
    """

    def __init__(self, graph: Graph, tensors: Sequence[Tensor], names: Sequence[str],
                 example_inputs: Any = None) -> None:
        self.graph, self.example_inputs = graph, example_inputs
        self._tensors, self._names = list(tensors), list(names)
        self._module: ExportedModule | None = None

    def module(self) -> ExportedModule:
        """A module that runs the program: its parameters and buffers have their old names."""
        return ExportedModule(self.graph, self._tensors, self._names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program where its weights are."""
        if self._module is None:
            self._module = self.module()
        return self._module(*args, **kwargs)

    def _of(self, *kinds: str) -> Iterator[tuple[str, Tensor]]:
        for w, t in zip(self.graph.weights, self._tensors):
            if w.kind in kinds:
                yield w.name, t

    @property
    def graph_signature(self) -> ExportGraphSignature:
        """Names by role."""
        outputs: list[str] = []
        map_leaves(lambda v: outputs.append(self.graph.name(v.number)) if isinstance(v, Ref)
                   else None, self.graph.results)
        return ExportGraphSignature(
            tuple(i.name for i in self.graph.inputs),
            *(tuple(n for n, _ in self._of(kind)) for kind in ("parameter", "buffer", "constant")),
            tuple(outputs))

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name."""
        keep = {w.name for w in self.graph.weights if w.persistent}
        return {n: t for n, t in self._of("parameter", "buffer") if n in keep}

    @property
    def constants(self) -> dict[str, Tensor]:
        """Tensors that the program made of Python's numbers."""
        return dict(self._of("constant"))

    @property
    def range_constraints(self) -> dict[str, Any]:
        """The bounds of dims that may change."""
        return dict(self.graph.dims)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters with their names."""
        return self._of("parameter")

    def parameters(self) -> Iterator[Tensor]:
        """Parameters."""
        return (t for _, t in self._of("parameter"))

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their names."""
        return self._of("buffer")

    def buffers(self) -> Iterator[Tensor]:
        """Buffers."""
        return (t for _, t in self._of("buffer"))

    def run_decompositions(self, decomp_table: Any = None) -> ExportedProgram:
        """The program itself: it is made of ops that every device has."""
        return self

    def __str__(self) -> str:
        return f"ExportedProgram:\n{self.graph}"

    __repr__ = __str__


class ExportedModule(Module):
    """Runs a graph. TypeError and ValueError for arguments that are not like those it was made
    for: other structures, dtypes, or sizes of dims that do not change."""

    def __init__(self, graph: Graph, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        super().__init__()
        self.graph, self._argument_names = graph, list(names)
        self._places = [place(self, w.name, t, parameter=w.kind == "parameter",
                              persistent=w.persistent and w.kind != "constant")
                        for w, t in zip(graph.weights, tensors)]
        self._last = _last_uses(graph)
        self._steps = [_step(c) for c in graph.calls]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on arguments like those it was exported with."""
        values, dims = self._given(args, kwargs)
        for w, (table, key) in zip(self.graph.weights, self._places):
            values.append(table[key].clone() if w.fresh else table[key])
        device = next((t.device for t in values if isinstance(t, Tensor)), None)
        values += [None] * (self._count() - len(values))
        scope = _Scope(values, dims, device or lampion.get_default_device())
        for call, run, dead in zip(self.graph.calls, self._steps, self._last):
            result = run(scope)
            if call.several:
                for n, r in zip(call.outputs, result, strict=True):
                    values[n] = r
            elif call.outputs:
                values[call.outputs[0]] = result
            for n in dead:
                values[n] = None
        return map_leaves(scope.leaf, self.graph.results)

    def _count(self) -> int:
        g = self.graph
        return len(g.inputs) + len(g.weights) + sum(len(c.outputs) for c in g.calls)

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any],
               ) -> tuple[list[Any], dict[str, int]]:
        """(the tensors in order, the sizes of dims) of a call."""
        tree = self.graph.arguments
        names = self._argument_names
        if len(args) > len(names):
            raise TypeError(f"the program takes {len(names)} positional arguments "
                            f"({', '.join(names)}), and {len(args)} were given")
        given = {**dict(zip(names, args)), **kwargs}
        for name in tree.keys() - given.keys():
            raise TypeError(f"the program misses its argument {name!r}")
        for name in given.keys() - tree.keys():
            raise TypeError(f"the program has no argument {name!r}; it has {', '.join(tree)}")
        values: list[Any] = [None] * len(self.graph.inputs)
        _match(tree, given, values, "")
        dims: dict[str, int] = {}
        for t, i in zip(values, self.graph.inputs):
            _check(t, i, dims, self.graph)
        return values, dims

    def extra_repr(self) -> str:
        """Inputs and size."""
        return f"{', '.join(i.name for i in self.graph.inputs)}; {len(self.graph.calls)} calls"


class _Scope:
    """The values, dims and device of one run."""

    def __init__(self, values: list[Any], dims: dict[str, int], device: Any) -> None:
        self.values, self.dims, self.device = values, dims, device

    def leaf(self, v: Any) -> Any:
        """What a leaf of an argument is in this run."""
        t = type(v)
        if t is Ref:
            return self.values[v.number]
        if t is Size:
            return v.value(self.dims)
        if v is DEVICE:
            return self.device
        if t is Drawn:
            from ..random import generator_of

            g = generator_of(lampion.device(self.device))
            return g.key if v.what == "key" else g.advance(self.leaf(v.groups))
        return v


def _step(call: Call) -> Callable[[_Scope], Any]:
    """A function that makes a call."""
    fn = {"copy_": Tensor.copy_, "fill_": Tensor.fill_}.get(call.op)
    if fn is None:
        fn = R.REGISTRY[call.op].fn
    args, kwargs = call.args, call.kwargs
    leaves: list[Any] = []
    map_leaves(leaves.append, (args, kwargs))
    if kwargs or any(parts_of(a) is not None for a in args) or any(
            isinstance(v, (Size, Drawn)) or v is DEVICE for v in leaves):
        def general(scope: _Scope) -> Any:
            return fn(*map_leaves(scope.leaf, args), **map_leaves(scope.leaf, kwargs))

        plain = not any(isinstance(v, (Ref, Size, Drawn)) or v is DEVICE for v in leaves)
        return general if not plain else lambda scope: fn(*args, **kwargs)
    parts = [(a.number, None) if type(a) is Ref else (-1, a) for a in args]

    def flat(scope: _Scope) -> Any:
        values = scope.values
        return fn(*[values[n] if n >= 0 else a for n, a in parts])

    return flat


def _last_uses(graph: Graph) -> list[tuple[int, ...]]:
    """For every call, the values that nothing needs after it."""
    seen: set[int] = set()

    def use(v: Any) -> None:
        if isinstance(v, Ref):
            seen.add(v.number)

    map_leaves(use, graph.results)
    out = []
    for c in reversed(graph.calls):
        before = set(seen)
        map_leaves(use, (c.args, c.kwargs))
        out.append(tuple((seen | set(c.outputs)) - before))
        seen.update(c.outputs)
    return out[::-1]


def _match(tree: Any, given: Any, values: list[Any], path: str) -> None:
    """Put the tensors of `given` where the tree says; TypeError where it has another form."""
    where = f"argument {path}" if path else "the arguments"
    if isinstance(tree, Ref):
        if not isinstance(given, Tensor):
            raise TypeError(f"{where} must be Tensor, not {type(given).__name__}")
        values[tree.number] = given
    elif isinstance(tree, Mapping):
        if not isinstance(given, Mapping) or given.keys() != tree.keys():
            raise TypeError(f"{where} must be a dict with the keys {', '.join(map(str, tree))}")
        for k, v in tree.items():
            _match(v, given[k], values, f"{path}[{k!r}]" if path else str(k))
    elif isinstance(tree, (list, tuple)):
        if not isinstance(given, (list, tuple)) or len(given) != len(tree):
            raise TypeError(f"{where} must be a sequence of {len(tree)}")
        for k, (t, g) in enumerate(zip(tree, given)):
            _match(t, g, values, f"{path}[{k}]")
    elif given is not tree and given != tree:
        raise ValueError(f"{where} was {tree!r} when the program was exported, which is part of "
                         f"the program, and is {given!r} now")


def _check(t: Tensor, i: Input, dims: dict[str, int], graph: Graph) -> None:
    """The tensor of an input: dtype, number of dims, sizes."""
    if t.dtype is not i.dtype or t.ndim != len(i.shape):
        raise TypeError(f"input {i.name!r} is {t.dtype!r} of shape {list(t.shape)}; the program "
                        f"takes {i.dtype!r} of shape [{', '.join(map(str, i.shape))}]")
    for d, (have, want) in enumerate(zip(t.shape, i.shape)):
        if isinstance(want, int):
            if have != want:
                raise ValueError(f"input {i.name!r} has size {have} in dim {d}, where the program "
                                 f"takes {want}; dynamic_shapes lets a dim change")
            continue
        if dims.setdefault(want, have) != have:
            raise ValueError(f"input {i.name!r} has size {have} in dim {d}, and {want} is "
                             f"{dims[want]} already")
        low, high = graph.dims[want]
        if have < low or (high is not None and have > high):
            raise ValueError(f"input {i.name!r} has size {have} in dim {d}; {want} may be {low} to "
                             f"{'any' if high is None else high}")


# ---------------------------------------------------------------- making one

def export(mod: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, *,
           dynamic_shapes: Any = None, strict: bool = False,
           preserve_module_call_signature: Sequence[str] = (),
           prefer_deferred_runtime_asserts_over_guards: bool = False) -> ExportedProgram:
    """The ops of a module or function as a program that needs no Python code of its own.

    Args:
        mod: a module, or any function of tensors; it runs once, on these arguments, as it is (call
            `eval()` before).
        args, kwargs: example arguments: tensors, numbers and texts, in lists, tuples and dicts.
            What is no tensor becomes part of the program.
        dynamic_shapes: which dims may change: by argument name (or in order) a dict `{dim: Dim}`.
            Then it runs for several sizes of these dims.

    Returns an ExportedProgram. Raises ExportError, with the line, where the next step depends on a
    tensor's values, or ops depend on sizes in more than numbers; ValueError for `dynamic_shapes`
    that do not fit.

    >>> program = lampion.export.export(lampion.nn.Linear(3, 2), (lampion.zeros(1, 3),))
    >>> print(program.graph)
    graph(input: float32[1, 3]):
        # parameter weight
        # parameter bias
        %0 = linear(input, weight, bias)
        return %0
    """
    return record(mod, args, kwargs, dynamic_shapes)


def record(mod: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None,
           dynamic_shapes: Any, levels: Levels | None = None) -> ExportedProgram:
    """`export`, with a choice of the level at which ops are written down."""
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of arguments, not {type(args).__name__}")
    named, order = _by_name(mod, args, dict(kwargs or {}))
    leaves: list[Tensor] = []
    paths: list[str] = []
    tree = _tree(named, leaves, paths, "")
    names = _unique(paths)
    devices = {t.device for t in leaves}
    if len(devices) > 1:
        raise ExportError(f"cannot be exported: arguments are on {' and '.join(map(str, devices))}")
    changing, bounds = sizes.asked(dynamic_shapes, tree, names, [t.ndim for t in leaves], order)
    inputs = [Input(n, t.dtype, tuple(c.get(d, size) for d, size in enumerate(t.shape)))
              for n, t, c in zip(names, leaves, changing)]
    device = leaves[0].device if leaves else _device_of(mod)
    if not bounds:
        run = _trace(mod, leaves, tree, order, inputs, device, levels)
        graph = run[0]
    else:
        run = _for_sizes(mod, leaves, tree, order, inputs, device, changing, bounds,
                         levels)
        graph = run[0]
    return ExportedProgram(graph, run[1], order, (args, dict(kwargs or {})))


def _for_sizes(mod: Any, leaves: Sequence[Tensor], tree: Any, order: Sequence[str],
               inputs: Sequence[Input], device: Any, changing: Sequence[dict[int, str]],
               bounds: Mapping[str, Any], levels: Levels | None) -> tuple[Graph, list[Tensor]]:
    """The graph for all sizes of dims."""
    example: dict[str, int] = {}
    for t, c, i in zip(leaves, changing, inputs):
        for d, name in c.items():
            if example.setdefault(name, t.shape[d]) != t.shape[d]:
                raise ValueError(f"Dim {name!r} is {example[name]} and, in {i.name!r}, "
                                 f"{t.shape[d]}")
    failed: Exception | None = None
    for step in (1, 64):
        try:
            points = sizes.sample_points(example, bounds, step)
        except ExportError:
            if failed is not None:
                break
            raise
        runs = []
        for p in points:
            sized = [_resized(t, {d: p[n] for d, n in c.items()}) for t, c in zip(leaves, changing)]
            try:
                runs.append(_trace(mod, sized, tree, order, inputs, device, levels))
            except ExportError:
                raise
            except Exception as error:
                where = ", ".join(f"{n} = {s}" for n, s in p.items())
                raise ExportError(f"cannot be exported: it fails where {where}; bounds of a Dim "
                                  f"keep it to sizes that work ({error})") from error
        try:
            graph = sizes.joined([g for g, _ in runs], points, inputs, bounds)
        except sizes.Unfit as error:
            failed = failed or error
            continue
        _same_constants(runs, graph, points)
        return graph, runs[0][1]
    raise ExportError(f"cannot be exported: {failed}") from failed


def _same_constants(runs: Sequence[tuple[Graph, list[Tensor]]], graph: Graph,
                    points: Sequence[Mapping[str, int]]) -> None:
    for k, w in enumerate(graph.weights):
        if w.kind == "constant":
            first = runs[0][1][k]
            if not all(first.dtype is ts[k].dtype and lampion.equal(first, ts[k])
                       for _, ts in runs):
                raise ExportError(
                    f"cannot be exported: a constant that is made of Python's numbers depends on "
                    f"the size of {' and '.join(points[0])}; make it with lampion.arange and other "
                    "ops")


def _resized(t: Tensor, wanted: Mapping[int, int]) -> Tensor:
    """A tensor with more or fewer elements along dims, its own again and again."""
    for d, n in wanted.items():
        if t.shape[d] == 0:
            raise ExportError("cannot be exported: an example argument with a dim of size 0 tells "
                              "nothing of other sizes")
        if t.shape[d] != n:
            at = lampion.arange(n, device=t.device) % t.shape[d]
            t = t.detach().index_select(d, at)
    return t


def _trace(mod: Any, leaves: Sequence[Tensor], tree: Any, order: Sequence[str],
           inputs: Sequence[Input], device: Any, levels: Levels | None,
           ) -> tuple[Graph, list[Tensor]]:
    """Run and write down: (the graph, its weights). What the function writes into its arguments
    and buffers is undone."""
    leaves = [t.detach().clone() for t in leaves]
    weights = _weights_of(mod)
    before = [(t, t.detach().clone(), t._version) for t, w in weights.values()
              if w.kind == "buffer"]
    recording = Recording(leaves, weights, device, levels)
    given = map_leaves(lambda v: leaves[v.number] if isinstance(v, Ref) else v, tree)
    args = [given.pop(n) for n in list(order)]
    try:
        with lampion.no_grad(), recording:
            result = mod(*args, **given)
    finally:
        for t, old, version in before:
            if t._version != version:
                t.data.copy_(old)
    if recording.error is not None:  # the function caught it
        raise recording.error
    _only_known(result)
    return recording.graph(list(inputs), tree, result), recording.tensors


def _only_known(result: Any) -> None:
    """TypeError for results that a program cannot return."""
    def leaf(v: Any) -> Any:
        if v is not None and not isinstance(v, (Tensor, bool, int, float, complex, str)):
            raise ExportError(f"cannot be exported: it returns a {type(v).__name__}; tensors, "
                              "numbers and texts in lists, tuples and dicts can be returned")
        return v

    map_leaves(leaf, result)


def _weights_of(mod: Any) -> dict[str, tuple[Tensor, Weight]]:
    if not isinstance(mod, Module):
        return {}
    persistent = set(mod.state_dict())
    found: dict[str, tuple[Tensor, Weight]] = {}
    for n, t in mod.named_parameters():
        found[n] = (t, Weight(n, "parameter"))
    for n, t in mod.named_buffers():
        found[n] = (t, Weight(n, "buffer", persistent=n in persistent))
    return found


def _device_of(mod: Any) -> Any:
    for t, _ in _weights_of(mod).values():
        return t.device
    return lampion.get_default_device()


def _by_name(mod: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
             ) -> tuple[dict[str, Any], list[str]]:
    """Arguments by name, and the names of those that are given by position."""
    try:
        fn = mod.forward if isinstance(mod, Module) else mod
        names = []
        for p in inspect.signature(fn).parameters.values():
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                names.append(p.name)
    except (TypeError, ValueError):
        names = []
    names = names[:len(args)]
    names += [f"arg{k}" for k in range(len(names), len(args))]
    return {**dict(zip(names, args)), **kwargs}, names


def _tree(value: Any, leaves: list[Tensor], paths: list[str], path: str) -> Any:
    """Arguments with Refs for tensors, which are collected."""
    if isinstance(value, Tensor):
        leaves.append(value)
        paths.append(path)
        return Ref(len(leaves) - 1)
    if isinstance(value, dict):
        return {k: _tree(v, leaves, paths, f"{path}_{k}" if path else str(k))
                for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_tree(v, leaves, paths, f"{path}_{k}") for k, v in enumerate(value)]
        if hasattr(value, "_fields"):
            return tuple(parts)
        return type(value)(parts) if type(value) in (list, tuple) else parts
    if value is None or isinstance(value, (bool, int, float, complex, str, lampion.dtype)):
        return value
    raise ExportError(f"cannot be exported: the argument {path!r} is a {type(value).__name__}; "
                      "tensors, numbers and texts in lists, tuples and dicts can be given")


def _unique(names: Sequence[str]) -> list[str]:
    out: list[str] = []
    for n in names:
        n = "".join(c if c.isalnum() or c == "_" else "_" for c in n)
        k, one = 1, n
        while one in out:
            one, k = f"{n}_{k}", k + 1
        out.append(one)
    return out


__all__ = ["ExportedProgram", "ExportedModule", "ExportGraphSignature", "export"]
