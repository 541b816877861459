"""lampion.distributions without an oracle: densities, moments, quantiles, entropies, examples."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import lampion
from lampion import distributions as D

F64 = lampion.float64


def t(*values):
    return lampion.tensor(values if len(values) > 1 else values[0], dtype=F64)


# ---- examples -----------------------------------------------------------------------------------

def _examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = {"lampion": lampion, **{n: getattr(D, n) for n in D.__all__}}
    for found in pkgutil.walk_packages(D.__path__, "lampion.distributions."):
        module = importlib.import_module(found.name)
        for test in finder.find(module, module.__name__, module=module,
                                globs={**names, **module.__dict__}):
            if test.examples:
                yield test


@pytest.mark.parametrize("test", _examples(), ids=lambda test: test.name)
def test_example(test):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", D.__all__)
def test_every_class_is_explained(name):
    found = getattr(D, name)
    if isinstance(found, type):
        assert ">>>" in found.__doc__, name


def test_import_is_lazy():
    code = ("import sys, lampion; assert 'lampion.distributions' not in sys.modules; "
            "lampion.distributions.Normal(0.0, 1.0); assert 'scipy' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- against scipy ------------------------------------------------------------------------------

# (ours, scipy's frozen distribution, points)
CONTINUOUS = {
    "beta": (lambda: D.Beta(t(2.0), t(3.5)), stats.beta(2.0, 3.5)),
    "cauchy": (lambda: D.Cauchy(t(0.5), t(2.0)), stats.cauchy(0.5, 2.0)),
    "chi2": (lambda: D.Chi2(t(3.0)), stats.chi2(3.0)),
    "exponential": (lambda: D.Exponential(t(2.0)), stats.expon(scale=0.5)),
    "f": (lambda: D.FisherSnedecor(t(3.0), t(7.0)), stats.f(3.0, 7.0)),
    "gamma": (lambda: D.Gamma(t(2.5), t(1.5)), stats.gamma(2.5, scale=1 / 1.5)),
    "small gamma": (lambda: D.Gamma(t(0.3), t(1.5)), stats.gamma(0.3, scale=1 / 1.5)),
    "generalized pareto": (lambda: D.GeneralizedPareto(t(1.0), t(2.0), t(0.3)),
                           stats.genpareto(0.3, 1.0, 2.0)),
    "bounded pareto": (lambda: D.GeneralizedPareto(t(1.0), t(2.0), t(-0.4)),
                       stats.genpareto(-0.4, 1.0, 2.0)),
    "gumbel": (lambda: D.Gumbel(t(0.5), t(2.0)), stats.gumbel_r(0.5, 2.0)),
    "half cauchy": (lambda: D.HalfCauchy(t(2.0)), stats.halfcauchy(scale=2.0)),
    "half normal": (lambda: D.HalfNormal(t(2.0)), stats.halfnorm(scale=2.0)),
    "inverse gamma": (lambda: D.InverseGamma(t(2.5), t(1.5)), stats.invgamma(2.5, scale=1.5)),
    "laplace": (lambda: D.Laplace(t(0.5), t(2.0)), stats.laplace(0.5, 2.0)),
    "log normal": (lambda: D.LogNormal(t(0.5), t(0.7)), stats.lognorm(0.7, scale=math.exp(0.5))),
    "normal": (lambda: D.Normal(t(0.5), t(2.0)), stats.norm(0.5, 2.0)),
    "pareto": (lambda: D.Pareto(t(2.0), t(3.5)), stats.pareto(3.5, scale=2.0)),
    "t": (lambda: D.StudentT(t(3.5), t(0.5), t(2.0)), stats.t(3.5, 0.5, 2.0)),
    "uniform": (lambda: D.Uniform(t(-1.0), t(2.0)), stats.uniform(-1.0, 3.0)),
    "von mises": (lambda: D.VonMises(t(0.0), t(2.0)), stats.vonmises(2.0)),
    "weibull": (lambda: D.Weibull(t(2.0), t(1.5)), stats.weibull_min(1.5, scale=2.0)),
}
COUNTS = {
    "bernoulli": (lambda: D.Bernoulli(t(0.3)), stats.bernoulli(0.3)),
    "binomial": (lambda: D.Binomial(7, t(0.3)), stats.binom(7, 0.3)),
    "geometric": (lambda: D.Geometric(t(0.3)), stats.geom(0.3, loc=-1)),
    "negative binomial": (lambda: D.NegativeBinomial(t(2.5), t(0.3)), stats.nbinom(2.5, 0.7)),
    "poisson": (lambda: D.Poisson(t(3.5)), stats.poisson(3.5)),
}
NO_CDF = {"beta", "f", "t", "von mises"}
NO_ENTROPY = {"f", "von mises"}


def points(law):
    return law.ppf(np.linspace(0.02, 0.98, 25))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_density(name):
    make, law = CONTINUOUS[name]
    d, x = make(), points(law)
    np.testing.assert_allclose(d.log_prob(lampion.tensor(x)).numpy(), law.logpdf(x), rtol=1e-9,
                               atol=1e-10)
    if name not in NO_CDF:
        np.testing.assert_allclose(d.cdf(lampion.tensor(x)).numpy(), law.cdf(x), rtol=1e-9)
    if name not in NO_ENTROPY:
        np.testing.assert_allclose(float(d.entropy()), law.entropy(), rtol=1e-7)


@pytest.mark.parametrize("name", COUNTS)
def test_probability(name):
    make, law = COUNTS[name]
    d, k = make(), np.arange(2.0 if name == "bernoulli" else 8.0)
    np.testing.assert_allclose(d.log_prob(lampion.tensor(k)).numpy(), law.logpmf(k), rtol=1e-9)
    np.testing.assert_allclose([float(d.mean), float(d.variance)], law.stats("mv"), rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in CONTINUOUS if n not in ("cauchy", "half cauchy",
                                                                       "von mises")])
def test_moments(name):
    make, law = CONTINUOUS[name]
    d = make()
    mean, variance = law.stats("mv")
    np.testing.assert_allclose(float(d.mean), mean, rtol=1e-9)
    np.testing.assert_allclose(float(d.variance), variance, rtol=1e-9)
    np.testing.assert_allclose(float(d.stddev), math.sqrt(variance), rtol=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_quantiles_undo_the_cdf(name):
    d = CONTINUOUS[name][0]()
    u = lampion.linspace(0.02, 0.98, 25, dtype=F64)
    try:
        x = d.icdf(u)
    except NotImplementedError:
        assert name in NO_CDF or name in ("gamma", "small gamma", "chi2", "inverse gamma")
        return
    np.testing.assert_allclose(d.cdf(x).numpy(), u.numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_samples_have_the_law(name):
    """Kolmogorov and Smirnov's test at a fixed seed."""
    make, law = CONTINUOUS[name]
    lampion.manual_seed(0)
    x = make().sample((20_000,)).numpy()
    assert stats.kstest(x, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", COUNTS)
def test_samples_have_the_mean(name):
    make, law = COUNTS[name]
    lampion.manual_seed(0)
    d, n = make(), 40_000
    x = d.sample((n,)).numpy()
    assert abs(x.mean() - law.mean()) < 4 * law.std() / math.sqrt(n)
    share, chance = (x == 1).mean(), law.pmf(1)
    assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / n)


