"""What ops do with sparse tensors. `RULES` maps names of ops to functions of their arguments.

Floor 7; imports the sparse tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lampion

from ..base import layout as L
from ..tensor import Tensor
from .tensor import SparseTensor, _added, _keys, _refuse, made_compressed, made_coo

RULES: dict[str, Callable[..., Any]] = {}


def _rule(*names: str) -> Callable[[Any], Any]:
    def add(fn: Any) -> Any:
        for name in names:
            RULES[name] = fn
            if name not in _NO_METHOD:
                setattr(SparseTensor, name, fn)
        return fn

    return add


_NO_METHOD = ("cat", "concat", "concatenate", "stack", "zeros_like", "empty_like", "mm_dense")


def _sparse(x: Any) -> bool:
    return isinstance(x, SparseTensor)


def _like(x: SparseTensor, coo: SparseTensor) -> SparseTensor:
    """A COO result in the layout of `x`."""
    return coo.to_sparse(layout=x.layout)


# ---- element by element: functions with f(0) = 0 leave places as they are

def _elementwise(name: str) -> None:
    def rule(x: SparseTensor, *args: Any, **kwargs: Any) -> SparseTensor:
        x = x.coalesce() if x.is_sparse else x
        return x._with(getattr(x._held, name)(*args, **kwargs))

    rule.__name__ = name
    rule.__doc__ = f"`{name}` of the values; zeros stay zeros."
    _rule(name)(rule)


for _name in ("abs", "neg", "negative", "sqrt", "square", "sign", "sgn", "sin", "tan", "asin",
              "atan", "sinh", "tanh", "asinh", "atanh", "relu", "floor", "ceil", "round", "trunc",
              "erf", "expm1", "log1p", "isnan", "isinf", "deg2rad", "rad2deg", "absolute",
              "nan_to_num", "conj", "angle", "signbit"):
    _elementwise(_name)


@_rule("pow")
def pow(x: SparseTensor, exponent: Any) -> SparseTensor:
    """Powers of the values; RuntimeError unless the exponent is a positive number."""
    if isinstance(exponent, Tensor) or exponent <= 0:
        raise RuntimeError("pow of a sparse tensor needs a positive number as exponent: zeros "
                           "would not stay zeros")
    x = x.coalesce() if x.is_sparse else x
    return x._with(x._held ** exponent)


@_rule("mul", "multiply", "__mul__", "__rmul__")
def mul(a: Any, b: Any) -> Any:
    """Products; a sparse factor makes the result sparse."""
    if not _sparse(a):
        a, b = b, a
    if not isinstance(b, Tensor) or b.dim() == 0:
        return a._with(a._held * b)
    if not _sparse(b):
        return _scaled(a, b, lampion.mul)
    if a.shape != b.shape:
        raise RuntimeError(f"mul: operands have incompatible sizes {tuple(a.shape)} and "
                           f"{tuple(b.shape)}")
    x, y = a.to_sparse_coo().coalesce(), b.to_sparse_coo().coalesce()
    sizes = x.shape[:x.sparse_dim()]
    kx, ky = _keys(x._places, sizes), _keys(y._places, sizes)
    if not len(ky):
        x, kx = y, ky
    at = lampion.searchsorted(ky, kx).clamp(max=max(len(ky) - 1, 0))
    both = (ky[at] == kx).nonzero().squeeze(1)
    values = x._held[both] * y._held[at[both]]
    return _like(a, made_coo(x._places[:, both], values, tuple(x.shape), True))


def _scaled(a: SparseTensor, b: Tensor, op: Any) -> SparseTensor:
    """`op` of the values and a dense operand's elements at their places."""
    x = a.to_sparse_coo().coalesce()
    full = b.expand(x.shape)
    return _like(a, x._with(op(x._held, full[tuple(x._places)])))


@_rule("div", "divide", "true_divide", "__truediv__", "__div__")
def div(a: Any, b: Any, *, rounding_mode: Any = None) -> Any:
    """A sparse tensor by a number or a dense tensor."""
    if _sparse(b):
        raise RuntimeError("div: a sparse divisor would divide by its zeros; call to_dense()")

    def by(v: Any, w: Any) -> Any:
        return lampion.div(v, w, rounding_mode=rounding_mode)

    if not isinstance(b, Tensor) or b.dim() == 0:
        x = a.coalesce() if rounding_mode and a.is_sparse else a
        return x._with(by(x._held, b))
    return _scaled(a, b, by)


