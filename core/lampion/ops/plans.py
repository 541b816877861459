"""Plans: everything about an op call that does not depend on the bytes, worked out once.

Floor 3; imports base, ir, runtime, registry. A `Plan` belongs to one op on concrete metas. It
holds the launcher, the result metas and how to record the call for autograd. Building one does
all the checking: dtypes, shapes, devices, kernel choice; running one does none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from .. import config
from ..base import dtype as dt
from ..base.device import device
from ..base.dtype import dtype
from ..base.errors import DtypeError, UnsupportedError
from ..base.limits import check_fits
from ..base.located import located
from ..base.meta import Meta, broadcast_shapes, meta
from ..ir import expr as E
from ..logging import get_logger
from ..runtime.backend import Backend, KernelImpl, Launch, OpCall
from ..runtime.host import host_launch
from . import registry as R

_log = get_logger("kernels")
_LOGIC = frozenset(("and", "or", "xor", "not", "select", "var", "const", "eq", "ne", "lt", "le",
                    "gt", "ge"))


# Told of every plan that is made: who times launches puts its own in their place.
on_plan: list[Callable[[Any], None]] = []
# The programs of compiled graphs that exist, which run several launches in one call, and who is
# told of new ones.
graphs: WeakSet[Any] = WeakSet()
on_graph: list[Callable[[Any], None]] = []


class Plan:
    """`launch` and `into` run it; `metas` are the results' (`meta` if there is one result).

    `diff` tells whether a recorded call makes an autograd node; `packs[needs]` picks what the
    node saves, given which operands need gradients.
    """

    __slots__ = ("op", "call", "launch", "into", "metas", "meta", "diff", "packs", "attrs",
                 "chosen", "vjp", "cache", "launch_of", "given")

    def __init__(self, op: R.Op, call: OpCall, launch: Launch | None, chosen: str) -> None:
        self.op, self.call, self.chosen = op, call, chosen
        self.launch_of = launch
        self.launch = launch.launch if launch is not None else None
        self.into = launch.into if launch is not None else None
        self.metas = call.outputs
        self.meta = call.outputs[0] if len(call.outputs) == 1 else None
        self.attrs = {p.name: call.args[p.name] for p in op.attrs}
        self.diff = op.differentiable and any(m.dtype.kind in "fc" for m in call.outputs)
        self.packs: dict[Any, Callable[..., Any]] = {}
        for told in on_plan:
            told(self)
        self.vjp: Callable[..., Any] | None = None
        self.cache: dict[Any, Any] = {}
        # (function, op, operands, further arguments) that made it, to plan it for other sizes
        self.given: tuple[Any, Any, Sequence[Any], Sequence[Any]] | None = None


class ViewPlan:
    """A view's result meta and byte offset; `metas` and `call` serve its node."""

    __slots__ = ("op", "call", "meta", "metas", "offset", "packs", "diff", "attrs", "cache")

    def __init__(self, op: R.ViewOp, m: Meta, offset: int, args: dict[str, Any]) -> None:
        self.op, self.meta, self.metas, self.offset = op, m, (m,), offset
        source = args[op.params[0].name]
        self.call = OpCall(op.name, (source,), args, self.metas, m.device)
        self.attrs = args
        self.diff = m.dtype.kind in "fc"
        self.packs = {True: lambda args, outs: ()}
        self.cache: dict[Any, Any] = {}


class _NoView:
    """Stands among the plans of views for calls that copy instead."""

    meta = None


no_view = _NoView()


class _Packs(dict):
    """needs -> function(args, outs) -> saved tuple, built on first use."""

    def __init__(self, make: Callable[[Any], Callable[..., Any]]) -> None:
        self.make = make

    def __missing__(self, needs: Any) -> Callable[..., Any]:
        self[needs] = found = self.make(needs)
        return found


