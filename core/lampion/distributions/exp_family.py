"""`ExponentialFamily`: entropies by the gradient of the log-normaliser.

Floor 7; imports distribution of this package.
"""

from __future__ import annotations

from typing import Any

import lampion
from lampion.tensor import Tensor

from .distribution import Distribution
from .utils import sum_rightmost

__all__ = ["ExponentialFamily"]


class ExponentialFamily(Distribution):
    """Densities exp(<t(x), n> - F(n) + k(x)) of natural parameters n and a log-normaliser F.

    Subclasses give `_natural_params`, `_log_normalizer(*n)` and the expected `k(x)`,
    `_mean_carrier_measure`. The entropy is F(n) - <n, grad F(n)> - E[k(x)] (Nielsen and Nock,
    Entropies and cross-entropies of exponential families, 2010).

    >>> isinstance(Poisson(3.0), ExponentialFamily)
    True
    """

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _mean_carrier_measure(self) -> Any:
        raise NotImplementedError

    def _expected_statistics(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The natural parameters n and the means of t(x), which are grad F(n)."""
        given = self._natural_params
        tracked = lampion.is_grad_enabled() and any(n.requires_grad for n in given)
        with lampion.enable_grad():
            natural = [n if tracked and n.requires_grad else n.detach().requires_grad_()
                       for n in given]
            log_norm = self._log_normalizer(*natural)
            means = lampion.autograd.grad(log_norm.sum(), natural, create_graph=tracked)
        return given, means

    def _per_batch(self, terms: Tensor) -> Tensor:
        """The sum over the dims of one parameter: those behind the batch."""
        return sum_rightmost(terms, terms.dim() - len(self._batch_shape))

    def entropy(self) -> Tensor:
        """The entropy in nats, differentiable by the parameters: batch_shape."""
        natural, means = self._expected_statistics()
        result = self._log_normalizer(*natural) - self._mean_carrier_measure
        for n, mean in zip(natural, means):
            result = result - self._per_batch(n * mean)
        return result
