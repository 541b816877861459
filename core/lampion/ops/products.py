"""Products that are compositions of the contraction: addmm and relatives, outer products, chains.

Floor 3.
"""

from __future__ import annotations

import itertools
import warnings

from ..base import dtype as dt
from ..base.meta import broadcast_shapes
from .contract import biased_product, bmm, conj, dot, matmul, mm, mv
from .linalg_checks import eye, op
from .registry import composite

# ---------------------------------------------------------------- scaled sums of products

def blended(name, input, product, left, right, beta, alpha):
    """beta * input + alpha * product(left, right); input is not read at all where beta is 0. Sums
    of 16-bit floats are rounded once, at the end."""
    d, wide = left.meta.dtype, dt.opmath(left.meta.dtype)
    if d is not wide and beta != 0 and input.meta.dtype is d is right.meta.dtype:
        parts = (t.to(wide) for t in (left, right))
        return blended(name, input.to(wide), product, *parts, beta, alpha).to(d)
    result = product(left, right)
    m, r = input.meta, result.meta
    if broadcast_shapes(m.shape, r.shape) != r.shape:
        raise RuntimeError(f"{name}: the input {list(m.shape)} does not broadcast to the result "
                           f"{list(r.shape)}")
    if m.dtype is not r.dtype:
        raise RuntimeError(f"{name}: self and mat2 must have the same dtype, but got {m.dtype!r} "
                           f"and {r.dtype!r}")
    if r.dtype.kind in "ui":
        beta, alpha = int(beta), int(alpha)
    elif r.dtype.kind == "b":
        beta, alpha = bool(beta), bool(alpha)
    if beta == 0:
        return result if alpha == 1 else result * alpha
    if beta != 1:
        input = input * beta
    return input + result if alpha == 1 else op("add")(input, result, alpha=alpha)


@composite(method=True, inplace=True, replay=True, samples="""
    f(2, 4), f(2, 3), f(3, 4)
    f(4), f(2, 3).transposed, f(3, 4).strided
    f(2, 1), f(2, 3), f(3, 4), beta=0.5, alpha=2
    i(2, 2), i(2, 3), i(3, 2), beta=2, alpha=-1
    f(2, 4), f(2, 0), f(0, 4)
    v([[nan, 1]]), f(1, 3), f(3, 2), beta=0
""")
def addmm(input, mat1, mat2, *, beta=1, alpha=1):
    """beta * input + alpha * mat1 @ mat2; `input` broadcasts to the product."""
    if beta == 1 and alpha == 1 and input.meta.ndim == 1 and mat2.meta.ndim == 2 \
            and mat1.meta.ndim == 2 and input.meta.shape[0] == mat2.meta.shape[1]:
        return biased_product.fn(mat1, mat2, input)
    return blended("addmm", input, mm.fn, mat1, mat2, beta, alpha)


@composite(method=True, inplace=True, replay=True, samples="""
    f(2), f(2, 3), f(3)
    f(), f(2, 3).transposed, f(3).strided, beta=0.5, alpha=2
""")
def addmv(input, mat, vec, *, beta=1, alpha=1):
    """beta * input + alpha * mat @ vec."""
    return blended("addmv", input, mv.fn, mat, vec, beta, alpha)


@composite(method=True, inplace=True, replay=True, samples="""
    f(2, 3, 4), f(2, 3, 2), f(2, 2, 4)
    f(4), f(2, 3, 2).transposed, f(2, 2, 4), beta=0.5, alpha=2
""")
def baddbmm(input, batch1, batch2, *, beta=1, alpha=1):
    """beta * input + alpha * batch1 @ batch2, matrix by matrix."""
    return blended("baddbmm", input, bmm.fn, batch1, batch2, beta, alpha)


