"""Distributions made of others: transformed, independent, mixed.

Floor 7; imports distribution, transforms, constraints and utils of this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lampion
from lampion.tensor import Size, Tensor

from . import constraints
from .distribution import Distribution
from .transforms import AbsTransform, ComposeTransform, Transform
from .utils import sum_rightmost

__all__ = ["Independent", "MixtureSameFamily", "TransformedDistribution"]


class Independent(Distribution):
    """`base_distribution` with the last `reinterpreted_batch_ndims` dims of its batch as part of
    an event: log-probabilities are summed over them.

    >>> d = Independent(Normal(lampion.zeros(3, 2), 1.0), 1)
    >>> d.batch_shape, d.event_shape, d.log_prob(lampion.zeros(3, 2)).shape
    (lampion.Size([3]), lampion.Size([2]), lampion.Size([3]))
    """

    arg_constraints: dict[str, Any] = {}
    _parts = ("base_dist",)

    def __init__(self, base_distribution: Distribution, reinterpreted_batch_ndims: int,
                 validate_args: bool | None = None) -> None:
        n = reinterpreted_batch_ndims
        batch = base_distribution.batch_shape
        if n > len(batch):
            raise ValueError("Expected reinterpreted_batch_ndims <= "
                             f"len(base_distribution.batch_shape), actual {n} vs {len(batch)}")
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, n
        shape = (*batch, *base_distribution.event_shape)
        cut = len(batch) - n
        super().__init__(shape[:cut], shape[cut:], validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:
        return False if self.reinterpreted_batch_ndims else self.base_dist.has_enumerate_support

    @constraints.dependent_property
    def support(self) -> Any:
        base, n = self.base_dist.support, self.reinterpreted_batch_ndims
        return constraints.independent(base, n) if n else base

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_rightmost(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Tensor:
        return sum_rightmost(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if self.reinterpreted_batch_ndims:
            raise NotImplementedError("Enumeration over cartesian product is not implemented")
        return self.base_dist.enumerate_support(expand=expand)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_dist}, {self.reinterpreted_batch_ndims})"


class TransformedDistribution(Distribution):
    """The distribution of t(x) for x from `base_distribution`; `transforms` is a Transform, or a
    list of them, applied in turn. If events of the transforms have more dims than those of the
    base, dims of its batch become part of the event.

    Its density at y is that of the base at x, over |dy/dx|.

    >>> logistic = TransformedDistribution(Uniform(0.0, 1.0), [SigmoidTransform().inv])
    >>> logistic.log_prob(lampion.tensor(0.0))
    tensor(-1.3863)
    """

    arg_constraints: dict[str, Any] = {}
    _parts = ()

    def __init__(self, base_distribution: Distribution,
                 transforms: Transform | Sequence[Transform],
                 validate_args: bool | None = None) -> None:
        if isinstance(transforms, Transform):
            self.transforms = [transforms]
        elif isinstance(transforms, list) and all(isinstance(t, Transform) for t in transforms):
            self.transforms = transforms
        else:
            raise ValueError(f"transforms must be a Transform or a list of them, was {transforms}")
        whole = ComposeTransform(self.transforms)
        shape = Size((*base_distribution.batch_shape, *base_distribution.event_shape))
        if len(shape) < whole.domain.event_dim:
            raise ValueError(f"base_distribution needs to have shape with size at least "
                             f"{whole.domain.event_dim}, but got {shape}.")
        # what the transforms do to a single event of the base
        base_dims = len(base_distribution.event_shape)
        image = whole.forward_shape(shape)
        enlarged = whole.inverse_shape(image)
        if enlarged != shape:  # parameters of a transform have more dims
            base_distribution = base_distribution.expand(
                enlarged[:len(enlarged) - base_dims])
        missing = whole.domain.event_dim - base_dims
        if missing > 0:
            base_distribution = Independent(base_distribution, missing)
        self.base_dist = base_distribution
        dims = whole.codomain.event_dim + max(base_dims - whole.domain.event_dim, 0)
        cut = len(image) - dims
        super().__init__(image[:cut], image[cut:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = super().expand(batch_shape, _instance)
        base = ComposeTransform(self.transforms).inverse_shape(
            Size((*batch_shape, *self._event_shape)))
        new.base_dist = self.base_dist.expand(base[:len(base) - len(self.base_dist.event_shape)])
        return new

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        if not self.transforms:
            return self.base_dist.support
        last, dims = self.transforms[-1].codomain, len(self._event_shape)
        more = dims - last.event_dim
        return constraints.independent(last, more) if more > 0 else last

    @property
    def has_rsample(self) -> bool:
        return self.base_dist.has_rsample

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            return self._forth(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._forth(self.base_dist.rsample(sample_shape))

    def _forth(self, x: Tensor) -> Tensor:
        for t in self.transforms:
            x = t(x)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        dims, total, y = len(self._event_shape), None, value
        for t in reversed(self.transforms):
            x = t.inv(y)
            dims += t.domain.event_dim - t.codomain.event_dim
            term = sum_rightmost(t.log_abs_det_jacobian(x, y), dims - t.domain.event_dim)
            total = term if total is None else total + term
            y = x
        base = sum_rightmost(self.base_dist.log_prob(y), dims - len(self.base_dist.event_shape))
        return base if total is None else base - total

    def _sign(self) -> Any:
        sign: Any = 1
        for t in self.transforms:
            sign = sign * t.sign
        return sign

    def _turned(self, p: Tensor) -> Tensor:
        """p, or 1 - p where the transforms decrease."""
        sign = self._sign()
        if isinstance(sign, int):
            return p if sign == 1 else 1 - p
        return sign * (p - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Tensor:
        for t in reversed(self.transforms):
            value = t.inv(value)
        if self._validate_args:
            self.base_dist._validate_sample(value)
        return self._turned(self.base_dist.cdf(value))

    def icdf(self, value: Tensor) -> Tensor:
        return self._forth(self.base_dist.icdf(self._turned(value)))


class Folded(TransformedDistribution):
    """|x| of a number x of `base`, a distribution symmetric about 0 with a `scale`: twice its
    density from 0 on, and none below. What the half distributions share.
    """

    arg_constraints = {"scale": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, base: Distribution, validate_args: bool | None = None) -> None:
        super().__init__(base, AbsTransform(), validate_args=validate_args)

    @property
    def scale(self) -> Tensor:
        """The scale of x."""
        return self.base_dist.scale

    @property
    def mode(self) -> Tensor:
        return lampion.zeros_like(self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return lampion.where(value >= 0, self.base_dist.log_prob(value) + math.log(2), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return 2 * self.base_dist.cdf(value) - 1

    def icdf(self, value: Tensor) -> Tensor:
        return self.base_dist.icdf((value + 1) / 2)

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() - math.log(2)


class MixtureSameFamily(Distribution):
    """A mixture: `mixture_distribution`, a Categorical, chooses along the last dim of the batch of
    `component_distribution`.

    >>> components = Normal(lampion.tensor([-1.0, 1.0]), 1.0)
    >>> d = MixtureSameFamily(Categorical(lampion.ones(2)), components)
    >>> d.mean, d.variance
    (tensor(0.), tensor(2.))
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = False
    _parts = ("_mixture_distribution", "_component_distribution")

    def __init__(self, mixture_distribution: Any, component_distribution: Distribution,
                 validate_args: bool | None = None) -> None:
        from .categories import Categorical

        if not isinstance(mixture_distribution, Categorical):
            raise ValueError("The Mixture distribution needs to be an instance of "
                             "lampion.distributions.Categorical")
        if not isinstance(component_distribution, Distribution):
            raise ValueError("The Component distribution needs to be an instance of "
                             "lampion.distributions.Distribution")
        components = component_distribution.batch_shape
        batch = components[:-1]
        for a, b in zip(reversed(mixture_distribution.batch_shape), reversed(batch)):
            if a != 1 and b != 1 and a != b:
                raise ValueError(f"`mixture_distribution.batch_shape` "
                                 f"({mixture_distribution.batch_shape}) is not compatible with "
                                 f"`component_distribution.batch_shape` ({components})")
        n = mixture_distribution.probs.shape[-1]
        if components and components[-1] != n:
            raise ValueError(f"`mixture_distribution` has {n} components, but "
                             f"`component_distribution.batch_shape[-1]` is {components[-1]}")
        self._mixture_distribution = mixture_distribution
        self._component_distribution = component_distribution
        self._num_component = components[-1]
        event = component_distribution.event_shape
        self._event_ndims = len(event)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def mixture_distribution(self) -> Any:
        """The distribution of the component's number."""
        return self._mixture_distribution

    @property
    def component_distribution(self) -> Distribution:
        """The distributions that are mixed, along the last dim of their batch."""
        return self._component_distribution

    @constraints.dependent_property
    def support(self) -> Any:
        return constraints.MixtureSameFamilyConstraint(self._component_distribution.support)

    def _weighted(self, values: Tensor) -> Tensor:
        """The sum over components of values, weighted by their probabilities."""
        n = self._event_ndims
        probs = self._mixture_distribution.probs
        return (probs.reshape((*probs.shape, *[1] * n)) * values).sum(-1 - n)

    @property
    def mean(self) -> Tensor:
        return self._weighted(self._component_distribution.mean)

    @property
    def variance(self) -> Tensor:
        means = self._component_distribution.mean
        away = means - self.mean.unsqueeze(-1 - self._event_ndims)
        return self._weighted(self._component_distribution.variance) + self._weighted(away.square())

    def cdf(self, x: Tensor) -> Tensor:
        each = self._component_distribution.cdf(self._for_all(x))
        return (each * self._mixture_distribution.probs).sum(-1)

    def _for_all(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1 - self._event_ndims)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        each = self._component_distribution.log_prob(self._for_all(x))
        return (each + self._mixture_distribution.logits.log_softmax(-1)).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            n = self._event_ndims
            chosen = self._mixture_distribution.expand(self._batch_shape).sample(sample_shape)
            drawn = self._component_distribution.sample(sample_shape)
            dim = drawn.dim() - n - 1
            chosen = chosen.reshape((*chosen.shape, *[1] * (n + 1)))
            chosen = chosen.expand((*drawn.shape[:dim], 1, *drawn.shape[dim + 1:]))
            return drawn.gather(dim, chosen).squeeze(dim)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(\n  {self._mixture_distribution},\n  "
                f"{self._component_distribution})")
