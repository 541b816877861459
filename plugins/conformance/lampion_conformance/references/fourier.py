"""References of Fourier transforms and of short-time ones, from SciPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft

NORMS = ("backward", "ortho", "forward")


def _line(f: Any) -> Any:
    return lambda x, n=None, dim=-1, norm=None: f(x, n, dim, norm)


def _kept(x: Any, s: Any, dim: Any, half: bool) -> tuple[Any, Any]:
    """(sizes, dims) for SciPy: -1 keeps the size of a dim; of the last, of which half is given,
    it means an even size."""
    if s is None:
        return None, dim
    dims = range(-len(s), 0) if dim is None else dim
    sizes = [x.shape[d] if n == -1 else n for n, d in zip(s, dims)]
    if half and s[-1] == -1:
        sizes[-1] = 2 * (x.shape[dims[-1]] - 1)
    return tuple(sizes), tuple(dims)


def _dims(f: Any, dim: Any = None) -> Any:
    default, half = dim, f.__name__.startswith(("irfft", "hfft"))

    def run(x: Any, s: Any = None, dim: Any = default, norm: Any = None) -> Any:
        return f(x, *_kept(x, s, dim, half), norm)

    return run


def _shift(f: Any) -> Any:
    return lambda x, dim=None: f(x, dim)


def _transform(x: Any, dim: Any, norm: int, forward: bool) -> Any:
    """fft_c2c: norm 0, 1, 2 divides by 1, the root of the number of points, that number."""
    if forward:
        return scipy.fft.fftn(x, axes=dim, norm=NORMS[norm])
    return scipy.fft.ifftn(x, axes=dim, norm=NORMS[::-1][norm])


def _half(x: Any, dim: Any, norm: int, forward: bool) -> Any:
    full = _transform(x, dim, norm, forward)
    return np.take(full, range(x.shape[dim[-1]] // 2 + 1), dim[-1])


def _to_real(x: Any, dim: Any, norm: int, size: int, forward: bool) -> Any:
    if forward:
        return scipy.fft.hfftn(x, [*(x.shape[d] for d in dim[:-1]), size], dim, NORMS[norm])
    return scipy.fft.irfftn(x, [*(x.shape[d] for d in dim[:-1]), size], dim, NORMS[::-1][norm])


def _overlap_add(x: Any, length: int, step: int) -> Any:
    out = np.zeros((*x.shape[:-2], length), x.dtype)
    for k in range(x.shape[-2]):
        part = x[..., k, :][..., :max(length - k * step, 0)]
        out[..., k * step:k * step + part.shape[-1]] += part
    return out


def _window(window: Any, n_fft: int) -> Any:
    before = (n_fft - len(window)) // 2
    return np.pad(window, (before, n_fft - len(window) - before))


def _stft(x: Any, n_fft: int, hop_length: Any = None, win_length: Any = None, window: Any = None,
          center: bool = True, normalized: bool = False, return_complex: bool = True) -> Any:
    hop, w = hop_length or n_fft // 4, _window(window, n_fft)
    if center:
        x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2, n_fft // 2)], "reflect")
    frames = np.stack([x[..., k:k + n_fft] * w for k in range(0, x.shape[-1] - n_fft + 1, hop)],
                      -1)
    spectra = np.fft.fft(frames, axis=-2)
    if x.dtype.kind != "c":
        spectra = spectra[..., :n_fft // 2 + 1, :]
    return spectra / np.sqrt(n_fft) if normalized else spectra


def _istft(x: Any, n_fft: int, hop_length: Any = None, win_length: Any = None, window: Any = None,
           center: bool = True, normalized: bool = False, onesided: bool = True,
           length: Any = None, return_complex: bool = False) -> Any:
    hop, w = hop_length or n_fft // 4, _window(window, n_fft)
    x = x * np.sqrt(n_fft) if normalized else x
    frames = np.fft.irfft(x[..., :n_fft // 2 + 1, :], n_fft, -2)  # the other half is not read
    total = n_fft + hop * (x.shape[-1] - 1)
    signal = _overlap_add(np.swapaxes(frames * w[:, None], -1, -2), total, hop)
    weight = _overlap_add(np.tile(w * w, (x.shape[-1], 1)), total, hop)
    start = n_fft // 2 if center else 0
    end = total - start if length is None else start + length
    return signal[..., start:end] / weight[start:end]


REFERENCE = {
    **{f"fft_{name}": _line(getattr(scipy.fft, name))
       for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")},
    **{f"fft_{name}n": _dims(getattr(scipy.fft, name + "n"))
       for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")},
    **{f"fft_{name}2": _dims(getattr(scipy.fft, name + "2"), (-2, -1))
       for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")},
    "fft_fftshift": _shift(scipy.fft.fftshift), "fft_ifftshift": _shift(scipy.fft.ifftshift),
    "fft_c2c": _transform, "fft_r2c": _half, "fft_c2r": _to_real, "overlap_add": _overlap_add,
    "stft": _stft, "istft": _istft,
}
