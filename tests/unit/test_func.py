"""Function transforms against closed forms, finite differences and each other."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import namedtuple

import numpy as np
import pytest

import lampion
from lampion import func, nn
from lampion.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)
from lampion.nn import functional as F


def rand(*shape):
    return lampion.randn(*shape, dtype=lampion.float64)


def close(a, b, tol=1e-9):
    assert tuple(a.shape) == tuple(b.shape)
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), tol, tol)


def slope(f, x, eps=1e-6):
    """Central differences of a scalar function."""
    flat = x.reshape(-1)
    steps = lampion.eye(flat.numel(), dtype=x.dtype) * eps
    rows = [(f((flat + s).reshape(x.shape)) - f((flat - s).reshape(x.shape))) / (2 * eps)
            for s in steps]
    return lampion.stack(rows).reshape(x.shape)


def cube(x):
    return (x ** 3).sum()


# ---------------------------------------------------------------- grad

def test_grad():
    x = rand(3)
    g = grad(cube)(x)
    close(g, 3 * x * x)
    assert not g.requires_grad and not x.requires_grad
    g, v = grad_and_value(cube)(x)
    close(g, 3 * x * x)
    close(v, cube(x))
    assert not v.requires_grad


def test_grad_numerically():
    w = rand(3, 4)

    def f(x):
        return F.layer_norm(w @ x.tanh(), (2,)).exp().cumprod(0).sum()

    x = rand(4, 2)
    close(grad(f)(x), slope(f, x), 1e-5)


@pytest.mark.parametrize("depth", range(1, 5))
def test_grad_of_grad(depth):
    f, x = lambda x: x ** 5, lampion.tensor(1.5, dtype=lampion.float64)
    k = 1.0
    for n in range(depth):
        f = grad(f)
        k *= 5 - n
    close(f(x), k * x ** (5 - depth))


def test_argnums():
    a, b = rand(3), rand(3)

    def f(a, b, *, scale):
        return (a * b * b).sum() * scale

    close(grad(f, 1)(a, b, scale=2), 4 * a * b)
    close(grad(f, -1)(a, b, scale=2), 4 * a * b)
    ga, gb = grad(f, (0, 1))(a, b, scale=2)
    close(ga, 2 * b * b)
    close(gb, 4 * a * b)
    gb, = grad(f, (1,))(a, b, scale=2)
    close(gb, 4 * a * b)


@pytest.mark.parametrize("argnums, message", [
    (2, "argnum=2, but only 2"), ((), "non-empty"), ((0, 0), "unique"), ("0", "must be int or"),
    (("0",), "argnum must be int")])
def test_argnums_errors(argnums, message):
    with pytest.raises(RuntimeError, match=message):
        grad(lambda a, b: a + b, argnums)(lampion.ones(()), lampion.ones(()))


def test_grad_errors():
    x = rand(3)
    with pytest.raises(RuntimeError, match="scalar Tensor, got tensor with 1 dims"):
        grad(lambda x: x)(x)
    with pytest.raises(RuntimeError, match="return a Tensor"):
        grad(lambda x: 1.0)(x)
    with pytest.raises(RuntimeError, match="has_aux"):
        grad(cube, has_aux=True)(x)
    with pytest.raises(ValueError, match="must be Tensor"):
        grad(lambda x: x)(1.0)
    with pytest.raises(RuntimeError, match="floating point"):
        grad(lambda x: x.sum().float())(lampion.ones(3, dtype=lampion.int64))


def test_aux():
    x = rand(3)
    g, aux = grad(lambda x: (cube(x), {"twice": x * 2, "n": 1}), has_aux=True)(x)
    close(g, 3 * x * x)
    close(aux["twice"], x * 2)
    assert aux["n"] == 1 and not aux["twice"].requires_grad
    g, (v, aux) = grad_and_value(lambda x: (cube(x), x.exp()), has_aux=True)(x)
    close(v, cube(x))
    close(aux, x.exp())


def test_trees():
    Point = namedtuple("Point", "x y")
    args = {"a": rand(2), "b": [rand(3), Point(rand(1), rand(1))]}
    g = grad(lambda t: (t["a"] ** 2).sum() + cube(t["b"][0]) + (t["b"][1].x * t["b"][1].y).sum()
             )(args)
    close(g["a"], 2 * args["a"])
    close(g["b"][0], 3 * args["b"][0] ** 2)
    close(g["b"][1].x, args["b"][1].y)


def test_no_dependence_is_zero():
    close(grad(lambda x: lampion.ones((), dtype=x.dtype))(rand(3)), rand(3) * 0)
    close(grad(lambda x: x.detach().sum())(rand(3)), rand(3) * 0)


def test_no_grad():
    x = rand(3)
    with lampion.no_grad():
        close(grad(cube)(x), 3 * x * x)
        close(grad(lambda x: grad(cube)(x).sum())(x), 6 * x)
        assert not grad(cube)(x.requires_grad_()).requires_grad

    def f(x):
        with lampion.no_grad():
            c = x ** 2
        return (x * c).sum()

    close(grad(f)(x.detach()), x ** 2)


def test_outer_graphs_are_kept():
    x, w = rand(3).requires_grad_(), rand(3).requires_grad_()
    g = grad(lambda x: (w * x * x).sum())(x)
    assert g.requires_grad
    gx, gw = lampion.autograd.grad(g.sum(), (x, w))
    close(gx, 2 * w)
    close(gw, 2 * x)
    assert x.grad is None and w.grad is None


def test_perturbations_are_not_confused():
    one = lampion.tensor(1.0)
    assert grad(lambda x: x * grad(lambda y: x + y)(one))(one).item() == 1
    assert jvp(lambda x: x * jvp(lambda y: x + y, (one,), (one,))[1], (one,), (one,))[1] == 1
    assert grad(lambda x: x * jvp(lambda y: x + y, (one,), (one,))[1])(one).item() == 1


def test_in_place_within():
    def f(x):
        y = x.clone()
        y[1:] *= x[:2]
        z = x.new_zeros(3)
        z[0] = y[2]
        return (y ** 2).sum() + z.sum()

    x = rand(3)
    close(grad(f)(x), slope(f, x), 1e-5)
    close(vmap(grad(f))(x[None].repeat(2, 1))[1], slope(f, x), 1e-5)
    close(jvp(f, (x,), (x,))[1], (slope(f, x) * x).sum(), 1e-5)


# ---------------------------------------------------------------- vjp, jvp, linearize

def test_vjp():
    x, v = rand(3), rand(3)
    out, pull = vjp(lambda x: x ** 3, x)
    close(out, x ** 3)
    close(pull(v)[0], 3 * x * x * v)
    close(pull(v * 2)[0], 6 * x * x * v)  # again
    assert not out.requires_grad


def test_vjp_of_trees():
    x, y = rand(3), rand(3)
    out, pull, aux = vjp(lambda x, y: ({"s": x.sum(), "p": x * y}, "aux"), x, y, has_aux=True)
    assert aux == "aux"
    gx, gy = pull({"s": lampion.tensor(2.0, dtype=x.dtype), "p": lampion.ones_like(x)})
    close(gx, y + 2)
    close(gy, x)
    with pytest.raises(RuntimeError, match="pytree structure of cotangents"):
        pull(x)


def test_vjp_errors():
    with pytest.raises(RuntimeError, match="floating-point"):
        vjp(lambda x: x.argmax(), rand(3))
    with pytest.raises(RuntimeError, match="only tensors"):
        vjp(lambda x: 1.0, rand(3))


def test_jvp():
    x, v = rand(3), rand(3)
    out, t = jvp(lambda x: x ** 3, (x,), (v,))
    close(out, x ** 3)
    close(t, 3 * x * x * v)
    out, t, aux = jvp(lambda x, y: ({"a": x * y}, x * 2), (x, v), (v, x), has_aux=True)
    close(t["a"], v * v + x * x)
    close(aux, x * 2)
    assert jvp(lambda x: lampion.ones(2), (x,), (v,))[1].tolist() == [0, 0]


def test_jvp_errors():
    x = rand(3)
    with pytest.raises(RuntimeError, match="primals to be a tuple"):
        jvp(cube, x, x)
    with pytest.raises(RuntimeError, match="same python structure"):
        jvp(cube, (x,), (x, x))
    with pytest.raises(RuntimeError, match="independent"):
        jvp(lambda x: lampion.ones(2), (x,), (x,), strict=True)
    with pytest.raises(RuntimeError, match="shape and dtype"):
        jvp(cube, (x,), (x.float(),))
    with pytest.raises(RuntimeError, match="only contain Tensors"):
        jvp(cube, (x,), (1.0,))


def test_linearize():
    calls = []

    def f(x, y):
        calls.append(1)
        return {"a": x.tanh() @ y, "b": x.sum(), "c": lampion.ones(1)}

    x, y, v, w = rand(2, 3), rand(3), rand(2, 3), rand(3)
    out, push = linearize(f, x, y)
    close(out["a"], x.tanh() @ y)
    for s in (1.0, -2.0):
        t = push(v * s, w)
        want = jvp(f, (x, y), (v * s, w))[1]
        for k in want:
            close(t[k], want[k])
    assert len(calls) == 3  # one to linearize, two by jvp
    with pytest.raises(RuntimeError, match="argspec"):
        push(v)
    with pytest.raises(RuntimeError, match="shape"):
        push(w, v)


# ---------------------------------------------------------------- Jacobians

def outer3(x):
    return x[:, None] * x ** 2


@pytest.mark.parametrize("jac", [jacrev, jacfwd])
def test_jacobians(jac):
    x = rand(3)
    close(jac(lampion.sin)(x), x.cos().diag())
    eye = lampion.eye(3, dtype=x.dtype)
    close(jac(outer3)(x), eye[:, None, :] * x[None, :, None] ** 2
          + 2 * x[:, None, None] * (x * eye)[None])
    j = jac(lambda x, t: {"s": x * t["k"].sum(), "k": t["k"]}, (0, 1))(x, {"k": rand(2)})
    assert j["s"][1]["k"].shape == (3, 2) and j["k"][0].shape == (2, 3)
    assert not j["k"][0].any()
    close(j["k"][1]["k"], lampion.eye(2, dtype=x.dtype))
    j, aux = jac(lambda x: (x.sum(), x.sum() * 2), has_aux=True)(x)
    close(j, x * 0 + 1)
    close(aux, x.sum() * 2)
    assert not j.requires_grad
    with pytest.raises(RuntimeError, match="to be real"):
        jac(lampion.exp)(lampion.ones(2, dtype=lampion.complex64))


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_chunked_jacrev(chunk):
    x, y = rand(3), rand(2)
    f = lambda x, y: (x * y.sum(), y.exp())  # noqa: E731
    for a, b in zip(jacrev(f, (0, 1), chunk_size=chunk)(x, y), jacrev(f, (0, 1))(x, y)):
        close(a[0], b[0])
        close(a[1], b[1])
    with pytest.raises(ValueError, match="chunk_size"):
        jacrev(f, chunk_size=0)


@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_second_jacobians(outer, inner):
    x, a = rand(3), rand(3, 3)

    def f(x):
        return (a @ x).tanh() @ x + x.softmax(0)[0]

    h = outer(inner(f))(x)
    close(h, h.T, 1e-8)
    close(h[1], slope(lambda x: grad(f)(x)[1], x), 1e-4)


def test_hessian():
    x, y = rand(2), rand(3)
    close(hessian(cube)(x), (6 * x).diag())
    h = hessian(lambda x, y: x.sum() * cube(y), (0, 1))(x, y)
    close(h[0][1], (3 * y * y).expand(2, 3))
    close(h[1][1], (6 * y).diag() * x.sum())


def test_third_derivatives():
    x = rand(2)
    t = jacfwd(jacrev(jacfwd(lambda x: (x ** 4).sum())))(x)
    close(t[0, 0, 0], 24 * x[0])
    assert t[0, 1, 1] == 0 and not t.requires_grad


def test_batched_hessians():
    x = rand(4, 3)
    close(vmap(hessian(cube))(x), lampion.stack([(6 * r).diag() for r in x]))


ROWS = [lambda x: x.cumprod(0), lambda x: F.layer_norm(x, (4,)), lambda x: x.sort()[0] * x,
        lambda x: x.softmax(0).log(), lambda x: x[None] @ x[:, None], lambda x: x.norm() * x[1:],
        lambda x: lampion.cat([x.exp(), x[:1].tanh()]), lambda x: x.clone().mul_(x)[::2]]


@pytest.mark.parametrize("k", range(len(ROWS)))
def test_transforms_commute(k):
    fn, x, v = ROWS[k], rand(3, 4), rand(3, 4)
    want = lampion.stack([jvp(fn, (a,), (b,))[1] for a, b in zip(x, v)])
    close(vmap(lambda a, b: jvp(fn, (a,), (b,))[1])(x, v), want)
    close(jvp(vmap(fn), (x,), (v,))[1], want)
    close(vmap(lambda a, b: linearize(fn, a)[1](b))(x, v), want)

    def along(a, b):
        return jvp(fn, (a,), (b,))[1].sum()

    first = lampion.stack([grad(along)(a, b) for a, b in zip(x, v)])
    close(vmap(grad(along))(x, v), first)
    close(grad(lambda x: vmap(along)(x, v).sum())(x), first)
    close(grad(lambda x: jvp(vmap(fn), (x,), (v,))[1].sum())(x), first)
    reverse = lampion.stack([jvp(grad(lambda a: fn(a).sum()), (a,), (b,))[1]
                             for a, b in zip(x, v)])
    close(first, reverse)
    close(jvp(vmap(grad(lambda a: fn(a).sum())), (x,), (v,))[1], reverse)
    close(vmap(jacfwd(jacrev(fn)))(x), lampion.stack([jacrev(jacfwd(fn))(a) for a in x]))


def test_forward_levels_within_transforms():
    from lampion.autograd import forward_ad as fw

    x, v = rand(3, 4), rand(3, 4)

    def f(a, b):
        with fw.dual_level():
            return fw.unpack_dual(fw.make_dual(a, b) ** 3).tangent

    close(vmap(f)(x, v), 3 * x * x * v)
    close(grad(lambda a: f(a, v).sum())(x), 6 * x * v)
    with fw.dual_level():
        y = vmap(lambda a: a ** 3)(fw.make_dual(x, v))
        close(fw.unpack_dual(y).tangent, 3 * x * x * v)
        g = grad(cube)(fw.make_dual(x, v))
        close(fw.unpack_dual(g).tangent, 6 * x * v)


def test_importing_costs_no_transforms():
    import subprocess
    import sys

    code = "import sys, lampion; sys.exit('lampion.transforms' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- modules

def test_functional_call():
    layer = nn.Linear(2, 1)
    given = {"weight": lampion.ones(1, 2), "bias": lampion.zeros(1)}
    assert functional_call(layer, given, lampion.ones(2)).tolist() == [2]
    assert functional_call(layer, [{"weight": given["weight"]}, {"bias": given["bias"]}],
                           (lampion.ones(2),)).tolist() == [2]
    g = grad(lambda p: functional_call(layer, p, lampion.ones(2)).sum())(given)
    assert g["weight"].tolist() == [[1, 1]]
    assert all(p.grad is None for p in layer.parameters())


def test_per_sample_gradients():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    params = {k: v.detach() for k, v in net.named_parameters()}
    x, y = rand(5, 3), lampion.tensor([0, 1, 1, 0, 1])

    def loss(p, x, y):
        return F.cross_entropy(functional_call(net, p, (x[None],)), y[None])

    got = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
    for k in range(5):
        one = grad(loss)(params, x[k], y[k])
        for name, g in one.items():
            close(got[name][k], g)


def test_ensembles():
    nets = [nn.Linear(3, 2) for _ in range(4)]
    params, buffers = stack_module_state(nets)
    assert params["weight"].requires_grad and params["weight"].is_leaf and not buffers
    x = lampion.randn(5, 3)
    out = vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(params, buffers)
    close(out, lampion.stack([n(x) for n in nets]), 1e-5)
    out.sum().backward()
    close(params["bias"].grad, lampion.full((4, 2), 5.0))


def test_stacking_errors():
    with pytest.raises(RuntimeError, match="at least one model"):
        stack_module_state([])
    with pytest.raises(RuntimeError, match="same class"):
        stack_module_state([nn.Linear(1, 1), nn.ReLU()])
    with pytest.raises(RuntimeError, match="training/eval"):
        stack_module_state([nn.Linear(1, 1), nn.Linear(1, 1).eval()])
    with pytest.raises(RuntimeError, match="requires_grad"):
        stack_module_state([nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)])


def test_batch_norms_without_running_statistics():
    net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).double()
    x = rand(4, 5, 2, 6)
    want = lampion.stack([F.batch_norm(net[0](r), None, None, *net[1].parameters(), True)
                          for r in x])
    with pytest.raises(RuntimeError, match="inplace arithmetic"):
        vmap(net)(x)
    close(vmap(func.replace_all_batch_norm_modules_(net))(x), want)


def test_functionalize():
    x = rand(3)
    close(func.functionalize(lambda x: x.clone().mul_(2))(x), x * 2)
    with pytest.raises(RuntimeError, match="invalid argument for remove"):
        func.functionalize(cube, remove="all")


# ---------------------------------------------------------------- resources

def test_nothing_is_kept():
    class Mark:
        pass

    def run():
        x = rand(3)
        x.mark = Mark()
        made = weakref.ref(x.mark)
        for f in (grad(cube), hessian(cube), jacrev(outer3), vmap(grad(lambda x: x * x)),
                  lambda x: vjp(cube, x)[1](lampion.ones((), dtype=x.dtype)),
                  lambda x: jvp(lambda x: x.cumprod(0), (x,), (x,)),
                  lambda x: linearize(outer3, x)[1](x)):
            f(x)
        return made

    run()
    gc.collect()
    gc.disable()
    try:
        assert run()() is None
    finally:
        gc.enable()


def test_levels_end_after_exceptions():
    from lampion.transforms.levels import stack

    def fail(x):
        raise ZeroDivisionError

    x = rand(3)
    for f in (grad(fail), vmap(fail), jacrev(fail), lambda x: jvp(fail, (x,), (x,)),
              vmap(grad(fail)), hessian(fail)):
        with pytest.raises(ZeroDivisionError):
            f(x)
        assert not stack.levels and lampion.is_grad_enabled()
    close(grad(cube)(x), 3 * x * x)


@pytest.mark.filterwarnings("ignore:Anomaly", "ignore:Error detected")
def test_hooks_and_anomaly_detection():
    x = rand(3)
    with lampion.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(), lampion.from_numpy):
        close(grad(cube)(x), 3 * x * x)
        with pytest.raises(RuntimeError, match="saved tensor hooks are not supported"):
            vmap(grad(lambda x: x ** 3))(x)
    with lampion.autograd.detect_anomaly():
        close(vmap(grad(lambda x: x ** 3))(x), 3 * x * x)
        with pytest.raises(RuntimeError, match="nan"):
            vmap(grad(lambda x: (x * 0).sqrt() * 0))(x)


def test_threads():
    x = rand(3)
    results = {}

    def work(k):
        results[k] = [vmap(grad(lambda v: (v * k) ** 3))(x) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, rows in results.items():
        for r in rows:
            close(r, 3 * k ** 3 * x * x)


class Cube(lampion.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x ** 3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, = ctx.saved_tensors
        return 3 * x * x * g

    @staticmethod
    def jvp(ctx, t):
        x, = ctx.saved_tensors
        return 3 * x * x * t


def test_custom_functions():
    x = rand(3)
    f = lambda x: Cube.apply(x).sum()  # noqa: E731
    close(grad(f)(x), 3 * x * x)
    close(grad(lambda x: grad(f)(x).sum())(x), 6 * x)
    close(jvp(f, (x,), (x,))[1], 3 * cube(x))
    close(jvp(grad(f), (x,), (x,))[1], 6 * x * x)
    close(grad(lambda x: jvp(f, (x,), (x.detach(),))[1])(x), 6 * x * x)
    close(jacfwd(jacfwd(f))(x), (6 * x).diag())


def test_old_style_functions_are_refused():
    class Old(lampion.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    with pytest.raises(RuntimeError, match="setup_context"):
        jvp(Old.apply, (rand(3),), (rand(3),))
