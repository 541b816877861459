"""The op registry: how an op is declared, once, for every device.

Floor 3; imports base, ir, runtime. Four kinds of declaration:

- `@elementwise` on a function of scalar expressions: kernel, gradient, in-place and out=
  variants are all derived from it.
- `@kernel_op("signature")` on a class block with `meta`, `lower` (to the kernel IR) and `vjp`.
- `@view_op("signature")` on a class block whose `view` rule returns shape, strides, offset.
- `@composite` on a Python function over other ops: nothing else is needed.

Signatures are written like Python's, with `: T` for a tensor, `T?` a tensor or None, `T[]` a
list of tensors, `TS` a tensor or number, `S` a number passed at run time (not compiled in), `I`
an integer passed at run time; anything else is an attribute that the plan is built for. `REGISTRY`
maps names to ops; the call path (floor 5) turns each into functions and methods through
`on_register`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from .. import plugins
from ..base import dtype as dt
from ..base.dtype import dtype
from ..base.meta import Meta
from ..ir import derive
from ..ir import expr as E
from ..ir.expr import Expr
from ..runtime.backend import KernelImpl, OpCall
from . import families, is_module

REQUIRED = object()
TENSOR, OPTIONAL, LIST, TENSOR_OR_NUMBER, SCALAR, INTEGER, ATTR = (
    "T", "T?", "T[]", "TS", "S", "I", "A")


class Scalar:
    """Annotation in an elementwise declaration: a number passed at run time."""


class Attr:
    """Annotation in an elementwise declaration: a Python value the expression is traced for."""


class Param(NamedTuple):
    """One argument of an op: its name, kind (see the module docstring), default, and whether it
    is keyword-only."""

    name: str
    kind: str
    default: Any = REQUIRED
    kwonly: bool = False


def parse_signature(text: str) -> tuple[Param, ...]:
    """Parse "input: T, dim=None, *, eps: S = 1e-5" into Params."""
    params: list[Param] = []
    kwonly = False
    for part in _split(text):
        if part == "*":
            kwonly = True
            continue
        head, _, default = part.partition("=")
        name, _, kind = head.partition(":")
        if name.startswith("*"):  # all remaining positional arguments, as a tuple
            params.append(Param(name.strip("* "), "*"))
            continue
        default = default.strip()
        if default not in _defaults:
            _defaults[default] = eval(default, {"inf": float("inf")})
        params.append(Param(name.strip(), kind.strip() or ATTR, _defaults[default], kwonly))
    return tuple(params)


_defaults: dict[str, Any] = {"": REQUIRED}  # of signatures, by their text


def _split(text: str) -> list[str]:
    if "(" not in text and "[" not in text:
        return [p for p in map(str.strip, text.split(",")) if p]
    out, depth, start = [], 0, 0
    for k, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            out.append(text[start:k].strip())
            start = k + 1
    out.append(text[start:].strip())
    return [p for p in out if p]


class Op:
    """A registered op. `kind` is "elementwise", "kernel", "view" or "composite".

    `method`, `inplace`, `out` say which variants exist; `where` lists the public namespaces
    ("" is the top level, then "nn.functional", "special", "linalg", ...). `differentiable` is
    False only by declaration. `out_cast` says which dtypes out= may have: "same" as the result's,
    "safe" (one that the result's can be cast to; the default of elementwise ops), "kind" (of the
    result's kind, in any width), "any", or "dtype" (any, and it is the argument dtype where that
    is not given); a function of the call's arguments says it for each call, or raises if the call
    has no out=.

    The parts of a declaration become attributes; what it does not say is said by the class. (The
    classes of ops are no dataclasses, whose generated methods would cost time at import.)
    """

    name: str
    kind: str
    params: tuple[Param, ...]
    doc: str = ""
    method: bool = False
    inplace: bool = False
    out: bool = True
    where: tuple[str, ...] = ("",)
    aliases: tuple[str, ...] = ()
    differentiable: bool = True
    samples: Callable[..., Iterable[Any]] | None = None
    reference: Callable[..., Any] | None = None
    domain: Any = None  # (low, high) of the sample values, or a dict by argument name
    returns: tuple[str, ...] = ()
    result_name: str = ""  # of the named tuple of `returns`, if it is not the op's own
    namespace: str = ""
    module: str  # whose import declares it, and its globals
    scope: dict[str, Any]
    out_cast: str | Callable[..., str] = ""
    plans: dict[Any, Any]
    iplans: dict[Any, Any]
    _parts: frozenset[str]

    def __init_subclass__(cls) -> None:
        cls._parts = frozenset([n for c in cls.__mro__ for n in getattr(c, "__annotations__", ())])

    def __init__(self, **parts: Any) -> None:
        if not self._parts.issuperset(parts):
            raise TypeError(f"{type(self).__name__} {parts.get('name')!r} has unknown parts: "
                            f"{sorted(parts.keys() - self._parts)}")
        self.__dict__.update(parts)
        self.plans, self.iplans = {}, {}
        self.out_cast = self.out_cast or ("safe" if self.kind == "elementwise" else "same")

    @cached_property
    def tensors(self) -> tuple[Param, ...]:
        return tuple([p for p in self.params
                      if p.kind in (TENSOR, OPTIONAL, LIST, TENSOR_OR_NUMBER)])

    @cached_property
    def scalars(self) -> tuple[Param, ...]:
        return tuple([p for p in self.params if p.kind in (SCALAR, INTEGER)])

    @cached_property
    def attrs(self) -> tuple[Param, ...]:
        return tuple([p for p in self.params if p.kind == ATTR])

    @cached_property
    def singles(self) -> bool:
        """Whether no argument is a list of tensors or a tensor that may be absent."""
        return all(p.kind == TENSOR for p in self.tensors)

    @cached_property
    def saved_outs(self) -> tuple[tuple[int, int], ...]:
        """(place, output) of the outputs among what `save` names."""
        names = {p.name for p in self.params}
        return tuple([(k, int(n[3:] or 0)) for k, n in enumerate(getattr(self, "save", ()))
                      if n.startswith("out") and n not in names])

    @cached_property
    def positional(self) -> tuple[Param, ...]:
        return tuple([p for p in self.params if not p.kwonly])

    def __getattr__(self, name: str) -> Any:
        """`fn`, the op's function, is generated when it is first asked for: declaring an op must
        cost next to nothing, because all of them are declared at import."""
        if name == "fn" and build_function is not None:
            self.fn = fn = build_function(self)
            return fn
        if name == "ifn" and build_inplace is not None:  # the in-place form
            self.ifn = fn = build_inplace(self)
            return fn
        raise AttributeError(f"op {self.__dict__.get('name')!r} has no attribute {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<op {self.qualname}>"

    @property
    def qualname(self) -> str:
        """Name with namespace: "add" or "vision::nms"."""
        return f"{self.namespace}::{self.name}" if self.namespace else self.name

    def as_called(self, values: Sequence[Any], short: bool = False,
                  ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a caller would write, by place and by name, given a value per parameter; with
        `short`, without defaults at the end."""
        args: list[Any] = []
        named: dict[str, Any] = {}
        starred, last = False, 0
        for p, v in zip(self.params, values):
            if p.kwonly or starred:
                if v is not p.default:
                    named[p.name] = v
            elif p.kind == "*":
                args.extend(v)
                starred, last = True, len(args)
            else:
                args.append(v)
                if v is not p.default:
                    last = len(args)
        return tuple(args[:last] if short else args), named

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Arguments in the order of `params`, defaults filled in. TypeError as Python's."""
        n = len(self.positional)
        if len(args) > n:
            raise TypeError(f"{self.name}() takes {n} positional arguments but "
                            f"{len(args)} were given")
        values = list(args)
        rest = dict(kwargs)
        for p in self.params[len(args):]:
            if p.name in rest:
                values.append(rest.pop(p.name))
            elif p.default is not REQUIRED:
                values.append(p.default)
            else:
                raise TypeError(f"{self.name}() missing required argument: '{p.name}'")
        if rest:
            name = next(iter(rest))
            taken = [p.name for p in self.params[:len(args)]]
            what = "got multiple values for argument" if name in taken else (
                "got an unexpected keyword argument")
            raise TypeError(f"{self.name}() {what} '{name}'")
        return values


