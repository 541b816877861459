"""From metas to kernels: loop geometry shared by all ops.

Floor 2; imports base, ir. `elementwise()` lowers scalar expressions over broadcast operands to a
one-stage kernel; `Nest` is the builder for everything with an inner loop (reductions, softmax,
norms, gathers). Both collapse dims that walk memory together, order loops by stride, and turn
sizes and strides into runtime parameters, so that one compiled kernel serves many shapes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.meta import Meta, contiguous_strides, dense_strides_like, expand_strides
from ..ir import expr as E
from ..ir.expr import Expr
from ..ir.kernel import (
    Arg,
    ArgReduce,
    Kernel,
    KernelCall,
    Params,
    Program,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Statement,
    Store,
    dot,
)

_kernels: dict[Any, Kernel] = {}
_lock = threading.Lock()


def loop_order(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> list[int]:
    """Dims from outermost to innermost so that the first operand that cares decides.

    Operand strides are over `shape`, 0 on broadcast dims. The rule is the one that decides
    PyTorch's output strides: an insertion sort by swaps in which a stride of 0 expresses no wish.
    """
    order = list(reversed(range(len(shape))))  # innermost first while sorting
    for k in range(1, len(order)):
        at = k
        for j in range(k - 1, -1, -1):
            wish = _compare(order[j], order[at], shape, operands)
            if wish > 0:  # a swap: those between, of no wish, stay where they are
                order[j], order[at] = order[at], order[j]
                at = j
            elif wish < 0:
                break
    return order[::-1]


def _compare(a: int, b: int, shape: Sequence[int], operands: Sequence[Sequence[int]]) -> int:
    """> 0 if dim `b` belongs inside dim `a`, < 0 if outside, 0 if no operand minds."""
    for strides in operands:
        sa, sb = strides[a], strides[b]
        if sa == 0 or sb == 0:
            continue
        if sa != sb:
            return 1 if sa > sb else -1
        if shape[a] > shape[b]:
            return 1
    return 0


def output_strides(shape: tuple[int, ...], inputs: Sequence[Meta]) -> tuple[int, ...]:
    """Strides PyTorch gives the result of an elementwise op on these inputs."""
    full = [m for m in inputs if m.shape == shape]
    if len(full) == len(inputs) and full:
        first = full[0].strides
        if all(m.strides == first for m in full):
            if full[0].contiguous:
                return contiguous_strides(shape)
            if not full[0].overlapping and full[0].span == full[0].nbytes:
                return first
    if all(m.contiguous for m in full) and full:
        return contiguous_strides(shape)
    order = loop_order(shape, [expand_strides(m.shape, m.strides, shape) for m in inputs])
    out, step = [0] * len(shape), 1
    for d in reversed(order):
        out[d] = step
        step *= max(shape[d], 1)
    return tuple(out)


def collapse(sizes: Sequence[int], operands: Sequence[Sequence[int]],
             ) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring dims that every operand walks as one; drop dims of size 1."""
    keep = [d for d, n in enumerate(sizes) if n != 1]
    out_sizes: list[int] = []
    out: list[list[int]] = [[] for _ in operands]
    for d in keep:
        if out_sizes and all(o[-1] == s[d] * sizes[d] for o, s in zip(out, operands)):
            out_sizes[-1] *= sizes[d]
            for o, s in zip(out, operands):
                o[-1] = s[d]
        else:
            out_sizes.append(sizes[d])
            for o, s in zip(out, operands):
                o.append(s[d])
    return out_sizes, out


def _stride_class(s: int) -> int:
    return s if s in (0, 1) else 2


def elementwise(name: str, exprs: Sequence[Expr], variables: Sequence[tuple[str, dtype]],
                inputs: Sequence[Any], outputs: Sequence[Meta], compute: dtype) -> Program:
    """Lower expressions over broadcast operands to one kernel.

    `variables[k] = (name, dtype in the expression)` belongs to `inputs[k]`, a Meta or, for a
    number passed at run time, the dtype of its slot (float64 or int64).
    """
    shape = outputs[0].shape
    tensors = [m for m in inputs if isinstance(m, Meta)]
    strides = [list(m.strides) for m in outputs]
    strides += [list(expand_strides(m.shape, m.strides, shape)) for m in tensors]
    order = loop_order(shape, strides)
    sizes = [shape[d] for d in order]
    sizes, strides = collapse(sizes, [[s[d] for d in order] for s in strides])
    if not sizes:  # one element: the same kernel as a contiguous row of length 1
        sizes, strides = [1], [[1] for _ in strides]
    classes = tuple(tuple(map(_stride_class, s)) for s in strides)
    key = (name, tuple(map(id, exprs)), tuple(variables), compute, len(sizes), classes,
           tuple(m.dtype for m in outputs),
           tuple(m.dtype if isinstance(m, Meta) else ("scalar", m) for m in inputs))
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _elementwise_kernel(name, exprs, variables, inputs, outputs, compute,
                                     len(sizes), classes)
        with _lock:
            _kernels[key] = kernel
    params = tuple(sizes) + tuple(s for row in strides for s in row if s not in (0, 1))
    return Program((KernelCall(kernel, params, tuple(range(len(outputs) + len(inputs)))),))