# ---- densities that scipy lacks sum to 1 --------------------------------------------------------

UNIT = {
    "kumaraswamy": lambda: D.Kumaraswamy(t(2.0), t(3.0)),
    "continuous bernoulli": lambda: D.ContinuousBernoulli(t(0.2)),
    "even continuous bernoulli": lambda: D.ContinuousBernoulli(t(0.5)),
    "relaxed bernoulli": lambda: D.RelaxedBernoulli(t(0.8), t(0.3)),
    "logistic normal": lambda: D.TransformedDistribution(D.Normal(t(0.3), t(1.0)),
                                                         D.SigmoidTransform()),
}


@pytest.mark.parametrize("name", UNIT)
def test_integral_and_moments(name):
    d = UNIT[name]()
    u = (lampion.arange(100_000, dtype=F64) + 0.5) / 100_000
    x = u * u * (3 - 2 * u)  # finer at the ends
    weight = 6 * u * (1 - u) / 100_000 * d.log_prob(x).exp()
    assert abs(float(weight.sum()) - 1) < 1e-6
    if name in ("relaxed bernoulli", "logistic normal"):
        return
    mean = (weight * x).sum()
    assert abs(float(mean - d.mean)) < 1e-6
    assert abs(float((weight * (x - mean).square()).sum() - d.variance)) < 1e-6
    assert abs(float((weight * -d.log_prob(x)).sum() - d.entropy())) < 1e-5
    lampion.manual_seed(0)
    drawn = d.sample((20_000,))
    assert abs(float(drawn.mean() - d.mean)) < 4 * float(d.stddev) / math.sqrt(20_000)


