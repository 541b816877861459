"""`lampion.signal.windows`: window functions, and the older `lampion.hann_window` and its kin.

Floor 7; imports creation. A window depends on a few numbers only: it is computed on the host in
float64, rounded once to its dtype and uploaded, so it is as exact as its type and symmetric to the
last bit. Formulas: F. J. Harris, On the use of windows for harmonic analysis with the discrete
Fourier transform, Proc. IEEE 66(1), 1978; Nuttall's coefficients from A. H. Nuttall, Some windows
with very good sidelobe behavior, IEEE Trans. ASSP 29(1), 1981.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..base.layout import strided
from ..creation import _finish, upload

__all__ = ["bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine",
           "general_hamming", "hamming", "hann", "kaiser", "nuttall"]

Array = Any


# ---- shapes: (positions from 0 to 1) to values  ------------------------------------------------

def _cosines(a: Iterable[float]) -> Callable[[Array], Array]:
    """a0 - a1 cos(2 pi t) + a2 cos(4 pi t) - ..."""
    terms = [(-1) ** k * float(w) for k, w in enumerate(a)]

    def shape(t: Array) -> Array:
        # cosines of the distance to the nearer end: equal for positions that mirror each other
        near = np.minimum(t, 1 - t)
        return sum(w * np.cos(2 * np.pi * k * near) for k, w in enumerate(terms))

    return shape


def _triangle(t: Array) -> Array:
    return 1 - np.abs(2 * t - 1)


def _kaiser(beta: float) -> Callable[[Array], Array]:
    def shape(t: Array) -> Array:
        x = 2 * t - 1
        return np.i0(beta * np.sqrt(np.maximum((1 - x) * (1 + x), 0))) / np.i0(beta)

    return shape


def _at(shape: Callable[[Array], Array], m: int, sym: bool) -> Array:
    """The values at i / (m - 1), or at i / m for a window that is one period of a longer one; a
    single one is 1."""
    if m < 2:
        return np.ones(m)
    return shape(np.arange(m) / (m - 1 if sym else m))


# ---- lampion.signal.windows  -------------------------------------------------------------------

def _check(name: str, M: Any, options: dict[str, Any]) -> None:
    if M < 0:
        raise ValueError(f"{name} requires non-negative window length, got M={M}")
    if options.get("layout", strided) is not strided:
        raise ValueError(f"{name} is implemented for strided tensors only, got: "
                         f"{options['layout']!r}")
    d = options.get("dtype")
    if d is not None and d not in (dt.float32, dt.float64):
        raise ValueError(f"{name} expects float32 or float64 dtypes, got: {d!r}")
    if isinstance(M, bool) or not hasattr(M, "__index__"):
        raise TypeError(f"{name}(): argument 'M' must be int, not {type(M).__name__}")


def _make(values: Array, dtype: Any = None, layout: Any = None, device: Any = None,
          requires_grad: bool = False) -> Any:
    return _finish(upload(values, dtype or dt.get_default_dtype(), device), requires_grad, None)


def _window(name: str, M: int, sym: bool, shape: Callable[[Array], Array],
            options: dict[str, Any]) -> Any:
    _check(name, M, options)
    return _make(_at(shape, int(M), sym), **options)


def bartlett(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = strided,
             device: Any = None, requires_grad: bool = False) -> Any:
    """A triangle from 0 over 1 to 0, of `M` entries.

    `sym=False` gives the first M entries of the window of M + 1: one period, for spectra. The
    dtype is float32 or float64. ValueError for another dtype or a negative length. All windows
    take these arguments.

    >>> lampion.signal.windows.bartlett(5).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return _window("bartlett", M, sym, _triangle, {
        "dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad})


def general_cosine(M: int, *, a: Iterable[float], sym: bool = True, dtype: Any = None,
                   layout: Any = strided, device: Any = None, requires_grad: bool = False) -> Any:
    """The sum over k of (-1)^k a[k] cos(2 pi k i / (M - 1)). TypeError unless `a` is iterable,
    ValueError if it is empty."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    _check("general_cosine", M, options)
    if not isinstance(a, Iterable):
        raise TypeError("Coefficients must be a list/tuple")
    a = list(a)
    if not a:
        raise ValueError("Coefficients cannot be empty")
    return _window("general_cosine", M, sym, _cosines(a), options)


def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, dtype: Any = None,
                    layout: Any = strided, device: Any = None, requires_grad: bool = False) -> Any:
    """alpha - (1 - alpha) cos(2 pi i / (M - 1))."""
    return general_cosine(M, a=[alpha, 1.0 - alpha], sym=sym, dtype=dtype, layout=layout,
                          device=device, requires_grad=requires_grad)


def hamming(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = strided,
            device: Any = None, requires_grad: bool = False) -> Any:
    """0.54 - 0.46 cos(2 pi i / (M - 1))."""
    return general_hamming(M, sym=sym, dtype=dtype, layout=layout, device=device,
                           requires_grad=requires_grad)


def hann(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = strided,
         device: Any = None, requires_grad: bool = False) -> Any:
    """sin(pi i / (M - 1))^2.

    >>> lampion.signal.windows.hann(5).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return general_hamming(M, alpha=0.5, sym=sym, dtype=dtype, layout=layout, device=device,
                           requires_grad=requires_grad)


def blackman(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = strided,
             device: Any = None, requires_grad: bool = False) -> Any:
    """0.42 - 0.5 cos(2 pi i / (M - 1)) + 0.08 cos(4 pi i / (M - 1))."""
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, dtype=dtype, layout=layout,
                          device=device, requires_grad=requires_grad)


def nuttall(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = strided,
            device: Any = None, requires_grad: bool = False) -> Any:
    """Nuttall's four-term window with the lowest side lobes."""
    return general_cosine(M, a=[0.3635819, 0.4891775, 0.1365995, 0.0106411], sym=sym, dtype=dtype,
                          layout=layout, device=device, requires_grad=requires_grad)


def cosine(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = strided,
           device: Any = None, requires_grad: bool = False) -> Any:
    """sin(pi (i + 1/2) / M)."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    _check("cosine", M, options)
    n = M + 1 if not sym and M > 1 else M
    i = np.arange(M)
    return _make(np.sin(np.pi * (np.minimum(i, n - 1 - i) + 0.5) / max(n, 1)), **options)


def _centre(M: int, sym: bool) -> float:
    return (M if not sym and M > 1 else M - 1) / 2


def gaussian(M: int, *, std: float = 1.0, sym: bool = True, dtype: Any = None,
             layout: Any = strided, device: Any = None, requires_grad: bool = False) -> Any:
    """exp(-((i - centre) / std)^2 / 2). ValueError unless std > 0."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    _check("gaussian", M, options)
    if std <= 0:
        raise ValueError(f"Standard deviation must be positive, got: {std} instead.")
    x = (np.arange(M) - _centre(M, sym)) / std
    return _make(np.exp(-x * x / 2), **options)


def exponential(M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True,
                dtype: Any = None, layout: Any = strided, device: Any = None,
                requires_grad: bool = False) -> Any:
    """exp(-|i - center| / tau). ValueError unless tau > 0, or for a `center` of a symmetric
    window."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    _check("exponential", M, options)
    if tau <= 0:
        raise ValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise ValueError("Center must be None for symmetric windows")
    middle = _centre(M, sym) if center is None else center
    return _make(np.exp(-np.abs(np.arange(M) - middle) / tau), **options)


def kaiser(M: int, *, beta: float = 12.0, sym: bool = True, dtype: Any = None,
           layout: Any = strided, device: Any = None, requires_grad: bool = False) -> Any:
    """I0(beta sqrt(1 - x^2)) / I0(beta), x from -1 to 1. ValueError if beta < 0."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    _check("kaiser", M, options)
    if beta < 0:
        raise ValueError(f"beta must be non-negative, got: {beta} instead.")
    return _window("kaiser", M, sym, _kaiser(float(beta)), options)


# ---- the functions of the top level  -----------------------------------------------------------

def _periodic(name: str, length: Any, periodic: bool, shape: Callable[[Array], Array], dtype: Any,
              layout: Any, device: Any, requires_grad: bool) -> Any:
    if isinstance(length, bool) or not hasattr(length, "__index__"):
        raise TypeError(f"{name}(): argument 'window_length' (position 1) must be int, not "
                        f"{type(length).__name__}")
    if layout not in (None, strided):
        raise RuntimeError(f"{name} is not implemented for layout {layout!r}")
    d = dtype or dt.get_default_dtype()
    if d.kind == "c":
        raise DtypeError(f"{name} is not implemented for {d!r}")
    if d.kind != "f":
        raise RuntimeError(f"{name} expects floating point dtypes, got: {d!r}")
    if length < 0:
        raise RuntimeError(f"{name} requires non-negative window_length, got "
                           f"window_length={length}")
    return _make(_at(shape, int(length), not periodic), d, None, device, requires_grad)


def bartlett_window(window_length: int, periodic: bool = True, *, dtype: Any = None,
                    layout: Any = None, device: Any = None, pin_memory: bool = False,
                    requires_grad: bool = False) -> Any:
    """A triangle of `window_length` entries, by default one period (see `signal.windows`)."""
    return _periodic("bartlett_window", window_length, periodic, _triangle, dtype, layout, device,
                     requires_grad)


def blackman_window(window_length: int, periodic: bool = True, *, dtype: Any = None,
                    layout: Any = None, device: Any = None, pin_memory: bool = False,
                    requires_grad: bool = False) -> Any:
    """0.42 - 0.5 cos(2 pi t) + 0.08 cos(4 pi t), by default one period."""
    return _periodic("blackman_window", window_length, periodic, _cosines([0.42, 0.5, 0.08]),
                     dtype, layout, device, requires_grad)


def hamming_window(window_length: int, periodic: bool = True, alpha: float = 0.54,
                   beta: float = 0.46, *, dtype: Any = None, layout: Any = None,
                   device: Any = None, pin_memory: bool = False,
                   requires_grad: bool = False) -> Any:
    """alpha - beta cos(2 pi t), by default one period."""
    return _periodic("hamming_window", window_length, periodic, _cosines([alpha, beta]), dtype,
                     layout, device, requires_grad)


def hann_window(window_length: int, periodic: bool = True, *, dtype: Any = None,
                layout: Any = None, device: Any = None, pin_memory: bool = False,
                requires_grad: bool = False) -> Any:
    """sin(pi t)^2, by default one period.

    >>> lampion.hann_window(4).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    return _periodic("hann_window", window_length, periodic, _cosines([0.5, 0.5]), dtype, layout,
                     device, requires_grad)


def kaiser_window(window_length: int, periodic: bool = True, beta: float = 12.0, *,
                  dtype: Any = None, layout: Any = None, device: Any = None,
                  pin_memory: bool = False, requires_grad: bool = False) -> Any:
    """I0(beta sqrt(1 - x^2)) / I0(beta), by default one period."""
    return _periodic("kaiser_window", window_length, periodic, _kaiser(float(beta)), dtype,
                     layout, device, requires_grad)
