"""x[key] and x[key] = value.

Floor 5; imports callpath, tensor, ops. Integers, slices, None and Ellipsis make a view whose plan
is found by (meta, key); tensors, arrays, lists and masks go on to `index_get` and `index_put_at`.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any
from weakref import ref

import numpy as np

from . import linking
from .autograd.node import record
from .autograd.state import clock, mode
from .base import dtype as dt
from .base.limits import LARGEST, check_fits
from .base.located import located
from .base.meta import expand_strides, meta
from .callpath import NS
from .ops import plans as P
from .ops import registry as R
from .runtime.backend import UNCOUNTED
from .tensor import Tensor

_new = object.__new__
_INTS = {int}
_ALL = slice(None)
_WHOLE, _NEVER = "whole dim", object()  # parts of cache keys; no key holds the second
# slices whose bounds are other than ints and None are not looked up: 1.0 and True equal 1
_SLICE = {(a, b): 0 for a in (int, type(None)) for b in (int, type(None))}
_FULL = (None, None, None)  # a slice in a canonical key is its (start, stop, step)
_KINDS = ("only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are "
          "valid indices (got {})")


# ---- the view of a basic key  ------------------------------------------------------------------

def basic_geometry(m: Any, key: tuple[Any, ...]) -> tuple[list[int], list[int], int]:
    """(shape, strides, offset) of a canonical key: ints, (start, stop, step), None, Ellipsis."""
    given = sum(k is not None and k is not Ellipsis for k in key)
    if given > m.ndim:
        raise IndexError(f"too many indices for tensor of dimension {m.ndim}")
    shape: list[int] = []
    strides: list[int] = []
    offset = d = 0
    seen = False
    for k in key:
        if k is None:
            shape.append(1)
            strides.append(m.strides[d] * m.shape[d] if d < m.ndim else 1)
        elif k is Ellipsis:
            n = 0 if seen else m.ndim - given
            seen = True
            shape += m.shape[d:d + n]
            strides += m.strides[d:d + n]
            d += n
        elif type(k) is int:
            size = m.shape[d]
            if not -size <= k < size:
                raise IndexError(f"index {k} is out of bounds for dimension {d} with size {size}")
            offset += (k + size if k < 0 else k) * m.strides[d]
            d += 1
        else:
            start, stop, step = slice_bounds(k, m.shape[d])
            n = max(0, -(-(stop - start) // step))
            shape.append(n)
            strides.append(m.strides[d] * step)
            offset += start * m.strides[d]
            d += 1
    shape += m.shape[d:]
    strides += m.strides[d:]
    return shape, strides, offset if 0 not in shape else 0


def slice_bounds(k: tuple[Any, ...], size: int) -> tuple[int, int, int]:
    """(start, stop, step) of a slice of a dim, in range."""
    step = 1 if k[2] is None else k[2]
    if step == 0:
        raise ValueError("slice step cannot be zero")
    if step < 0:
        raise ValueError("step must be greater than zero")
    start, stop, _ = slice(k[0], k[1], 1).indices(size)
    return start, max(start, stop), step


@R.view_op("input: T, key")
class index_view:
    """The view of a key of integers, slices as (start, stop, step), None and Ellipsis."""

    where = ()
    method = False

    def view(m, key):
        return basic_geometry(m, key)

    def vjp(ctx, g):
        from .ops.pieces import piece
        from .ops.region import place_like

        cache, m = ctx.plan.cache, ctx.meta("input")
        cut = cache.get("cut")
        if cut is None:
            cut = cache["cut"] = one_cut(m, ctx.key)
        if not cut:
            return place_like(g, m, basic_geometry, ctx.key)
        dim, start, gone = cut
        return piece(ctx, g.unsqueeze(dim) if gone else g, dim, start)


def one_cut(m: Any, key: tuple[Any, ...]) -> tuple[int, int, bool] | tuple[()]:
    """(dim, start, whether the dim is gone) of a canonical key that takes neighbours of one dim
    and all of the others; () for other keys."""
    if None in key or key.count(Ellipsis) > 1:
        return ()
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    rest = key[at + 1:]
    row = [*key[:at], *[_FULL] * (m.ndim - at - len(rest)), *rest]
    cuts = []
    for d, k in enumerate(row):
        if type(k) is int:
            cuts.append((d, k % m.shape[d], True))
        else:
            start, stop, step = slice_bounds(k, m.shape[d])
            if step != 1:
                return ()
            if (start, stop) != (0, m.shape[d]):
                cuts.append((d, start, False))
    if len(cuts) > 1:
        return ()
    return cuts[0] if cuts else (0, 0, False)


_plans: dict[Any, Any] = {}  # (meta, quick key) -> ViewPlan
_gets: dict[Any, Any] = {}  # (meta, key with metas for index tensors) -> (index_get's plan, dims)
_puts: dict[Any, Any] = {}  # (meta, key, value's meta or type) -> how to write
_MOST = 50_000


def getitem(x: Tensor, key: Any) -> Any:
    """x[key]."""
    t = type(key)
    try:
        if t is int:
            p = _plans[x.meta, key]
        elif t is tuple:
            parts = []
            for k in key:
                t = type(k)
                if t is slice:
                    k = _SLICE[k.start.__class__, k.stop.__class__], k.start, k.stop, k.step
                elif t is not int and k is not None and k is not Ellipsis:
                    return getitem_tensors(x, key)
                parts.append(k)
            p = _plans[x.meta, tuple(parts)]
        elif t is slice:
            p = _plans[x.meta, ((_SLICE[key.start.__class__, key.stop.__class__], key.start,
                                 key.stop, key.step),)]
        elif key is None or key is Ellipsis:
            p = _plans[x.meta, (key,)]
        elif t is Tensor:
            return getitem_tensors(x, (key,))
        elif t is list and key and set(map(type, key)) == _INTS:
            return getitem(x, make(key, x))
        else:
            return getitem_slow(x, key)
    except (KeyError, TypeError):
        return getitem_slow(x, key)
    if NS["modes"]:
        return getitem_slow(x, key)
    d = x.data_
    r = _new(Tensor)
    r.data_ = d if p.offset == 0 else d.view(p.offset)
    r.meta = p.meta
    r.kids = None
    e = x.node
    if e is not None and p.diff and mode.enabled:
        r.node = record(p, (e,), (x, key), (r,))
    else:
        r.node = None
    root = x.root
    r.root = root = x if root is None else root
    kids = root.kids
    if kids is None:
        root.kids = [ref(r)]
    else:
        kids.append(ref(r))
        if not len(kids) & 31:
            linking.prune(root)
    return r


def getitem_tensors(x: Tensor, key: tuple[Any, ...]) -> Any:
    """x[key] for a key of whole slices and index tensors, through a cached plan."""
    try:
        p, dims = _gets[x.meta, tuple([
            k.meta if type(k) is Tensor else
            _WHOLE if type(k) is slice and k == _ALL else _NEVER for k in key])]
    except (KeyError, TypeError):
        return getitem_slow(x, key)
    if NS["modes"]:
        return getitem_slow(x, key)
    found = tuple([k for k in key if type(k) is Tensor])
    r = _new(Tensor)
    r.data_ = p.launch(x.data_, *[k.data_ for k in found])
    r.meta = p.meta
    r.root = r.kids = None
    e = x.node
    if e is not None and p.diff and mode.enabled:
        r.node = record(p, (e, *[None] * len(found)), (x, found, dims), (r,))
    else:
        r.node = None
    return r


def tensor_key(x: Tensor, key: Any) -> Any:
    """The key of `_gets` and `_puts`, if `key` is whole slices and int64 or int32 tensors with
    dims on x's device; None otherwise."""
    parts: list[Any] = []
    for k in key if type(key) is tuple else (key,):
        if type(k) is slice:
            if k != _ALL:
                return None
            k = _WHOLE
        elif type(k) is Tensor:
            m = k.meta
            if m.dtype.kind != "i" or not m.ndim or m.device is not x.meta.device:
                return None
            k = m
        else:
            return None
        parts.append(k)
    return tuple(parts)


