"""vmap against a Python loop over the examples."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import lampion
from lampion.func import grad, vmap
from lampion.nn import functional as F
from lampion.ops.registry import kernel_op, namespace


def rand(*shape):
    return lampion.randn(*shape, dtype=lampion.float64)


def close(a, b, tol=1e-9):
    assert tuple(a.shape) == tuple(b.shape) and a.dtype is b.dtype
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), tol, tol)


def loop(f, args, dims):
    """The examples' results, stacked."""
    size = next(a.shape[d] for a, d in zip(args, dims) if d is not None)
    rows = [f(*[a if d is None else a.select(d, k) for a, d in zip(args, dims)])
            for k in range(size)]
    if isinstance(rows[0], tuple):
        return tuple(lampion.stack(list(c)) for c in zip(*rows))
    return lampion.stack(rows)


def same(f, *args, dims=None):
    """vmap equals the loop, for all places of the batch dim and for each argument alone."""
    cases = [dims] if dims else [(0,) * len(args)]
    if dims is None and len(args) > 1:
        cases += [tuple(0 if j == k else None for j in range(len(args)))
                  for k in range(len(args))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no call runs example by example
        for case in cases:
            given = [a if d is not None else a[0] for a, d in zip(args, case)]
            want = loop(f, given, case)
            for place in (0, -1) if case == cases[0] and dims is None else (0,):
                moved = [a.movedim(0, place) if d == 0 else a for a, d in zip(given, case)]
                got = vmap(f, tuple(place if d == 0 else d for d in case))(*moved)
                for g, w in zip(got, want) if isinstance(want, tuple) else [(got, want)]:
                    close(g, w)


UNARY = [
    lambda x: x.sin() * 2 + 1, lambda x: x > 0, lambda x: x.sum(), lambda x: x.sum(0),
    lambda x: x.mean(-1, True), lambda x: x.std(), lambda x: x.var(0), lambda x: x.amax(1),
    lambda x: x.max(0), lambda x: x.max(), lambda x: x.argmax(), lambda x: x.argmin(1, True),
    lambda x: (x > 0).any(0), lambda x: (x > 0).all(), lambda x: x.logsumexp(1),
    lambda x: x.cumsum(0), lambda x: x.cumprod(-1), lambda x: x.cummax(1),
    lambda x: x.softmax(0), lambda x: x.log_softmax(1), lambda x: x.norm(), lambda x: x.norm(3, 0),
    lambda x: x.prod(), lambda x: x.prod(1), lambda x: x.sort(0), lambda x: x.topk(2, 0),
    lambda x: x.kthvalue(2, 1), lambda x: x.median(1), lambda x: x.t(), lambda x: x.reshape(-1),
    lambda x: x.t().reshape(6, 2), lambda x: x[1], lambda x: x[..., 1:], lambda x: x[:, None, ::2],
    lambda x: x.transpose(0, 1).contiguous(), lambda x: x.permute(1, 0), lambda x: x.unsqueeze(-1),
    lambda x: x[:1].squeeze(0), lambda x: x.expand(2, 4, 3), lambda x: x.diagonal(),
    lambda x: x.unfold(0, 2, 1), lambda x: x.flip(0), lambda x: x.roll(1), lambda x: x.roll(1, 0),
    lambda x: x.tril(), lambda x: x.repeat(2, 1), lambda x: lampion.cat([x, x * 2], 1),
    lambda x: lampion.stack([x, lampion.ones(4, 3, dtype=x.dtype)], -1),
    lambda x: x.unbind(0), lambda x: x.split(2), lambda x: x.chunk(3, 1),
    lambda x: F.pad(x, (1, 2), value=2.0), lambda x: F.pad(x[None], (1, 1), "reflect"),
    lambda x: x.matmul(x.t()), lambda x: x @ x[0], lambda x: x.as_strided((2, 2), (1, 3)),
    lambda x: x[lampion.tensor([0, 2, 2])], lambda x: x[:, lampion.tensor([1, 0])],
    lambda x: x[lampion.tensor([[0], [2]]), lampion.tensor([1, 0])],
    lambda x: x.index_select(1, lampion.tensor([1, 1])),
    lambda x: x.gather(1, lampion.tensor([[0], [1], [2], [0]])),
    lambda x: x.take(lampion.tensor([0, 5])), lambda x: x.clone().fill_(3),
    lambda x: lampion.zeros_like(x), lambda x: x.new_ones(2), lambda x: lampion.ones(2),
    lambda x: x.float(), lambda x: x.long(), lambda x: lampion.where(x > 0, x, 0.0),
    lambda x: F.layer_norm(x, (3,)), lambda x: F.normalize(x), lambda x: x.masked_fill(x > 0, 1.0),
    lambda x: F.max_pool1d(x, 2), lambda x: F.avg_pool1d(x, 2), lambda x: lampion.fft.fft(x).real,
    lambda x: F.one_hot(x.argmax(1), 3), lambda x: lampion.einsum("ij,ik->jk", x, x),
    lambda x: lampion.linalg.inv(x[:3]), lambda x: lampion.linalg.det(x[:3]),
    lambda x: F.interpolate(x[None], scale_factor=2), lambda x: lampion.bucketize(x, x.new_ones(1)),
    lambda x: F.gelu(x), lambda x: x.clamp(-1, 1), lambda x: x.scatter_add(
        1, lampion.tensor([[0], [1], [2], [0]]), lampion.ones(4, 1, dtype=x.dtype)),
]


@pytest.mark.parametrize("k", range(len(UNARY)))
def test_one_argument(k):
    same(UNARY[k], rand(5, 4, 3))


@pytest.mark.parametrize("fn", [
    lambda x: x.sum(), lambda x: x + 1, lambda x: x.cumsum(0), lambda x: x.softmax(0),
    lambda x: x.max(), lambda x: x.argmax(), lambda x: x.sort()[0], lambda x: x.unsqueeze(0),
    lambda x: x.expand(3), lambda x: x.reshape(1, 1), lambda x: x.norm(), lambda x: x.flip(0)])
def test_numbers(fn):
    same(fn, rand(5))


BINARY = [
    (lambda a, b: a + b * 2, (3,), (2, 3)), (lambda a, b: a - b, (), (2,)),
    (lambda a, b: a * b, (3, 1), (2,)), (lampion.dot, (3,), (3,)), (lampion.mv, (2, 3), (3,)),
    (lampion.mm, (2, 3), (3, 4)), (lampion.bmm, (2, 2, 3), (2, 3, 1)),
    (lampion.matmul, (3,), (2, 3, 4)), (lampion.matmul, (2, 1, 3, 4), (5, 4, 2)),
    (lampion.matmul, (2, 3), (3,)), (lampion.outer, (3,), (2,)), (lampion.maximum, (3,), (3,)),
    (F.linear, (3,), (2, 3)), (F.linear, (2, 4, 3), (2, 3)), (lampion.atan2, (3,), (3,)),
    (lambda a, b: lampion.cat([a, b]), (2, 3), (1, 3)),
    (lambda a, b: lampion.stack([a, b], 1), (3,), (3,)), (F.mse_loss, (3,), (3,)),
    (lambda a, b: lampion.einsum("ij,jk->ki", a, b), (2, 3), (3, 4)),
    (lambda a, b: F.conv2d(a, b, padding=1), (2, 3, 5, 5), (4, 3, 3, 3)),
    (lambda a, b: F.conv2d(a, b, stride=2, groups=2), (4, 5, 5), (4, 2, 2, 2)),
    (lambda a, b: F.conv1d(a, b, dilation=2), (2, 3, 7), (4, 3, 2)),
    (lambda a, b: F.conv_transpose2d(a, b, stride=2), (1, 2, 3, 3), (2, 3, 2, 2)),
    (lambda a, b: F.layer_norm(a, (3,), b), (2, 3), (3,)),
    (lambda a, b: F.batch_norm(a, None, None, b, None, True), (4, 3, 2), (3,)),
    (lambda a, b: F.cosine_similarity(a, b, 0), (3,), (3,)),
    (lambda a, b: lampion.linalg.solve(a, b), (3, 3), (3, 2)),
    (lambda a, b: lampion.lerp(a, b, 0.3), (3,), (3,)),
    (lambda a, b: a.where(b > 0, b), (3,), (3,)), (lambda a, b: a.dist(b), (3,), (3,)),
    (lambda a, b: lampion.searchsorted(a.sort()[0], b), (5,), (2, 3)),
    (lambda a, b: F.embedding(b.abs().long() % 3, a), (3, 2), (4,)),
    (lambda a, b: a.index_put((lampion.tensor([0, 2]),), b), (3,), (2,)),
    (lambda a, b: a.index_add(0, lampion.tensor([0, 0]), b), (3, 2), (2, 2)),
    (lambda a, b: a.slice_scatter(b, 0, 1, 3), (4, 2), (2, 2)),
    (lambda a, b: F.cross_entropy(a, (b.abs() * 3).long() % 4), (5, 4), (5,)),
    (lambda a, b: F.cross_entropy(a, (b.abs() * 3).long() % 4, reduction="none"), (5, 4), (5,)),
    (lambda a, b: F.nll_loss(a, (b.abs() * 3).long() % 4, reduction="sum"), (5, 4), (5,)),
    (lambda a, b: F.cross_entropy(a, (b.abs() * 3).long() % 4), (4,), ()),
]


@pytest.mark.parametrize("k", range(len(BINARY)))
def test_two_arguments(k):
    fn, a, b = BINARY[k]
    same(fn, rand(3, *a), rand(3, *b))


@pytest.mark.parametrize("fn", [
    lambda x, i: x[i], lambda x, i: x[:, i], lambda x, i: x[i, i], lambda x, i: x[i, :, None],
    lambda x, i: x.index_select(1, i), lambda x, i: x.take(i), lambda x, i: x[i[:, None], i],
    lambda x, i: x.gather(0, i[None, :3].expand(2, -1)), lambda x, i: x[None][:, i, :, None],
    lambda x, i: x.index_put((i,), x[i] * 2), lambda x, i: x[None][:, :, None][0, i, 0],
    lambda x, i: x.index_add(1, i, x[:, i]), lambda x, i: x.index_fill(0, i, 1.0),
    lambda x, i: F.embedding(i, x), lambda x, i: x.scatter(0, i[:3][None], x[:1] * 3),
    lambda x, i: x.index_put((i, i.flip(0)), lampion.tensor(1.0, dtype=x.dtype), True)])
def test_indices(fn):
    i = lampion.tensor([[0, 1, 1, 2], [2, 2, 0, 1], [1, 0, 2, 2]])
    same(fn, rand(3, 3, 3), i)


def test_three_weights():
    same(lambda x, w, b: F.conv2d(x, w, b), rand(2, 1, 2, 4, 4), rand(2, 3, 2, 2, 2), rand(2, 3))
    same(F.linear, rand(2, 4, 3), rand(2, 2, 3), rand(2, 2))
    same(lambda x, w, b: F.layer_norm(x, (3,), w, b), rand(2, 4, 3), rand(2, 3), rand(2, 3))
    same(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), *[rand(2, 2, 4, 3)] * 3)
    same(lambda x, i, v: x.index_put((slice_all(x), i), v, True), rand(2, 1, 3),
         lampion.tensor([[0, 1], [2, 2]]), rand(2, 2))


