"""Names of types for annotations. Floor 7; imports the tensor."""

from __future__ import annotations

import builtins
import os
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

from .base.device import device as _device
from .interop import UntypedStorage as Storage
from .tensor import Size as _Size
from .tensor import Tensor as _Tensor

__all__ = ["Device", "FileLike", "Number", "Storage"]

_int, _float, _bool, _complex = builtins.int, builtins.float, builtins.bool, builtins.complex
_size: TypeAlias = _Size | list[builtins.int] | tuple[builtins.int, ...]
_symsize = _size
Number: TypeAlias = builtins.int | builtins.float | builtins.bool
Device: TypeAlias = _device | str | builtins.int | None
FileLike: TypeAlias = str | os.PathLike[str] | IO[bytes]
_TensorOrTensors: TypeAlias = _Tensor | Sequence[_Tensor]
_TensorOrOptionalTensors: TypeAlias = Any
