"""The Tensor: storage, meta and autograd link.

Floor 5; imports everything below. A Tensor is four slots: `data_` (Storage), `meta` (interned
Meta), `node` (autograd node, None if no gradient is needed) and `root` (the base of a view).
Methods that are ops are generated from the registry by `install`; this file holds what is not
an op: properties, conversion, hooks, and the operators' wiring.
"""

from __future__ import annotations

import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import argument_names, callpath, linking, wholes
from .autograd import engine
from .autograd import node as autograd_node
from .autograd.node import AccumulateGrad, Handle, Node, Select
from .autograd.state import clock, mode
from .base import dtype as dt
from .base.device import device
from .base.dtype import dtype
from .base.located import located
from .base.meta import Meta, meta
from .callpath import NS
from .linking import viewed
from .ops import autocast
from .ops import plans as P
from .ops import registry as R
from .ops.families import Awaited
from .replay import replayed
from .runtime import tracing
from .runtime.backend import UNCOUNTED, counted, host_read
from .runtime.devices import resolve
from .runtime.tracing import active as _active

_new = object.__new__
# How one element of a dtype is read from its bytes.
_READ = {d: struct.Struct(f).unpack_from for d, f in (
    (dt.bool_, "?"), (dt.uint8, "B"), (dt.int8, "b"), (dt.int16, "h"), (dt.int32, "i"),
    (dt.int64, "q"), (dt.float16, "e"), (dt.float32, "f"), (dt.float64, "d"))}


class Size(tuple):  # type: ignore[type-arg]
    """A shape: a tuple of ints with `numel()`."""

    __slots__ = ()

    def numel(self) -> int:
        """Product of the sizes."""
        n = 1
        for s in self:
            n *= s
        return n

    def __repr__(self) -> str:
        return f"{dt._PREFIX}.Size([{', '.join(map(str, self))}])"

    __str__ = __repr__

    def __add__(self, other: Any) -> "Size":
        return Size(tuple.__add__(self, tuple(other)))

    def __radd__(self, other: Any) -> "Size":
        return Size(tuple(other) + tuple(self))

    def __mul__(self, n: Any) -> "Size":
        return Size(tuple.__mul__(self, n))

    __rmul__ = __mul__

    def __getitem__(self, k: Any) -> Any:
        got = tuple.__getitem__(self, k)
        return Size(got) if isinstance(k, slice) else got

    def __reduce__(self) -> Any:
        return (Size, (tuple(self),))