def test_simplex_densities():
    """Over the simplex of three, by a grid."""
    n = 800
    u = (lampion.arange(n, dtype=F64) + 0.5) / n
    x, y = u[:, None], u[None, :] * (1 - u[:, None])  # the second takes a part of what is left
    points_ = lampion.stack([x.expand(n, n), y, 1 - x - y], -1)
    area = (1 - x) / n**2
    for d in (D.Dirichlet(t(1.5, 2.0, 3.0)), D.LogisticNormal(t(0.2, -0.1), t(1.0, 0.8)),
              D.RelaxedOneHotCategorical(t(1.2), t(0.2, 0.3, 0.5))):
        total = (d.log_prob(points_.clamp(1e-12, 1)).exp() * area).sum()
        assert abs(float(total) - 1) < 5e-3, d


@pytest.mark.parametrize("make", [
    lambda: D.Categorical(t(0.2, 0.5, 0.3)), lambda: D.OneHotCategorical(t(0.2, 0.5, 0.3)),
    lambda: D.Bernoulli(t(0.3)), lambda: D.Binomial(6, t(0.3))])
def test_enumerated_probabilities(make):
    d = make()
    values = d.enumerate_support()
    log_prob = d.log_prob(values)
    assert abs(float(log_prob.exp().sum()) - 1) < 1e-12
    assert abs(float(-(log_prob.exp() * log_prob).sum() - d.entropy())) < 1e-12


def test_multinomial():
    d = D.Multinomial(3, t(0.2, 0.5, 0.3))
    all_ = [v for v in np.ndindex(4, 4, 4) if sum(v) == 3]
    log_prob = d.log_prob(lampion.tensor(all_, dtype=F64))
    law = stats.multinomial(3, [0.2, 0.5, 0.3])
    np.testing.assert_allclose(log_prob.numpy(), law.logpmf(np.array(all_)), rtol=1e-9)
    assert abs(float(d.entropy()) - law.entropy()) < 1e-9
    lampion.manual_seed(0)
    x = d.sample((20_000,))
    assert bool((x.sum(-1) == 3).all())
    np.testing.assert_allclose(x.mean(0).numpy(), d.mean.numpy(), atol=0.03)


