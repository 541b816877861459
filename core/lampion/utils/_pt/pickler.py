"""Pickles an object structure for a checkpoint: tensors by reference to storages. Floor 7."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from typing import Any

from ..._utils import _rebuild_tensor_v2, _rebuild_tensor_v3, wrap_reduce
from ...base.device import device
from ...base.dtype import dtype
from ...tensor import Tensor
from . import names
from .storages import StoredMemory, of_tensor


class CheckpointPickler(pickle._Pickler):  # type: ignore[name-defined]
    """A pickler that writes PyTorch's names and collects the storages it meets.

    The pure-Python pickler, because the C one refuses to write a name that does not lead to the
    object itself. `storages` lists (key, memory) in the order of their keys.
    """

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any, protocol: int) -> None:
        super().__init__(file, protocol)
        self.storages: list[StoredMemory] = []
        self._keys: dict[int, str] = {}

    def persistent_id(self, obj: Any) -> Any:
        """Storages are stored beside the pickle."""
        if not isinstance(obj, StoredMemory):
            return None
        key = self._keys.get(id(obj.data))
        if key is None:
            key = self._keys[id(obj.data)] = str(len(self.storages))
            self.storages.append(obj)
        else:
            self._check_type(self.storages[int(key)], obj)
        kind = names.storage_class(obj.dtype)
        length = obj.nbytes if kind.dtype is None else len(obj)
        return ("storage", kind, key, obj.location, length)

    @staticmethod
    def _check_type(first: StoredMemory, other: StoredMemory) -> None:
        if first.dtype is not other.dtype:
            raise RuntimeError(
                "Cannot save multiple tensors that view the same memory as different types: "
                f"{first.dtype!r} and {other.dtype!r}. clone() one of them."
            )

    def reducer_override(self, obj: Any) -> Any:
        """Tensors, dtypes and devices; everything else pickles as usual."""
        if isinstance(obj, Tensor):
            return self._reduce_tensor(obj)
        if isinstance(obj, dtype):
            return obj.name  # a global of that name, see save_global
        if isinstance(obj, device):
            return device, ((obj.type,) if obj.index is None else (obj.type, obj.index))
        return NotImplemented

    def _reduce_tensor(self, tensor: Any) -> Any:
        custom = type(tensor).__reduce_ex__
        if custom is not Tensor.__reduce_ex__ and not _is_parameter(tensor):
            return custom(tensor, self.proto)
        memory = of_tensor(tensor)
        geometry = tensor.meta
        kind = geometry.dtype
        if kind not in names.STORAGE_CLASS:
            memory.dtype = None
        args: tuple[Any, ...] = (
            memory,
            tensor.storage_offset(),
            tuple(geometry.shape),
            tuple(geometry.strides),
            tensor.requires_grad,
            OrderedDict(),
        )
        if memory.dtype is None:
            return wrap_reduce(tensor, _rebuild_tensor_v3, (*args, kind))
        return wrap_reduce(tensor, _rebuild_tensor_v2, args)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write a class or function by its name in files."""
        if isinstance(obj, dtype):
            self._write_global(obj, "torch", obj.name)
            return
        module = getattr(obj, "__module__", None) or ""
        mapped = names.to_file(module)
        if mapped == module:
            super().save_global(obj, name)
            return
        name = name or getattr(obj, "__qualname__", None) or obj.__name__
        self._check_importable(obj, module, name)
        public = _PUBLIC.get((module, name))
        self._write_global(obj, *(public or (mapped, name)))

    def _write_global(self, obj: Any, module: str, name: str) -> None:
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(obj)

    @staticmethod
    def _check_importable(obj: Any, module: str, name: str) -> None:
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not obj:
            raise pickle.PicklingError(
                f"Can't pickle {obj!r}: it's not found as {module}.{name}"
            )

    def _save_storage_class(self, obj: names.StorageClass) -> None:
        # Each time a new object stands for the class, so it is not memoized.
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[types.FunctionType] = save_global
    dispatch[names.StorageClass] = _save_storage_class


# Where these are called in files, if not where lampion defines them.
_PUBLIC = {
    ("lampion.tensor", "Tensor"): ("torch", "Tensor"),
    ("lampion.tensor", "Size"): ("torch", "Size"),
    ("lampion.base.device", "device"): ("torch", "device"),
    ("lampion.base.layout", "_get_layout"): ("torch.serialization", "_get_layout"),
    ("lampion._utils", "_rebuild_from_type_v2"): ("torch._tensor", "_rebuild_from_type_v2"),
}


def _is_parameter(tensor: Any) -> bool:
    from ...nn.parameter import Parameter

    return type(tensor) is Parameter
