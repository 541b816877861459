"""Writing down the ops that a function calls, as they are called.

Floor 7; imports callpath and what is below, compiler.trace. The function runs once, on its
arguments. Every op is seen as the call path sees it, with its arguments: composites as the ops they
call, control flow as what was taken. Writes in place arrive as `copy_` and `fill_` and are kept:
running the graph writes in the same order. What a graph cannot say raises ExportError at the user's
line: a value that is read on the host, a tensor on another device, memory that is exchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import callpath, wholes
from ..base.errors import LampionError
from ..base.meta import Meta, expand_strides, meta
from ..compiler.trace import user_line
from ..ops import registry as R
from ..runtime import tracing
from ..runtime.backend import host_readers, host_writers
from ..tensor import Tensor
from .graph import DEVICE, Call, Drawn, Graph, Input, Known, Ref, Weight, map_leaves


class ExportError(LampionError, RuntimeError):
    """A function does what a graph of ops cannot say."""


class Levels(NamedTuple):
    """At which level ops are written down: `composed(op)` says which kernel ops are as what they
    can be composed of, `whole` which composites are as one op, by name, for the arguments that
    its function accepts."""

    composed: Callable[[Any], bool]
    whole: Mapping[str, Callable[..., bool]]


class Recording(tracing.Tracer):
    """One run; `with recording:` around it. `inputs` are the tensors that callers will give, in
    order, `weights` tensors by name with their kinds; `levels` may say that some ops are written
    down as others."""

    def __init__(self, inputs: list[Tensor], weights: Mapping[str, tuple[Tensor, Weight]],
                 device: Any, levels: Levels | None = None) -> None:
        self.levels, self.known = levels, dict[int, Known]()
        self.thread, self.device = threading.get_ident(), device
        self.calls: list[Call] = []
        self.weights: list[Weight] = []
        self.tensors: list[Tensor] = []  # of the weights
        self.bases: list[Any] = []  # their memory in this run
        self.count = 0
        self.numbers: dict[Any, int] = {}  # (storage, meta) -> number
        self.kept: list[Any] = []  # storages, so that their ids stay theirs
        self.by_storage: dict[int, list[Meta]] = {}
        self.made_empty: dict[int, Any] = {}
        self.drawn: tuple[Any, int, int] | None = None
        self.busy = False
        self.error: ExportError | None = None
        self._layer = callpath.Layer(self._seen)
        self.late: dict[int, int] = {}  # number of a weight -> its place
        for t in inputs:
            self._new(t)
        for t, w in weights.values():
            self._add_weight(t, w)

    # ---- the time of the run -------------------------------------------------------------------

    def __enter__(self) -> Recording:
        tracing.active.append(self)
        host_readers.append(self._read)
        host_writers.append(self._from_host)
        wholes.handlers.append(self._whole)
        self._layer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._layer.__exit__(*error)
        wholes.handlers.remove(self._whole)
        host_writers.remove(self._from_host)
        host_readers.remove(self._read)
        tracing.active.remove(self)

    def _mine(self) -> bool:
        return threading.get_ident() == self.thread and not self.busy

    def fail(self, reason: str) -> None:
        """Raise ExportError at the user's line."""
        if threading.get_ident() == self.thread and self.error is None:
            where = user_line()
            self.error = ExportError(f"cannot be exported: {reason}"
                                     + (f" ({where})" if where else ""))
        if self.error is not None and threading.get_ident() == self.thread:
            raise self.error

    def _read(self) -> None:
        if threading.get_ident() == self.thread:
            self.fail("a tensor's value is read on the host, so that what happens next depends on "
                      "data. Use lampion.where and other ops instead of Python's if and while, and "
                      "keep numbers in tensors")

    def _from_host(self, storage: Any) -> None:
        """A tensor made of Python's numbers is a constant, not memory without values."""
        if threading.get_ident() == self.thread:
            self.made_empty.pop(id(storage.base), None)

    def graph(self, inputs: list[Input], arguments: Any, results: Any) -> Graph:
        """What was written down, with the weights behind the inputs."""
        results = self.arguments(results)
        first = len(inputs)
        order = [*range(first), *self.late]
        order += [n for n in range(first, self.count) if n not in self.late]
        new = {old: k for k, old in enumerate(order)}

        def leaf(v: Any) -> Any:
            return Ref(new[v.number]) if isinstance(v, Ref) else v

        calls = [c._replace(args=map_leaves(leaf, c.args), kwargs=map_leaves(leaf, c.kwargs),
                            outputs=tuple([new[n] for n in c.outputs])) for c in self.calls]
        return Graph(inputs, self.weights, calls, arguments, map_leaves(leaf, results),
                     known=[self.known[n] for n in order])

    # ---- values --------------------------------------------------------------------------------

    @staticmethod
    def _key(t: Tensor) -> tuple[int, Any]:
        return id(t.data_), t.meta.plain

    def _new(self, t: Tensor) -> int:
        number = self.count
        self.count += 1
        self._hold(t, number)
        return number

    def _hold(self, t: Tensor, number: int) -> None:
        self.numbers[self._key(t)] = number
        self.known[number] = Known(t.meta.dtype, t.meta.shape, id(t.data_.base))
        self.kept.append(t.data_)
        self.by_storage.setdefault(id(t.data_), []).append(t.meta.plain)

    def number_of(self, t: Tensor) -> int:
        """The number of a tensor; one that nobody has made here is a weight."""
        if t.meta.virtual:
            self.fail("a function transform is running")
        found = self.numbers.get(self._key(t))
        if found is not None:
            return found
        empty = self.made_empty.get(id(t.data_.base))
        if empty is not None and t.data_.offset == empty.offset:
            return self._call_full(t)
        if t.meta.device is not self.device:
            self.fail(f"a tensor is on {t.meta.device}, and the inputs are on {self.device}")
        count = sum(w.kind == "constant" for w in self.weights)
        return self._add_weight(t, Weight(f"constant{count}", "constant"))

    def _add_weight(self, t: Tensor, weight: Weight) -> int:
        self.weights.append(weight)
        self.bases.append(t.data_.base)
        if weight.kind == "constant":  # as it is before the function writes into it
            self.busy, busy = True, self.busy
            self.tensors.append(t.detach().clone())
            self.busy = busy
        else:
            self.tensors.append(t)
        number = self._new(t)
        self.late[number] = len(self.weights) - 1
        return number

    def _call_full(self, t: Tensor) -> int:
        """Memory that was only allocated: zeros, as good as any."""
        number = self._new(t)
        m = t.meta
        self.calls.append(Call("full", (m.shape, 0), {
            "dtype": m.dtype, "device": DEVICE, "strides": m.strides}, (number,), False,
            user_line()))
        return number

    def arguments(self, value: Any) -> Any:
        """An argument with refs for tensors."""
        def leaf(v: Any) -> Any:
            if isinstance(v, Tensor):
                return Ref(self.number_of(v))
            if type(v).__name__ == "device":
                if v is not self.device:
                    self.fail(f"an op is called for {v}, and the inputs are on {self.device}")
                return DEVICE
            return v

        return map_leaves(leaf, value)

    # ---- calls ---------------------------------------------------------------------------------

    def _seen(self, op: R.Op, values: Any) -> Any:
        """The handler of the layer: run a call and write it down."""
        if not self._mine() or op.kind == "composite":
            return NotImplemented
        if self.levels is not None and getattr(op, "compose", None) is not None \
                and op.kind == "kernel" and self.levels.composed(op):
            return op.compose(*callpath.convert(op, list(values)))  # type: ignore[attr-defined]
        written = values
        if any(p.name == "seed" for p in op.params):
            written = [self._drawn(p.name, v) if p.name in ("seed", "offset") else v
                       for p, v in zip(op.params, values)]
        places, named = map(self.arguments, op.as_called(written, short=True))
        self.busy = True
        try:
            result = callpath.call(op, list(values))
        finally:
            self.busy = False
        return self._called(op, places, named, result)

    def _whole(self, body: Any, args: Any, kwargs: Any) -> Any:
        """The handler of composites: some are written down whole."""
        name = body.__name__
        accepts = None if self.levels is None else self.levels.whole.get(name)
        if accepts is None or not self._mine() or not accepts(*args, **kwargs):
            return NotImplemented
        places, named = self.arguments(tuple(args)), self.arguments(kwargs)
        self.busy = True
        try:
            result = body(*args, **kwargs)
        finally:
            self.busy = False
        return self._called(R.REGISTRY[name], places, named, result)

    def _called(self, op: R.Op, places: Any, named: Any, result: Any) -> Any:
        several = not isinstance(result, Tensor)
        outputs = tuple([self._new(r) for r in (result if several else (result,))])
        self.calls.append(Call(op.qualname, places, named, outputs, several, user_line()))
        return result

    def _drawn(self, name: str, value: Any) -> Any:
        if self.drawn is None or value != self.drawn[name == "offset"]:
            self.fail("random numbers come from a generator that was advanced elsewhere")
        assert self.drawn is not None
        return Drawn("key" if name == "seed" else "offset", self.drawn[2])

    # ---- what the call path tells ---------------------------------------------------------------

    def ran(self, plan: Any, inputs: Any, outputs: Any) -> None:
        """Outside of calls, launches are writes: copies and fills."""
        if not self._mine():
            return
        if plan.op.name not in ("convert", "full") or len(outputs) != 1:
            self.fail(f"{plan.op.qualname} writes in a way that a graph cannot say")
        target = self._written(outputs[0], plan.metas[0])
        if plan.op.name == "full":
            value = inputs[0]
            self.calls.append(Call("fill_", (Ref(target), value), {}, (), False, user_line()))
            return
        source = self._source(inputs[0], plan.call.inputs[0])
        self.calls.append(Call("copy_", (Ref(target), Ref(source)), {}, (), False, user_line()))

    def _written(self, storage: Any, m: Meta) -> int:
        """The number of the tensor that is written to."""
        t = callpath.NS["make_tensor"](storage, m.plain, None)
        number = self.number_of(t)
        for v in self.late.values():
            if self.bases[v] is storage.base and self.weights[v].kind == "constant":
                self.weights[v] = self.weights[v]._replace(fresh=True)
        return number

    def _source(self, storage: Any, m: Meta) -> int:
        """The number of a tensor whose values, broadcast, were copied."""
        for known in self.by_storage.get(id(storage), ()):
            if known is m or (known.ndim <= m.ndim and known.dtype is m.dtype and m is meta(
                    known.dtype, m.shape, _expanded(known, m.shape), known.device)):
                return self.numbers[id(storage), known]
        return self.number_of(callpath.NS["make_tensor"](storage, m.plain, None))

    def made(self, storage: Any) -> None:
        """Memory was allocated."""
        if self._mine():
            self.made_empty[id(storage.base)] = storage
            self.kept.append(storage)

    def drew(self, generator: Any, first: int, groups: int) -> None:
        """Numbers were reserved in the stream of a generator."""
        if self._mine():
            from ..random import generator_of

            if generator is not generator_of(self.device):
                self.fail("random numbers are drawn from a generator of the program's own")
            self.drawn = (generator.key, first, groups)

    def grad_read(self, leaf: Any) -> None:
        """A gradient is used."""
        if self._mine():
            self.fail("gradients are used")

    grad_cleared = grad_read

    def part(self) -> None:
        """Nothing is left out of a graph."""

    def item(self, t: Any) -> Any:
        """None: a number that is read is no part of a graph."""
        return None

    def host_call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What has to run on the host cannot be in a graph."""
        return self.fail(f"{getattr(function, '__qualname__', function)}() is called")


def _expanded(m: Meta, shape: Any) -> Any:
    try:
        return expand_strides(m.shape, m.strides, shape)
    except Exception:  # shapes that do not broadcast
        return None


__all__ = ["ExportError", "Levels", "Recording"]
