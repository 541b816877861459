"""Gamma distributions and those of quotients of gamma numbers.

Floor 7; imports exp_family and transformed of this package. Samples of gamma numbers are
differentiable by their shape, see `lampion.ops.random_gamma`.
"""

from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.tensor import Tensor

from . import constraints
from .distribution import Distribution
from .exp_family import ExponentialFamily
from .transformed import TransformedDistribution
from .transforms import PowerTransform

__all__ = ["Chi2", "Exponential", "FisherSnedecor", "Gamma", "InverseGamma", "StudentT"]


class Gamma(ExponentialFamily):
    """The gamma distribution of shape a = `concentration` and `rate` b, both positive: density
    b**a x**(a - 1) exp(-b x) / gamma(a).

    >>> Gamma(2.0, 4.0).mean
    tensor(0.5000)
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support: Any = constraints.nonnegative
    has_rsample = True
    _mean_carrier_measure = 0
    _parts: Any = ("concentration", "rate")

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self._set_parameters(validate_args, concentration=concentration, rate=rate)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return ((self.concentration - 1) / self.rate).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate.square()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        value = lampion._standard_gamma(self.concentration.expand(shape)) / self.rate.expand(shape)
        return value.clamp(min=lampion.finfo(value.dtype).tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration, self.rate
        return (lampion.xlogy(a, b) + lampion.xlogy(a - 1, value) - b * value - lampion.lgamma(a))

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return lampion.special.gammainc(self.concentration, self.rate * value)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a - self.rate.log() + lampion.lgamma(a) + (1 - a) * lampion.digamma(a)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.concentration - 1, -self.rate

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        x, y = natural_params
        return lampion.lgamma(x + 1) - (x + 1) * (-y).log()


class Chi2(Gamma):
    """The sum of squares of `df` standard normal numbers: Gamma(df / 2, 1 / 2).

    >>> Chi2(3.0).mean
    tensor(3.)
    """

    arg_constraints = {"df": constraints.positive}

    def __init__(self, df: Any, validate_args: bool | None = None) -> None:
        super().__init__(0.5 * df, 0.5, validate_args=validate_args)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom."""
        return self.concentration * 2


