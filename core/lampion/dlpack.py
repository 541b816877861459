"""DLPack: tensors that share memory with other libraries, on the host and on devices.

Floor 6; imports tensor, interop. A capsule keeps the storage alive; what a tensor was imported from
is kept alive by the storage over it. A backend takes part by its `dlpack` number, `wrap_device`,
`share` and `stream_number`: how its memory and its order of work are handed over.
"""

from __future__ import annotations

import ctypes
from typing import Any

from . import plugins
from .base import dtype as dt
from .base.device import device
from .base.meta import meta
from .interop import _over, host_device
from .ops import plans as P
from .runtime.devices import resolve
from .tensor import Tensor, empty_meta, make_tensor


class _DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device", _DLDevice), ("ndim", ctypes.c_int32),
                ("dtype", _DLDataType), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _DLManaged(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DLManaged._fields_ = [("dl_tensor", _DLTensor), ("manager_ctx", ctypes.c_void_p),
                       ("deleter", _Deleter)]
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_exported: dict[int, Any] = {}
_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
_USED = b"used_dltensor"
# DLPack's numbers: the host's memory (also that which devices copy from without waiting), and
# devices that have no number of their own.
_HOST, _EXTENSION = (1, 3, 11), 12


@_Deleter
def _release(address: int) -> None:
    _exported.pop(address, None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _capsule_gone(capsule: int) -> None:
    """A capsule that nobody consumed frees its tensor."""
    raw = _raw_is_valid(capsule, b"dltensor")
    if raw:
        _release(_raw_pointer(capsule, b"dltensor"))


_raw_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi))
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


def _place(t: Tensor) -> tuple[int, int]:
    """DLPack's (device type, index) of a tensor's memory."""
    where = t.meta.device
    backend = P.backend_of(where)
    if "host-memory" in backend.capabilities(where.index or 0).features:
        return (1, 0)
    return (_EXTENSION if backend.dlpack is None else backend.dlpack, where.index or 0)


def to_dlpack(tensor: Tensor, stream: Any = None) -> Any:
    """A DLPack capsule that shares a tensor's memory. BufferError where that is impossible.

    `stream`: the consumer's, by DLPack's rules for the device; its later work comes after what was
    enqueued for the tensor. It means nothing on the host.
    """
    t = tensor
    if t.node is not None:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    m = t.meta
    kind, index = _place(t)
    if kind == _EXTENSION:
        raise BufferError(f"a tensor on {m.device} has no address to share; use .cpu()")
    if kind not in _HOST:
        P.backend_of(m.device).share(m.device, stream)
    n = max(m.ndim, 1)
    sizes = (ctypes.c_int64 * n)(*m.shape)
    strides = (ctypes.c_int64 * n)(*m.strides)
    managed = _DLManaged()
    word = _DLDataType(4 if m.dtype is dt.bfloat16 else _CODES[m.dtype.kind],
                       8 * m.dtype.itemsize, 1)
    managed.dl_tensor = _DLTensor(t.data_ptr(), _DLDevice(kind, index), m.ndim, word, sizes,
                                  strides, 0)
    managed.deleter = _release
    address = ctypes.addressof(managed)
    _exported[address] = (managed, sizes, strides, t.data_)
    return _api.PyCapsule_New(address, b"dltensor", ctypes.cast(_capsule_gone, ctypes.c_void_p))


class _Borrowed:
    """Keeps an imported DLPack tensor alive and frees it with the last user."""

    def __init__(self, address: int, capsule: Any) -> None:
        self.address, self.capsule = address, capsule

    def __del__(self) -> None:
        managed = _DLManaged.from_address(self.address)
        if managed.deleter:
            managed.deleter(self.address)