def slice_all(x):
    return lampion.zeros(2, dtype=lampion.int64)


# ---------------------------------------------------------------- dtypes

def test_promotion_is_that_of_examples():
    number, many = lampion.ones(3, dtype=lampion.float64), lampion.ones(3, 2)
    assert vmap(lambda a, b: a + b)(number, many).dtype is lampion.float32
    assert vmap(lambda a, b: a * b)(lampion.ones(3, dtype=lampion.int64), many).dtype \
        is lampion.float32
    assert vmap(lambda a: a + lampion.tensor(1.0, dtype=lampion.float64))(
        lampion.ones(3)).dtype is lampion.float64
    assert vmap(lambda a: a + lampion.tensor(1.0, dtype=lampion.float64))(
        lampion.ones(3, 2)).dtype is lampion.float32
    assert vmap(lambda a: a / 2)(lampion.ones(3, dtype=lampion.int64)).dtype is lampion.float32


# ---------------------------------------------------------------- dims and trees

def test_in_and_out_dims():
    x = rand(2, 3, 4)
    close(vmap(lambda x: x * 2, 1)(x), x.movedim(1, 0) * 2)
    close(vmap(lambda x: x * 2, -1, -1)(x), x * 2)
    close(vmap(lambda x: x * 2, 1, 1)(x), x * 2)
    close(vmap(lambda x: lampion.ones(2, dtype=x.dtype), out_dims=1)(x), x.new_ones(2, 2))
    a, b = vmap(lambda x: (x, x.sum()), out_dims=(1, 0))(x)
    close(a, x.movedim(0, 1))
    close(b, x.sum((1, 2)))
    out = vmap(lambda t, k: {"s": t["a"] * t["b"][0] + k}, ({"a": 0, "b": None}, None))(
        {"a": x, "b": [rand(4)]}, 1)
    assert out["s"].shape == x.shape
    x, n = vmap(lambda x: (x, 7), out_dims=(0, None))(x)
    assert n == 7


def test_nested():
    a, b = rand(2, 3), rand(4, 3)
    close(vmap(vmap(lampion.dot, (None, 0)), (0, None))(a, b), a @ b.t())
    close(vmap(vmap(lambda x, y: x * y, (0, None)), (None, 0))(a[0], b[0]),
          b[0][:, None] * a[0][None])
    close(vmap(vmap(vmap(lambda x: x.sum())))(rand(2, 3, 4, 5) * 0), rand(2, 3, 4) * 0)
    x = rand(2, 3, 4)
    close(vmap(vmap(lambda x: x.cumsum(0)[1:].flip(0)))(x), x.cumsum(2)[..., 1:].flip(2))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9])
def test_chunks(chunk):
    x, w = rand(5, 3), rand(3)
    a, b = vmap(lambda x, w: (x * w, (x @ w)), (0, None), (1, 0), chunk_size=chunk)(x, w)
    close(a, (x * w).t())
    close(b, x @ w)


def f(x):
    return x


@pytest.mark.parametrize("call, error, message", [
    (lambda x: vmap(f, [0])(x), ValueError, "expected `in_dims` to be int or"),
    (lambda x: vmap(f)(), ValueError, "got no inputs"),
    (lambda x: vmap(f, (0, 0))(x), ValueError, "not compatible with the structure of `inputs`"),
    (lambda x: vmap(f, ("a",))(x), ValueError, "in_dim must be either an integer"),
    (lambda x: vmap(f, (0,))(1.0), ValueError, "cannot vmap over non-Tensor"),
    (lambda x: vmap(f, 2)(x), ValueError, "dimensionality 2"),
    (lambda x: vmap(f, (None,))(x), ValueError, "at least one Tensor"),
    (lambda x: vmap(lambda a, b: a)(x, x[:1]), ValueError, "same size in the mapped"),
    (lambda x: vmap(f, out_dims=(0, 0))(x), ValueError, "structure of `outputs`"),
    (lambda x: vmap(f, out_dims="a")(x), ValueError, "must be an int, None or"),
    (lambda x: vmap(f, out_dims=None)(x), ValueError, "when out_dim is None"),
    (lambda x: vmap(lambda x: 1)(x), ValueError, "must only return Tensors"),
    (lambda x: vmap(f, randomness="any"), RuntimeError, "Only allowed values for randomness"),
    (lambda x: vmap(f, chunk_size=0), ValueError, "chunk_size"),
    (lambda x: vmap(lambda x: x.sum().item())(x), RuntimeError, r"calling .item\(\)"),
    (lambda x: vmap(lambda x: x if x.sum() > 0 else -x)(x), RuntimeError, "control flow"),
    (lambda x: vmap(lambda x: x.nonzero())(x), RuntimeError, "dynamic shape"),
    (lambda x: vmap(lambda x: x[x > 0])(x), RuntimeError, "dynamic shape"),
    (lambda x: vmap(lambda x: x.numpy())(x), RuntimeError, "numpy"),
    (lambda x: vmap(lambda x: lampion.zeros(3).add_(x))(x), RuntimeError, "inplace arithmetic"),
    (lambda x: vmap(lambda x: x.as_strided((4,), (1,)))(x), RuntimeError, "outside of one example"),
    (lambda x: vmap(lambda x: lampion.rand(2))(x), RuntimeError, "randomness error mode"),
    (lambda x: vmap(lambda x: F.dropout(x))(x), RuntimeError, "randomness error mode"),
])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(rand(2, 3))


