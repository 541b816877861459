"""Random numbers: the stream itself, the same bits on every device, states, and distributions."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import lampion


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x32-10 in plain integers, straight from its definition."""
    (k0, k1), c = key, list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k0, b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return c


def stream_words(seed: int, offset: int, n: int) -> list[int]:
    """The first n words of a draw: word k of group g is element k * groups + g."""
    groups = -(-n // 4)
    key = seed & 0xFFFFFFFF, seed >> 32
    rows = [philox(key, (offset + g & 0xFFFFFFFF, offset + g >> 32, 0, 0)) for g in range(groups)]
    return [rows[g][k] for k in range(4) for g in range(groups)][:n]


def test_the_definition_gives_the_published_numbers():
    assert philox((0, 0), (0, 0, 0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, 0x0123456789ABCDEF])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9, 37])
def test_uniform_numbers_are_words_of_the_stream(seed, n):
    g = lampion.Generator().manual_seed(seed)
    g.set_offset(2**32 - 2)  # the counter carries into its second word
    drawn = lampion.rand(n, generator=g, device="cpu").tolist()
    assert drawn == [(w >> 8) * 2.0**-24 for w in stream_words(seed, 2**32 - 2, n)]
    assert g.get_offset() == 2**32 - 2 + -(-n // 4)


DRAWS = {
    "uniform_": (-1.0, 3.0), "normal_": (0.5, 2.0), "exponential_": (1.5,), "cauchy_": (0.0, 2.0),
    "log_normal_": (0.1, 0.5), "geometric_": (0.3,), "random_": (3, 90), "bernoulli_": (0.3,),
}


def both(draw):
    """The bytes that `draw(device)` gives on the two devices, from one seed."""
    out = []
    for where in ("cpu", "ref"):
        lampion.manual_seed(0xFEDCBA9876543210)
        t = draw(where)
        assert t.device.type == where
        t = t.cpu().contiguous()
        out.append(t.view(lampion.int16).numpy() if t.element_size() == 2 else t.numpy())
    assert out[0].tobytes() == out[1].tobytes()
    return out[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", DRAWS)
def test_devices_draw_the_same_bits(name, dtype):
    for n in (1, 6, 500):
        both(lambda where, n=n: getattr(lampion.empty(
            n, dtype=getattr(lampion, dtype), device=where), name)(*DRAWS[name]))


@pytest.mark.parametrize("draw", [
    lambda d: lampion.randperm(100, device=d),
    lambda d: lampion.randint(-(2**63), 2**63 - 1, (50,), device=d),
    lambda d: lampion.randint(-5, 2**31, (50,), device=d),
    lambda d: lampion.randint(10, (3, 5), device=d, dtype=lampion.uint8),
    lambda d: lampion.bernoulli(lampion.full((50,), 0.25, device=d)),
    lambda d: lampion.poisson(lampion.arange(50.0, device=d)),
    lambda d: lampion.binomial(lampion.arange(90.0, device=d), lampion.linspace(
        0, 1, 90, device=d)),
    lambda d: lampion.multinomial(lampion.arange(9.0, device=d), 20, True),
    lambda d: lampion.multinomial(lampion.arange(9.0, device=d), 5),
    lambda d: lampion.dropout(lampion.ones(77, device=d), 0.3, True),
    lambda d: lampion.randn(9, dtype=lampion.complex64, device=d).view(lampion.float32),
], ids=["randperm", "randint64", "randint32", "randint8", "bernoulli", "poisson", "binomial",
        "multinomial", "multinomial_once", "dropout", "complex"])
def test_devices_choose_alike(draw):
    both(draw)


def close_to(values, cdf):
    """Kolmogorov and Smirnov's statistic, at odds of one in a million of a false alarm."""
    x = np.sort(values.double().numpy())
    p = cdf(x)
    n = len(x)
    gap = max(np.max(p - np.arange(n) / n), np.max(np.arange(1, n + 1) / n - p))
    return gap < 2.7 / math.sqrt(n)


@pytest.mark.parametrize("dtype", [lampion.float32, lampion.float64])
def test_distributions(dtype):
    lampion.manual_seed(11)
    t = lampion.empty(50_000, dtype=dtype, device="cpu")
    erf = np.vectorize(math.erf)
    assert close_to(t.uniform_(-2, 3), lambda x: (x + 2) / 5)
    assert close_to(t.normal_(1, 2), lambda x: 0.5 + 0.5 * erf((x - 1) / 2 / math.sqrt(2)))
    assert close_to(t.exponential_(2), lambda x: -np.expm1(-2 * x))
    assert close_to(t.cauchy_(1, 3), lambda x: 0.5 + np.arctan((x - 1) / 3) / math.pi)
    assert close_to(t.log_normal_(0.3, 0.7), lambda x: 0.5 + 0.5 * erf(
        (np.log(x) - 0.3) / 0.7 / math.sqrt(2)))


def likely(counts, expected):
    """Pearson's statistic within five standard deviations."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    keep = expected > 5
    counts = np.append(counts[keep], counts[~keep].sum())
    expected = np.append(expected[keep], max(expected[~keep].sum(), 1e-9))
    stat = ((counts - expected) ** 2 / np.maximum(expected, 1.0)).sum()
    return stat < len(counts) + 5 * math.sqrt(2 * len(counts))


@pytest.mark.parametrize("rate", [0.3, 4.0, 9.99, 10.0, 60.0])
def test_poisson_counts(rate):
    lampion.manual_seed(3)
    n = 20_000
    drawn = lampion.poisson(lampion.full((n,), rate, device="cpu")).long()
    pmf = [math.exp(k * math.log(rate) - rate - math.lgamma(k + 1)) for k in range(200)]
    assert likely(drawn.bincount(minlength=200).tolist(), np.array(pmf) * n)


@pytest.mark.parametrize("dtype", [lampion.float32, lampion.float64])
@pytest.mark.parametrize("trials, chance", [
    (5, 0.3), (39, 0.25), (40, 0.25), (40, 0.9), (1000, 0.5), (30_000, 0.3), (500, 0.9999)])
def test_binomial_counts(trials, chance, dtype):
    lampion.manual_seed(3)
    n = 20_000
    count = lampion.full((n,), float(trials), dtype=dtype, device="cpu")
    drawn = lampion.binomial(count, lampion.full((), chance, dtype=dtype, device="cpu")).long()
    logs = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(chance) + (trials - k) * math.log1p(-chance) for k in range(trials + 1)]
    assert likely(drawn.bincount(minlength=trials + 1).tolist(), np.exp(logs) * n)


def test_binomial_at_the_ends():
    nan = float("nan")
    count = lampion.tensor([3.0, 3.0, 0.0, -1.0, nan, 5.0], device="cpu")
    chance = lampion.tensor([0.0, 1.0, 0.5, 0.5, 0.5, nan], device="cpu")
    np.testing.assert_equal(lampion.binomial(count, chance).numpy(), [0, 3, 0, 0, nan, nan])
    with pytest.raises(RuntimeError, match="Double"):
        lampion.binomial(count, chance.double())


def test_counts_of_integers_and_choices():
    lampion.manual_seed(4)
    n = 40_000
    for low, high, shift in ((0, 16, 0), (0, 2**28, 24), (-(2**63), 2**63 - 1, 60)):
        t = lampion.randint(low, high, (n,), device="cpu") >> shift
        assert likely((t - t.min()).bincount(minlength=16).tolist(), [n / 16] * 16)
    weights = lampion.tensor([0.0, 1, 2, 0, 3, 4, 0], device="cpu")
    expected = weights.numpy() / 10 * n
    for drawn in (weights.multinomial(n, True), weights.expand(n, 7).multinomial(1)[:, 0]):
        counts = drawn.bincount(minlength=7).numpy()
        assert (counts[[0, 3, 6]] == 0).all()
        assert likely(counts, expected)
    trials = lampion.empty(n, dtype=lampion.int64, device="cpu").geometric_(0.4)
    assert likely(trials.bincount(minlength=60).tolist(),
                  [0, *[0.4 * 0.6**k * n for k in range(59)]])


def test_without_replacement_no_index_comes_twice():
    drawn = lampion.ones(200, 6, device="cpu").multinomial(6)
    assert (drawn.sort(-1)[0] == lampion.arange(6)).all()
    assert sorted(lampion.randperm(999, device="cpu").tolist()) == list(range(999))


def test_a_state_is_restored():
    g = lampion.Generator().manual_seed(5)
    lampion.randn(10, generator=g)
    state, clone, text = g.get_state(), copy.deepcopy(g), pickle.dumps(g)
    expected = lampion.rand(7, generator=g).tolist()
    for other in (clone, pickle.loads(text), lampion.Generator().set_state(state)):
        assert lampion.rand(7, generator=other).tolist() == expected
    assert g.initial_seed() == 5
    kept = g.graphsafe_get_state()
    expected = lampion.rand(7, generator=g).tolist()
    assert lampion.rand(7, generator=g.graphsafe_set_state(kept)).tolist() == expected
    with pytest.raises(RuntimeError, match="wrong size"):
        g.set_state(state[:8])
    with pytest.raises(TypeError, match="ByteTensor"):
        g.set_state(state.float())
    with pytest.raises(ValueError, match="Overflow"):
        g.manual_seed(2**64)
    assert g.manual_seed(-1).initial_seed() == 2**64 - 1


def test_default_generators_and_fork():
    lampion.manual_seed(6)
    assert lampion.initial_seed() == 6
    state = lampion.get_rng_state()
    first = lampion.rand(5, device="cpu").tolist()
    with lampion.random.fork_rng():
        lampion.manual_seed(99)
        lampion.rand(50, device="cpu")
    second = lampion.rand(5, device="cpu").tolist()
    lampion.set_rng_state(state)
    assert lampion.rand(5, device="cpu").tolist() == first
    assert lampion.rand(5, device="cpu").tolist() == second


def test_bounds_are_kept():
    lampion.manual_seed(7)
    for d in (lampion.float16, lampion.bfloat16, lampion.float32, lampion.float64):
        t = lampion.rand(40_000, dtype=d, device="cpu")
        assert t.min().item() >= 0 and t.max().item() < 1
        t.uniform_(1.0, 1.001)  # few values lie between: rounding must not give the upper end
        assert t.min().item() >= 1.0 and t.max().item() <= 1.001
        assert lampion.isfinite(t.exponential_()).all() and t.min().item() > 0


def test_writes_are_seen():
    x = lampion.ones(4, requires_grad=True)
    y = x * 2
    z = y * y
    y.normal_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    with pytest.raises(RuntimeError, match="leaf"):
        x.uniform_()
    with pytest.raises(RuntimeError, match="leaf"):
        x[:2].uniform_()
    w = x * 3
    w.bernoulli_(0.5)
    w.sum().backward()
    assert x.grad is None or not x.grad.any()  # nothing of x is left in w


def test_strided_targets_are_filled():
    t = lampion.zeros(6, 8, device="cpu")
    t[:, ::2].uniform_(1, 2)
    assert (t[:, ::2] >= 1).all() and (t[:, 1::2] == 0).all()
    t.t().normal_()
    assert len(set(t.flatten().tolist())) == 48
    with pytest.raises(RuntimeError, match="single memory location"):
        lampion.zeros(1, device="cpu").expand(3).uniform_()


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "gaps"])
def test_dropout_gradient_repeats_the_choice(layout):
    lampion.manual_seed(8)
    x = lampion.randn(12, 10, device="cpu", requires_grad=True)
    v = {"contiguous": x, "transposed": x.t(), "gaps": x[:, ::3]}[layout]
    y = lampion.nn.functional.dropout(v, 0.4)
    kept = (y != 0).float() / 0.6
    assert 0.3 < kept.mean() * 0.6 < 0.9
    assert lampion.allclose(y, v * kept)
    seed = lampion.randn(*y.shape, device="cpu")
    mine, = lampion.autograd.grad(y, v, seed, retain_graph=True)
    assert lampion.allclose(mine, seed * kept)
    g, = lampion.autograd.grad(y.pow(2).sum(), v, create_graph=True)
    second, = lampion.autograd.grad(g.sum(), v)
    assert lampion.allclose(second, 2 * kept * kept)


def test_refusals():
    one = lampion.ones(3, device="cpu")
    for call, error in (
            (lambda: one.normal_(0, -1), RuntimeError), (lambda: one.uniform_(2, 1), RuntimeError),
            (lambda: one.bernoulli_(1.5), RuntimeError), (lambda: one.random_(3, 3), RuntimeError),
            (lambda: (one * 2).bernoulli(), RuntimeError),
            (lambda: one.exponential_(0), RuntimeError),
            (lambda: one.geometric_(1.0), RuntimeError),
            (lambda: lampion.randint(5, 5, (2,)), RuntimeError),
            (lambda: lampion.randint(0, 300, (2,), dtype=lampion.uint8), RuntimeError),
            (lambda: lampion.randperm(-1), RuntimeError),
            (lambda: lampion.rand(2, generator=3), TypeError),
            (lambda: lampion.rand(2, dtype=lampion.int64), NotImplementedError),
            (lambda: lampion.dropout(one, 1.5, True), RuntimeError),
            (lambda: (-one).multinomial(1), RuntimeError),
            (lambda: (one * 0).multinomial(1), RuntimeError),
            (lambda: one.multinomial(4), RuntimeError),
            (lambda: lampion.poisson(-one), RuntimeError)):
        with pytest.raises(error):
            call()
