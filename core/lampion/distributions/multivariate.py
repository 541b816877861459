"""Normal distributions of vectors, and distributions of matrices.

Floor 7; imports betas, exp_family and gammas of this package.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import lampion
from lampion.tensor import Tensor

from . import constraints
from .betas import Beta
from .distribution import Distribution
from .exp_family import ExponentialFamily
from .gammas import Chi2
from .utils import broadcast_all, lazy_property

__all__ = ["LKJCholesky", "LowRankMultivariateNormal", "MultivariateNormal", "Wishart"]


def mahalanobis(factor: Tensor, away: Tensor) -> Tensor:
    """|L**-1 d|**2 for lower triangular L (..., n, n) and vectors d (..., n), whose batches
    broadcast. Dims of d in front of L's batch are solved for at once."""
    lead = away.dim() - 1 - (factor.dim() - 2)
    if lead <= 0:
        columns = away.unsqueeze(-1)
        return _solved(factor, columns).square().sum(-2).squeeze(-1)
    columns = away.flatten(0, lead - 1).movedim(0, -1)
    squares = _solved(factor, columns).square().sum(-2)
    return squares.movedim(-1, 0).unflatten(0, away.shape[:lead])


def _solved(factor: Tensor, columns: Tensor) -> Tensor:
    return lampion.linalg.solve_triangular(factor, columns, upper=False)


