"""CUDA graphs: captures, replays, memory that stays, random numbers that go on, refusals."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import lampion
from lampion import nn

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture
def cuda():
    import lampion.cuda

    yield lampion.cuda
    assert not lampion.cuda.is_current_stream_capturing()


def captured(cuda, function, **options):
    g = cuda.CUDAGraph()
    with cuda.graph(g, **options):
        out = function()
    return g, out


def test_a_replay_computes_with_new_inputs(cuda, gpu):
    x = lampion.ones(5, 3, device=gpu)
    w = lampion.arange(6.0, device=gpu).reshape(3, 2)
    g, y = captured(cuda, lambda: (x @ w).sin().sum(0))
    for value in (0.5, -2.0):
        x.fill_(value)
        g.replay()
        want = np.sin(np.full((5, 3), value, np.float32) @ np.arange(6, dtype=np.float32)
                      .reshape(3, 2)).sum(0)
        np.testing.assert_allclose(y.cpu().numpy(), want, rtol=1e-5)


def test_nothing_runs_while_it_is_captured(cuda, gpu):
    x = lampion.zeros(4, device=gpu)
    g, _ = captured(cuda, lambda: x.add_(1.0))
    assert x.tolist() == [0.0] * 4
    g.replay()
    g.replay()
    assert x.tolist() == [2.0] * 4


def test_buffers_stay_the_graphs_own(cuda, gpu):
    """Temporary buffers of a graph are not handed out while it lives, and are given back after."""
    x = lampion.full((1000,), 3.0, device=gpu)
    cuda.empty_cache()
    before = cuda.memory_reserved()
    g, y = captured(cuda, lambda: ((x + 1) * 2 - x) / 4)
    held = cuda.memory_reserved()
    assert held > before
    addresses = {b for bins in g.pool().bins.values() for bin in bins.values() for b in bin.free}
    assert addresses  # of the results in between
    others = [lampion.full((1000,), float(k), device=gpu) for k in range(20)]
    assert not addresses & {t.data_ptr() for t in others}
    g.replay()
    assert y.tolist() == [1.25] * 1000
    assert [t[0].item() for t in others] == [float(k) for k in range(20)]
    cuda.empty_cache()  # leaves the graph's memory alone
    g.replay()
    assert y[7].item() == 1.25
    del g, y, others
    gc.collect()
    cuda.empty_cache()
    assert cuda.memory_reserved() <= before


def test_a_result_outlives_its_graph(cuda, gpu):
    x = lampion.full((300,), 2.0, device=gpu)
    g, y = captured(cuda, lambda: x * 4)
    g.replay()
    del g
    gc.collect()
    cuda.empty_cache()
    fresh = [lampion.zeros(300, device=gpu) for _ in range(5)]
    assert y.tolist() == [8.0] * 300 and y.data_ptr() not in {t.data_ptr() for t in fresh}
    active = cuda.memory_allocated()
    del y
    assert cuda.memory_allocated() < active


@pytest.mark.parametrize("draw", [
    lambda gpu: lampion.rand(9, device=gpu),
    lambda gpu: lampion.empty(9, device=gpu).normal_(),
    lambda gpu: lampion.nn.functional.dropout(lampion.ones(9, device=gpu), 0.5),
    lambda gpu: lampion.randint(0, 1000, (9,), device=gpu),
    lambda gpu: lampion.bernoulli(lampion.full((9,), 0.5, device=gpu)),
    lambda gpu: lampion.rand(9, device=gpu) + lampion.randn(9, device=gpu),
], ids=["rand", "normal_", "dropout", "randint", "bernoulli", "two draws"])
def test_replays_draw_on(cuda, gpu, draw):
    """Replays draw what as many eager calls would have drawn, and follow a new seed."""
    draw(gpu)  # warm
    lampion.manual_seed(11)
    eager = [draw(gpu).tolist() for _ in range(4)]
    lampion.manual_seed(11)
    first = draw(gpu).tolist()
    g, out = captured(cuda, lambda: draw(gpu))
    drawn = []
    for _ in range(2):
        g.replay()
        drawn.append(out.tolist())
    assert [first, *drawn, draw(gpu).tolist()] == eager
    cuda.manual_seed(11)
    g.replay()
    assert out.tolist() == eager[0]


def test_a_generator_of_ones_own(cuda, gpu):
    own = lampion.Generator("cuda").manual_seed(3)
    eager = [lampion.rand(6, device=gpu, generator=own).tolist() for _ in range(2)]
    own.manual_seed(3)
    g, out = captured(cuda, lambda: lampion.rand(6, device=gpu, generator=own))
    for want in eager:
        g.replay()
        assert out.tolist() == want
    other = lampion.Generator("cpu").manual_seed(3)
    with pytest.raises(RuntimeError, match=r"use.*Generator\('cuda'\)|Use lampion.Generator"):
        captured(cuda, lambda: lampion.rand(6, device=gpu, generator=other))
    state = other.get_offset()
    g, _ = captured(cuda, lambda: lampion.rand(6, generator=other))  # on the host: it runs at once
    assert other.get_offset() > state


def test_what_reads_values_is_refused_by_name(cuda, gpu):
    x = lampion.ones(3, device=gpu)
    stream = cuda.current_stream()
    for call, name in ((lambda: x.sum().item(), "item"), (lambda: x.tolist(), "tolist"),
                       (lambda: x.cpu(), "cpu"), (lambda: bool(x[0]), "__bool__"),
                       (lambda: cuda.synchronize(), "synchronize"),
                       (lambda: lampion.tensor([1.0, 2.0], device=gpu), "tensor")):
        with pytest.raises(RuntimeError, match="while a CUDA graph is captured") as caught:
            captured(cuda, call)
        assert f"(in {name}()" in str(caught.value) and "test_graphs.py" in str(caught.value)
        assert cuda.current_stream() is stream
    assert x.sum().item() == 3.0


def test_an_exception_in_the_block_is_the_blocks(cuda, gpu):
    x = lampion.ones(3, device=gpu)
    g = cuda.CUDAGraph()
    with pytest.raises(ZeroDivisionError), cuda.graph(g):
        x + 1
        1 / 0
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        g.replay()
    g, y = captured(cuda, lambda: x + 1)
    g.replay()
    assert y.tolist() == [2.0] * 3


def test_wrong_uses(cuda, gpu):
    g = cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="non-default stream"):
        g.capture_begin()
    with pytest.raises(RuntimeError, match="without capture_begin"):
        g.capture_end()
    with pytest.raises(RuntimeError, match="Unknown capture error mode"):
        g.capture_begin(capture_error_mode="strict")
    s = cuda.Stream()
    x = lampion.ones(2, device=gpu)
    with cuda.stream(s):
        g.capture_begin()
        with pytest.raises(RuntimeError, match="already being captured"):
            cuda.CUDAGraph().capture_begin()
        y = x * 2
        g.capture_end()
        with pytest.raises(RuntimeError, match="already owns a captured graph"):
            g.capture_begin()
        g.replay()
    s.synchronize()
    assert y.tolist() == [2.0, 2.0]
    g.reset()
    with pytest.raises(RuntimeError, match="without a preceding"):
        g.pool()


def test_graphs_share_a_pool(cuda, gpu):
    pool = cuda.graph_pool_handle()
    x = lampion.ones(500, device=gpu)
    a, y = captured(cuda, lambda: (x + 1) * 3, pool=pool)
    held = cuda.memory_reserved()
    b, z = captured(cuda, lambda: (y - 1) * 2, pool=a.pool())
    assert b.pool() is pool and cuda.memory_reserved() - held <= 512 * 4
    a.replay()
    b.replay()
    assert z.tolist() == [10.0] * 500


def test_a_second_stream_joins_a_capture(cuda, gpu):
    x = lampion.ones(64, device=gpu)
    side = cuda.Stream()
    g = cuda.CUDAGraph()
    with cuda.graph(g):
        y = x + 1
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            z = y * 3
        w = y * 5
        cuda.current_stream().wait_stream(side)
        out = z + w
    assert side.capture is None
    g.replay()
    assert out.tolist() == [16.0] * 64


def test_buffers_of_joined_streams_are_kept_apart(cuda, gpu):
    """A buffer that another stream of the capture reads is not used anew within it."""
    x = lampion.ones(700, device=gpu)
    side = cuda.Stream()
    g = cuda.CUDAGraph()
    with cuda.graph(g):
        y = x + 1
        address = y.data_ptr()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            z = y * 3
        y.record_stream(side)
        del y
        w = x * 5
        assert w.data_ptr() != address
        cuda.current_stream().wait_stream(side)
        out = z + w
    event = cuda.Event()
    event.record()
    g.replay()
    assert out.tolist() == [11.0] * 700


def test_memory_is_asked_for_while_capturing(cuda, gpu):
    """A capture that needs new memory does not capture its allocation."""
    x = lampion.ones(7, device=gpu)
    cuda.empty_cache()
    g, y = captured(cuda, lambda: lampion.cat([x] * 5000) + 1)
    for _ in range(3):
        g.replay()
    assert y.shape == (35000,) and y.sum().item() == 70000.0


@pytest.mark.parametrize("seed", range(3))
def test_replays_are_ordered_with_other_work(cuda, gpu, request, seed):
    """In the simulator's deferred mode, work that nobody ordered runs in any order."""
    from real import REAL

    if not REAL:
        request.getfixturevalue("simulated").set(deferred=1, seed=seed)
    x = lampion.zeros(100, device=gpu)
    g, y = captured(cuda, lambda: (x * 2).cos())
    s = cuda.Stream()
    s.wait_stream(cuda.current_stream())
    with cuda.stream(s):
        for k in range(4):
            x.fill_(float(k))
            g.replay()
        done = y.clone()
    cuda.current_stream().wait_stream(s)
    np.testing.assert_allclose(done.cpu().numpy(), np.full(100, np.cos(np.float32(6))), rtol=1e-5)


