"""Compiled programs as CUDA graphs: values, moved memory, random numbers, streams, captures."""

from __future__ import annotations

import gc
import random

import pytest

import lampion
from lampion import config, nn

pytestmark = pytest.mark.usefixtures("gpu")
F = nn.functional


@pytest.fixture
def cuda(monkeypatch):
    import lampion.cuda
    from lampion_cuda.checks import Checks
    from lampion_cuda.streams import opened

    gpu = opened(None)
    gpu.checks = gpu.checks or Checks(gpu)
    monkeypatch.setattr(gpu.checks, "now", False)  # which waits for every index
    yield lampion.cuda
    assert not lampion.cuda.is_current_stream_capturing()


def equal(a, b):
    assert a.dtype is b.dtype and a.shape == b.shape
    assert lampion.allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)


def graph_launches():
    import simulator

    return simulator.get("graph_launches")


def program(seed: int, weights):
    """A random function of a float matrix and a row of indices: (its text, the function)."""
    rng = random.Random(seed)
    lines, names = [], ["x"]
    for n in range(rng.randint(5, 9)):
        a, b = rng.choice(names), rng.choice(names[-2:])
        lines.append(f"v{n} = " + rng.choice([
            f"{a} * {b} - 0.5", f"{a}.tanh() + {b}", f"{a} @ w[{rng.randrange(3)}]",
            f"F.linear({a}, w[{rng.randrange(3)}], bias)", f"{a}.softmax({rng.randrange(2)})",
            f"F.dropout({a}, 0.4) + {b}", f"{a}.sort(1)[0]", f"{a}.cumsum(1) * 0.1",
            f"{a}.index_add(0, index, {b}[index] * 0.1)", f"lampion.cat([{a}, {b}], 1)[:, 2:8]",
            f"{a}.t().contiguous().t() * {b}", f"{a}.clone().add_({b}).clamp_(-2, 2)",
            f"({a} + lampion.rand_like({b}))", f"{a}.sum(0, keepdim=True) * 0.1 + {b}",
            f"F.layer_norm({a}, (6,)) * {b}",
        ]))
        names.append(f"v{n}")
    last = f"return {names[-1]}, {rng.choice(names[1:])}"
    text = "\n    ".join(["def f(x, index):", *lines, last])
    space = {"F": F, "lampion": lampion, "w": weights, "bias": weights[0][0]}
    exec(text, space)
    return text, space["f"]


@pytest.mark.parametrize("settings", [
    {}, {"order": -1}, {"order": 5}, {"deferred": 1, "seed": 3}],
    ids=str)
def test_random_programs_are_as_in_eager_mode(cuda, simulated, settings):
    simulated.set(**settings)
    before = graph_launches()
    lampion.manual_seed(1)
    weights = [lampion.randn(6, 6, device="cuda") * 0.4 for _ in range(3)]
    for seed in range(6):
        text, f = program(seed, weights)
        compiled = lampion.compile(f)
        kept = []
        for call in range(9):
            x = lampion.randn(6, 6, device="cuda")
            index = lampion.randint(0, 6, (6,), device="cuda")
            state = cuda.get_rng_state()
            want = f(x, index)
            after = cuda.get_rng_state()
            cuda.set_rng_state(state)
            got = compiled(x, index)
            assert cuda.get_rng_state().tolist() == after.tolist(), text
            if call % 3:
                kept.append((got, want))  # their memory does not come again soon
            for a, b in zip(got, want):
                equal(a, b)
        for got, want in kept:  # nobody has written to them since
            for a, b in zip(got, want):
                equal(a, b)
    assert graph_launches() > before + 10


def trained(compiled: bool, steps: int, hold: bool):
    lampion.manual_seed(4)
    model = nn.Sequential(nn.Linear(96, 16), nn.GELU(), nn.Dropout(0.2), nn.LayerNorm(16),
                          nn.Linear(16, 4)).to("cuda")
    optimizer = lampion.optim.AdamW(model.parameters(), lr=0.05)

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    run = lampion.compile(step) if compiled else step
    losses = []
    for _ in range(steps):
        x = lampion.randn(8, 96).to("cuda")
        loss = run(x, lampion.randint(0, 4, (8,)).to("cuda"))
        losses.append(loss if hold else loss.item())
    return [float(loss) for loss in losses], [p.tolist() for p in model.parameters()]


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("settings", [{}, {"deferred": 1, "seed": 0}, {"deferred": 1, "seed": 9}],
                         ids=str)
