"""Gamma numbers, the derivative of samples by parameters, transforms and divergences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

import lampion
from lampion import distributions as D

F64 = lampion.float64


def t(*values):
    return lampion.tensor(values if len(values) > 1 else values[0], dtype=F64)


# ---- gamma numbers ------------------------------------------------------------------------------

SHAPES = (1e-2, 0.1, 0.5, 0.999, 1.0, 1.9, 2.1, 5.0, 30.0, 1e3, 1e4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [lampion.float32, F64])
def test_gamma_slope(shape, dtype):
    """Against central differences of scipy's quantiles."""
    h = 1e-4 * shape
    p = np.concatenate([np.logspace(-6, -2, 9), np.linspace(0.02, 0.98, 25)])
    x = special.gammaincinv(shape, p)
    p, x = p[x > 1e-30], x[x > 1e-30]
    slope = (special.gammaincinv(shape + h, p) - special.gammaincinv(shape - h, p)) / (2 * h)
    ours = lampion._standard_gamma_grad(lampion.full((len(x),), shape, dtype=dtype),
                                        lampion.tensor(x, dtype=dtype))
    # the differences themselves are good to a few 1e-6 where shapes are small
    np.testing.assert_allclose(ours.numpy(), slope, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_law(shape):
    lampion.manual_seed(3)
    x = lampion._standard_gamma(lampion.full((20_000,), shape, dtype=F64)).numpy()
    assert stats.kstest(x, stats.gamma(shape).cdf).pvalue > 1e-3


def test_gamma_edges():
    x = lampion._standard_gamma(t(0.0, -1.0, math.nan, 1.0))
    assert float(x[0]) == 0.0 and bool(x[1:3].isnan().all()) and float(x[3]) > 0
    assert lampion._standard_gamma(lampion.zeros(0, 3)).shape == (0, 3)
    assert lampion._standard_gamma(t(2.0)).shape == ()
    a, b = lampion.Generator().manual_seed(5), lampion.Generator().manual_seed(5)
    shape = lampion.rand(3, 4).t() + 0.5
    assert bool((lampion._standard_gamma(shape, a) == lampion._standard_gamma(shape, b)).all())
    assert not bool((lampion._standard_gamma(shape, a) == lampion._standard_gamma(shape, b).flip(0)
                     ).all())
    assert lampion._standard_gamma(shape.half()).dtype is lampion.float16
    with pytest.raises(NotImplementedError):
        lampion._standard_gamma(lampion.ones(3, dtype=lampion.int64))


def test_gamma_second_derivative():
    """The derivative of the slope along with the sample: by differences of both."""
    for shape in (0.3, 3.0, 50.0):
        p = np.linspace(0.1, 0.9, 5)
        h = 1e-3 * shape
        x = [special.gammaincinv(shape + k * h, p) for k in (-1, 0, 1)]
        a = lampion.full((5,), shape, dtype=F64, requires_grad=True)
        y = lampion.ops.registry.REGISTRY["gamma_path"].fn(lampion.tensor(x[1]), a)
        first, = lampion.autograd.grad(y.sum(), [a], create_graph=True)
        second, = lampion.autograd.grad(first.sum(), [a])
        np.testing.assert_allclose(second.numpy(), (x[2] - 2 * x[1] + x[0]) / h**2, rtol=1e-2,
                                   atol=1e-4)


def test_small_shapes_stay_on_the_simplex():
    lampion.manual_seed(0)
    x = D.Dirichlet(lampion.full((1000, 3), 1e-3)).sample()
    assert bool(D.constraints.simplex.check(x).all())
    beta = D.Beta(lampion.full((4000,), 0.01), lampion.full((4000,), 0.01)).sample()
    assert abs(float(beta.mean()) - 0.5) < 0.04


# ---- gradients of means -------------------------------------------------------------------------

# (distribution of parameters, parameters, mean of f and its derivatives as formulas)
PATHS = {
    "gamma": (D.Gamma, (2.5, 1.5), lambda a, b: a / b),
    "small gamma": (D.Gamma, (0.4, 1.5), lambda a, b: a / b),
    "beta": (D.Beta, (2.0, 3.0), lambda a, b: a / (a + b)),
    "small beta": (D.Beta, (0.5, 0.8), lambda a, b: a / (a + b)),
    "chi2": (D.Chi2, (3.0,), lambda df: df),
    "inverse gamma": (D.InverseGamma, (6.0, 2.0), lambda a, b: b / (a - 1)),
    "f": (D.FisherSnedecor, (4.0, 14.0), lambda a, b: b / (b - 2) + 0 * a),
    "normal": (D.Normal, (0.5, 2.0), lambda m, s: m + 0 * s),
    "weibull": (D.Weibull, (2.0, 1.5), lambda s, k: s * (1 + 1 / k).lgamma().exp()),
    "kumaraswamy": (D.Kumaraswamy, (2.0, 3.0),
                    lambda a, b: b * ((1 + 1 / a).lgamma() + b.lgamma()
                                      - (1 + 1 / a + b).lgamma()).exp()),
}


@pytest.mark.parametrize("name", PATHS)
def test_gradients_of_the_mean(name):
    """The mean of dx/dp over samples is the derivative of the mean."""
    make, values, mean = PATHS[name]
    n = 40_000
    lampion.manual_seed(1)
    each = [lampion.full((n,), v, dtype=F64, requires_grad=True) for v in values]
    make(*each).rsample().sum().backward()
    leaves = [t(v).requires_grad_() for v in values]
    expected = lampion.autograd.grad(mean(*leaves), leaves)
    for leaf, e in zip(each, expected):
        g = leaf.grad
        assert abs(float(g.mean() - e)) < 4.5 * float(g.std()) / math.sqrt(n) + 1e-9


def test_gradient_of_dirichlet_variance():
    lampion.manual_seed(1)
    a = lampion.tensor([[1.5, 2.0, 0.7]] * 40_000, dtype=F64, requires_grad=True)
    D.Dirichlet(a).rsample()[:, 0].square().sum().backward()
    leaf = t(1.5, 2.0, 0.7).requires_grad_()
    d = D.Dirichlet(leaf)
    (d.variance + d.mean.square())[0].backward()
    spread = a.grad.std(0) / 200
    assert bool(((a.grad.mean(0) - leaf.grad).abs() < 4.5 * spread).all())


def test_straight_through():
    p = t(0.2, 0.8).requires_grad_()
    d = D.OneHotCategoricalStraightThrough(p)
    x = d.rsample()
    assert bool(D.constraints.one_hot.check(x.detach().round()).all())
    (x * t(1.0, 3.0)).sum().backward()
    assert p.grad.tolist() == pytest.approx((t(1.0, 3.0) - 2.6).tolist())


# ---- transforms ---------------------------------------------------------------------------------

MAPS = {
    "affine": (D.AffineTransform(t(1.0, 2.0), t(-0.5, 3.0)), (2,)),
    "exp": (D.ExpTransform(), (3,)),
    "power": (D.PowerTransform(t(1.7)), (3,)),
    "sigmoid": (D.SigmoidTransform(), (3,)),
    "softplus": (D.SoftplusTransform(), (3,)),
    "tanh": (D.TanhTransform(), (3,)),
    "stick": (D.StickBreakingTransform(), (3,)),
    "corr": (D.CorrCholeskyTransform(), (6,)),
    "reshape": (D.ReshapeTransform((2, 3), (6,)), (2, 3)),
    "independent": (D.IndependentTransform(D.ExpTransform(), 1), (3,)),
    "compose": (D.ComposeTransform([D.AffineTransform(0.1, 0.3), D.ExpTransform(),
                                    D.StickBreakingTransform()]), (3,)),
    "cat": (D.CatTransform([D.ExpTransform(), D.TanhTransform()], 0, [1, 2]), (3,)),
    "stack": (D.StackTransform([D.ExpTransform(), D.TanhTransform()], 0), (2,)),
    "cdf": (D.CumulativeDistributionTransform(D.Normal(t(0.5), t(2.0))), (3,)),
    "inverse": (D.ExpTransform().inv, (3,)),
}


def free(y, name):
    """As many elements of y as x has, which determine the others."""
    if name in ("stick", "compose"):
        return y[..., :-1]
    if name == "corr":
        return D.utils.tril_matrix_to_vec(y, diag=-1)
    return y.flatten()


@pytest.mark.parametrize("name", MAPS)
def test_transform_and_its_jacobian(name):
    f, shape = MAPS[name]
    x = lampion.tensor(np.random.default_rng(0).uniform(0.3, 1.5, shape))
    y = f(x)
    np.testing.assert_allclose(f.inv(y).numpy(), x.numpy(), rtol=1e-7)
    assert tuple(y.shape) == tuple(f.forward_shape(x.shape))
    assert tuple(x.shape) == tuple(f.inverse_shape(y.shape))
    assert bool(f.codomain.check(y).all()) and f.bijective
    jacobian = lampion.autograd.functional.jacobian(lambda v: free(f(v), name), x)
    n = x.numel()
    expected = lampion.linalg.slogdet(jacobian.reshape(n, n)).logabsdet
    assert float(f.log_abs_det_jacobian(x, y).sum()) == pytest.approx(float(expected), abs=1e-9)
    assert float(f.inv.log_abs_det_jacobian(y, x).sum()) == pytest.approx(-float(expected),
                                                                          abs=1e-9)


def test_transforms_that_are_not_bijective():
    for f, x in ((D.AbsTransform(), t(-1.0, 2.0)), (D.SoftmaxTransform(), t(-1.0, 2.0)),
                 (D.LowerCholeskyTransform(), lampion.randn(3, 3, dtype=F64)),
                 (D.PositiveDefiniteTransform(), lampion.randn(3, 3, dtype=F64))):
        y = f(x)
        assert bool(f.codomain.check(y).all())
        np.testing.assert_allclose(f(f.inv(y)).numpy(), y.numpy(), rtol=1e-7, atol=1e-12)
        with pytest.raises(NotImplementedError):
            f.log_abs_det_jacobian(x, y)


def test_cache():
    plain, kept = D.TanhTransform(), D.TanhTransform(cache_size=1)
    x = t(12.0, 30.0)
    assert not bool(plain.inv(plain(x)).isfinite().all())
    assert kept.inv(kept(x)) is x
    y = t(0.5)
    z = kept.inv(y)
    assert kept(z) is y and kept.inv.inv is kept
    both = D.ComposeTransform([D.AffineTransform(0.0, 2.0), D.TanhTransform()]).with_cache()
    x = t(30.0)
    assert both.inv(both(x)) is x
    assert plain.with_cache(0) is plain and plain.with_cache(1) == plain
    with pytest.raises(ValueError):
        D.ExpTransform(cache_size=2)


def test_constraint_transforms():
    c = D.constraints
    lampion.manual_seed(0)
    for rule, shape in ((c.positive, (3,)), (c.greater_than(2.0), (3,)), (c.less_than(-1.0), (3,)),
                        (c.interval(-1.0, 4.0), (3,)), (c.unit_interval, (3,)), (c.simplex, (4,)),
                        (c.corr_cholesky, (6,)), (c.lower_cholesky, (3, 3)), (c.real, (3,)),
                        (c.positive_definite, (3, 3)), (c.independent(c.positive, 1), (3,)),
                        (c.stack([c.real, c.positive]), (2,)),
                        (c.cat([c.real, c.positive], 0, [1, 2]), (3,))):
        x = lampion.randn(shape, dtype=F64)
        for registry in (D.biject_to, D.transform_to):
            try:
                f = registry(rule)
            except NotImplementedError:
                assert registry is D.biject_to and rule.event_dim == 2
                continue
            assert bool(rule.check(f(x)).all())
            assert f.bijective or registry is D.transform_to
    registry = type(D.biject_to)()
    registry.register(c.boolean, lambda rule: D.identity_transform)
    assert registry(c.boolean) is D.identity_transform
    with pytest.raises(TypeError):
        registry.register(int, lambda rule: rule)


def test_triangles():
    for n in (1, 2, 4):
        for diag in (-1, 0, 1):
            if not -n <= diag < n or n + diag < 1:
                continue
            m = lampion.randn(2, n, n, dtype=F64).tril(diag)
            v = D.utils.tril_matrix_to_vec(m, diag)
            assert bool((D.utils.vec_to_tril_matrix(v, diag) == m).all())


# ---- divergences --------------------------------------------------------------------------------

LAWS = {
    "Beta": lambda: D.Beta(t(2.0), t(3.0)), "Uniform": lambda: D.Uniform(t(0.1), t(0.8)),
    "Gamma": lambda: D.Gamma(t(2.5), t(2.0)), "Exponential": lambda: D.Exponential(t(1.5)),
    "Normal": lambda: D.Normal(t(0.5), t(1.2)), "Laplace": lambda: D.Laplace(t(0.3), t(0.9)),
    "Gumbel": lambda: D.Gumbel(t(0.2), t(1.1)), "Pareto": lambda: D.Pareto(t(0.05), t(4.0)),
    "ContinuousBernoulli": lambda: D.ContinuousBernoulli(t(0.3)),
    "Cauchy": lambda: D.Cauchy(t(0.3), t(0.9)), "HalfNormal": lambda: D.HalfNormal(t(0.7)),
    "Bernoulli": lambda: D.Bernoulli(t(0.3)), "Poisson": lambda: D.Poisson(t(2.5)),
    "Binomial": lambda: D.Binomial(5, t(0.3)), "Geometric": lambda: D.Geometric(t(0.3)),
    "Categorical": lambda: D.Categorical(t(0.2, 0.5, 0.3)),
    "OneHotCategorical": lambda: D.OneHotCategorical(t(0.2, 0.5, 0.3)),
    "Dirichlet": lambda: D.Dirichlet(t(1.5, 2.0, 3.0)),
    "MultivariateNormal": lambda: D.MultivariateNormal(t(0.5, 1.0), t(2.0, 1.0).diag()),
    "LowRankMultivariateNormal": lambda: D.LowRankMultivariateNormal(
        t(0.1, 0.2), t(0.5, 0.3)[:, None], t(1.0, 1.5)),
}
OTHERS = {
    **LAWS, "Beta": lambda: D.Beta(t(1.5), t(2.5)), "Uniform": lambda: D.Uniform(t(-0.1), t(1.2)),
    "Gamma": lambda: D.Gamma(t(2.0), t(1.5)), "Exponential": lambda: D.Exponential(t(1.0)),
    "Normal": lambda: D.Normal(t(0.0), t(1.5)), "Cauchy": lambda: D.Cauchy(t(-0.3), t(1.5)),
    "Laplace": lambda: D.Laplace(t(0.0), t(1.5)), "Gumbel": lambda: D.Gumbel(t(0.0), t(1.4)),
    "Pareto": lambda: D.Pareto(t(0.02), t(2.0)), "Dirichlet": lambda: D.Dirichlet(t(1.0, 2.0, 2.0)),
    "ContinuousBernoulli": lambda: D.ContinuousBernoulli(t(0.6)),
    "Poisson": lambda: D.Poisson(t(3.5)), "Categorical": lambda: D.Categorical(t(0.3, 0.3, 0.4)),
    "Bernoulli": lambda: D.Bernoulli(t(0.5)), "Geometric": lambda: D.Geometric(t(0.4)),
    "Binomial": lambda: D.Binomial(5, t(0.5)),
}


def registered():
    from lampion.distributions import kl

    return sorted((p.__name__, q.__name__) for p, q in kl._registered
                  if p.__name__ in LAWS and q.__name__ in LAWS and "lampion" in p.__module__)


@pytest.mark.parametrize("names", registered(), ids="-".join)
def test_divergence(names):
    """Not negative, and the mean of log p - log q over samples of p; infinite if q is 0 there."""
    p, q = LAWS[names[0]](), OTHERS[names[1]]()
    kl = D.kl_divergence(p, q)
    assert kl.shape == p.batch_shape and float(kl) >= 0
    lampion.manual_seed(0)
    x = p.sample((20_000,))
    if math.isinf(float(kl)):
        if names[0] == "Pareto":  # its samples seldom are that large
            x = p.icdf(t(1 - 1e-9))
        assert not bool(q.support.check(x).all())
        return
    terms = p.log_prob(x) - q.log_prob(x)
    assert abs(float(terms.mean() - kl)) < 5 * float(terms.std()) / math.sqrt(20_000) + 1e-9


@pytest.mark.parametrize("name", [n for n in LAWS if isinstance(LAWS[n](), D.ExponentialFamily)])
def test_divergence_of_exponential_families(name):
    """The general formula gives what the special ones give."""
    from lampion.distributions.kl_same import _exponential_family

    p, q = LAWS[name](), OTHERS[name]()
    assert float(_exponential_family(p, q)) == pytest.approx(float(D.kl_divergence(p, q)), rel=1e-9)


def test_divergence_of_matrices_and_others():
    c = t(2.0, 0.5, 0.5, 1.0).reshape(2, 2)
    p, q = D.Wishart(t(4.0), c), D.Wishart(t(5.0), lampion.eye(2, dtype=F64))
    lampion.manual_seed(0)
    x = p.sample((20_000,))
    terms = p.log_prob(x) - q.log_prob(x)
    assert abs(float(terms.mean() - D.kl_divergence(p, q))) < 5 * float(terms.std()) / 141
    a, b = D.LogNormal(t(0.0), t(1.0)), D.LogNormal(t(0.5), t(2.0))
    assert float(D.kl_divergence(a, b)) == float(D.kl_divergence(a.base_dist, b.base_dist))
    wide = [D.Independent(D.Normal(lampion.zeros(3), s), 1) for s in (1.0, 2.0)]
    assert float(D.kl_divergence(*wide)) == pytest.approx(
        3 * float(D.kl_divergence(D.Normal(0.0, 1.0), D.Normal(0.0, 2.0))))


def test_dispatch():
    class A(D.Normal):
        pass

    class B(A):
        pass

    D.register_kl(A, D.Normal)(lambda p, q: lampion.tensor(1.0))
    D.register_kl(D.Normal, A)(lambda p, q: lampion.tensor(2.0))
    assert float(D.kl_divergence(B(0.0, 1.0), D.Normal(0.0, 1.0))) == 1.0
    assert float(D.kl_divergence(D.Normal(0.0, 1.0), B(0.0, 1.0))) == 2.0
    with pytest.warns(RuntimeWarning, match="Ambiguous"):
        D.kl_divergence(B(0.0, 1.0), B(0.0, 1.0))
    with pytest.raises(NotImplementedError, match="Categorical"):
        D.kl_divergence(A(0.0, 1.0), D.Categorical(lampion.ones(2)))
    with pytest.raises(TypeError):
        D.register_kl(3, D.Normal)