def common_device(op: R.Op, metas: Sequence[Meta]) -> device:
    """The one device of all tensors. RuntimeError naming both if there are two."""
    first = metas[0].device
    for m in metas[1:]:
        if m.device is not first:
            raise RuntimeError(
                f"{op.qualname}: expected all tensors to be on the same device, but found at "
                f"least two devices, {first} and {m.device}! Move one with .to('{first}').")
    return first


def check_kinds(op: R.ElementwiseOp, d: dtype) -> None:
    """DtypeError unless the op is defined for this dtype."""
    if d.kind not in op.kinds:
        names = {"b": "bool", "u": "unsigned", "i": "integer", "f": "floating", "c": "complex"}
        allowed = ", ".join(names[k] for k in op.kinds)
        raise DtypeError(f'"{op.name}" is not implemented for dtype {d!r}; it takes {allowed} '
                           "tensors. Convert with .to(dtype).")


def elementwise_types(op: R.ElementwiseOp, operands: Sequence[Any], attrs: dict[str, Any],
                      ) -> tuple[dtype, list[dtype]]:
    """(compute dtype, one dtype per output) by PyTorch's promotion."""
    dims: list[dtype] = []
    zeros: list[dtype] = []
    numbers: list[Any] = []
    for p, m in zip(op.operands, operands):
        if p.name in op.fixed or p.kind in (R.SCALAR, R.INTEGER):
            continue
        if isinstance(m, Meta):
            (dims if m.ndim else zeros).append(m.dtype)
        else:
            numbers.append(m(0))
    if not (dims or zeros or numbers):
        d = dt.bool_ if op.promote == "bool" else dt.get_default_dtype()
    else:
        d = dt.result_dtype(dims, zeros, numbers)
    if op.promote != "grad":
        check_kinds(op, d)
    if op.promote == "float" and d.kind not in "fc":
        d = dt.get_default_dtype()
    n = op.noutputs
    if op.promote == "grad":
        outs = list(attrs["out_dtypes"])
    elif op.promote == "bool":
        outs = [dt.bool_] * n
    elif op.promote == "real":
        outs = [d.to_real()] * n
    elif isinstance(op.promote, dtype):
        outs = [op.promote] * n
    elif callable(op.promote):
        outs = list(op.promote(d, attrs))
    else:
        outs = [d] * n
    compute = dt.opmath(d)
    if d.kind == "b" and not all(e.op in _LOGIC for e in E.walk(E.resolve(op.trace(attrs), d))):
        compute = dt.uint8  # bool arithmetic: sums and products of 0 and 1, then != 0
    return compute, outs


def elementwise_compute(op: R.ElementwiseOp, operands: Sequence[Any],
                        attrs: dict[str, Any]) -> dtype:
    """The dtype in which a call computes; arguments as in `elementwise_plan`."""
    return elementwise_types(op, operands, attrs)[0]


def elementwise_plan(op: R.ElementwiseOp, operands: Sequence[Any], attrs: dict[str, Any],
                     outputs: Sequence[Meta] | None = None) -> Plan:
    """Plan an elementwise call. `operands` are Metas, or Python types for numbers; `outputs`
    fixes the results (in-place, out=), which must have the broadcast shape."""
    call, compute = elementwise_call(op, operands, attrs, outputs)
    names = [(p.name, op.fixed.get(p.name, compute)) for p in op.operands]

    def lower() -> Any:
        from ..runtime import lowering

        return lowering.elementwise(op.name, op.trace(attrs), names, call.inputs, call.outputs,
                                    compute)

    launch, chosen = choose(op, call, lower)
    if launch is None:
        from ..runtime.fallback import fallback_launch

        launch, chosen = fallback_launch(op, call, chosen, choose, lower)
    decided(op, call, launch, chosen)
    if op.divisor and compute.kind in "ui":
        launch = guard_division(op, call, launch)
    if op.fitting[0]:
        launch = guard_range(op, call, launch)
    plan = _elementwise(op, call, attrs, compute, launch, chosen)
    plan.given = elementwise_plan, op, operands, (attrs, outputs)
    return plan