@composite(method=True, replay=True, samples="""
    f(3, 4), f(2, 3, 2), f(2, 2, 4)
    f(4), f(2, 3, 2).transposed, f(2, 2, 4), beta=0.5, alpha=2
""")
def addbmm(input, batch1, batch2, *, beta=1, alpha=1):
    """beta * input + alpha * the sum of the products of all matrices of the batches."""
    a, b = batch1.meta, batch2.meta
    if a.ndim != 3 or b.ndim != 3 or b.shape[:2] != (a.shape[0], a.shape[2]):
        bmm.fn(batch1, batch2)  # raises
    wide = batch1.transpose(0, 1).reshape(a.shape[1], a.shape[0] * a.shape[2])
    tall = batch2.reshape(b.shape[0] * b.shape[1], b.shape[2])
    return blended("addbmm", input, mm.fn, wide, tall, beta, alpha)


@composite(method=True, out=False, name="addbmm_", where=(), samples="""
    f(3, 4), f(2, 3, 2), f(2, 2, 4), beta=0.5, alpha=2
""")
def addbmm_inplace(input, batch1, batch2, *, beta=1, alpha=1):
    """In-place addbmm; an input that broadcasts is resized to the product."""
    result = addbmm.fn(input, batch1, batch2, beta=beta, alpha=alpha)
    if input.meta.shape != result.meta.shape:
        input.resize_(result.meta.shape)
    return input.copy_(result)


@composite(out_cast="safe", method=True, inplace=True, replay=True, samples="""
    f(2, 3), f(2), f(3)
    f(3), f(2), f(3).strided, beta=0.5, alpha=2
""")
def addr(input, vec1, vec2, *, beta=1, alpha=1):
    """beta * input + alpha * the outer product of two vectors."""
    return blended("addr", input, outer.fn, vec1, vec2, beta, alpha)


# ---------------------------------------------------------------- vectors

@composite(out_cast="safe", method=True, replay=True, samples="""
    f(2), f(3)
    i(2).strided, i(3)
    f(0), f(2)
""")
def outer(input, vec2):
    """The matrix of all products of the elements of two vectors."""
    for name, x in (("self", input), ("vec2", vec2)):
        if x.meta.ndim != 1:
            raise RuntimeError(f"outer: Expected 1-D argument {name}, but got {x.meta.ndim}-D")
    return input.unsqueeze(1) * vec2


@composite(method=True, samples="f(2), f(3)")
def ger(input, vec2):
    """Alias of `outer`."""
    return outer.fn(input, vec2)


@composite(method=True, samples="""
    f(3), f(3)
    c(4).strided, c(4)
""")
def vdot(input, other):
    """dot with the first vector conjugated."""
    return dot.fn(conj(input), other)


@composite(where=("linalg",), replay=True, samples="""
    f(2, 3), f(2, 3)
    f(2, 3).transposed, f(1, 3), dim=0
    c(2, 3), c(3)
""")
def vecdot(x, y, *, dim=-1):
    """Dot products along a dim, the first operand conjugated; batch dims broadcast."""
    if x.meta.dtype.kind not in "fc" or y.meta.dtype.kind not in "fc":
        raise RuntimeError("linalg.vecdot: Expected a floating point or complex tensor as input. "
                           f"Got {x.meta.dtype!r}")
    return (conj(x) * y).sum(dim)


def _inner_out(input, other):
    return "same" if input.meta.ndim and other.meta.ndim else "safe"


@composite(out_cast=_inner_out, method=True, replay=True, samples="""
    f(2, 3), f(4, 3)
    f(2, 3).transposed, f(3)
    f(), f(2)
""")
def inner(input, other):
    """Sums of products over the last dims of both; a plain product if one is a scalar."""
    a, b = input.meta, other.meta
    if not a.ndim or not b.ndim:
        return input * other
    if a.shape[-1] != b.shape[-1]:
        raise RuntimeError("inner() the last dimension must match on both input tensors but got "
                           f"shapes {list(a.shape)} and {list(b.shape)}")
    return tensordot.fn(input, other, ((-1,), (-1,)))


# ---------------------------------------------------------------- any dims