def test_leaked_tensors_are_refused():
    kept = []
    vmap(lambda x: (kept.append(x), x)[1])(rand(2, 3))
    with pytest.raises(RuntimeError, match="after the function that it was made in has returned"):
        kept[0] + 1


def test_empty_batches():
    assert vmap(lambda x: x.sum())(rand(0, 3)).shape == (0,)
    assert vmap(lambda x: (x @ x.t()).softmax(0))(rand(0, 3, 2)).shape == (0, 3, 3)


def test_printing():
    seen = []
    vmap(lambda x: (seen.append(repr(x)), x)[1])(lampion.tensor([1.0, 2.0]))
    assert "lvl=1" in seen[0] and "2." in seen[0]


# ---------------------------------------------------------------- writes

def test_in_place():
    def f(x, i):
        y = x.clone()
        y += 1
        y[1:].mul_(2)
        y[0] = x[2] * 3
        y[i] = 7.0
        z = x.new_zeros(2, 3)
        z[1] = y
        z[0].copy_(x)
        return z.add_(x[0]).relu_()

    i = lampion.tensor([0, 2, 1, 1]).reshape(4, 1)
    same(f, rand(4, 3), i, dims=(0, 0))
    same(f, rand(4, 3), i[0], dims=(0, None))


def test_inputs_can_be_written():
    x = rand(2, 3)
    want = x * 2
    vmap(lambda x: x.mul_(2))(x)
    close(x, want)


