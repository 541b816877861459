"""Autocast regions, their nesting and cache, and gradient scaling. May import lampion, pytest."""

from __future__ import annotations

import pickle
import threading

import pytest

import lampion as L
from lampion import nn
from lampion.amp import GradScaler, custom_bwd, custom_fwd
from lampion.amp.autocast_mode import _state
from lampion.callpath import NS


def test_products_are_lower_and_the_rest_as_given(device):
    a = L.ones(3, 3, device=device)
    kind = a.device.type
    lower = L.get_autocast_dtype(kind)
    assert lower is (L.bfloat16 if kind == "cpu" else L.float16)
    with L.autocast(kind):
        assert (a @ a).dtype is nn.functional.linear(a, a).dtype is lower
        assert (a + a).dtype is a.relu().dtype is L.float32
        assert L.cat([a @ a, a]).dtype is L.float32
        assert nn.functional.mse_loss(a @ a, a).dtype is L.float32
        assert (a.double() @ a.double()).dtype is L.float64
        soft = (a @ a).softmax(0).dtype
        assert soft is (lower if kind == "cpu" else L.float32)
    assert (a @ a).dtype is L.float32
    assert NS["modes"] == 0


def test_regions_nest_and_end_after_errors():
    a = L.ones(2, 2)
    with L.autocast("cpu", dtype=L.float16):
        assert (a @ a).dtype is L.float16
        with L.autocast("cpu", enabled=False):
            assert (a @ a).dtype is L.float32 and not L.is_autocast_enabled("cpu")
        with L.autocast("cpu", dtype=L.bfloat16):
            assert (a @ a).dtype is L.bfloat16
        assert (a @ a).dtype is L.float16
    with pytest.raises(ZeroDivisionError), L.autocast("cpu"):
        _ = 1 / 0
    assert not L.is_autocast_enabled() and NS["modes"] == 0

    @L.autocast("cpu")
    def product(x):
        return x @ x

    assert product(a).dtype is L.bfloat16 and product.__name__ == "product"


def test_a_region_is_of_one_thread():
    a, seen = L.ones(2, 2), []
    with L.autocast("cpu"):
        t = threading.Thread(target=lambda: seen.append((a @ a).dtype))
        t.start()
        t.join()
        assert (a @ a).dtype is L.bfloat16
    assert seen == [L.float32]


def test_parameters_are_cast_once_and_get_float32_gradients():
    w = L.ones(2, 2, requires_grad=True)
    x = L.ones(2, 2)
    with L.autocast("cpu"):
        y = (x @ w) @ w
        assert len(_state.cache) == 1
        with L.no_grad():
            w.add_(1)
        assert ((x @ w) == 4).all()  # the kept cast is not used after a write
        assert len(_state.cache) == 1
    assert not _state.cache
    with L.autocast("cpu"), L.no_grad():
        x @ w
    with L.autocast("cpu"):
        with L.no_grad():
            x @ w
        (x @ w).sum().backward()
    assert y.dtype is L.bfloat16 and w.grad.dtype is L.float32
    assert (w.grad == 2).all()


def test_a_network_trains_and_its_backward_may_run_inside():
    L.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 1))
    opt = L.optim.Adam(net.parameters(), lr=0.02)
    x = L.randn(64, 4)
    y = x[:, :1] * x[:, 1:2]
    losses = []
    for step in range(60):
        with L.autocast("cpu"):
            loss = nn.functional.mse_loss(net(x), y)
            if step % 2:
                opt.zero_grad()
                loss.backward()
        if not step % 2:
            opt.zero_grad()
            loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad.dtype is L.float32 for p in net.parameters())


def test_arguments():
    with pytest.raises(ValueError, match="device_type"):
        L.autocast(3)
    with pytest.warns(UserWarning, match="not supported"):
        region = L.autocast("cpu", dtype=L.int64)
    with region:
        assert (L.ones(2, 2) @ L.ones(2, 2)).dtype is L.float32
    p = L.full((2,), 0.5)
    with L.autocast("cpu", dtype=L.float16):
        nn.functional.binary_cross_entropy(p, p)  # the host computes it in float32


def test_custom_functions():
    class Square(L.autograd.Function):
        @staticmethod
        @custom_fwd(device_type="cpu", cast_inputs=L.float32)
        def forward(ctx, x):
            ctx.save_for_backward(x)
            assert not L.is_autocast_enabled("cpu")
            return x @ x

        @staticmethod
        @custom_bwd(device_type="cpu")
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g @ x.mT + x.mT @ g

    x = L.randn(3, 3, requires_grad=True)
    with L.autocast("cpu"):
        y = Square.apply(x.bfloat16())
    assert y.dtype is L.float32
    y.sum().backward()
    assert x.grad is not None


class TestGradScaler:
    def steps(self, grads, **kwargs):
        w = L.zeros(2, requires_grad=True)
        opt = L.optim.SGD([w], lr=1.0)
        scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2, **kwargs)
        for g in grads:
            opt.zero_grad()
            scaler.scale((w * L.tensor(g)).sum()).backward()
            scaler.step(opt)
            scaler.update()
        return w.detach(), scaler

    def test_steps_are_unscaled_and_the_factor_grows(self):
        w, scaler = self.steps([[1.0, 2.0]] * 4)
        assert w.tolist() == [-4.0, -8.0] and scaler.get_scale() == 32.0

    def test_a_step_with_an_infinity_is_skipped(self):
        w, scaler = self.steps([[1.0, 2.0], [float("inf"), 0.0], [float("nan"), 0.0], [1.0, 1.0]])
        assert w.tolist() == [-2.0, -3.0] and scaler.get_scale() == 2.0

    def test_not_enabled_it_does_nothing(self):
        w, scaler = self.steps([[1.0, 2.0]], enabled=False)
        assert w.tolist() == [-1.0, -2.0] and scaler.get_scale() == 1.0
        assert scaler.state_dict() == {}

    def test_order_of_calls(self):
        w = L.ones(1, requires_grad=True)
        opt, scaler = L.optim.SGD([w], lr=1.0), GradScaler("cpu", init_scale=2.0)
        with pytest.raises(AssertionError):
            scaler.step(opt)
        scaler.update(4.0)
        scaler.scale(w.sum()).backward()
        scaler.unscale_(opt)
        assert w.grad.item() == 1.0
        with pytest.raises(RuntimeError, match="already been called"):
            scaler.unscale_(opt)
        scaler.step(opt)
        with pytest.raises(RuntimeError, match="after step"):
            scaler.unscale_(opt)
        with pytest.raises(RuntimeError, match="already been called"):
            scaler.step(opt)
        with pytest.raises(RuntimeError, match="pickled"):
            pickle.dumps(scaler)
        scaler.update()
        assert pickle.loads(pickle.dumps(scaler)).get_scale() == 4.0

    def test_state(self):
        _, scaler = self.steps([[1.0, 1.0]] * 3)
        other = GradScaler("cpu")
        other.load_state_dict(scaler.state_dict())
        assert other.state_dict() == scaler.state_dict()
        assert list(scaler.scale([L.ones(1), L.ones(1)])[1]) == [16.0]
        with pytest.raises(RuntimeError, match="empty"):
            other.load_state_dict({})
