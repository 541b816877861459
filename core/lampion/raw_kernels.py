"""`lampion.kernel`: an op whose kernel on one kind of device is a text, beside a composite for all.

    @lampion.kernel("acme::scale(x: float32[*b], by: float32) -> float32[*b]", TEXT, device="acme")
    def scale(x, by):
        return x * by

The schema (see `ops/text_schemas.py`) is the op's contract on every device; the text is compiled by
the device's backend, in a language that the backend names, when the op first runs there. All other
devices run the composite. Floor 7; imports ops and, through plans, the device's backend.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from .base.errors import UnsupportedError
from .base.limits import iinfo
from .base.meta import Meta
from .ops import registry as R
from .ops.text_schemas import Dim, Schema, points
from .runtime.backend import KernelImpl, Launch, OpCall, TextKernel

__all__ = ["kernel"]


def kernel(schema: str, source: str, *, device: str, language: str = "", entry: str = "",
           grid: Any = None, group: Sequence[int] = (), vjp: Callable[..., Any] | None = None,
           save: Sequence[str] | None = None, priority: int = 0, samples: Any = None,
           reference: Callable[..., Any] | None = None) -> Callable[[Any], R.Op]:
    """Declare an op by a kernel text for one kind of device and, as the function that is
    decorated, a composite of other ops for the rest.

    `schema` says names, dtypes and shapes. The kernel `entry` (the op's name, if left out) of
    `source` gets, in this order: an address for each result, the arguments (tensors as addresses,
    contiguous; numbers by value, in the dtype of the schema), and the sizes of the schema as 64-bit
    integers in the order in which they first appear (for `*b`, the product). It runs for every
    point of `grid`: sizes, or expressions of sizes, up to three; left out, the elements of the
    first result. `group` is how many points work together in each dim. `language` matters where a
    backend takes several.

    Gradients of every order come from the composite, or from `vjp(ctx, *grads)`, which gives one
    gradient for each tensor argument; `ctx` has what `save` names ("out" is the first result;
    left out: all arguments). `samples` and `reference` are those of any op. Decorators stack: a
    second one adds a kernel for another device or for other dtypes to the same op.

    ValueError for a schema that cannot be read, that does not suit the composite, or whose op
    exists. Calls raise DtypeError, RuntimeError or TypeError where no schema fits, on all devices,
    and RuntimeError with the compiler's message where the text does not build.

    >>> import lampion
    >>> @lampion.kernel("docs::halves(x: float32[*b]) -> float32[*b]", "...", device="acme")
    ... def halves(x):
    ...     return x / 2
    >>> halves(lampion.ones(2))
    tensor([0.5000, 0.5000])
    """
    said = Schema(schema)
    if not device.isidentifier():
        raise ValueError(f"device={device!r}: a kernel is for all devices of a kind; write its "
                         "name without a number")
    text = _Text(said, source, device, language, entry or said.name, grid, tuple(group))

    def declare(fn: Any) -> R.Op:
        options = {"vjp": vjp, "save": save, "samples": samples, "reference": reference}
        if isinstance(fn, TextOp):
            given = [name for name, value in options.items() if value is not None]
            if given:
                raise ValueError(f"{fn.qualname}: {given[0]}= belongs to the innermost of stacked "
                                 "declarations")
            op = fn
            op.add(text)
        else:
            op = _op(said, fn, options)
        R.register_kernel(KernelImpl(op.qualname, device, lambda call: text.build(op, call),
                                     priority=priority, source=op.namespace))
        return op

    return declare


class TextOp(R.KernelOp):
    """An op with kernels that came as text. `schemas` are what its calls may be."""

    schemas: list[Schema]

    def add(self, text: "_Text") -> None:
        """Take a call of another schema, too. ValueError unless names and kinds are the same."""
        first, other = self.schemas[0], text.schema
        if (other.namespace or self.namespace, other.name) != (self.namespace, self.name):
            raise ValueError(f"the schema {other.text!r} is stacked on the op {self.qualname}")
        if (other.params, len(other.results)) != (first.params, len(first.results)):
            raise ValueError(f"{self.qualname}: the schema {other.text!r} has other arguments or "
                             f"results than {first.text!r}; only dtypes and shapes may differ")
        if other.text not in [s.text for s in self.schemas]:
            self.schemas.append(other)

    def facts(self, values: Sequence[Any]) -> list[Any]:
        """(dtype, shape) of the results, by the first schema that fits."""
        problems = []
        for s in self.schemas:
            try:
                return s.shapes(self.qualname, s.bind(self.qualname, values))
            except (RuntimeError, TypeError) as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        told = "".join(f"\n  {s.text}: {p}" for s, p in zip(self.schemas, problems))
        raise type(problems[0])(f"{self.qualname}: none of its schemas fits:{told}")


def _op(schema: Schema, fn: Callable[..., Any], options: dict[str, Any]) -> TextOp:
    """Declare the op of a schema and its composite."""
    names = [a.name for a in schema.args]
    taken = [p.name for p in inspect.signature(fn).parameters.values()]
    if taken != names:
        raise ValueError(f"the composite {fn.__name__}({', '.join(taken)}) does not take the "
                         f"arguments of its schema {schema.text!r}")
    if not (schema.namespace or R._namespace):
        raise ValueError(f"the schema {schema.text!r} needs a namespace: 'acme::{schema.name}', "
                         "or declare it inside `with namespace(...)`")
    given = {k: v for k, v in options.items() if v is not None and k != "save"}
    save = options["save"] if options["save"] is not None else names
    with R.namespace(schema.namespace or R._namespace):
        op = TextOp(
            name=schema.name, kind="kernel", params=schema.params, doc=fn.__doc__ or "",
            meta=lambda *values: op.facts(values), noutputs=len(schema.results), save=tuple(save),
            compose=_checked(fn, lambda values: op.facts(values), lambda: op.qualname),
            normalize=lambda *values: _compact(op, values),
            differentiable=any(r.dtype.kind in "fc" for r in schema.results), **given)
        op.schemas = [schema]
        R.register(op)
    return op


def _compact(op: R.Op, values: Sequence[Any]) -> Sequence[Any]:
    """The arguments with their elements in order, where a kernel will want them so."""
    where = next(v for v in values if hasattr(v, "meta")).meta.device.type
    if not R.kernel_impls(op.qualname, where):
        return values
    return [v.contiguous() if hasattr(v, "meta") and not v.meta.contiguous else v for v in values]


def _checked(fn: Callable[..., Any], facts: Callable[..., Any], name: Callable[[], str],
             ) -> Callable[..., Any]:
    """The composite, whose results must be what the schema says on every device."""
    def compose(*values: Any) -> Any:
        got = fn(*values)
        wanted = facts([v.meta.plain if hasattr(v, "meta") else type(v) for v in values])
        many = got if isinstance(got, tuple) else (got,)
        made = [(t.dtype, tuple(t.shape)) for t in many]
        if made != wanted:
            show = [", ".join(f"{d.name}{list(s)}" for d, s in facts) for facts in (made, wanted)]
            raise RuntimeError(f"{name()}: its composite gave {show[0]}, where the schema says "
                               f"{show[1]}")
        return got

    return compose


def _in_range(op: R.Op, schema: Schema, made: Launch, results: int) -> Launch:
    """A Launch that refuses whole numbers beyond their dtype, which devices would cut off."""
    limits = [(k, a, iinfo(a.dtype)) for k, a in enumerate(schema.args)
              if a.dims is None and a.dtype.kind in "iu"]
    if not limits:
        return made

    def checked(run: Callable[..., Any], first: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            for k, a, limit in limits:
                if not limit.min <= args[first + k] <= limit.max:
                    raise OverflowError(f"{op.qualname}(): argument '{a.name}' is "
                                        f"{args[first + k]}, which is no {a}")
            return run(*args)

        return call

    return Launch(checked(made.launch, 0), checked(made.into, results), made.kernels, made.keep)


class _Text:
    """A text with its schema: what builds launches of it."""

    def __init__(self, schema: Schema, source: str, device: str, language: str, entry: str,
                 grid: Any, group: tuple[int, ...]) -> None:
        self.schema, self.source, self.device = schema, source, device
        self.language, self.entry, self.group = language, entry, group
        self.grid: tuple[Dim, ...] | None = None
        if grid is not None:
            given = grid if isinstance(grid, (tuple, list)) else (grid,)
            self.grid = tuple([schema.dim(str(part)) for part in given])
            stars = {d.name: d.star for a in schema.tensors for d in a.dims or () if d.name}
            for d in self.grid:
                schema.known(d if not d.star else Dim(d.text, d.name, True, None, d.words), stars)
            if not 1 <= len(self.grid) <= 3:
                raise ValueError(f"grid={grid!r}: one to three sizes")
        if group and len(group) != len(self.grid or (1,)):
            raise ValueError(f"group={group!r} must have as many entries as the grid")

    def build(self, op: TextOp, call: OpCall) -> Launch | None:
        """The Launch of a call on the device; None if the call is of another schema."""
        values = [call.args[a.name] for a in self.schema.args]
        try:
            sizes = self.schema.bind(op.qualname, values)
        except (RuntimeError, TypeError):
            return None
        if not all(m.contiguous for m in (*call.inputs, *call.outputs) if isinstance(m, Meta)):
            return None
        backend = call.device.backend
        text = TextKernel(self._language(op, backend), self.source, self.entry, self._kinds(),
                          self.schema.numbers(sizes), self._points(call, sizes), self.group)
        try:
            made = backend.text_program(text, [m.span for m in call.outputs], call.device)
        except RuntimeError as error:
            raise RuntimeError(f"{op.qualname}: its kernel in {text.language} does not build for "
                               f"{call.device}: {error}") from error
        return _in_range(op, self.schema, made, len(call.outputs))

    def _kinds(self) -> tuple[tuple[str, Any], ...]:
        given = (*self.schema.results, *self.schema.args)
        return tuple([("number" if a.dims is None else "memory", a.dtype) for a in given])

    def _points(self, call: OpCall, sizes: dict[str, Any]) -> tuple[int, ...]:
        if self.grid is None:
            return (call.outputs[0].numel,)
        return tuple([math.prod(points([d], sizes)) for d in self.grid])

    def _language(self, op: TextOp, backend: Any) -> str:
        takes = backend.languages()
        if not takes or (self.language and self.language not in takes):
            said = f"kernels in {' and '.join(takes)}" if takes else "no kernels as text"
            raise UnsupportedError(
                f"{op.qualname}: the device {self.device} takes {said}"
                + (f", not in {self.language}" if self.language and takes else "")
                + f'. Setting [kernels] "{op.qualname}@{self.device}" = "generated" runs the '
                "composite there")
        return str(self.language or takes[0])
