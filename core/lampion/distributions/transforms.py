"""`lampion.distributions.transforms`: maps with inverses and the logarithm of their Jacobians.

Floor 7; imports constraints and utils of this package. The base is in `transform`, those that are
made of other transforms in `joined_transforms`.
"""

from __future__ import annotations

import math
from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.tensor import Size, Tensor

from . import constraints
from .joined_transforms import CatTransform, ComposeTransform, IndependentTransform, StackTransform
from .transform import Same, Transform
from .utils import broadcast_all, sum_rightmost, tril_matrix_to_vec, vec_to_tril_matrix

__all__ = ["AbsTransform", "AffineTransform", "CatTransform", "ComposeTransform",
           "CorrCholeskyTransform", "CumulativeDistributionTransform", "ExpTransform",
           "IndependentTransform", "LowerCholeskyTransform", "PositiveDefiniteTransform",
           "PowerTransform", "ReshapeTransform", "SigmoidTransform", "SoftmaxTransform",
           "SoftplusTransform", "StackTransform", "StickBreakingTransform", "TanhTransform",
           "Transform", "identity_transform"]


def _broadcast(shape: Any, *parameters: Any) -> Size:
    return lampion.broadcast_shapes(shape, *[getattr(p, "shape", ()) for p in parameters])


# ---- of numbers ---------------------------------------------------------------------------------

class ExpTransform(Same, Transform):
    """y = exp(x), from the real to the positive numbers.

    >>> ExpTransform().log_abs_det_jacobian(lampion.tensor(2.0), None)
    tensor(2.)
    """

    domain, codomain = constraints.real, constraints.positive
    bijective, sign = True, 1

    def _call(self, x: Tensor) -> Tensor:
        return x.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x


class PowerTransform(Transform):
    """y = x ** exponent, from positive to positive numbers; the exponent is not 0.

    >>> PowerTransform(lampion.tensor(2.0))(lampion.tensor(3.0))
    tensor(9.)
    """

    domain, codomain = constraints.positive, constraints.positive
    bijective = True

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.exponent, = broadcast_all(exponent)

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self if self._cache_size == cache_size else PowerTransform(self.exponent, cache_size)

    @property
    def sign(self) -> Any:
        return self.exponent.sign()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PowerTransform) and bool((self.exponent == other.exponent).all())

    __hash__ = object.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return x.pow(self.exponent)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.pow(1 / self.exponent)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.exponent * y / x).abs().log()

    def forward_shape(self, shape: Any) -> Any:
        return _broadcast(shape, self.exponent)

    inverse_shape = forward_shape


class SigmoidTransform(Same, Transform):
    """y = 1 / (1 + exp(-x)), from the real numbers to the interval from 0 to 1.

    >>> SigmoidTransform()(lampion.zeros(1))
    tensor([0.5000])
    """

    domain, codomain = constraints.real, constraints.unit_interval
    bijective, sign = True, 1

    def _call(self, x: Tensor) -> Tensor:
        limits = lampion.finfo(x.dtype)
        return x.sigmoid().clamp(limits.tiny, 1 - limits.eps)

    def _inverse(self, y: Tensor) -> Tensor:
        limits = lampion.finfo(y.dtype)
        y = y.clamp(limits.tiny, 1 - limits.eps)
        return y.log() - (-y).log1p()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return F.logsigmoid(x) + F.logsigmoid(-x)


