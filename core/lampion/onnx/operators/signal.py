"""ONNX's signal processing. Floor 7; imports lampion and this package.

Complex numbers are a last dim of two real ones.
"""

from __future__ import annotations

import math
from typing import Any

import lampion

from ..table import operator
from ..values import DTYPES


def _complex(x: Any) -> Any:
    return lampion.view_as_complex(x.contiguous())


@operator("DFT", host=(1, 2))
def dft(input: Any, dft_length: Any = None, axis: Any = None, *, inverse: int = 0,
        onesided: int = 0, opset: int = 20) -> Any:
    """The discrete Fourier transform along an axis, or its inverse."""
    at = (1 if opset < 20 else -2) if axis is None else int(
        axis.reshape(-1)[0] if hasattr(axis, "reshape") else axis)
    at = at % input.ndim
    n = None if dft_length is None else int(dft_length.reshape(-1)[0])
    is_complex = input.shape[-1] == 2
    x = _complex(input) if is_complex else input.squeeze(-1)
    if inverse and onesided:
        return lampion.fft.irfft(x, n, at).unsqueeze(-1)
    if inverse:
        return lampion.view_as_real(lampion.fft.ifft(x, n, at))
    if onesided and not is_complex:
        return lampion.view_as_real(lampion.fft.rfft(x, n, at))
    out = lampion.fft.fft(x, n, at)
    if onesided:
        out = out.narrow(at, 0, out.shape[at] // 2 + 1)
    return lampion.view_as_real(out)


@operator("STFT", host=(1, 3))
def stft(signal: Any, frame_step: Any, window: Any = None, frame_length: Any = None, *,
         onesided: int = 1) -> Any:
    """Fourier transforms of windows of a signal (batch, time, 1 or 2)."""
    if frame_length is not None:
        n = int(frame_length.reshape(-1)[0])
    else:
        n = window.shape[0] if window is not None else signal.shape[1]
    x = _complex(signal) if signal.shape[-1] == 2 else (
        signal.squeeze(-1) if signal.ndim == 3 else signal)
    frames = x.unfold(1, n, int(frame_step.reshape(-1)[0]))
    if window is not None:
        frames = frames * window
    if onesided and not x.is_complex():
        return lampion.view_as_real(lampion.fft.rfft(frames, n))
    out = lampion.fft.fft(frames, n)
    return lampion.view_as_real(out[..., :n // 2 + 1] if onesided else out)


def _window(name: str, weights: tuple[float, ...]) -> None:
    @operator(name, host=(0,))
    def run(size: Any, *, output_datatype: int = 1, periodic: int = 1, device: Any = None) -> Any:
        """A sum of cosines over a number of points."""
        n = int(size.reshape(-1)[0])
        angle = lampion.arange(n, dtype=lampion.float64, device=device) * (
            2 * math.pi / max(n if periodic else n - 1, 1))
        out = lampion.full_like(angle, weights[0])
        for k, w in enumerate(weights[1:], 1):
            out = out + w * lampion.cos(k * angle)
        return out.to(DTYPES[output_datatype])


_window("HannWindow", (0.5, -0.5))
_window("HammingWindow", (25 / 46, -21 / 46))
_window("BlackmanWindow", (0.42, -0.5, 0.08))


@operator("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def mel_weight_matrix(num_mel_bins: Any, dft_length: Any, sample_rate: Any,
                      lower_edge_hertz: Any, upper_edge_hertz: Any, *, output_datatype: int = 1,
                      device: Any = None) -> Any:
    """Triangles on the mel scale, 2595 log10(1 + hertz / 700), over the bins of a spectrum."""
    bins, length, rate, low, high = (v.reshape(-1)[0].item() for v in (
        num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz))

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    step = (mel(high) - mel(low)) / (bins + 2)
    edges = [int((length + 1) * (700 * (10 ** ((mel(low) + k * step) / 2595) - 1)) // rate)
             for k in range(bins + 2)]
    rows = [[0.0] * bins for _ in range(length // 2 + 1)]
    for k in range(bins):
        left, middle, right = edges[k:k + 3]
        if middle == left:
            rows[middle][k] = 1.0
        for j in range(left, middle + 1 if middle > left else left):
            rows[j][k] = (j - left) / (middle - left)
        for j in range(middle, right):
            rows[j][k] = (right - j) / (right - middle)
    return lampion.tensor(rows, dtype=DTYPES[output_datatype], device=device)