def elementwise_call(op: R.ElementwiseOp, operands: Sequence[Any], attrs: dict[str, Any],
                     outputs: Sequence[Meta] | None = None) -> tuple[OpCall, dtype]:
    """(the checked call with its result metas, its compute dtype)."""
    tensors = [m for m in operands if isinstance(m, Meta)]
    where = common_device(op, tensors)
    if op.check is not None:
        op.check(op, operands, attrs)
    try:
        shape = broadcast_shapes(*[m.shape for m in tensors])
    except RuntimeError as e:
        raise RuntimeError(f"{op.qualname}: {e} (shapes "
                           f"{', '.join(str(list(m.shape)) for m in tensors)})") from None
    compute, kinds = elementwise_types(op, operands, attrs)
    if outputs is None:
        from ..runtime.lowering import output_strides

        strides = None if attrs.get("contiguous") else output_strides(shape, tensors)
        outputs = [meta(k, shape, strides, where) for k in kinds]
    else:
        for m, k in zip(outputs, kinds):
            check_write(op, m, k, shape)
    slot = dt.float64 if compute.kind in "fc" else dt.int64
    inputs = tuple(m if isinstance(m, Meta) else
                   (dt.float64 if p.kind == R.SCALAR and m is float else slot)
                   for p, m in zip(op.operands, operands))
    args = {p.name: m for p, m in zip(op.operands, operands)} | attrs
    return OpCall(op.name, inputs, args, tuple(outputs), where), compute


def decided(op: R.Op, call: OpCall, launch: Launch | None, chosen: str) -> None:
    """Log what runs a call (LAMPION_LOG=kernels); calls of the same kind are not told again."""
    if _log.enabled("debug"):
        _log.debug("chosen", call=str(call), op=op.qualname, by=chosen,
                   kernels=list(launch.kernels) if launch is not None else None)


def _elementwise(op: R.ElementwiseOp, call: OpCall, attrs: dict[str, Any], compute: dtype,
                 launch: Launch | None, chosen: str) -> Plan:
    plan = Plan(op, call, launch, chosen)
    plan.packs = _Packs(lambda needs: _elementwise_pack(op, attrs, needs, compute.kind == "c"))
    return plan


def shadow_plan(op: R.ElementwiseOp | R.KernelOp, metas: Sequence[Any]) -> Plan:
    """The plan of a call that other calls carry out (those of a function transform): it checks
    the arguments, knows the result metas and how to record, and has no launcher."""
    if isinstance(op, R.ElementwiseOp):
        operands = [m for m, p in zip(metas, op.params) if p.kind != R.ATTR]
        attrs = {p.name: m for m, p in zip(metas, op.params) if p.kind == R.ATTR}
        call, compute = elementwise_call(op, operands, attrs)
        return _elementwise(op, call, attrs, compute, None, "of a function transform")
    plan = Plan(op, kernel_call(op, metas), None, "of a function transform")
    plan.packs = _Packs(lambda needs: _kernel_pack(op))
    return plan


def guard_range(op: R.ElementwiseOp, call: OpCall, launch: Launch) -> Launch:
    """The launcher that raises first for numbers that the result's dtype does not hold. Dtypes that
    hold about any number that is written are not looked at: that would cost every call."""
    d, named = call.outputs[0].dtype, op.fitting[0].split()
    places = [k for k, (p, m) in enumerate(zip(op.operands, call.inputs))
              if p.name in named and not isinstance(m, Meta)]
    if not places or d.kind not in op.fitting[1] or d.itemsize >= (4 if d.kind == "f" else 8):
        return launch

    def guarded(run: Callable[..., Any], first: int) -> Callable[..., Any]:
        at = [first + k for k in places]

        def call(*args: Any) -> Any:
            for k in at:
                check_fits(args[k], d)
            return run(*args)

        return call

    return Launch(guarded(launch.launch, 0), guarded(launch.into, len(call.outputs)),
                  launch.kernels, launch.keep)


