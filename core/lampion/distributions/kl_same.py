"""Kullback-Leibler divergences of two distributions of one kind.

Floor 7; imports kl and the distributions of this package. Most follow from the means of log p and
log q under p; those of normal vectors from the determinants and a trace.
"""

from __future__ import annotations

from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Tensor

from .betas import Beta, ContinuousBernoulli, Dirichlet
from .categories import Categorical, OneHotCategorical
from .counts import Bernoulli, Binomial, Geometric, Poisson
from .exp_family import ExponentialFamily
from .gammas import Exponential, Gamma
from .kl import kl_divergence, register_kl
from .locations import Cauchy, Gumbel, Laplace, Uniform
from .multivariate import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    _solved,
    half_log_det,
    mahalanobis,
)
from .normals import HalfNormal, Normal
from .tails import Pareto
from .transformed import Independent, TransformedDistribution
from .utils import euler_constant, or_infinite, sum_rightmost

digamma, lgamma, where = lampion.digamma, lampion.lgamma, lampion.where


# ---- made of others -----------------------------------------------------------------------------

@register_kl(Independent, Independent)
def _independent(p: Any, q: Any) -> Tensor:
    n = p.reinterpreted_batch_ndims
    if n != q.reinterpreted_batch_ndims:
        raise NotImplementedError("KL(p || q) of Independent distributions whose events have "
                                  "different numbers of dims")
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), n)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: Any, q: Any) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError("KL(p || q) of distributions through different transforms")
    return kl_divergence(p.base_dist, q.base_dist)


@register_kl(ExponentialFamily, ExponentialFamily)
def _exponential_family(p: Any, q: Any) -> Tensor:
    """The Bregman divergence F(q) - F(p) - <q - p, grad F(p)> of the log-normaliser."""
    if type(p) is not type(q):
        raise NotImplementedError(f"No KL(p || q) is implemented for p type {type(p).__name__} "
                                  f"and q type {type(q).__name__}")
    natural, means = p._expected_statistics()
    others = q._natural_params
    result = q._log_normalizer(*others) - p._log_normalizer(*natural)
    for a, b, mean in zip(natural, others, means):
        result = result - p._per_batch((b - a) * mean)
    return result


# ---- counts and categories ----------------------------------------------------------------------

@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Any, q: Any) -> Tensor:
    one = p.probs * (F.softplus(-q.logits) - F.softplus(-p.logits))
    one = where(p.probs == 0, 0.0, or_infinite(q.probs == 0, one))
    none = (1 - p.probs) * (F.softplus(q.logits) - F.softplus(p.logits))
    return one + where(p.probs == 1, 0.0, or_infinite(q.probs == 1, none))


@register_kl(Binomial, Binomial)
def _binomial(p: Any, q: Any) -> Tensor:
    if bool((p.total_count < q.total_count).any()):
        raise NotImplementedError("KL between Binomials where q.total_count > p.total_count is not "
                                  "implemented")
    each = p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p()
    return or_infinite(p.total_count > q.total_count, p.total_count * each)


@register_kl(Categorical, Categorical)
@register_kl(OneHotCategorical, OneHotCategorical)
def _categorical(p: Any, q: Any) -> Tensor:
    each = or_infinite(q.probs == 0, p.probs * (p.logits - q.logits))
    return where(p.probs == 0, 0.0, each).sum(-1)


@register_kl(Geometric, Geometric)
def _geometric(p: Any, q: Any) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson(p: Any, q: Any) -> Tensor:
    return lampion.xlogy(p.rate, p.rate) - lampion.xlogy(p.rate, q.rate) - (p.rate - q.rate)


# ---- numbers ------------------------------------------------------------------------------------

@register_kl(Beta, Beta)
def _beta(p: Any, q: Any) -> Tensor:
    return _dirichlet(p._dirichlet, q._dirichlet)


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Any, q: Any) -> Tensor:
    a, b = p.concentration, q.concentration
    total = a.sum(-1)
    means = digamma(a) - digamma(total).unsqueeze(-1)
    return (lgamma(total) - lgamma(b.sum(-1)) - (lgamma(a) - lgamma(b)).sum(-1)
            + ((a - b) * means).sum(-1))


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: Any, q: Any) -> Tensor:
    return (p.mean * (p.logits - q.logits) + p._log_norm() - q._log_norm()
            + (-p.probs).log1p() - (-q.probs).log1p())


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Any, q: Any) -> Tensor:
    """F. Chyzak and F. Nielsen, A closed-form formula for the Kullback-Leibler divergence between
    Cauchy distributions, 2019."""
    square = (p.scale + q.scale).square() + (p.loc - q.loc).square()
    return square.log() - (4 * p.scale * q.scale).log()