def _joined(a: SparseTensor, b: SparseTensor, alpha: Any) -> SparseTensor:
    x, y = a.to_sparse_coo(), b.to_sparse_coo()
    if x.shape != y.shape:
        raise RuntimeError(f"add: expected sizes of 'self' and 'other' to match, but "
                           f"{tuple(x.shape)} != {tuple(y.shape)}")
    values = y._held if alpha == 1 else y._held * alpha
    kind = lampion.promote_types(x.dtype, values.dtype)
    places = lampion.cat([x._places, y._places], 1)
    total = made_coo(places, lampion.cat([x._held.to(kind), values.to(kind)]), tuple(x.shape),
                     False)
    return total.coalesce() if x._sorted and y._sorted else total


@_rule("add", "__add__", "__radd__")
def add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Sums: of two sparse tensors sparse, with a dense one dense."""
    if _sparse(a) and _sparse(b):
        return _like(a, _joined(a, b, alpha))
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        _refuse("add of a number: all zeros would change")
    if _sparse(b):
        coo = b.to_sparse_coo()
        sizes = coo.shape[:coo.sparse_dim()]
        flat = a.expand(coo.shape).reshape(-1, *coo._held.shape[1:])
        values = (coo._held if alpha == 1 else coo._held * alpha).to(a.dtype)
        return flat.index_add(0, _keys(coo._places, sizes), values).reshape(tuple(coo.shape))
    return a.to_dense() + (b if alpha == 1 else alpha * b)


@_rule("sub", "subtract", "__sub__")
def sub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Differences, as `add`."""
    return add(a, b, alpha=-alpha)


@_rule("rsub", "__rsub__")
def rsub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """`b - alpha * a`."""
    return add(b, a, alpha=-alpha)


# ---- products

def _times_dense(a: SparseTensor, b: Tensor) -> Tensor:
    """A sparse matrix times a dense one: rows of it, scaled, are added up."""
    coo = a.to_sparse_coo()
    if coo.dense_dim() or coo.sparse_dim() != 2:
        _refuse(f"a product of a tensor of shape {tuple(a.shape)}")
    if a.shape[1] != b.shape[0]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({a.shape[0]}x{a.shape[1]} "
                           f"and {b.shape[0]}x{b.shape[-1]})")
    rows, columns = coo._places
    return _added(coo._held.unsqueeze(1) * b.index_select(0, columns), rows, a.shape[0])


def _times_sparse(a: SparseTensor, b: SparseTensor) -> SparseTensor:
    """The product of two sparse matrices: every element of `a` meets a row of `b`."""
    x, y = a.to_sparse_coo().coalesce(), b.to_sparse_csr()
    if a.shape[1] != b.shape[0]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({a.shape[0]}x{a.shape[1]} "
                           f"and {b.shape[0]}x{b.shape[1]})")
    rows, inner = x._places
    starts, counts = y._starts.to(lampion.int64), y._starts.diff().to(lampion.int64)
    met = counts[inner]
    total = int(met.sum())
    which = lampion.arange(len(inner), device=inner.device).repeat_interleave(
        met, output_size=total)
    first = met.cumsum(0) - met
    at = starts[inner[which]] + lampion.arange(total, device=inner.device) - first[which]
    places = lampion.stack([rows[which], y._places.to(lampion.int64)[at]])
    values = x._held[which] * y._held[at]
    return _like(a, made_coo(places, values, (a.shape[0], b.shape[1]), False).coalesce())


@_rule("mm", "matmul", "smm", "spmm", "__matmul__", "dsmm", "hspmm")
def mm(a: Any, b: Any) -> Any:
    """Matrix products with a sparse factor; the result is dense unless both are sparse."""
    if _sparse(a) and _sparse(b):
        return _times_sparse(a, b)
    if _sparse(a):
        return mv(a, b) if b.dim() == 1 else _times_dense(a, b)
    if a.dim() == 1:
        return mv(b.t(), a)
    return _times_dense(b.t(), a.t()).t()