def _backend_of_kind(kind: int) -> Any:
    """The backend whose memory has a DLPack device type: one in use, else any that is installed."""
    for backend in plugins.made():
        if backend.dlpack == kind:
            return backend
    for name in plugins.backend_names():
        try:
            backend = plugins.backend(name)
        except plugins.PluginError:
            continue
        if backend.dlpack == kind:
            return backend
    raise BufferError(f"from_dlpack: memory of DLPack device type {kind} cannot be shared, because "
                      "no installed device has such memory; copy it to the host first")


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor that shares memory with another library's array, on the host or on a device.

    Takes an object with `__dlpack__` or a capsule. BufferError if no installed device has such
    memory. Work that the other library has enqueued comes first.
    """
    if isinstance(ext_tensor, Tensor):
        return ext_tensor.detach()
    capsule = ext_tensor
    if hasattr(ext_tensor, "__dlpack__"):
        kind, index = (1, 0)
        if hasattr(ext_tensor, "__dlpack_device__"):
            kind, index = map(int, ext_tensor.__dlpack_device__())
        if kind in _HOST:
            capsule = ext_tensor.__dlpack__()
        else:
            backend = _backend_of_kind(kind)
            where = resolve(device(backend.name, index))
            capsule = ext_tensor.__dlpack__(stream=backend.stream_number(where))
    if not _api.PyCapsule_IsValid(capsule, b"dltensor"):
        raise RuntimeError("from_dlpack received an invalid capsule. Note that DLTensor capsules "
                           "can be consumed only once, so you might have already constructed a "
                           "tensor from it once.")
    address = _api.PyCapsule_GetPointer(capsule, b"dltensor")
    d = _DLManaged.from_address(address).dl_tensor
    kind = d.device.device_type
    backend = None if kind in _HOST else _backend_of_kind(kind)
    _api.PyCapsule_SetName(capsule, _USED)
    owner = _Borrowed(address, capsule)
    shape = [d.shape[k] for k in range(d.ndim)]
    strides = [d.strides[k] for k in range(d.ndim)] if d.strides else None
    pointer = (d.data or 0) + d.byte_offset
    if backend is None:
        return _over(pointer, meta(_dtype_of(d.dtype), shape, strides, host_device()), owner)
    where = resolve(device(backend.name, d.device.device_id))
    return over_device(backend, pointer, meta(_dtype_of(d.dtype), shape, strides, where), owner)


def _dtype_of(word: Any) -> dt.dtype:
    if word.code == 4 and word.bits == 16:
        return dt.bfloat16
    kind = {v: k for k, v in _CODES.items()}.get(word.code)
    for d in dt.ALL:
        if d.kind == kind and d.itemsize * 8 == word.bits and d is not dt.bfloat16 \
                and word.lanes == 1:
            return d
    raise BufferError(f"from_dlpack: no dtype for elements of code {word.code}, {word.bits} bits, "
                      f"{word.lanes} lanes")


def over_device(backend: Any, pointer: int, m: Any, owner: Any) -> Tensor:
    """A tensor over a device's memory that `owner` keeps alive."""
    if not m.numel:
        return empty_meta(m)
    return make_tensor(backend.wrap_device(pointer, m.span, owner, m.device), m, None)


def adopted(data: Any) -> Tensor | None:
    """A tensor over an array of another library that a device in use knows how to read (see
    `Backend.adopt`); None for anything else."""
    for backend in plugins.made():
        found = backend.adopt(data)
        if found is not None:
            pointer, d, shape, strides, where = found
            return over_device(backend, pointer, meta(d, shape, strides, resolve(where)), data)
    return None


def _dlpack(self: Tensor, *, stream: Any = None, max_version: Any = None, dl_device: Any = None,
            copy: Any = None) -> Any:
    """The DLPack protocol. `dl_device` may be the tensor's own or the host's, (1, 0)."""
    t = self
    if dl_device is not None and tuple(map(int, dl_device)) != _place(t):
        if int(dl_device[0]) != 1 or copy is False:
            raise BufferError(f"__dlpack__: a tensor on {t.meta.device} cannot be given as DLPack "
                              f"device {tuple(dl_device)} (copy={copy})")
        t, copy, stream = t.cpu(), False, None  # type: ignore[attr-defined]
    return to_dlpack(t.clone() if copy else t, stream)  # type: ignore[attr-defined]


Tensor.__dlpack__ = _dlpack  # type: ignore[attr-defined]
Tensor.__dlpack_device__ = _place  # type: ignore[attr-defined]
