"""Moving tensors between dtypes and devices, and writing one tensor into another.

Floor 5; imports tensor, ops. `copy_` is the one primitive write; `Move` is the autograd node of a
copy between devices.
"""

from __future__ import annotations

from typing import Any

from . import callpath
from .autograd.node import AccumulateGrad, Node, _new
from .autograd.state import mode
from .base import dtype as dt
from .base.device import device
from .base.limits import check_fits
from .base.meta import Meta, expand_strides, meta
from .callpath import NS
from .ops import plans as P
from .ops import registry as R
from .runtime import tracing
from .runtime.devices import resolve
from .tensor import Tensor, empty_meta, make_tensor

CONVERT, DUPLICATE, CLONE, CONTIGUOUS, FULL = map(
    R.REGISTRY.__getitem__, ("convert", "duplicate", "clone", "contiguous", "full"))

def to_arguments(input: Any, args: Any, kwargs: Any,
                 ) -> tuple[device, dt.dtype, bool, Any, bool]:
    """Parse the arguments of Tensor.to: (device, dtype, copy, memory_format, non_blocking)."""
    kwargs = dict(kwargs)
    where = kwargs.pop("device", None)
    d = kwargs.pop("dtype", None)
    copy = kwargs.pop("copy", False)
    memory_format = kwargs.pop("memory_format", None)
    non_blocking = kwargs.pop("non_blocking", False)
    other = kwargs.pop("other", None)
    if kwargs:
        raise TypeError(f"to() received an invalid keyword argument: '{next(iter(kwargs))}'")
    flags = []
    for a in args:
        if isinstance(a, Tensor):
            other = a
        elif isinstance(a, (dt.dtype, type)):
            d = a
        elif isinstance(a, (str, device)) or (isinstance(a, int) and not isinstance(a, bool)):
            where = a
        elif isinstance(a, bool):
            flags.append(a)
        elif a is not None:
            raise TypeError("to() received an invalid combination of arguments - got "
                            f"({', '.join(type(x).__name__ for x in args)})")
    if flags:
        non_blocking = flags[0]
    if len(flags) > 1:
        copy = flags[1]
    if other is not None:
        where, d = other.meta.device, other.meta.dtype
    return (input.meta.device if where is None else resolve(where),
            input.meta.dtype if d is None else dt.of_type(d), copy, memory_format,
            bool(non_blocking))


def raw_copy(src: Tensor, dst: Tensor, non_blocking: bool = False) -> None:
    """Copy values without recording; shapes broadcast, dtypes convert, devices may differ."""
    if src.meta.device is not dst.meta.device:
        m, target = src.meta.plain, dst.meta.plain
        if m.dtype is target.dtype and m.shape == target.shape and m.strides == target.strides \
                and m.span == m.nbytes and not m.overlapping:
            transfer(src, dst, non_blocking)
            return
        src = across(src, dst.meta.device, non_blocking)
    m, target = src.meta.plain, dst.meta.plain
    if not target.numel:
        return
    if m.shape != target.shape:
        m = meta(m.dtype, target.shape, expand_strides(m.shape, m.strides, target.shape),
                 m.device)
    op = CONVERT
    key = (m, target)
    p = op.iplans.get(key)
    if p is None:
        attrs = {"dtype": target.dtype, "contiguous": False}
        p = op.iplans[key] = P.elementwise_plan(op, [m], attrs, [target])  # type: ignore
    p.into(dst.data_, src.data_)
    if tracing.active:
        tracing.active[-1].ran(p, (src.data_,), (dst.data_,))
    elif src.meta is m and dst.meta is target:
        _plain_copies[key] = p


# (source meta, target meta) -> plan, for copies that need no broadcasting and no checks
_plain_copies: dict[tuple[Meta, Meta], Any] = {}


def across(src: Tensor, where: device, non_blocking: bool = False) -> Tensor:
    """A detached copy of the values on another device (through the host if need be).

    `non_blocking`: as far as the backends can, do not wait for the copy. On the host the result is
    then in memory that makes it possible, and has its values after a synchronization.
    """
    m = src.meta.plain
    if m.span != m.nbytes or m.overlapping:
        src = DUPLICATE.fn(src.detach(), contiguous=True)
        m = src.meta
    there = meta(m.dtype, m.shape, m.strides, where)
    out = _pinned_for(src, there) if non_blocking and m.numel else None
    if out is None:
        out = empty_meta(there)
    transfer(src, out, non_blocking)
    return out