class Detour(NamedTuple):
    """Another way for some calls: where the Python condition `when` holds (over argument names;
    `$name` is the default of one), the call goes to `serve(op, form, *args, out=..., **kw)`, form
    being "function", "operator" or "inplace" (these two without out). `extra` are keyword-only
    arguments that only the other way knows."""

    when: str
    serve: Callable[..., Any]
    extra: tuple[Param, ...] = ()


class ElementwiseOp(Op):
    """An op given by scalar expressions.

    `body(*vars, **attrs)` traces it. `promote`: "same" (result type of the operands), "float"
    (integers become the default float), "bool" (result is bool), "real" (complex to its part),
    a dtype, or a function (promoted dtype, attrs) -> dtypes of the outputs. `kinds`: which dtype
    kinds are accepted. `fixed` maps argument names to dtypes that stay out of promotion (a
    condition is bool). `check(op, operands, attrs)` raises for operands (Metas, or Python types
    of numbers) that the op refuses. `divisor` names an operand that must not be 0 in integer
    arithmetic. `fitting` is (names of operands, kinds): numbers for these must fit a result of
    these kinds that is narrower than float32 or int64. `numbers` lets all operands be numbers,
    which then are 0-d tensors. `detour` serves calls in a form that the expression does not cover.
    """

    body: Callable[..., Any]
    promote: Any = "same"
    kinds: str = "buifc"
    fixed: dict[str, dtype]
    gradient: Callable[..., Any] | None = None
    noutputs: int = 1
    order: int = 0  # of the derivative that this op computes
    check: Callable[..., None] | None = None
    divisor: str = ""
    fitting: tuple[str, str] = ("", "")
    numbers: bool = False
    detour: "Detour | None" = None

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._traces: dict[Any, tuple[Expr, ...]] = {}
        self._backward: dict[Any, Backward] = {}
        self._forward: dict[Any, Forward] = {}

    @property
    def operands(self) -> tuple[Param, ...]:
        """Tensors and run-time numbers, in order: the variables of the expression."""
        return tuple(p for p in self.params if p.kind != ATTR)

    def trace(self, attrs: dict[str, Any]) -> tuple[Expr, ...]:
        """The output expressions over `var(name)` for these attributes."""
        key = tuple(attrs.items())
        found = self._traces.get(key)
        if found is None:
            operands = self.operands
            result = self.body(*[E.var(p.name) for p in operands if not p.kwonly],
                               **{p.name: E.var(p.name) for p in operands if p.kwonly}, **attrs)
            many = result if isinstance(result, tuple) else (result,)
            found = self._traces[key] = tuple(map(E.wrap, many))
        return found

    def grad(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: a hand-given derivative `rule(g, out, *vars, **attrs)` returning one
        expression per tensor argument (None where there is no gradient, NotImplemented where
        it is an error to ask for one)."""
        self.gradient = rule
        return rule

    def backward(self, attrs: dict[str, Any], needs: tuple[bool, ...], is_complex: bool,
                 ) -> "Backward":
        """The derived op that computes the gradients asked for (see `Backward`)."""
        key = (tuple(attrs.items()), needs, is_complex)
        found = self._backward.get(key)
        if found is None:
            found = self._backward[key] = _derive_backward(self, attrs, needs, is_complex)
        return found

    def forward(self, attrs: dict[str, Any], moving: tuple[bool, ...], is_complex: bool,
                ) -> "Forward":
        """The derived op that computes the outputs' tangents from those of the operands that have
        one (`moving`)."""
        key = (tuple(attrs.items()), moving, is_complex)
        found = self._forward.get(key)
        if found is None:
            found = self._forward[key] = _derive_forward(self, attrs, moving, is_complex)
        return found


class Backward(NamedTuple):
    """A derived gradient op. `op` takes, in order, the operands named in `saved` (an operand or
    "outN_0", "outN_1"...) then the output gradients in `grads`; it returns one value per entry of
    `targets` (operand positions). `same` are (operand, k) whose gradient is output gradient k
    itself; `zero` are needed operands whose gradient vanishes."""

    op: ElementwiseOp | None
    saved: tuple[str, ...]
    grads: tuple[int, ...]
    targets: tuple[int, ...]
    same: tuple[tuple[int, int], ...]
    zero: tuple[int, ...]


def output_number(name: str) -> int:
    """k of "gN_k" or "outN_k"."""
    return int(name.rpartition("_")[2])


def _derive_backward(op: ElementwiseOp, attrs: dict[str, Any], needs: tuple[bool, ...],
                     is_complex: bool) -> Backward:
    operands = op.operands
    wanted = _differentiable(op, needs)
    # names carry the order of the derivative: a derived op has operands named like these
    g, o = f"g{op.order}_", f"out{op.order}_"
    seeds = [E.var(f"{g}{k}") for k in range(op.noutputs)]
    adjoints = _gradients(op, attrs, seeds, wanted, is_complex)
    outs = op.trace(attrs)
    zero = tuple(k for k, a in zip(wanted, adjoints) if E.is_const(a, 0))
    same = tuple((k, output_number(a.value)) for k, a in zip(wanted, adjoints)
                 if a.op == "var" and a in seeds)
    live = [(k, a) for k, a in zip(wanted, adjoints)
            if not E.is_const(a, 0) and not (a.op == "var" and a in seeds)]
    if not live:
        return Backward(None, (), (), (), same, zero)
    used = set(E.variables([a for _, a in live]))
    saved = tuple(n for n in [p.name for p in operands] + [f"{o}{k}" for k in range(len(outs))]
                  if n in used)
    grads = tuple(k for k in range(len(outs)) if f"{g}{k}" in used)
    scalars = {p.name for p in operands if p.kind == SCALAR}
    params = tuple(Param(n, SCALAR if n in scalars else TENSOR_OR_NUMBER) for n in saved)
    params += tuple(Param(f"{g}{k}", TENSOR_OR_NUMBER) for k in grads)
    params += (Param("out_dtypes", ATTR),)
    exprs = tuple(a for _, a in live)
    derived = ElementwiseOp(
        name=f"{op.name}_backward", kind="elementwise", params=params, out=False, where=(),
        namespace=op.namespace, fixed={n: d for n, d in op.fixed.items() if n in saved},
        body=lambda *_, **__: exprs, noutputs=len(exprs), promote="grad",
        order=op.order + 1)
    return Backward(derived, saved, grads, tuple(k for k, _ in live), same, zero)


def _settled(roots: Sequence[Expr], is_complex: bool) -> list[Expr]:
    """Expressions without what depends on whether numbers are complex."""
    return E.resolve(roots, dt.complex64) if is_complex else E.without_complex(roots)


def _differentiable(op: ElementwiseOp, needs: tuple[bool, ...]) -> list[int]:
    """The operands among those asked for that take part in differentiation."""
    return [k for k, p in enumerate(op.operands)
            if p.kind != SCALAR and p.name not in op.fixed and needs[k]]


def _gradients(op: ElementwiseOp, attrs: dict[str, Any], seeds: list[Expr], wanted: list[int],
               is_complex: bool) -> list[Expr]:
    """The gradients of the operands `wanted` for output gradients `seeds`, over the operands and
    the outputs (`out{order}_k`). RuntimeError where the op declares that there is none."""
    outs = _settled(op.trace(attrs), is_complex)
    operands, o = op.operands, f"out{op.order}_"
    if op.gradient is not None:
        given = op.gradient(*seeds, *[E.var(f"{o}{k}") for k in range(len(outs))],
                            *[E.var(p.name) for p in operands], **attrs)
        given = given if isinstance(given, tuple) else (given,)
        for k in wanted:
            if given[k] is NotImplemented:
                raise RuntimeError(f"the derivative for '{operands[k].name}' of {op.qualname} is "
                                   "not implemented")
        return _settled([E.wrap(0 if given[k] is None else given[k]) for k in wanted], is_complex)
    adjoints = derive.vjp(outs, [derive.conj(s) for s in seeds] if is_complex else seeds,
                          [operands[k].name for k in wanted])
    # reverse mode of g -> conj(conj(g) f') for holomorphic f
    if is_complex:
        adjoints = [a if E.is_const(a, 0) else derive.conj(a) for a in adjoints]
    leaves = {e: E.var(f"{o}{k}") for k, e in enumerate(outs)
              if e.op not in ("var", "const")}
    return E.substitute(adjoints, leaves)


class Forward(NamedTuple):
    """A derived tangent op. `op` takes, in order, the operands named in `saved` (an operand or
    "outN_0"...), then the tangents of the operands `moving` (positions); it returns one value per
    entry of `targets` (output numbers). `same` are (output, operand) whose tangent is that of the
    operand itself; outputs named in neither have no tangent."""

    op: ElementwiseOp | None
    saved: tuple[str, ...]
    moving: tuple[int, ...]
    targets: tuple[int, ...]
    same: tuple[tuple[int, int], ...]


def _derive_forward(op: ElementwiseOp, attrs: dict[str, Any], moving: tuple[bool, ...],
                    is_complex: bool) -> Forward:
    """Gradients are linear in their seed: the transpose of that map takes tangents forward."""
    operands, wanted = op.operands, _differentiable(op, moving)
    g, o, t = f"g{op.order}_", f"out{op.order}_", f"t{op.order}_"
    seeds = [E.var(f"{g}{k}") for k in range(op.noutputs)]
    tangents = [E.var(f"{t}{operands[k].name}") for k in wanted]
    # an adjoint is the conjugate of a gradient (see ir/derive.py)
    turn = derive.conj if is_complex else (lambda e: e)
    adjoints = _settled([a if E.is_const(a, 0) else turn(a) for a in _gradients(
        op, attrs, [turn(s) for s in seeds], wanted, is_complex)], is_complex)
    results = derive.vjp(adjoints, tangents, [f"{g}{k}" for k in range(op.noutputs)])
    same = tuple((k, wanted[tangents.index(e)]) for k, e in enumerate(results)
                 if e.op == "var" and e in tangents)
    live = [(k, e) for k, e in enumerate(results)
            if not E.is_const(e, 0) and not (e.op == "var" and e in tangents)]
    if not live:
        return Forward(None, (), (), (), same)
    used = set(E.variables([e for _, e in live]))
    saved = tuple(n for n in [p.name for p in operands] + [f"{o}{k}" for k in range(op.noutputs)]
                  if n in used)
    movers = tuple(k for k, e in zip(wanted, tangents) if e.value in used)
    scalars = {p.name for p in operands if p.kind == SCALAR}
    params = tuple(Param(n, SCALAR if n in scalars else TENSOR_OR_NUMBER) for n in saved)
    params += tuple(Param(f"{t}{operands[k].name}", TENSOR_OR_NUMBER) for k in movers)
    params += (Param("out_dtypes", ATTR),)
    exprs = tuple(e for _, e in live)
    derived = ElementwiseOp(
        name=f"{op.name}_jvp", kind="elementwise", params=params, out=False, where=(),
        namespace=op.namespace, fixed={n: d for n, d in op.fixed.items() if n in saved},
        body=lambda *_, **__: exprs, noutputs=len(exprs), promote="grad", order=op.order + 1)
    return Forward(derived, saved, movers, tuple(k for k, _ in live), same)


class KernelOp(Op):
    """An op given by a class block.

    The block's functions take the bound arguments by name order: `meta(*args)` returns a list of
    (dtype, shape) or (dtype, shape, strides); `lower(call)` a Program; `vjp(ctx, *grads)` one
    gradient per tensor argument; `linear` names the arguments that the op is linear in, jointly
    within one string and separately between several ("input bias", "weight"), from which its
    tangents follow; `jvp(ctx, *tangents)` gives the tangents of the results where neither that
    nor the vjp of the vjp will do. `batch` says how vmap runs the op on a batch: the names of the
    arguments that count dims ("dim"), if dims may be added in front of all tensors, or a function
    `batch(b, *args)` (see transforms/batching.py). `compose(*args)` is a definition in other ops
    for devices that can neither lower nor have a kernel. `save` names what `vjp` needs: arguments,
    "out", "out1". `through(call)` re-reads the call as one of another op (an OpCall over the same
    inputs and outputs under other metas), whose kernels then serve it; None if it cannot.
    `update(call)` is the Program of the in-place form, whose output slot already holds the first
    input. `explain(call, inputs)` raises the error for values that a Program's status refused.
    `host(call)` gives the op as a function on NumPy arrays, outputs first (see runtime/host.py).
    """

    meta: Callable[..., Any]
    lower: Callable[[OpCall], Any] | None = None
    vjp: Callable[..., Any] | None = None
    jvp: Callable[..., Any] | None = None
    linear: tuple[str, ...] = ()
    batch: Any = None
    compose: Callable[..., Any] | None = None
    through: Callable[[OpCall], OpCall | None] | None = None
    normalize: Callable[..., Any] | None = None
    update: Callable[[OpCall], Any] | None = None
    explain: Callable[..., None] | None = None
    host: Callable[[OpCall], Callable[..., None]] | None = None
    detour: "Detour | None" = None
    diff_outputs: int = 99  # how many of the outputs, from the first on, have gradients
    absent_grads: bool = False  # vjp takes None for an output that no gradient arrived at
    save: tuple[str, ...] = ()
    noutputs: int = 1


class ViewOp(Op):
    """An op whose result shares its input's memory: `view(meta, *attrs)` returns
    (shape, strides, offset in elements[, dtype]), or None if `compose` must make a copy."""

    compose: Callable[..., Any] | None = None
    view: Callable[..., Any]
    save: tuple[str, ...] = ()
    vjp: Callable[..., Any] | None = None


class CompositeOp(Op):
    """An op that is Python over other ops. `replay` promises that what it calls depends only on
    the metas of its tensors and on its other arguments, never on values (see `replay.py`).
    `one_by_one`: it reads values on the host, and vmap runs it on one example at a time."""

    replay: bool = False
    one_by_one: bool = False
    body: Callable[..., Any]


REGISTRY: dict[str, Op] = {}
_AWAITED: dict[str, Any] = {kind: type(f"Awaited{cls.__name__}", (families.Awaited, cls), {})
                            for kind, cls in (("elementwise", ElementwiseOp), ("kernel", KernelOp),
                                              ("view", ViewOp), ("composite", CompositeOp))}
_impls: dict[tuple[str, str], list[KernelImpl]] = {}
on_register: Callable[[Op], None] | None = None
build_function: Callable[[Op], Callable[..., Any]] | None = None
build_inplace: Callable[[Op], Callable[..., Any]] | None = None
_namespace = ""


def register(op: Op) -> Op:
    """Add an op that was declared, or make it of the one that waits for its family.

    ValueError if its name is taken in its namespace.
    """
    scope = _declaring()
    op.module, op.scope = scope["__name__"], scope
    if not op.module.startswith(f"{__package__}."):  # a family may be loaded inside any `with`
        op.namespace = op.namespace or _namespace
    known = REGISTRY.get(op.qualname)
    if known is None:
        REGISTRY[op.qualname] = op
        if on_register is not None:
            on_register(op)
        return op
    if known.module != op.module or (not isinstance(known, families.Awaited)
                                     and known.scope is scope):
        raise ValueError(f"an op called {op.qualname!r} is already registered")
    families.become(known, op)  # also what an import left that was interrupted
    return known


def _declaring() -> dict[str, Any]:
    """The globals of the module whose code is running: that of the declaration."""
    frame = sys._getframe(2)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_globals


def register_kernel(impl: KernelImpl) -> None:
    """Add a backend's kernel for an op; two of equal priority and no constraint clash."""
    impls = _impls.setdefault((impl.op, impl.backend), [])
    for other in impls:
        if other.priority == impl.priority and other.source != impl.source:
            raise ValueError(
                f"kernels for {impl.op!r} on {impl.backend!r} from {other.source!r} and "
                f"{impl.source!r} have the same priority {impl.priority}; raise one of them")
    impls.append(impl)
    impls.sort(key=lambda i: -i.priority)
    op = REGISTRY.get(impl.op)
    if op is not None and not isinstance(op, families.Awaited):
        op.plans.clear()
        op.iplans.clear()


# Other caches of what plans decide (see `replay`), for `forget_plans`.
plan_holders: list[dict[Any, Any]] = []


def planned_ops() -> list[Any]:
    """Every op that holds plans: the registered ones and the gradients derived from them."""
    found: list[Any] = [op for op in REGISTRY.values() if not isinstance(op, families.Awaited)]
    for op in found.copy():
        derived = getattr(op, "_backward", {})
        found += [b.op for b in derived.values() if b.op is not None]
    return found


def plan_tables(op: Any) -> list[dict[Any, Any]]:
    """The plan caches of an op: of calls, and of in-place calls where there are any."""
    return [t for t in (op.plans, getattr(op, "iplans", None)) if t is not None]


def forget_plans() -> None:
    """Plan every call afresh: a setting that kernels depend on has changed."""
    for op in planned_ops():
        for table in plan_tables(op):
            table.clear()
    for held in plan_holders:
        held.clear()


def kernel_impls(op: str, backend: str) -> list[KernelImpl]:
    """Registered kernels, highest priority first."""
    return _impls.get((op, backend), [])


class namespace:
    """`with namespace("vision"):` puts the ops declared inside under that name.

    ValueError for a name that `lampion.ops.NAME` could not reach, because it is a module.
    """

    def __init__(self, name: str) -> None:
        if name.startswith("_") or is_module(name):
            raise ValueError(f"the namespace {name!r} is taken by lampion.ops.{name}; choose "
                             "another, for instance the name of your package")
        self.name = name

    def __enter__(self) -> None:
        global _namespace
        self.previous, _namespace = _namespace, self.name

    def __exit__(self, *exc: Any) -> None:
        global _namespace
        _namespace = self.previous


def elementwise(fn: Any = None, *, promote: Any = "same", kinds: str = "buifc",
                method: bool = True, inplace: bool | None = None, where: Sequence[str] = ("",),
                name: str | None = None, fixed: dict[str, dtype] | None = None,
                noutputs: int = 1, tensors: Sequence[str] = (), **options: Any) -> Any:
    """Declare an elementwise op from a function of scalar expressions.

    Positional arguments are tensors (numbers are taken where at least one is a tensor, and not
    for the arguments that `tensors` names);
    arguments annotated `Scalar` are numbers passed at run time, `Attr` are Python values the
    expression is traced for, and `bool` a boolean tensor outside promotion.

    >>> @elementwise(promote="float")
    ... def logistic_twice(input):
    ...     return 2 / (1 + exp(-input))
    """
    if fn is None:
        return lambda f: elementwise(f, promote=promote, kinds=kinds, method=method,
                                     inplace=inplace, where=where, name=name, fixed=fixed,
                                     noutputs=noutputs, tensors=tensors, **options)
    params: list[Param] = []
    stay = dict(fixed or {})
    notes = {k: _NOTES.get(v, v) for k, v in fn.__annotations__.items()}
    spec = _arguments(fn)
    binary = sum(notes.get(p.name) not in (Scalar, Attr) for p in spec) > 1
    for p in spec:
        note = notes.get(p.name)
        kind = _KINDS.get(note, TENSOR_OR_NUMBER if binary and p.name not in tensors else TENSOR)
        if note is bool:
            stay[p.name] = dt.bool_
        params.append(Param(p.name, kind, p.default, p.kwonly))
    return register(ElementwiseOp(
        name=name or fn.__name__, kind="elementwise", params=tuple(params),
        doc=options.pop("doc", fn.__doc__ or ""),
        method=method, inplace=(method if inplace is None else inplace) and noutputs == 1,
        where=tuple(where), body=fn,
        promote=promote, kinds=kinds, fixed=stay, noutputs=noutputs,
        differentiable=options.pop("differentiable", promote != "bool" and (
            "f" in kinds or "c" in kinds)), **options))


_KINDS: dict[Any, str] = {Scalar: SCALAR, Attr: ATTR}
_NOTES: dict[Any, Any] = {"Scalar": Scalar, "Attr": Attr, "bool": bool}  # postponed annotations


def _arguments(fn: Any) -> list[Param]:
    """The arguments of a function, read off its code object: hundreds of declarations run at
    import, and `inspect.signature` would cost more than all the rest of them."""
    code, defaults = fn.__code__, fn.__defaults__ or ()
    npos, nkw = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames
    out = [Param(n, ATTR, defaults[k - npos + len(defaults)]
                 if k >= npos - len(defaults) else REQUIRED)
           for k, n in enumerate(names[:npos])]
    at = npos + nkw
    if code.co_flags & 0x04:  # *args
        out.append(Param(names[at], "*"))
        at += 1
    given = fn.__kwdefaults__ or {}
    out += [Param(n, ATTR, given.get(n, REQUIRED), True) for n in names[npos:npos + nkw]]
    if code.co_flags & 0x08:  # **kwargs
        out.append(Param(names[at], "**"))
    return out


def _block(cls: type, allowed: Iterable[str]) -> dict[str, Any]:
    """The parts of a class block; an unknown part is a mistake worth an error."""
    parts = {k: v for k, v in vars(cls).items() if not k.startswith("_")}
    unknown = set(parts) - set(allowed)
    if unknown:
        raise TypeError(f"op block {cls.__name__!r} has unknown parts: {sorted(unknown)}")
    return {k: v.__func__ if isinstance(v, staticmethod) else v for k, v in parts.items()}


_COMMON = ("method", "inplace", "out", "where", "aliases", "differentiable", "samples",
           "reference", "domain", "name", "returns", "out_cast", "result_name")


# What contexts hold and do for all ops (autograd/node.py, transforms/tangents.py).
_CONTEXT = frozenset(("args", "meta", "needs", "node", "op", "out_metas", "plan", "values"))


def kernel_op(signature: str, **options: Any) -> Callable[[type], Op]:
    """Declare an op by a class block with `meta`, `lower` and/or `compose`, `vjp`, `save`."""
    def deco(cls: type) -> Op:
        parts = _block(cls, _COMMON + ("meta", "lower", "vjp", "jvp", "linear", "batch",
                                       "compose", "through", "normalize", "save", "noutputs",
                                       "update", "explain", "host", "diff_outputs",
                                       "absent_grads", "detour"))
        parts.setdefault("name", cls.__name__)
        parts["save"] = tuple(parts.get("save", ()))
        if taken := _CONTEXT.intersection(parts["save"]):
            raise ValueError(f"op {parts['name']!r}: ctx.{min(taken)} is a part of every context, "
                             "not what the op saves; give the argument another name")
        parts["linear"] = tuple(parts.get("linear", ()))
        if "differentiable" not in parts:
            parts["differentiable"] = "vjp" in parts or "compose" in parts
        return register(KernelOp(kind="kernel", params=parse_signature(signature),
                                 doc=cls.__doc__ or "", **parts, **options))

    return deco


def view_op(signature: str, **options: Any) -> Callable[[type], Op]:
    """Declare a view by a class block with `view(meta, *attrs)` and `vjp(ctx, g)`."""
    def deco(cls: type) -> Op:
        parts = _block(cls, _COMMON + ("view", "vjp", "compose"))
        parts.setdefault("name", cls.__name__)
        parts.setdefault("method", True)
        parts.setdefault("out", False)
        return register(ViewOp(kind="view", params=parse_signature(signature),
                               doc=cls.__doc__ or "", **parts, **options))

    return deco


def composite(fn: Any = None, *, method: bool = False, inplace: bool = False, out: bool = True,
              where: Sequence[str] = ("",), name: str | None = None, **options: Any) -> Any:
    """Declare an op as Python over other ops. The function's first argument is the tensor a
    method binds to."""
    if fn is None:
        return lambda f: composite(f, method=method, inplace=inplace, out=out, where=where,
                                   name=name, **options)
    return register(CompositeOp(
        name=name or fn.__name__, kind="composite", params=tuple(_arguments(fn)),
        doc=fn.__doc__ or "", method=method, inplace=inplace, out=out, where=tuple(where), body=fn,
        **options))


def collect() -> None:
    """Take in what plug-ins bring: op plug-ins, then kernels. Runs after a backend is made."""
    this = sys.modules[__name__]
    plugins.load_ops(this)
    plugins.load_kernels(this)
    from .kernel_names import warn_of_unused

    warn_of_unused(_impls)


plugins.on_backend(collect)
for _face in families.read():
    REGISTRY[_face["name"]] = _AWAITED[_face["kind"]](_face)


__all__ = ["Op", "ElementwiseOp", "KernelOp", "ViewOp", "CompositeOp", "Param", "REGISTRY",
           "Scalar", "Attr", "Detour", "elementwise", "kernel_op", "view_op", "composite",
           "namespace", "register", "register_kernel", "kernel_impls", "Meta", "parse_signature"]