def quick_key(key: Any) -> Any:
    """What `getitem` probes with for a key; None if it holds more than ints, slices of ints, None
    and Ellipsis."""
    if type(key) is int:
        return key
    parts: list[Any] = []
    for k in key if type(key) is tuple else (key,):
        if type(k) is slice:
            if not all(v is None or type(v) is int for v in (k.start, k.stop, k.step)):
                return None
            k = (0, k.start, k.stop, k.step)
        elif type(k) is not int and k is not None and k is not Ellipsis:
            return None
        parts.append(k)
    return tuple(parts)


def overridden(x: Any, fn: Any, args: tuple[Any, ...]) -> Any:
    """Give a subclass that overrides ops the call; NotImplemented otherwise."""
    if NS["no_override"].depth:
        return NotImplemented
    for v in (args[-1], x):
        m = getattr(v, "meta", None)
        if m is not None and getattr(m, "override", None) is not None and not m.virtual:
            return type(v).__torch_function__(fn, (type(v),), args, {})
    return NotImplemented


@located
def getitem_slow(x: Tensor, key: Any) -> Any:
    """Any key: a view by its basic part, then advanced indexing."""
    handled = overridden(x, Tensor.__getitem__, (x, key))
    if handled is not NotImplemented:
        return handled
    if type(key) is tuple and len(key) == 1:
        key = key[0]
    if type(key) is Tensor and key.meta.dtype is dt.bool_ and key.meta.ndim and (
            key.meta.shape == x.meta.shape and key.meta.device is x.meta.device):
        return R.REGISTRY["masked_pick"].fn(x, key)
    basic, dims, indices = parse(x, key)
    y = take_view(x, basic)
    if not indices:
        if not NS["modes"]:
            remember(x, key, basic)
        return y
    r = R.REGISTRY["index_get"].fn(y, tuple(indices), tuple(dims))
    remember_tensors(x, key, tuple(dims))
    return r