def _pinned_for(src: Tensor, there: Meta) -> Tensor | None:
    """Memory of the host that the device of `src` can copy to without anyone waiting."""
    if "host-memory" not in P.backend_of(there.device).capabilities(0).features:
        return None
    block = P.backend_of(src.meta.device).pinned(there.span)
    if block is None:
        return None
    storage = P.backend_of(there.device).wrap_host(block.pointer, there.span, block, there.device)
    return make_tensor(storage, there, None)


def transfer(src: Tensor, dst: Tensor, non_blocking: bool = False) -> None:
    """Copy the bytes of a dense tensor to one of the same geometry on another device."""
    m = src.meta.plain
    tracing.fail(f"values are copied from {m.device} to {dst.meta.device}")
    if not m.numel:
        return
    b_src, b_dst = P.backend_of(m.device), P.backend_of(dst.meta.device)
    if b_src is b_dst:
        if b_src.copy(src.data_, dst.data_, m.span):
            return
    elif "host-memory" in b_dst.capabilities(0).features:
        if b_src.fetch(src.data_, dst.data_, m.span, not non_blocking):
            return
    elif non_blocking and b_dst.send(src.data_, dst.data_, m.span):
        return
    b_dst.copy_from_host(b_src.copy_to_host(src.data_, m.span), dst.data_)


class Move(Node):
    """Copy to another device; the gradient travels back."""

    __slots__ = ("source", "result")

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "ToCopyBackward0"

    def out_meta(self, k: int) -> Meta:
        return self.result

    def apply(self, grads: list[Any]) -> Any:
        return [Move.run(grads[0], self.source.device)]

    @staticmethod
    def run(input: Tensor, where: device, non_blocking: bool = False) -> Tensor:
        """The op: copy `input` to device `where`."""
        out = NS["transformed_apply"](input, lambda t: Move.run(t, where, non_blocking)) \
            if input.meta.virtual else across(input.detach(), where, non_blocking)
        if input.node is not None and mode.enabled:
            out.node = _new(Move)
            out.node.edges, out.node.saved = (input.node,), ()
            out.node.extra, out.node.epoch = None, 0
            out.node.source, out.node.result = input.meta.plain, out.meta
        return out


