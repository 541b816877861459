"""Tensors from Python numbers, nested sequences and arrays: shapes and dtypes inferred as PyTorch.

Floor 5; imports tensor and ops. `creation.py` holds the public functions.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .base import dtype as dt
from .base.limits import check_fits
from .base.meta import contiguous_strides, meta
from .ops import plans as P
from .runtime.backend import host_wrote
from .runtime.devices import resolve
from .tensor import Tensor, empty_meta, make_tensor

_NUMBERS = {int, float, bool, complex}
_PLAIN = {*_NUMBERS, list, tuple, np.ndarray}
_CODES = {"float32": "f", "float64": "d", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
          "uint8": "B", "bool": "?", "float16": "e"}
_packers: dict[Any, Any] = {}


def from_numbers(data: list[Any], dtype: Any, device: Any) -> Any:
    """A short flat list, or list of equal lists, of Python numbers of one type; else None."""
    flat, shape = data, (len(data),)
    first = type(data[0])
    if first is list:
        n = len(data[0])
        for row in data:
            if type(row) is not list or len(row) != n:
                return None
        shape = (len(data), n)
        flat = [v for row in data for v in row]
    if len(flat) > 4096 or not flat:
        return None
    kinds = set(map(type, flat))
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    d = dtype or (dt._default if kind is float else dt.int64 if kind is int else
                  dt.bool_ if kind is bool else None)
    if d is None or (kind is not float if d.kind == "f" else kind is not int and
                     not (kind is bool and d.kind == "b")) or (d.kind == "b" and kind is int):
        return None
    key = (d, len(flat))
    pack = _packers.get(key)
    if pack is None:
        code = _CODES.get(d.name)
        if code is None:
            return None
        if len(_packers) > 1000:
            _packers.clear()
        pack = _packers[key] = struct.Struct(f"={len(flat)}{code}").pack
    try:
        raw = pack(*flat)
    except (struct.error, OverflowError):
        return None
    m = meta(d, shape, None, resolve(device))
    backend = P.backend_of(m.device)
    storage = backend.allocate(len(raw), m.device)
    backend.copy_from_host(raw, storage)
    host_wrote(storage)
    return make_tensor(storage, m, None)


def from_data(data: Any, dtype: Any, device: Any, copy: bool = True) -> Tensor:
    """A tensor of any kind of data, without history."""
    if isinstance(data, Tensor):
        r = data.detach()
        where = data.meta.device if device is None else resolve(device)
        r = r.to(where, dtype or data.meta.dtype)  # type: ignore[attr-defined]
        return r.clone() if copy and r.data_.base is data.data_.base else r
    if type(data) not in _PLAIN and (shared := adopted(data)) is not None:
        return from_data(shared, dtype, device, copy)
    if isinstance(data, np.generic) or hasattr(data, "__array_interface__"):
        a = np.asarray(data)
        return upload(a, dtype or dt.from_numpy(a.dtype), device)
    a, d = nested(data, dt.of_type(dtype))
    return upload(a, d, device)


def adopted(data: Any) -> Tensor | None:
    """A tensor over another library's array on a device (see `dlpack.adopted`), or None."""
    from .dlpack import adopted

    return adopted(data)


def upload(a: Any, d: dt.dtype, device: Any) -> Tensor:
    """A fresh tensor with the values of a NumPy array, converted to `d`."""
    strides = None
    if a.ndim > 1 and not a.flags.c_contiguous:  # keep the order of the dims in memory
        order = sorted(range(a.ndim), key=lambda k: -abs(a.strides[k]))
        inner = contiguous_strides([a.shape[k] for k in order])
        strides = [inner[order.index(k)] for k in range(a.ndim)]
        r = empty_meta(meta(d, a.shape, strides, resolve(device)))
        a = a.transpose(order)
    else:
        r = empty_meta(meta(d, a.shape, None, resolve(device)))
    with np.errstate(all="ignore"):
        raw = np.ascontiguousarray(d.encode(a))
    if raw.size:
        P.backend_of(r.meta.device).copy_from_host(raw.reshape(-1).view(np.uint8).data, r.data_)
    host_wrote(r.data_)
    return r