class Exponential(ExponentialFamily):
    """Waiting times of events with a `rate`: density rate exp(-rate x).

    >>> Exponential(2.0).cdf(lampion.tensor(0.0))
    tensor(0.)
    """

    arg_constraints = {"rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    _mean_carrier_measure = 0
    _parts = ("rate",)

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        self._set_parameters(validate_args, rate=rate)

    @property
    def mean(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def mode(self) -> Tensor:
        return lampion.zeros_like(self.rate)

    @property
    def stddev(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def variance(self) -> Tensor:
        return self.rate.pow(-2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        waiting = lampion.empty(self._extended_shape(sample_shape), dtype=self.rate.dtype,
                                device=self.rate.device).exponential_()
        return waiting / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.rate.log() - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -(-self.rate * value).expm1()

    def icdf(self, value: Tensor) -> Tensor:
        return -(-value).log1p() / self.rate

    def entropy(self) -> Tensor:
        return 1 - self.rate.log()

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (-self.rate,)

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        return -(-natural_params[0]).log()


class InverseGamma(TransformedDistribution):
    """1 / x of a gamma number x with the shape a = `concentration` and the rate b = `rate`:
    density b**a / gamma(a) x**(-a - 1) exp(-b / x).

    >>> InverseGamma(3.0, 4.0).mean
    tensor(2.)
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        base = Gamma(concentration, rate, validate_args=validate_args)
        super().__init__(base, PowerTransform(-base.rate.new_ones(())),
                         validate_args=validate_args)

    @property
    def concentration(self) -> Tensor:
        """The shape of x."""
        return self.base_dist.concentration

    @property
    def rate(self) -> Tensor:
        """The rate of x."""
        return self.base_dist.rate

    @property
    def mean(self) -> Tensor:
        a = self.concentration
        return lampion.where(a > 1, self.rate / (a - 1), lampion.inf)

    @property
    def mode(self) -> Tensor:
        return self.rate / (self.concentration + 1)

    @property
    def variance(self) -> Tensor:
        a = self.concentration
        return lampion.where(a > 2, self.rate.square() / ((a - 1).square() * (a - 2)), lampion.inf)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a + self.rate.log() + lampion.lgamma(a) - (1 + a) * lampion.digamma(a)


class FisherSnedecor(Distribution):
    """The quotient of two Chi2 numbers, each over its degrees of freedom `df1` and `df2`.

    >>> FisherSnedecor(2.0, 4.0).mean
    tensor(2.)
    """

    arg_constraints = {"df1": constraints.positive, "df2": constraints.positive}
    support = constraints.positive
    has_rsample = True
    _parts = ("df1", "df2", "_gamma1", "_gamma2")

    def __init__(self, df1: Any, df2: Any, validate_args: bool | None = None) -> None:
        self._set_parameters(validate_args, df1=df1, df2=df2)
        self._gamma1 = Gamma(self.df1 * 0.5, self.df1, validate_args=False)
        self._gamma2 = Gamma(self.df2 * 0.5, self.df2, validate_args=False)

    @property
    def mean(self) -> Tensor:
        df2 = self.df2
        return lampion.where(df2 > 2, df2 / (df2 - 2), lampion.nan)

    @property
    def mode(self) -> Tensor:
        mode = (self.df1 - 2) / self.df1 * self.df2 / (self.df2 + 2)
        return lampion.where(self.df1 > 2, mode, lampion.nan)

    @property
    def variance(self) -> Tensor:
        df1, df2 = self.df1, self.df2
        value = 2 * df2.square() * (df1 + df2 - 2) / (df1 * (df2 - 2).square() * (df2 - 4))
        return lampion.where(df2 > 4, value, lampion.nan)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        tiny = lampion.finfo(self.df2.dtype).tiny
        top, bottom = self._gamma1.rsample(sample_shape), self._gamma2.rsample(sample_shape)
        return (top / bottom.clamp(min=tiny)).clamp(min=tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b, ratio = self.df1 * 0.5, self.df2 * 0.5, self.df1 / self.df2
        beta = lampion.lgamma(a) + lampion.lgamma(b) - lampion.lgamma(a + b)
        return (a * ratio.log() + (a - 1) * value.log() - (a + b) * (ratio * value).log1p() - beta)


class StudentT(Distribution):
    """loc + scale z / sqrt(x / df) of a standard normal z and a Chi2 number x with `df` degrees of
    freedom.

    >>> StudentT(4.0).variance
    tensor(2.)
    """

    arg_constraints = {"df": constraints.positive, "loc": constraints.real,
                       "scale": constraints.positive}
    support = constraints.real
    has_rsample = True
    _parts = ("df", "loc", "scale", "_chi2")

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0,
                 validate_args: bool | None = None) -> None:
        self._set_parameters(validate_args, df=df, loc=loc, scale=scale)
        self._chi2 = Chi2(self.df, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return lampion.where(self.df > 1, self.loc, lampion.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        df = self.df
        finite = self.scale.square() * df / (df - 2)
        return lampion.where(df > 2, finite, lampion.where(df > 1, lampion.inf, lampion.nan)
                             .to(finite))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = lampion.randn(self._extended_shape(sample_shape), dtype=self.df.dtype,
                          device=self.df.device)
        x = self._chi2.rsample(sample_shape)
        return self.loc + self.scale * z * (x / self.df).rsqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        df = self.df
        z = (value - self.loc) / self.scale
        norm = (self.scale.log() + 0.5 * df.log() + 0.5 * math.log(math.pi)
                + lampion.lgamma(0.5 * df) - lampion.lgamma(0.5 * (df + 1)))
        return -0.5 * (df + 1) * (z.square() / df).log1p() - norm

    def entropy(self) -> Tensor:
        df = self.df
        beta = lampion.lgamma(0.5 * df) + 0.5 * math.log(math.pi) - lampion.lgamma(0.5 * (1 + df))
        return (self.scale.log() + 0.5 * (df + 1)
                * (lampion.digamma(0.5 * (df + 1)) - lampion.digamma(0.5 * df))
                + 0.5 * df.log() + beta)
