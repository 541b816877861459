"""Kullback-Leibler divergences of two distributions of different kinds.

Floor 7; imports kl and the distributions of this package. All are minus the entropy of p minus the
mean of log q under p; infinite where p has values that q never has.
"""

from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.tensor import Tensor

from .betas import Beta, ContinuousBernoulli
from .counts import Bernoulli, Binomial, Poisson
from .gammas import Exponential, Gamma
from .kl import register_kl
from .locations import Gumbel, Laplace, Uniform
from .normals import HALF_LOG_TWO_PI, Normal
from .tails import Pareto
from .utils import euler_constant, or_infinite

digamma, lgamma, where = lampion.digamma, lampion.lgamma, lampion.where


# ---- support of p outside that of q -------------------------------------------------------------

def _infinite(p: Any, q: Any) -> Tensor:
    shape = lampion.broadcast_shapes(p.batch_shape, q.batch_shape)
    like = p.mean
    return lampion.full(shape, math.inf, dtype=like.dtype, device=like.device)


_UNIT = (Beta, ContinuousBernoulli)
_POSITIVE = (Exponential, Gamma)
for _p, _others in (
        (Beta, (Pareto,)), (ContinuousBernoulli, (Pareto,)),
        (Exponential, (*_UNIT, Pareto, Uniform)), (Gamma, (*_UNIT, Pareto, Uniform)),
        (Gumbel, (*_UNIT, *_POSITIVE, Pareto, Uniform)),
        (Laplace, (*_UNIT, *_POSITIVE, Pareto, Uniform)),
        (Normal, (*_UNIT, *_POSITIVE, Pareto, Uniform)),
        (Pareto, (*_UNIT, Uniform)), (Poisson, (Bernoulli, Binomial))):
    for _q in _others:
        register_kl(_p, _q)(_infinite)


# ---- what log q has the mean of -----------------------------------------------------------------

def _from_normal(p_entropy: Tensor, square: Tensor, q: Any) -> Tensor:
    """KL(p || q) for a normal q, given the mean square of x - q.loc under p."""
    return -p_entropy + HALF_LOG_TWO_PI + q.scale.log() + 0.5 * square / q.scale.square()


def _by_moments(p: Any, q: Any) -> Tensor:
    return _from_normal(p.entropy(), p.variance + (p.mean - q.loc).square(), q)


for _p in (Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Uniform):
    register_kl(_p, Normal)(_by_moments)


@register_kl(Beta, Exponential)
@register_kl(ContinuousBernoulli, Exponential)
@register_kl(Gamma, Exponential)
def _to_exponential(p: Any, q: Any) -> Tensor:
    return -p.entropy() - q.rate.log() + q.rate * p.mean


def _from_gamma(p: Any, q: Any, mean_log: Tensor) -> Tensor:
    """KL(p || q) for a gamma q, given the mean of log x under p."""
    a, b = q.concentration, q.rate
    return -p.entropy() + lgamma(a) - a * b.log() - (a - 1) * mean_log + b * p.mean


def _to_continuous_bernoulli(p: Any, q: Any) -> Tensor:
    return -p.entropy() - p.mean * q.logits - (-q.probs).log1p() - q._log_norm()


register_kl(Beta, ContinuousBernoulli)(_to_continuous_bernoulli)


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Any, q: Any) -> Tensor:
    return -p.entropy() - (lampion.xlogy(p.probs, q.rate) - q.rate)


# ---- from beta ----------------------------------------------------------------------------------

@register_kl(Beta, Gamma)
def _beta_gamma(p: Any, q: Any) -> Tensor:
    a, b = p.concentration1, p.concentration0
    return _from_gamma(p, q, digamma(a) - digamma(a + b))


@register_kl(Beta, Uniform)
@register_kl(ContinuousBernoulli, Uniform)
def _unit_uniform(p: Any, q: Any) -> Tensor:
    return or_infinite((q.low > 0) | (q.high < 1), -p.entropy() + (q.high - q.low).log())


# ---- from the positive numbers ------------------------------------------------------------------

@register_kl(Exponential, Gamma)
def _exponential_gamma(p: Any, q: Any) -> Tensor:
    return _from_gamma(p, q, -p.rate.log() - euler_constant)