def test_normal_vectors():
    m = np.random.default_rng(0).normal(size=(3, 3))
    c = m @ m.T + np.eye(3)
    x = np.random.default_rng(1).normal(size=(5, 3))
    law = stats.multivariate_normal([1.0, 2.0, 3.0], c)
    loc = t(1.0, 2.0, 3.0)
    ways = [D.MultivariateNormal(loc, lampion.tensor(c)),
            D.MultivariateNormal(loc, precision_matrix=lampion.tensor(np.linalg.inv(c))),
            D.MultivariateNormal(loc, scale_tril=lampion.tensor(np.linalg.cholesky(c))),
            D.LowRankMultivariateNormal(loc, lampion.tensor(m), lampion.ones(3, dtype=F64))]
    lampion.manual_seed(0)
    for d in ways:
        np.testing.assert_allclose(d.log_prob(lampion.tensor(x)).numpy(), law.logpdf(x), rtol=1e-9)
        assert abs(float(d.entropy()) - law.entropy()) < 1e-9
        np.testing.assert_allclose(d.covariance_matrix.numpy(), c, rtol=1e-9)
        np.testing.assert_allclose(d.precision_matrix.numpy(), np.linalg.inv(c), rtol=1e-8)
        drawn = d.sample((40_000,)).numpy()
        np.testing.assert_allclose(np.cov(drawn.T), c, atol=0.15)


def test_wishart():
    c = np.array([[2.0, 0.5], [0.5, 1.0]])
    d, law = D.Wishart(t(4.0), lampion.tensor(c)), stats.wishart(4, c)
    x = np.array([[[3.0, 0.2], [0.2, 2.0]], [[9.0, 2.0], [2.0, 5.0]]])
    expected = [law.logpdf(v) for v in x]
    np.testing.assert_allclose(d.log_prob(lampion.tensor(x)).numpy(), expected, rtol=1e-9)
    assert abs(float(d.entropy()) - law.entropy()) < 1e-9
    lampion.manual_seed(0)
    drawn = d.sample((40_000,))
    np.testing.assert_allclose(drawn.mean(0).numpy(), law.mean(), atol=0.12)
    np.testing.assert_allclose(drawn.var(0).numpy(), d.variance.numpy(), rtol=0.1)


def test_correlation_factors():
    d = D.LKJCholesky(2, t(1.5))
    r = (lampion.arange(100_000, dtype=F64) + 0.5) / 50_000 - 1
    low = lampion.stack([r, (1 - r * r).sqrt()], -1)
    top = lampion.stack([lampion.ones_like(r), lampion.zeros_like(r)], -1)
    density = d.log_prob(lampion.stack([top, low], -2)).exp()
    assert abs(float(density.sum()) / 50_000 - 1) < 1e-6
    lampion.manual_seed(0)
    drawn = D.LKJCholesky(4, t(1.5)).sample((5_000,))
    assert bool(D.constraints.corr_cholesky.check(drawn).all())
    # correlations have Beta laws on [-1, 1], of concentration - 1 + dim / 2
    between = (drawn @ drawn.mT)[:, 3, 1].numpy()
    assert stats.kstest((between + 1) / 2, stats.beta(2.5, 2.5).cdf).pvalue > 1e-3


def test_mixture():
    d = D.MixtureSameFamily(D.Categorical(t(0.3, 0.7)), D.Normal(t(-1.0, 2.0), t(0.5, 1.0)))
    x = np.linspace(-3, 5, 9)
    parts = [(0.3, stats.norm(-1, 0.5)), (0.7, stats.norm(2, 1))]
    density = sum(w * law.pdf(x) for w, law in parts)
    np.testing.assert_allclose(d.log_prob(lampion.tensor(x)).exp().numpy(), density, rtol=1e-9)
    np.testing.assert_allclose(d.cdf(lampion.tensor(x)).numpy(),
                               sum(w * law.cdf(x) for w, law in parts), rtol=1e-9)
    lampion.manual_seed(0)
    drawn = d.sample((20_000,))
    assert abs(float(drawn.mean() - d.mean)) < 4 * float(d.stddev) / math.sqrt(20_000)
    wide = D.MixtureSameFamily(D.Categorical(t(0.3, 0.7)), D.Normal(lampion.zeros(4, 2), 1.0))
    assert wide.sample((3,)).shape == (3, 4) and wide.expand((5, 4)).sample().shape == (5, 4)


# ---- the base -----------------------------------------------------------------------------------