def remember_tensors(x: Tensor, key: Any, dims: tuple[int, ...]) -> None:
    """Let `getitem_tensors` find the plan of index_get."""
    quick = tensor_key(x, key)
    if quick is None or NS["modes"] or x.meta.override is not None:
        return
    metas = tuple([k for k in quick if k is not _WHOLE])
    p = R.REGISTRY["index_get"].plans.get((x.meta, metas, dims))
    if p is not None and p.launch is not None:
        if len(_gets) > _MOST:
            _gets.clear()
        _gets[x.meta, quick] = (p, dims)


def take_view(x: Tensor, basic: tuple[Any, ...]) -> Any:
    """The view of a canonical key; x itself for one that changes nothing."""
    return R.REGISTRY["index_view"].fn(x, basic)


def remember(x: Tensor, key: Any, basic: tuple[Any, ...]) -> None:
    """Let `getitem` find the view's plan by the key as the user wrote it."""
    p = R.REGISTRY["index_view"].plans.get((x.meta.plain, basic))
    quick = quick_key(key)
    if p is None or x.meta.override is not None or quick is None:
        return
    if len(_plans) > _MOST:
        _plans.clear()
    _plans[x.meta, quick] = p


# ---- reading a key  ----------------------------------------------------------------------------

def integer(v: Any) -> int:
    """A slice bound or index as an int. TypeError as Python's."""
    if type(v) is int:
        return v
    try:
        return int(v.__index__())
    except AttributeError:
        raise TypeError("slice indices must be integers or None or have an __index__ method"
                        ) from None


def as_items(key: Any) -> tuple[Any, ...]:
    """The items of a key: a tuple's, or those of a list that PyTorch reads as a tuple."""
    if type(key) is tuple:
        return key
    if isinstance(key, tuple):
        return tuple(key)
    if isinstance(key, list) and len(key) < 32 and any(
            k is None or k is Ellipsis or isinstance(k, (Tensor, slice, list, tuple))
            for k in key):
        warnings.warn("indexing with a list of indices is deprecated; use a tuple: x[tuple(seq)]",
                      stacklevel=5)
        return tuple(key)
    return (key,)


