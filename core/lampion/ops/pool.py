"""Pooling: PyTorch's max, average and adaptive poolings over one to three space dims.

Floor 3. Every function plans as one of the kernels of `windows.py` over the same memory.
"""

from __future__ import annotations

from functools import lru_cache

from ..base.errors import DtypeError
from ..runtime.backend import OpCall
from . import batch_rules
from . import windows as W
from .conv import result_strides
from .registry import Detour, composite, kernel_op

_WORDS = {1: "one int", 2: "two ints", 3: "three ints"}
PLACES = ("", "nn.functional")
OPS = {}


# ---------------------------------------------------------------- arguments

def per_dim(value, rank, op, what):
    """One number per space dim."""
    if isinstance(value, int):
        return (value,) * rank
    value = tuple(int(v) for v in value)
    if len(value) == 1:
        return value * rank
    if len(value) != rank:
        raise RuntimeError(f"{op}: {what} must either be a single int, or a tuple of "
                           f"{_WORDS[rank]}")
    return value


@lru_cache(4096)
def fixed_windows(op, space, kernel, stride, padding, dilation, ceil_mode):
    """(window rules, output sizes) of a pooling; checks the geometry as PyTorch does."""
    rank = len(space)
    kernel = per_dim(kernel, rank, op, "kernel_size")
    stride = kernel if stride is None or stride == () else per_dim(stride, rank, op, "stride")
    padding = per_dim(padding, rank, op, "padding")
    dilation = per_dim(dilation, rank, op, "dilation")
    if any(k <= 0 for k in kernel):
        raise RuntimeError(f"{op}: kernel size should be greater than zero, but got {list(kernel)}")
    if any(s <= 0 for s in stride):
        raise RuntimeError(f"{op}: stride should be greater than zero, but got {list(stride)}")
    if any(d <= 0 for d in dilation):
        raise RuntimeError(f"{op}: dilation should be greater than zero, but got {list(dilation)}")
    for p, k, d in zip(padding, kernel, dilation):
        if p < 0:
            raise RuntimeError(f"{op}: pad must be non-negative, but got pad: {p}")
        if p > ((k - 1) * d + 1) // 2:
            raise RuntimeError("pad should be at most half of effective kernel size, but got "
                               f"pad={p}, kernel_size={k} and dilation={d}")
    size = []
    for n, k, s, p, d in zip(space, kernel, stride, padding, dilation):
        rest = n + 2 * p - d * (k - 1) - 1
        out = (rest + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= n + p:
            out -= 1  # the last window must start inside the input or the left padding
        size.append(out)
    if any(o < 1 for o in size):
        raise RuntimeError(f"Given input size: ({'x'.join(map(str, space))}). Calculated output "
                           f"size: ({'x'.join(str(max(o, 0)) for o in size)}). Output size is too "
                           "small")
    rules = tuple(("fixed", k, s, p, d) for k, s, p, d in zip(kernel, stride, padding, dilation))
    return rules, tuple(size)


def check_input(op, m, rank):
    """Rank and emptiness, in PyTorch's words: only the batch may be empty."""
    if m.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(f"{op}: Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with "
                           f"optional 0 dim batch size for input, but got:{list(m.shape)}")
    if 0 in (m.shape if m.ndim == rank + 1 else m.shape[1:]):
        raise RuntimeError(f"Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional "
                           f"0 dim batch size for input, but got:{list(m.shape)}")


def check_kind(op, m, allowed):
    """DtypeError for dtypes that PyTorch's op does not take."""
    if m.dtype.kind not in allowed:
        raise DtypeError(f"\"{op}\" is not implemented for '{m.dtype!r}'")


def _canonical(values):
    """Hashable geometry: lists become tuples."""
    return tuple(tuple(v) if isinstance(v, list) else v for v in values)


# ---------------------------------------------------------------- max

def _space(m, rank):
    return m.shape[m.ndim - rank:]


def _with_indices(op, form, input, *geometry, return_indices, out=None):
    """The calls of a max pooling that ask for the indices."""
    rank = op.rank
    m = input.meta
    check_input(op.name, m, rank)
    check_kind(op.name, m, "fui")
    windows, size = fixed_windows(op.name, _space(m, rank), *_canonical(geometry))
    return W.window_max_index.fn(input, windows, size)


MAX_SAMPLES = {1: """
    f(2, 3, 7), 2
    f(2, 3, 8).transposed, 3, 2, 1, 2
    f(3, 7), 3, 2, ceil_mode=True
    f(2, 1, 6), 2, return_indices=True
    i(1, 2, 6), 2
    v([[[1.0, nan, 2, 2]]]), 2
""", 2: """
    f(2, 2, 5, 4), 2
    f(1, 3, 6, 7).transposed, (3, 2), (2, 1), (1, 0), (1, 2)
    f(2, 5, 5), 3, 2, 1, 1, True
    f(1, 2, 4, 6).strided, 2, 1, return_indices=True
""", 3: """
    f(1, 2, 4, 3, 4), 2
    f(1, 1, 4, 4, 4).transposed, (2, 1, 2), 1, 0, 1, False, True
"""}
MEAN_SAMPLES = {1: """
    f(2, 3, 7), 2
    f(2, 3, 8).transposed, 3, 2, 1
    f(3, 7), 3, 2, 1, True, False
    f(2, 1, 6).strided, 4, 3, 2, True
""", 2: """
    f(2, 2, 5, 4), 2
    f(1, 3, 6, 7).transposed, (3, 2), (2, 1), (1, 0)
    f(2, 5, 5), 3, 2, 1, True, False
    f(1, 2, 4, 6).strided, 2, 1, divisor_override=3
""", 3: """
    f(1, 2, 4, 3, 4), 2
    f(1, 1, 4, 4, 4).transposed, (2, 3, 2), 2, 1, True, False
    f(1, 3, 3, 3), 2, 1, 0, False, True, 5
"""}


def _declare_max(rank):
    op = f"max_pool{rank}d"

    class block:
        batch = batch_rules.windows(rank)
        where = PLACES
        out = False
        name = op
        samples = MAX_SAMPLES[rank]
        save = ("input",)
        detour = Detour("return_indices", lambda o, form, input, k, s, p, d, c, r: _with_indices(
            OPS[op], form, input, k, s, p, d, c, return_indices=r))

        def meta(input, *geometry):
            check_input(op, input, rank)
            check_kind(op, input, "fui")
            _, size = fixed_windows(op, _space(input, rank), *geometry[:-1])
            shape = (*input.shape[:input.ndim - rank], *size)
            return [(input.dtype, shape, result_strides(shape, input))]

        def through(call):
            x = call.input
            windows, size = fixed_windows(op, _space(x, rank), call.kernel_size, call.stride,
                                          call.padding, call.dilation, call.ceil_mode)
            return OpCall("window_max", call.inputs, {"input": x, "windows": windows,
                                                      "size": size}, call.outputs, call.device)

        def vjp(ctx, g):
            m = ctx.meta("input")
            windows, _ = fixed_windows(op, _space(m, rank), ctx.kernel_size, ctx.stride,
                                       ctx.padding, ctx.dilation, ctx.ceil_mode)
            return (W.window_max_backward.fn(g, ctx.input, windows),)

    block.__doc__ = f"""The maximum of every window over the last {rank} dims of (N, C, ...) or
    (C, ...); with return_indices also its position in the flattened space.
    """
    OPS[op] = made = kernel_op(
        "input: T, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, "
        "return_indices=False")(block)
    made.rank = rank
    return made


max_pool1d, max_pool2d, max_pool3d = _declare_max(1), _declare_max(2), _declare_max(3)


# ---------------------------------------------------------------- average

def _mean_arguments(op, m, rank, kernel_size, stride, padding, ceil_mode, count_include_pad,
                    divisor_override):
    windows, size = fixed_windows(op, _space(m, rank), kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None:
        if divisor_override == 0:
            raise RuntimeError("divisor must be not zero")
        return windows, size, int(divisor_override)
    return windows, size, "padded" if count_include_pad else "inside"


_MEAN_NAMES = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
               "divisor_override")


def _declare_mean(rank):
    op = f"avg_pool{rank}d"

    def arguments(m, call):
        return _mean_arguments(op, m, rank, *(getattr(call, k) for k in _MEAN_NAMES[:5]),
                               call.divisor_override if rank > 1 else None)

    class block:
        batch = batch_rules.windows(rank)
        linear = ("input",)
        where = PLACES
        out = rank > 1
        name = op
        samples = MEAN_SAMPLES[rank]

        def meta(input, *geometry):
            check_input(op, input, rank)
            check_kind(op, input, "f" if input.dtype.itemsize < 8 else "fi")
            _, size, _ = _mean_arguments(op, input, rank, *(*geometry, None)[:6])
            shape = (*input.shape[:input.ndim - rank], *size)
            return [(input.dtype, shape, result_strides(shape, input))]

        def through(call):
            x = call.input
            windows, size, divisor = arguments(x, call)
            return OpCall("window_mean", call.inputs,
                          {"input": x, "windows": windows, "size": size, "divisor": divisor},
                          call.outputs, call.device)

        def vjp(ctx, g):
            m = ctx.meta("input")
            windows, _, divisor = arguments(m, ctx)
            return (W.window_mean_backward.fn(g, windows, _space(m, rank), divisor),)

    block.__doc__ = f"""The average of every window over the last {rank} dims of (N, C, ...) or
    (C, ...). count_include_pad counts the zeros of the padding.
    """
    text = ("input: T, kernel_size, stride=None, padding=0, ceil_mode=False, "
            "count_include_pad=True" + (", divisor_override=None" if rank > 1 else ""))
    return kernel_op(text)(block)


avg_pool1d, avg_pool2d, avg_pool3d = _declare_mean(1), _declare_mean(2), _declare_mean(3)


# ---------------------------------------------------------------- adaptive

def adaptive_size(op, space, size):
    """Output sizes from an int or one entry per dim (None keeps a dim)."""
    rank = len(space)
    sizes = (size,) * rank if isinstance(size, int) or size is None else tuple(size)
    if len(sizes) == 1:
        sizes = sizes * rank
    if len(sizes) != rank:
        raise RuntimeError(f"{op}: output_size must be {rank}")
    sizes = tuple(n if o is None else int(o) for n, o in zip(space, sizes))
    if any(o < 0 for o in sizes):
        raise RuntimeError(f"{op}: elements of output_size must be greater than or equal to 0 but "
                           f"received {{{', '.join(map(str, sizes))}}}")
    return sizes


def adaptive_windows(space, size):
    """Window rules of an even split: fixed ones wherever it comes out even."""
    return tuple(("fixed", n // o, n // o, 0, 1) if o and n % o == 0 else ("adaptive",)
                 for n, o in zip(space, size))


def check_adaptive(op, m, rank):
    """Rank, emptiness and dtype of an adaptive pooling's input."""
    if rank > 1 and m.ndim < rank + 1:
        raise ValueError(f"{op}(): Input dimension should be at least {rank + 1}, but got "
                         f"{m.ndim}: {list(m.shape)}")
    if m.ndim not in (rank + 1, rank + 2):
        raise RuntimeError(f"{op}(): Expected {rank + 1}D or {rank + 2}D tensor, but got "
                           f"{list(m.shape)}")
    if 0 in m.shape[1:]:
        raise RuntimeError(f"{op}(): Expected input to have non-zero size for non-batch "
                           f"dimensions, but input has sizes {list(m.shape)}")
    check_kind(op, m, "f")


def _adaptive_mean(op, rank, input, output_size):
    m = input.meta
    check_adaptive(op, m, rank)
    space = _space(m, rank)
    size = adaptive_size(op, space, output_size)
    if all(o == 1 for o in size):
        return input.mean(tuple(range(-rank, 0)), True)
    return W.window_mean.fn(input, adaptive_windows(space, size), size, "inside")


def _adaptive_max(op, rank, input, output_size, return_indices):
    m = input.meta
    check_adaptive(op, m, rank)
    space = _space(m, rank)
    size = adaptive_size(op, space, output_size)
    windows = adaptive_windows(space, size)
    if return_indices:
        return W.window_max_index.fn(input, windows, size)
    return W.window_max.fn(input, windows, size)


@composite(where=PLACES, out=False, samples="""
    f(2, 3, 5), 3
    f(2, 3, 6).transposed, 1
    f(3, 6), 2
""")
def adaptive_avg_pool1d(input, output_size):
    """Averages of an even split of the last dim into `output_size` windows."""
    return _adaptive_mean("adaptive_avg_pool1d", 1, input, output_size)


@composite(where=PLACES, out=False, samples="""
    f(2, 2, 5, 4), (3, 2)
    f(1, 2, 6, 4).transposed, (None, 3)
    f(2, 4, 4), 1
""")
def adaptive_avg_pool2d(input, output_size):
    """Averages of an even split of the last two dims; None in output_size keeps a dim."""
    return _adaptive_mean("adaptive_avg_pool2d", 2, input, output_size)


@composite(where=PLACES, out=False, samples="""
    f(1, 2, 4, 3, 2), (2, 2, 1)
    f(1, 2, 2, 2, 4), 1
""")
def adaptive_avg_pool3d(input, output_size):
    """Averages of an even split of the last three dims; None in output_size keeps a dim."""
    return _adaptive_mean("adaptive_avg_pool3d", 3, input, output_size)


@composite(where=PLACES, out=False, samples="""
    f(2, 3, 5), 3
    f(2, 3, 6).transposed, 2, True
""")
def adaptive_max_pool1d(input, output_size, return_indices=False):
    """Maxima of an even split of the last dim, with their indices if asked for."""
    return _adaptive_max("adaptive_max_pool1d", 1, input, output_size, return_indices)


@composite(where=PLACES, out=False, samples="""
    f(2, 2, 5, 4), (3, 2)
    f(1, 2, 6, 4).transposed, (None, 3), True
""")
def adaptive_max_pool2d(input, output_size, return_indices=False):
    """Maxima of an even split of the last two dims, with their indices if asked for."""
    return _adaptive_max("adaptive_max_pool2d", 2, input, output_size, return_indices)


@composite(where=PLACES, out=False, samples="""
    f(1, 2, 4, 3, 2), (2, 2, 1)
    f(1, 2, 2, 2, 4), (1, 2, 3), True
""")
def adaptive_max_pool3d(input, output_size, return_indices=False):
    """Maxima of an even split of the last three dims, with their indices if asked for."""
    return _adaptive_max("adaptive_max_pool3d", 3, input, output_size, return_indices)
