"""lampion.distributions against torch.distributions: values, moments, gradients, shapes, errors."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest

import lampion

torch = pytest.importorskip("torch")
OURS, THEIRS = lampion.distributions, torch.distributions


def a(*values):
    return np.array(values, dtype=np.float64)


def spread(low, high, *shape, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def matrices(*shape, seed=0):
    """Positive definite matrices."""
    m = np.random.default_rng(seed).normal(size=shape)
    return m @ np.swapaxes(m, -1, -2) + shape[-1] * np.eye(shape[-1])


def weights(*shape, seed=0):
    w = spread(0.1, 1, *shape, seed=seed)
    return w / w.sum(-1, keepdims=True)


# name -> parameters by keyword, several of each
CASES: dict[str, list[dict]] = {
    "Bernoulli": [{"probs": a(0.1, 0.5, 0.9)}, {"logits": spread(-3, 3, 2, 3)}, {"probs": a(0, 1)},
                  {"probs": 0.3}],
    "Beta": [{"concentration1": spread(1.1, 4, 2, 3), "concentration0": spread(1.1, 3, 3)},
             {"concentration1": 0.5, "concentration0": a(0.7, 0.2)}],
    "Binomial": [{"total_count": 5, "probs": a(0.1, 0.5, 0.9)},
                 {"total_count": a(4.0), "logits": spread(-3, 3, 2, 3)}],
    "Categorical": [{"probs": weights(2, 4)}, {"logits": spread(-2, 2, 3, 2, 5)},
                    {"probs": a(0, 1, 3)}],
    "Cauchy": [{"loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)},
               {"loc": 0.0, "scale": 1.0}],
    "Chi2": [{"df": a(1.0, 2.5, 7.0)}],
    "ContinuousBernoulli": [{"probs": a(0.1, 0.4995, 0.5, 0.9)}, {"logits": spread(-3, 3, 2, 3)}],
    "Dirichlet": [{"concentration": spread(1.5, 4, 2, 3)}, {"concentration": a(0.5, 0.7)}],
    "Exponential": [{"rate": spread(0.3, 3, 2, 3)}, {"rate": 2.0}],
    "FisherSnedecor": [{"df1": spread(2.5, 6, 2, 3), "df2": spread(4.5, 9, 3)},
                       {"df1": a(1.0, 3.0), "df2": a(1.5, 3.0)}],
    "Gamma": [{"concentration": spread(0.3, 5, 2, 3), "rate": spread(0.5, 3, 3)}],
    "GeneralizedPareto": [{"loc": spread(-1, 1, 3), "scale": spread(0.5, 2, 3),
                           "concentration": a(-0.3, 0.0, 0.4)},
                          {"loc": 1.0, "scale": 2.0, "concentration": a(0.7, 1.5)}],
    "Geometric": [{"probs": a(0.1, 0.5, 1.0)}, {"logits": spread(-3, 3, 2, 3)}],
    "Gumbel": [{"loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)}],
    "HalfCauchy": [{"scale": spread(0.5, 2, 2, 3)}],
    "HalfNormal": [{"scale": spread(0.5, 2, 2, 3)}, {"scale": 1.5}],
    "InverseGamma": [{"concentration": spread(0.5, 5, 2, 3), "rate": spread(0.5, 3, 3)}],
    "Kumaraswamy": [{"concentration1": spread(1.1, 4, 2, 3), "concentration0": spread(1.1, 3, 3)}],
    "LKJCholesky": [{"dim": 3, "concentration": a(0.5, 1.0, 2.5)}, {"dim": 2}],
    "Laplace": [{"loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)}],
    "LogNormal": [{"loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)}],
    "LogisticNormal": [{"loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)}],
    "LowRankMultivariateNormal": [
        {"loc": spread(-1, 1, 3), "cov_factor": spread(-1, 1, 3, 2), "cov_diag": spread(1, 2, 3)},
        {"loc": spread(-1, 1, 4, 3), "cov_factor": spread(-1, 1, 3, 1),
         "cov_diag": spread(1, 2, 4, 3)}],
    "Multinomial": [{"total_count": 4, "probs": weights(2, 3)},
                    {"total_count": 6, "logits": spread(-1, 1, 4)}],
    "MultivariateNormal": [
        {"loc": spread(-1, 1, 3), "covariance_matrix": matrices(3, 3)},
        {"loc": spread(-1, 1, 2, 4, 3), "precision_matrix": matrices(4, 3, 3)},
        {"loc": spread(-1, 1, 3), "scale_tril": np.linalg.cholesky(matrices(2, 3, 3))}],
    "NegativeBinomial": [{"total_count": 3.0, "probs": a(0.1, 0.5, 0.9)},
                         {"total_count": spread(0.5, 4, 3), "logits": spread(-2, 2, 2, 3)}],
    "Normal": [{"loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)},
               {"loc": 0.0, "scale": 1.0}],
    "OneHotCategorical": [{"probs": weights(2, 4)}, {"logits": spread(-2, 2, 5)}],
    "OneHotCategoricalStraightThrough": [{"probs": weights(2, 4)}],
    "Pareto": [{"scale": spread(0.5, 2, 2, 3), "alpha": spread(2.5, 4, 3)},
               {"scale": 1.0, "alpha": a(0.5, 1.5)}],
    "Poisson": [{"rate": a(0.0, 0.5, 20.0)}],
    "RelaxedBernoulli": [{"temperature": a(0.7), "probs": a(0.1, 0.5, 0.9)},
                         {"temperature": a(2.0), "logits": spread(-2, 2, 2, 3)}],
    "RelaxedOneHotCategorical": [{"temperature": np.array(0.7), "probs": weights(2, 4)},
                                 {"temperature": np.array(2.0), "logits": spread(-2, 2, 3)}],
    "StudentT": [{"df": a(0.5, 1.5, 4.0), "loc": spread(-1, 1, 2, 3), "scale": spread(0.5, 2, 3)},
                 {"df": 3.0}],
    "Uniform": [{"low": spread(-1, 0, 2, 3), "high": spread(0.5, 2, 3)}],
    "VonMises": [{"loc": spread(-1, 1, 2, 3), "concentration": spread(0.5, 20, 3)}],
    "Weibull": [{"scale": spread(0.5, 2, 2, 3), "concentration": spread(1.2, 4, 3)}],
    "Wishart": [{"df": a(4.0, 6.5), "covariance_matrix": matrices(3, 3)},
                {"df": a(3.5, 5.0), "scale_tril": np.linalg.cholesky(matrices(2, 3, 3))},
                {"df": a(3.0), "precision_matrix": matrices(2, 2)}],
}
ALL = [(name, k) for name, cases in CASES.items() for k in range(len(cases))]
every = pytest.mark.parametrize("name, k", ALL, ids=[f"{n}-{k}" for n, k in ALL])

# Where torch has a formula that does not hold: log1p(-a) of numbers above 1.
WRONG = {("Kumaraswamy", "mode")}
# torch's is "Multinomial()": its parameters are those of a Categorical inside.
OTHER_REPR = {"Multinomial", "OneHotCategorical", "OneHotCategoricalStraightThrough"}
# torch's log_prob refuses float64.
SINGLE = {"GeneralizedPareto"}
# torch's polynomials for log I0 and I1 / I0, in any dtype.
ROUGH = {"VonMises": 1e-5}


def build(library, name, parameters, grad=False, **more):
    make = library.tensor
    given = {}
    for key, value in parameters.items():
        if isinstance(value, np.ndarray):
            value = make(value, dtype=library.float32 if name in SINGLE else library.float64)
            if grad:
                value.requires_grad_()
        elif isinstance(value, float):
            value = value if not grad else make(value, dtype=library.float64, requires_grad=True)
        given[key] = value
    module = library.distributions
    return getattr(module, name)(**given, **more), given


def pair(name, k, **more):
    return build(lampion, name, CASES[name][k], **more), build(torch, name, CASES[name][k], **more)


def same(ours, theirs, rtol=1e-7, atol=1e-9):
    """Equal results, or errors of one type."""
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert str(ours.dtype).rpartition(".")[2] == str(theirs.dtype).rpartition(".")[2]
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=rtol, atol=atol)


def outcome(fn):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fn(), None
    except Exception as error:  # noqa: BLE001  (both libraries must fail alike)
        return None, error


def alike(ours, theirs, **tolerance):
    (x, error), (y, expected) = outcome(ours), outcome(theirs)
    if expected is not None:
        assert error is not None and isinstance(error, type(expected)), (error, expected, x)
        return
    if error is not None:
        raise error
    same(x, y, **tolerance)


def tolerance(p, name=""):
    if name in ROUGH:
        return {"rtol": ROUGH[name], "atol": 1e-6}
    return {} if "float64" in str(p.dtype) else {"rtol": 2e-5, "atol": 1e-5}


def sampled(dist, shape=(3,)):
    torch.manual_seed(1)
    return dist.sample(shape)


@every
def test_moments(name, k):
    (p, _), (q, _) = pair(name, k)
    assert p.batch_shape == tuple(q.batch_shape) and p.event_shape == tuple(q.event_shape)
    assert p.has_rsample == q.has_rsample
    assert p.has_enumerate_support == q.has_enumerate_support
    t = tolerance(sampled(q), name)
    for what in ("mean", "mode", "variance", "stddev"):
        if (name, what) not in WRONG:
            alike(lambda: getattr(p, what), lambda: getattr(q, what), **t)
    for what in ("entropy", "perplexity"):
        alike(lambda: getattr(p, what)(), lambda: getattr(q, what)(), **t)


@every
def test_values(name, k):
    (p, _), (q, _) = pair(name, k)
    y = sampled(q)
    x = lampion.tensor(y.numpy())
    t = tolerance(y, name)
    same(p.log_prob(x), q.log_prob(y), **t)
    alike(lambda: p.cdf(x), lambda: q.cdf(y), **t)
    u = spread(0.05, 0.95, *y.shape)
    ours, theirs = lampion.tensor(u, dtype=x.dtype), torch.tensor(u, dtype=y.dtype)
    alike(lambda: p.icdf(ours), lambda: q.icdf(theirs), **t)
    for expand in (True, False):
        alike(lambda: p.enumerate_support(expand), lambda: q.enumerate_support(expand), **t)
    assert repr(p.support).replace("lampion.", "") == repr(q.support).replace("torch.", "") or (
        "tensor" in repr(q.support))
    assert (p.support.event_dim, p.support.is_discrete) == (
        q.support.event_dim, q.support.is_discrete)
    same(p.support.check(x), q.support.check(y))


@every
def test_samples(name, k):
    (p, _), (q, _) = pair(name, k)
    for shape in ((), (2,), (4, 1)):
        x, y = p.sample(shape), q.sample(shape)
        assert tuple(x.shape) == tuple(y.shape) and str(x.dtype)[8:] == str(y.dtype)[6:]
        assert bool(p.support.check(x).all()) and not x.requires_grad
    assert tuple(p.sample((0,)).shape) == (0, *q.batch_shape, *q.event_shape)


@every
def test_expand(name, k):
    (p, _), (q, _) = pair(name, k)
    shape = (5, *q.batch_shape)
    wide, theirs = p.expand(shape), q.expand(torch.Size(shape))
    assert type(wide) is type(p) and wide.batch_shape == shape
    assert wide.event_shape == tuple(theirs.event_shape)
    y = sampled(theirs, ())
    x = lampion.tensor(y.numpy())
    same(wide.log_prob(x), theirs.log_prob(y), **tolerance(y, name))
    assert tuple(wide.sample((2,)).shape) == tuple(theirs.sample((2,)).shape)
    if (name, "mean") not in WRONG:
        alike(lambda: wide.mean, lambda: theirs.mean, **tolerance(y))


@every
def test_reprs(name, k):
    (p, _), (q, _) = pair(name, k)
    expected = repr(q).replace("torch.Size", "lampion.Size").replace(", dtype=torch.float64", "")
    assert name in OTHER_REPR or repr(p).replace(", dtype=lampion.float64", "") == expected
    assert repr(p.arg_constraints).replace("lampion", "torch") == repr(q.arg_constraints)


@every
def test_gradients_of_log_prob(name, k):
    (p, ours), (q, theirs) = pair(name, k, grad=True, validate_args=False)
    y = sampled(q).detach()
    smooth = q.has_rsample and name not in ("HalfNormal", "HalfCauchy")
    y.requires_grad_(smooth and name != "OneHotCategoricalStraightThrough")
    x = lampion.tensor(y.detach().numpy(), requires_grad=y.requires_grad)
    r = spread(0.5, 1, *q.log_prob(y).shape)
    leaves = [v for v in theirs.values() if isinstance(v, torch.Tensor)] + [y] * y.requires_grad
    mine = [v for v in ours.values() if hasattr(v, "meta")] + [x] * y.requires_grad
    if not leaves:
        pytest.skip("no parameter is a tensor")
    expected = torch.autograd.grad((q.log_prob(y) * torch.tensor(r)).sum(), leaves,
                                   allow_unused=True)
    got = lampion.autograd.grad((p.log_prob(x) * lampion.tensor(r)).sum(), mine, allow_unused=True)
    for g, e in zip(got, expected):
        zero = e is None or not e.abs().max() > 0
        if g is None or zero:
            assert zero and (g is None or not g.abs().max() > 1e-12)
        elif not (name == "Categorical" and not torch.isfinite(e).all()):
            same(g, e, **({"rtol": 1e-6, "atol": 1e-8} if name not in (*SINGLE, *ROUGH) else
                          {"rtol": 1e-4, "atol": 1e-5}))


REPARAMETRISED = ("Normal Laplace Uniform Exponential Cauchy Gumbel Pareto Weibull LogNormal "
                  "HalfNormal HalfCauchy Kumaraswamy LogisticNormal MultivariateNormal "
                  "GeneralizedPareto ContinuousBernoulli").split()


@pytest.mark.parametrize("name", ["Gamma", "Chi2", "InverseGamma"])
def test_gamma_gradients(name):
    """The derivative of a sample is the same function of sample and parameters."""
    x = np.concatenate([np.logspace(-6, 1.2, 30), spread(1, 9, 10)])
    for shape in (0.05, 0.5, 1.0, 3.0, 20.0, 300.0):
        scaled = x * max(shape, 1)
        if shape > 10:
            scaled = shape * (1 + 3 * spread(-1, 1, 40) / math.sqrt(shape))
        ours = lampion._standard_gamma_grad(lampion.full((40,), shape, dtype=lampion.float64),
                                            lampion.tensor(scaled))
        theirs = torch._standard_gamma_grad(torch.full((40,), shape, dtype=torch.float64),
                                            torch.tensor(scaled))
        # torch's own approximation; ours is measured in tests/unit/test_distributions_samples.py
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=5e-3)
    d, given = build(lampion, name, CASES[name][0], grad=True)
    d.rsample((3,)).sum().backward()
    assert all(bool(v.grad.isfinite().all()) for v in given.values())


@pytest.mark.parametrize("name", REPARAMETRISED)
def test_gradients_of_samples(name):
    """dx/dp by implicit differentiation of what torch says of the sample: -F_p / f, or through the
    inverse of the map that made it."""
    k = 0
    d, ours = build(lampion, name, CASES[name][k], grad=True)
    x = d.rsample((4,))
    mine = [v for v in ours.values() if hasattr(v, "meta")]
    r = lampion.tensor(spread(0.5, 1, *x.shape))
    got = lampion.autograd.grad((x * r).sum(), mine)
    q, theirs = build(torch, name, CASES[name][k], grad=True, validate_args=False)
    y = torch.tensor(x.detach().numpy())
    leaves = [v for v in theirs.values() if isinstance(v, torch.Tensor)]
    if name in ("MultivariateNormal", "LogisticNormal"):
        z = torch.distributions.transform_to(q.support).inv(y) if name == "LogisticNormal" else y
        if name == "LogisticNormal":
            base = q.base_dist.base_dist
            z = q.transforms[0].inv(y)
            noise = ((z - base.loc) / base.scale).detach()
            again = q.transforms[0](base.loc + base.scale * noise)
        else:
            factor = q.scale_tril
            noise = torch.linalg.solve_triangular(
                factor, (y - q.loc).unsqueeze(-1), upper=False).detach()
            again = q.loc + (factor @ noise).squeeze(-1)
        expected = torch.autograd.grad((again * torch.tensor(r.numpy())).sum(), leaves)
    else:
        density = q.log_prob(y).exp().detach()
        weight = torch.tensor(r.numpy()) / density
        expected = [-g for g in torch.autograd.grad((q.cdf(y) * weight).sum(), leaves)]
    for g, e in zip(got, expected):
        t = 1e-3 if name in SINGLE else 1e-5
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=t, atol=t / 10)


# ---- divergences --------------------------------------------------------------------------------

# torch counts an interval from 0 to 1 as smaller than the unit interval, and wants no count below
# another's.
KL_WRONG = {("ContinuousBernoulli", "Uniform")}
PAIRS = sorted((p.__name__, q.__name__) for p, q in torch.distributions.kl._KL_REGISTRY
               if p.__name__ in CASES and q.__name__ in CASES)


def test_every_pair_is_registered():
    from lampion.distributions import kl

    names = {(p.__name__, q.__name__) for p, q in kl._registered if "lampion" in p.__module__}
    assert {(p.__name__, q.__name__) for p, q in torch.distributions.kl._KL_REGISTRY} <= names


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_kl(names):
    first, second = names
    tried = 0
    for i, j in itertools.product(range(len(CASES[first])), range(len(CASES[second]))):
        (p, _), (q, _) = build(lampion, first, CASES[first][i]), build(lampion, second,
                                                                       CASES[second][j])
        (r, _), (s, _) = build(torch, first, CASES[first][i]), build(torch, second,
                                                                     CASES[second][j])
        try:
            shape = np.broadcast_shapes(r.batch_shape, s.batch_shape)
        except ValueError:
            continue
        if r.event_shape != s.event_shape or names in KL_WRONG:
            continue
        p, q = p.expand(shape), q.expand(shape)
        r, s = r.expand(shape), s.expand(shape)
        single = "float32" in str(sampled(r).dtype) + str(sampled(s).dtype)
        expected, error = outcome(lambda: THEIRS.kl_divergence(r, s))
        if isinstance(error, RuntimeError) and "expand" in str(error):
            continue  # torch does not broadcast these
        if error is None:  # torch's 0 log 0
            nan = lampion.tensor(expected.isnan().numpy())
            expected = expected.nan_to_num(0.0, math.inf)
            found = OURS.kl_divergence(p, q)
            assert bool((found[nan] >= 0).all())
            same(lampion.where(nan, 0.0, found), expected,
                 **({"rtol": 1e-4, "atol": 1e-5} if single else {"rtol": 1e-6, "atol": 1e-8}))
        else:
            alike(lambda: OURS.kl_divergence(p, q), lambda: THEIRS.kl_divergence(r, s))
        tried += 1
    assert tried or names in KL_WRONG


@pytest.mark.parametrize("name", sorted({p for p, q in PAIRS if p == q}))
def test_kl_gradients(name):
    case = CASES[name][0]
    (p, ours), (r, theirs) = build(lampion, name, case, True), build(torch, name, case, True)
    other = {key: v * 1.1 if isinstance(v, np.ndarray) and key not in ("probs",) else v
             for key, v in case.items()}
    (q, _), (s, _) = build(lampion, name, other), build(torch, name, other)
    a_, b = OURS.kl_divergence(p, q).sum(), THEIRS.kl_divergence(r, s).sum()
    if not torch.isfinite(b):
        pytest.skip("infinite")
    got = lampion.autograd.grad(a_, [v for v in ours.values() if hasattr(v, "meta")])
    expected = torch.autograd.grad(b, [v for v in theirs.values() if isinstance(v, torch.Tensor)])
    for g, e in zip(got, expected):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-5, atol=1e-7)


# ---- distributions of distributions -------------------------------------------------------------

def composed(t, d):
    """(name, distribution) made by the same calls in either library."""
    loc = t.tensor(spread(-1, 1, 2, 3))
    scale = t.tensor(spread(0.5, 2, 2, 3))
    normal = d.Normal(loc, scale)
    x = d.transforms
    yield "independent", d.Independent(normal, 1)
    yield "independent 0", d.Independent(normal, 0)
    yield "independent 2", d.Independent(normal, 2)
    yield "affine", d.TransformedDistribution(normal, x.AffineTransform(loc, scale))
    yield "affine event", d.TransformedDistribution(normal, x.AffineTransform(loc, scale, 1))
    yield "wider affine", d.TransformedDistribution(
        d.Normal(t.tensor(0.0, dtype=t.float64), 1.0), x.AffineTransform(loc, scale))
    yield "sigmoid", d.TransformedDistribution(normal, [x.SigmoidTransform()])
    yield "decreasing", d.TransformedDistribution(
        normal, [x.ExpTransform(), x.AffineTransform(1.0, -2.0)])
    yield "stick", d.TransformedDistribution(normal, [x.StickBreakingTransform()])
    yield "reshape", d.TransformedDistribution(
        d.Independent(normal, 1), [x.ReshapeTransform((3,), (3, 1))])
    yield "tanh", d.TransformedDistribution(d.Independent(normal, 1), [x.TanhTransform()])
    yield "none", d.TransformedDistribution(normal, [])
    chosen = d.Categorical(t.tensor(weights(2, 3)))
    yield "mixture", d.MixtureSameFamily(chosen, normal)
    vectors = d.Independent(d.Normal(t.tensor(spread(-1, 1, 2, 3, 4)), 1.0), 1)
    yield "mixture of vectors", d.MixtureSameFamily(d.Categorical(t.tensor(weights(2, 3))), vectors)
    counts = d.Poisson(t.tensor(a(1.0, 3.0, 9.0)))
    yield "mixture of counts", d.MixtureSameFamily(d.Categorical(t.tensor(weights(3))), counts)


NAMES = [name for name, _ in composed(torch, torch.distributions)]


@pytest.mark.parametrize("name", NAMES)
def test_composed(name):
    p, q = dict(composed(lampion, OURS))[name], dict(composed(torch, THEIRS))[name]
    for p, q in ((p, q), (p.expand((4, *p.batch_shape)), q.expand((4, *q.batch_shape)))):
        assert p.batch_shape == tuple(q.batch_shape) and p.event_shape == tuple(q.event_shape)
        y = sampled(q)
        x = lampion.tensor(y.numpy())
        assert p.sample((2, 3)).shape == tuple(q.sample((2, 3)).shape)
        same(p.log_prob(x), q.log_prob(y))
        alike(lambda: p.cdf(x), lambda: q.cdf(y))
        u = spread(0.1, 0.9, *y.shape)
        alike(lambda: p.icdf(lampion.tensor(u)), lambda: q.icdf(torch.tensor(u)))
        for what in ("mean", "variance"):
            alike(lambda: getattr(p, what), lambda: getattr(q, what))
        alike(lambda: p.entropy(), lambda: q.entropy())
        assert repr(p).replace("lampion.Size", "torch.Size") == repr(q)
        same(p.support.check(x), q.support.check(y))
        assert p.support.event_dim == q.support.event_dim
        assert p.has_rsample == q.has_rsample


# ---- validation ---------------------------------------------------------------------------------

BAD = {
    "Normal": {"loc": 0.0, "scale": -1.0}, "Gamma": {"concentration": 0.0, "rate": 1.0},
    "Bernoulli": {"probs": 1.5}, "Uniform": {"low": 1.0, "high": 0.0}, "Poisson": {"rate": -1.0},
    "Beta": {"concentration1": -1.0, "concentration0": 1.0}, "Geometric": {"probs": 0.0},
    "Categorical": {"probs": a(-1.0, 2.0)}, "Dirichlet": {"concentration": a(1.0, -1.0)},
    "MultivariateNormal": {"loc": a(0.0, 0.0), "covariance_matrix": np.diag(a(1.0, -1.0))},
    "Binomial": {"total_count": -1, "probs": 0.5}, "LKJCholesky": {"dim": 1},
    "Multinomial": {"total_count": 3, "probs": a(-1.0, 2.0)}, "StudentT": {"df": -1.0},
    "Wishart": {"df": 1.0, "covariance_matrix": np.eye(3)}, "Pareto": {"scale": 1.0, "alpha": -1.0},
    "NegativeBinomial": {"total_count": -1.0, "probs": 0.5}, "Cauchy": {"loc": 0.0, "scale": 0.0},
    "ContinuousBernoulli": {"probs": -0.1}, "Weibull": {"scale": -1.0, "concentration": 1.0},
    "GeneralizedPareto": {"loc": 0.0, "scale": -1.0, "concentration": 0.1},
    "VonMises": {"loc": 0.0, "concentration": -1.0}, "Kumaraswamy": {
        "concentration1": -1.0, "concentration0": 1.0}, "Chi2": {"df": -1.0},
}
CALLS = {
    "both": lambda d, t: d.Bernoulli(probs=t.tensor(0.5), logits=t.tensor(0.0)),
    "neither": lambda d, t: d.Categorical(),
    "0-d categories": lambda d, t: d.Categorical(t.tensor(1.0)),
    "matrices": lambda d, t: d.MultivariateNormal(t.zeros(2)),
    "not a number": lambda d, t: d.Normal("a", 1.0),
    "value outside": lambda d, t: d.Exponential(1.0).log_prob(t.tensor(-1.0)),
    "value no tensor": lambda d, t: d.Normal(0.0, 1.0).log_prob(1.0),
    "value shape": lambda d, t: d.Normal(t.zeros(3), 1.0).log_prob(t.zeros(2)),
    "event shape": lambda d, t: d.Dirichlet(t.ones(3)).log_prob(t.ones(2) / 2),
    "value NaN": lambda d, t: d.Normal(0.0, 1.0).log_prob(t.tensor(math.nan)),
    "no kl": lambda d, t: d.kl_divergence(d.Normal(0.0, 1.0), d.Categorical(t.ones(2))),
    "register": lambda d, t: d.register_kl(3, d.Normal),
    "independent": lambda d, t: d.Independent(d.Normal(0.0, 1.0), 1),
    "transforms": lambda d, t: d.TransformedDistribution(d.Normal(0.0, 1.0), [3]),
    "no rsample": lambda d, t: d.Poisson(1.0).rsample(),
    "no cdf": lambda d, t: d.Beta(1.0, 1.0).cdf(t.tensor(0.5)),
    "no support": lambda d, t: d.Normal(0.0, 1.0).enumerate_support(),
    "counts": lambda d, t: d.Binomial(t.tensor([1.0, 2.0]), t.tensor(0.5)).enumerate_support(),
    "no transform": lambda d, t: d.biject_to(d.constraints.boolean),
    "cache size": lambda d, t: d.ExpTransform(cache_size=2),
    "reshape": lambda d, t: d.ReshapeTransform((2,), (3,)),
    "mixture": lambda d, t: d.MixtureSameFamily(d.Normal(0.0, 1.0), d.Normal(0.0, 1.0)),
    "components": lambda d, t: d.MixtureSameFamily(
        d.Categorical(t.ones(2)), d.Normal(t.zeros(3), 1.0)),
    "validate": lambda d, t: d.Distribution.set_default_validate_args(3),
    "corr size": lambda d, t: d.CorrCholeskyTransform().forward_shape((4,)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters(name):
    with pytest.raises(ValueError) as expected:
        build(torch, name, BAD[name], validate_args=True)
    with pytest.raises(type(expected.value)):
        build(lampion, name, BAD[name], validate_args=True)


@pytest.mark.parametrize("name", CALLS)
def test_errors(name):
    with pytest.raises(Exception) as expected:
        CALLS[name](THEIRS, torch)
    with pytest.raises(type(expected.value)):
        CALLS[name](OURS, lampion)


# ---- transforms and constraints -----------------------------------------------------------------

def maps(t, d):
    x = d.transforms
    number = t.tensor(1.7, dtype=t.float64)
    yield "abs", x.AbsTransform(), (3,)
    yield "affine", x.AffineTransform(t.tensor(a(1.0, 2.0, 3.0)), -number), (2, 3)
    yield "affine event", x.AffineTransform(0.5, 2.0, event_dim=1), (2, 3)
    yield "exp", x.ExpTransform(), (3,)
    yield "power", x.PowerTransform(number), (3,)
    yield "sigmoid", x.SigmoidTransform(), (3,)
    yield "softplus", x.SoftplusTransform(), (3,)
    yield "tanh", x.TanhTransform(), (3,)
    yield "softmax", x.SoftmaxTransform(), (2, 3)
    yield "stick", x.StickBreakingTransform(), (2, 3)
    yield "cholesky", x.LowerCholeskyTransform(), (2, 3, 3)
    yield "definite", x.PositiveDefiniteTransform(), (2, 3, 3)
    yield "corr", x.CorrCholeskyTransform(), (2, 6)
    yield "reshape", x.ReshapeTransform((2, 3), (6,)), (4, 2, 3)
    yield "inverse", x.ExpTransform().inv, (3,)
    yield "independent", x.IndependentTransform(x.ExpTransform(), 1), (2, 3)
    yield "compose", x.ComposeTransform([x.AffineTransform(1.0, 2.0), x.SigmoidTransform()]), (3,)
    yield "compose vectors", x.ComposeTransform(
        [x.ExpTransform(), x.StickBreakingTransform()]), (2, 3)
    yield "compose none", x.ComposeTransform([]), (2, 3)
    yield "cat", x.CatTransform([x.ExpTransform(), x.AffineTransform(1.0, 3.0)], -1, [1, 2]), (2, 3)
    yield "cat 0", x.CatTransform([x.ExpTransform(), x.AffineTransform(1.0, 3.0)], 0), (2, 3)
    yield "stack", x.StackTransform([x.ExpTransform(), x.SigmoidTransform()], 1), (3, 2)
    yield "cdf", x.CumulativeDistributionTransform(d.Normal(number, number)), (3,)


MAPS = [name for name, *_ in maps(torch, torch.distributions)]


@pytest.mark.parametrize("name", MAPS)
def test_transforms(name):
    f, shape = {n: v for n, *v in maps(lampion, OURS)}[name]
    g, _ = {n: v for n, *v in maps(torch, THEIRS)}[name]
    numbers = spread(0.2, 2, *shape)
    x, y = lampion.tensor(numbers), torch.tensor(numbers)
    fx, gy = f(x), g(y)
    same(fx, gy)
    same(f.inv(fx), g.inv(gy))
    alike(lambda: f.log_abs_det_jacobian(x, fx), lambda: g.log_abs_det_jacobian(y, gy))
    alike(lambda: f.inv.log_abs_det_jacobian(fx, x), lambda: g.inv.log_abs_det_jacobian(gy, y))
    assert f.bijective == g.bijective
    assert tuple(f.forward_shape(x.shape)) == tuple(g.forward_shape(y.shape))
    assert tuple(f.inverse_shape(fx.shape)) == tuple(g.inverse_shape(gy.shape))
    for side in ("domain", "codomain"):
        assert getattr(f, side).event_dim == getattr(g, side).event_dim
        same(getattr(f, side).check(fx), getattr(g, side).check(gy))
    s, (expected, error) = outcome(lambda: f.sign), outcome(lambda: g.sign)
    if error is None:
        sign = s[0].numpy() if hasattr(s[0], "meta") else s[0]
        assert np.all(sign == np.asarray(expected))
    again = {n: v for n, v, _ in maps(lampion, OURS)}[name]
    assert f == again or g != {n: v for n, v, _ in maps(torch, THEIRS)}[name]


def sets(t, d):
    c = d.constraints
    low = t.tensor(a(0.0, 0.3))
    yield from (c.boolean, c.real, c.positive, c.nonnegative, c.unit_interval, c.simplex,
                c.nonnegative_integer, c.positive_integer, c.real_vector, c.one_hot,
                c.greater_than(0.3), c.greater_than_eq(0.5), c.less_than(0.5),
                c.interval(-1.0, 1.0),
                c.half_open_interval(0.0, 1.0), c.integer_interval(0, 2), c.multinomial(2),
                c.lower_triangular, c.lower_cholesky, c.corr_cholesky, c.square, c.symmetric,
                c.positive_semidefinite, c.positive_definite, c.independent(c.positive, 1),
                c.greater_than(low), c.independent(c.real, 2), c.cat([c.real, c.positive], -1),
                c.stack([c.real, c.positive], -1))


def test_constraints():
    values = [a(0.0, 1.0), a(0.5, 0.5), a(-1.0, 2.0), a(1.0, math.inf), a(math.nan, 1.0),
              np.eye(2), a(2.0, 1.0), np.array([[2.0, 1.0], [1.0, 2.0]]),
              np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[1.0, 2.0], [0.0, 1.0]]),
              np.array([[1.0, 1.0], [1.0, 1.0]]), np.stack([np.eye(2), -np.eye(2)])]
    count = 0
    for ours, theirs in zip(sets(lampion, OURS), sets(torch, THEIRS)):
        assert repr(ours).replace("lampion", "torch") == repr(theirs)
        assert (ours.event_dim, ours.is_discrete) == (theirs.event_dim, theirs.is_discrete)
        for value in values:
            if value.ndim < theirs.event_dim:
                continue
            if "Semidefinite" in repr(theirs) and value.shape == (2, 2) and (value == 1).all():
                continue  # an eigenvalue of 0, which rounding makes either
            alike(lambda: ours.check(lampion.tensor(value)),
                  lambda: theirs.check(torch.tensor(value)))
            count += 1
    assert count > 200


def test_registries():
    for name in ("biject_to", "transform_to"):
        ours, theirs = getattr(OURS, name), getattr(THEIRS, name)
        for c, e in zip(sets(lampion, OURS), sets(torch, THEIRS)):
            f, g = outcome(lambda: ours(c)), outcome(lambda: theirs(e))
            if g[1] is not None:
                assert isinstance(f[1], type(g[1])), (c, f, g)
                continue
            x = spread(-1, 1, 3, 3) if e.event_dim == 2 else spread(-1, 1, 3)
            if "Cat" in repr(e) or "Stack" in repr(e) or "tensor" in repr(e):
                x = spread(-1, 1, 2)
            same(f[0](lampion.tensor(x)), g[0](torch.tensor(x)))