def parse(x: Tensor, key: Any) -> tuple[tuple[Any, ...], list[int], list[Any]]:
    """(canonical basic key, dims of its view that are indexed by tensors, those tensors)."""
    items = [canonical(k, x) for k in as_items(key)]
    ndim = x.meta.ndim
    used = sum(width(k) for k in items)
    if ndim == 0 and any(type(k) is int for k in items):
        raise IndexError("invalid index of a 0-dim tensor. Use `tensor.item()` in Python or "
                         "`tensor.item<T>()` in C++ to convert a 0-dim tensor to a number")
    if ndim == 0 and any(type(k) is tuple for k in items):
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    if used > ndim:
        raise IndexError(f"too many indices for tensor of dimension {ndim}")
    basic: list[Any] = []
    dims: list[int] = []
    indices: list[Any] = []
    d = at = 0  # dim of x, dim of the view
    seen = False
    for k in items:
        if k is Ellipsis:
            n = 0 if seen else ndim - used
            seen = True
            basic += [_FULL] * n
            d, at = d + n, at + n
        elif k is None:
            basic.append(None)
            at += 1
        elif type(k) is int:
            basic.append(checked(k, d, x))
            d += 1
        elif type(k) is tuple:
            basic.append(k)
            d, at = d + 1, at + 1
        elif k.meta.dtype.kind in "bu":
            parts = mask_indices(k, x, d)
            basic += [_FULL] * k.meta.ndim if k.meta.ndim else [None]
            for p in parts:
                dims.append(at)
                indices.append(p)
                at += 1
            d += k.meta.ndim
        else:
            basic.append(_FULL)
            dims.append(at)
            indices.append(k)
            d, at = d + 1, at + 1
    return tuple(basic), dims, indices


def checked(k: int, d: int, x: Tensor) -> int:
    """An integer index; IndexError if it is out of range."""
    size = x.meta.shape[d]
    if not -size <= k < size:
        raise IndexError(f"index {k} is out of bounds for dimension {d} with size {size}")
    return k


def width(k: Any) -> int:
    """How many dims of the tensor an item of a canonical key takes."""
    if k is None or k is Ellipsis:
        return 0
    if type(k) in (int, tuple):
        return 1
    return k.meta.ndim if k.meta.dtype.kind in "bu" else 1


def canonical(k: Any, x: Tensor) -> Any:
    """An item as int, slice triple, None, Ellipsis or index tensor."""
    if k is None or k is Ellipsis or type(k) is int:
        return k
    if isinstance(k, slice):
        return tuple([None if v is None else integer(v) for v in (k.start, k.stop, k.step)])
    if isinstance(k, bool):
        return boolean(k, x)
    if isinstance(k, Tensor):
        return index_tensor(k, x)
    if isinstance(k, np.ndarray):
        return index_tensor(make(k, x), x)
    if isinstance(k, np.bool_):
        raise IndexError(_KINDS.format("numpy.bool"))
    if isinstance(k, (list, tuple, range)):
        t = make(k if len(k) else np.zeros(0, np.int64), x)
        return index_tensor(t, x)
    if isinstance(k, str):
        raise TypeError("new(): invalid data type 'str'")
    if hasattr(k, "__index__") and not isinstance(k, float):
        return int(k.__index__())
    raise IndexError(_KINDS.format(type(k).__name__))


def make(data: Any, x: Tensor) -> Any:
    """A list or array as an index tensor on x's device."""
    from .creation import tensor

    return tensor(data if isinstance(data, np.ndarray) else list(data), device=x.meta.device)


def boolean(value: bool, x: Tensor) -> Any:
    """A Python bool as a 0-d mask."""
    from .creation import tensor

    return tensor(value, device=x.meta.device)