@composite(replay=True, samples="""
    f(2, 3, 4), f(3, 4, 2)
    f(2, 3).transposed, f(3, 4), 1
    f(2, 3, 4), f(4, 5, 2), ((0, 2), (2, 0))
    f(2), f(3), 0
""")
def tensordot(a, b, dims=2):
    """Sum of products over dims: an int n (the last n of a, the first n of b) or two lists."""
    m, w = a.meta, b.meta
    if hasattr(dims, "meta"):
        dims = dims.tolist() if dims.meta.ndim else dims.item()
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(m.ndim, w.ndim):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        dims = (range(-dims, 0), range(dims))
    left, right = ([d] if isinstance(d, int) else list(d) for d in dims)
    if len(left) != len(right):
        raise RuntimeError("both dimension lists should have same length")
    for d, e in zip(left, right):
        if 1 in (m.shape[d], w.shape[e]):  # broadcast: the sum over the other's dim comes first
            if m.shape[d] != 1:
                a = a.sum(d, keepdim=True)
            if w.shape[e] != 1:
                b = b.sum(e, keepdim=True)
        elif m.shape[d] != w.shape[e]:
            raise RuntimeError(
                "contracted dimensions need to match, but first has size "
                f"{m.shape[d]} in dim {d} and second has size {w.shape[e]} in dim {e}")
    m, w = a.meta, b.meta
    left, right = [d % m.ndim for d in left], [e % w.ndim for e in right]
    rows = [d for d in range(m.ndim) if d not in left]
    columns = [e for e in range(w.ndim) if e not in right]
    k = 1
    for d in left:
        k *= m.shape[d]
    shape = [m.shape[d] for d in rows] + [w.shape[e] for e in columns]
    x = a.permute(rows + left).reshape(_count(m, rows), k)
    y = b.permute(right + columns).reshape(k, _count(w, columns))
    return mm.fn(x, y).reshape(shape)


def _count(m, dims):
    n = 1
    for d in dims:
        n *= m.shape[d]
    return n


@composite(out_cast="safe", method=True, replay=True, samples="""
    f(2, 2), f(2, 3)
    f(2).strided, f(2, 3).transposed
    f(), f(2)
""")
def kron(input, other):
    """Kronecker product: every element of `input` times all of `other`."""
    rank = max(input.meta.ndim, other.meta.ndim)
    a = (1,) * (rank - input.meta.ndim) + input.meta.shape
    b = (1,) * (rank - other.meta.ndim) + other.meta.shape
    left = [n for size in a for n in (size, 1)]
    right = [n for size in b for n in (1, size)]
    return (input.reshape(left) * other.reshape(right)).reshape([x * y for x, y in zip(a, b)])


# ---------------------------------------------------------------- chains and powers

@composite(where=("linalg",), replay=True, samples="""
    [f(2, 3), f(3, 4), f(4, 2)]
    (f(3), f(3, 4).transposed, f(4))
""")
def multi_dot(tensors):
    """The product of matrices, multiplied in the cheapest order; the first and the last may be
    vectors."""
    tensors = list(tensors)
    if len(tensors) < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {len(tensors)}")
    for k, t in enumerate(tensors):
        ends = k in (0, len(tensors) - 1)
        if t.meta.ndim != 2 and not (ends and t.meta.ndim == 1):
            raise RuntimeError(f"multi_dot(): tensor {k} must be {'1D or ' if ends else ''}2D but "
                               f"got {t.meta.ndim}D")
    head, tail = tensors[0].meta.ndim == 1, tensors[-1].meta.ndim == 1
    if head:
        tensors[0] = tensors[0].unsqueeze(0)
    if tail:
        tensors[-1] = tensors[-1].unsqueeze(1)
    for k, (a, b) in enumerate(itertools.pairwise(tensors)):
        if a.meta.shape[1] != b.meta.shape[0]:
            raise RuntimeError(f"multi_dot(): tensors {k} and {k + 1} with shapes "
                               f"{list(a.meta.shape)} and {list(b.meta.shape)} cannot be "
                               "multiplied")
    result = _chain(tensors)
    result = result.squeeze(0) if head else result
    return result.squeeze(-1) if tail else result


def _chain(tensors):
    """Product of matrices by the order of least multiplications (dynamic programming)."""
    n = len(tensors)
    size = [t.meta.shape[0] for t in tensors] + [tensors[-1].meta.shape[1]]
    cost = {(k, k): (0, k) for k in range(n)}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            ends = size[i] * size[j + 1]
            cost[i, j] = min((cost[i, k][0] + cost[k + 1, j][0] + ends * size[k + 1], k)
                             for k in range(i, j))

    def build(i, j):
        if i == j:
            return tensors[i]
        k = cost[i, j][1]
        return mm.fn(build(i, k), build(k + 1, j))

    return build(0, n - 1)


