"""References of questions about tensors, comparisons of whole tensors, and what is left of
arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np


def _float_power(a: Any, b: Any) -> Any:
    return np.power(np.asarray(a, float), b)


def _nextafter(a: Any, b: Any) -> Any:
    return np.nextafter(a.astype(np.float32), b.astype(np.float32))


def _frexp(x: Any) -> Any:
    m, e = np.frexp(x)
    return m, e.astype(np.int32)


def _isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8,
             equal_nan: bool = False) -> Any:
    return np.isclose(a, b, rtol, atol, equal_nan)


def _prelu(x: Any, weight: Any) -> Any:
    shape = [1] * x.ndim
    if x.ndim > 1 and weight.size > 1:
        shape[1] = -1
        weight = weight.reshape(shape)
    return np.where(x > 0, x, (weight if x.ndim else weight.reshape(())) * x)


REFERENCE = {
    "is_tensor": lambda x: isinstance(x, np.ndarray),
    "is_floating_point": lambda x: x.dtype.kind == "f", "is_complex": lambda x: x.dtype.kind == "c",
    "numel": lambda x: x.size, "is_nonzero": lambda x: bool(x.item()),
    "is_same_size": lambda a, b: a.shape == b.shape, "is_conj": lambda x: False,
    "is_neg": lambda x: False,
    "to": lambda x, dtype: x.astype(dtype.dtype if isinstance(dtype, np.ndarray) else dtype),
    "rsub": lambda a, b, *, alpha=1: b - alpha * a, "positive": lambda x: +x,
    "float_power": _float_power, "float_power_": _float_power,
    "nextafter": _nextafter, "frexp": _frexp,
    "where_method": lambda a, condition, b: np.where(condition, a, b),
    "gcd": np.gcd, "lcm": np.lcm, "isclose": _isclose,
    "allclose": lambda *args, **options: bool(_isclose(*args, **options).all()),
    "equal": lambda a, b: np.array_equal(a, b), "prelu": _prelu,
}