def test_training_steps(cuda, simulated, settings, hold):
    simulated.set(**settings)
    want = trained(False, 12, hold)
    before = graph_launches()
    got = trained(True, 12, hold)
    assert graph_launches() >= before + 6
    assert got[0] == pytest.approx(want[0], rel=1e-4)
    for a, b in zip(got[1], want[1]):
        equal(lampion.tensor(a), lampion.tensor(b))


def deep(depth=4, width=6):
    lampion.manual_seed(2)
    weights = [lampion.randn(width, width, device="cuda") * 0.5 for _ in range(depth)]

    def f(x):
        for w in weights:
            x = (x @ w).softmax(-1)
        return x

    return f


def test_memory_that_was_freed_and_is_someone_elses(cuda, simulated):
    """An input's address is that of another tensor in the next call, and back."""
    f = deep()
    compiled = lampion.compile(f)
    with lampion.no_grad():
        for k in range(20):
            inputs = [lampion.full((5, 6), float(k + j), device="cuda") for j in range(1 + k % 3)]
            garbage = lampion.full((5, 6), float("nan"), device="cuda")
            x = inputs.pop() * 0.1
            del inputs
            equal(compiled(x), f(x))
            del x, garbage
            if k % 5 == 4:
                gc.collect()
                cuda.empty_cache()  # the addresses that graphs know belong to nobody now


def test_more_addresses_than_graphs(cuda, simulated):
    """Results that are kept for long: what cannot be moved is run launch by launch."""
    f = deep()
    compiled = lampion.compile(f)
    kept = []
    with lampion.no_grad():
        for _ in range(60):
            x = lampion.randn(5, 6, device="cuda")
            kept.append((x, compiled(x)))
        assert simulated.get("graph_execs") <= 9
        for x, y in kept:
            equal(y, f(x))


def test_graphs_and_their_memory_go_with_the_program(cuda, simulated):
    gc.collect()
    graphs, execs = simulated.get("graphs"), simulated.get("graph_execs")
    cuda.empty_cache()
    reserved = cuda.memory_reserved()
    f = lampion.compile(deep())
    with lampion.no_grad():
        x = lampion.randn(5, 6, device="cuda")
        for _ in range(4):
            f(x)
        assert simulated.get("graph_execs") > execs
        del f, x
    gc.collect()
    cuda.empty_cache()
    assert (simulated.get("graphs"), simulated.get("graph_execs")) == (graphs, execs)
    assert cuda.memory_reserved() == reserved


@pytest.mark.parametrize("seed", [0, 3, 8])
def test_streams(cuda, simulated, seed):
    """Each stream has graphs of its own; orders that nobody asked for are not kept."""
    simulated.set(deferred=1, seed=seed)
    f = deep()
    compiled = lampion.compile(f)
    sides = [cuda.Stream(), cuda.Stream()]
    with lampion.no_grad():
        for k in range(8):
            x = lampion.randn(5, 6, device="cuda")
            results = []
            for side in sides:
                side.wait_stream(cuda.current_stream())
                with cuda.stream(side):
                    results.append(compiled(x + k))
                    results[-1].record_stream(cuda.current_stream())
            for side in sides:
                cuda.current_stream().wait_stream(side)
            want = f(x + k)
            for y in results:
                equal(y, want)


def test_a_missing_wait_is_noticed(cuda, simulated):
    """The control of the tests above: without the wait, some order of the streams is wrong."""
    f = deep()
    compiled = lampion.compile(f)
    wrong = 0
    with lampion.no_grad():
        for seed in range(1, 6):
            simulated.set(deferred=1, seed=seed)
            x = lampion.randn(5, 6, device="cuda")
            side = cuda.Stream()
            with cuda.stream(side):
                for _ in range(4):
                    compiled(x * 0)
                cuda.synchronize()
            x = lampion.randn(5, 6, device="cuda") + 1
            with cuda.stream(side):
                y = compiled(x)
                y.record_stream(side)
            side.synchronize()
            got = y.cpu()
            cuda.synchronize()
            wrong += not lampion.allclose(got, f(x).cpu(), equal_nan=False)
            simulated.reset()
    assert wrong