def test_gradients_through_writes():
    w = rand(3)

    def f(w, x):
        y = x.clone()
        y[0] = w[0]
        y.mul_(w)
        return (y ** 2).sum()

    x = rand(4, 3)
    close(grad(lambda w: vmap(f, (None, 0))(w, x).sum())(w),
          grad(lambda w: sum(f(w, r) for r in x))(w))
    close(vmap(grad(f), (None, 0))(w, x), loop(grad(f), (w, x), (None, 0)))


@pytest.mark.parametrize("fn", [
    lambda x: x.cumprod(0).sum(), lambda x: (x @ x.t()).softmax(1)[0].sum(), lambda x: x.norm(),
    lambda x: F.layer_norm(x, (3,)).exp().sum(), lambda x: x[1:].t().reshape(-1)[::2].sum(),
    lambda x: x.max(1)[0].sum(), lambda x: x.sort(0)[0][1].sum(), lambda x: x.std(),
    lambda x: F.conv1d(x[None], x[:2, :2].expand(1, 2, 2).repeat(1, 2, 1)).exp().sum(),
    lambda x: F.cross_entropy(x, lampion.tensor([0, 1, 2, 0])), lambda x: x.unfold(0, 2, 1).sum(),
    lambda x: F.max_pool1d(x, 2).exp().sum(), lambda x: x[lampion.tensor([0, 0, 1])].exp().sum(),
    lambda x: x.as_strided((3, 2), (1, 1)).exp().sum(), lambda x: x.diagonal().prod(),
    lambda x: F.pad(x[None], (2, 1), "reflect").exp().sum(), lambda x: x.logsumexp(0).prod()])
def test_gradients(fn):
    x = rand(3, 4, 3)
    want = loop(grad(fn), (x,), (0,))
    close(vmap(grad(fn))(x), want)
    close(grad(lambda x: vmap(fn)(x).sum())(x), want)
    second = loop(lambda x: grad(lambda x: (grad(fn)(x) ** 2).sum())(x), (x,), (0,))
    close(vmap(lambda x: grad(lambda x: (grad(fn)(x) ** 2).sum())(x))(x), second)
    close(grad(lambda x: (vmap(grad(fn))(x) ** 2).sum())(x), second)


# ---------------------------------------------------------------- randomness

