"""Factory functions: tensors from data, shapes and ranges.

Floor 7; imports tensor and ops.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .base import dtype as dt
from .base.layout import (
    channels_last,
    channels_last_3d,
    contiguous_format,
    format_strides,
    layout,
    like_strides,
    matches_format,
    memory_format,
    preserve_format,
    strided,
)
from .base.limits import check_fits
from .base.meta import broadcast_shapes as common_shape
from .base.meta import meta
from .callpath import NS
from .from_data import from_data, from_numbers, upload
from .ops import plans as P
from .ops import registry as R
from .runtime import tracing
from .runtime.devices import _default as _chosen
from .runtime.devices import lasting, resolve
from .tensor import Size, Tensor, empty_meta, make_tensor
from .wholes import one_by_one

__all__ = [
    "tensor", "as_tensor", "asarray", "scalar_tensor", "frombuffer", "empty", "zeros",
    "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like", "empty_strided",
    "empty_permuted", "arange", "range", "linspace", "logspace", "eye", "tril_indices",
    "triu_indices", "contiguous_format", "preserve_format", "channels_last", "channels_last_3d",
    "strided", "layout", "memory_format", "broadcast_shapes"]

_new_tensor = object.__new__


# ---- from data  --------------------------------------------------------------------------------

def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Tensor:
    """A tensor with a copy of `data`: a number, nested lists, an array or a tensor.

    The dtype is inferred from the elements: float gives the default dtype, int gives int64.

    >>> tensor([[1, 2], [3, 4]]).shape
    lampion.Size([2, 2])
    """
    t = type(data)
    if type(dtype) is type:
        dtype = dt.of_type(dtype)
    if t is float or t is bool or t is int:
        d = dtype or (dt._default if t is float else dt.bool_ if t is bool else dt.int64)
        if t is float or d.kind in "bfc" or -1 << 63 <= data < 1 << 63:
            if d.kind in "ui":
                check_fits(data, d)
            r = filled(meta(d, (), (), resolve(device)), data)
            return r.requires_grad_() if requires_grad else r
    if t is list and data:
        r = from_numbers(data, dtype, device)
        if r is not None:
            return r.requires_grad_() if requires_grad else r
    if isinstance(data, Tensor):
        warnings.warn("To copy construct from a tensor, it is recommended to use "
                      "sourceTensor.detach().clone() or "
                      "sourceTensor.detach().clone().requires_grad_(True), rather than "
                      "tensor(sourceTensor).", stacklevel=2)
    r = from_data(data, dtype, device)
    return r.requires_grad_() if requires_grad else r


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory with a tensor or NumPy array where possible (history is
    kept for tensors)."""
    if isinstance(data, Tensor):
        where = data.meta.device if device is None else resolve(device)
        return data.to(where, dtype or data.meta.dtype)  # type: ignore[attr-defined]
    if isinstance(data, np.ndarray):
        from .interop import from_numpy  # type: ignore[attr-defined]

        d = dt.from_numpy(data.dtype)
        if all(s >= 0 and s % data.itemsize == 0 for s in data.strides):
            r = from_numpy(data)
            where = r.meta.device if device is None else resolve(device)
            return r.to(where, dtype or d)
    return from_data(data, dtype, device, copy=False)


NS["as_tensor"] = as_tensor


def asarray(obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None,
            requires_grad: bool = False) -> Tensor:
    """`obj` as a tensor: shared if it can be, copied if `copy`; ValueError if copy=False cannot be
    kept."""
    if isinstance(obj, (np.ndarray, Tensor)):
        r = as_tensor(obj, dtype, device)
        if isinstance(obj, Tensor):
            r = r.detach() if requires_grad else r
            shared = r.data_.base is obj.data_.base
        else:
            shared = dtype in (None, dt.from_numpy(obj.dtype))
        if copy and shared:
            r = r.detach().clone()  # type: ignore[attr-defined]
        if copy is False and not shared:
            raise ValueError("can't alias tensor with a different dtype or device")
    else:
        if hasattr(obj, "__dlpack__") and copy is not True:
            from .dlpack import from_dlpack  # type: ignore[attr-defined]

            r = from_dlpack(obj)
            r = r if dtype is None and device is None else as_tensor(r, dtype, device)
        elif isinstance(obj, (bytes, bytearray, memoryview)):
            r = frombuffer(obj, dtype=dtype or dt.get_default_dtype())
            r = r.clone() if copy else r  # type: ignore[attr-defined]
        elif copy is False:
            raise ValueError("can't alias arbitrary sequence into a tensor.")
        else:
            r = from_data(obj, dtype, device)
    return r.requires_grad_() if requires_grad else r


