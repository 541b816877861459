"""`lampion.fft`: discrete Fourier transforms, with PyTorch's names.

Floor 7; imports creation and library. The transforms are the ops declared for this namespace,
looked up at first use; an op called `fft_NAME` is `NAME` here.
"""

from __future__ import annotations

from typing import Any

from . import library
from .base import dtype as dt
from .creation import _finish, arange


def __getattr__(name: str) -> Any:
    if f"fft_{name}" in library.public("fft"):
        found = globals()[name] = library.lookup(__name__, f"fft_{name}")
        return found
    return library.lookup(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(n.removeprefix("fft_") for n in library.public("fft"))})


def _frequencies(name: str, n: int, d: float, count: int, first: int, out: Any,
                 requires_grad: bool, options: dict[str, Any]) -> Any:
    want = options["dtype"] or (dt.get_default_dtype() if out is None else out.dtype)
    if want.kind not in "fc":
        raise RuntimeError(f"{name} requires a floating point or complex dtype")
    steps = arange(first, first + count, **{**options, "dtype": want})
    if first:  # the negative ones come last
        steps = library.lookup("lampion", "roll")(steps, first)
    return _finish(steps * (1.0 / (n * d) if n * d else float("inf")), requires_grad, out)


def fftfreq(n: int, d: float = 1.0, *, out: Any = None, dtype: Any = None, layout: Any = None,
            device: Any = None, requires_grad: bool = False) -> Any:
    """The n frequencies of `fft` in its order, for samples `d` apart: 0, 1, ..., -2, -1 over n d.

    >>> lampion.fft.fftfreq(4).tolist()
    [0.0, 0.25, -0.5, -0.25]
    """
    return _frequencies("fftfreq", n, d, n, -(n // 2), out, requires_grad,
                        {"dtype": dtype, "layout": layout, "device": device})


def rfftfreq(n: int, d: float = 1.0, *, out: Any = None, dtype: Any = None, layout: Any = None,
             device: Any = None, requires_grad: bool = False) -> Any:
    """The n // 2 + 1 frequencies of `rfft`, for samples `d` apart.

    >>> lampion.fft.rfftfreq(4).tolist()
    [0.0, 0.25, 0.5]
    """
    return _frequencies("rfftfreq", n, d, n // 2 + 1, 0, out, requires_grad,
                        {"dtype": dtype, "layout": layout, "device": device})