@composite(replay=True, samples="f(2, 3), f(3, 4), f(4, 2)")
def chain_matmul(*matrices):
    """The product of matrices in the cheapest order (deprecated: use linalg.multi_dot)."""
    warnings.warn("chain_matmul is deprecated and will be removed in a future release. Use "
                  "linalg.multi_dot, which accepts a list of two or more tensors rather than "
                  "multiple parameters.", stacklevel=2)
    for t in matrices:
        if t.meta.ndim != 2:
            raise RuntimeError(f"Tensor dimension is {t.meta.ndim}, expected 2 instead.")
    return matrices[0] if len(matrices) == 1 else _chain(list(matrices))


def _power_out(input, n):
    """What PyTorch copies into out= is cast: the identity, the input, repeated squares."""
    squares = abs(n) > 3 and abs(n).bit_count() == 1
    return "safe" if n in (0, 1) or squares else "same"


@composite(out_cast=_power_out, method=True, where=("", "linalg"), replay=True, samples="""
    f(3, 3), 3
    f(2, 3, 3).transposed, 2
    f(3, 3), 0
    f(3, 3), 1
""")
def matrix_power(input, n):
    """The n-th power of square matrices; a negative n inverts first, 0 gives the identity."""
    m = input.meta
    if m.ndim < 2 or m.shape[-1] != m.shape[-2]:
        if m.ndim < 2:
            raise RuntimeError("linalg.matrix_power: The input tensor A must have at least 2 "
                               "dimensions.")
        raise RuntimeError("linalg.matrix_power: A must be batches of square matrices, but they "
                           f"are {m.shape[-2]} by {m.shape[-1]} matrices")
    if n == 0:
        one = eye(m, m.shape[-1]).expand(m.shape)
        return op("where")(one == one, one, input)
    if n < 0:
        input, n = op("linalg_inv")(input), -n
    result = None
    while n:
        if n & 1:
            result = input if result is None else matmul.fn(result, input)
        n >>= 1
        if n:
            input = matmul.fn(input, input)
    return result.clone() if result is input and input.meta is m else result


# ---------------------------------------------------------------- cross products

def _cross(a, b, dim):
    x = [a.select(dim, k) for k in range(3)]
    y = [b.select(dim, k) for k in range(3)]
    parts = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]]
    return op("stack")(parts, dim)


@composite(method=True, replay=True, samples="""
    f(2, 3), f(2, 3)
    f(3, 3).transposed, f(3, 3), 0
    f(4, 3), f(1, 3), -1
""")
def cross(input, other, dim=None):
    """Cross products along a dim of size 3 (the first such dim unless given)."""
    if dim is None:
        shape = broadcast_shapes(input.meta.shape, other.meta.shape)
        dim = next((d for d, n in enumerate(shape) if n == 3), None)
        if dim is None:
            raise RuntimeError("no dimension of size 3 in input")
    return linalg_cross.fn(input, other, dim=dim)


@composite(where=("linalg",), replay=True, samples="""
    f(2, 3), f(2, 3)
    f(3, 2).transposed, f(3, 2), dim=0
""")
def linalg_cross(input, other, *, dim=-1):
    """Cross products along a dim of size 3 (linalg.cross)."""
    a, b = input.meta, other.meta
    if a.ndim != b.ndim:
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    if not -a.ndim <= dim < a.ndim:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-a.ndim}, "
                         f"{a.ndim - 1}], but got {dim})")
    if a.shape[dim] != 3 or b.shape[dim] != 3:
        raise RuntimeError(f"linalg.cross: inputs dimension {dim} must have length 3. Got "
                           f"{a.shape[dim]} and {b.shape[dim]}")
    shape = broadcast_shapes(a.shape, b.shape)
    return _cross(input.expand(shape), other.expand(shape), dim % a.ndim)
