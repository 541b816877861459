"""The short-time Fourier transform and its inverse.

Floor 3. Frames are a strided view of the signal, transformed together; the inverse adds windowed
frames and divides by the sum of the squared windows (D. W. Griffin and J. S. Lim, Signal
estimation from modified short-time Fourier transform, IEEE Trans. ASSP 32(2), 1984).
"""

from __future__ import annotations

import warnings

from ..base import dtype as dt
from .facts import examples
from .fourier import fft_c2c, fft_c2r, fft_r2c
from .plans import _word
from .registry import REGISTRY, composite


def _complain(name, text):
    raise RuntimeError(f"{name}(): {text}")


def _lengths(n_fft, hop_length, win_length):
    return (n_fft // 4 if hop_length is None else hop_length,
            n_fft if win_length is None else win_length)


def _centred(window, win_length, n_fft):
    """The window with zeros on both sides up to n_fft."""
    if window is None or win_length == n_fft:
        return window
    left = (n_fft - win_length) // 2
    return REGISTRY["constant_pad_nd"].fn(window, (left, n_fft - win_length - left))


def _check_window(name, window, win_length):
    if window is not None and window.meta.shape != (win_length,):
        _complain(name, f"expected a 1D window tensor of size equal to win_length={win_length}, "
                        f"but got window with size {list(window.meta.shape)}")


def _warn_rectangular(name):
    warnings.warn(f"{name}(): no window was given: a rectangular one is applied, which leaks "
                  "between frequencies. Pass one, for instance lampion.hann_window(win_length).",
                  stacklevel=4)


