"""Printing tensors as PyTorch does.

Floor 6; imports tensor and base. One formatter is chosen for all shown elements (integer look,
fixed or scientific), rows wrap at `linewidth`, and long dims are summarised at the edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import dtype as dt
from .runtime import devices


@dataclass
class Options:
    """precision: digits after the point; threshold: elements before summarising; edgeitems shown
    at each end then; linewidth: characters a line; sci_mode: None lets the values decide."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


options = Options()


def set_printoptions(precision: int | None = None, threshold: float | None = None,
                     edgeitems: int | None = None, linewidth: int | None = None,
                     profile: str | None = None, sci_mode: bool | None = None) -> None:
    """Set how tensors print. `profile` is "default", "short" or "full"."""
    if profile is not None:
        presets = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80),
                   "full": (4, math.inf, 3, 80)}
        (options.precision, options.threshold, options.edgeitems,
         options.linewidth) = presets[profile]
    for name, value in (("precision", precision), ("threshold", threshold),
                        ("edgeitems", edgeitems), ("linewidth", linewidth)):
        if value is not None:
            setattr(options, name, value)
    options.sci_mode = sci_mode


class Formatter:
    """Formats every element of one array alike."""

    def __init__(self, values: np.ndarray) -> None:
        self.floating = values.dtype.kind == "f"
        self.integral, self.scientific, self.width = True, False, 1
        flat = values.ravel()
        if not self.floating:
            self.width = max((len(str(v)) for v in flat.tolist()), default=1)
            return
        finite = flat[np.isfinite(flat) & (flat != 0)].astype(np.float64)
        if finite.size:  # 0, inf and nan have no say in the width
            self._choose(np.abs(finite), finite)
            self.width = max(len(self.text(v)) for v in finite.tolist())

    def _choose(self, size: np.ndarray, finite: np.ndarray) -> None:
        low, high = size.min(), size.max()
        self.integral = bool((finite == np.ceil(finite)).all())
        if self.integral:
            self.scientific = bool(high / low > 1000.0 or high > 1.0e8)
        else:
            self.scientific = bool(high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4)
        if options.sci_mode is not None:
            self.scientific = options.sci_mode

    def text(self, v: Any) -> str:
        """One element, without padding."""
        if not self.floating:
            return str(v)
        if self.scientific:
            return f"{v:.{options.precision}e}"
        if self.integral:
            s = f"{v:.0f}"
            return s + "." if math.isfinite(v) else s
        return f"{v:.{options.precision}f}"

    def __call__(self, v: Any) -> str:
        s = self.text(v)
        return " " * (self.width - len(s)) + s


class ComplexFormatter:
    """Real and imaginary parts with a formatter each."""

    def __init__(self, values: np.ndarray) -> None:
        self.re, self.im = Formatter(values.real), Formatter(values.imag)
        self.width = self.re.width + self.im.width + 1

    def __call__(self, v: complex) -> str:
        im = self.im(v.imag).lstrip()
        sign = "" if im.startswith("-") else "+"
        return f"{self.re(v.real)}{sign}{im}j"


def _edges(a: np.ndarray) -> np.ndarray:
    """The elements that a summary shows."""
    e = options.edgeitems
    for axis in range(a.ndim):
        if a.shape[axis] > 2 * e:
            a = np.concatenate([a.take(range(e), axis),
                                a.take(range(a.shape[axis] - e, a.shape[axis]), axis)], axis)
    return a


def _vector(a: np.ndarray, indent: int, summarize: bool, fmt: Any) -> str:
    per_line = max(1, math.floor((options.linewidth - indent) / (fmt.width + 2)))
    e = options.edgeitems
    values = a.tolist()
    if summarize and not e:
        items = ["..."]
    elif summarize and len(values) > 2 * e:
        items = [fmt(v) for v in values[:e]] + [" ..."] + [fmt(v) for v in values[-e:]]
    else:
        items = [fmt(v) for v in values]
    lines = [", ".join(items[k:k + per_line]) for k in range(0, len(items), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _nested(a: np.ndarray, indent: int, summarize: bool, fmt: Any) -> str:
    if a.ndim == 0:
        return fmt(a.item())
    if a.ndim == 1:
        return _vector(a, indent, summarize, fmt)
    e = options.edgeitems
    if summarize and len(a) > 2 * e:
        parts = [_nested(r, indent + 1, summarize, fmt) for r in a[:e]] + ["..."] + [
            _nested(r, indent + 1, summarize, fmt) for r in a[-e:]]
    else:
        parts = [_nested(r, indent + 1, summarize, fmt) for r in a]
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _suffixes(t: Any, empty: bool) -> list[str]:
    m = t.meta
    out = []
    if m.device is not devices.default_device():
        out.append(f"device='{m.device}'")
    if empty:
        if m.ndim != 1:
            out.append(f"size={tuple(m.shape)}")
        plain = m.dtype is dt.get_default_dtype()
    else:
        plain = m.dtype in (dt.get_default_dtype(), dt.int64, dt.bool_,
                            dt.get_default_dtype().to_complex())
    if not plain:
        out.append(f"dtype={m.dtype!r}")
    if t.grad_fn is not None:
        name = t.grad_fn.name().rpartition("::")[2]
        out.append(f"grad_fn=<{name}>")
    elif t.requires_grad:
        out.append("requires_grad=True")
    return out


def tensor_repr(t: Any) -> str:
    """tensor(...) with size, device, dtype and gradient suffixes where they say something.

    >>> import lampion
    >>> lampion.tensor([1.0, 2.5])
    tensor([1.0000, 2.5000])
    """
    m = t.meta
    if m.virtual:
        return t.data_.describe()
    name = type(t).__name__
    prefix = "tensor(" if name in ("Tensor", "Parameter") else name + "("
    indent = len(prefix)
    empty = m.numel == 0
    if empty:
        body = "[]"
    else:
        summarize = m.numel > options.threshold
        a = t.detach().host()
        if m.dtype in (dt.float16, dt.bfloat16):
            a = a.astype(np.float32)
        shown = _edges(a) if summarize else a
        fmt = ComplexFormatter(shown) if m.dtype.kind == "c" else Formatter(shown)
        body = _nested(a, indent, summarize, fmt)
    suffixes = _suffixes(t, empty)
    text = prefix + body
    last = len(text) - text.rfind("\n") - 1
    for s in suffixes:
        if last + len(s) + 3 > options.linewidth:
            text += ",\n" + " " * indent + s
            last = indent + len(s)
        else:
            text += ", " + s
            last += len(s) + 2
    text += ")"
    if name == "Parameter":
        return "Parameter containing:\n" + text
    return text