def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0,
               requires_grad: bool = False) -> Tensor:
    """A vector over the memory of a bytes-like object, without a copy."""
    from .interop import from_numpy  # type: ignore[attr-defined]

    n = len(memoryview(buffer).cast("B"))
    if n == 0 or count == 0:
        raise ValueError(f"both buffer length ({n}) and count ({count}) must not be 0")
    if not 0 <= offset < n:
        raise ValueError(f"offset ({offset} bytes) must be non-negative and no greater than buffer "
                         f"length ({n} bytes) minus 1")
    size = dtype.itemsize
    if count < 0:
        if (n - offset) % size:
            raise ValueError(f"buffer length ({n - offset} bytes) after offset ({offset} bytes) "
                             f"must be a multiple of element size ({size})")
        count = (n - offset) // size
    if offset + count * size > n:
        raise ValueError(f"requested buffer length ({count} * {size} bytes) after offset "
                         f"({offset} bytes) must not be greater than actual buffer length "
                         f"({n} bytes)")
    a = np.frombuffer(buffer, dtype=dtype.np, count=count, offset=offset)
    r = from_numpy(a)
    return r.requires_grad_() if requires_grad else r


def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
                  ) -> Tensor:
    """A 0-d tensor of a number, of the default dtype unless given."""
    return tensor(s, dtype=dtype or (dt._default.to_complex() if isinstance(s, complex)
                                     else dt._default), device=device,
                  requires_grad=requires_grad)


# ---- from shapes  ------------------------------------------------------------------------------

def sizes(size: Any, name: str) -> tuple[int, ...]:
    """(2, 3) from f(2, 3), f((2, 3)), f([2, 3])."""
    if len(size) == 1 and type(size[0]) is not int:
        first = size[0]
        if hasattr(first, "__iter__") and not (isinstance(first, Tensor) and not first.meta.ndim):
            size = first
    for n in size:
        if type(n) is not int:
            size = [_integer(n, name) for n in size]
            break
    shape = tuple(size)
    for n in shape:
        if n < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {n}: "
                               f"{list(shape)}")
    return shape