class CopyInto(Node):
    """dst.copy_(src): the old value of dst gets zeros, src gets all of the gradient."""

    __slots__ = ("source", "result")

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "CopyBackwards"

    def out_meta(self, k: int) -> Meta:
        return self.result

    def apply(self, grads: list[Any]) -> Any:
        from .autograd import node as N

        old = None if self.edges[0] is None else N.zeros(self.result)
        if self.edges[1] is None:
            return [old, None]
        g, m = grads[0], self.source
        if g.meta.shape != m.shape:
            g = N.sum_to_shape(g, m.shape)
        return [old, g.to(m.device, m.dtype)]


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write `src` (broadcast, converted, from any device) into this tensor."""
    if type(src) is Tensor and self.node is None and src.node is None:
        m, target = src.meta, self.meta
        p = _plain_copies.get((m, target))
        if p is not None and src.data_.base is not self.data_.base and not tracing.active:
            p.into(self.data_, src.data_)
            callpath.wrote(self, "copy_", 2)
            return self
    if not isinstance(src, Tensor):
        raise TypeError("copy_(): argument 'src' (position 1) must be Tensor, not "
                        f"{type(src).__name__}")
    callpath.check_leaf(self, "copy_")
    op = CONVERT
    if self.meta.virtual or src.meta.virtual:
        return NS["transformed_copy"](self, src)
    if self.meta.overlapping:
        P.check_write(op, self.meta, self.meta.dtype, self.meta.shape)
    try:
        shape = P.broadcast_shapes(self.meta.shape, src.meta.shape)
    except RuntimeError as e:
        raise RuntimeError(f"copy_: {e}") from None
    if shape != self.meta.shape:
        raise RuntimeError(f"copy_: output with shape {list(self.meta.shape)} doesn't match the "
                           f"broadcast shape {list(shape)}")
    source = src
    if src.data_.base is self.data_.base:
        if src.data_.offset == self.data_.offset and src.meta.plain is self.meta.plain:
            return self
        source = src.detach().clone()
    raw_copy(source, self, non_blocking)
    callpath.wrote(self, "copy_", 2)
    if mode.enabled and (self.node is not None or (
            src.node is not None and self.meta.dtype.kind in "fc")):
        n = _new(CopyInto)
        n.edges, n.saved, n.extra, n.epoch = (self.node, src.node), (), None, 0
        n.source, n.result = src.meta.plain, self.meta.plain
        callpath.rebase(self, n)
    return self


def fill_(self: Tensor, value: Any) -> Tensor:
    """Write one number everywhere."""
    if self.node is None and self.root is None:  # a twin meta has no plans, so it cannot match
        p = FULL.iplans.get((self.meta, type(value)))
        if p is not None and not tracing.active:
            if not -128 <= value < 128:  # what every dtype holds
                check_fits(value, self.meta.dtype)
            p.into(self.data_, value)
            callpath.wrote(self, "fill_", 2)
            return self
    if isinstance(value, complex):
        value = complex_number("fill_", value, self)
    if isinstance(value, Tensor):
        if value.meta.ndim:
            raise RuntimeError("fill_ only supports 0-dimension value tensor but got tensor with "
                               f"{value.meta.ndim} dimensions.")
        return copy_(self, value)
    callpath.check_leaf(self, "fill_")
    check_fits(value, self.meta.dtype)
    if self.meta.virtual:
        return NS["transformed_copy"](self, NS["filled"](self.meta.plain, value))
    m = self.meta.plain
    P.check_write(FULL, m, dt.scalar_dtype(value) if m.dtype.kind == "c"
                  else m.dtype, m.shape)
    if m.numel:
        op = FULL
        key = (m, type(value))
        p = op.iplans.get(key)
        if p is None:
            args = [m.shape, type(value), m.dtype, m.device, None]
            p = op.iplans[key] = P.kernel_plan(op, args, [m])  # type: ignore[arg-type]
        p.into(self.data_, value)
        if tracing.active:
            tracing.active[-1].ran(p, (value,), (self.data_,))
    callpath.wrote(self, "fill_", 2)
    if self.node is not None and mode.enabled and type(self.node) is not AccumulateGrad:
        n = _new(CopyInto)
        n.edges, n.saved, n.extra, n.epoch = (self.node, None), (), None, 0
        n.source = n.result = m
        callpath.rebase(self, n)
    return self


def zero_(self: Tensor) -> Tensor:
    """Write zeros."""
    return fill_(self, 0)


def _cast(d: dt.dtype) -> Any:
    def method(self: Tensor, memory_format: Any = None) -> Tensor:
        return self if self.meta.dtype is d else CONVERT.fn(self, dtype=d)

    return method


for _name, _d in (("float", dt.float32), ("double", dt.float64), ("half", dt.float16),
                  ("bfloat16", dt.bfloat16), ("long", dt.int64), ("int", dt.int32),
                  ("short", dt.int16), ("char", dt.int8), ("byte", dt.uint8), ("bool", dt.bool_),
                  ("chalf", dt.complex32), ("cfloat", dt.complex64), ("cdouble", dt.complex128)):
    setattr(Tensor, _name, _cast(_d))


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """Convert to the dtype and device of another tensor."""
    return self.to(other.meta.device, other.meta.dtype)  # type: ignore[attr-defined]


def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """Convert to a dtype, given as such, as a class like `FloatTensor` or by its name; without
    one, the name of this tensor's own class, "lampion.FloatTensor"."""
    from . import creation

    if dtype is None:
        return f"{dt._PREFIX}.{P._word(self.meta.dtype)}Tensor"
    if isinstance(dtype, str):
        dtype = getattr(creation, dtype.rpartition(".")[2], dtype)
    found = getattr(dtype, "dtype", dtype)
    if not isinstance(found, dt.dtype):
        raise TypeError(f"type(): {dtype!r} is neither a dtype nor a class such as "
                        "lampion.FloatTensor")
    return self.to(found)  # type: ignore[attr-defined]


def get_device(self: Tensor) -> int:
    """The number of this tensor's device among those of its kind; -1 for the cpu."""
    place = self.meta.device
    return -1 if place.type == "cpu" else place.index or 0


def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """Move to the device called cpu."""
    return self.to("cpu")  # type: ignore[attr-defined]


def _mT(self: Tensor) -> Tensor:
    return R.REGISTRY["mT"].fn(self)


def _T(self: Tensor) -> Tensor:
    n = self.meta.ndim
    return R.REGISTRY["permute_dims"].fn(self, tuple(range(n - 1, -1, -1)))


def _H(self: Tensor) -> Tensor:
    if self.meta.ndim not in (0, 2):
        raise RuntimeError("tensor.H is only supported on matrices (2-D tensors). Got "
                           f"{self.meta.ndim}-D tensor.")
    r = _T(self)
    return r.conj() if self.meta.dtype.kind == "c" else r  # type: ignore[attr-defined]