def _elementwise_kernel(name: str, exprs: Sequence[Expr], variables: Sequence[tuple[str, dtype]],
                        inputs: Sequence[Any], outputs: Sequence[Meta], compute: dtype,
                        ndim: int, classes: Sequence[Sequence[int]]) -> Kernel:
    p = Params()
    grid = tuple(p.of(0) for _ in range(ndim))
    axes = [E.index(k) for k in range(ndim)]
    offsets = [dot(axes, [p.stride(c) for c in row]) for row in classes]
    env = dict(variables)
    roots = E.typed(exprs, env, compute)
    args = [Arg("out", m.dtype) for m in outputs]
    table: dict[Expr, Expr] = {}
    at = len(outputs)
    for k, ((var, want), m) in enumerate(zip(variables, inputs)):
        slot = len(outputs) + k
        if isinstance(m, Meta):
            args.append(Arg("in", m.dtype))
            value = E.load(slot, offsets[at], m.dtype)
            at += 1
        else:
            args.append(Arg("scalar", m))
            value = E.scalar(slot, m)
        table[E.var(var, want)] = convert(value, want)
    values = E.substitute(roots, table)
    body = tuple(Store(k, offsets[k], convert(v, m.dtype))
                 for k, (v, m) in enumerate(zip(values, outputs)))
    return finish(Kernel(name, tuple(args), grid, (Stage((), body),), len(p.values)))


def convert(e: Expr, d: dtype) -> Expr:
    """An explicit cast unless the type already fits."""
    if e.dtype is d:
        return e
    return E.typed([E.cast(e, d)], {}, d)[0]


def finish(kernel: Kernel) -> Kernel:
    """Make a kernel printable: complex numbers become pairs of reals."""
    if any(a.dtype.kind == "c" for a in kernel.args):
        from ..ir.complex import expand_complex

        return expand_complex(kernel)
    return kernel


