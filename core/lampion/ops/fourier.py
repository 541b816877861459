"""Discrete Fourier transforms.

Floor 3. Three primitives carry everything: complex or real to complex (`fft_c2c`), real to the
half of a Hermitian spectrum (`fft_r2c`), and such a half back to real (`fft_c2r`), each over
several dims at once. They are each other's adjoints, so gradients of any order are transforms
again. They are primitives because no composition of other ops takes n log n steps in one launch;
devices without a library run the programs of `fourier_passes.py`. The public functions, named
`fft_NAME` here and `NAME` in `lampion.fft`, resize, name the normalisation and call them.
"""

from __future__ import annotations

import numpy as np

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..base.meta import wrap_dim
from ..ir.kernel import Program
from . import views as V
from .plans import _word
from .region import touch
from .registry import REGISTRY, composite, kernel_op

# ---------------------------------------------------------------- primitives

def _lower(call, steps):
    from .fourier_passes import program

    x, out = call.inputs[0], call.outputs[0]
    if not out.numel:
        return Program((touch(x, out),))
    return program(x, out, steps, -1 if call.forward else 1, call.norm)


@kernel_op("input: T, dim, norm, forward")
class fft_c2c:
    """Transform of the dims `dim` (a tuple) with exp(-2 pi i jk / n), or + unless `forward`,
    divided by 1, the root of the number of points, or that number (norm 0, 1, 2)."""

    where = ()
    out = False
    batch = "dim"

    samples = """
        c(3, 4), (1,), 0, True
        f(4, 3).strided, (0, 1), 1, False
    """

    def meta(input, dim, norm, forward):
        return [(input.dtype.to_complex(), input.shape)]

    def lower(call):
        shape = call.input.shape
        return _lower(call, [(d, shape[d], "plain", shape[d]) for d in call.dim])

    def vjp(ctx, g):
        back = fft_c2c.fn(g, ctx.dim, ctx.norm, not ctx.forward)
        return (back if ctx.meta("input").dtype.kind == "c" else back.real,)