def _mH(self: Tensor) -> Tensor:
    r = _mT(self)
    return r.conj() if self.meta.dtype.kind == "c" else r  # type: ignore[attr-defined]


def _part(name: str) -> property:
    """The property `real` or `imag`: a view that can be assigned to."""
    def get(self: Tensor) -> Tensor:
        return R.REGISTRY[name].fn(self)

    def put(self: Tensor, value: Any) -> None:
        part = get(self)
        fill_(part, value) if not isinstance(value, Tensor) else copy_(part, value)

    return property(get, put, doc=f"The {name} part.")


for _name, _fn in (("real", _part("real")), ("imag", _part("imag")), ("copy_", copy_),
                   ("fill_", fill_), ("zero_", zero_), ("type_as", type_as), ("cpu", cpu),
                   ("type", type_), ("get_device", get_device),
                   ("T", property(_T)), ("mT", property(_mT)), ("H", property(_H)),
                   ("mH", property(_mH))):
    setattr(Tensor, _name, _fn)


def assign(target: Tensor, result: Tensor, name: str) -> Tensor:
    """The in-place form of a composite op: write its result into the target."""
    callpath.check_leaf(target, name)
    if result.meta.shape != target.meta.shape:
        raise RuntimeError(f"{name}: output with shape {list(target.meta.shape)} doesn't match "
                           f"the broadcast shape {list(result.meta.shape)}")
    if not dt.can_cast(result.meta.dtype, target.meta.dtype):
        raise RuntimeError(f"{name}: result type {P._word(result.meta.dtype)} can't be cast to "
                           f"the desired output type {P._word(target.meta.dtype)}")
    return copy_(target, result)


def scalar_tensor(value: Any, like: Tensor | None = None, d: dt.dtype | None = None) -> Tensor:
    """A 0-d tensor of a Python number on the device of `like`, or on the default device."""
    from .creation import tensor

    return tensor(value, dtype=d, device=None if like is None else like.meta.device)


def complex_operand(op: Any, v: complex, values: list[Any], like: Tensor) -> Tensor:
    """A complex number among the arguments of an op as a 0-d tensor. In an elementwise op it has
    the say of a number in promotion, and all the digits that the other operands ask for."""
    if op.kind != "elementwise":
        return complex_number(op.qualname, v, like)
    found = [t.meta for t in values if isinstance(t, Tensor)]
    d = dt.result_dtype([m.dtype for m in found if m.ndim], [m.dtype for m in found if not m.ndim])
    return scalar_tensor(v, like, d.to_complex() if d.kind in "fc" else None)


def complex_number(name: str, v: complex, target: Tensor) -> Tensor:
    """A complex number as a 0-d tensor of the dtype of the tensor that it is written to.
    RuntimeError if that is real."""
    d = target.meta.dtype
    if d.kind != "c":
        raise RuntimeError(f"{name}: value {v} cannot be converted to type {d.name} without "
                           "overflow")
    return scalar_tensor(v, target, d)


NS["assign"] = assign
NS["complex_operand"], NS["complex_number"] = complex_operand, complex_number
NS["scalar_tensor"] = scalar_tensor
_ = make_tensor


@R.composite(method=True, out=False, where=(), samples="""
    f(2, 3), float64
    f(3, 4).transposed, int32
    i(3), dtype=float32
    c(3), complex64
    f(3, 2), i(1)
""")
def to(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Convert dtype and/or device: to(dtype), to(device), to(device, dtype), to(other); returns
    the tensor itself if nothing changes, unless copy=True."""
    if len(args) == 1 and not kwargs and type(args[0]) is dt.dtype:
        return input if args[0] is input.meta.dtype else CONVERT.fn(input, dtype=args[0])
    device, dtype, copy, memory_format, non_blocking = to_arguments(input, args, kwargs)
    m = input.meta
    if device is not m.device:
        input = move.fn(input, device, non_blocking)
        copy = False
    if dtype is not m.dtype:
        input, copy = CONVERT.fn(input, dtype=dtype), False
    if memory_format is not None and memory_format.name != "preserve" and not copy:
        return CONTIGUOUS.fn(input, memory_format)
    return CLONE.fn(input, memory_format=memory_format) if copy else input


@R.composite(method=False, out=False, where=())
def move(input: Tensor, device: device, non_blocking: bool = False) -> Tensor:
    """The same values on another device."""
    return Move.run(input, device, non_blocking)