def test_a_training_step(cuda, gpu):
    """Forward, backward and update in one graph learn as eager steps do."""
    def build():
        lampion.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(gpu)
        return model, lampion.optim.SGD(model.parameters(), lr=0.1)

    x, y = lampion.linspace(-1, 1, 64, device=gpu).reshape(16, 4), lampion.ones(16, 1, device=gpu)

    def step(model, optimizer):
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss

    model, optimizer = build()
    eager = [step(model, optimizer).item() for _ in range(5)]
    model, optimizer = build()
    s = cuda.Stream()
    s.wait_stream(cuda.current_stream())
    with cuda.stream(s):
        losses = [step(model, optimizer).item() for _ in range(2)]
    cuda.current_stream().wait_stream(s)
    g, loss = captured(cuda, lambda: step(model, optimizer))
    for _ in range(3):
        g.replay()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, eager, rtol=1e-4)
    assert losses[-1] < losses[0]


def test_graphed_callables(cuda, gpu):
    lampion.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).to(gpu)
    x = lampion.randn(4, 3, device=gpu, requires_grad=True)

    def run(net, x):
        x = x.detach().clone().requires_grad_()
        for p in model.parameters():
            p.grad = None
        (net(x) ** 2).sum().backward()
        return [x.grad.tolist(), *(p.grad.tolist() for p in model.parameters())]

    inputs = [lampion.randn(4, 3, device=gpu) for _ in range(3)]
    eager = [run(model, i) for i in inputs]
    graphed = cuda.make_graphed_callables(model, (x,))
    assert graphed is model
    for i, want in zip(inputs, eager):
        for a, b in zip(run(graphed, i), want):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    model.eval()  # not the mode that was captured
    assert graphed(inputs[0]).shape == (4, 2)

    double = cuda.make_graphed_callables(lambda t: (t * 2).exp(), (x,))
    np.testing.assert_allclose(double(inputs[1]).tolist(), (inputs[1] * 2).exp().tolist(),
                               rtol=1e-5)
    hooked = nn.Linear(3, 3).to(gpu)
    hooked.register_forward_hook(lambda *a: None)
    with pytest.raises(RuntimeError, match="must not have hooks"):
        cuda.make_graphed_callables(hooked, (x,))


