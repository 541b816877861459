"""Names of classes and functions in checkpoints.

A checkpoint calls things by PyTorch's names, so that either framework reads the other's files:
`lampion.X` is written as `torch.X` and read back. Floor 7; imports the dtypes.
"""

from __future__ import annotations

import sys
from typing import Any

from ...base import dtype as dt
from ...base.dtype import dtype

# File name of the storage class of each element type; the others use untyped storages.
STORAGE_CLASS = {
    dt.float64: "DoubleStorage",
    dt.float32: "FloatStorage",
    dt.float16: "HalfStorage",
    dt.bfloat16: "BFloat16Storage",
    dt.int64: "LongStorage",
    dt.int32: "IntStorage",
    dt.int16: "ShortStorage",
    dt.int8: "CharStorage",
    dt.uint8: "ByteStorage",
    dt.bool_: "BoolStorage",
    dt.complex64: "ComplexFloatStorage",
    dt.complex128: "ComplexDoubleStorage",
}
STORAGE_DTYPE = {name: kind for kind, name in STORAGE_CLASS.items()}
UNTYPED = "UntypedStorage"


class StorageClass:
    """Stands for one of PyTorch's storage classes; `dtype` is None for the untyped one."""

    __slots__ = ("module", "name", "dtype")

    def __init__(self, module: str, name: str, kind: dtype | None) -> None:
        self.module = module
        self.name = name
        self.dtype = kind


def storage_class(kind: dtype | None) -> StorageClass:
    """The storage class for an element type."""
    if kind in STORAGE_CLASS:
        return StorageClass("torch", STORAGE_CLASS[kind], kind)
    return StorageClass("torch.storage", UNTYPED, None)


def find_storage_class(module: str, name: str) -> StorageClass | None:
    """The storage class called so in a file (device prefixes are ignored), or None."""
    root = module.partition(".")[0]
    if root not in ("torch", "lampion"):
        return None
    if name in STORAGE_DTYPE:
        return StorageClass("torch", name, STORAGE_DTYPE[name])
    if name == UNTYPED:
        return StorageClass("torch.storage", name, None)
    return None


def to_file(module: str) -> str:
    """A module's name as files have it."""
    if module == "lampion" or module.startswith("lampion."):
        return "torch" + module[len("lampion") :]
    return module


def from_file(module: str) -> str:
    """A module's name here, given the one in a file."""
    if module == "torch" or module.startswith("torch."):
        return "lampion" + module[len("torch") :]
    return module


def dtype_called(name: str) -> dtype | None:
    """The dtype a file calls `torch.NAME`, or None."""
    return dt._BY_NAME.get(name)


def resolve_global(module: str, name: str) -> Any:
    """Import what a file calls `module.name`; PyTorch's names mean lampion's things.

    Raises ImportError or AttributeError if there is no such thing.
    """
    module = from_file(module)
    if module == "lampion" and dtype_called(name) is not None:
        return dtype_called(name)
    __import__(module)
    found = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found
