"""PyTorch's own names for steps of layers and of their gradients, for programs that call them.

Floor 3. All are composites: the work is done by the ops that the public forms use.
"""

from __future__ import annotations

from ..base import dtype as dt
from . import norm
from .registry import REGISTRY, composite
from .resample import Axis, resized
from .softmax import log_softmax_backward, softmax, softmax_backward

# ---------------------------------------------------------------- softmax

ROWS = """
    f(3, 4), -1
    f(4, 2, 3).transposed, 1
    v([[1.0, -inf, 0.0], [-inf, -inf, -inf]]), 1
"""
BACKWARD = """
    f(3, 4), f(3, 4, low=0.0, high=1.0), 1, float32
    f(3, 4).transposed, f(3, 4, low=0.0, high=1.0), 0, float32
"""


@composite(replay=True, samples=ROWS)
def _safe_softmax(input, dim, dtype=None):
    """Softmax along `dim`, 0 in rows that are all -inf."""
    blocked = (input == -float("inf")).all(dim, True)
    return softmax.fn(input.masked_fill(blocked, 0), dim, dtype).masked_fill(blocked, 0)


@composite(replay=True, samples=BACKWARD)
def _softmax_backward_data(grad_output, output, dim, input_dtype):
    """Gradient of softmax from that of its result, and its result."""
    return softmax_backward.fn(grad_output, output, dim).to(input_dtype)


@composite(replay=True, samples=BACKWARD)
def _log_softmax_backward_data(grad_output, output, dim, input_dtype):
    """Gradient of log_softmax from that of its result, and its result."""
    return log_softmax_backward.fn(grad_output, output, dim).to(input_dtype)


# ---------------------------------------------------------------- norms

@composite(replay=True, samples="""
    f(3, 4, 5).fixed, (5,), f(5), f(5), 1e-5
    f(3, 4, 5).transposed.fixed, (4, 5), None, None, 1e-3
""")
def native_layer_norm(input, normalized_shape, weight, bias, eps):
    """(layer_norm's result, mean, 1/std); the statistics are not differentiated."""
    shape = tuple(normalized_shape)
    y, *stats = norm.layer_norm_stats.fn(input, weight, bias, shape, eps)
    return y, *_of_parameters(stats, input, weight)


def _of_parameters(stats, input, weight):
    """Statistics in the dtype of the weight, or of the input if there is none."""
    d = (input if weight is None else weight).meta.dtype
    return [s.to(d) for s in stats]