def guard_division(op: R.ElementwiseOp, call: OpCall, launch: Launch) -> Launch:
    """The launcher of an integer division that raises for a divisor of 0 first. A tensor on a
    device that the host cannot read is not looked at (that would wait for the device): there
    the quotient by 0 is 0."""
    at = [p.name for p in op.operands].index(op.divisor)
    m = call.inputs[at]
    if isinstance(m, Meta):
        backend = backend_of(call.device)
        if "host-memory" not in backend.capabilities(call.device.index or 0).features:
            return launch
        look = zero_finder(m)
    else:
        def look(divisor: Any) -> bool:
            return not divisor

    def guarded(run: Callable[..., Any], k: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if look(args[k]):
                raise RuntimeError("ZeroDivisionError")
            return run(*args)

        return call

    return Launch(guarded(launch.launch, at), guarded(launch.into, at + len(call.outputs)),
                  launch.kernels, launch.keep)


def zero_finder(m: Meta) -> Callable[[Any], bool]:
    """A function telling whether a storage holds a 0 somewhere."""
    if not m.numel:
        return lambda storage: False
    from ..runtime.lowering import Nest

    backend = backend_of(m.device)
    n = Nest("any_zero", m.shape, range(m.ndim), compute=m.dtype)
    out = n.output(meta(dt.bool_, (), None, m.device), (0,) * m.ndim)
    x = n.input(m)
    n.start()
    n.store(out, n.reduce("or", E.eq(x(), 0)), inner=False)
    run = backend.program(n.program(), [1], m.device).launch
    return lambda storage: bytes(backend.copy_to_host(run(storage), 1)) != b"\0"


def check_write(op: R.Op, target: Meta, value: dtype, shape: Sequence[int]) -> None:
    """RuntimeError unless results of this dtype and shape may be written into `target`."""
    if target.shape != tuple(shape):
        raise RuntimeError(
            f"{op.qualname}: output with shape {list(target.shape)} doesn't match the broadcast "
            f"shape {list(shape)}")
    if not dt.can_cast(value, target.dtype):
        raise RuntimeError(f"{op.qualname}: result type {_word(value)} can't be cast to the "
                           f"desired output type {_word(target.dtype)}")
    if target.overlapping:
        raise RuntimeError(
            f"{op.qualname}: unsupported operation: more than one element of the written-to "
            "tensor refers to a single memory location. Please clone() the tensor before "
            "performing the operation.")


def _word(d: dtype) -> str:
    words = {"float32": "Float", "float64": "Double", "int64": "Long", "int32": "Int",
             "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool", "float16": "Half",
             "bfloat16": "BFloat16", "complex32": "ComplexHalf", "complex64": "ComplexFloat",
             "complex128": "ComplexDouble"}
    return words.get(d.name, d.name)


def _elementwise_pack(op: R.ElementwiseOp, attrs: dict[str, Any], needs: tuple[bool, ...],
                      is_complex: bool) -> Callable[..., Any]:
    """What the node keeps: the operands and outputs that the derived gradient reads."""
    names = [p.name for p in op.operands]
    try:
        b = op.backward(attrs, needs, is_complex)
    except RuntimeError:  # a derivative that does not exist is the error of who asks for it
        return lambda args, outs: ()
    picks = [("arg", names.index(n)) if n in names else ("out", R.output_number(n))
             for n in b.saved]
    if not picks:
        return lambda args, outs: ()
    if len(picks) == 1:
        kind, k = picks[0]
        if kind == "arg":
            return lambda args, outs: (args[k],)
        return lambda args, outs: (outs[k].data_,)
    return lambda args, outs: tuple(
        args[k] if kind == "arg" else outs[k].data_ for kind, k in picks)


def choose(op: R.Op, call: OpCall, lower: Callable[[], Any] | None, form: str = "",
           ) -> tuple[Launch | None, str]:
    """The best kernel for a call: registered ones by priority, then the lowering. `form` is "_"
    for the in-place form of a kernel op.

    Returns (None, reason) if the device has neither.
    """
    backend = backend_of(call.device)
    for impl in offers(op, backend.name, form):
        if impl.constraint is None or impl.constraint(call):
            launch = impl.build(call)
            if launch is not None:
                return launch, f"kernel {impl.source or impl.op} (priority {impl.priority})"
    through = getattr(op, "through", None)
    other = None if through is None else through(call)
    if other is not None:
        target: Any = R.REGISTRY[other.op]
        below = None if target.lower is None else (lambda: target.lower(other))
        launch, chosen = choose(target, other, below)
        if launch is not None:
            return launch, f"{other.op}: {chosen}"
    if lower is not None:
        caps = backend.capabilities(call.device.index or 0)
        missing = [m.dtype for m in (*call.inputs, *call.outputs)
                   if isinstance(m, Meta) and m.dtype not in caps.dtypes]
        if "kernel-ir" in caps.features and not missing:
            program = lower()
            if program is not None:
                return generated(op, call, program), "generated from the kernel IR"
        if missing:
            return None, f"device {call.device} has no {missing[0]!r}"
    host = getattr(op, "host", None)
    if host is not None and "host-functions" in backend.capabilities(
            call.device.index or 0).features:
        return host_launch(call, host(call), backend), "function of the host"
    return None, f"backend {backend.name!r} has no kernel for {op.qualname!r}"


def generated(op: R.Op, call: OpCall, program: Any) -> Launch:
    """The launch of a kernel program."""
    backend = backend_of(call.device)
    sizes = [m.span for m in call.outputs]
    if program.status:
        inner = backend.program(program, [*sizes, 8 * program.status], call.device)
        launch = guarded(op, call, inner, backend, program.status)
    else:
        launch = backend.program(program, sizes, call.device)
    launch.program = program
    return launch


def guarded(op: R.Op, call: OpCall, inner: Launch, backend: Any, words: int) -> Launch:
    """A launch whose kernels leave a status: anything but zeros makes the op explain the error."""
    run, run_into, read, nbytes, fine = (inner.launch, inner.into, backend.copy_to_host,
                                         8 * words, bytes(8 * words))
    where, single, results = call.device, len(call.outputs) == 1, len(call.outputs)
    explain = located(op.explain)
    if type(backend).check_later is not Backend.check_later:
        return _guarded_later(call, inner, backend, nbytes, explain)

    def launch(*inputs: Any) -> Any:
        outs = run(*inputs)
        if read(outs[-1], nbytes) != fine:
            explain(call, inputs)
        return outs[0] if single else outs[:-1]

    def into(*args: Any) -> None:
        status = backend.allocate(nbytes, where)
        run_into(*args[:results], status, *args[results:])
        if read(status, nbytes) != fine:
            explain(call, args[results:])

    return Launch(launch, into, inner.kernels, inner.keep, (inner, nbytes))


def _guarded_later(call: OpCall, inner: Launch, backend: Any, nbytes: int, explain: Any) -> Launch:
    """`guarded` for a backend that looks at the status later. Only integers are kept for then:
    indices are what is explained."""
    run, run_into, later = inner.launch, inner.into, backend.check_later
    where, single, results = call.device, len(call.outputs) == 1, len(call.outputs)
    index = [isinstance(m, Meta) and m.dtype.kind in "iu" for m in call.inputs]

    def launch(*inputs: Any) -> Any:
        outs = run(*inputs)
        later(outs[-1], nbytes, explain, call,
              tuple([x if kept else None for x, kept in zip(inputs, index)]))
        return outs[0] if single else outs[:-1]

    def into(*args: Any) -> None:
        status = backend.allocate(nbytes, where)
        run_into(*args[:results], status, *args[results:])
        later(status, nbytes, explain, call,
              tuple([x if kept else None for x, kept in zip(args[results:], index)]))

    return Launch(launch, into, inner.kernels, inner.keep, (inner, nbytes))


def offers(op: R.Op, backend: str, form: str = "") -> Sequence[KernelImpl]:
    """Registered kernels in the order to try: by priority, unless `[kernels]` of the settings
    puts a provider first ("generated" means none of them). UnsupportedError if that provider has
    no kernel for the op."""
    impls = R.kernel_impls(op.qualname + form, backend)
    settings = config.get("kernels")
    if not settings:
        return impls
    from .kernel_names import check_settings

    check_settings(settings, config.source("kernels"))
    wanted = settings.get(f"{op.qualname}@{backend}")
    if wanted is None:
        return impls
    if wanted == "generated":
        return ()
    first = [i for i in impls if i.source == wanted]
    if not first:
        raise UnsupportedError(
            f"{op.qualname} on {backend!r}: [kernels] in {config.source('kernels')} asks for "
            f"{wanted!r}, but kernels come from: "
            f"{', '.join(sorted({i.source for i in impls})) or 'nobody'} (and 'generated')")
    return [*first, *(i for i in impls if i.source != wanted)]


config.watch(("kernels", "fallback.policy", "fallback.policies", "fallback.device"), R.forget_plans)


def backend_of(d: device) -> Any:
    """The backend instance behind a device, loaded on first use."""
    if d.backend is None:
        from ..runtime.devices import backend

        d.backend = backend(d.type)
    return d.backend


def kernel_plan(op: R.KernelOp, values: Sequence[Any], outputs: Sequence[Meta] | None = None,
                update: Callable[[OpCall], Any] | None = None) -> Plan:
    """Plan a kernel op. `values` are the bound arguments with Metas for tensors and Python types
    for numbers. A plan without `launch` means: use the op's composition. With `update`, plan the
    in-place form; kernels for it are registered under the op's name and an underscore."""
    call = kernel_call(op, values, outputs)
    rule = update or op.lower
    lower = None if rule is None else (lambda: rule(call))
    launch, chosen = choose(op, call, lower, "_" if update else "")
    if launch is None and op.compose is None and not update:
        from ..runtime.fallback import fallback_launch

        launch, chosen = fallback_launch(op, call, chosen, choose)
    if launch is None:
        chosen = "composed of other ops"
    decided(op, call, launch, chosen)
    plan = Plan(op, call, launch, chosen)
    plan.packs = _Packs(lambda needs: _kernel_pack(op))
    plan.given = kernel_plan, op, values, (outputs, update)
    return plan


def kernel_call(op: R.KernelOp, values: Sequence[Any],
                outputs: Sequence[Meta] | None = None) -> OpCall:
    """The call of a kernel op with its result metas; `values` as in `kernel_plan`."""
    args = {p.name: v for p, v in zip(op.params, values)}
    inputs: list[Any] = []
    for p, v in zip(op.params, values):
        if isinstance(v, Meta):
            inputs.append(v)
        elif p.kind == R.LIST:
            inputs.extend(v)
        elif p.kind == R.SCALAR:
            inputs.append(dt.float64)
        elif p.kind == R.INTEGER:
            inputs.append(dt.int64)
        elif p.kind == R.TENSOR_OR_NUMBER:
            inputs.append(dt.float64 if v is float else dt.int64)
    tensors = [m for m in inputs if isinstance(m, Meta)]
    where = common_device(op, tensors) if tensors else args["device"]
    if outputs is None:
        outputs = [meta(s[0], s[1], s[2] if len(s) > 2 else None, where)
                   for s in op.meta(*values)]
        if len(outputs) != op.noutputs:
            raise TypeError(f"{op.qualname}: its meta describes {len(outputs)} results, but its "
                            f"block says noutputs = {op.noutputs}")
    return OpCall(op.name, tuple(inputs), args, tuple(outputs), where)


def _kernel_pack(op: R.KernelOp) -> Callable[..., Any]:
    if op.vjp is None:  # the composition is differentiated: it needs all arguments
        return lambda args, outs: tuple(args)
    names = [p.name for p in op.params]
    picks = [("out", int(n[3:] or 0)) if n.startswith("out") and n not in names
             else ("arg", names.index(n)) for n in op.save]
    return lambda args, outs: tuple(
        args[k] if kind == "arg" else outs[k].data_ for kind, k in picks)