def index_tensor(t: Any, x: Tensor) -> Any:
    """An index tensor as it is used: 0-d integers as an int, else checked and moved."""
    d = t.meta.dtype
    if d.kind == "i" and not t.meta.ndim and d.itemsize > 0 and not t.meta.virtual:
        return int(t.item())  # (one example of a vmap has no value to read: it stays a tensor)
    if d not in (dt.int64, dt.int32, dt.bool_, dt.uint8):
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if d is dt.uint8:
        warnings.warn("indexing with dtype uint8 is deprecated, use bool", stacklevel=6)
    if t.meta.device is not x.meta.device:
        host = "host-memory" in P.backend_of(t.meta.device).capabilities(0).features
        if not host:
            raise RuntimeError(f"indices should be either on {x.meta.device} or on the host (got "
                               f"{t.meta.device})")
        t = t.to(x.meta.device)
    return t


def mask_indices(k: Any, x: Tensor, d: int) -> list[Any]:
    """The index tensors of a mask over dims d, d + 1, ... of x."""
    shape = x.meta.shape
    for j, n in enumerate(k.meta.shape):
        if n != shape[d + j]:
            raise IndexError(
                f"The shape of the mask {list(k.meta.shape)} at index {j} does not match the "
                f"shape of the indexed tensor {list(shape)} at index {d + j}")
    if not k.meta.ndim:
        from .creation import zeros

        return [zeros(int(bool(k.item())), dtype=dt.int64, device=x.meta.device)]
    rows = R.REGISTRY["nonzero_rows"].fn(k)
    return [rows.select(0, j) for j in range(k.meta.ndim)]


# ---- writing  ----------------------------------------------------------------------------------