@composite(replay=True, samples="""
    f(2, 4, 3), f(4), f(4), 2, 4, 3, 2, 1e-5
    f(2, 6, 2, 2), None, None, 2, 6, 4, 3, 1e-3
""")
def native_group_norm(input, weight, bias, N, C, HxW, group, eps):
    """(group_norm's result, mean and 1/std of shape (N, group))."""
    m = input.meta
    if m.numel != N * C * HxW:
        raise RuntimeError(f"native_group_norm: expected {N} * {C} * {HxW} elements, but got input "
                           f"of shape {list(m.shape)}")
    y = norm.group_norm.fn(input, group, weight, bias, eps)
    rows = input.reshape((N, group, C // group * HxW)).to(dt.opmath(m.dtype))
    rstd = (rows.var(-1, correction=0) + eps).rsqrt()
    return y, *_of_parameters((rows.mean(-1), rstd), input, weight)


BATCHES = """
    f(4, 3, 2).fixed, f(3), f(3), None, None, True, 0.1, 1e-5
    f(4, 3).fixed, None, None, None, None, True, 0.1, 1e-3
    f(4, 3, 2), f(3), f(3), f(3), f(3, low=0.5, high=2.0), False, 0.1, 1e-5
"""


@composite(replay=True, samples=BATCHES)
def native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps):
    """(batch_norm's result, mean and 1/std of the batch); empty statistics unless training. The
    running statistics are updated in place."""
    y = norm.batch_norm.fn(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        empty = input.new_zeros((0,))
        return y, *_of_parameters((empty, empty.clone()), input, weight)
    _, mean, var = norm.batch_norm_train.fn(input.detach(), None, None, eps)
    return y, *_of_parameters((mean, (var + eps).rsqrt()), input, weight)


@composite(replay=True, out=False, samples=BATCHES)
def _native_batch_norm_legit(input, weight, bias, *rest):
    """native_batch_norm, also without running statistics: the arguments after `bias` are
    (running_mean, running_var,) training, momentum, eps."""
    running = rest if len(rest) == 5 else (None, None, *rest)
    return native_batch_norm.fn(input, weight, bias, *running)


@composite(replay=True, out=False, samples="f(4, 3, 2).fixed, f(3), f(3), None, None, 0.1, 1e-5")
def _batch_norm_with_update(input, weight, bias, running_mean, running_var, momentum, eps):
    """(batch_norm's result while training, mean, 1/std, an empty reserve)."""
    y, mean, rstd = native_batch_norm.fn(input, weight, bias, running_mean, running_var, True,
                                         momentum, eps)
    return y, mean, rstd, input.new_zeros((0,), dtype=dt.uint8)


# ---------------------------------------------------------------- dropout and pooling

@composite(replay=True, samples="f(3, 4), b(3, 4), 1.25")
def native_dropout_backward(grad_output, mask, scale):
    """Gradient of dropout from its mask: grad_output * mask * scale."""
    return grad_output * mask.to(grad_output.meta.dtype) * scale


@composite(replay=True, samples="""
    f(1, 1, 2, 2), f(1, 1, 4, 4).fixed, 2, 2, 0, 1, False, v([[[[0, 3], [9, 9]]]])
""")
def max_pool2d_with_indices_backward(grad_output, self, kernel_size, stride, padding, dilation,
                                     ceil_mode, indices):
    """Gradient of max_pool2d: grad_output added at the places that `indices` names."""
    m = self.meta
    flat = grad_output.new_zeros((*m.shape[:-2], m.shape[-2] * m.shape[-1]))
    flat = flat.scatter_add(-1, indices.flatten(-2), grad_output.flatten(-2))
    return flat.reshape(m.shape)


@composite(replay=True, samples="""
    f(1, 2, 7, 5), (3, 4), False
    f(1, 1, 4, 4), (9, 2), True
    f(1, 1, 6, 6), None, False, (0.5, 0.7)
""")
def _upsample_bilinear2d_aa(input, output_size, align_corners, scales_h=None, scales_w=None, *,
                            scale_factors=None):
    """Bilinear resizing of (N, C, H, W) with a filter as wide as outputs are apart. The scales are
    two numbers, or a pair in place of `output_size`."""
    m = input.meta
    if m.ndim != 4 or m.dtype.kind != "f":
        raise RuntimeError("_upsample_bilinear2d_aa: expected a floating point tensor of 4 dims, "
                           f"but got {list(m.shape)} of {m.dtype!r}")
    if isinstance(scales_h, (list, tuple)):
        scale_factors = scales_h
    scales = (scales_h, scales_w) if scale_factors is None else tuple(scale_factors)
    space = m.shape[2:]
    sizes = output_size if output_size is not None else [int(n * s) for n, s in zip(space, scales)]
    if any(n <= 0 for n in (*sizes, *space)):
        raise RuntimeError("Input and output sizes should be greater than 0, but got input "
                           f"{list(space)} and output {list(sizes)}")
    axes = tuple(Axis("linear", n, int(o), s, bool(align_corners), True, m.dtype is dt.float64,
                      False) for n, o, s in zip(space, sizes, scales))
    return resized(input, axes)


# ---------------------------------------------------------------- indexing

def _inside(indices, shape):
    """Indices moved to the nearest valid ones; negative ones count from the end."""
    out = []
    for i, n in zip(indices, shape):
        if i is not None:
            i = i.clamp(-n, n - 1)
        out.append(i)
    return tuple(out)


@composite(replay=True, out=False, samples="""
    f(4, 3), v([True, False, True]), [v([1, 9, 0]), v([0, -7, 2])], 0.5
    f(4, 3), v([True, False, True]), [None, v([1, 9, 0])], -1
""")
def _unsafe_masked_index(self, mask, indices, fill):
    """self[indices] where the mask holds, else `fill`; masked-out indices may be anything."""
    m = self.meta
    if not m.numel:
        shape = REGISTRY["broadcast_tensors"].fn(mask, *[i for i in indices if i is not None])
        return self.new_full(shape[0].meta.shape, fill)
    at = [slice(None) if i is None else i for i in _inside(indices, m.shape)]
    return self[tuple(at)].masked_fill(~mask, fill)


@composite(replay=True, out=False, samples="""
    f(4, 3), v([True, False, True]), [v([1, 9, 1]), v([0, -7, 0])], f(3)
""")
def _unsafe_masked_index_put_accumulate(self, mask, indices, values):
    """self with `values` added at self[indices] where the mask holds."""
    if not self.meta.numel:
        return self.clone()
    return self.index_put(_inside(indices, self.meta.shape), values.masked_fill(~mask, 0), True)


# ---------------------------------------------------------------- grids

GRIDS = {2: """
    f(1, 2, 3, 4), f(1, 2, 2, 2, low=-1.2, high=1.2), 0, 0, False
    f(2, 1, 3, 4), f(2, 1, 3, 2, low=-1.2, high=1.2), 0, 2, True
    f(1, 2, 3, 4), f(1, 2, 2, 2, low=-1.2, high=1.2).fixed, 1, 1, False
    f(1, 1, 3, 4), f(1, 2, 2, 2, low=-0.9, high=0.9), 2, 1, True
""", 3: """
    f(1, 2, 3, 4, 2), f(1, 2, 1, 2, 3, low=-1.2, high=1.2), 0, 0, False
    f(1, 1, 3, 4, 2), f(1, 2, 1, 2, 3, low=-1.2, high=1.2), 0, 1, True
"""}


def _grid_sampler(rank):
    def fn(input, grid, interpolation_mode, padding_mode, align_corners):
        from ..nn.functional import grid_sample

        if input.meta.ndim != rank + 2:
            raise RuntimeError(f"grid_sampler_{rank}d: expected input of {rank + 2} dims, but got "
                               f"{list(input.meta.shape)}")
        return grid_sample(input, grid, ("bilinear", "nearest", "bicubic")[interpolation_mode],
                           ("zeros", "border", "reflection")[padding_mode], align_corners)

    fn.__name__ = f"grid_sampler_{rank}d"
    fn.__doc__ = ("grid_sample with numbers for the modes: 0 bilinear, 1 nearest, 2 bicubic; 0 "
                  "zeros, 1 border, 2 reflection.")
    return composite(fn, out=False, samples=GRIDS[rank])


grid_sampler_2d, grid_sampler_3d = _grid_sampler(2), _grid_sampler(3)
