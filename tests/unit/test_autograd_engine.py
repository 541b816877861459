"""The backward engine: depth, threads, cycles, hooks, freed graphs, custom functions."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

import lampion
from lampion.autograd import Function


def leaf(*values: float) -> lampion.Tensor:
    return lampion.tensor(list(values), requires_grad=True)


def test_a_chain_of_ten_thousand():
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1.0
    del y


def test_a_node_runs_once_however_often_it_is_used():
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y + y  # 2 ** 40 paths
    y.backward()
    assert x.grad.item() == 2.0 ** 40


def test_threads_accumulate_into_one_leaf():
    x = leaf(1.0, 2.0)

    def work() -> None:
        for _ in range(50):
            (x * 2).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert x.grad.tolist() == [400.0, 400.0]


def test_grad_mode_belongs_to_its_thread():
    seen = []
    with lampion.no_grad():
        t = threading.Thread(target=lambda: seen.append(lampion.is_grad_enabled()))
        t.start()
        t.join()
    assert seen == [True] and lampion.is_grad_enabled()


def test_graphs_make_no_cycles():
    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = (x * x).exp().view(2, 1)
        z = lampion.nn.functional.softmax(y, 0).sum()
        node = weakref.ref(z.grad_fn)
        z.backward()
        del y, z
        assert node() is None
    finally:
        gc.enable()


def test_the_graph_is_freed_and_says_so():
    x = leaf(2.0)
    y = x.exp()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_outputs_and_inputs_are_checked():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        x.detach().sum().backward()
    with pytest.raises(RuntimeError, match="allow_unused"):
        lampion.autograd.grad((x * 2).sum(), leaf(1.0))
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        (x * 2).backward(lampion.ones(3))


def test_writes_to_leaves_and_their_views_are_refused():
    x = leaf(1.0, 2.0)
    for write in (lambda: x.add_(1), lambda: x[0].zero_(), lambda: x.view(2, 1).mul_(2)):
        with pytest.raises(RuntimeError, match="leaf"):
            write()
    with lampion.no_grad():
        x.add_(1)
    assert x.tolist() == [2.0, 3.0]


def test_writes_to_views_reach_base_and_siblings():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1.0
    first, rest = y[0], y[1:]
    first.mul_(10)
    rest.copy_(first.expand(2))
    y.sum().backward()
    assert x.grad.tolist() == [30.0, 0.0, 0.0]


def test_hooks_run_in_order_and_replace():
    x = leaf(1.0)
    y = x * 2
    order = []
    y.register_hook(lambda g: order.append("y") or g * 10)
    x.register_hook(lambda g: order.append("x"))
    x.register_post_accumulate_grad_hook(lambda p: order.append(p.grad.item()))
    y.retain_grad()
    y.backward()
    assert order == ["y", "x", 20.0] and y.grad.item() == 10.0


def test_no_leaf_shares_its_gradient_with_another():
    a, b = leaf(1.0), leaf(2.0)
    (a + b).backward()
    a.grad.zero_()
    assert b.grad.item() == 1.0


class Cube(Function):
    """x ** 3 with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x * x


def test_custom_functions_have_second_derivatives():
    x = leaf(2.0)
    (g,) = lampion.autograd.grad(Cube.apply(x), x, create_graph=True)
    assert g.item() == 12.0
    assert lampion.autograd.grad(g, x)[0].item() == 12.0
    assert lampion.autograd.gradcheck(Cube.apply, lampion.ones(3, dtype=lampion.float64,
                                                               requires_grad=True))


def test_anomaly_mode_names_the_forward_line():
    x = leaf(-1.0)
    with lampion.autograd.detect_anomaly(), pytest.warns(UserWarning), \
            pytest.raises(RuntimeError, match="nan"):
        x.sqrt().backward()


def test_checkpoint_recomputes_and_agrees():
    from lampion.utils.checkpoint import checkpoint

    x = leaf(0.5, 1.5)
    calls = []

    def f(t):
        calls.append(1)
        return (t.sin() * t).exp()

    checkpoint(f, x, use_reentrant=False).sum().backward()
    want = lampion.autograd.grad(f(x).sum(), x)[0]
    assert len(calls) == 3 and x.grad.tolist() == pytest.approx(want.tolist())


@pytest.mark.parametrize("fn", [
    lambda x: x.view(3, 4), lambda x: x.t(), lambda x: x.permute(1, 0), lambda x: x.unsqueeze(1),
    lambda x: x.sum(0), lambda x: x.sum(1, True), lambda x: x[:, 0:4], lambda x: x[:, 1:3],
    lambda x: x[1], lambda x: x[..., -1], lambda x: x[1:, ::2], lambda x: x[:, None],
    lambda x: x.t().reshape(3, 4), lambda x: x.select(1, 2), lambda x: x.narrow(0, 1, 2)])
def test_gradients_of_views_that_come_again(fn):
    """How a gradient lies in memory is remembered by that of the result: of each layout, anew."""
    x = lampion.randn(3, 4, requires_grad=True)
    for lay in (lambda g: g, lambda g: g.mT.contiguous().mT if g.ndim > 1 else g,
                lambda g: g[:1].expand(g.shape)):
        want = None
        for _ in range(3):
            y = fn(x)
            g = lay(lampion.arange(1.0, y.numel() + 1).reshape(y.shape))
            (first,) = lampion.autograd.grad(y, x, g, retain_graph=True)
            (graph,) = lampion.autograd.grad(y, x, g.clone().requires_grad_(), create_graph=True)
            assert graph.requires_grad and first.shape == x.shape and not first.requires_grad
            assert first.tolist() == graph.tolist()
            assert want is None or first.tolist() == want
            want = first.tolist()
        total = lampion.zeros(3, 4).requires_grad_()
        fn(total).backward(g)
        assert total.grad.tolist() == want


def test_parts_taken_by_index_are_joined_once():
    x = lampion.randn(3, 5, 2, requires_grad=True)
    w = lampion.arange(1.0, 6.0)
    sum(x[:, k].sum() * w[k] for k in range(5)).backward()
    assert x.grad.tolist() == w.reshape(1, 5, 1).expand(3, 5, 2).tolist()
    x.grad = None
    (x[:, :3].sum() + 2 * x[:, 2:].sum() + 4 * x[:, 4].sum() + 8 * x[1].sum()).backward()
    row = lampion.tensor([1.0, 1, 3, 2, 6]).reshape(5, 1).expand(5, 2)
    assert x.grad.tolist() == lampion.stack([row, row + 8, row]).tolist()
