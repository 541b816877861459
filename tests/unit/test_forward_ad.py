"""Forward mode against closed forms, finite differences and reverse mode."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import lampion
from lampion.autograd import forward_ad as fw
from lampion.autograd import grad, gradcheck, gradgradcheck
from lampion.nn import functional as F


def rand(*shape, complex=False):
    dtype = lampion.complex128 if complex else lampion.float64
    return lampion.randn(*shape, dtype=dtype)


def jvp(f, x, v):
    """(value, tangent) of f along v."""
    with fw.dual_level():
        out = fw.unpack_dual(f(fw.make_dual(x, v)))
        return out.primal, out.tangent


def close(a, b, tol=1e-9):
    assert tuple(a.shape) == tuple(b.shape)
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), tol, tol)


# ---------------------------------------------------------------- the public functions

def test_make_and_unpack():
    x, v = rand(3), rand(3)
    with fw.dual_level():
        d = fw.make_dual(x, v)
        primal, tangent = fw.unpack_dual(d)
        assert primal.data_ptr() == x.data_ptr()
        close(tangent, v)
        assert fw.unpack_dual(x).tangent is None
        assert isinstance(fw.unpack_dual(d), fw.UnpackedDualTensor)
        assert (d.shape, d.dtype, type(d)) == (x.shape, x.dtype, lampion.Tensor)


def test_tangents_end_with_their_level():
    x = rand(3)
    with fw.dual_level():
        y = fw.make_dual(x, rand(3)) * 2
    close(y, x * 2)
    close(y + y, x * 4)
    with fw.dual_level():
        assert fw.unpack_dual(y).tangent is None
        assert fw.unpack_dual(y * y).tangent is None
    close(y.add_(1), x * 2 + 1)
    with fw.dual_level():
        z = fw.make_dual(x, x) * 3
        w = fw.make_dual(x, x) * 4
    z[0] = 5.0
    assert z[0] == 5 and z.numpy()[0] == 5
    close(rand(3).zero_().add_(w), x * 4)
    close(w.index_fill_(0, lampion.tensor([1]), 0.0)[1], x[1] * 0)
    close(z[1:].mul_(2), x[1:] * 6)


def test_errors():
    x = rand(3)
    with pytest.raises(RuntimeError, match="no level exists"):
        fw.make_dual(x, x)
    with pytest.raises(RuntimeError, match="no level exists"):
        fw.exit_dual_level()
    with fw.dual_level():
        with pytest.raises(RuntimeError, match="different size"):
            fw.make_dual(x, rand(4))
        with pytest.raises(ValueError, match="primal to be floating point"):
            fw.make_dual(lampion.ones(3, dtype=lampion.int64), x)
        with pytest.raises(ValueError, match="tangent to be floating point"):
            fw.make_dual(x, lampion.ones(3, dtype=lampion.int64))
        with pytest.raises(RuntimeError, match="dtype"):
            fw.make_dual(x, x.float())


def test_a_level_ends_after_an_exception():
    with pytest.raises(ZeroDivisionError), fw.dual_level():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="no level exists"):
        fw.exit_dual_level()


def test_enter_and_exit():
    level = fw.enter_dual_level()
    x = fw.make_dual(lampion.tensor(2.0), lampion.tensor(1.0), level=level)
    assert fw.unpack_dual(x ** 3, level=level).tangent.item() == 12
    fw.exit_dual_level(level=level)


def test_levels_nest():
    with fw.dual_level():
        x = fw.make_dual(lampion.tensor(2.0), lampion.tensor(1.0))
        with fw.dual_level():
            y = fw.make_dual(x, lampion.ones(()))
            first = fw.unpack_dual(y ** 3).tangent
        assert first.item() == 12
        assert fw.unpack_dual(first).tangent.item() == 12  # 6 x


# ---------------------------------------------------------------- ops

UNARY = [lampion.sin, lampion.exp, lampion.tanh, lampion.sigmoid, F.gelu, F.silu, lampion.erf,
         lambda x: x.abs().sqrt(), lambda x: x.abs().log(), lambda x: x ** 3, lambda x: 2 / x,
         lambda x: x.clamp(-0.5, 0.5), F.relu, lampion.lgamma, lambda x: x.double() + 1]


@pytest.mark.parametrize("k", range(len(UNARY)))
def test_elementwise(k):
    x = rand(4, 3).requires_grad_()
    assert gradcheck(UNARY[k], (x,), check_forward_ad=True, check_backward_ad=False)


SHAPES = [lambda x: x.t(), lambda x: x.reshape(2, 6), lambda x: x.t().reshape(-1),
          lambda x: x[1], lambda x: x[:, 1:], lambda x: x[..., None].expand(4, 3, 2),
          lambda x: x.flip(0), lambda x: x.roll(1, 1), lambda x: x.tril(), lambda x: x.diagonal(),
          lambda x: x.unfold(0, 2, 1), lambda x: x.as_strided((2, 2), (1, 3), 1),
          lambda x: x[lampion.tensor([0, 2, 2])], lambda x: x[x > 0],
          lambda x: lampion.cat([x, x * 2]), lambda x: lampion.stack([x, lampion.ones_like(x)]),
          lambda x: F.pad(x, (1, 2), value=3.0), lambda x: F.pad(x[None], (1, 1), "reflect"),
          lambda x: x.gather(1, lampion.tensor([[0, 0], [2, 1], [1, 1], [0, 2]])),
          lambda x: x.index_add(0, lampion.tensor([1, 1]), x[:2]),
          lambda x: x.scatter(1, lampion.tensor([[0], [2]]), x[2:, :1]), lambda x: x.repeat(2, 1)]


@pytest.mark.parametrize("k", range(len(SHAPES)))
def test_moving_ops(k):
    x = rand(4, 3).requires_grad_()
    assert gradcheck(SHAPES[k], (x,), check_forward_ad=True, check_backward_ad=False)


REDUCTIONS = [lambda x: x.sum(), lambda x: x.mean(1), lambda x: x.prod(0), lambda x: x.std(0),
              lambda x: x.var(), lambda x: x.norm(), lambda x: x.norm(3, dim=1),
              lambda x: x.amax(1), lambda x: x.max(0)[0], lambda x: x.logsumexp(1),
              lambda x: x.cumsum(0), lambda x: x.cumprod(1), lambda x: x.cummax(0)[0],
              lambda x: x.softmax(1), lambda x: x.log_softmax(0), lambda x: x.sort(1)[0],
              lambda x: x.topk(2, 1)[0], lambda x: x.median(0)[0], lambda x: x.argmax(1).float(),
              lambda x: F.layer_norm(x, (3,)), lambda x: F.normalize(x)]


@pytest.mark.parametrize("k", range(len(REDUCTIONS)))
def test_reductions(k):
    x = rand(4, 3).requires_grad_()
    assert gradcheck(REDUCTIONS[k], (x,), check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("fn, shapes", [
    (lampion.matmul, [(2, 3, 4), (4, 2)]), (lampion.mv, [(3, 2), (2,)]),
    (lampion.add, [(3, 1), (2,)]), (lampion.mul, [(2, 3), ()]), (lampion.atan2, [(3,), (2, 1)]),
    (F.linear, [(2, 3), (4, 3), (4,)]), (lambda a, b: lampion.einsum("ij,kj->ik", a, b),
                                         [(2, 3), (4, 3)]),
    (F.conv2d, [(2, 2, 4, 4), (3, 2, 2, 2), (3,)]), (F.conv1d, [(2, 5), (3, 2, 2)]),
    (F.conv_transpose2d, [(1, 2, 3, 3), (2, 2, 2, 2)]), (F.mse_loss, [(3,), (3,)]),
    (lambda x, w, b: F.layer_norm(x, (3,), w, b), [(2, 3), (3,), (3,)]),
    (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(4, 3), (3,), (3,)]),
    (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(1, 2, 3, 2)] * 3),
    (lambda w: F.embedding(lampion.tensor([1, 0, 1]), w), [(3, 2)]),
    (lambda x: F.max_pool2d(x, 2), [(1, 4, 4)]), (lambda x: F.avg_pool2d(x, 2), [(1, 4, 4)]),
    (lambda x: F.cross_entropy(x, lampion.tensor([1, 0])), [(2, 3)]),
    (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), [(1, 1, 2, 3)])])
def test_several_operands(fn, shapes):
    args = [rand(*s).requires_grad_() for s in shapes]
    assert gradcheck(fn, args, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("fn", [
    lampion.exp, lampion.abs, lambda z: z * z.conj(), lambda z: z.real * z, lampion.angle,
    lambda z: z @ z, lambda z: lampion.view_as_real(z).cumsum(0), lambda z: z.sum().abs(),
    lambda z: z.imag.exp(), lampion.sqrt])
def test_complex(fn):
    z = rand(3, complex=True).requires_grad_()
    assert gradcheck(fn, (z,), check_forward_ad=True)


def test_as_strided_around_a_view():
    whole, v = rand(6), rand(3)
    with fw.dual_level():
        d = fw.make_dual(whole[2:5], v)
        p, t = fw.unpack_dual(d.as_strided((6,), (1,), 0))
    close(p, whole)
    close(t, lampion.cat([v[:2] * 0, v, v[:1] * 0]))


def test_promotion_of_tangents():
    x = lampion.tensor([1.0, 2.0])
    _, t = jvp(lambda a: a * lampion.tensor(3.0, dtype=lampion.float64), x, lampion.ones(2))
    assert t.dtype is lampion.float32
    _, t = jvp(lambda a: a.to(lampion.float64) ** 2, x, lampion.ones(2))
    assert t.dtype is lampion.float64
    close(t, lampion.tensor([2.0, 4.0], dtype=lampion.float64))


def test_scalars_and_empty():
    close(jvp(lambda x: x * x, lampion.tensor(3.0), lampion.tensor(2.0))[1], lampion.tensor(12.0))
    assert jvp(lambda x: x.exp(), lampion.ones(0, 3), lampion.ones(0, 3))[1].shape == (0, 3)


def test_dropout_drops_the_tangent_too():
    p, t = jvp(lambda x: F.dropout(x, 0.5), lampion.ones(100), lampion.ones(100))
    close(p, t)


# ---------------------------------------------------------------- writes

def test_in_place():
    x, v = rand(3), rand(3)

    def f(a):
        b = a.clone()
        b.mul_(a)
        b[1:] += a[:2]
        b.exp_()
        return b

    close(jvp(f, x, v)[1], jvp(lambda a: (a * a + lampion.cat([a[:1] * 0, a[:2]])).exp(), x, v)[1])


def test_writing_into_a_plain_tensor():
    x, v = rand(3), rand(3)
    out = lampion.zeros(2, 3, dtype=lampion.float64)
    row = out[1]
    with fw.dual_level():
        out[0] = fw.make_dual(x, v) * 2
        p, t = fw.unpack_dual(out)
        close(t, lampion.stack([v * 2, v * 0]))
        row.copy_(fw.make_dual(x, v))
        close(fw.unpack_dual(out).tangent, lampion.stack([v * 2, v]))
        out.zero_()
        assert not fw.unpack_dual(out).tangent.any()
    assert fw.unpack_dual(out).tangent is None
    assert not out.any()


def test_numbers_that_move_are_filled_in():
    mask = lampion.tensor([True, False])
    for fn in (lambda v: lampion.zeros(2).masked_fill_(mask, v),
               lambda v: lampion.zeros(2).masked_fill(mask, v),
               lambda v: lampion.zeros(2).fill_(v) * mask):
        _, t = jvp(fn, lampion.tensor(2.0), lampion.tensor(3.0))
        assert t.tolist() == [3, 0]


def test_views_share_tangents():
    x, v = rand(4), rand(4)
    with fw.dual_level():
        d = fw.make_dual(x.clone(), v.clone())
        d[:2].mul_(3)
        close(fw.unpack_dual(d).tangent, lampion.cat([v[:2] * 3, v[2:]]))
        e = d.view(2, 2)
        d.mul_(2)
        close(fw.unpack_dual(e).tangent.view(-1), lampion.cat([v[:2] * 6, v[2:] * 2]))


# ---------------------------------------------------------------- with reverse mode

def f3(x):
    return (x ** 3).sum()


def test_forward_over_reverse():
    x, v = rand(3).requires_grad_(), rand(3)
    with fw.dual_level():
        g, = grad(f3(fw.make_dual(x, v)), x)
        close(fw.unpack_dual(g).tangent, 6 * x * v)


def test_reverse_over_forward():
    x, v = rand(3).requires_grad_(), rand(3).requires_grad_()
    with fw.dual_level():
        p, t = fw.unpack_dual(f3(fw.make_dual(x, v)))
        gx, gv = grad(t, (x, v))
        close(gx, 6 * x * v)
        close(gv, 3 * x * x)
        close(grad(p, x)[0], 3 * x * x)


def test_parameters_beside_duals_keep_their_gradients():
    w, x = rand(3, 3).requires_grad_(), rand(3)
    with fw.dual_level():
        y = (w @ fw.make_dual(x, rand(3))).sum()
        assert y.requires_grad
        y.backward()
    close(w.grad, x.expand(3, 3))


@pytest.mark.parametrize("fn", [lampion.tanh, lambda x: x.softmax(1), lambda x: x @ x.t(),
                                lambda x: x.cumprod(0), lambda x: F.layer_norm(x, (3,)),
                                lambda x: x.norm(dim=1), lambda x: x[:, 1:].exp()])
def test_forward_over_reverse_numerically(fn):
    assert gradgradcheck(fn, (rand(2, 3).requires_grad_(),), check_fwd_over_rev=True)


def test_no_grad_leaves_tangents_alone():
    x, v = rand(3).requires_grad_(), rand(3)
    with lampion.no_grad(), fw.dual_level():
        p, t = fw.unpack_dual(fw.make_dual(x, v).cumprod(0))
        assert t is not None and not t.requires_grad and not p.requires_grad


def test_tangents_need_no_gradients():
    _, t = jvp(lambda x: x.cumprod(0), rand(3), rand(3))
    assert not t.requires_grad


# ---------------------------------------------------------------- custom functions

class Square(lampion.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.k = k
        return x * x * k

    @staticmethod
    def backward(ctx, g):
        x, = ctx.saved_tensors
        return 2 * x * g * ctx.k, None

    @staticmethod
    def jvp(ctx, t, k):
        assert k is None
        x, = ctx.saved_tensors
        return 2 * x * t * ctx.k


def test_custom_function():
    x = rand(3).requires_grad_()
    assert gradcheck(lambda a: Square.apply(a, 3.0), (x,), check_forward_ad=True)
    assert gradgradcheck(lambda a: Square.apply(a, 3.0), (x,), check_fwd_over_rev=True)


def test_custom_function_without_jvp():
    class Plain(lampion.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    with fw.dual_level(), pytest.raises(RuntimeError, match="jvp"):
        Plain.apply(fw.make_dual(rand(3), rand(3)))


# ---------------------------------------------------------------- resources

def test_nothing_is_kept():
    class Mark:
        pass

    gc.collect()
    gc.disable()
    try:
        x, v = rand(3).requires_grad_(), rand(3)
        x.mark, v.mark = Mark(), Mark()
        marks = [weakref.ref(x.mark), weakref.ref(v.mark)]
        with fw.dual_level():
            d = fw.make_dual(x, v)
            y = (d.exp() * d.cumprod(0))[1:].sum()
            grad(y, x)
        del x, v, d, y
        assert [m() for m in marks] == [None, None]
    finally:
        gc.enable()


def test_threads_have_levels_of_their_own():
    seen = {}
    entered, asked = threading.Event(), threading.Event()

    def other():
        with fw.dual_level():
            x = fw.make_dual(lampion.tensor(2.0), lampion.tensor(1.0))
            entered.set()
            asked.wait(10)
            seen["tangent"] = fw.unpack_dual(x * x).tangent.item()

    t = threading.Thread(target=other)
    t.start()
    entered.wait(10)
    with pytest.raises(RuntimeError, match="no level exists"):
        fw.make_dual(lampion.tensor(2.0), lampion.tensor(1.0))
    asked.set()
    t.join()
    assert seen == {"tangent": 4.0}


def test_hooks_and_modes_see_dual_calls():
    names = []

    class Log(lampion.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with fw.dual_level():
        x = fw.make_dual(rand(3), lampion.ones(3, dtype=lampion.float64))
        with Log():
            y = x.exp()
        close(fw.unpack_dual(y).tangent, fw.unpack_dual(y).primal)
    assert names == ["exp"]


def test_scatter_moves_with_the_value_that_stays():
    x, v = rand(4), rand(4)
    index = lampion.tensor([1, 0, 1, 0])
    out, t = jvp(lambda x: lampion.zeros(3, dtype=x.dtype).scatter(0, index, x), x, v)
    assert out.tolist() == [x[3].item(), x[2].item(), 0]
    assert t.tolist() == [v[3].item(), v[2].item(), 0]
    _, t = jvp(lambda x: x.scatter_reduce(0, index, x, "prod"), x, v)
    step = 1e-6
    far, near = ((x + s * v).scatter_reduce(0, index, x + s * v, "prod") for s in (step, -step))
    assert abs(t - (far - near) / (2 * step)).max() < 1e-6