class Nest:
    """Builds one kernel with an outer grid and inner loops over a common shape.

    `shape` is the iteration space; `inner` are its dims that loop inside a grid point, in the
    order given. Operands are added with their strides over `shape` (0 where they do not vary),
    then stages are written top to bottom:

        n = Nest("softmax", x.shape, [dim])
        x = n.input(x_meta); y = n.output(y_meta)
        n.start()
        m = n.reduce("max", x())
        s = n.reduce("sum", exp(x() - m))
        n.store(y, exp(x() - m) / s)
        return n.program()
    """

    def __init__(self, name: str, shape: Sequence[int], inner: Iterable[int] = (), *,
                 compute: dtype = dt.float32, merge: bool = True) -> None:
        self.name, self.shape, self.compute = name, tuple(shape), compute
        self.inner = list(inner)
        self.outer = [d for d in range(len(self.shape)) if d not in self.inner]
        self.merge = merge
        self.operands: list[Operand] = []
        self.params = Params()
        self.stages: list[Stage] = []
        self.grid: tuple[Expr, ...] = ()
        self.ranges: tuple[Expr, ...] = ()
        self._refs = 0
        self._coords: dict[int, Expr] = {}

    def output(self, m: Meta, strides: Sequence[int] | None = None, *,
               kind: str = "out") -> "Operand":
        """An output slot; `strides` over `shape`, None for a buffer addressed by hand."""
        return self._add(kind, m.dtype, strides)

    def input(self, m: Meta, strides: Sequence[int] | None = None) -> "Operand":
        """An input slot. Without `strides`, `m` is broadcast to `shape`."""
        if strides is None:
            strides = expand_strides(m.shape, m.strides, self.shape)
        return self._add("in", m.dtype, strides)

    def buffer(self, m: Meta) -> "Operand":
        """An input addressed by hand with `at(index)`."""
        return self._add("in", m.dtype, None)

    def scalar(self, d: dtype = dt.float64) -> Expr:
        """A number passed at run time (float64, int64 or uint64 slot)."""
        return E.scalar(self._add("scalar", d, None).slot, d)

    def _add(self, kind: str, d: dtype, strides: Sequence[int] | None) -> "Operand":
        o = Operand(self, len(self.operands), kind, d,
                    None if strides is None else tuple(strides))
        self.operands.append(o)
        return o

    def start(self) -> None:
        """Fix the loop geometry; call once all operands are known."""
        with_strides = [o for o in self.operands if o.strides is not None]
        rows = [o.strides for o in with_strides if o.strides is not None]
        if self.merge:
            order = loop_order(self.shape, rows)
            self.outer.sort(key=order.index)
        outer = self._axes(self.outer, rows, 0)
        inner = self._axes(self.inner, rows, len(outer[0]))
        self.grid, self.ranges = outer[0], inner[0]
        axes = [E.index(k) for k in range(len(self.grid) + len(self.ranges))]
        for k, o in enumerate(with_strides):
            strides = [self.params.stride(s) for s in outer[1][k] + inner[1][k]]
            o.offset = dot(axes, strides)
            o.outer_offset = dot(axes[:len(self.grid)], strides[:len(self.grid)])

    def _axes(self, dims: Sequence[int], rows: Sequence[Sequence[int]], first: int,
              ) -> tuple[tuple[Expr, ...], list[list[int]]]:
        sizes = [self.shape[d] for d in dims]
        strides = [[r[d] for d in dims] for r in rows]
        if self.merge:
            sizes, strides = collapse(sizes, strides)
        else:
            for k, d in enumerate(dims):
                self._coords[d] = E.index(first + k)
        return tuple(self.params.of(n) for n in sizes), strides

    def coord(self, dim: int) -> Expr:
        """The loop variable of a dim of `shape` (needs merge=False)."""
        return self._coords[dim]

    def position(self) -> Expr:
        """The row-major position within the inner ranges (int64)."""
        total: Expr = E.const(0, dt.int64)
        for k, n in enumerate(self.ranges):
            total = E.op("add", E.op("mul", total, n), E.index(len(self.grid) + k))
        return self.typed(total)

    def of(self, n: int) -> Expr:
        """A runtime integer."""
        return self.params.of(n)

    def typed(self, e: Any) -> Expr:
        """Fix the types of an expression (numbers take the compute type)."""
        return E.typed([E.wrap(e)], {}, self.compute)[0]

    def _ref(self) -> str:
        self._refs += 1
        return f"r{self._refs}"

    def stage(self, *body: Statement, inner: bool = True) -> None:
        """Append a stage of raw statements."""
        self.stages.append(Stage(self.ranges if inner else (), tuple(body)))

    def reduce(self, op: str, value: Any) -> Expr:
        """A reduction over the inner loops; its result may be used in everything after."""
        return self.reduce_all((op, value))[0]

    def reduce_all(self, *parts: tuple[str, Any]) -> list[Expr]:
        """Several reductions in one pass."""
        body, refs = [], []
        for op, value in parts:
            v = self.typed(value)
            name = self._ref()
            body.append(Reduce(name, op, v))
            refs.append(E.ref(name, v.dtype))
        self.stage(*body)
        return refs

    def arg_reduce(self, op: str, value: Any, position: Any = None) -> tuple[Expr, Expr]:
        """(value, position) of the first extreme over the inner loops."""
        v = self.typed(value)
        where = self.position() if position is None else self.typed(position)
        name = self._ref()
        self.stage(ArgReduce(name, op, v, where))
        return E.ref(name + "_value", v.dtype), E.ref(name, dt.int64)

    def scan(self, op: str, value: Any, out: "Operand") -> Expr:
        """Running `op` over the inner loops, stored at every point of `out`."""
        v = self.typed(value)
        name = self._ref()
        r = E.ref(name, v.dtype)
        assert out.offset is not None
        self.stage(Scan(name, op, v), Store(out.slot, out.offset, convert(r, out.dtype)))
        return r

    def store(self, out: "Operand", value: Any, *, inner: bool = True, mask: Any = None) -> None:
        """Write `value` at every inner point, or (inner=False) once per grid point."""
        offset = out.offset if inner else out.outer_offset
        assert offset is not None
        self.stage(Store(out.slot, offset, self._into(out, value),
                         None if mask is None else self.typed(mask)), inner=inner)

    def store_at(self, out: "Operand", index: Any, value: Any, *, inner: bool = True,
                 mask: Any = None) -> None:
        """Write at an element index computed by hand."""
        self.stage(Store(out.slot, self._index(index), self._into(out, value),
                         None if mask is None else self.typed(mask)), inner=inner)

    def scatter(self, out: "Operand", index: Any, op: str, value: Any, *, mask: Any = None,
                shared: bool = False, inner: bool = True) -> None:
        """Read-modify-write at an element index computed by hand."""
        self.stage(Scatter(out.slot, self._index(index), op, self._into(out, value),
                           None if mask is None else self.typed(mask), shared), inner=inner)

    def _index(self, e: Any) -> Expr:
        return E.typed([E.wrap(e)], {}, dt.int64)[0]

    def _into(self, out: "Operand", value: Any) -> Expr:
        return convert(self.typed(value), out.dtype)

    def kernel(self) -> Kernel:
        """The finished kernel."""
        args = tuple(Arg(o.kind, o.dtype) for o in self.operands)
        return finish(Kernel(self.name, args, self.grid, tuple(self.stages),
                             len(self.params.values)))

    def call(self, slots: Sequence[int] | None = None) -> KernelCall:
        """The kernel bound to its parameters; default slots are the operands in order."""
        where = tuple(range(len(self.operands))) if slots is None else tuple(slots)
        return KernelCall(self.kernel(), tuple(self.params.values), where)

    def program(self) -> Program:
        """A program of this one kernel."""
        return Program((self.call(),))


