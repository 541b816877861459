"""Switches of the process that PyTorch programs flip, and what they mean here.

Results are deterministic on every device already, unless an option of a device's plug-in says
otherwise, which asking for determinism overrules. Floor 7; imports base, ops and tensor.
"""

from __future__ import annotations

from typing import Any

from .autograd import engine
from .base import dtype as dt
from .base.dtype import dtype, set_default_dtype
from .ops.registry import forget_plans

_deterministic = {"enabled": False, "warn_only": False}
_always = [False]
_interop = [1]


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Ask for the same results every time, as every backend gives them by default.

    >>> lampion.use_deterministic_algorithms(True); lampion.are_deterministic_algorithms_enabled()
    True
    >>> lampion.use_deterministic_algorithms(False)
    """
    if bool(mode) != _deterministic["enabled"]:
        forget_plans()
    _deterministic.update(enabled=bool(mode), warn_only=bool(warn_only))


def are_deterministic_algorithms_enabled() -> bool:
    """Whether `use_deterministic_algorithms(True)` was called."""
    return _deterministic["enabled"]


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Whether it was called with `warn_only`."""
    return _deterministic["warn_only"]


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """0 or "default", 1 or "warn", 2 or "error"; RuntimeError for anything else."""
    modes: dict[Any, int] = {"default": 0, "warn": 1, "error": 2, 0: 0, 1: 1, 2: 2}
    if debug_mode not in modes:
        raise RuntimeError("invalid value of debug_mode, expected 0, 1, 2 or default, warn, error, "
                           f"but got {debug_mode!r}")
    level = modes[debug_mode]
    use_deterministic_algorithms(level > 0, warn_only=level == 1)


def get_deterministic_debug_mode() -> int:
    """0, 1 or 2; see `set_deterministic_debug_mode`."""
    if not _deterministic["enabled"]:
        return 0
    return 1 if _deterministic["warn_only"] else 2


def set_flush_denormal(mode: bool) -> bool:
    """Subnormal numbers are kept on every device: True if that is what was asked for."""
    return not mode


def set_warn_always(b: bool, /) -> None:
    """Remembered; warnings here follow Python's filters."""
    _always[0] = bool(b)


def is_warn_always_enabled() -> bool:
    """What `set_warn_always` was given last."""
    return _always[0]


def set_num_interop_threads(count: int) -> None:
    """Remembered: ops do not run beside each other on the host."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"set_num_interop_threads expects an int, but got {type(count).__name__}")
    if count < 1:
        raise RuntimeError("Expected nthreads > 0 to be true, but got false.")
    _interop[0] = count


def get_num_interop_threads() -> int:
    """What `set_num_interop_threads` was given last; 1 at first."""
    return _interop[0]


def is_anomaly_enabled() -> bool:
    """Whether `autograd.detect_anomaly` is on."""
    return bool(engine.anomaly[0])


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly mode looks for NaN."""
    return bool(engine.anomaly[1])


_TENSOR_TYPES = {"FloatTensor": dt.float32, "DoubleTensor": dt.float64, "HalfTensor": dt.float16,
                 "BFloat16Tensor": dt.bfloat16}


def set_default_tensor_type(t: Any, /) -> None:
    """The older way to set the default dtype: "torch.DoubleTensor", or the class of that name.

    TypeError for a name that is no floating point tensor type.
    """
    name = t if isinstance(t, str) else getattr(t, "__name__", str(t))
    *place, last = name.split(".")
    kind: dtype | None = _TENSOR_TYPES.get(last)
    if kind is None:
        raise TypeError(f"invalid type name {name!r}: only floating point types can be the default "
                        f"({', '.join(_TENSOR_TYPES)})")
    if len(place) > 1:
        from .runtime.devices import set_default_device

        set_default_device(place[-1])
    set_default_dtype(kind)


def compiled_with_cxx11_abi() -> bool:
    """True: there is no compiled code that would use the older one."""
    return True


def typename(obj: Any, /) -> str:
    """The type of a tensor ("torch.FloatTensor"), or of anything by its module and name."""
    from .tensor import Tensor

    if isinstance(obj, Tensor):
        return str(obj.type())
    kind = obj if isinstance(obj, type) else type(obj)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", None) else f"{module}.{kind.__qualname__}"


__all__ = [
    "are_deterministic_algorithms_enabled", "compiled_with_cxx11_abi",
    "get_deterministic_debug_mode", "get_num_interop_threads", "is_anomaly_check_nan_enabled",
    "is_anomaly_enabled", "is_deterministic_algorithms_warn_only_enabled",
    "is_warn_always_enabled", "set_default_tensor_type", "set_deterministic_debug_mode",
    "set_flush_denormal", "set_num_interop_threads", "set_warn_always", "typename",
    "use_deterministic_algorithms",
]