@located
def setitem_slow(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value: a number or a tensor that broadcasts to x[key]."""
    if x.meta.virtual or x.data_.epoch != UNCOUNTED:
        return _setitem(x, key, value)
    base = x.data_.base
    before = base.epoch, base.writer
    try:
        _setitem(x, key, value)
    finally:
        base.epoch, base.writer = before


def _setitem(x: Tensor, key: Any, value: Any) -> None:
    handled = overridden(x, Tensor.__setitem__, (x, key, value))
    if handled is not NotImplemented:
        return
    number = type(value) in (float, int, bool)
    if not number and not isinstance(value, Tensor):
        value = as_value(x, value)
        number = not isinstance(value, Tensor)
    if number:
        value = held(value, x.meta.dtype)
    t = type(key)
    if t is Tensor and key.meta.dtype is dt.bool_ and key.meta.ndim and (
            number and key.meta.shape == x.meta.shape[:key.meta.ndim]):
        fill_mask(x, key, value)
        return
    if t is int or t is slice:
        indices = None
        y = getitem(x, key)
    else:
        basic, dims, indices = parse(x, key)
        y = take_view(x, basic)
    if indices:
        write_indices(y, dims, indices, value)
        remember_put(x, y, key, dims, value)
    elif number:
        y.fill_(value)
        remember_set(x, key, value)
    else:
        y.copy_(fitting(value, y.meta.shape))
        remember_set(x, key, value)


def remember_set(x: Tensor, key: Any, value: Any) -> None:
    """Let `setitem` find the plan of a write to a view."""
    quick = quick_key(key)
    view = _plans.get((x.meta, quick)) if quick is not None else None
    if view is None or NS["modes"] or not view.meta.numel:
        return
    if isinstance(value, Tensor):
        m = value.meta
        if m.device is not x.meta.device or m.ndim > view.meta.ndim or type(value) is not Tensor:
            return
        wide = meta(m.dtype, view.meta.shape,
                    expand_strides(m.shape, m.strides, view.meta.shape), m.device)
        p = R.REGISTRY["convert"].iplans.get((wide, view.meta))
        kind: Any = m
    else:
        p = R.REGISTRY["full"].iplans.get((view.meta, type(value)))
        kind = type(value)
    if p is not None and p.into is not None and not view.meta.overlapping:
        store(x, quick, kind, (p.into, view.offset))


def remember_put(x: Tensor, y: Tensor, key: Any, dims: list[int], value: Any) -> None:
    """Let `setitem` find the plan of a write through index tensors."""
    quick = tensor_key(x, key)
    if quick is None or NS["modes"]:
        return
    if isinstance(value, Tensor):
        if type(value) is not Tensor or value.meta.dtype is not x.meta.dtype:
            return
        kind: Any = value.meta
    else:
        kind = type(value)
        if x.meta.dtype.kind in "ui" and kind is float:
            return
    metas = tuple([k for k in quick if k is not _WHOLE])
    p = R.REGISTRY["index_put_at"].iplans.get((x.meta, metas, tuple(dims), "set", True, kind))
    if p is not None and p.into is not None:
        store(x, quick, kind, (p.into, None))


def _parts(key: tuple[Any, ...]) -> Any:
    """The form of a key under which `_puts` may know it: as `quick_key` and `tensor_key` give."""
    tensors = any(type(k) is Tensor for k in key)
    out: list[Any] = []
    for k in key:
        t = type(k)
        if t is Tensor:
            k = k.meta
        elif t is slice:
            k = (_WHOLE if k == _ALL else _NEVER) if tensors else (
                _SLICE[k.start.__class__, k.stop.__class__], k.start, k.stop, k.step)
        elif t is not int and k is not None and k is not Ellipsis:
            k = _NEVER
        out.append(k)
    return tuple(out)


def store(x: Tensor, quick: Any, kind: Any, how: Any) -> None:
    """Remember how to write."""
    if x.meta.override is None:
        if len(_puts) > _MOST:
            _puts.clear()
        _puts[x.meta, quick, kind] = how


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value. Writes that nothing records go straight to their kernel."""
    t = type(key)
    parts: Any = key
    try:
        if t is Tensor:
            parts = (key.meta,)
        elif t is slice:
            parts = ((_SLICE[key.start.__class__, key.stop.__class__], key.start, key.stop,
                      key.step),)
        elif t is tuple:
            parts = _parts(key)
        elif t is not int:
            setitem_slow(x, key, value)
            return
        tensor = type(value) is Tensor
        into, offset = _puts[x.meta, parts, value.meta if tensor else type(value)]
    except (KeyError, TypeError):
        setitem_slow(x, key, value)
        return
    d = x.data_
    base = d.base
    root = x.root
    if NS["modes"] or x.node is not None or (root is not None and root.node is not None) or (
            tensor and (value.node is not None or value.data_.base is base)):
        setitem_slow(x, key, value)
        return
    v = value.data_ if tensor else value if -128 <= value < 128 else held(value, x.meta.dtype)
    if offset is None:
        found = [key.data_] if t is Tensor else [k.data_ for k in key if type(k) is Tensor]
        if any(k.base is base for k in found):
            setitem_slow(x, key, value)
            return
        into(d, d, *found, v)
    else:
        into(d.view(offset) if offset else d, v)
    f = sys._getframe(2)
    base.version += 1
    if d is not base and d.epoch:  # a view whose writes are not counted
        return
    clock[0] = c = clock[0] + 1
    base.epoch = c
    base.writer = ("__setitem__", f.f_code, f.f_lasti)


def held(value: Any, d: dt.dtype) -> Any:
    """A number as an assignment writes it. RuntimeError if the dtype cannot hold it, but for floats
    of 16 bits, which PyTorch assigns by way of wider ones: there it becomes an infinity."""
    if d.to_real().itemsize == 2 and d.kind in "fc" and abs(value) > LARGEST[d.to_real().name]:
        return math.copysign(math.inf, value)
    check_fits(value, d)
    return value


def fill_mask(x: Tensor, mask: Tensor, value: Any) -> None:
    """x[mask] = number, without finding the positions."""
    for _ in range(x.meta.ndim - mask.meta.ndim):
        mask = mask.unsqueeze(-1)  # type: ignore[attr-defined]
    if x.meta.dtype.kind in "ui" and type(value) is float:
        value = int(value)
    x.masked_fill_(mask, value)  # type: ignore[attr-defined]


def as_value(x: Tensor, value: Any) -> Any:
    """A NumPy scalar or complex number to assign. TypeError for anything else."""
    if isinstance(value, (np.generic, bool, int, float)):
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, complex):
            return value
    if isinstance(value, complex):
        return NS["complex_number"]("__setitem__", value, x)
    raise TypeError(f"can't assign a {type(value).__module__}.{type(value).__name__} to a "
                    f"tensor of {x.meta.dtype!r}" if type(value).__module__ != "builtins" else
                    f"can't assign a {type(value).__name__} to a tensor of {x.meta.dtype!r}")