def test_same_and_different():
    x = lampion.zeros(4, 3)
    draws = {
        "rand": lambda x: lampion.rand(100), "randn": lambda x: lampion.randn(100),
        "like": lambda x: lampion.rand_like(x.expand(50, 3)),
        "dropout": lambda x: F.dropout(x.expand(50, 3) + 1),
        "in place": lambda x: x.new_zeros(50).uniform_(),
        "randperm": lambda x: lampion.randperm(50),
        "randint": lambda x: lampion.randint(1000, (50,)),
        "bernoulli": lambda x: lampion.bernoulli(x.expand(50, 3) + 0.5),
        "poisson": lambda x: lampion.poisson(x.expand(50, 3) + 5),
        "fixed": lambda x: lampion.bernoulli(lampion.full((50,), 0.5)),
        "multinomial": lambda x: lampion.multinomial(lampion.ones(50), 20, True),
        "normal": lambda x: lampion.normal(x.expand(50, 3), 1.0),
    }
    for name, fn in draws.items():
        one = vmap(fn, randomness="same")(x)
        assert all((one[k] == one[0]).all() for k in range(4)), name
        many = vmap(fn, randomness="different")(x)
        assert one.shape == many.shape, name
        assert all((many[k] != many[0]).any() for k in range(1, 4)), name
        with pytest.raises(RuntimeError, match="randomness error mode"):
            vmap(fn)(x)


def test_dropout_drops_what_its_gradient_drops():
    x = rand(3, 50)
    y, g = vmap(lambda x: (lambda v: (v[1], v[0]))(
        lampion.func.grad_and_value(lambda x: F.dropout(x).sum())(x)), randomness="different")(x)
    close(y, (x * g).sum(1))


def test_seeds_give_the_same_again():
    def run():
        lampion.manual_seed(3)
        return vmap(lambda x: lampion.rand(5), randomness="different")(lampion.ones(2))

    close(run(), run())


# ---------------------------------------------------------------- ops without a rule, and theirs