def test_pinned_copies_in_a_graph(cuda, gpu):
    source = lampion.arange(8.0).pin_memory()
    target = lampion.zeros(8, device=gpu)
    g = cuda.CUDAGraph()
    with cuda.graph(g):
        target.copy_(source, non_blocking=True)
        doubled = target * 2
    source.fill_(7.0)
    g.replay()
    cuda.synchronize()
    assert doubled.tolist() == [14.0] * 8


@pytest.mark.parametrize("seed", range(3))
def test_pinned_memory_of_a_dead_graph_is_not_used_early(cuda, gpu, request, seed):
    from real import REAL

    if not REAL:
        request.getfixturevalue("simulated").set(deferred=1, seed=seed)
    target = lampion.zeros(3000, device=gpu)
    source = lampion.full((3000,), 5.0).pin_memory()
    g = cuda.CUDAGraph()
    with cuda.graph(g):
        target.copy_(source, non_blocking=True)
    cuda.synchronize()
    g.replay()
    del g, source
    gc.collect()
    others = [lampion.full((3000,), 6.0).pin_memory() for _ in range(3)]
    assert target.unique().tolist() == [5.0] and others[0].is_pinned()


def test_debug_dump(cuda, gpu, tmp_path, simulated):
    g, _ = captured(cuda, lambda: lampion.ones(3, device=gpu) * 2)
    try:
        g.debug_dump(str(tmp_path / "graph.dot"))
    except RuntimeError as error:
        assert "NOT_SUPPORTED" in str(error)
    else:
        assert (tmp_path / "graph.dot").exists()


OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}, "NAdam": {},
    "RAdam": {}, "Adamax": {}, "RMSprop": {}, "Adadelta": {}, "ASGD": {"t0": 2}, "Rprop": {}}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_captured_steps_of_optimizers_count(cuda, gpu, name):
    """Replayed steps do what as many eager steps do, whatever depends on the step count."""
    options = OPTIMIZERS[name] | ({} if name == "SGD" else {"capturable": True})

    def build(**options):
        ps = [nn.Parameter(lampion.linspace(-1, 1, 6, device=gpu)),
              nn.Parameter(lampion.full((2, 2), 0.5, device=gpu))]
        return ps, getattr(lampion.optim, name)(ps, **options)

    def step(ps, optimizer):
        for k, p in enumerate(ps):
            p.grad = (p.detach() * (k + 1)).cos()
        optimizer.step()

    plain, optimizer = build(**{k: v for k, v in options.items() if k != "capturable"})
    for _ in range(8):
        step(plain, optimizer)
    ps, optimizer = build(**options)
    for _ in range(3):
        step(ps, optimizer)
    g, _ = captured(cuda, lambda: step(ps, optimizer))
    for _ in range(5):
        g.replay()
    for a, b in zip(ps, plain):
        np.testing.assert_allclose(a.tolist(), b.tolist(), rtol=2e-5, atol=1e-7)
    if name != "SGD":
        assert {s["step"].item() for s in optimizer.state.values()} == {8.0}


def test_steps_that_would_repeat_are_refused(cuda, gpu):
    p = nn.Parameter(lampion.ones(3, device=gpu))
    p.grad = lampion.ones(3, device=gpu)
    adam = lampion.optim.Adam([p])
    adam.step()
    with pytest.raises(RuntimeError, match="capturable is False"):
        captured(cuda, adam.step)
    for make in (lambda: lampion.optim.Adam([p], capturable=True),
                 lambda: lampion.optim.SGD([p], lr=0.1, momentum=0.5)):
        with pytest.raises(RuntimeError, match="Run a step before the capture"):
            captured(cuda, make().step)


F = nn.functional
WORK = {
    "products": lambda x: F.linear(x, x[:5], x[0, :5]) @ lampion.ones_like(x[:5]),
    "batched product": lambda x: lampion.bmm(x.reshape(2, 4, 8), x.reshape(2, 8, 4)),
    "convolution": lambda x: F.conv2d(x.reshape(1, 2, 4, 8), x.reshape(4, 2, 2, 4), padding=1),
    "attention": lambda x: F.scaled_dot_product_attention(
        x.reshape(1, 2, 4, 8), x.reshape(1, 2, 4, 8) + 1, x.reshape(1, 2, 4, 8)),
    "sort": lambda x: lampion.sort(x.sin(), dim=1).values,
    "scan": lambda x: x.sin().flatten().cumsum(0),
    "reduction": lambda x: lampion.cat([x.sum(0), x.amax(1), x.std().reshape(1)]),
    "indexing": lambda x: x[x.argmax(0)].gather(1, x.argsort(1)),
    "norms": lambda x: F.layer_norm(x, (8,)) + F.softmax(x, 1),
    "transform": lambda x: lampion.fft.rfft(x).abs(),
    "half": lambda x: (x.half() @ x.half().t()).float(),
}


@pytest.mark.parametrize("name", WORK)
def test_families_of_ops_can_be_captured(cuda, gpu, name):
    """Forward and backward passes replay with new inputs, whichever kernels or libraries do it."""
    def work(x):
        x = x.detach().requires_grad_()
        y = WORK[name](x)
        (y.float() ** 2).sum().backward()
        return y.detach(), x.grad

    first = lampion.linspace(-2, 3, 64, device=gpu).reshape(8, 8)
    second = (first * 7).sin() * 2
    x = first.clone()
    work(x)
    g, out = captured(cuda, lambda: work(x))
    x.copy_(second)
    g.replay()
    for ours, want in zip(out, work(second)):
        np.testing.assert_allclose(ours.tolist(), want.tolist(), rtol=1e-4, atol=1e-4)