class Tensor:
    """An n-dimensional array on a device, with gradients. Made by `tensor()`, `zeros()`, ops..."""

    __slots__ = ("data_", "meta", "node", "root", "kids", "__dict__", "__weakref__")
    data_: Any
    meta: Meta
    node: Any
    root: Any
    kids: Any
    __array_priority__ = 1000

    def __new__(cls, *args: Any, **kwargs: Any) -> "Tensor":
        from .creation import legacy_tensor

        made = legacy_tensor(*args, **kwargs)
        return made if cls is Tensor else made.as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        from .overrides import default_torch_function

        return default_torch_function(cls, func, types, args, kwargs)

    # ------------------------------------------------------------ facts

    @property
    def shape(self) -> Size:
        """The size of every dim."""
        return Size(_active[-1].sizes(self.meta.shape) if _active else self.meta.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dim."""
        row = self.shape
        if dim is None:
            return row
        from .base.meta import wrap_dim

        return row[wrap_dim(dim, len(row)) if row else dim]

    def stride(self, dim: int | None = None) -> Any:
        """Strides in elements, or that of one dim."""
        row = self.meta.strides if dim is None else (self.meta.strides[dim],)
        row = _active[-1].sizes(row) if _active else row  # type: ignore[assignment]
        return row if dim is None else row[0]

    @property
    def dtype(self) -> dtype:
        """Element type."""
        return self.meta.dtype

    @property
    def device(self) -> device:
        """Where the memory is."""
        return self.meta.device

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return self.meta.ndim

    def dim(self) -> int:
        """Number of dims."""
        return self.meta.ndim

    ndimension = dim

    def numel(self) -> int:
        """Number of elements."""
        return _active[-1].sizes((self.meta.numel,))[0] if _active else self.meta.numel

    nelement = numel

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.meta.dtype.itemsize

    element_size = lambda self: self.meta.dtype.itemsize  # noqa: E731

    @property
    def nbytes(self) -> int:
        """Elements times bytes per element."""
        return self.meta.nbytes

    def storage_offset(self) -> int:
        """Offset into the storage, in elements."""
        return tracing.original(self, "storage_offset").data_.offset // self.meta.dtype.itemsize

    def data_ptr(self) -> int:
        """Address of the first element (0 where the device has no addresses)."""
        return getattr(tracing.original(self, "data_ptr").data_, "ptr", 0) if self.meta.numel else 0

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Row-major without gaps (or in the given memory format)."""
        if memory_format is None or str(memory_format) == f"{dt._PREFIX}.contiguous_format":
            return self.meta.contiguous
        from .creation import matches_format

        return matches_format(self.meta, memory_format)

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating type."""
        return self.meta.dtype.kind == "f"

    def is_complex(self) -> bool:
        """Whether the dtype is complex."""
        return self.meta.dtype.kind == "c"

    def is_signed(self) -> bool:
        """Whether the dtype has negative values."""
        return self.meta.dtype.is_signed

    def __len__(self) -> int:
        if not self.meta.shape:
            raise TypeError("len() of a 0-d tensor")
        if _active:
            _active[-1].length(self.meta.shape[0])
        return self.meta.shape[0]

    @property
    def _version(self) -> int:
        return int(tracing.original(self, "_version").data_.base.version)

    # ------------------------------------------------------------ autograd

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Make this leaf require gradients, or not. RuntimeError for integer dtypes, and when
        turning it off on a tensor that an op produced."""
        n = self.node
        if requires_grad:
            if n is None:
                if self.meta.dtype.kind not in "fc":
                    raise RuntimeError(
                        "only Tensors of floating point and complex dtype can require gradients, "
                        f"not {self.meta.dtype!r}; convert with .to()")
                self.node = AccumulateGrad(self)
                tracing.changes["tensors"] += 1
        elif type(n) is AccumulateGrad:
            tracing.changes["tensors"] += 1
            g = n.grad
            self.node = None
            self.grad = g
        elif n is not None:
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables. If you want to use a "
                "computed variable in a subgraph that doesn't require differentiation use "
                "var_no_grad = var.detach().")
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op produced this tensor."""
        n = tracing.original(self, "is_leaf").node
        return n is None or type(n) is AccumulateGrad

    @property
    def grad_fn(self) -> Any:
        """The node of the op that produced this tensor, None for leaves."""
        n = tracing.original(self, "grad_fn").node
        if n is None or type(n) is AccumulateGrad:
            return None
        return n.parent if type(n) is Select else n

    @property
    def output_nr(self) -> int:
        """Which output of `grad_fn` this is."""
        return self.node.index if type(self.node) is Select else 0

    @property
    def grad(self) -> Any:
        """The accumulated gradient of a leaf (or after retain_grad()), None if there is none."""
        n = self.node
        if type(n) is AccumulateGrad:
            if tracing.active:
                tracing.active[-1].grad_read(n)
            return n.grad
        return tracing.original(self, "grad").__dict__.get("_grad")

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            self._check_grad(value)
        n = self.node
        if type(n) is AccumulateGrad:
            if tracing.active:
                tracing.active[-1].grad_cleared(n)
            n.grad = value
        elif value is None:
            self.__dict__.pop("_grad", None)
        else:
            self.__dict__["_grad"] = value

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    def _check_grad(self, g: Any) -> None:
        if not isinstance(g, Tensor):
            raise TypeError(f"assigned grad expected to be a Tensor or None but got grad of type "
                            f"{type(g).__name__}")
        if g is self:
            raise RuntimeError("can't assign Variable as its own grad")
        for what, a, b in (("size", g.meta.shape, self.meta.shape),
                           ("device", g.meta.device, self.meta.device),
                           ("dtype", g.meta.dtype, self.meta.dtype)):
            if a != b:
                raise RuntimeError(f"assigned grad has data of a different {what}: {a} instead "
                                   f"of {b}")

    def is_inference(self) -> bool:
        """Kept for PyTorch's API: lampion's tensors have no separate inference kind."""
        return False

    def retain_grad(self) -> None:
        """Keep the gradient of a non-leaf in `.grad`. RuntimeError without requires_grad."""
        n = self.node
        if n is None:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if type(n) is AccumulateGrad:
            return
        from weakref import ref

        me = ref(self)

        def keep(g: Any) -> None:
            t = me()
            if t is not None:
                t.__dict__["_grad"] = g if mode.enabled else g.detach()

        n.more().retain = keep
        self.__dict__["_retains"] = True

    @property
    def retains_grad(self) -> bool:
        """Whether retain_grad() was called on this non-leaf."""
        return bool(tracing.original(self, "retains_grad").__dict__.get("_retains", False))

    def register_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(grad)` when this tensor's gradient is computed; a result replaces it."""
        if self.node is None:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        return Handle(self.node.more().tensor_hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(param)` after a gradient was added to this leaf's `.grad`."""
        n = self.node
        if n is None:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if type(n) is not AccumulateGrad:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf "
                               "tensors")
        if n.accumulated is None:
            n.accumulated = {}
        return Handle(n.accumulated, hook)

    def backward(self, gradient: Any = None, retain_graph: bool | None = None,
                 create_graph: bool = False, inputs: Any = None) -> None:
        """Accumulate the gradient of this tensor into the leaves that it depends on."""
        from .autograd.api import backward

        backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def detach(self) -> "Tensor":
        """This tensor's values without its history (shares memory)."""
        m = self.meta
        if m.override is not None:
            if m.virtual:
                return NS["transformed_detach"](self)
            m = m.override
        r = _new(Tensor)
        # no view of self: what is written to it is no part of self's history
        r.data_, r.meta, r.node, r.kids, r.root = self.data_, m, None, None, None
        return r

    def detach_(self) -> "Tensor":
        """Forget the history of this tensor. RuntimeError for views."""
        if self.root is not None and self.node is not None:
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self.node = None
        return self

    @property
    def data(self) -> "Tensor":
        """The values without history. Writes to it are not counted: a graph that saved the old
        values uses the new ones, without an error."""
        r = self.detach()
        if not r.meta.virtual:
            r.data_ = r.data_.view(0)
            r.data_.epoch = UNCOUNTED
        return r

    @data.setter
    def data(self, other: "Tensor") -> None:
        if not isinstance(other, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(other).__name__}")
        tracing.changes["tensors"] += 1
        tracing.fail("a tensor's .data is replaced")
        self.data_ = counted(other.data_)
        if self.meta.override is None or other.meta.virtual:
            self.meta = other.meta if other.meta.virtual else other.meta.plain
        else:
            self.meta = other.meta.overriding()
        clock[0] += 1
        self.data_.base.epoch = clock[0]  # a graph that saved the old values must not use these

    @property
    def _base(self) -> Any:
        return tracing.original(self, "_base").root

    def _is_view(self) -> bool:
        return tracing.original(self, "_is_view").root is not None

    # ------------------------------------------------------------ host access

    def item(self) -> Any:
        """The one element as a Python number. RuntimeError if there are several."""
        m = self.meta
        if m.numel != 1:
            raise RuntimeError(f"a Tensor with {m.numel} elements cannot be converted to Scalar")
        if NS["modes"]:
            if tracing.active and (known := tracing.active[-1].item(self)) is not None:
                return known
            host_read()
        read = _READ.get(m.dtype)
        if read is not None:
            try:
                return read(self.data_)[0]  # a storage that shows its bytes to the host
            except TypeError:
                if m.virtual:
                    return NS["transformed_read"](self, "item").item()
        raw = P.backend_of(m.device).copy_to_host(self.data_, m.dtype.itemsize)
        if read is not None:
            return read(raw)[0]
        return m.dtype.decode(np.frombuffer(raw, dtype=m.dtype.np, count=1))[0].item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        t = NS["transformed_read"](self, "tolist") if self.meta.virtual else self
        return t.detach().host().tolist()

    def host(self) -> Any:
        """A NumPy array of the values; shares memory where the host can see it."""
        from .interop import host_array

        return host_array(self)

    def numpy(self, *, force: bool = False) -> Any:
        """A NumPy array that shares memory. TypeError off the host, RuntimeError if it requires
        gradients (unless force=True, which detaches and copies as needed)."""
        from .interop import to_numpy

        return to_numpy(self, force)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        from .interop import to_numpy

        a = to_numpy(self, False)
        return a if dtype is None else a.astype(dtype, copy=False)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """The result of a NumPy function on this tensor, as a tensor."""
        return NS["as_tensor"](array)

    def __bool__(self) -> bool:
        if self.meta.numel != 1:
            word = "no values" if self.meta.numel == 0 else "more than one value"
            raise RuntimeError(f"Boolean value of Tensor with {word} is ambiguous")
        if self.meta.virtual:
            return bool(NS["transformed_read"](self, "bool").item())
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self.meta.numel != 1 or self.meta.dtype.kind in "fc":
            raise TypeError("only integer tensors of a single element can be converted to an "
                            "index")
        return int(self.item())

    def __iter__(self) -> Iterator["Tensor"]:
        if not self.meta.shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))  # type: ignore[attr-defined]

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())  # type: ignore[union-attr]

    __hash__ = object.__hash__

    def __repr__(self, *, tensor_contents: str | None = None) -> str:
        from .printing import tensor_repr

        return tensor_repr(self)

    def __format__(self, spec: str) -> str:
        if self.meta.ndim == 0 and type(self) is Tensor:
            return format(self.item(), spec)
        return object.__format__(self, spec) if spec else str(self)

    def __getitem__(self, key: Any) -> "Tensor":
        return NS["getitem"](self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        NS["setitem"](self, key, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tensor":
        from .interop import deepcopy

        return deepcopy(self, memo)

    def __reduce_ex__(self, protocol: int) -> Any:
        from .interop import reduce_tensor

        return reduce_tensor(self, protocol)

    def as_subclass(self, cls: type) -> Any:
        """This tensor as an instance of a Tensor subclass (shares memory and history)."""
        r = _new(cls)
        r.data_, r.node, r.root, r.kids = self.data_, self.node, self.root, None
        r.meta = self.meta if self.meta.virtual else (
            self.meta.overriding() if overrides_ops(cls) else self.meta.plain)
        if r.root is not None:  # a view like this one: in-place writes to the base concern it
            r.root.kids = [*(r.root.kids or ()), weakref.ref(r)]
        return r

    @staticmethod
    def _make_subclass(cls: type, data: "Tensor", require_grad: bool = False) -> Any:
        r = data.detach().as_subclass(cls)
        r.root = None
        if require_grad:
            r.requires_grad_()
        return r


def overrides_ops(cls: type) -> bool:
    """Whether a subclass sees every op (it does, unless it disabled __torch_function__)."""
    fn = getattr(cls, "__torch_function__", None)
    return cls is not Tensor and fn is not None and fn is not disabled_torch_function


def disabled_torch_function(func: Callable[..., Any], types: Any, args: Any = (),
                            kwargs: Any = None) -> Any:
    """`__torch_function__ = disabled_torch_function` makes a subclass plain: results of its
    ops are Tensors."""
    return func(*args, **(kwargs or {}))


def make_tensor(data: Any, m: Meta, node: Any) -> Tensor:
    """A plain tensor over a storage."""
    r = _new(Tensor)
    r.data_, r.meta, r.node = data, m, node
    r.root = r.kids = None
    return r


def empty_meta(m: Meta) -> Tensor:
    """An uninitialised tensor of this meta."""
    r = make_tensor(P.backend_of(m.device).allocate(m.span, m.device), m, None)
    if tracing.active:
        tracing.active[-1].made(r.data_)
    return r


class _NoOverride(threading.local):
    """Depth of `DisableTorchFunctionSubclass` blocks in this thread."""

    depth = 0


NS.update(Tensor=Tensor, Parameter=Tensor, BaseTensor=Tensor, make_tensor=make_tensor, meta=meta,
          slow=located(callpath.slow), slow_dunder=located(callpath.slow_dunder),
          slow_inplace=located(callpath.slow_inplace), finish_one=callpath.finish_one,
          finish_many=callpath.finish_many, prune=linking.prune,
          no_override=_NoOverride())
autograd_node.make_tensor = make_tensor
autograd_node.viewed = viewed
autograd_node.calls = NS

# Operators: special method -> (op, reflected). In-place ones call the in-place method.
OPERATORS: dict[str, tuple[str, bool]] = {
    "__add__": ("add", False), "__radd__": ("add", True), "__sub__": ("sub", False),
    "__rsub__": ("sub", True), "__mul__": ("mul", False), "__rmul__": ("mul", True),
    "__truediv__": ("div", False), "__rtruediv__": ("div", True), "__rdiv__": ("div", True),
    "__floordiv__": ("floor_divide", False), "__rfloordiv__": ("floor_divide", True),
    "__mod__": ("remainder", False), "__rmod__": ("remainder", True),
    "__pow__": ("pow", False), "__rpow__": ("pow", True),
    "__matmul__": ("matmul", False), "__rmatmul__": ("matmul", True),
    "__and__": ("bitwise_and", False), "__rand__": ("bitwise_and", True),
    "__or__": ("bitwise_or", False), "__ror__": ("bitwise_or", True),
    "__xor__": ("bitwise_xor", False), "__rxor__": ("bitwise_xor", True),
    "__lshift__": ("bitwise_left_shift", False), "__rlshift__": ("bitwise_left_shift", True),
    "__rshift__": ("bitwise_right_shift", False), "__rrshift__": ("bitwise_right_shift", True),
    "__lt__": ("lt", False), "__le__": ("le", False), "__gt__": ("gt", False),
    "__ge__": ("ge", False), "__eq__": ("eq", False), "__ne__": ("ne", False),
    "__neg__": ("neg", False), "__pos__": ("positive", False),
    "__abs__": ("abs", False), "__invert__": ("bitwise_not", False),
}
_BY_OP: dict[str, list[tuple[str, bool]]] = {}
for _name, (_op, _reflected) in OPERATORS.items():
    _BY_OP.setdefault(_op, []).append((_name, _reflected))
_INPLACE_OPERATORS = {"add": "__iadd__", "sub": "__isub__", "mul": "__imul__",
                      "div": "__itruediv__", "floor_divide": "__ifloordiv__",
                      "remainder": "__imod__", "pow": "__ipow__", "bitwise_and": "__iand__",
                      "bitwise_or": "__ior__", "bitwise_xor": "__ixor__",
                      "bitwise_left_shift": "__ilshift__", "bitwise_right_shift": "__irshift__"}


def build_function(op: R.Op) -> Any:
    """The op's function, which is watched from the start if somebody watches functions."""
    fn = _function(op)
    if NS["built"] is not None:
        NS["built"](fn)
    return fn


def _function(op: R.Op) -> Any:
    if op.kind != "composite":
        return callpath.build(op, callpath.function_source(op, op.name), op.name)
    fn = op.body  # type: ignore[attr-defined]
    if op.one_by_one:  # type: ignore[attr-defined]
        fn = wholes.one_by_one(fn)
    if op.out and not any(p.kind == "**" for p in op.params):
        fn = _composite_with_out(op, fn)
    elif any(p.kind == "*" for p in op.params[1:]):
        fn = _spelled_star(op)
    else:
        fn = argument_names.forwarding(op, fn)
    if op.replay:  # type: ignore[attr-defined]
        return replayed(fn)
    return wholes.seen_whole(fn) if op.name in autocast.LISTED or op.name in wholes.NAMED else fn


class _Lazy:
    """A method that is generated when it is first looked up, then replaces itself."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name, self.make = name, make

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        fn = self.make()
        if NS["built"] is not None:
            NS["built"](fn)
        if Tensor.__dict__.get(self.name) is self:
            setattr(Tensor, self.name, fn)
        return fn if instance is None else fn.__get__(instance, owner)


def _attach(name: str, make: Callable[[], Any]) -> None:
    setattr(Tensor, name, _Lazy(name, make))


def install(op: R.Op) -> None:
    """Attach an op's methods and operators (built-in ops only). ValueError if an argument has a
    name that the generated call needs itself."""
    if not isinstance(op, Awaited) and op.kind != "composite":
        for p in op.params:
            if p.name in callpath.RESERVED:
                raise ValueError(f"op {op.qualname!r}: an argument cannot be called {p.name!r}; "
                                 "give it another name")
    if op.namespace:
        return
    if op.method:
        for name in (op.name, *op.aliases):
            if name not in Tensor.__dict__:
                _attach(name, lambda: _method(op))
    if op.inplace:
        for name in (op.name, *op.aliases):
            _attach(name + "_", lambda name=name: _inplace_method(op, name + "_"))
    for special, reflected in _BY_OP.get(op.name, ()):
        _attach(special, lambda s=special, r=reflected: _operator(op, s, r))
    special = _INPLACE_OPERATORS.get(op.name)
    if special is not None and op.inplace:
        _attach(special, lambda: _inplace_method(op, op.name + "_"))


def _method(op: R.Op) -> Any:
    if op.kind == "composite":
        return _plain(op.fn)
    return callpath.build(op, callpath.function_source(op, op.name, method=True), op.name)


def _plain(fn: Any) -> Any:
    """A callable that binds as a method."""
    import types

    return fn if isinstance(fn, types.FunctionType) else (
        lambda self, *args, **kwargs: fn(self, *args, **kwargs))


def _inplace_method(op: R.Op, name: str) -> Any:
    if op.kind == "elementwise":
        return callpath.build(op, callpath.inplace_source(op, name), name)

    if getattr(op, "update", None) is not None:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return NS["inplace_kernel"](op, name, self, args, kwargs)
    else:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return NS["assign"](self, op.fn(self, *args, **kwargs), name)

    method.__name__ = name
    return method


def _reflected(fn: Callable[[Any, Any], Any], name: str) -> Callable[[Any, Any], Any]:
    """A binary operator with its sides exchanged; a tensor is on the right."""
    def operator(self: Any, other: Any) -> Any:
        if not isinstance(self, Tensor):  # only where called by name: Tensor.__radd__(2, x)
            wrong = AttributeError if name in ("__rdiv__", "__rtruediv__") else TypeError
            raise wrong(f"descriptor '{name}' requires a 'Tensor' object but received a "
                        f"'{type(self).__name__}'")
        return fn(other, self)

    made = _with_operand(operator)
    made.__name__ = name
    return made


def _with_operand(fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A binary operator that leaves operands it cannot take to the other side."""
    def operator(self: Any, other: Any) -> Any:
        other = callpath.operand(other)
        return other if other is NotImplemented else fn(self, other)

    return operator


def _operator(op: R.Op, special: str, reflected: bool) -> Any:
    fn = op.fn
    if reflected:
        return _reflected(fn, special)
    if op.kind == "elementwise":
        return callpath.build(
            op, callpath.function_source(op, special, method=True, dunder=True), special)
    made = (lambda self: fn(self)) if len(op.positional) == 1 else _with_operand(fn)
    made.__name__ = special
    return made


def _spelled_star(op: R.Op) -> Any:
    """A composite whose starred argument may also be given by name: flip(x, dims=(0, 1))."""
    import functools

    body = op.body  # type: ignore[attr-defined]
    name = next(p.name for p in op.params if p.kind == "*")

    @functools.wraps(body)
    def fn(*args: Any, **kwargs: Any) -> Any:
        if name in kwargs:
            args = (args[0], *argument_names.by_name(op, args[1:], kwargs.pop(name)))
        return body(*args, **kwargs)

    return fn


def _composite_with_out(op: R.Op, plain: Any) -> Any:
    """A composite with an out= argument: run `plain`, then write."""
    import functools

    body = plain
    if op.returns:
        def body(*args: Any, **kwargs: Any) -> Any:
            return callpath.result_tuple(op, plain(*args, **kwargs))

    @functools.wraps(plain)
    def fn(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        try:
            if out is None:
                return body(*args, **kwargs)
            NS["refuse_recorded"](op, out, (*args, *kwargs.values()))
            rule = op.out_cast
            if not isinstance(rule, str):
                rule = NS["out_rule"](op, op.bind(args, kwargs))
            return NS["write_out"](op, out, body(*args, **kwargs), rule)
        except AttributeError as e:
            raise NS["wrong_type"](op, args, kwargs, e) from None
        except TypeError:
            named = argument_names.translated(op, args, kwargs)
            if named is None:
                raise
        return fn(*args, out=out, **named)

    return fn


for _op in R.REGISTRY.values():  # those that wait for their family, or that floors below load
    install(_op)
R.on_register = install
R.build_function = build_function
R.build_inplace = lambda op: _inplace_method(op, op.name + "_")


def zeros_meta(m: Meta) -> Tensor:
    """Zeros of a meta's shape and dtype."""
    return R.REGISTRY["full"].fn(m.shape, 0, dtype=m.dtype, device=m.device)


autograd_node.zeros = zeros_meta
__all__ = ["Tensor", "Size", "make_tensor", "empty_meta", "install", "resolve", "engine", "Node"]