def test_a_compiled_program_in_a_capture(cuda, simulated):
    """Within the program's own capture its launches become part of that graph, draws included."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.GELU(), nn.Linear(8, 3)).to("cuda")
    run = lampion.compile(model)
    x = lampion.randn(4, 6, device="cuda")
    target = lampion.tensor([0, 1, 2, 0], device="cuda")
    score = lampion.compile(lambda y: F.cross_entropy(y * 2 + 1, target).exp())
    with lampion.no_grad():
        for _ in range(4):
            score(run(x))
        lampion.manual_seed(7)
        want = [score(model(x)).item() for _ in range(3)]
        g = cuda.CUDAGraph()
        with cuda.graph(g):
            out = score(run(x))
        lampion.manual_seed(7)
        got = []
        for _ in range(3):
            g.replay()
            got.append(out.item())
    assert got == pytest.approx(want, rel=1e-5)


def test_draws_go_on(cuda, simulated):
    def f(x):
        for k in range(4):
            x = (F.dropout(x, 0.3) @ x).tanh() + lampion.rand_like(x)
        return x

    compiled = lampion.compile(f)
    x = lampion.randn(6, 6, device="cuda")
    before = graph_launches()
    for seed in (1, 2):
        lampion.manual_seed(seed)
        want = [f(x) for _ in range(6)]
        lampion.manual_seed(seed)
        for y in want:
            equal(compiled(x), y)
    assert graph_launches() > before


def test_what_cannot_be_captured_runs_as_before(cuda, simulated, monkeypatch):
    """Ops on the host stay between the graphs; a launch that refuses keeps its stretch out."""
    from lampion_cuda import sequence

    said = []

    class Log:
        def debug(self, text, **fields):
            said.append((text, fields))

    monkeypatch.setattr(sequence, "_log", Log())
    w = lampion.randn(4, 4, device="cuda")

    def f(x):
        for _ in range(3):
            x = (x @ w).softmax(-1)
        x = lampion.linalg.pinv(x)
        for _ in range(3):
            x = (x @ w).tanh().cumsum(0)
        return x

    compiled = lampion.compile(f)
    for _ in range(5):
        x = lampion.eye(4, device="cuda") + lampion.rand(4, 4, device="cuda") * 0.1
        equal(compiled(x), f(x))
    assert any(text == "not in a CUDA graph" for text, _ in said), said

    said.clear()
    monkeypatch.setattr(sequence._Stretch, "_last", lambda *a: (_ for _ in ()).throw(
        RuntimeError("no place")))
    f = deep(width=8)
    compiled = lampion.compile(lambda x: f(x) + lampion.rand_like(x) * 0)
    for _ in range(9):
        x = lampion.rand(4, 8, device="cuda")
        equal(compiled(x), f(x))
    assert [fields["why"] for text, fields in said if "why" in fields] == ["no place"]
    assert not cuda.is_current_stream_capturing()
    assert lampion.ones(3, device="cuda").sum().item() == 3


def test_a_launch_that_fails(cuda, simulated):
    f = deep()
    compiled = lampion.compile(f)
    with lampion.no_grad():
        x = lampion.randn(5, 6, device="cuda")
        for _ in range(4):
            compiled(x)
        simulated.set(fail_launch=1)
        with pytest.raises(RuntimeError):
            compiled(x)
            cuda.synchronize()
    simulated.reset()


def test_indices_are_looked_at_later(cuda, simulated, monkeypatch):
    """A compiled step waits for the GPU no more than an eager one, and errors name the op."""
    table = lampion.randn(10, 6, device="cuda")

    def f(index):
        x = F.embedding(index, table)
        for _ in range(3):
            x = (x @ table[:6]).softmax(-1)
        return x

    compiled = lampion.compile(f)
    index = lampion.tensor([1, 9, 3], device="cuda")
    for _ in range(3):
        equal(compiled(index), f(index))
    from lampion_cuda.plugin import CUDABackend

    waited = []
    with monkeypatch.context() as patched:
        patched.setattr(CUDABackend, "copy_to_host", lambda *a: waited.append(a))
        for _ in range(3):
            compiled(index)
    assert not waited
    compiled(lampion.tensor([1, 10, 3], device="cuda"))
    with pytest.raises(IndexError, match="embedding.* 10 .*found late"):
        cuda.synchronize()
    equal(compiled(index), f(index))


def test_graphs_can_be_switched_off(cuda, simulated):
    f = deep()
    with config.override({"backend.cuda.graphs": False}), lampion.no_grad():
        compiled = lampion.compile(f)
        before = graph_launches()
        for _ in range(4):
            x = lampion.randn(5, 6, device="cuda")
            equal(compiled(x), f(x))
    assert graph_launches() == before


def test_threads_share_a_program(cuda, simulated):
    import threading

    f = deep()
    compiled = lampion.compile(f)
    failures = []

    def work(seed):
        try:
            with lampion.no_grad(), cuda.stream(cuda.Stream()):
                for k in range(12):
                    x = lampion.full((5, 6), 0.1 * (seed + k), device="cuda")
                    equal(compiled(x), f(x))
        except BaseException as error:  # told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures
