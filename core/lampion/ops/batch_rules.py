"""Rules by which vmap runs kernel ops on a batch, for ops of several files.

Floor 3. A rule is `batch(b, *args)` in an op's block: `b` (transforms/batching.py) tells which
arguments are batched and gives them with the batch as first dim; the rule calls ops on these and
returns results with the batch first. NotImplemented leaves the call to be run example by example.
"""

from __future__ import annotations

import math
from itertools import pairwise

from ..base import dtype as dt
from ..base.meta import wrap_dim
from .registry import REGISTRY


def unless_ranks_differ(b, *args):
    """Dims may be added in front of all tensors, if they have equally many."""
    if len({t.meta.ndim for t in b.tensors()}) > 1:
        return NotImplemented
    return b.invoke([b.full(n) for n in b.names])


def first(b, input, *rest):
    """The first argument has free dims in front; the others must be the same for all examples."""
    if any(b.has(n) for n in b.names[1:]):
        return NotImplemented
    return b.op.fn(b.full(b.names[0]), *rest)


def merged(t):
    """(B, N, ...) as (B N, ...)."""
    return t.reshape(t.meta.shape[0] * t.meta.shape[1], *t.meta.shape[2:])


def merging(b, input, *rest):
    """The first argument has exactly one dim for examples, its first."""
    return b.op.fn(merged(b.full(b.names[0])), *rest)


def windows(rank):
    """Pools over the last `rank` dims of (N, C, ...) or (C, ...)."""
    def batch(b, input, *rest):
        x = b.full("input")
        return b.op.fn(x if b.ndim("input") == rank + 1 else merged(x), *rest)

    return batch


# ---------------------------------------------------------------- channels

def channels(t):
    """(B, N, C, ...) as (N, B C, ...): a batch as groups of channels."""
    _, n, c, *space = t.meta.shape
    return t.movedim(0, 1).reshape(n, t.meta.shape[0] * c, *space)