def test_a_distribution_of_ones_own():
    class Triangle(D.Distribution):
        arg_constraints = {"width": D.constraints.positive}

        def __init__(self, width, validate_args=None):
            self.width, = D.utils.broadcast_all(width)
            super().__init__(self.width.shape, validate_args=validate_args)

        @D.constraints.dependent_property(is_discrete=False, event_dim=0)
        def support(self):
            return D.constraints.interval(-self.width, self.width)

        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            return (1 - value.abs() / self.width).log() - self.width.log()

    d = Triangle(lampion.tensor([1.0, 2.0]))
    assert repr(d) == "Triangle(width: lampion.Size([2]))"
    assert d.log_prob(lampion.zeros(2)).tolist() == pytest.approx([0.0, -math.log(2)])
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(lampion.tensor([0.0, 3.0]))
    with pytest.raises(ValueError, match="parameter width"):
        Triangle(-1.0)
    with pytest.raises(NotImplementedError):
        d.expand((3, 2))
    assert Triangle.support.event_dim == 0


def test_subclasses_with_init_need_expand():
    class Mine(D.Normal):
        def __init__(self, loc):
            super().__init__(loc, 1.0)

    class Same(D.Normal):
        pass

    with pytest.raises(NotImplementedError, match="expand"):
        Mine(0.0).expand((2,))
    assert type(Same(0.0, 1.0).expand((2,))) is Same


def test_validation_can_be_turned_off():
    try:
        D.Distribution.set_default_validate_args(False)
        assert math.isnan(D.Normal(0.0, -1.0).log_prob(lampion.tensor(0.0)))
    finally:
        D.Distribution.set_default_validate_args(True)
    with pytest.raises(ValueError, match="scale"):
        D.Normal(0.0, -1.0)
    D.Exponential(1.0, validate_args=False).log_prob(lampion.tensor(-1.0))


def test_lazy_parameters_and_expansion():
    p = lampion.tensor([0.2, 0.7], requires_grad=True)
    d = D.Bernoulli(p)
    assert "logits" not in d.__dict__
    d.logits.sum().backward()
    assert p.grad is not None
    wide = d.expand((3, 2))
    assert wide.probs.shape == wide.logits.shape == (3, 2)
    m = D.MultivariateNormal(lampion.zeros(2), lampion.eye(2))
    assert m.precision_matrix.shape == (2, 2)
    assert m.expand((4,)).precision_matrix.shape == (4, 2, 2)
    n = D.LowRankMultivariateNormal(lampion.zeros(2), lampion.ones(2, 1), lampion.ones(2))
    assert n.variance.shape == (2,) and n.expand((4,)).variance.shape == (4, 2)


def test_entropies_of_exponential_families_have_gradients():
    rate = t(2.0).requires_grad_()
    d = D.Exponential(rate)
    general, = lampion.autograd.grad(D.ExponentialFamily.entropy(d), [rate])
    direct, = lampion.autograd.grad(d.entropy(), [rate])
    assert float(general) == pytest.approx(float(direct))
    a, b = t(2.0).requires_grad_(), t(3.0).requires_grad_()
    d = D.Gamma(a, b)
    for g, e in zip(lampion.autograd.grad(D.ExponentialFamily.entropy(d), [a, b]),
                    lampion.autograd.grad(d.entropy(), [a, b])):
        assert float(g) == pytest.approx(float(e))
    assert not D.ExponentialFamily.entropy(D.Gamma(2.0, 3.0)).requires_grad


def test_programs_of_pytorch():
    code = ("from torch.distributions import Normal, kl_divergence, constraints\n"
            "from torch.distributions.categorical import Categorical\n"
            "from torch.distributions.utils import lazy_property\n"
            "import torch.distributions.transforms as T\n"
            "print(kl_divergence(Normal(0.0, 1.0), Normal(1.0, 1.0)).item(), Categorical)")
    start = "import lampion.compat; lampion.compat.install()\n"
    done = subprocess.run([sys.executable, "-c", start + code], check=True, capture_output=True,
                          text=True)
    assert done.stdout.startswith("0.5 ")