def test_ops_without_a_rule_say_so_once():
    with namespace("vmaptest"):
        @kernel_op("input: T")
        class halved:
            """Half of it."""

            def meta(input):
                return [(input.dtype, input.shape)]

            def lower(call):
                from lampion.runtime.lowering import Nest

                n = Nest("halved", call.input.shape)
                o, a = n.output(call.outputs[0], call.outputs[0].strides), n.input(call.input)
                n.start()
                n.store(o, a() * 0.5)
                return n.program()

            def vjp(ctx, g):
                return (g / 2,)

    fn = lampion.ops.vmaptest.halved
    x = rand(3, 2)
    with pytest.warns(UserWarning, match="performance drop"):
        close(vmap(fn)(x), x / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(vmap(fn, 1, 1)(x), x / 2)
        close(vmap(grad(lambda x: fn(x).sum()))(x), x * 0 + 0.5)
    assert vmap(fn)(rand(0, 2)).shape == (0, 2)


def test_rules_of_op_authors():
    seen = []
    with namespace("vmaptest2"):
        @kernel_op("input: T, dim")
        class summed:
            """The sum over a dim."""

            def batch(b, input, dim):
                seen.append((b.size, b.has("input"), b.ndim("input")))
                return b.full("input").sum(dim + 1)

            def meta(input, dim):
                return [(input.dtype, input.shape[:dim] + input.shape[dim + 1:])]

            def compose(input, dim):
                return input.sum(dim)

    x = rand(3, 2, 4)
    close(vmap(lambda x: lampion.ops.vmaptest2.summed(x, 1))(x), x.sum(2))
    assert seen == [(3, True, 2)]


def test_custom_functions():
    class Scale(lampion.autograd.Function):
        @staticmethod
        def forward(x, k):
            return x * k

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.k = inputs[1]

        @staticmethod
        def backward(ctx, g):
            return g * ctx.k, None

        @staticmethod
        def vmap(info, in_dims, x, k):
            assert info.batch_size == 3 and in_dims == (0, None)
            return Scale.apply(x, k), 0

    class Made(Scale):
        generate_vmap_rule = True
        vmap = lampion.autograd.Function.vmap

    class Neither(Scale):
        vmap = lampion.autograd.Function.vmap

    x = rand(3, 2)
    for cls in (Scale, Made):
        close(vmap(lambda x: cls.apply(x, 2.0))(x), x * 2)
        close(vmap(grad(lambda x: cls.apply(x, 2.0).sum()))(x), x * 0 + 2)
        close(grad(lambda x: vmap(lambda x: cls.apply(x, 2.0))(x).sum())(x), x * 0 + 2)
    with pytest.raises(RuntimeError, match="does not have vmap support"):
        vmap(lambda x: Neither.apply(x, 2.0))(x)


# ---------------------------------------------------------------- one example at a time

def test_values_that_the_host_reads():
    x = lampion.tensor([[0, 1, 1], [2, 1, 0]])
    assert vmap(lambda x: lampion.bincount(x, minlength=4))(x).tolist() == [[1, 2, 0, 0],
                                                                          [1, 1, 1, 0]]
    assert vmap(vmap(lampion.bincount))(x.expand(2, 2, 3)[:, :1]).tolist() == [[[1, 2]]] * 2
    ends = vmap(lambda a, b: lampion.linspace(a, b, 3))(lampion.tensor([0.0, 1]),
                                                        lampion.tensor([1.0, 4]))
    assert ends.tolist() == [[0, 0.5, 1], [1, 2.5, 4]]
    hist, edges = vmap(lambda x: lampion.histogram(x, 2))(lampion.tensor([[0.0, 1, 2], [0, 4, 4]]))
    assert hist.tolist() == [[1, 2], [1, 2]] and edges.tolist() == [[0, 1, 2], [0, 2, 4]]
    with pytest.raises(RuntimeError, match=r"differ in shape: \[2\], \[5\]"):
        vmap(lampion.bincount)(lampion.tensor([[0, 1], [4, 0]]))
    with pytest.raises(RuntimeError, match="empty batch"):
        vmap(lampion.bincount)(x[:0])


def test_gradients_of_examples_that_the_host_reads():
    weight, index = rand(2, 5, 3), lampion.tensor([[0, 1, 2], [4, 1, 4]])
    starts = lampion.tensor([[0, 1], [0, 2]])

    def loss(weight, index, starts):
        return (F.embedding_bag(index, weight, starts) ** 3).sum()

    def slope(weight, index, starts):
        return grad(loss)(weight, index, starts).pow(2).sum()

    for f in (loss, slope):  # order 1, order 2
        got = vmap(grad(f))(weight, index, starts)
        close(got, lampion.stack([grad(f)(weight[k], index[k], starts[k]) for k in (0, 1)]))
    shared = vmap(grad(loss), in_dims=(None, 0, 0))(weight[0], index, starts)
    close(shared, lampion.stack([grad(loss)(weight[0], index[k], starts[k]) for k in (0, 1)]))
    w = weight.clone().requires_grad_()
    vmap(loss)(w, index, starts).sum().backward()
    close(w.grad, vmap(grad(loss))(weight, index, starts))


def test_cov_with_weights_of_each_example():
    x, w = rand(2, 3, 5), rand(2, 5).abs()
    got = vmap(lambda x, w: lampion.cov(x, aweights=w))(x, w)
    close(got, lampion.stack([lampion.cov(x[k], aweights=w[k]) for k in (0, 1)]))


# ---------------------------------------------------------------- in autograd

def test_batched_grad():
    x = rand(3).requires_grad_()
    y, g = x.cumprod(0), rand(5, 3)
    got, = lampion.autograd.grad(y, x, g, retain_graph=True, is_grads_batched=True)
    close(got, lampion.stack([lampion.autograd.grad(y, x, r, retain_graph=True)[0] for r in g]))
    assert lampion.autograd.gradcheck(lambda x: x.cumprod(0), (x,), check_batched_grad=True,
                                      check_batched_forward_grad=True)


@pytest.mark.parametrize("options", [{}, {"strategy": "forward-mode"}])
def test_vectorized_jacobians(options):
    from lampion.autograd.functional import hessian, jacobian

    x, y = rand(3), rand(2)

    def f(x, y):
        return x.cumsum(0) * y.sum(), y.exp()

    for a, b in zip(jacobian(f, (x, y), vectorize=True, **options), jacobian(f, (x, y))):
        for g, w in zip(a, b):
            close(g, w)
    outer = {"outer_jacobian_strategy": "forward-mode"} if options else {}
    h = hessian(lambda x: (x ** 3).sum() * x[0], x, vectorize=True, **outer)
    close(h, hessian(lambda x: (x ** 3).sum() * x[0], x))