@_rule("__rmatmul__")
def rmatmul(a: Any, b: Any) -> Any:
    """`b @ a`."""
    return mm(b, a)


@_rule("mv")
def mv(a: SparseTensor, b: Tensor) -> Tensor:
    """A sparse matrix times a vector."""
    return _times_dense(a, b.unsqueeze(1)).squeeze(1)


@_rule("addmm", "sspaddmm", "saddmm")
def addmm(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """`beta * c + alpha * (a @ b)`."""
    return add(c if beta == 1 else c * beta, mm(a, b) if alpha == 1 else mm(a, b) * alpha) \
        if _sparse(c) or (_sparse(a) and _sparse(b)) else beta * c + alpha * mm(a, b)


@_rule("bmm")
def bmm(a: Any, b: Any) -> Tensor:
    """Products of batches: of a COO tensor with three sparse dims and a dense one."""
    if not _sparse(a) or _sparse(b):
        _refuse("bmm with a sparse second factor")
    coo = a.to_sparse_coo()
    batch, rows, columns = coo._places
    n, m, _ = a.shape
    values = coo._held.unsqueeze(1) * b[batch, columns]
    return _added(values, batch * m + rows, n * m).reshape(n, m, b.shape[2])


# ---- sums

@_rule("sum")
def sum(x: SparseTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum: of all elements a dense number, over dims as `sparse.sum`."""
    if dim is None:
        return x._held.sum(dtype=dtype)
    coo = x.to_sparse_coo()
    dims = sorted({d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)})
    held = coo._held if dtype is None else coo._held.to(dtype)
    n = coo.sparse_dim()
    dense = [d - n + 1 for d in dims if d >= n]
    values = held.sum(dense, keepdim) if dense else held
    gone = [d for d in dims if d < n]
    left = [d for d in range(n) if d not in gone]
    if not left and not keepdim:
        return values.sum(0)
    if keepdim:
        places = coo._places.clone()
        for d in gone:
            places[d] = 0
        sizes = [1 if d in gone else x.shape[d] for d in range(n)]
    else:
        places, sizes = coo._places[left], [x.shape[d] for d in left]
    shape = (*sizes, *values.shape[1:])
    return _like(x, made_coo(places, values, shape, coo._sorted and not gone).coalesce()) \
        if len(shape) == 2 else made_coo(places, values, shape, False).coalesce()


@_rule("mean")
def mean(x: SparseTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The mean, zeros included."""
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    count = 1
    for d in dims:
        count *= x.shape[d]
    return sum(x, dim, keepdim, dtype=dtype) / count


@_rule("norm")
def norm(x: SparseTensor, p: Any = 2, dim: Any = None, keepdim: bool = False,
         dtype: Any = None) -> Any:
    """The norm of all elements."""
    if dim is not None:
        _refuse("norm over dims")
    x = x.coalesce() if x.is_sparse else x
    return x._held.norm(2 if p == "fro" else p)


def softmax(x: SparseTensor, dim: int, dtype: Any = None, log: bool = False) -> SparseTensor:
    """Softmax over the kept elements of each line along a sparse dim."""
    coo = x.to_sparse_coo().coalesce()
    dim %= x.dim()
    if dim >= coo.sparse_dim():
        op = lampion.log_softmax if log else lampion.softmax
        return x._with(op(coo._held, dim - coo.sparse_dim() + 1, dtype=dtype))
    values = coo._held if dtype is None else coo._held.to(dtype)
    left = [d for d in range(coo.sparse_dim()) if d != dim]
    keys = _keys(coo._places[left], [x.shape[d] for d in left])
    names, group = lampion.unique(keys, return_inverse=True)
    n, rest = len(names), values.shape[1:]
    spread = group.reshape(-1, *[1] * len(rest)).expand(values.shape)
    top = lampion.full((n, *rest), -lampion.inf, dtype=values.dtype, device=values.device)
    top = top.scatter_reduce(0, spread, values.detach(), "amax")
    shifted = values - top[group]
    total = _added(shifted.exp(), group, n)[group]
    return _like(x, coo._with(shifted - total.log() if log else shifted.exp() / total))


# ---- shapes

@_rule("t")
def t(x: SparseTensor) -> SparseTensor:
    """The transposed matrix."""
    if x.dim() < 2:
        return x
    return transpose(x, 0, 1)


@_rule("transpose", "swapaxes", "swapdims")
def transpose(x: SparseTensor, dim0: int, dim1: int) -> SparseTensor:
    """Two sparse dims exchanged; a CSR tensor becomes a CSC one."""
    a, b = dim0 % x.dim(), dim1 % x.dim()
    shape = list(x.shape)
    shape[a], shape[b] = shape[b], shape[a]
    if not x.is_sparse:
        kind = L.sparse_csc if x.is_sparse_csr else L.sparse_csr
        return x if a == b else made_compressed(kind, x._starts, x._places, x._held, tuple(shape))
    order = list(range(x.sparse_dim()))
    if max(a, b) >= len(order):
        _refuse("transpose of dense dims")
    order[a], order[b] = order[b], order[a]
    return made_coo(x._places[order], x._held, tuple(shape), x._sorted and a == b)


SparseTensor.T = property(t)  # type: ignore[assignment, method-assign]
SparseTensor.mT = property(lambda x: transpose(x, -2, -1))  # type: ignore[assignment]


@_rule("permute")
def permute(x: SparseTensor, *dims: Any) -> SparseTensor:
    """Sparse dims in another order."""
    order = [d % x.dim() for d in (dims[0] if len(dims) == 1 else dims)]
    coo, n = x.to_sparse_coo(), x.to_sparse_coo().sparse_dim()
    if sorted(order[:n]) != list(range(n)) or order[n:] != list(range(n, x.dim())):
        _refuse("permute of dense dims")
    return made_coo(coo._places[order[:n]], coo._held, tuple(x.shape[d] for d in order), False)


@_rule("unsqueeze")
def unsqueeze(x: SparseTensor, dim: int) -> SparseTensor:
    """A sparse dim of size 1 more."""
    coo = x.to_sparse_coo()
    d = dim % (x.dim() + 1)
    if d > coo.sparse_dim():
        _refuse("unsqueeze among dense dims")
    row = coo._places.new_zeros(1, coo._nnz())
    places = lampion.cat([coo._places[:d], row, coo._places[d:]])
    return made_coo(places, coo._held, (*x.shape[:d], 1, *x.shape[d:]), coo._sorted)


@_rule("index_select")
def index_select(x: SparseTensor, dim: int, index: Tensor) -> Any:
    """The slices `index` of a sparse dim, in this order."""
    coo = x.to_sparse_coo().coalesce()
    d = dim % x.dim()
    if d >= coo.sparse_dim():
        shape = (*x.shape[:d], len(index), *x.shape[d + 1:])
        values = coo._held.index_select(d - coo.sparse_dim() + 1, index)
        return made_coo(coo._places, values, shape, True)
    order = coo._places[d].argsort(stable=True)
    lines = coo._places[d][order]
    first = lampion.searchsorted(lines, index)
    met = lampion.searchsorted(lines, index, right=True) - first
    total = int(met.sum())
    which = lampion.arange(len(index), device=index.device).repeat_interleave(
        met, output_size=total)
    at = order[first[which] + lampion.arange(total, device=index.device)
               - (met.cumsum(0) - met)[which]]
    places = coo._places[:, at].clone()
    places[d] = which
    shape = (*x.shape[:d], len(index), *x.shape[d + 1:])
    return _like(x, made_coo(places, coo._held[at], shape, False).coalesce())


@_rule("select")
def select(x: SparseTensor, dim: int, index: int) -> Any:
    """One slice of a sparse dim: sparse, or dense where no sparse dim is left."""
    coo = x.to_sparse_coo().coalesce()
    d, n = dim % x.dim(), coo.sparse_dim()
    shape = (*x.shape[:d], *x.shape[d + 1:])
    if d >= n:
        return made_coo(coo._places, coo._held.select(d - n + 1, index), shape, True)
    if not -x.shape[d] <= index < x.shape[d]:
        raise IndexError(f"select: index {index} out of range for a tensor of size "
                         f"{list(x.shape)} at dimension {d}")
    here = (coo._places[d] == index % x.shape[d]).nonzero().squeeze(1)
    places = lampion.cat([coo._places[:d], coo._places[d + 1:]])[:, here]
    if n == 1:
        return coo._held[here].sum(0)
    return made_coo(places, coo._held[here], shape, True)


@_rule("narrow")
def narrow(x: SparseTensor, dim: int, start: int, length: int) -> Any:
    """A range of a sparse dim."""
    index = lampion.arange(start, start + length, device=x.device)
    return index_select(x, dim, index)


def item(x: SparseTensor, index: Any) -> Any:
    """`x[index]` for whole numbers, ranges and index tensors, one per dim."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [p for p in parts if not isinstance(p, Tensor)]:
        k = parts.index(Ellipsis)
        parts[k:k + 1] = [slice(None)] * (x.dim() - len(parts) + 1)
    found: Any = x
    dim = 0
    for part in parts:
        if isinstance(part, slice):
            if part != slice(None):
                where = lampion.arange(*part.indices(found.shape[dim]), device=x.device)
                found = index_select(found, dim, where)
            dim += 1
        elif isinstance(part, int):
            found = found.select(dim, part)
        elif isinstance(part, Tensor) and part.dim() == 1:
            where = part.nonzero().squeeze(1) if part.dtype is lampion.bool else part
            found = index_select(found, dim, where)
            dim += 1
        else:
            _refuse(f"indexing with {part!r}")
    return found


@_rule("cat", "concat", "concatenate")
def cat(tensors: Any, dim: int = 0) -> SparseTensor:
    """Sparse tensors one after another along a sparse dim."""
    if not all(map(_sparse, tensors)):
        _refuse("cat of sparse and dense tensors")
    parts = [x.to_sparse_coo() for x in tensors]
    d = dim % parts[0].dim()
    if d >= parts[0].sparse_dim():
        _refuse("cat of dense dims")
    rows, start = [], 0
    for x in parts:
        places = x._places.clone()
        places[d] += start
        rows.append(places)
        start += x.shape[d]
    shape = list(parts[0].shape)
    shape[d] = start
    joined = made_coo(lampion.cat(rows, 1), lampion.cat([x._held for x in parts]), tuple(shape),
                      False)
    return joined._coalesced_(d == 0 and all(x._sorted for x in parts))


@_rule("stack")
def stack(tensors: Any, dim: int = 0) -> SparseTensor:
    """Sparse tensors along a new dim."""
    return cat([unsqueeze(x, dim) for x in tensors], dim)


@_rule("zeros_like", "empty_like")
def zeros_like(x: SparseTensor, *, dtype: Any = None, layout: Any = None, device: Any = None,
               requires_grad: bool = False, **kwargs: Any) -> Any:
    """Zeros of the same shape: sparse without elements, or dense if the layout says so."""
    kind = {"dtype": dtype or x.dtype, "device": device or x.device}
    if layout is L.strided:
        return lampion.zeros(tuple(x.shape), requires_grad=requires_grad, **kind)
    n = x.sparse_dim()
    places = lampion.zeros(n, 0, dtype=lampion.int64, device=kind["device"])
    empty = made_coo(places, lampion.zeros(0, *x.shape[n:], **kind), tuple(x.shape), True)
    return _like(x, empty).requires_grad_(requires_grad)


# ---- in place

def _inplace(name: str, rule: Callable[..., Any]) -> None:
    def write(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not _sparse(x):  # dense += sparse
            with lampion.no_grad():
                made = rule(x.detach(), *args, **kwargs)
            return x.copy_(made)
        made = rule(x, *args, **kwargs)
        if not _sparse(made):
            raise RuntimeError(f"{name}: the result is dense, which a sparse tensor cannot hold")
        x._places, x._starts, x._held = made._places, made._starts, made._held
        x._sorted, x.meta = made._sorted, made.meta
        return x

    write.__name__ = name
    write.__doc__ = f"`{name[:-1]}` in place."
    _rule(name)(write)


@_rule("add_scaled")
def add_scaled(a: Any, b: Any, alpha: Any) -> Any:
    """`a + alpha * b`: what `add` with alpha is, by the op's name."""
    return add(a, b, alpha=alpha)


for _name, _fn in (("add_", add), ("add_scaled_", add_scaled), ("sub_", sub),
                   ("mul_", mul), ("div_", div), ("pow_", pow),
                   ("neg_", RULES["neg"]), ("abs_", RULES["abs"]), ("sqrt_", RULES["sqrt"]),
                   ("zero_", lambda x: zeros_like(x)), ("copy_", lambda x, y, *rest: (
                       y.to(x.dtype) if _sparse(y) else y.to_sparse(x.layout)))):
    _inplace(_name, _fn)
SparseTensor.__iadd__ = SparseTensor.add_  # type: ignore[attr-defined]
SparseTensor.__isub__ = SparseTensor.sub_  # type: ignore[attr-defined]
SparseTensor.__imul__ = SparseTensor.mul_  # type: ignore[attr-defined]
SparseTensor.__itruediv__ = SparseTensor.div_  # type: ignore[attr-defined]
SparseTensor.__neg__ = RULES["neg"]  # type: ignore[attr-defined]
SparseTensor.__pow__ = pow  # type: ignore[attr-defined]


def _to(name: str) -> None:
    def cast(x: SparseTensor) -> SparseTensor:
        return x.to(getattr(lampion, name))

    cast.__name__ = name
    cast.__doc__ = f"Values as {name}."
    setattr(SparseTensor, name, cast)


for _name in ("half", "float", "double", "bfloat16", "int", "long", "short", "bool", "cfloat"):
    _to(_name)


# ---- names at the top level

def smm(input: Any, mat: Any) -> Any:
    """The product of a sparse matrix and another one."""
    return mm(input, mat)


spmm = dsmm = hspmm = hsmm = smm


def sspaddmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """`beta * input + alpha * (mat1 @ mat2)` of sparse matrices."""
    return addmm(input, mat1, mat2, beta=beta, alpha=alpha)


saddmm = sspaddmm


@_rule("sparse_resize_")
def sparse_resize_(x: SparseTensor, size: Any, sparse_dim: int, dense_dim: int) -> SparseTensor:
    """Another size in place; elements stay where they are. RuntimeError if one would be outside."""
    if sparse_dim != x.sparse_dim() or dense_dim != x.dense_dim():
        if x._nnz():
            raise RuntimeError("sparse_resize_: changing the number of sparse or dense dims of a "
                               "tensor with elements is not supported")
        x._places = x._places.new_zeros(sparse_dim, 0)
        x._held = x._held.new_zeros(0, *size[sparse_dim:])
    elif x._nnz() and any(n < m for n, m in zip(size, x.shape)):
        raise RuntimeError("sparse_resize_: shrinking a tensor with elements is not supported")
    x.meta = made_coo(x._places, x._held, tuple(size), x._sorted).meta
    return x


@_rule("sparse_resize_and_clear_")
def sparse_resize_and_clear_(x: SparseTensor, size: Any, sparse_dim: int,
                             dense_dim: int) -> SparseTensor:
    """Another size in place, without elements."""
    x._places = x._places.new_zeros(sparse_dim, 0)
    x._held = x._held.new_zeros(0, *size[sparse_dim:])
    x.meta, x._sorted = made_coo(x._places, x._held, tuple(size), True).meta, True
    return x


@_rule("resize_as_sparse_")
def resize_as_sparse_(x: SparseTensor, other: SparseTensor) -> SparseTensor:
    """The size of another tensor, in place."""
    return sparse_resize_(x, tuple(other.shape), other.sparse_dim(), other.dense_dim())


@_rule("sparse_mask")
def sparse_mask(x: SparseTensor, mask: SparseTensor) -> SparseTensor:
    """The elements at the places of another sparse tensor."""
    coo = x.to_sparse_coo().coalesce()
    want = mask.to_sparse_coo().coalesce()
    sizes = coo.shape[:coo.sparse_dim()]
    keys, names = _keys(coo._places, sizes), _keys(want._places, sizes)
    if not len(keys):
        return want._with(lampion.zeros_like(want._held, dtype=coo.dtype))
    at = lampion.searchsorted(keys, names).clamp(max=len(keys) - 1)
    there = (keys[at] == names).to(coo._held.dtype)
    return want._with(coo._held[at] * there.reshape(-1, *[1] * (coo._held.dim() - 1)))
