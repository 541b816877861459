"""NumPy, pickling and copying: tensors in and out of the host's world.

Floor 6; imports tensor, conversion. Sharing is zero-copy wherever the device's memory is the
host's: a NumPy array keeps the storage alive, and a wrapped array is kept alive by the storage.
DLPack is in `dlpack.py`.
"""

from __future__ import annotations

import ctypes
import os
import warnings
import weakref
from typing import Any

import numpy as np

from .base import dtype as dt
from .base.layout import strided
from .base.meta import meta
from .callpath import NS
from .conversion import raw_copy
from .ops import plans as P
from .runtime import tracing
from .runtime.backend import host_read
from .runtime.devices import resolve
from .tensor import Tensor, empty_meta, make_tensor

# ---------------------------------------------------------------- NumPy

def host_array(t: Tensor) -> Any:
    """A NumPy array of a tensor's values; shares memory if the host can see the storage (but not
    of complex32, which NumPy lacks: its values come as complex64)."""
    host_read()
    if t.meta.virtual:
        t = NS["transformed_read"](t, "numpy")
    m = t.meta
    backend = P.backend_of(m.device)
    strides = tuple(s * m.dtype.itemsize for s in m.strides)
    if not m.numel:
        return m.dtype.decode(np.empty(m.shape, m.dtype.np))
    view = backend.host_view(t.data_)
    memory = backend.copy_to_host(t.data_, m.span) if view is None else _kept(view, t.data_)
    return m.dtype.decode(np.ndarray(m.shape, m.dtype.np, memory, strides=strides))


def _kept(view: memoryview, storage: Any) -> Any:
    """A buffer over a storage's memory that keeps the storage alive."""
    array = (ctypes.c_char * view.nbytes).from_buffer(view)
    array.owner = storage  # type: ignore[attr-defined]
    return array


def to_numpy(t: Tensor, force: bool) -> Any:
    """Tensor.numpy(): shares memory; RuntimeError for tensors that require gradients, TypeError
    off the host and for dtypes NumPy lacks (unless force, which detaches and copies)."""
    if force:
        t = t.detach()
        if P.backend_of(t.meta.device).host_view(t.data_) is None:
            t = t.cpu()  # type: ignore[attr-defined]
        return host_array(t)
    if t.node is not None:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use "
                           "tensor.detach().numpy() instead.")
    if "host-memory" not in P.backend_of(t.meta.device).capabilities(0).features:
        raise TypeError(f"can't convert {t.meta.device} device type tensor to numpy. Use "
                        "Tensor.cpu() to copy the tensor to host memory first.")
    if t.meta.dtype in (dt.bfloat16, dt.complex32):
        name, way = ("BFloat16", "float") if t.meta.dtype.kind == "f" else ("ComplexHalf", "cfloat")
        raise TypeError(f"Got unsupported ScalarType {name}: NumPy has no such type. Convert "
                        f"with .{way}() first.")
    return host_array(t)