class SoftplusTransform(Same, Transform):
    """y = log(1 + exp(x)), from the real to the positive numbers; x itself above 20.

    >>> SoftplusTransform()(lampion.zeros(1))
    tensor([0.6931])
    """

    domain, codomain = constraints.real, constraints.positive
    bijective, sign = True, 1

    def _call(self, x: Tensor) -> Tensor:
        return F.softplus(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return (-(-y).expm1()).log() + y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return F.logsigmoid(x)


class TanhTransform(Same, Transform):
    """y = tanh(x), from the real numbers to the interval from -1 to 1. Near the ends the inverse
    loses what y has rounded off: a cache keeps x.

    >>> TanhTransform()(lampion.zeros(1))
    tensor([0.])
    """

    domain, codomain = constraints.real, constraints.interval(-1.0, 1.0)
    bijective, sign = True, 1

    def _call(self, x: Tensor) -> Tensor:
        return x.tanh()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.atanh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # 1 - tanh(x)**2 is 4 sigmoid(2x) sigmoid(-2x)
        return 2 * (math.log(2.0) - x - F.softplus(-2 * x))


class AbsTransform(Same, Transform):
    """y = |x|, not bijective: of the two x the positive one is the inverse.

    >>> AbsTransform()(lampion.tensor([-2.0]))
    tensor([2.])
    """

    domain, codomain = constraints.real, constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return x.abs()

    def _inverse(self, y: Tensor) -> Tensor:
        return y


class AffineTransform(Transform):
    """y = loc + scale x; the last `event_dim` dims are one event.

    >>> AffineTransform(1.0, 2.0)(lampion.tensor([3.0]))
    tensor([7.])
    """

    bijective = True

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.loc, self.scale, self._event_dim = loc, scale, event_dim

    @property
    def event_dim(self) -> int:
        return self._event_dim

    @property
    def domain(self) -> Any:
        n = self._event_dim
        return constraints.independent(constraints.real, n) if n else constraints.real

    codomain = domain

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self if self._cache_size == cache_size else AffineTransform(
            self.loc, self.scale, self._event_dim, cache_size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AffineTransform) and all(
            bool((a == b).all()) if isinstance(a == b, Tensor) else a == b
            for a, b in ((self.loc, other.loc), (self.scale, other.scale)))

    __hash__ = object.__hash__

    @property
    def sign(self) -> Any:
        if isinstance(self.scale, Tensor):
            return self.scale.sign()
        return (self.scale > 0) - (self.scale < 0)

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + self.scale * x

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        s = self.scale
        each = s.abs().log() if isinstance(s, Tensor) else lampion.full_like(x, math.log(abs(s)))
        each = each.expand(lampion.broadcast_shapes(each.shape, x.shape))
        return sum_rightmost(each, self._event_dim)

    def forward_shape(self, shape: Any) -> Any:
        return _broadcast(shape, self.loc, self.scale)

    inverse_shape = forward_shape


class CumulativeDistributionTransform(Transform):
    """y is the probability of at most x in a distribution, uniform if x has that distribution.

    >>> CumulativeDistributionTransform(Uniform(0.0, 4.0))(lampion.tensor(1.0))
    tensor(0.2500)
    """

    bijective, sign = True, 1
    codomain = constraints.unit_interval

    def __init__(self, distribution: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.distribution = distribution

    @property
    def domain(self) -> Any:
        return self.distribution.support

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self if self._cache_size == cache_size else CumulativeDistributionTransform(
            self.distribution, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return self.distribution.cdf(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.distribution.icdf(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.distribution.log_prob(x)


# ---- of vectors ---------------------------------------------------------------------------------

class ReshapeTransform(Transform):
    """The last dims, of shape `in_shape`, reshaped to `out_shape`.

    >>> ReshapeTransform((4,), (2, 2))(lampion.zeros(3, 4)).shape
    lampion.Size([3, 2, 2])
    """

    bijective = True

    def __init__(self, in_shape: Any, out_shape: Any, cache_size: int = 0) -> None:
        self.in_shape, self.out_shape = Size(in_shape), Size(out_shape)
        if self.in_shape.numel() != self.out_shape.numel():
            raise ValueError(f"in_shape {self.in_shape} and out_shape {self.out_shape} have "
                             "different numbers of elements")
        super().__init__(cache_size)

    @property
    def domain(self) -> Any:
        return constraints.independent(constraints.real, len(self.in_shape))

    @property
    def codomain(self) -> Any:
        return constraints.independent(constraints.real, len(self.out_shape))

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self if self._cache_size == cache_size else ReshapeTransform(
            self.in_shape, self.out_shape, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return x.reshape(self.forward_shape(x.shape))

    def _inverse(self, y: Tensor) -> Tensor:
        return y.reshape(self.inverse_shape(y.shape))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:x.dim() - len(self.in_shape)])

    def forward_shape(self, shape: Any) -> Any:
        return _replaced(shape, self.in_shape, self.out_shape)

    def inverse_shape(self, shape: Any) -> Any:
        return _replaced(shape, self.out_shape, self.in_shape)


def _replaced(shape: Any, old: Size, new: Size) -> Size:
    """A shape with `new` for the last dims `old`; ValueError if it ends otherwise."""
    n = len(shape) - len(old)
    if n < 0:
        raise ValueError(f"a shape of {len(old)} dims or more is needed, got {tuple(shape)}")
    if tuple(shape[n:]) != old:
        raise ValueError(f"the shape must end in {tuple(old)}, got {tuple(shape)}")
    return Size((*shape[:n], *new))


class SoftmaxTransform(Same, Transform):
    """y = softmax(x) along the last dim, onto the simplex; not bijective, the inverse is log(y).

    >>> SoftmaxTransform()(lampion.zeros(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    domain, codomain = constraints.real_vector, constraints.simplex

    def _call(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.log()

    def forward_shape(self, shape: Any) -> Any:
        return _at_least(shape, 1)

    inverse_shape = forward_shape


def _at_least(shape: Any, dims: int) -> Any:
    if len(shape) < dims:
        raise ValueError(f"a shape of {dims} dims or more is needed, got {tuple(shape)}")
    return shape


class StickBreakingTransform(Same, Transform):
    """From K - 1 real numbers to the simplex of K by breaking a stick: each time a part
    sigmoid(x[k] - log(K - 1 - k)) of what is left.

    >>> StickBreakingTransform()(lampion.zeros(3))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    domain, codomain = constraints.real_vector, constraints.simplex
    bijective = True

    def _offsets(self, x: Tensor) -> Tensor:
        """log of the numbers of pieces that are still to come."""
        n = x.shape[-1]
        return lampion.arange(n, 0, -1, dtype=x.dtype, device=x.device).log()

    def _call(self, x: Tensor) -> Tensor:
        z = SigmoidTransform()(x - self._offsets(x))
        left = (-z).log1p().cumsum(-1).exp()
        return F.pad(z, [0, 1], value=1.0) * F.pad(left, [1, 0], value=1.0)

    def _inverse(self, y: Tensor) -> Tensor:
        part = y[..., :-1]
        left = (1 - part.cumsum(-1)).clamp(min=lampion.finfo(y.dtype).tiny)
        return part.log() - left.log() + self._offsets(part)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        x = x - self._offsets(x)
        return (F.logsigmoid(x) - x + y[..., :-1].log()).sum(-1)

    def forward_shape(self, shape: Any) -> Any:
        shape = Size(_at_least(shape, 1))
        return Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> Any:
        shape = Size(_at_least(shape, 1))
        return Size((*shape[:-1], shape[-1] - 1))


# ---- of matrices --------------------------------------------------------------------------------

class LowerCholeskyTransform(Same, Transform):
    """The lower triangle of a square matrix with exp of its diagonal: a Cholesky factor.

    >>> LowerCholeskyTransform()(lampion.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """

    domain, codomain = constraints.independent(constraints.real, 2), constraints.lower_cholesky

    def _call(self, x: Tensor) -> Tensor:
        return x.tril(-1) + x.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed()


class PositiveDefiniteTransform(Same, Transform):
    """L L^T of the Cholesky factor L that `LowerCholeskyTransform` gives.

    >>> PositiveDefiniteTransform()(lampion.zeros(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.positive_definite

    def _call(self, x: Tensor) -> Tensor:
        factor = LowerCholeskyTransform()(x)
        return factor @ factor.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return LowerCholeskyTransform().inv(lampion.linalg.cholesky(y))


class CorrCholeskyTransform(Transform):
    """From D (D - 1) / 2 real numbers to the Cholesky factor of a D by D correlation matrix.

    With z = tanh(x), row by row below the diagonal, each row breaks a stick of length 1:
    y[i, j] = z[i, j] sqrt(1 - the sum of y[i, k]**2 before j), and the diagonal takes the rest
    (Stan reference manual, Cholesky factors of correlation matrices).

    >>> CorrCholeskyTransform()(lampion.zeros(1))
    tensor([[1., 0.],
            [0., 1.]])
    """

    domain, codomain = constraints.real_vector, constraints.corr_cholesky
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        eps = lampion.finfo(x.dtype).eps
        z = vec_to_tril_matrix(x.tanh().clamp(-1 + eps, 1 - eps), diag=-1)
        left = (1 - z * z).sqrt().cumprod(-1)  # above the diagonal z is 0
        whole = z + lampion.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return whole * F.pad(left[..., :-1], [1, 0], value=1.0)

    def _inverse(self, y: Tensor) -> Tensor:
        # sums of squares of the elements before each
        before = F.pad((y * y).cumsum(-1)[..., :-1], [1, 0], value=0.0)
        part = tril_matrix_to_vec(y, diag=-1)
        rest = (1 - tril_matrix_to_vec(before, diag=-1)).sqrt()
        # atanh(part / rest)
        return ((rest + part).log() - (rest - part).log()) / 2

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: Any = None) -> Tensor:
        # dy/dz multiplies the lengths left of all sticks; dz/dx is 1 - tanh(x)**2
        left = 1 - (y * y).cumsum(-1)
        stick = tril_matrix_to_vec(left, diag=-2).log().sum(-1) / 2
        return stick - 2 * (x + F.softplus(-2 * x) - math.log(2.0)).sum(-1)

    def forward_shape(self, shape: Any) -> Any:
        shape = Size(_at_least(shape, 1))
        d = round((0.25 + 2 * shape[-1]) ** 0.5 + 0.5)
        if d * (d - 1) // 2 != shape[-1]:
            raise ValueError(f"{shape[-1]} numbers do not fill the lower triangle of a matrix")
        return Size((*shape[:-1], d, d))

    def inverse_shape(self, shape: Any) -> Any:
        shape = Size(_at_least(shape, 2))
        if shape[-2] != shape[-1]:
            raise ValueError(f"the matrices must be square, got the shape {tuple(shape)}")
        return Size((*shape[:-2], shape[-1] * (shape[-1] - 1) // 2))


identity_transform = ComposeTransform([])