def half_log_det(factor: Tensor) -> Tensor:
    """Half of log |L L^T| for a lower triangular L."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def factor_of_precision(precision: Tensor) -> Tensor:
    """The lower Cholesky factor of the inverse of a positive definite matrix."""
    # with rows and columns in reverse, the factor's inverse transposed is lower triangular, too
    inverse = lampion.linalg.cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
    eye = lampion.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return _solved(inverse, eye)


class _WithMatrix(Distribution):
    """A covariance, or its inverse, or its lower Cholesky factor: just one is given."""

    _unbroadcasted_scale_tril: Tensor

    def _given_matrix(self, **matrices: Any) -> tuple[str, Tensor]:
        given = {name: m for name, m in matrices.items() if m is not None}
        if len(given) != 1:
            raise ValueError("Exactly one of covariance_matrix or precision_matrix or scale_tril "
                             "may be specified.")
        (name, matrix), = given.items()
        if matrix.dim() < 2:
            raise ValueError(f"{name} must be at least two-dimensional, with optional leading "
                             "batch dimensions")
        return name, matrix

    def _factor(self, name: str, matrix: Tensor) -> Tensor:
        if name == "scale_tril":
            return matrix
        if name == "covariance_matrix":
            return lampion.linalg.cholesky(matrix)
        return factor_of_precision(matrix)

    def _whole(self, matrix: Tensor) -> Tensor:
        return matrix.expand((*self._batch_shape, *matrix.shape[-2:]))

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The lower Cholesky factor of the covariance."""
        return self._whole(self._unbroadcasted_scale_tril)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """The covariance."""
        factor = self._unbroadcasted_scale_tril
        return self._whole(factor @ factor.mT)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance."""
        return self._whole(lampion.cholesky_inverse(self._unbroadcasted_scale_tril))


class MultivariateNormal(_WithMatrix):
    """Normal vectors of the mean `loc` (..., n) and a covariance C: density exp(-(x - loc)^T C**-1
    (x - loc) / 2) / sqrt(|2 pi C|).

    C is given as `covariance_matrix`, `precision_matrix` (its inverse) or `scale_tril` (its lower
    Cholesky factor), of shape (..., n, n). Work is done with the factor.

    >>> d = MultivariateNormal(lampion.zeros(2), scale_tril=lampion.eye(2))
    >>> d.log_prob(lampion.zeros(2))
    tensor(-1.8379)
    """

    arg_constraints = {"loc": constraints.real_vector,
                       "covariance_matrix": constraints.positive_definite,
                       "precision_matrix": constraints.positive_definite,
                       "scale_tril": constraints.lower_cholesky}
    support = constraints.real_vector
    has_rsample = True
    _parts = ("loc", "covariance_matrix", "precision_matrix", "scale_tril")

    def __init__(self, loc: Tensor, covariance_matrix: Any = None, precision_matrix: Any = None,
                 scale_tril: Any = None, validate_args: bool | None = None) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        name, matrix = self._given_matrix(
            covariance_matrix=covariance_matrix, scale_tril=scale_tril,
            precision_matrix=precision_matrix)
        batch = lampion.broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        self.loc = loc.expand((*batch, -1))
        self.__dict__[name] = matrix.expand((*batch, -1, -1))
        super().__init__(batch, self.loc.shape[-1:], validate_args=validate_args)
        self._unbroadcasted_scale_tril = self._factor(name, matrix)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self._unbroadcasted_scale_tril.square().sum(-1).expand(self._extended_shape())

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z = lampion.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype,
                          device=self.loc.device)
        return self.loc + (self._unbroadcasted_scale_tril @ z.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        factor, n = self._unbroadcasted_scale_tril, self._event_shape[0]
        square = mahalanobis(factor, value - self.loc)
        return -0.5 * (n * math.log(2 * math.pi) + square) - half_log_det(factor)

    def entropy(self) -> Tensor:
        n = self._event_shape[0]
        value = half_log_det(self._unbroadcasted_scale_tril) + 0.5 * n * (1 + math.log(2 * math.pi))
        return value.expand(self._batch_shape)


class LowRankMultivariateNormal(Distribution):
    """Normal vectors of the mean `loc` (..., n) and the covariance W W^T + D, for W = `cov_factor`
    (..., n, m) and the diagonal D = `cov_diag` (..., n), positive.

    Factors of m by m matrices are enough: of C = I + W^T D**-1 W, by the Woodbury identity and the
    matrix determinant lemma.

    >>> d = LowRankMultivariateNormal(lampion.zeros(2), lampion.ones(2, 1), lampion.ones(2))
    >>> d.covariance_matrix
    tensor([[2., 1.],
            [1., 2.]])
    """

    arg_constraints = {"loc": constraints.real_vector,
                       "cov_factor": constraints.independent(constraints.real, 2),
                       "cov_diag": constraints.independent(constraints.positive, 1)}
    support = constraints.real_vector
    has_rsample = True
    _parts = ("loc", "cov_factor", "cov_diag", "covariance_matrix", "precision_matrix",
              "scale_tril")

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor,
                 validate_args: bool | None = None) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        event = loc.shape[-1:]
        if cov_factor.dim() < 2:
            raise ValueError("cov_factor must be at least two-dimensional, with optional leading "
                             "batch dimensions")
        if cov_factor.shape[-2:-1] != event:
            raise ValueError(f"cov_factor must be a batch of matrices with shape {event[0]} x m")
        if cov_diag.shape[-1:] != event:
            raise ValueError(f"cov_diag must be a batch of vectors with shape {event}")
        try:
            batch = lampion.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2],
                                             cov_diag.shape[:-1])
        except RuntimeError as error:
            raise ValueError(f"Incompatible batch shapes: loc {loc.shape}, cov_factor "
                             f"{cov_factor.shape}, cov_diag {cov_diag.shape}") from error
        self.loc = loc.expand((*batch, -1))
        self.cov_factor = cov_factor.expand((*batch, -1, -1))
        self.cov_diag = cov_diag.expand((*batch, -1))
        super().__init__(batch, event, validate_args=validate_args)
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = cov_factor, cov_diag
        self._scaled = cov_factor.mT / cov_diag.unsqueeze(-2)  # W^T D**-1
        m = cov_factor.shape[-1]
        eye = lampion.eye(m, dtype=cov_factor.dtype, device=cov_factor.device)
        self._capacitance_tril = lampion.linalg.cholesky(self._scaled @ cov_factor + eye)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @lazy_property
    def variance(self) -> Tensor:
        squares = self._unbroadcasted_cov_factor.square().sum(-1)
        return (squares + self._unbroadcasted_cov_diag).expand(self._extended_shape())

    @lazy_property
    def scale_tril(self) -> Tensor:
        """The lower Cholesky factor of the covariance."""
        # of D**-1/2 (W W^T + D) D**-1/2, whose eigenvalues are 1 or more
        root = self._unbroadcasted_cov_diag.sqrt().unsqueeze(-1)
        w = self._unbroadcasted_cov_factor / root
        n = self._event_shape[0]
        inner = w @ w.mT + lampion.eye(n, dtype=w.dtype, device=w.device)
        return (root * lampion.linalg.cholesky(inner)).expand((*self._batch_shape, n, n))

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        """W W^T + D."""
        w, n = self._unbroadcasted_cov_factor, self._event_shape[0]
        whole = w @ w.mT + self._unbroadcasted_cov_diag.diag_embed()
        return whole.expand((*self._batch_shape, n, n))

    @lazy_property
    def precision_matrix(self) -> Tensor:
        """The inverse of the covariance, D**-1 - D**-1 W C**-1 W^T D**-1."""
        half, n = _solved(self._capacitance_tril, self._scaled), self._event_shape[0]
        whole = self._unbroadcasted_cov_diag.reciprocal().diag_embed() - half.mT @ half
        return whole.expand((*self._batch_shape, n, n))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        options = {"dtype": self.loc.dtype, "device": self.loc.device}
        w = self._unbroadcasted_cov_factor
        few = lampion.randn((*shape[:-1], w.shape[-1]), **options)
        many = lampion.randn(shape, **options)
        return (self.loc + (w @ few.unsqueeze(-1)).squeeze(-1)
                + self._unbroadcasted_cov_diag.sqrt() * many)

    def _half_log_det(self) -> Tensor:
        return half_log_det(self._capacitance_tril) + (
            0.5 * self._unbroadcasted_cov_diag.log().sum(-1))

    def _square(self, away: Tensor) -> Tensor:
        """d^T C**-1 d for the covariance C."""
        part = (self._scaled @ away.unsqueeze(-1)).squeeze(-1)
        whole = (away.square() / self._unbroadcasted_cov_diag).sum(-1)
        return whole - mahalanobis(self._capacitance_tril, part)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        square = self._square(value - self.loc)
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + square) - self._half_log_det()

    def entropy(self) -> Tensor:
        value = 0.5 * self._event_shape[0] * (1 + math.log(2 * math.pi)) + self._half_log_det()
        return value.expand(self._batch_shape)


class Wishart(_WithMatrix, ExponentialFamily):
    """Sums of x x^T over `df` normal vectors x of mean 0 and n elements with the covariance V, for
    any df > n - 1; V is given as for MultivariateNormal. The density at X is
    |X|**((df - n - 1) / 2) exp(-tr(V**-1 X) / 2) / (2**(df n / 2) |V|**(df / 2) gamma_n(df / 2)).

    Sampled by Bartlett's decomposition.

    >>> Wishart(3.0, covariance_matrix=lampion.eye(2)).mean
    tensor([[3., 0.],
            [0., 3.]])
    """

    arg_constraints = {"covariance_matrix": constraints.positive_definite,
                       "precision_matrix": constraints.positive_definite,
                       "scale_tril": constraints.lower_cholesky,
                       "df": constraints.greater_than(0)}
    support = constraints.positive_definite
    has_rsample = True
    _mean_carrier_measure = 0
    _parts = ("df", "covariance_matrix", "precision_matrix", "scale_tril", "_chi2")

    def __init__(self, df: Any, covariance_matrix: Any = None, precision_matrix: Any = None,
                 scale_tril: Any = None, validate_args: bool | None = None) -> None:
        name, matrix = self._given_matrix(
            covariance_matrix=covariance_matrix, precision_matrix=precision_matrix,
            scale_tril=scale_tril)
        if not isinstance(df, Tensor):
            df = lampion.tensor(df, dtype=matrix.dtype, device=matrix.device)
        n = matrix.shape[-1]
        batch = lampion.broadcast_shapes(matrix.shape[:-2], df.shape)
        self.df = df.expand(batch)
        if bool((self.df <= n - 1).any()):
            raise ValueError(f"Value of df={df} expected to be greater than ndim - 1 = {n - 1}.")
        self.__dict__[name] = matrix.expand((*batch, -1, -1))
        self.arg_constraints = {**type(self).arg_constraints,
                                "df": constraints.greater_than(n - 1)}
        super().__init__(batch, matrix.shape[-2:], validate_args=validate_args)
        self._unbroadcasted_scale_tril = self._factor(name, matrix)
        steps = lampion.arange(n, dtype=matrix.dtype, device=matrix.device)
        self._chi2 = Chi2(self.df.unsqueeze(-1) - steps, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.df[..., None, None] * self.covariance_matrix

    @property
    def mode(self) -> Tensor:
        factor = self.df - self.covariance_matrix.shape[-1] - 1
        factor = lampion.where(factor > 0, factor, lampion.nan)
        return factor[..., None, None] * self.covariance_matrix

    @property
    def variance(self) -> Tensor:
        v = self.covariance_matrix
        diagonal = v.diagonal(dim1=-2, dim2=-1)
        return self.df[..., None, None] * (
            v.square() + diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2))

    def _bartlett(self, sample_shape: Any) -> Tensor:
        roots = self._chi2.rsample(sample_shape).sqrt().diag_embed()
        below = lampion.randn(roots.shape, dtype=roots.dtype, device=roots.device).tril(-1)
        factor = self._unbroadcasted_scale_tril @ (roots + below)
        return factor @ factor.mT

    def rsample(self, sample_shape: Any = (), max_try_correction: int | None = None) -> Tensor:
        """Draws; those that rounding made singular are drawn again, `max_try_correction` times (3
        in batches, else 10), and a warning says if that was not enough."""
        if max_try_correction is None:
            max_try_correction = 3 if self._batch_shape else 10
        value = self._bartlett(sample_shape)
        for _ in range(max_try_correction):
            singular = ~self.support.check(value)
            if not bool(singular.any()):
                return value
            value = lampion.where(singular[..., None, None], self._bartlett(sample_shape), value)
        if max_try_correction and not bool(self.support.check(value).all()):
            warnings.warn("Singular sample detected: rounding made it so", stacklevel=2)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, df, factor = self._event_shape[0], self.df, self._unbroadcasted_scale_tril
        batch = lampion.broadcast_shapes(value.shape[:-2], factor.shape[:-2])
        solved = lampion.cholesky_solve(value.expand((*batch, n, n)), factor.expand((*batch, n, n)))
        trace = solved.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (-df * (0.5 * n * math.log(2) + half_log_det(factor)) - lampion.mvlgamma(df / 2, n)
                + 0.5 * (df - n - 1) * lampion.linalg.slogdet(value).logabsdet - 0.5 * trace)

    def entropy(self) -> Tensor:
        n, df = self._event_shape[0], self.df
        steps = lampion.arange(n, dtype=df.dtype, device=df.device)
        slope = lampion.digamma(df.unsqueeze(-1) / 2 - steps / 2).sum(-1)
        return ((n + 1) * (half_log_det(self._unbroadcasted_scale_tril) + 0.5 * n * math.log(2))
                + lampion.mvlgamma(df / 2, n) - 0.5 * (df - n - 1) * slope + 0.5 * df * n)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        n = self._event_shape[0]
        return -0.5 * self.precision_matrix, 0.5 * (self.df - n - 1)

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        x, y = natural_params
        n = self._event_shape[0]
        half_df = y + 0.5 * (n + 1)
        return -half_df * lampion.linalg.slogdet(-x).logabsdet + lampion.mvlgamma(half_df, n)


class LKJCholesky(Distribution):
    """Lower Cholesky factors L of `dim` by `dim` correlation matrices M with a density (of M)
    proportional to |M|**(concentration - 1): uniform for 1.

    Sampled by the onion method (Lewandowski, Kurowicka and Joe, Generating random correlation
    matrices based on vines and extended onion method, 2009).

    >>> LKJCholesky(3, 0.5).sample().shape
    lampion.Size([3, 3])
    """

    arg_constraints = {"concentration": constraints.positive}
    support = constraints.corr_cholesky
    _parts = ("concentration", "_beta")

    def __init__(self, dim: int, concentration: Any = 1.0, validate_args: bool | None = None,
                 ) -> None:
        if dim < 2:
            raise ValueError(f"Expected dim to be an integer greater than or equal to 2. Found "
                             f"dim={dim}.")
        self.dim = dim
        self.concentration, = broadcast_all(concentration)
        # squared lengths of the rows below the diagonal: Beta(k / 2, c + (dim - 1 - k) / 2) of k
        c = self.concentration
        k = lampion.arange(dim, dtype=c.dtype, device=c.device)
        before = (k - 1).clamp(min=0)
        first = (c + 0.5 * (dim - 2)).unsqueeze(-1)
        self._beta = Beta(0.5 + 0.5 * before, first - 0.5 * before, validate_args=False)
        super().__init__(c.shape, (dim, dim), validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with lampion.no_grad():
            square = self._beta.sample(sample_shape).unsqueeze(-1)
            way = lampion.randn(self._extended_shape(sample_shape), dtype=square.dtype,
                                device=square.device).tril(-1)
            length = lampion.linalg.vector_norm(way, dim=-1, keepdim=True)
            tiny = lampion.finfo(square.dtype).tiny
            row = square.sqrt() * way / length.clamp(min=tiny)  # the first row stays 0
            rest = (1 - row.square().sum(-1)).clamp(min=tiny).sqrt()
            return row + rest.diag_embed()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        n, c = self.dim, self.concentration
        diagonal = value.diagonal(dim1=-2, dim2=-1)[..., 1:]
        k = lampion.arange(2, n + 1, dtype=c.dtype, device=c.device)
        order = 2 * (c - 1).unsqueeze(-1) + n - k
        alpha = c + 0.5 * (n - 1)
        norm = (0.5 * (n - 1) * math.log(math.pi) + lampion.mvlgamma(alpha - 0.5, n - 1)
                - (n - 1) * lampion.lgamma(alpha))
        return (order * diagonal.log()).sum(-1) - norm