def from_numpy(ndarray: Any) -> Tensor:
    """A tensor that shares memory with a NumPy array (on the host's device).

    TypeError for unsupported dtypes, ValueError for negative strides. Writing to a tensor of a
    read-only array is not prevented, so a warning says it once.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    d = dt.from_numpy(ndarray.dtype)
    item = d.itemsize
    if any(s < 0 for s in ndarray.strides):
        raise ValueError("At least one stride in the given numpy array is negative, and tensors "
                         "with negative strides are not currently supported. (You can probably "
                         "work around this by making a copy of your array with array.copy().) ")
    if any(s % item for s in ndarray.strides) or ndarray.dtype.byteorder == ">":
        raise ValueError("given numpy array has byte order or strides that tensors do not support")
    if not ndarray.flags.writeable:
        warnings.warn("The given NumPy array is not writable, and tensors cannot be read-only: "
                      "writing to this tensor writes to the array. Copy the array to be safe.",
                      UserWarning, stacklevel=2)
    m = meta(d, ndarray.shape, [s // item for s in ndarray.strides], host_device())
    pointer = ndarray.__array_interface__["data"][0]
    return _over(pointer, m, ndarray)


def _over(pointer: int, m: Any, owner: Any) -> Tensor:
    backend = P.backend_of(m.device)
    if not m.numel:
        return empty_meta(m)
    storage = backend.wrap_host(pointer, m.span, owner, m.device)
    return make_tensor(storage, m, None)


_host: list[Any] = []


def host_device() -> Any:
    """The first device whose memory the host addresses."""
    if not _host:
        from . import plugins

        for name in ("cpu", *plugins.backend_names()):
            try:
                d = resolve(name)
            except Exception:
                continue
            if "host-memory" in d.backend.capabilities(0).features:
                _host.append(d)
                break
        else:
            raise RuntimeError("no installed device shares the host's memory; install one, for "
                               "example with: pip install lampion")
    return _host[0]


def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0,
               requires_grad: bool = False) -> Tensor:
    """A 1-d tensor over the memory of an object with the buffer protocol."""
    view = memoryview(buffer).cast("B")
    if not view.nbytes:
        raise ValueError(f"both buffer length ({view.nbytes}) and count ({count}) must not be 0")
    if not 0 <= offset < view.nbytes:
        raise ValueError(f"offset ({offset} bytes) must be non-negative and no greater than "
                         f"buffer length ({view.nbytes} bytes) minus 1")
    n = (view.nbytes - offset) // dtype.itemsize if count < 0 else count
    if count < 0 and (view.nbytes - offset) % dtype.itemsize:
        raise ValueError(f"buffer length ({view.nbytes - offset} bytes) after offset ({offset} "
                         f"bytes) must be a multiple of element size ({dtype.itemsize})")
    if offset + n * dtype.itemsize > view.nbytes:
        raise ValueError(f"requested buffer length ({n} * {dtype.itemsize} bytes) after offset "
                         f"({offset} bytes) must not be greater than actual buffer length "
                         f"({view.nbytes} bytes)")
    array = np.frombuffer(view, np.uint8)
    pointer = array.__array_interface__["data"][0] + offset
    if view.readonly:
        warnings.warn("The given buffer is not writable, and tensors cannot be read-only: copy it "
                      "to be safe.", UserWarning, stacklevel=2)
    t = _over(pointer, meta(dtype, (n,), None, host_device()), (array, buffer))
    return t.requires_grad_() if requires_grad else t


# ---------------------------------------------------------------- storages

class UntypedStorage:
    """The bytes behind tensors: identity, size, address; indexable by byte."""

    def __init__(self, base: Any, device: Any) -> None:
        self.base, self.device = base, device

    def nbytes(self) -> int:
        """Size in bytes."""
        return int(self.base.nbytes)

    size = __len__ = nbytes

    def data_ptr(self) -> int:
        """Address of the first byte (0 where the device has none)."""
        return int(getattr(self.base, "ptr", 0))

    @property
    def _cdata(self) -> int:
        return id(self.base)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and other.base is self.base

    def __hash__(self) -> int:
        return id(self.base)

    def tobytes(self) -> bytes:
        """A copy of the bytes."""
        return bytes(P.backend_of(self.device).copy_to_host(self.base, self.nbytes()))

    def tolist(self) -> list[int]:
        """The bytes as integers."""
        return list(self.tobytes())

    def __getitem__(self, k: Any) -> Any:
        return self.tobytes()[k]

    def is_shared(self) -> bool:
        """Whether other processes see this memory."""
        return getattr(self.base, "ptr", 0) in _blocks


def untyped_storage(self: Tensor) -> UntypedStorage:
    """The storage that this tensor and its views share."""
    return UntypedStorage(self.data_.base, self.meta.device)


def set_(self: Tensor, source: Any = None, storage_offset: int = 0, size: Any = None,
         stride: Any = None) -> Tensor:
    """Make this tensor show another storage (or tensor), without recording."""
    m = self.meta
    tracing.changes["tensors"] += 1
    tracing.fail("set_() is called")
    if source is None:
        self.data_ = P.backend_of(m.device).allocate(0, m.device)
        self.meta = meta(m.dtype, (0,), None, m.device)
    elif isinstance(source, Tensor):
        self.data_, self.meta = source.data_, source.meta
        if size is not None:
            self.data_ = source.data_.base.view(storage_offset * m.dtype.itemsize)
            self.meta = meta(m.dtype, tuple(size), stride, source.meta.device)
    else:
        item = m.dtype.itemsize
        shape = (source.nbytes() // item,) if size is None else tuple(size)
        new = meta(m.dtype, shape, stride, source.device)
        if storage_offset * item + new.span > source.nbytes():
            raise RuntimeError(f"setStorage: sizes {list(shape)} with offset {storage_offset} "
                               f"need more than the storage's {source.nbytes()} bytes")
        self.data_ = source.base.view(storage_offset * item) if storage_offset else source.base
        self.meta = new
    return self


def resize_(self: Tensor, *size: Any, memory_format: Any = None) -> Tensor:
    """Change the shape in place; grows the storage if it is too small (new elements are
    uninitialised)."""
    if self.node is not None:
        raise RuntimeError("cannot resize variables that require grad")
    m = self.meta
    from .ops.movement import sizes

    shape = sizes(size, "resize_")
    if shape == m.shape and memory_format is None:
        return self
    new = meta(m.dtype, shape, None, m.device)
    if self.data_.offset + new.span > self.data_.base.nbytes:
        grown = empty_meta(new)
        keep = min(m.span, new.span)
        if keep:
            n = keep // m.dtype.itemsize
            raw_copy(make_tensor(self.data_, meta(m.dtype, (n,), None, m.device), None),
                     make_tensor(grown.data_, meta(m.dtype, (n,), None, m.device), None))
        self.data_ = grown.data_
    tracing.changes["tensors"] += 1
    tracing.fail("resize_() changes a shape")
    self.meta = new
    return self


def resize_as_(self: Tensor, other: Tensor) -> Tensor:
    """`resize_` to the shape of another tensor."""
    return resize_(self, other.meta.shape)


# ---------------------------------------------------------------- memory that processes share

class _Block:
    """A piece of shared memory, known by its name. Who made it removes it with its last tensor."""

    def __init__(self, nbytes: int = 0, name: str | None = None) -> None:
        from multiprocessing import shared_memory

        self.memory = shared_memory.SharedMemory(name, create=name is None, size=nbytes)
        self.array = np.ndarray(self.memory.size, np.uint8, self.memory.buf)
        self.pointer = int(self.array.__array_interface__["data"][0])
        self.name, self.maker = self.memory.name, os.getpid() if name is None else 0

    def storage(self, device: Any) -> Any:
        """A Storage over it, which keeps it; RuntimeError where the device has other memory."""
        made = P.backend_of(device).wrap_host(self.pointer, self.memory.size, self, device)
        if made is None:
            raise RuntimeError(f"share_memory_: the device '{device}' has no memory that processes "
                               "share; move the tensor to the host")
        _blocks[self.pointer] = self
        return made

    def __del__(self) -> None:
        if getattr(self, "maker", 0) == os.getpid():
            self.memory.unlink()
        if hasattr(self, "array"):
            del self.array  # or the memory could not be closed


_blocks: weakref.WeakValueDictionary[int, _Block] = weakref.WeakValueDictionary()


def shared_name(t: Tensor) -> str | None:
    """The name of the shared memory that a tensor lies in, or None."""
    block = _blocks.get(getattr(t.data_.base, "ptr", 0))
    return None if block is None else block.name


def from_shared(name: str, dtype: Any, shape: Any, strides: Any, offset: int, requires_grad: bool,
                kind: type = Tensor) -> Tensor:
    """The tensor that another process has in the shared memory of this name."""
    from .creation import empty

    block = next((b for b in list(_blocks.values()) if b.name == name), None) or _Block(name=name)
    host = empty(0, dtype=dtype, device="cpu")
    base = UntypedStorage(block.storage(host.meta.device), host.meta.device)
    made = set_(host, base, offset, shape, strides).requires_grad_(requires_grad)
    return made if kind is Tensor else made.as_subclass(kind)


def is_shared(self: Tensor) -> bool:
    """Whether other processes see this memory."""
    return shared_name(self) is not None


def share_memory_(self: Tensor) -> Tensor:
    """Move the values to memory that forked and spawned processes share."""
    if is_shared(self):
        return self
    m = self.meta
    block = _Block(max(m.nbytes, 1))
    np.ndarray(m.shape, m.dtype.np, block.memory.buf)[...] = m.dtype.encode(
        self.detach().host())
    self.data_ = block.storage(m.device)
    self.meta = meta(m.dtype, m.shape, None, m.device)
    return self


def record_stream(self: Tensor, stream: Any) -> None:
    """Note that work on `stream` uses this tensor: when the tensor is gone, its memory is not
    used anew before that work is done. RuntimeError where devices have no streams."""
    P.backend_of(self.meta.device).using(self.data_, stream)


for _name, _value in (("layout", strided), ("is_meta", False), ("is_sparse", False),
                      ("is_sparse_csr", False), ("is_quantized", False), ("is_nested", False)):
    setattr(Tensor, _name, property(lambda self, value=_value: value))
Tensor.is_cpu = property(  # type: ignore[attr-defined]
    lambda self: self.meta.device.type == "cpu", doc="Whether this is on the device called cpu.")

for _name, _fn in (("untyped_storage", untyped_storage), ("set_", set_), ("resize_", resize_),
                   ("resize_as_", resize_as_), ("is_shared", is_shared),
                   ("share_memory_", share_memory_), ("record_stream", record_stream)):
    setattr(Tensor, _name, _fn)


# ---------------------------------------------------------------- copying and pickling

def deepcopy(t: Tensor, memo: dict[int, Any]) -> Any:
    """copy.deepcopy of a leaf: storages shared within the copied object stay shared."""
    import copy

    if id(t) in memo:
        return memo[id(t)]
    if not t.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
            "protocol at the moment. If you were attempting to deepcopy a module, this may be "
            "because of a weight that an op produced.")
    m = t.meta.plain
    base = t.data_.base
    key = ("storage", id(base))
    fresh = memo.get(key)  # type: ignore[call-overload]
    if fresh is None:
        whole = meta(dt.uint8, (base.nbytes,), None, m.device)
        fresh = empty_meta(whole).data_
        if base.nbytes:
            raw_copy(make_tensor(base, whole, None), make_tensor(fresh, whole, None))
        memo[key] = fresh  # type: ignore[index]
        memo[id(fresh)] = base  # keeps the key's id in use while the copy goes on
    data = fresh.view(t.data_.offset) if t.data_.offset else fresh
    r = make_tensor(data, m, None)
    if type(t) is not Tensor:
        r = r.as_subclass(type(t))
    memo[id(t)] = r
    if t.node is not None:
        r.requires_grad_()
        if t.grad is not None:
            r.grad = copy.deepcopy(t.grad, memo)
    for k, v in t.__dict__.items():
        if not k.startswith("_"):
            setattr(r, k, copy.deepcopy(v, memo))
    return r


def reduce_tensor(t: Tensor, protocol: int) -> Any:
    """Pickling: dtype, geometry, the bytes, the device's name and requires_grad."""
    if not t.is_leaf:
        raise RuntimeError("Cannot pickle a tensor that is not a graph leaf; detach() it first")
    m = t.meta.plain
    dense = t.detach()
    if m.span != m.nbytes or m.overlapping:
        dense = dense.clone()  # type: ignore[attr-defined]
        m = dense.meta
    raw = bytes(P.backend_of(m.device).copy_to_host(dense.data_, m.span)) if m.numel else b""
    state = {k: v for k, v in t.__dict__.items() if not k.startswith("_")} or None
    return (rebuild_tensor, (type(t), m.dtype, m.shape, m.strides, str(m.device), raw,
                             t.requires_grad), state)


def rebuild_tensor(cls: type, d: dt.dtype, shape: Any, strides: Any, where: str, raw: bytes,
                   requires_grad: bool) -> Any:
    """Unpickling."""
    r = empty_meta(meta(d, shape, strides, resolve(where)))
    if raw:
        P.backend_of(r.meta.device).copy_from_host(bytearray(raw), r.data_)
    if cls is not Tensor:
        r = r.as_subclass(cls)
    return r.requires_grad_() if requires_grad else r