class Operand:
    """A slot of a Nest. Call it to read at the current loop point."""

    __slots__ = ("nest", "slot", "kind", "dtype", "strides", "offset", "outer_offset")

    def __init__(self, nest: Nest, slot: int, kind: str, d: dtype,
                 strides: tuple[int, ...] | None) -> None:
        self.nest, self.slot, self.kind, self.dtype, self.strides = nest, slot, kind, d, strides
        self.offset: Expr | None = None
        self.outer_offset: Expr | None = None

    def __call__(self, *, mask: Any = None, other: Any = 0) -> Expr:
        """The element here, in the compute type if it is a 16-bit float, else its own type."""
        assert self.offset is not None
        return self._read(self.offset, mask, other)

    def outer(self) -> Expr:
        """The element of the grid point (inner loops at 0)."""
        assert self.outer_offset is not None
        return self._read(self.outer_offset, None, 0)

    def at(self, index: Any, *, mask: Any = None, other: Any = 0) -> Expr:
        """The element at an index computed by hand (in elements)."""
        return self._read(self.nest._index(index), mask, other)

    def _read(self, index: Expr, mask: Any, other: Any) -> Expr:
        m = None if mask is None else self.nest.typed(mask)
        e = E.typed([E.load(self.slot, index, self.dtype, mask=m, other=other)], {}, self.dtype)[0]
        return convert(e, dt.opmath(self.dtype))


def reduced_strides(m: Meta, full: Sequence[int], dims: Iterable[int],
                    keepdim: bool) -> tuple[int, ...]:
    """Strides of a reduced result over the full shape: 0 on the reduced dims."""
    dims = set(dims)
    if keepdim:
        return tuple(0 if d in dims else m.strides[d] for d in range(len(full)))
    it = iter(m.strides)
    return tuple(0 if d in dims else next(it) for d in range(len(full)))


def channel_sums(x: Meta, out: Meta, slots: Sequence[int]) -> KernelCall:
    """The kernel that adds up (batch, channels, ...) over all dims but the channels, bound to the
    program slots (out, x): the gradient of a bias."""
    acc = dt.opmath(out.dtype)
    n = Nest("conv_backward_bias", x.shape, [d for d in range(x.ndim) if d != 1], compute=acc)
    o = n.output(out, tuple(int(d == 1) for d in range(x.ndim)))
    a = n.input(x)
    n.start()
    n.store(o, n.reduce("sum", convert(a(), acc)), inner=False)
    return n.call(slots)


__all__ = ["Nest", "Operand", "channel_sums", "elementwise", "collapse", "loop_order",
           "output_strides", "reduced_strides", "convert", "finish", "dense_strides_like"]
