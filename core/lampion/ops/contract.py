"""Matrix products: one contraction kernel, and the ops that re-read their operands as its matrices.

Floor 3. `contract` multiplies batches of matrices with any strides. mm, bmm, matmul, mv, dot and
linear are kernel ops without kernels of their own: each plans as a `contract` over the same memory
under other metas, so a device that has one good `contract` has them all. `products.py` holds the
composites.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..base.meta import broadcast_shapes, expand_strides, meta
from ..runtime.backend import OpCall
from ..runtime.lowering import Nest, convert
from . import batch_rules
from .registry import kernel_op

_C_NAMES = {"float32": "float", "float64": "double", "int64": "long int", "int32": "int",
            "int16": "short", "int8": "signed char", "uint8": "unsigned char",
            "float16": "c10::Half", "bfloat16": "c10::BFloat16", "bool": "bool",
            "complex32": "c10::complex<c10::Half>", "complex64": "c10::complex<float>",
            "complex128": "c10::complex<double>"}


def check_dtypes(op, a, b):
    """One dtype for both operands, and not bool."""
    if a.dtype is not b.dtype:
        names = [_C_NAMES.get(m.dtype.name, m.dtype.name) for m in (a, b)]
        raise RuntimeError(f"{op}: expected m1 and m2 to have the same dtype, but got: "
                           f"{names[0]} != {names[1]}")
    if a.dtype.kind == "b":
        raise DtypeError(f"\"{op}\" is not implemented for 'Bool': convert with .to(dtype)")


def _as(m, shape, strides):
    return meta(m.dtype, shape, strides, m.device)


def _call(call, a, b, out, bias=None):
    """The contract call over the same slots."""
    inputs = (a, b) if bias is None else (a, b, bias)
    return OpCall("contract", inputs, {"a": a, "b": b, "bias": bias}, (out,), call.device)


def matrices(a, b, out, ta=False, tb=False):
    """Metas (a, b, out) re-read as batches of matrices of one batch shape.

    Vectors become a row (left) or a column (right); `ta`, `tb` transpose matrices first.
    """
    left = (a.shape, a.strides) if a.ndim > 1 else ((1, *a.shape), (0, *a.strides))
    right = (b.shape, b.strides) if b.ndim > 1 else ((*b.shape, 1), (*b.strides, 0))
    (sa, ra), (sb, rb) = _turned(left, ta), _turned(right, tb)
    batch = broadcast_shapes(sa[:-2], sb[:-2])
    rows, columns = sa[-2], sb[-1]
    shape = (*batch, rows, columns)
    steps = list(out.strides)
    if b.ndim == 1:
        steps.append(0)
    if a.ndim == 1:
        steps.insert(len(steps) - 1, 0)
    return (_as(a, (*batch, *sa[-2:]), (*expand_strides(sa[:-2], ra[:-2], batch), *ra[-2:])),
            _as(b, (*batch, *sb[-2:]), (*expand_strides(sb[:-2], rb[:-2], batch), *rb[-2:])),
            _as(out, shape, steps))


def _turned(layout, turn):
    if not turn:
        return layout
    shape, strides = layout
    return ((*shape[:-2], shape[-1], shape[-2]), (*strides[:-2], strides[-1], strides[-2]))


@kernel_op("a: T, b: T, bias: T? = None")
class contract:
    """out[..., m, n] = sum over k of a[..., m, k] * b[..., k, n] (+ bias, which broadcasts to the
    result). Batch dims are equal; 16-bit floats accumulate in float32."""

    where = ()
    out = False

    def meta(a, b, bias):
        check_dtypes("contract", a, b)
        if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
            raise RuntimeError(f"contract: {list(a.shape)} and {list(b.shape)} do not fit")
        return [(a.dtype, (*a.shape[:-1], b.shape[-1]))]

    def lower(call):
        a, b, out = call.a, call.b, call.outputs[0]
        rank, acc = out.ndim, dt.opmath(out.dtype)
        n = Nest("contract", (*out.shape, a.shape[-1]), [rank], compute=acc)
        o = n.output(out, (*out.strides, 0))
        x = n.input(a, (*a.strides[:-1], 0, a.strides[-1]))
        y = n.input(b, (*b.strides[:-2], 0, b.strides[-1], b.strides[-2]))
        extra = None
        if call.bias is not None:
            extra = n.input(call.bias, (*expand_strides(call.bias.shape, call.bias.strides,
                                                        out.shape), 0))
        n.start()
        total = n.reduce("sum", convert(x(), acc) * convert(y(), acc))
        n.store(o, total if extra is None else total + extra.outer(), inner=False)
        return n.program()


def conj(t):
    """Complex conjugate; real tensors unchanged."""
    return t.conj() if t.meta.dtype.kind == "c" else t


@kernel_op("input: T, other: T, ta=False, tb=False")
class gemm:
    """Product of (batches of) matrices, either one transposed first; batch dims broadcast."""

    linear = ("input", "other")
    where = ()
    out = False
    save = ("input", "other")
    batch = batch_rules.gemm

    def meta(input, other, ta, tb):
        check_dtypes("matmul", input, other)
        a, b = _shape(input, ta), _shape(other, tb)
        if a[-1] != b[-2]:
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({_by(a)} and {_by(b)})")
        return [(input.dtype, (*broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]))]

    def through(call):
        return _call(call, *matrices(call.input, call.other, call.outputs[0], call.ta, call.tb))

    def vjp(ctx, g):
        a, b, ta, tb = ctx.input, ctx.other, ctx.ta, ctx.tb
        ga = gb = None
        if ctx.needs("input"):
            ga = gemm.fn(conj(b), g, tb, True) if ta else gemm.fn(g, conj(b), False, not tb)
            ga = fitted(ga, a)
        if ctx.needs("other"):
            gb = gemm.fn(g, conj(a), True, ta) if tb else gemm.fn(conj(a), g, not ta, False)
            gb = fitted(gb, b)
        return ga, gb


@kernel_op("input: T, other: T, bias: T")
class biased_product:
    """Product of two matrices plus a row."""

    linear = ("input bias", "other")
    where = ()
    out = False
    save = ("input", "other")

    def meta(input, other, bias):
        shape = gemm.meta(input, other, False, False)[0][1]
        if input.ndim != 2 or other.ndim != 2 or bias.shape != shape[1:] or \
                bias.dtype is not input.dtype:
            raise RuntimeError(f"biased_product: {list(input.shape)} @ {list(other.shape)} + "
                               f"{list(bias.shape)} is no product of matrices plus a row")
        return [(input.dtype, shape)]

    def through(call):
        a, b, out = matrices(call.input, call.other, call.outputs[0])
        return _call(call, a, b, out, call.bias)

    def vjp(ctx, g):
        return (gemm.fn(g, conj(ctx.other), False, True) if ctx.needs("input") else None,
                gemm.fn(conj(ctx.input), g, True, False) if ctx.needs("other") else None,
                g.sum(0) if ctx.needs("bias") else None)


def _shape(m, turn):
    return (*m.shape[:-2], m.shape[-1], m.shape[-2]) if turn else m.shape


def _by(shape):
    return "x".join(map(str, shape[-2:]))


def fitted(g, like):
    """A gradient summed over the batch dims that were broadcast."""
    from .shapes import sum_to_shape

    return g if g.meta.shape == like.meta.shape else sum_to_shape(g, like.meta.shape)


def product_vjp(ctx, g):
    """Gradients of a product of operands of any rank."""
    a, b = ctx.input, ctx.other
    na, nb = a.meta.ndim, b.meta.ndim
    wa, wb = ctx.needs("input"), ctx.needs("other")
    a, b = (conj(a) if wb else a), (conj(b) if wa else b)
    if na == 2 and nb == 2:
        return (gemm.fn(g, b, False, True) if wa else None,
                gemm.fn(a, g, True, False) if wb else None)
    if na == 1 and nb == 1:
        return g * b if wa else None, g * a if wb else None
    if nb <= 2 and na > 2:  # the rows of all matrices are rows of one
        k = a.meta.shape[-1]
        rows = g.reshape(-1, g.meta.shape[-1]) if nb == 2 else g.reshape(-1, 1)
        right = b if nb == 2 else b.unsqueeze(1)
        ga = gemm.fn(rows, right, False, True).reshape(a.meta.shape) if wa else None
        gb = gemm.fn(a.reshape(-1, k), rows, True, False) if wb else None
        return ga, (gb.reshape(b.meta.shape) if wb else None)
    left = a.unsqueeze(0) if na == 1 else a
    right = b.unsqueeze(1) if nb == 1 else b
    rows = g.unsqueeze(-2) if na == 1 else g
    rows = rows.unsqueeze(-1) if nb == 1 else rows
    ga = gb = None
    if wa:
        ga = fitted(gemm.fn(rows, right, False, True), left).reshape(a.meta.shape)
    if wb:
        gb = fitted(gemm.fn(left, rows, True, False), right).reshape(b.meta.shape)
    return ga, gb


def product_through(call):
    """A product of operands of any rank as a contraction."""
    a, b = (call.args[p] for p in ("input", _second(call)))
    return _call(call, *matrices(a, b, call.outputs[0]))


def _second(call):
    return next(name for name in ("other", "mat2", "vec", "tensor") if name in call.args)


@kernel_op("input: T, other: T")
class matmul:
    """Matrix product with PyTorch's rank rules: vectors are rows or columns, batch dims broadcast.

    >>> lampion.matmul(lampion.ones(2, 3), lampion.ones(3)).shape
    Size([2])
    """

    samples = """
        f(2, 3), f(3, 4)
        f(3), f(3)
        f(2, 3).transposed, f(3)
        f(3), f(2, 3, 4)
        f(2, 1, 3, 2), f(3, 2, 4).strided
        f(2, 0), f(0, 3)
        f(70, 40), f(40, 30)
        i(2, 3), i(3, 2)
        c(2, 3), c(3, 2)
    """
    linear = ("input", "other")
    where = ("", "linalg")
    method = True
    save = ("input", "other")
    through = product_through
    vjp = product_vjp
    batch = batch_rules.product

    def meta(input, other):
        a, b = input, other
        if not a.ndim or not b.ndim:
            raise RuntimeError("both arguments to matmul need to be at least 1D, but they are "
                               f"{a.ndim}D and {b.ndim}D")
        check_dtypes("matmul", a, b)
        k = b.shape[-2] if b.ndim > 1 else b.shape[0]
        if a.shape[-1] != k:
            raise RuntimeError(_mismatch(a, b))
        try:
            batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except RuntimeError as e:
            raise RuntimeError(f"matmul: {e} (shapes {list(a.shape)} and "
                               f"{list(b.shape)})") from None
        rows = a.shape[-2:-1] if a.ndim > 1 else ()
        columns = b.shape[-1:] if b.ndim > 1 else ()
        return [(a.dtype, (*batch, *rows, *columns))]


def _mismatch(a, b):
    if a.ndim == 1 and b.ndim == 1:
        n, k = a.shape[0], b.shape[0]
        return (f"inconsistent tensor size, expected tensor [{n}] and src [{k}] to have the same "
                f"number of elements, but got {n} and {k} elements respectively")
    if b.ndim == 1:
        return f"size mismatch, got input ({a.shape[-2]}), mat ({_by(a.shape)}), vec ({b.shape[0]})"
    rows = a.shape if a.ndim > 1 else (1, *a.shape)
    if a.ndim > 2 and b.ndim > 2:
        return (f"Expected size for first two dimensions of batch2 tensor to be: "
                f"[{b.shape[0]}, {a.shape[-1]}] but got: [{b.shape[0]}, {b.shape[-2]}].")
    if a.ndim > 2:
        count = 1
        for n in a.shape[:-1]:
            count *= n
        rows = (count, a.shape[-1])
    return f"mat1 and mat2 shapes cannot be multiplied ({_by(rows)} and {_by(b.shape)})"


def vjp_as(second):
    """`product_vjp` for an op whose second operand has another name."""
    def vjp(ctx, g):
        return product_vjp(_Renamed(ctx, second), g)

    return vjp


class _Renamed:
    """A Context in which an argument is called "other"."""

    def __init__(self, ctx, name):
        self.ctx, self.input, self.other, self.name = ctx, ctx.input, getattr(ctx, name), name

    def needs(self, name):
        return self.ctx.needs(self.name if name == "other" else name)


@kernel_op("input: T, mat2: T")
class mm:
    """Product of two matrices (n, m) and (m, p). RuntimeError unless both are 2-d."""

    samples = """
        f(2, 3), f(3, 4)
        f(3, 5).transposed, f(5, 2).strided
        f(2, 0), f(0, 3)
        i(2, 3), i(3, 2)
        c(2, 3), c(3, 2).transposed
    """
    linear = ("input", "mat2")
    method = True
    save = ("input", "mat2")
    through = product_through
    vjp = vjp_as("mat2")
    batch = batch_rules.product

    def meta(input, mat2):
        for name, m in (("self", input), ("mat2", mat2)):
            if m.ndim != 2:
                raise RuntimeError(f"{name} must be a matrix")
        check_dtypes("mm", input, mat2)
        if input.shape[1] != mat2.shape[0]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied "
                               f"({_by(input.shape)} and {_by(mat2.shape)})")
        return [(input.dtype, (input.shape[0], mat2.shape[1]))]


@kernel_op("input: T, mat2: T")
class bmm:
    """Products of two batches of matrices (b, n, m) and (b, m, p)."""

    samples = """
        f(2, 3, 4), f(2, 4, 2)
        f(2, 3, 4).transposed, f(2, 4, 2).strided
        f(0, 3, 4), f(0, 4, 2)
    """
    linear = ("input", "mat2")
    method = True
    save = ("input", "mat2")
    through = product_through
    vjp = vjp_as("mat2")
    batch = batch_rules.product

    def meta(input, mat2):
        for name, m in (("batch1", input), ("batch2", mat2)):
            if m.ndim != 3:
                raise RuntimeError(f"{name} must be a 3D tensor")
        check_dtypes("bmm", input, mat2)
        if mat2.shape[:2] != (input.shape[0], input.shape[2]):
            raise RuntimeError(
                "Expected size for first two dimensions of batch2 tensor to be: "
                f"[{input.shape[0]}, {input.shape[2]}] but got: {list(mat2.shape[:2])}.")
        return [(input.dtype, (*input.shape[:2], mat2.shape[2]))]


@kernel_op("input: T, vec: T")
class mv:
    """Product of a matrix (n, m) and a vector (m,)."""

    samples = """
        f(2, 3), f(3)
        f(3, 4).transposed, f(4).strided
        f(0, 3), f(3)
    """
    linear = ("input", "vec")
    method = True
    save = ("input", "vec")
    through = product_through
    vjp = vjp_as("vec")
    batch = batch_rules.product

    def meta(input, vec):
        if input.ndim != 2 or vec.ndim != 1:
            raise RuntimeError(f"vector + matrix @ vector expected, got {vec.ndim}, {input.ndim}, "
                               f"{vec.ndim}")
        check_dtypes("mv", input, vec)
        if input.shape[1] != vec.shape[0]:
            raise RuntimeError(_mismatch(input, vec))
        return [(input.dtype, input.shape[:1])]


@kernel_op("input: T, tensor: T")
class dot:
    """Sum of the products of two vectors of one length (no conjugation: see vdot)."""

    samples = """
        f(3), f(3)
        f(130).strided, f(130)
        i(3), i(3)
        c(3), c(3)
        f(0), f(0)
    """
    linear = ("input", "tensor")
    method = True
    save = ("input", "tensor")
    through = product_through
    vjp = vjp_as("tensor")
    batch = batch_rules.product

    def meta(input, tensor):
        if input.ndim != 1 or tensor.ndim != 1:
            raise RuntimeError(f"1D tensors expected, but got {input.ndim}D and {tensor.ndim}D "
                               "tensors")
        check_dtypes("dot", input, tensor)
        if input.shape != tensor.shape:
            raise RuntimeError(_mismatch(input, tensor))
        return [(input.dtype, ())]


@kernel_op("input: T, weight: T, bias: T? = None")
class linear:
    """input @ weight.T + bias: (..., in), (out, in) and (out,) give (..., out).

    >>> lampion.nn.functional.linear(lampion.ones(2, 3), lampion.ones(4, 3)).shape
    Size([2, 4])
    """

    samples = """
        f(2, 3), f(4, 3)
        f(2, 5, 3).transposed, f(4, 3).transposed, f(4)
        f(3), f(4, 3), f(4)
        f(2, 3), f(3)
        f(0, 3), f(2, 3), f(2)
    """
    linear = ("input bias", "weight")
    where = ("nn.functional",)
    save = ("input", "weight")
    batch = batch_rules.linear

    def meta(input, weight, bias):
        if not input.ndim:
            raise RuntimeError("both arguments to linear need to be at least 1D, but they are "
                               f"0D and {weight.ndim}D")
        check_dtypes("linear", input, weight)
        if weight.ndim > 2 or not weight.ndim:
            raise RuntimeError("linear: weight must be a matrix or a vector, not "
                               f"{weight.ndim}-d")
        if input.shape[-1] != weight.shape[-1]:
            turned = _as(weight, weight.shape[::-1], weight.strides[::-1])
            raise RuntimeError(_mismatch(input, turned))
        shape = (*input.shape[:-1], *weight.shape[:-1])
        if bias is not None:
            if bias.dtype is not input.dtype:
                raise RuntimeError("linear: expected input and bias to have the same dtype, but "
                                   f"got {input.dtype!r} and {bias.dtype!r}")
            if bias.ndim > 1 or (bias.ndim and bias.shape[0] not in (1, *shape[-1:])):
                raise RuntimeError(
                    f"linear: the bias {list(bias.shape)} does not fit the result {list(shape)}")
        return [(input.dtype, shape)]

    def through(call):
        w, bias = call.weight, call.bias
        right = _as(w, w.shape[::-1], w.strides[::-1])
        a, b, out = matrices(call.input, right, call.outputs[0])
        if bias is not None:
            n = out.shape[-1]
            step = bias.strides[0] if bias.ndim and bias.shape[0] == n else 0
            bias = _as(bias, (n,), (step,))
        return _call(call, a, b, out, bias)

    def vjp(ctx, g):
        x, w = ctx.input, ctx.weight
        gx = gw = gb = None
        m = ctx.meta("bias")
        if w.meta.ndim == 1:
            gx = g.unsqueeze(-1) * conj(w) if ctx.needs("input") else None
            gw = (fitted(g.unsqueeze(-1) * conj(x), w)) if ctx.needs("weight") else None
        else:
            flat = x.meta.ndim == 2
            rows = g if flat else g.reshape(-1, g.meta.shape[-1])
            if ctx.needs("input"):
                gx = gemm.fn(rows, conj(w), False, False)
                gx = gx if flat else gx.reshape(x.meta.shape)
            if ctx.needs("weight"):
                x = x if flat else x.reshape(-1, x.meta.shape[-1])
                gw = gemm.fn(rows, conj(x), True, False)
        if m is not None:
            gb = fitted(g, _Shaped(m)) if ctx.needs("bias") else None
            return gx, gw, gb
        return gx, gw, None


class _Shaped:
    """Stands for a tensor where only the meta matters."""

    def __init__(self, m):
        self.meta = m