def _integer(n: Any, name: str) -> int:
    if isinstance(n, float) or not hasattr(n, "__index__"):
        raise TypeError(f"{name}(): argument 'size' (position 1) must be tuple of ints, not "
                        f"{type(n).__name__}")
    return int(n.__index__())


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that all of `shapes` (sizes or single numbers) broadcast to. RuntimeError if there
    is none, ValueError for a negative size.

    >>> broadcast_shapes((2, 1), (3,), 1)
    lampion.Size([2, 3])
    """
    given = [(s,) if isinstance(s, int) else tuple(s) for s in shapes]
    if any(n < 0 for s in given for n in s):
        raise ValueError(f"broadcast_shapes: negative length in {given}")
    return Size(common_shape(*given))


_fills: dict[Any, Any] = {}
R.plan_holders.append(_fills)
_empties: dict[Any, Any] = {}
_fulls: dict[Any, Any] = {}
R.plan_holders.append(_fulls)


def filled(m: Any, value: Any) -> Tensor:
    """A dense tensor of meta `m` filled with a number."""
    p = _fills.get((m, type(value)))
    if p is None or NS["modes"]:
        if isinstance(value, (complex, np.generic)) or type(value) not in (int, float, bool):
            return filled_slow(m, value)
        op = R.REGISTRY["full"]
        if NS["modes"]:
            return op.fn(m.shape, value, dtype=m.dtype, device=m.device, strides=m.strides)
        if len(_fills) > 20_000:
            _fills.clear()
        p = _fills[m, type(value)] = P.kernel_plan(  # type: ignore[assignment]
            op, [m.shape, type(value), m.dtype, m.device, None], [m])
    return make_tensor(p.launch(value), m, None)


def filled_slow(m: Any, value: Any) -> Tensor:
    """`filled` for complex and NumPy numbers and 0-d tensors."""
    if isinstance(value, (np.generic, Tensor)):
        value = value.item()
    if isinstance(value, complex):
        if m.dtype.kind != "c":
            raise RuntimeError(f"value cannot be converted to type {m.dtype.name} without overflow")
        r = empty_meta(m)
        r.copy_(upload(np.array(value), m.dtype, m.device))  # type: ignore[attr-defined]
        return r
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return filled(m, kind(value))
    raise TypeError(f"full(): argument 'fill_value' must be Number, not {type(value).__name__}")


def _finish(r: Tensor, requires_grad: bool, out: Any, keep_shape: bool = False) -> Tensor:
    """A new tensor as the options want it. With `keep_shape`, an out= tensor of as many elements
    keeps its shape."""
    if out is not None:
        from .updating import write_out

        if keep_shape and out.meta.numel == r.meta.numel:
            r = r.view(out.meta.shape)
        return write_out(R.REGISTRY["full"], out, r, "same")
    return r.requires_grad_() if requires_grad else r


def _check_layout(kind: Any) -> None:
    if kind is not None and kind is not strided:
        raise RuntimeError(f"layout {kind!r} is not supported; tensors are strided")


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          memory_format: Any = None, out: Any = None, layout: Any = None,
          pin_memory: bool = False, **named: Any) -> Tensor:
    """An uninitialised tensor. empty(2, 3) and empty((2, 3)) mean the same."""
    try:
        allocate, m = _empties[size, dtype or dt._default, device or _chosen[-1]]
    except (KeyError, TypeError, IndexError):
        pass
    else:
        if not (requires_grad or out is not None or memory_format is not None or named
                or layout is not None or NS["modes"] or float in map(type, size)):
            return make_tensor(allocate(m.span, m.device), m, None)
    shape = sizes(_named(size, named, "empty"), "empty")
    _check_layout(layout)
    strides = None if memory_format is None else format_strides(shape, memory_format)
    m = meta(dtype or dt._default, shape, strides, resolve(device))
    allocate = P.backend_of(m.device).allocate
    r = make_tensor(allocate(m.span, m.device), m, None)
    if tracing.active:
        tracing.active[-1].made(r.data_)
    if strides is None and type(size) is tuple and not any(type(n) is list for n in size):
        if len(_empties) > 10_000:
            _empties.clear()
        _empties[size, m.dtype, lasting(device, m.device)] = (allocate, m)
    if out is not None or requires_grad:
        return _finish(r, requires_grad, out)
    return r


def _named(size: Any, named: dict[str, Any], name: str) -> Any:
    if named:
        if "size" in named and not size:
            size = (named.pop("size"),)
        if named:
            raise TypeError(f"{name}() got an unexpected keyword argument '{next(iter(named))}'")
    elif len(size) == 2 and isinstance(size[0], (tuple, list)):
        raise TypeError(f"{name}() takes 1 positional argument but 2 were given")
    return size


def _maker(name: str, value: int, doc: str) -> Any:
    made: dict[Any, Any] = {}
    R.plan_holders.append(made)

    def make(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
             out: Any = None, layout: Any = None, pin_memory: bool = False,
             **named: Any) -> Tensor:
        try:
            launch, m = made[size, dtype or dt._default, device or _chosen[-1]]
        except (KeyError, TypeError, IndexError):
            pass
        else:
            if not (requires_grad or out is not None or named or layout is not None
                    or NS["modes"] or float in map(type, size)):
                r = _new_tensor(Tensor)
                r.data_ = launch(value)
                r.meta = m
                r.node = r.root = r.kids = None
                return r
        m = meta(dtype or dt._default, sizes(_named(size, named, name), name), None,
                 resolve(device))
        _check_layout(layout)
        r = filled(m, value)
        p = _fills.get((m, int))
        if p is not None and not named:
            if len(made) > 10_000:
                made.clear()
            try:
                made[size, m.dtype, lasting(device, m.device)] = (p.launch, m)
            except TypeError:  # a size as a list
                pass
        if out is not None or requires_grad:
            return _finish(r, requires_grad, out)
        return r

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc
    return make


zeros = _maker("zeros", 0, "A tensor of zeros. zeros(2, 3) and zeros((2, 3)) mean the same.")
ones = _maker("ones", 1, "A tensor of ones. ones(2, 3) and ones((2, 3)) mean the same.")


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
         requires_grad: bool = False, out: Any = None, layout: Any = None,
         pin_memory: bool = False) -> Tensor:
    """A tensor filled with `fill_value`, whose type gives the dtype unless it is given."""
    kind = type(fill_value)
    try:
        launch, m = _fulls[size, kind, dtype or dt._default, dtype is None, device or _chosen[-1]]
    except (KeyError, TypeError, IndexError):
        pass
    else:
        if not (requires_grad or out is not None or layout is not None or NS["modes"]):
            if not -128 <= fill_value < 128:  # what every dtype holds
                check_fits(fill_value, m.dtype)
            return make_tensor(launch(fill_value), m, None)
    if isinstance(fill_value, Tensor):
        d = dtype or fill_value.meta.dtype
    else:
        d = dtype or (out.meta.dtype if out is not None else dt.scalar_dtype(fill_value))
    _check_layout(layout)
    if kind in (int, float):
        check_fits(fill_value, d)
    m = meta(d, sizes((size,), "full"), None, resolve(device))
    r = filled(m, fill_value)
    p = _fills.get((m, kind))
    if p is not None and type(size) is tuple and out is None:
        if len(_fulls) > 10_000:
            _fulls.clear()
        where = lasting(device, m.device)
        _fulls[size, kind, dtype or dt._default, dtype is None, where] = (p.launch, m)
    return _finish(r, requires_grad, out)


NS["filled"] = filled
_likes: dict[Any, Any] = {}


def like(m: Any, dtype: Any, device: Any, fmt: Any) -> Any:
    """Meta of a fresh tensor like `m`."""
    key = (m, dtype, device, fmt)
    found = _likes.get(key)
    if found is None:
        if len(_likes) > 20_000:
            _likes.clear()
        plain = m.plain
        where = plain.device if device is None else resolve(device)
        found = meta(dtype or plain.dtype, plain.shape, like_strides(plain, fmt), where)
        _likes[m, dtype, None if device is None else lasting(device, where), fmt] = found
    return found


def _sparse_zeros(input: Any, made: Tensor, requires_grad: bool) -> Tensor:
    from .sparse.ops import zeros_like as zeros

    return zeros(  # type: ignore[no-any-return]
        input, dtype=made.dtype, device=made.device, requires_grad=requires_grad)


def empty_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
               memory_format: Any = None, layout: Any = None, pin_memory: bool = False) -> Tensor:
    """An uninitialised tensor with the shape, dtype, device and dim order of `input`."""
    r = empty_meta(like(input.meta, dtype, device, memory_format))
    if input.layout is not strided and layout is not strided:
        return _sparse_zeros(input, r, requires_grad)
    if input.meta.virtual:
        r = NS["transformed_fresh"](input, r)
    return r.requires_grad_() if requires_grad else r


def zeros_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
               memory_format: Any = None, layout: Any = None, pin_memory: bool = False) -> Tensor:
    """Zeros with the shape, dtype, device and dim order of `input`."""
    r = filled(like(input.meta, dtype, device, memory_format), 0)
    if input.layout is not strided and layout is not strided:
        return _sparse_zeros(input, r, requires_grad)
    if input.meta.virtual:
        r = NS["transformed_fresh"](input, r)
    return r.requires_grad_() if requires_grad else r


def ones_like(input: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
              memory_format: Any = None, layout: Any = None, pin_memory: bool = False) -> Tensor:
    """Ones with the shape, dtype, device and dim order of `input`."""
    r = filled(like(input.meta, dtype, device, memory_format), 1)
    if input.meta.virtual:
        r = NS["transformed_fresh"](input, r)
    return r.requires_grad_() if requires_grad else r


def full_like(input: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False, memory_format: Any = None, layout: Any = None,
              pin_memory: bool = False) -> Tensor:
    """One number everywhere, with the shape, dtype, device and dim order of `input`."""
    m = like(input.meta, dtype, device, memory_format)
    if type(fill_value) in (int, float):
        check_fits(fill_value, m.dtype)
    r = filled(m, fill_value)
    if input.meta.virtual:
        r = NS["transformed_fresh"](input, r)
    return r.requires_grad_() if requires_grad else r


def empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None,
                  requires_grad: bool = False, layout: Any = None,
                  pin_memory: bool = False) -> Tensor:
    """An uninitialised tensor with given strides (in elements)."""
    shape, strides = sizes((tuple(size),), "empty_strided"), tuple(int(s) for s in stride)
    if len(shape) != len(strides):
        raise RuntimeError(f"mismatch in length of strides and shape: {len(strides)} and "
                           f"{len(shape)}")
    if any(s < 0 for s in strides):
        raise RuntimeError("as_strided: Negative strides are not supported at the moment, got "
                           f"strides: {list(strides)}")
    r = empty_meta(meta(dtype or dt._default, shape, strides, resolve(device)))
    return r.requires_grad_() if requires_grad else r


def empty_permuted(size: Any, physical_layout: Any, **options: Any) -> Tensor:
    """An uninitialised dense tensor whose dims lie in memory in the given order."""
    size, order = tuple(size), tuple(physical_layout)
    if len(size) != len(order):
        raise RuntimeError("Number of dimensions in size does not match the length of the "
                           f"physical_layout; i.e. len(size) = {len(size)} is not equal to "
                           f"len(physical_layout) = {len(order)}")
    for k, d in enumerate(order):
        if not 0 <= d < len(size):
            raise RuntimeError(f"Dimension out of range (expected to be between 0 and "
                               f"{len(size) - 1}, but got {d} at index {k})")
        if d in order[:k]:
            raise RuntimeError(f"Duplicate dim not allowed (dim {d} at index {k})")
    strides, step = [0] * len(size), 1
    for d in reversed(order):
        strides[d] = step
        step *= max(size[d], 1)
    return empty_strided(size, strides, **options)


# ---- ranges  -----------------------------------------------------------------------------------

def _number(v: Any) -> Any:
    return v.item() if isinstance(v, (Tensor, np.generic)) else v


def arange(*args: Any, start: Any = None, end: Any = None, step: Any = None, dtype: Any = None,
           device: Any = None, requires_grad: bool = False, out: Any = None, layout: Any = None,
           pin_memory: bool = False) -> Tensor:
    """Numbers from start (0) up to but not including end: arange(end), arange(start, end, step).

    int64 if all arguments are integers, else the default dtype. RuntimeError for a step of 0 or
    of the wrong sign.
    """
    if len(args) == 1 and end is None:
        end = args[0]
    else:
        given = list(args)
        if given:
            start = given.pop(0)
        if given:
            end = given.pop(0)
        if given:
            step = given.pop(0)
        if given:
            raise TypeError("arange() takes at most 3 positional arguments")
    if end is None:
        raise TypeError("arange() missing required argument: 'end'")
    start = 0 if start is None else _number(start)
    end, step = _number(end), 1 if step is None else _number(step)
    integral = isinstance(start, int) and isinstance(end, int) and isinstance(step, int)
    d = dt.of_type(dtype) or (
        out.meta.dtype if out is not None else dt.int64 if integral else dt._default)
    if d.kind in "ui" and not integral and math.isfinite(start) and math.isfinite(end):
        start, end, step = int(start), int(end), int(step)
        if step == 0:
            raise ValueError(f"step must be nonzero as an integer (dtype {d!r})")
    n = _count(start, end, step)
    where = resolve(device)
    if d.kind in "uib":
        r = R.REGISTRY["arange_int"].fn(n, int(start), int(step), dtype=d, device=where)
    else:
        r = R.REGISTRY["arange_float"].fn(n, float(start), float(step), dtype=d, device=where)
    if out is not None or requires_grad:
        return _finish(r, requires_grad, out)
    return r


def _count(start: Any, end: Any, step: Any) -> int:
    """Entries of a half-open range, checked as PyTorch does."""
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (step > 0) != (end >= start) and end != start:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return max(0, -(-(end - start) // step))
    return max(0, math.ceil((end - start) / step))


def range(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None,
          device: Any = None, requires_grad: bool = False, out: Any = None) -> Tensor:
    """Numbers from start to end, end included (deprecated: use `arange`)."""
    warnings.warn("range is deprecated because its behavior is inconsistent with Python's range "
                  "builtin. Instead, use arange, which produces values in [start, end).",
                  stacklevel=2)
    if end is None:
        start, end = 0, start
    _count(start, end, step)
    n = math.floor((end - start) / step) + 1
    r = R.REGISTRY["arange_float"].fn(n, float(start), float(step), dtype=dtype or dt._default,
                                      device=resolve(device))
    return _finish(r, requires_grad, out)


def _steps(name: str, steps: Any) -> int:
    """The number of steps of linspace and logspace, checked."""
    if not hasattr(steps, "__index__"):
        raise TypeError(f"{name}(): argument 'steps' must be int, not {type(steps).__name__}")
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    return int(steps)


@one_by_one
def linspace(start: Any, end: Any, steps: int, *, out: Any = None, dtype: Any = None,
             device: Any = None, requires_grad: bool = False, layout: Any = None,
             pin_memory: bool = False) -> Tensor:
    """`steps` numbers at equal distances from start to end, both included."""
    steps = _steps("linspace", steps)
    start, end = _number(start), _number(end)
    d, kind = _spaced_dtype("linspace", start, end, dt.of_type(dtype))
    if kind is np.complex128:
        r = upload(np.linspace(start, end, steps, dtype=kind), d, device)
        return _finish(r, requires_grad, out, True)
    if d.kind in "ui":
        start, end = int(start), int(end)
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    if steps == 1:
        end = start
    if d.kind in "ui":  # computed in float64, then truncated
        r = upload(_host_linspace(start, end, step, steps), d, device)
    else:
        r = R.REGISTRY["linspace_steps"].fn(steps, float(start), float(end), float(step), dtype=d,
                                            device=resolve(device))
    return _finish(r, requires_grad, out, True)


def _spaced_dtype(name: str, start: Any, end: Any, asked: Any) -> tuple[dt.dtype, Any]:
    """(dtype of the result, NumPy's type to compute in) of linspace and logspace."""
    if not (isinstance(start, complex) or isinstance(end, complex)):
        return asked or dt._default, np.float64
    d = dt._default.to_complex()
    if asked is not None and asked.kind != "c":
        raise RuntimeError(f"{name}(): inferred dtype {d.name} can't be safely cast to passed "
                           f"dtype {asked.name}")
    return asked or d, np.complex128


def _host_linspace(start: Any, end: Any, step: float, steps: int) -> Any:
    i = np.arange(steps)
    return np.trunc(np.where(i < steps // 2, start + step * i, end - step * (steps - 1 - i)))


@one_by_one
def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, out: Any = None,
             dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """base ** linspace(start, end, steps)."""
    steps = _steps("logspace", steps)
    start, end = _number(start), _number(end)
    d, kind = _spaced_dtype("logspace", start, end, dt.of_type(dtype))
    if d.kind in "ui":
        start, end = int(start), int(end)
    exponents = np.linspace(start, end, steps, dtype=kind)
    r = upload(np.power(complex(base) if base < 0 and d.kind == "c" else float(base), exponents),
               d, device)
    return _finish(r, requires_grad, out, True)


def eye(n: int, m: int | None = None, *, out: Any = None, dtype: Any = None, device: Any = None,
        requires_grad: bool = False, layout: Any = None, pin_memory: bool = False) -> Tensor:
    """An n x m matrix with ones on the diagonal."""
    for name, k in (("n", n), ("m", m)):
        if k is not None and k < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {k}")
    r = R.REGISTRY["identity_matrix"].fn(int(n), int(n if m is None else m),
                                         dtype=dtype or dt._default, device=resolve(device))
    return _finish(r, requires_grad, out)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None,
                 layout: Any = None) -> Tensor:
    """Coordinates of the lower triangle of a row x col matrix, shape (2, count), row by row."""
    return _triangle("tril_indices", row, col, offset, False, dtype, device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None,
                 layout: Any = None) -> Tensor:
    """Coordinates of the upper triangle of a row x col matrix, shape (2, count), row by row."""
    return _triangle("triu_indices", row, col, offset, True, dtype, device)


def _triangle(name: str, row: int, col: int, offset: int, upper: bool, d: Any,
              device: Any) -> Tensor:
    """Indices of a triangle, once the arguments are known to make sense."""
    for what, n in (("row", row), ("col", col)):
        if n < 0:
            raise RuntimeError(f"{name}: {what} must be non-negative, got {n}")
    return R.REGISTRY["triangle_indices"].fn(row, col, offset, upper, dtype=d or dt.int64,
                                             device=resolve(device))


# ---- methods  ----------------------------------------------------------------------------------

def _options(self: Tensor, dtype: Any, device: Any) -> dict[str, Any]:
    return {"dtype": dtype or self.meta.dtype,
            "device": self.meta.device if device is None else device}


def new_tensor(self: Tensor, data: Any, *, dtype: Any = None, device: Any = None,
               requires_grad: bool = False) -> Tensor:
    """A tensor of `data` with this tensor's dtype and device unless given."""
    o = _options(self, dtype, device)
    r = from_data(data, o["dtype"], o["device"])
    return r.requires_grad_() if requires_grad else r


def _new(make: Any, name: str) -> Any:
    def method(self: Tensor, *size: Any, dtype: Any = None, device: Any = None,
               **options: Any) -> Tensor:
        r = make(*size, dtype=dtype or self.meta.dtype,
                 device=self.meta.device if device is None else device, **options)
        return NS["transformed_fresh"](self, r) if self.meta.virtual else r

    method.__name__ = name
    method.__doc__ = f"`{name[4:]}` with this tensor's dtype and device unless given."
    return method


def new_full(self: Tensor, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False, **_: Any) -> Tensor:
    """`full` with this tensor's dtype and device unless given."""
    r = full(size, fill_value, requires_grad=requires_grad, **_options(self, dtype, device))
    return NS["transformed_fresh"](self, r) if self.meta.virtual else r


def new_empty_strided(self: Tensor, size: Any, stride: Any, dtype: Any = None, device: Any = None,
                      **options: Any) -> Tensor:
    """`empty_strided` with this tensor's dtype and device unless given."""
    r = empty_strided(size, stride, **_options(self, dtype, device), **options)
    return NS["transformed_fresh"](self, r) if self.meta.virtual else r


for _name, _method in (
        ("new_tensor", new_tensor), ("new_full", new_full),
        ("new_empty_strided", new_empty_strided), ("new_empty", _new(empty, "new_empty")),
        ("new_zeros", _new(zeros, "new_zeros")), ("new_ones", _new(ones, "new_ones"))):
    setattr(Tensor, _name, _method)


def new_arange(self: Tensor, n: int) -> Tensor:
    """0, 1, ... n - 1 (int64) on this tensor's device."""
    return R.REGISTRY["arange_int"].fn(n, 0, 1, dtype=dt.int64, device=self.meta.device)


Tensor.new_arange = new_arange  # type: ignore[attr-defined]


# ---- legacy constructors  ----------------------------------------------------------------------

def legacy_tensor(*args: Any, device: Any = None, dtype: Any = None) -> Tensor:
    """Tensor(2, 3) is uninitialised; Tensor([1, 2]) holds data; Tensor(t) is a view of t."""
    d = dtype or dt._default
    if not args:
        return empty(0, dtype=d, device=device)
    first = args[0]
    if len(args) == 1:
        if isinstance(first, Tensor):
            return first.detach() if dtype is None else first.detach().to(dtype)  # type: ignore
        if type(first).__name__ == "Size":
            return empty(first, dtype=d, device=device)
        if not isinstance(first, int) and (isinstance(first, (list, tuple, np.ndarray))
                                           or hasattr(first, "__iter__")):
            return from_data(first, d, device)
        if not hasattr(first, "__index__"):
            raise TypeError(f"new(): data must be a sequence (got {type(first).__name__})")
    return empty(*args, dtype=d, device=device)


class _LegacyType(type):
    """The type of FloatTensor and the like: calls make tensors, isinstance asks for the dtype."""

    def __call__(cls, *args: Any, **options: Any) -> Tensor:
        return legacy_tensor(*args, dtype=cls.dtype, **options)  # type: ignore[attr-defined]

    def __instancecheck__(cls, t: Any) -> bool:
        return isinstance(t, Tensor) and t.meta.dtype is cls.dtype  # type: ignore[attr-defined]


for _word, _d in (("Float", dt.float32), ("Double", dt.float64), ("Half", dt.float16),
                  ("BFloat16", dt.bfloat16), ("Long", dt.int64), ("Int", dt.int32),
                  ("Short", dt.int16), ("Char", dt.int8), ("Byte", dt.uint8),
                  ("Bool", dt.bool_)):
    globals()[f"{_word}Tensor"] = _LegacyType(f"{_word}Tensor", (), {
        "dtype": _d, "__module__": "lampion", "__doc__": f"Legacy constructor of {_d.name}."})
    __all__.append(f"{_word}Tensor")

_ = (matches_format, preserve_format)