@composite(method=True, out=False, samples="""
    f(40), 8, return_complex=True, window=f(8)
    f(2, 40, dtype=float64), 9, 3, 5, return_complex=True, normalized=True, window=f(5,
        dtype=float64)
    c(2, 30).fixed, 8, center=False, window=f(8).fixed
""")
def stft(input, n_fft, hop_length=None, win_length=None, window=None, center=True,
         pad_mode="reflect", normalized=False, onesided=None, return_complex=None,
         align_to_window=None):
    """Spectra of overlapping frames: (length,) or (batch, length) to (..., frequencies, frames).

    A frame has `n_fft` samples and begins `hop_length` (n_fft // 4) after the one before; it is
    multiplied by `window`, which has `win_length` (n_fft) entries and stands in its middle.
    `center` pads the signal by `pad_mode`, so that frame t is centred at t * hop_length; without
    it, `align_to_window` lets the window, not the frame, begin at 0. `normalized` divides by
    sqrt(n_fft). `onesided` (default: if all is real) leaves out the conjugate half.
    `return_complex=False` gives a last dim of 2 instead of complex numbers.

    RuntimeError for sizes that do not fit, integers, or a missing return_complex.

    >>> x = lampion.ones(100)
    >>> lampion.stft(x, 16, window=lampion.hann_window(16), return_complex=True).shape
    lampion.Size([9, 26])
    """
    if center and align_to_window is not None:
        _complain("stft", "align_to_window should only be set when center = false")
    hop_length, win_length = _lengths(n_fft, hop_length, win_length)
    if center:
        input = _padded(input, n_fft // 2, pad_mode)
    m = input.meta
    if m.dtype.kind not in "fc":
        _complain("stft", "expected a tensor of floating point or complex values, but got "
                          f"{_word(m.dtype)}")
    if m.ndim not in (1, 2):
        _complain("stft", f"expected a 1D or 2D tensor, but got {list(m.shape)}")
    length = m.shape[-1]
    if not 0 < n_fft <= length:
        _complain("stft", f"expected 0 < n_fft <= {length}, the length of the signal, but got "
                          f"n_fft={n_fft}")
    if hop_length <= 0:
        _complain("stft", f"expected hop_length > 0, but got hop_length={hop_length}")
    if not 0 < win_length <= n_fft:
        _complain("stft", f"expected 0 < win_length <= n_fft, but got win_length={win_length}")
    _check_window("stft", window, win_length)
    is_complex = m.dtype.kind == "c" or (window is not None and window.meta.dtype.kind == "c")
    if return_complex is None:
        if not is_complex:
            _complain("stft", "return_complex must be given for real inputs; return_complex=True "
                              "is what to use, view_as_real makes pairs of the result")
        return_complex = True
    if is_complex and onesided:
        _complain("stft", "Cannot have onesided output if window or input is complex")
    if window is None:
        _warn_rectangular("stft")
    if align_to_window and not center:
        around = n_fft - win_length
        input = REGISTRY["constant_pad_nd"].fn(input, (around // 2, around - around // 2))
    frames = input.unfold(-1, n_fft, hop_length)
    if window is not None:
        frames = frames * _centred(window, win_length, n_fft)
    d, norm = frames.meta.ndim - 1, int(bool(normalized))
    if frames.meta.dtype.to_real() not in (dt.float32, dt.float64):
        _complain("stft", f"unsupported dtype {_word(frames.meta.dtype)}; convert with "
                          ".to(lampion.float32)")
    half = not is_complex if onesided is None else onesided
    spectrum = (fft_r2c if half else fft_c2c).fn(frames, (d,), norm, True).transpose(-1, -2)
    return spectrum if return_complex else REGISTRY["view_as_real"].fn(spectrum)


def _padded(input, amount, mode):
    """The signal with `amount` samples on both sides."""
    m = input.meta
    shape = (1,) * (3 - m.ndim) + m.shape
    wide = REGISTRY["pad"].fn(input.reshape(shape), (amount, amount), mode)
    return wide.reshape(wide.meta.shape[3 - m.ndim:]) if m.ndim else wide.reshape((-1,))


@composite(method=True, out=False, samples="""
    c(5, 12), 8, window=f(8, low=0.5)
    c(2, 9, 10), 9, 2, 7, onesided=False, length=15, window=f(7, low=0.5)
    c(5, 12, dtype=complex128), 8, center=False, normalized=True, window=f(8,
        dtype=float64, low=0.5)
""")
def istft(input, n_fft, hop_length=None, win_length=None, window=None, center=True,
          normalized=False, onesided=None, length=None, return_complex=False):
    """The inverse of `stft`: (..., frequencies, frames), complex, to (..., length).

    The arguments are those given to `stft`; `length` cuts the signal, or fills it up with zeros.
    RuntimeError for sizes that do not fit, real input, or windows that leave a sample out.

    >>> x, w = lampion.arange(32.0), lampion.hann_window(8)
    >>> y = lampion.stft(x, 8, window=w, return_complex=True)
    >>> lampion.allclose(lampion.istft(y, 8, window=w), x, atol=1e-4)
    True
    """
    m = input.meta
    hop_length, win_length = _lengths(n_fft, hop_length, win_length)
    if m.dtype.kind != "c":
        _complain("istft", "requires a complex-valued input tensor matching the output from stft "
                           "with return_complex=True")
    if not m.numel:
        _complain("istft", "input tensor cannot be empty.")
    if m.ndim not in (2, 3):
        _complain("istft", "expected a tensor with 2 or 3 dimensions, but got "
                           f"{m.ndim}")
    complex_window = window is not None and window.meta.dtype.kind == "c"
    if complex_window and not return_complex:
        _complain("istft", "Complex windows are incompatible with return_complex=False")
    half = (m.shape[-2] != n_fft) if onesided is None else onesided
    wanted = n_fft // 2 + 1 if half else n_fft
    if m.shape[-2] != wanted:
        _complain("istft", "expected the frequency dimension of the input tensor to match "
                           f"{'n_fft / 2 + 1' if half else 'n_fft'} when onesided={bool(half)}, "
                           f"but got {m.shape[-2]}")
    if not 0 < hop_length <= win_length:
        _complain("istft", f"expected 0 < hop_length <= win_length, but got {hop_length} and "
                           f"{win_length}")
    if not 0 < win_length <= n_fft:
        _complain("istft", f"expected 0 < win_length <= n_fft, but got win_length={win_length}")
    _check_window("istft", window, win_length)
    if return_complex and half:
        _complain("istft", "Cannot have onesided output if window or input is complex")
    if window is None:
        _warn_rectangular("istft")
        window = input.detach().new_full((win_length,), 1.0, dtype=m.dtype.to_real())
    window = _centred(window, win_length, n_fft)
    return _overlapped(input.transpose(-1, -2), n_fft, hop_length, window, center,
                       int(bool(normalized)), half, length, return_complex)


def _overlapped(spectra, n_fft, hop, window, center, normalized, half, length, return_complex):
    """Frames from spectra (..., frames, frequencies), added up and divided by the windows."""
    d, norm = spectra.meta.ndim - 1, 1 if normalized else 2
    if return_complex:
        frames = fft_c2c.fn(spectra, (d,), norm, False)
    else:
        if not half:
            spectra = spectra.narrow(-1, 0, n_fft // 2 + 1)
        frames = fft_c2r.fn(spectra, (d,), norm, n_fft, False)
    add = REGISTRY["overlap_add"].fn
    count = frames.meta.shape[-2]
    whole = n_fft + hop * (count - 1)
    signal = add(frames * window, whole, hop)
    squares = (window * window).expand(count, n_fft)
    weight = add(squares, whole, hop)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else whole - start
    stop = max(min(end, whole), start)
    signal, weight = signal.narrow(-1, start, stop - start), weight.narrow(-1, start, stop - start)
    least = examples(weight).abs().min().item() if weight.meta.numel else 0.0
    if least < 1e-11:
        _complain("istft", f"the window overlap add has a minimum of {least}: some samples have "
                           "no weight. Use a smaller hop_length, or a window without zeros")
    signal = signal / weight
    if end > stop:
        warnings.warn("istft(): the signal is shorter than `length`; zeros are added at its end.",
                      stacklevel=4)
        signal = REGISTRY["constant_pad_nd"].fn(signal, (0, end - stop))
    return signal
