"""What distributions share whose parameter is `probs` or `logits`.

Floor 7; imports distribution and utils of this package.
"""

from __future__ import annotations

from typing import Any

import lampion
from lampion.tensor import Size, Tensor

from .distribution import Distribution
from .utils import broadcast_all, lazy_property, logits_to_probs, probs_to_logits

__all__ = ["Categories", "Odds"]


class _Either(Distribution):
    """A parameter given as probabilities or as logits; the other form is computed at need."""

    _binary = True

    def _chosen(self, probs: Any, logits: Any) -> tuple[str, Any]:
        """The name and value of the form that is given; ValueError unless it is just one."""
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        self._form = "logits" if probs is None else "probs"
        return self._form, logits if probs is None else probs

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds, or log-probabilities in the last dim."""
        return probs_to_logits(self.probs, self._binary)

    @lazy_property
    def probs(self) -> Tensor:
        """Probabilities."""
        return logits_to_probs(self.logits, self._binary)

    @property
    def _param(self) -> Tensor:
        return self.__dict__[self._form]

    @property
    def param_shape(self) -> Size:
        """The shape of `probs` and `logits`."""
        return self._param.shape

    def _new(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._param.new(*args, **kwargs)


class Odds(_Either):
    """The probability of an event, a number for each distribution of the batch."""

    _parts = ("probs", "logits")

    def _set_odds(self, probs: Any, logits: Any, validate_args: bool | None, **others: Any) -> None:
        """Keep `probs` or `logits` and other parameters, broadcast to the shape of the batch."""
        name, value = self._chosen(probs, logits)
        if others:
            others = dict(zip((*others, name), broadcast_all(*others.values(), value)))
            others = {k: v.type_as(others[name]) for k, v in others.items()}
        else:
            others = {name: value}
        self._set_parameters(validate_args, **others)


class Categories(_Either):
    """Probabilities, or logarithms of weights, of categories in the last dim; normalised."""

    _parts = ("probs", "logits")
    _binary = False

    def _set_categories(self, probs: Any, logits: Any) -> Size:
        """Keep the normalised parameter; its shape."""
        name, value = self._chosen(probs, logits)
        if value.dim() < 1:
            raise ValueError(f"`{name}` parameter must be at least one-dimensional.")
        if name == "probs":
            self.probs = value / value.sum(-1, keepdim=True)
        else:
            self.logits = value - value.logsumexp(-1, keepdim=True)
        return value.shape

    def _categorical_entropy(self) -> Tensor:
        least = lampion.finfo(self.logits.dtype).min
        return -(self.logits.clamp(min=least) * self.probs).sum(-1)
