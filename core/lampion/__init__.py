"""lampion: tensors, autograd and a compiler, shaped like PyTorch, with pluggable hardware.

`import lampion as torch` runs PyTorch programs. Importing loads no backend: devices come from
separately installed packages and are opened when first used.
"""

from __future__ import annotations

import math as _math
from typing import Any

from . import library as _library  # declares every op
from .autograd.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .base.device import device
from .base.dtype import (
    bfloat16,
    complex32,
    complex64,
    complex128,
    dtype,
    float16,
    float32,
    float64,
    get_default_dtype,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    set_default_dtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from .base.dtype import bool_ as bool
from .base.errors import OutOfMemoryError
from .base.limits import finfo, iinfo
from .dlpack import from_dlpack
from .interop import from_numpy, frombuffer
from .library import *  # noqa: F403
from .ops.precision import get_float32_matmul_precision, set_float32_matmul_precision
from .runtime.devices import get_default_device, set_default_device, synchronize
from .runtime.threads import get_num_threads, set_num_threads
from .tensor import Size, Tensor

__version__ = "0.1.0"

half, float, double = float16, float32, float64
short, int, long = int16, int32, int64
chalf, cfloat, cdouble = complex32, complex64, complex128
e, pi, inf, nan, newaxis = _math.e, _math.pi, _math.inf, _math.nan, None


def __getattr__(name: str) -> Any:
    return _library.lookup(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_library.public(""), *_library.MODULES, *_library.FUNCTIONS})