def nested(data: Any, dtype: Any) -> tuple[Any, dt.dtype]:
    """(array, dtype) of a number or nested sequences."""
    if isinstance(data, str):
        raise TypeError("new(): invalid data type 'str'")
    if not isinstance(data, (list, tuple)) and hasattr(data, "__len__") and \
            hasattr(data, "__getitem__") and not isinstance(data, dict):
        data = list(data)
    kinds: set[Any] = set()
    leaves(data, kinds)
    d = dtype or inferred(kinds, data)
    if not kinds <= _NUMBERS:
        data = plain(data)
    shape = shape_of(data)
    check_shape(data, shape, 0)
    if complex in kinds and d.kind != "c":
        raise TypeError("must be real number, not complex")
    return array_of(data, shape, d, kinds), d


def array_of(data: Any, shape: list[int], d: dt.dtype, kinds: set[Any]) -> Any:
    """The NumPy array of plain nested numbers."""
    if 0 in shape:
        return np.zeros(shape, d.np)
    try:
        if kinds <= {int, bool} and d.kind in "bui":
            wide = np.uint64 if d is dt.uint64 else np.int64
            a = np.array(data, dtype=bool if d.kind == "b" else wide)
            if d.kind != "b" and d.itemsize < 8:
                info = np.iinfo(d.np)
                low = info.min if d.kind == "i" else -int(info.max) - 1
                if (a > info.max).any() or (a < low).any():
                    raise RuntimeError(f"value cannot be converted to type {d.name} without "
                                       "overflow")
            return a
        if d.kind == "c":
            return np.array(data, dtype=np.complex128)
        a = np.array(data, dtype=np.float64)
        if d.kind in "ui":
            for extreme in (a.max(), a.min()):
                check_fits(float(extreme), d)
        return a != 0 if d.kind == "b" else a
    except OverflowError:
        raise ValueError("Overflow when unpacking long long") from None


def leaves(data: Any, out: set[Any]) -> None:
    """Collect the types of the innermost elements (dtypes for arrays and tensors)."""
    if not isinstance(data, (list, tuple)):
        kind = type(data)
        if isinstance(data, Tensor):
            out.add(data.meta.dtype)
        elif hasattr(data, "__array_interface__"):
            out.add(dt.from_numpy(data.dtype))
        elif kind in _NUMBERS:
            out.add(kind)
        elif isinstance(data, (bool, int, float, complex)):
            out.add(next(k for k in (bool, int, float, complex) if isinstance(data, k)))
        else:
            raise RuntimeError(f"Could not infer dtype of {kind.__name__}")
        return
    kinds = set(map(type, data))
    if kinds <= _NUMBERS:
        out |= kinds
        return
    for item in data:
        leaves(item, out)


def inferred(kinds: set[Any], data: Any) -> dt.dtype:
    """The dtype of elements of these types."""
    table = {bool: dt.bool_, int: dt.int64, float: dt._default,
             complex: dt._default.to_complex()}
    result = None
    for k in kinds:
        d = table.get(k, k)
        result = d if result is None else dt.promote_types(result, d)
    return result or dt._default


def plain(data: Any) -> Any:
    """Nested lists of Python numbers."""
    if isinstance(data, (list, tuple)):
        return [plain(v) for v in data]
    if isinstance(data, Tensor):
        if data.meta.numel != 1:
            raise TypeError("only tensors of a single element can be converted to numbers")
        return data.item()
    return data.tolist() if hasattr(data, "tolist") else data


def shape_of(data: Any) -> list[int]:
    """The shape that the first elements tell."""
    shape = []
    while isinstance(data, (list, tuple)):
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return shape


def check_shape(data: Any, shape: list[int], d: int) -> None:
    """ValueError or TypeError, in PyTorch's words, for ragged sequences."""
    if d == len(shape):
        if isinstance(data, (list, tuple)):
            raise TypeError(f"'{type(data).__name__}' object cannot be interpreted as an integer")
        return
    if not isinstance(data, (list, tuple)):
        raise TypeError("not a sequence")
    if len(data) != shape[d]:
        raise ValueError(f"expected sequence of length {shape[d]} at dim {d} (got {len(data)})")
    if d + 1 == len(shape):
        if not set(map(type, data)) <= _NUMBERS:
            for v in data:
                check_shape(v, shape, d + 1)
        return
    for v in data:
        check_shape(v, shape, d + 1)