@kernel_op("input: T, dim, norm, forward")
class fft_r2c:
    """`fft_c2c` of a real tensor, of which only the first n // 2 + 1 entries of the last of the
    dims are computed; the others are their conjugates."""

    where = ()
    out = False
    batch = "dim"

    samples = """
        f(3, 4), (1,), 0, True
        f(4, 5, dtype=float64), (1, 0), 2, False
    """

    def meta(input, dim, norm, forward):
        if input.dtype.kind != "f":
            raise DtypeError(f"fft_r2c transforms floating tensors, not {_word(input.dtype)}: "
                             "convert with .to(dtype)")
        d = dim[-1]
        half = points(input.shape[d], "r2c") // 2 + 1
        return [(input.dtype.to_complex(), input.shape[:d] + (half,) + input.shape[d + 1:])]

    def lower(call):
        shape, d = call.input.shape, call.dim[-1]
        rest = [(k, shape[k], "plain", shape[k]) for k in call.dim[:-1]]
        return _lower(call, [(d, shape[d], "plain", shape[d] // 2 + 1), *rest])

    def vjp(ctx, g):
        d = ctx.dim[-1]
        n = ctx.meta("input").shape[d]
        return (fft_c2r.fn(weighted(g, d, n, 0.5), ctx.dim, ctx.norm, n, not ctx.forward),)


@kernel_op("input: T, dim, norm, size, forward")
class fft_c2r:
    """The real transform of a Hermitian tensor whose last transformed dim holds the first
    size // 2 + 1 of `size` entries. Imaginary parts that cannot be there are not looked at."""

    where = ()
    out = False
    batch = "dim"

    samples = """
        c(3, 4), (1,), 2, 6, False
        c(3, 4, dtype=complex128), (1, 0), 1, 5, True
    """

    def meta(input, dim, norm, size, forward):
        d = dim[-1]
        points(input.shape[d], "c2r")
        return [(input.dtype.to_real(), input.shape[:d] + (size,) + input.shape[d + 1:])]

    def lower(call):
        shape, d, n = call.input.shape, call.dim[-1], call.size
        rest = [(k, shape[k], "plain", shape[k]) for k in call.dim[:-1]]
        return _lower(call, [*rest, (d, n, "hermitian", n)])

    def vjp(ctx, g):
        d = ctx.dim[-1]
        half = fft_r2c.fn(g, ctx.dim, ctx.norm, not ctx.forward)
        return (weighted(half, d, ctx.size, 2.0),)


_weights = {}


def weighted(half, d, n, factor):
    """Half a spectrum of n entries with those multiplied that stand for two."""
    m = half.meta
    key = (n, factor, m.ndim - d, m.dtype, m.device)
    w = _weights.get(key)
    if w is None:
        w = np.full(n // 2 + 1, factor)
        w[0] = 1
        if n % 2 == 0:
            w[-1] = 1
        if len(_weights) > 256:
            _weights.clear()
        w = half.detach().new_tensor(w.reshape((-1,) + (1,) * (m.ndim - d - 1)),
                                     dtype=m.dtype.to_real())
        _weights[key] = w
    return half * w


# ---------------------------------------------------------------- arguments

def mode_of(norm, forward):
    """0, 1, 2 from PyTorch's names. RuntimeError for any other."""
    if norm is None or norm == "backward":
        return 0 if forward else 2
    if norm == "ortho":
        return 1
    if norm == "forward":
        return 2 if forward else 0
    raise RuntimeError(f'Invalid normalization mode: "{norm}"')


def promoted(x, complex=False):
    """Integers in the default dtype; RuntimeError for 16-bit floats."""
    d = x.meta.dtype
    want = d if d.kind in "fc" else dt.get_default_dtype()
    if want.to_real() not in (dt.float32, dt.float64):
        raise RuntimeError(f"Unsupported dtype {_word(d)}; convert with .to(lampion.float32)")
    want = want.to_complex() if complex else want
    return x if want is d else x.to(want)


def refuse_complex(x, name, what="a real input tensor"):
    """RuntimeError for complex input to a transform of real numbers."""
    if x.meta.dtype.kind == "c":
        raise RuntimeError(f"{name} expects {what}, but got {_word(x.meta.dtype)}")


def one_dim(x, dim):
    """The dim of a one-dimensional transform."""
    if not x.meta.ndim:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    return wrap_dim(dim, x.meta.ndim)


def points(n, name):
    """`n` as a checked number of points."""
    if not hasattr(n, "__index__"):
        raise TypeError(f"fft_{name}(): argument 'n' must be int, not {type(n).__name__}")
    if n < 1:
        raise RuntimeError(f"Invalid number of data points ({n}) specified")
    return n.__index__()


def resized(x, dims, sizes):
    """Each of the dims cut off, or filled up with zeros, to its size."""
    for d, n in zip(dims, sizes):
        have = x.meta.shape[d]
        if n < have:
            x = V.slice_dim.fn(x, d, 0, n, 1)
        elif n > have:
            pad = (0, 0) * (x.meta.ndim - 1 - d) + (0, n - have)
            x = REGISTRY["constant_pad_nd"].fn(x, pad)
    return x


def _tuple(value):
    return (value,) if isinstance(value, int) else None if value is None else tuple(value)


def several(x, s, dim):
    """(dims, sizes) of a transform over several dims: all of them, or the last len(s)."""
    shape = x.meta.shape
    s, dim = _tuple(s), _tuple(dim)
    if dim is not None:
        if dim and not shape:
            raise IndexError(f"Dimension specified as {dim[0]} but tensor has no dimensions")
        dims = tuple(wrap_dim(d, len(shape)) for d in dim)
        if len(set(dims)) != len(dims):
            raise RuntimeError("FFT dims must be unique")
        if s is not None and len(s) != len(dims):
            raise RuntimeError("When given, dim and shape arguments must have the same length")
    elif s is not None:
        if len(s) > len(shape):
            raise RuntimeError(f"Got shape with {len(s)} values but input tensor only has "
                               f"{len(shape)} dimensions.")
        dims = tuple(range(len(shape) - len(s), len(shape)))
    else:
        dims = tuple(range(len(shape)))
    sizes = [shape[d] for d in dims] if s is None else [
        shape[d] if n == -1 else n for d, n in zip(dims, s)]
    for n in sizes:
        points(n, "fftn")
    return dims, sizes


# ---------------------------------------------------------------- one dim

def _line(input, n, dim, norm, forward, name, onesided=False):
    """A transform of one dim to complex numbers."""
    if onesided:
        refuse_complex(input, name)
    x = promoted(input)
    d = one_dim(x, dim)
    size = points(x.meta.shape[d] if n is None else n, name)
    mode = mode_of(norm, forward)
    if n is not None:
        x = resized(x, (d,), (size,))
    return (fft_r2c if onesided else fft_c2c).fn(x, (d,), mode, forward)


def _line_to_real(input, n, dim, norm, forward, name):
    """A transform of one Hermitian dim to real numbers."""
    x = promoted(input, True)
    d = one_dim(x, dim)
    size = points(2 * (x.meta.shape[d] - 1) if n is None else n, name)
    mode = mode_of(norm, forward)
    x = resized(x, (d,), (size // 2 + 1,))
    return fft_c2r.fn(x, (d,), mode, size, forward)


_LINE = """
    c(4, 6), 5, 0
    f(3, 8), norm="ortho"
    f(7).offset, 9
    i(4, 5), dim=-2, norm="forward"
"""
_REAL_LINE = """
    f(4, 6), 5, 0
    f(3, 8), norm="ortho"
    i(4, 5), dim=-2, norm="forward"
    f(1, 1)
"""


@composite(out_cast="kind", where=("fft",), samples=_LINE)
def fft_fft(input, n=None, dim=-1, norm=None):
    """The discrete Fourier transform of one dim: sum over j of x[j] exp(-2 pi i jk / n).

    (..., m, ...) gives (..., n, ...), complex; the dim is cut or filled up with zeros if `n` is
    given. norm "backward" (the default) divides by nothing, "ortho" by sqrt(n), "forward" by n.
    RuntimeError for 16-bit floats, n < 1, or another norm.

    >>> lampion.fft.fft(lampion.tensor([1.0, 0.0, 0.0, 0.0])).real.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return _line(input, n, dim, norm, True, "fft")


@composite(out_cast="kind", where=("fft",), samples=_LINE)
def fft_ifft(input, n=None, dim=-1, norm=None):
    """The inverse of `fft`: exp(+2 pi i jk / n), divided by n unless norm says otherwise."""
    return _line(input, n, dim, norm, False, "ifft")


@composite(out_cast="kind", where=("fft",), samples=_REAL_LINE)
def fft_rfft(input, n=None, dim=-1, norm=None):
    """`fft` of a real tensor, of which only the first n // 2 + 1 entries are given.

    >>> lampion.fft.rfft(lampion.ones(6)).shape
    lampion.Size([4])
    """
    return _line(input, n, dim, norm, True, "rfft", True)


_HALF_LINE = """
    c(3, 5)
    c(3, 5), 7, norm="ortho"
    f(4, 3), 6, 0, "forward"
    i(2)
"""


@composite(out_cast="kind", where=("fft",), samples=_HALF_LINE)
def fft_irfft(input, n=None, dim=-1, norm=None):
    """The inverse of `rfft`: real, with `n` entries, by default 2 (m - 1) for m given ones.

    >>> lampion.fft.irfft(lampion.fft.rfft(lampion.tensor([3.0, 1.0, 2.0])), n=3).shape
    lampion.Size([3])
    """
    return _line_to_real(input, n, dim, norm, False, "irfft")


@composite(out_cast="kind", where=("fft",), samples=_HALF_LINE)
def fft_hfft(input, n=None, dim=-1, norm=None):
    """The real spectrum of a Hermitian signal given by its first n // 2 + 1 entries."""
    return _line_to_real(input, n, dim, norm, True, "hfft")


@composite(where=("fft",), samples=_REAL_LINE)
def fft_ihfft(input, n=None, dim=-1, norm=None):
    """The inverse of `hfft`: the first n // 2 + 1 entries of the inverse transform of a real
    spectrum."""
    return _line(input, n, dim, norm, False, "ihfft", True)


# ---------------------------------------------------------------- several dims

def _dims(input, s, dim, norm, forward):
    x = promoted(input, True)
    dims, sizes = several(x, s, dim)
    x = resized(x, dims, sizes)
    mode = mode_of(norm, forward)
    return fft_c2c.fn(x, dims, mode, forward) if dims else x.clone()


def _dims_from_real(input, s, dim, norm, forward, name):
    if forward:
        refuse_complex(input, name, "a real-valued input tensor")
    elif input.meta.dtype.kind == "c":
        raise RuntimeError("Only supports floating-point dtypes, but found: "
                           f"{_word(input.meta.dtype)}")
    x = promoted(input)
    dims, sizes = several(x, s, dim)
    if not dims:
        raise RuntimeError(f"{name} must transform at least one axis")
    mode = mode_of(norm, forward)
    return fft_r2c.fn(resized(x, dims, sizes), dims, mode, forward)


def _dims_to_real(input, s, dim, norm, forward, name):
    x = promoted(input, True)
    dims, sizes = several(x, s, dim)
    if not dims:
        raise RuntimeError(f"{name} must transform at least one axis")
    if s is None or _tuple(s)[-1] == -1:
        sizes[-1] = points(2 * (x.meta.shape[dims[-1]] - 1), name)
    mode = mode_of(norm, forward)
    x = resized(x, dims, [*sizes[:-1], sizes[-1] // 2 + 1])
    return fft_c2r.fn(x, dims, mode, sizes[-1], forward)


_REAL_DIMS = """
    f(3, 4, 5)
    f(3, 4, 5), (2, 6), (2, 0), "ortho"
    f(4, 6).strided, norm="forward"
    i(3, 4, dtype=int32), (-1, 5)
"""
_DIMS = "c(3, 4, 5)" + _REAL_DIMS
_HALF_DIMS = """
    c(3, 4)
    f(3, 4, 5), (3, 5), (2, 0), "ortho"
    f(4, 3).strided, norm="forward"
    i(3, 4, dtype=int32), (5, -1)
"""


@composite(out_cast="kind", where=("fft",), samples=_DIMS)
def fft_fftn(input, s=None, dim=None, norm=None):
    """`fft` over several dims: `dim`, or the last len(s), or all. `s` gives their sizes (-1
    keeps one). norm as in `fft`, of the number of all points.

    >>> lampion.fft.fftn(lampion.ones(2, 3), dim=(0,)).shape
    lampion.Size([2, 3])
    """
    return _dims(input, s, dim, norm, True)


@composite(out_cast="kind", where=("fft",), samples=_DIMS)
def fft_ifftn(input, s=None, dim=None, norm=None):
    """The inverse of `fftn`."""
    return _dims(input, s, dim, norm, False)


@composite(out_cast="kind", where=("fft",), samples=_REAL_DIMS)
def fft_rfftn(input, s=None, dim=None, norm=None):
    """`fftn` of a real tensor, of which only the first n // 2 + 1 entries of the last of the dims
    are given."""
    return _dims_from_real(input, s, dim, norm, True, "rfftn")


@composite(out_cast="kind", where=("fft",), samples=_HALF_DIMS)
def fft_irfftn(input, s=None, dim=None, norm=None):
    """The inverse of `rfftn`; s[-1] is the number of real entries of the last dim, by default
    2 (m - 1)."""
    return _dims_to_real(input, s, dim, norm, False, "irfftn")


@composite(out_cast="kind", where=("fft",), samples=_HALF_DIMS)
def fft_hfftn(input, s=None, dim=None, norm=None):
    """The real spectrum of a signal that is Hermitian in the last of the dims."""
    return _dims_to_real(input, s, dim, norm, True, "hfftn")


@composite(where=("fft",), samples=_REAL_DIMS)
def fft_ihfftn(input, s=None, dim=None, norm=None):
    """The inverse of `hfftn`."""
    return _dims_from_real(input, s, dim, norm, False, "ihfftn")


@composite(out_cast="kind", where=("fft",), samples=_DIMS)
def fft_fft2(input, s=None, dim=(-2, -1), norm=None):
    """`fftn` over the last two dims."""
    return _dims(input, s, dim, norm, True)


@composite(out_cast="kind", where=("fft",), samples=_DIMS)
def fft_ifft2(input, s=None, dim=(-2, -1), norm=None):
    """`ifftn` over the last two dims."""
    return _dims(input, s, dim, norm, False)


@composite(out_cast="kind", where=("fft",), samples=_REAL_DIMS)
def fft_rfft2(input, s=None, dim=(-2, -1), norm=None):
    """`rfftn` over the last two dims."""
    return _dims_from_real(input, s, dim, norm, True, "rfftn")


@composite(out_cast="kind", where=("fft",), samples=_HALF_DIMS)
def fft_irfft2(input, s=None, dim=(-2, -1), norm=None):
    """`irfftn` over the last two dims."""
    return _dims_to_real(input, s, dim, norm, False, "irfftn")


@composite(out_cast="kind", where=("fft",), samples=_HALF_DIMS)
def fft_hfft2(input, s=None, dim=(-2, -1), norm=None):
    """`hfftn` over the last two dims."""
    return _dims_to_real(input, s, dim, norm, True, "hfftn")


@composite(where=("fft",), samples=_REAL_DIMS)
def fft_ihfft2(input, s=None, dim=(-2, -1), norm=None):
    """`ihfftn` over the last two dims."""
    return _dims_from_real(input, s, dim, norm, False, "ihfftn")


# ---------------------------------------------------------------- order of frequencies

def _shifted(input, dim, half):
    dims = tuple(range(input.meta.ndim)) if dim is None else _tuple(dim)
    if not dims:
        raise RuntimeError("`shifts` required")
    shape = input.meta.shape
    return REGISTRY["roll"].fn(input, [half(shape[wrap_dim(d, len(shape))]) for d in dims], dims)


_SHIFTS = """
    f(4, 5)
    c(3, 5), 1
    i(2, 3, 4), (0, 2)
"""


@composite(where=("fft",), out=False, samples=_SHIFTS)
def fft_fftshift(input, dim=None):
    """Entries in the order of rising frequency: zero in the middle. Of all dims, or of `dim`.

    >>> lampion.fft.fftshift(lampion.arange(5)).tolist()
    [3, 4, 0, 1, 2]
    """
    return _shifted(input, dim, lambda n: n // 2)


@composite(where=("fft",), out=False, samples=_SHIFTS)
def fft_ifftshift(input, dim=None):
    """The inverse of `fftshift`."""
    return _shifted(input, dim, lambda n: (n + 1) // 2)