def _to_gumbel(p: Any, q: Any, mean_exp: Tensor) -> Tensor:
    """KL(p || q) for a Gumbel q, given the mean of exp(-(x - q.loc) / q.scale) under p."""
    return -p.entropy() + q.scale.log() + (p.mean - q.loc) / q.scale + mean_exp


@register_kl(Exponential, Gumbel)
def _exponential_gumbel(p: Any, q: Any) -> Tensor:
    product = p.rate * q.scale
    return _to_gumbel(p, q, (q.loc / q.scale).exp() * product / (product + 1))


@register_kl(Gamma, Gumbel)
def _gamma_gumbel(p: Any, q: Any) -> Tensor:
    product = p.rate * q.scale
    return _to_gumbel(p, q, (q.loc / q.scale - p.concentration * (1 / product).log1p()).exp())


@register_kl(Pareto, Exponential)
def _pareto_exponential(p: Any, q: Any) -> Tensor:
    value = -p.entropy() - q.rate.log() + q.rate * p.mean
    return or_infinite(p.alpha <= 1, value)


@register_kl(Pareto, Gamma)
def _pareto_gamma(p: Any, q: Any) -> Tensor:
    return or_infinite(p.alpha <= 1, _from_gamma(p, q, p.scale.log() + 1 / p.alpha))


@register_kl(Pareto, Normal)
def _pareto_normal(p: Any, q: Any) -> Tensor:
    return or_infinite(p.alpha <= 2, _by_moments(p, q))


# ---- from all numbers ---------------------------------------------------------------------------

@register_kl(Normal, Gumbel)
def _normal_gumbel(p: Any, q: Any) -> Tensor:
    mean_exp = ((q.loc - p.loc) / q.scale + 0.5 * (p.scale / q.scale).square()).exp()
    return _to_gumbel(p, q, mean_exp)


@register_kl(Normal, Laplace)
def _normal_laplace(p: Any, q: Any) -> Tensor:
    away = p.loc - q.loc
    z = away / p.scale
    mean_abs = (math.sqrt(2 / math.pi) * p.scale * (-0.5 * z.square()).exp()
                + away * lampion.erf(z * math.sqrt(0.5)))
    return -p.entropy() + (2 * q.scale).log() + mean_abs / q.scale


# ---- from an interval ---------------------------------------------------------------------------

def _x_log_x(x: Tensor) -> Tensor:
    return lampion.xlogy(x, x)


def _mean_log(low: Tensor, high: Tensor) -> Tensor:
    """The mean of log x between two numbers that are not negative."""
    return (_x_log_x(high) - _x_log_x(low)) / (high - low) - 1


@register_kl(Uniform, Beta)
def _uniform_beta(p: Any, q: Any) -> Tensor:
    a, b = q.concentration1, q.concentration0
    value = (-p.entropy() + lgamma(a) + lgamma(b) - lgamma(a + b)
             - (a - 1) * _mean_log(p.low, p.high) - (b - 1) * _mean_log(1 - p.high, 1 - p.low))
    return or_infinite((p.high > 1) | (p.low < 0), value)


@register_kl(Uniform, ContinuousBernoulli)
def _uniform_continuous_bernoulli(p: Any, q: Any) -> Tensor:
    return or_infinite((p.high > 1) | (p.low < 0), _to_continuous_bernoulli(p, q))


@register_kl(Uniform, Exponential)
def _uniform_exponential(p: Any, q: Any) -> Tensor:
    return or_infinite(p.low < 0, _to_exponential(p, q))


@register_kl(Uniform, Gamma)
def _uniform_gamma(p: Any, q: Any) -> Tensor:
    return or_infinite(p.low < 0, _from_gamma(p, q, _mean_log(p.low, p.high)))


@register_kl(Uniform, Gumbel)
def _uniform_gumbel(p: Any, q: Any) -> Tensor:
    low, high = [(q.loc - x) / q.scale for x in (p.low, p.high)]
    return _to_gumbel(p, q, (low.exp() - high.exp()) * q.scale / (p.high - p.low))


@register_kl(Uniform, Pareto)
def _uniform_pareto(p: Any, q: Any) -> Tensor:
    a = q.alpha
    value = -p.entropy() - a.log() - a * q.scale.log() + (a + 1) * _mean_log(p.low, p.high)
    return or_infinite(p.low < q.scale, value)