@register_kl(Exponential, Exponential)
def _exponential(p: Any, q: Any) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - 1 - ratio.log()


@register_kl(Gamma, Gamma)
def _gamma(p: Any, q: Any) -> Tensor:
    a, b = p.concentration, q.concentration
    return (b * (p.rate / q.rate).log() + lgamma(b) - lgamma(a) + (a - b) * digamma(a)
            + (q.rate - p.rate) * (a / p.rate))


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Any, q: Any) -> Tensor:
    ratio, away = p.scale / q.scale, (p.loc - q.loc) / q.scale
    return (away - ratio.log() + ratio * euler_constant + (lgamma(1 + ratio) - away).exp()
            - (1 + euler_constant))


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: Any, q: Any) -> Tensor:
    return _normal(p.base_dist, q.base_dist)


@register_kl(Laplace, Laplace)
def _laplace(p: Any, q: Any) -> Tensor:
    ratio, away = p.scale / q.scale, (p.loc - q.loc).abs()
    return away / q.scale + ratio * (-away / p.scale).exp() - ratio.log() - 1


@register_kl(Normal, Normal)
def _normal(p: Any, q: Any) -> Tensor:
    ratio = (p.scale / q.scale).square()
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale).square() - 1 - ratio.log())


@register_kl(Pareto, Pareto)
def _pareto(p: Any, q: Any) -> Tensor:
    ratio = q.alpha / p.alpha
    value = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return or_infinite(p.scale < q.scale, value)


@register_kl(Uniform, Uniform)
def _uniform(p: Any, q: Any) -> Tensor:
    value = ((q.high - q.low) / (p.high - p.low)).log()
    return or_infinite((q.low > p.low) | (q.high < p.high), value)


# ---- normal vectors -----------------------------------------------------------------------------

def _squares(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-2, -1))


def _normal_vectors(p: Any, q: Any) -> Tensor:
    """log-determinants, the trace of q's precision by p's covariance, and the distance of the
    means, measured by q."""
    if p.event_shape != q.event_shape:
        raise ValueError(f"KL-divergence between normal vectors of the different event shapes "
                         f"{p.event_shape} and {q.event_shape}")
    # p's covariance as a sum of M M^T
    if isinstance(p, MultivariateNormal):
        det_p, parts = half_log_det(p._unbroadcasted_scale_tril), [p._unbroadcasted_scale_tril]
    else:
        det_p = p._half_log_det()
        parts = [p._unbroadcasted_cov_factor, p._unbroadcasted_cov_diag.sqrt().diag_embed()]
    away = q.loc - p.loc
    if isinstance(q, MultivariateNormal):
        factor = q._unbroadcasted_scale_tril
        det_q, square = half_log_det(factor), mahalanobis(factor, away)
        trace: Any = sum(_squares(_solved_for(factor, m)) for m in parts)
    else:
        det_q, square = q._half_log_det(), q._square(away)
        root = q._unbroadcasted_cov_diag.rsqrt().unsqueeze(-1)
        trace = sum(_squares(root * m) - _squares(_solved_for(q._capacitance_tril, q._scaled @ m))
                    for m in parts)
    return det_q - det_p + 0.5 * (trace + square - p.event_shape[0])


def _solved_for(factor: Tensor, columns: Tensor) -> Tensor:
    batch = lampion.broadcast_shapes(factor.shape[:-2], columns.shape[:-2])
    return _solved(factor.expand((*batch, *factor.shape[-2:])),
                   columns.expand((*batch, *columns.shape[-2:])))


for _p in (MultivariateNormal, LowRankMultivariateNormal):
    for _q in (MultivariateNormal, LowRankMultivariateNormal):
        register_kl(_p, _q)(_normal_vectors)