def fitting(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The value without leading dims of size 1 that the target does not have."""
    v = value.meta.shape
    extra = len(v) - len(shape)
    lead = 0
    while lead < extra and v[lead] == 1:
        lead += 1
    if lead:
        value = value.reshape(v[lead:])  # type: ignore[attr-defined]
    if value.meta.ndim > len(shape):
        raise RuntimeError(
            f"expand(tensor of shape {list(value.meta.shape)}, size={list(shape)}): the number of "
            f"sizes provided ({len(shape)}) must be greater or equal to the number of dimensions "
            f"in the tensor ({value.meta.ndim})")
    return value


def write_indices(y: Tensor, dims: list[int], indices: list[Any], value: Any) -> None:
    """y[indices] = value in place."""
    if isinstance(value, Tensor):
        if value.meta.device is not y.meta.device:
            if value.meta.ndim:
                raise RuntimeError(f"expected value to be on {y.meta.device}, but it is on "
                                   f"{value.meta.device}")
            value = value.to(y.meta.device)  # type: ignore[attr-defined]
        if value.meta.dtype is not y.meta.dtype:
            if value.meta.ndim:
                raise RuntimeError("Index put requires the source and destination dtypes match, "
                                   f"got {y.meta.dtype!r} for the destination and "
                                   f"{value.meta.dtype!r} for the source.")
            value = value.to(y.meta.dtype)  # type: ignore[attr-defined]
        from .ops.scatter import index_geometry

        full = index_geometry(y.meta.shape, tuple(dims), [i.meta.shape for i in indices])[0]
        value = fitting(value, full)
    elif y.meta.dtype.kind in "ui" and type(value) is float:
        value = int(value)
    R.REGISTRY["index_put_at"].ifn(y, tuple(indices), tuple(dims), "set", True, value)


@R.composite(method=True, samples="""
    f(3, 4), (v([0, 2]), v([1, 3])), f(2)
    f(3, 4).transposed, (v([1, 1, -1]),), f(4), True
    f(2, 3, 4), (None, v([2, 0])), f(2, 2, 4)
    i(4), (v([True, False, True, False]),), v(7)
""")
def index_put(input: Any, indices: Any, values: Any, accumulate: Any = False) -> Tensor:
    """A copy of `input` with values written (or added) at a tuple of index tensors."""
    basic, dims, found = parse(input, tuple(slice(None) if k is None else k for k in indices))
    if not all(k == _FULL for k in basic):
        raise IndexError("index_put(): indices must be tensors (or None for a whole dim)")
    return R.REGISTRY["index_put_at"].fn(input, tuple(found), tuple(dims),
                                         "sum" if accumulate else "set", True, values)


@R.composite(method=True, out=False, name="index_put_", samples="""
    f(3, 4), (v([0, 2]), v([1, 3])), f(2)
    f(3, 4).transposed, (v([1, 1, -1]),), f(4), True
""")
def index_put_inplace(input: Any, indices: Any, values: Any, accumulate: Any = False) -> Tensor:
    """Write (or add) values at a tuple of index tensors."""
    _, dims, found = parse(input, tuple(slice(None) if k is None else k for k in indices))
    return R.REGISTRY["index_put_at"].ifn(input, tuple(found), tuple(dims),
                                          "sum" if accumulate else "set", True, values)


NS["getitem"] = getitem
NS["setitem"] = setitem