def from_channels(t, size):
    """(N, B C, ...) as (B, N, C, ...)."""
    n, c, *space = t.meta.shape
    return t.reshape(n, size, c // size, *space).movedim(1, 0)


def convolution(b, x, weight, bias, stride, padding, dilation, groups, *, right=None):
    """One convolution: a batch of inputs has more of them, a batch of weights more groups."""
    geometry = (stride, padding, dilation) if right is None else (stride, padding, right, dilation)
    single = b.ndim("input") + 1 == b.ndim("weight")  # an input without a dim for examples
    if not (b.has("weight") or b.has("bias")):
        x = b.full("input")
        return b.op.fn(x if single else merged(x), weight, bias, *geometry, groups)
    x = b.full("input").unsqueeze(1) if single else b.full("input")
    w = merged(b.full("weight"))
    if bias is not None:
        bias = merged(b.full("bias"))
    return from_channels(b.op.fn(channels(x), w, bias, *geometry, groups * b.size), b.size)


def convolution_forward(b, x, weight, bias, stride, padding, right, dilation, groups):
    """`convolution` with both paddings given."""
    return convolution(b, x, weight, bias, stride, padding, dilation, groups, right=right)


def convolution_data(b, grad, weight, stride, padding, dilation, groups, size):
    """Gradients for inputs: as `convolution`."""
    if not b.has("weight"):
        return b.op.fn(merged(b.full("grad")), weight, stride, padding, dilation, groups, size)
    got = b.op.fn(channels(b.full("grad")), merged(b.full("weight")), stride, padding, dilation,
                  groups * b.size, size)
    return from_channels(got, b.size)


def convolution_weight(b, x, grad, stride, padding, dilation, groups, kernel):
    """Gradients for weights: every example has groups of its own."""
    return b.op.fn(channels(b.full("input")), channels(b.full("grad")), stride, padding, dilation,
                   groups * b.size, kernel)


def batch_norm(b, x, weight, bias, eps):
    """The channels of every example are channels of their own."""
    w, s = b.full("weight"), b.full("bias")
    out, *stats = b.op.fn(channels(b.full("input")), None if w is None else w.reshape(-1),
                          None if s is None else s.reshape(-1), eps)
    return from_channels(out, b.size), *stats


def row_norm(b, x, weight, *rest):
    """Norms over the last dims: weights (and biases) of a batch are applied afterwards."""
    affine = [n for n in ("weight", "bias") if n in b.args]
    if not any(b.has(n) for n in affine):
        return b.op.fn(b.full("input"), weight, *rest)
    if "bias" in b.args:
        rest = rest[1:]
    out, *stats = b.op.fn(b.full("input"), *[None] * len(affine), *rest)
    n = b.ndim("input")
    if b.args["weight"] is not None:
        out = out * b.aligned("weight", n)
    if b.args.get("bias") is not None:
        out = out + b.aligned("bias", n)
    return out, *stats


# ---------------------------------------------------------------- products

def product(b, *args):
    """Matrix products, of vectors too, with batch dims that broadcast."""
    left, right = b.names[:2]
    n, m = b.ndim(left), b.ndim(right)
    matmul = REGISTRY["matmul"].fn
    if not b.has(right) and m == 2:
        return matmul(b.full(left), args[1])
    rank = max(n, m, 2)
    x, y = args[:2]
    if n == 1:
        x = x.unsqueeze(-2)
    if m == 1:
        y = y.unsqueeze(-1)
    return matmul(_aligned(x, b.has(left), rank), _aligned(y, b.has(right), rank))


def _aligned(t, batched, n):
    """A batched matrix with its batch dim in front of n dims."""
    missing = n + 1 - t.meta.ndim
    if not batched or missing <= 0:
        return t
    return t.reshape(t.meta.shape[0], *(1,) * missing, *t.meta.shape[1:])


def gemm(b, x, y, ta, tb):
    """Products of stacks of matrices, either transposed."""
    rank = max(b.ndim("input"), b.ndim("other"))
    return b.op.fn(b.aligned("input", rank), b.aligned("other", rank), ta, tb)


def linear(b, x, weight, bias):
    """x W^T + bias, with weights of all or of each example."""
    if not (b.has("weight") or b.has("bias")):
        return b.op.fn(b.full("input"), weight, bias)
    n = max(b.ndim("input"), 2)
    x = x if b.ndim("input") > 1 else x.unsqueeze(-2)
    out = REGISTRY["matmul"].fn(_aligned(x, b.has("input"), n), b.aligned("weight", n).mT)
    return out if bias is None else out + b.aligned("bias", n)


# ---------------------------------------------------------------- indices

def _numbers(b, ndim):
    """0, 1, ... B - 1 as an index tensor that broadcasts with `ndim` more dims."""
    device = b.metas[0].device
    return REGISTRY["arange_int"].fn(b.size, 0, 1, dtype=dt.int64, device=device).reshape(
        b.size, *(1,) * ndim)


def _geometry(b, dims):
    """(dims of an index, where they stand in the result, other dims) of one example."""
    from .gather import index_geometry

    n = b.indexed.meta.ndim if b.indexed is not None else len(b.args["shape"])
    shape = b.indexed.meta.shape if b.indexed is not None else b.args["shape"]
    _, at, common = index_geometry(shape, dims, [i.meta.shape for i in b.args["indices"]])
    return len(common), at, [d for d in range(n) if d not in dims]


def _indices(b, k):
    """Index tensors of a batch with k dims each, the number of the example in front."""
    found = [b.level.aligned(i, k) for i in b.args["indices"]]
    return (_numbers(b, k), *found)


def _to_front(t, k, at):
    """Index dims (k of them, standing at `at` of an example) right behind the batch."""
    return t.movedim(tuple(range(at + 1, at + 1 + k)), tuple(range(1, 1 + k))) if at else t


def _from_front(t, k, at):
    return t.movedim(tuple(range(1, 1 + k)), tuple(range(at + 1, at + 1 + k))) if at else t


def index_get(b, x, indices, dims):
    """Advanced indexing: with indices of each example, its number is one more index."""
    b.indexed = b.args["input"]
    k, at, rest = _geometry(b, dims)
    if not b.has("indices"):
        out = b.op.fn(x, indices, tuple(d + 1 for d in dims))
        return out.movedim(k, 0) if _apart(dims) else out
    x = b.full("input").permute(0, *[d + 1 for d in dims], *[d + 1 for d in rest])
    out = b.op.fn(x, _indices(b, k), tuple(range(len(dims) + 1)))
    return _from_front(out, k, at)


def _apart(dims):
    """Whether the indexed dims are not adjacent, so that the index dims come first."""
    return any(q != p + 1 for p, q in pairwise(dims))


def index_sum(b, values, indices, shape, dims):
    """The transpose of `index_get`."""
    b.indexed = None
    k, at, rest = _geometry(b, dims)
    v = b.full("values")
    if not b.has("indices"):
        v = v.movedim(0, k) if _apart(dims) else v
        return b.op.fn(v, indices, (b.size, *shape), tuple(d + 1 for d in dims))
    order = [*dims, *rest]
    out = b.op.fn(_to_front(v, k, at), _indices(b, k), (b.size, *[shape[d] for d in order]),
                  tuple(range(len(dims) + 1)))
    return out.permute(0, *[order.index(d) + 1 for d in range(len(shape))])


def index_put(b, x, indices, dims, combine, negative, values):
    """Writing at indices, as `index_get` reads."""
    b.indexed = b.args["input"]
    k, at, rest = _geometry(b, dims)
    shape = b.indexed.meta.shape
    common = _common(b)
    others = [shape[d] for d in rest]
    full = (*others[:at], *common, *others[at:])
    x = b.full("input")
    if hasattr(values, "data_"):
        values = b.aligned("values", len(full))
        if b.has("indices") or _apart(dims):
            values = values.expand(b.size, *full)
    if not b.has("indices"):
        if _apart(dims) and hasattr(values, "data_"):
            values = values.movedim(0, k)
        return b.op.fn(x, indices, tuple(d + 1 for d in dims), combine, negative, values)
    order = [*dims, *rest]
    if hasattr(values, "data_"):
        values = _to_front(values, k, at)
    out = b.op.fn(x.permute(0, *[d + 1 for d in order]), _indices(b, k),
                  tuple(range(len(dims) + 1)), combine, negative, values)
    return out.permute(0, *[order.index(d) + 1 for d in range(len(shape))])


def _common(b):
    """The shape that the index tensors of one example have together."""
    from ..base.meta import broadcast_shapes

    return broadcast_shapes(*[i.meta.shape for i in b.args["indices"]])


def index_select(b, x, dim, index):
    """Slices of a dim: of all examples, or of each its own."""
    m = b.args["input"].meta
    if not b.has("index") and m.ndim:
        return b.op.fn(x, wrap_dim(dim, m.ndim) + 1, index)

    def composed(x, dim, index):
        if not x.meta.ndim:
            return x.reshape(1).index_select(0, index).reshape(())
        d = wrap_dim(dim, x.meta.ndim)
        return REGISTRY["index_get"].fn(x, (index.reshape(-1),), (d,))

    return b.composed(composed)


def take(b, x, index):
    """Elements by their place in the flattened example."""
    return b.composed(lambda x, index: REGISTRY["index_get"].fn(x.reshape(-1), (index,), (0,)))


def embedding(b, weight, indices, padding_idx, *rest):
    """Rows of one table, or of the table of each example."""
    if not b.has("weight"):
        return b.op.fn(weight, indices, padding_idx, *rest)
    if padding_idx >= 0 or any(rest):
        return NotImplemented
    rows = weight.meta.shape[1]
    index = b.full("indices") + _numbers(b, b.ndim("indices")) * rows
    return b.op.fn(merged(weight), index, -1)


def embedding_backward(b, grad, indices, rows, padding_idx, by_count):
    """The rows of every example's table follow each other in one."""
    index = b.full("indices")
    flat = index + _numbers(b, b.ndim("indices")) * rows
    out = b.op.fn(b.full("grad"), flat, b.size * rows, -1, by_count)
    out = out.reshape(b.size, rows, out.meta.shape[-1])
    if padding_idx < 0:
        return out
    at = REGISTRY["arange_int"].fn(rows, 0, 1, dtype=dt.int64, device=b.metas[0].device)
    return out * (at != padding_idx).to(out.meta.dtype).unsqueeze(-1)


def join(extra):
    """cat (extra=0) and stack (1): of whole batches."""
    def batch(b, tensors, dim):
        n = max(t.meta.ndim for t in b.args["tensors"]) + extra
        return b.op.fn(b.full("tensors"), wrap_dim(dim, n) + 1)

    return batch


def search(b, sequence, x, *rest):
    """Sorted lines: one for all, or one for each."""
    if b.ndim("sorted_sequence") > 1:
        return b.op.fn(b.full("sorted_sequence"), b.full("input"), *rest)
    if not b.has("sorted_sequence"):
        return b.op.fn(sequence, x, *rest)
    return b.op.fn(sequence, b.full("input").reshape(b.size, -1), *rest)


# ---------------------------------------------------------------- places

def place(b, x, size, strides, offset, fill):
    """A region of every example."""
    return b.op.fn(b.full("input"), (b.size, *size), (math.prod(size), *strides), offset, fill)


def overlay(b, x, src, strides, offset):
    """A region of every example."""
    return b.op.fn(b.full("input"), b.full("src"),
                   (math.prod(b.args["input"].meta.shape), *strides), offset)


def pad(b, x, around, how):
    """No padding of the batch."""
    return b.op.fn(x, ((0, 0), *around), how)


def pad_backward(b, grad, shape, around, how):
    """No padding of the batch."""
    return b.op.fn(grad, (b.size, *shape), ((0, 0), *around), how)


def arg_reduce(b, x, dim, keepdim):
    """The place in one dim, or in the flattened example."""
    x = b.full("input")
    if dim is None or b.ndim("input") == 0:
        return b.op.fn(x.reshape(b.size, -1), 1, False)
    return b.op.fn(x, wrap_dim(dim, b.ndim("input")) + 1, keepdim)


def attention(b, scores, mask, scale, causal):
    """Rows of scores; a mask lines up from the right."""
    s = b.full("scores")
    return b.op.fn(s, None if mask is None else b.aligned("mask", b.ndim("scores")), scale, causal)


# ---------------------------------------------------------------- losses by classes

def class_loss(b, x, target, weight, *rest):
    """Row losses of all examples at once; the mean of each by its own weights."""
    *middle, ignore_index, reduction = rest
    if b.has("weight"):
        return NotImplemented
    x, t = b.full("input"), b.full("target")
    rows = (x, t) if b.ndim("input") == 1 else (merged(x), merged(t))
    loss, *more = b.op.fn(*rows, weight, *middle, ignore_index, "none")
    each, loss = loss, loss.reshape(b.size, -1).sum(1)
    if reduction == "none":
        return each, *more[:-1], loss.detach() * 0
    if reduction == "sum":
        return loss, *more[:-1], loss.detach() * 0
    counts = t != ignore_index
    share = counts.to(loss.meta.dtype)
    if weight is not None:
        safe = REGISTRY["where"].fn(counts, t, 0)
        share = share * REGISTRY["index_get"].fn(weight, (safe,), (0,))
    total = share.reshape(b.size, -1).sum(1)
    return loss / total, *more[:-1], total.to(b.metas[-1].dtype)


__all__: list[str] = []
