"""`lampion.distributions.constraints`: sets of values, and whether a value lies in one.

Floor 7; imports lampion. A constraint's `check(value)` gives a boolean tensor without the last
`event_dim` dims of the value; `is_discrete` says whether the set is countable.

>>> positive.check(lampion.tensor([-1.0, 0.0, 2.0]))
tensor([False, False,  True])
>>> simplex.check(lampion.tensor([[0.25, 0.75], [0.5, 0.6]]))
tensor([ True, False])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lampion
from lampion.tensor import Tensor

__all__ = ["Constraint", "MixtureSameFamilyConstraint", "boolean", "cat", "corr_cholesky",
           "dependent", "dependent_property", "greater_than", "greater_than_eq",
           "half_open_interval", "independent", "integer_interval", "interval", "is_dependent",
           "less_than", "lower_cholesky", "lower_triangular", "multinomial", "nonnegative",
           "nonnegative_integer", "one_hot", "positive", "positive_definite", "positive_integer",
           "positive_semidefinite", "real", "real_vector", "simplex", "square", "stack",
           "symmetric", "unit_interval"]


class Constraint:
    """A set of values: `event_dim` dims of a value are one element of it.

    >>> constraints.real_vector.event_dim, constraints.boolean.is_discrete
    (1, True)
    """

    is_discrete: Any = False
    event_dim: Any = 0

    def check(self, value: Tensor) -> Tensor:
        """Whether each element of `value` lies in the set: bool, of the shape of the batch."""
        raise NotImplementedError(f"{type(self).__name__} does not say which values it holds")

    def _numbers(self) -> str:
        """What stands in the parentheses of the repr."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__.removeprefix('_')}({self._numbers()})"


# ---- those that depend on the parameters of a distribution --------------------------------------

class _Dependent(Constraint):
    """A set that other values decide, so that nothing can be checked without these."""

    def __init__(self, *, is_discrete: Any = NotImplemented, event_dim: Any = NotImplemented,
                 ) -> None:
        self._discrete, self._dims = is_discrete, event_dim

    @property
    def is_discrete(self) -> bool:
        return _known(self._discrete, "is_discrete")

    @property
    def event_dim(self) -> int:
        return _known(self._dims, "event_dim")

    def __call__(self, *, is_discrete: Any = NotImplemented, event_dim: Any = NotImplemented,
                 ) -> _Dependent:
        """The same, saying more about the set."""
        return _Dependent(
            is_discrete=self._discrete if is_discrete is NotImplemented else is_discrete,
            event_dim=self._dims if event_dim is NotImplemented else event_dim)

    def check(self, value: Tensor) -> Tensor:
        raise ValueError("a dependent constraint holds for no value by itself: ask the "
                         "distribution for its support")


def _known(value: Any, name: str) -> Any:
    if value is NotImplemented:
        raise NotImplementedError(f"the constraint depends on parameters, {name} as well")
    return value


class _DependentProperty(property, _Dependent):
    """A property that gives a constraint, and on the class stands for it: a `dependent` one.

    >>> class Up(Distribution):
    ...     @constraints.dependent_property(is_discrete=False, event_dim=0)
    ...     def support(self):
    ...         return constraints.greater_than(self.low)
    >>> Up.support.event_dim
    0
    """

    def __init__(self, fn: Any = None, *, is_discrete: Any = NotImplemented,
                 event_dim: Any = NotImplemented) -> None:
        super().__init__(fn)
        self._discrete, self._dims = is_discrete, event_dim

    def __call__(self, fn: Callable[[Any], Constraint]) -> _DependentProperty:
        return _DependentProperty(fn, is_discrete=self._discrete, event_dim=self._dims)


def is_dependent(constraint: Any) -> bool:
    """Whether a constraint can only be checked by a distribution that knows its parameters."""
    return isinstance(constraint, _Dependent)


class MixtureSameFamilyConstraint(Constraint):
    """The set `base_constraint` of the components, for values without the dim of components."""

    def __init__(self, base_constraint: Constraint) -> None:
        if not isinstance(base_constraint, Constraint):
            raise AssertionError("base_constraint must be a Constraint, not "
                                 f"{type(base_constraint).__name__}")
        self.base_constraint = base_constraint

    @property
    def is_discrete(self) -> bool:
        return self.base_constraint.is_discrete

    @property
    def event_dim(self) -> int:
        return self.base_constraint.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Whether a value is one of every component."""
        each = self.base_constraint.check(value.unsqueeze(-1 - self.event_dim))
        if value.dim() < self.event_dim:
            raise ValueError(f"a value needs at least {self.event_dim} dims, got {value.dim()}")
        return each.flatten(value.dim() - self.event_dim).all(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_constraint!r})"


class _IndependentConstraint(Constraint):
    """The last `reinterpreted_batch_ndims` dims of a batch as one event, each element of it in
    `base_constraint`."""

    def __init__(self, base_constraint: Constraint, reinterpreted_batch_ndims: int) -> None:
        if not isinstance(base_constraint, Constraint):
            raise AssertionError("base_constraint must be a Constraint, not "
                                 f"{type(base_constraint).__name__}")
        if not isinstance(reinterpreted_batch_ndims, int) or reinterpreted_batch_ndims < 0:
            raise AssertionError("reinterpreted_batch_ndims must be an int of at least 0, not "
                                 f"{reinterpreted_batch_ndims!r}")
        self.base_constraint = base_constraint
        self.reinterpreted_batch_ndims = reinterpreted_batch_ndims

    @property
    def is_discrete(self) -> bool:
        return self.base_constraint.is_discrete

    @property
    def event_dim(self) -> int:
        return self.base_constraint.event_dim + self.reinterpreted_batch_ndims

    def check(self, value: Tensor) -> Tensor:
        each, n = self.base_constraint.check(value), self.reinterpreted_batch_ndims
        if each.dim() < n:
            raise ValueError(f"a value of {self!r} needs at least {self.event_dim} dims, got "
                             f"{value.dim()}")
        return each.flatten(each.dim() - n).all(-1) if n else each

    def _numbers(self) -> str:
        return f"{self.base_constraint!r}, {self.reinterpreted_batch_ndims}"


# ---- numbers ------------------------------------------------------------------------------------

class _Boolean(Constraint):
    """0 and 1."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1)


class _Real(Constraint):
    """All numbers, infinities among them, but NaN."""

    def check(self, value: Tensor) -> Tensor:
        return value == value


class _Bounded(Constraint):
    """Numbers between bounds, which may be tensors: `_names` are those of the bounds, `_holds`
    compares."""

    _names: tuple[str, ...] = ()

    def __init__(self, *bounds: Any, **named: Any) -> None:
        given = dict(zip(self._names, bounds), **named)
        if len(bounds) > len(self._names) or given.keys() != set(self._names):
            raise TypeError(f"{type(self).__name__}() takes the arguments "
                            f"{', '.join(self._names)}")
        self.__dict__.update(given)

    def _numbers(self) -> str:
        return ", ".join(f"{n}={self.__dict__[n]}" for n in self._names)

    def _within(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, value: Tensor) -> Tensor:
        inside = self._within(value)
        return inside & (value % 1 == 0) if self.is_discrete else inside


class _GreaterThan(_Bounded):
    """Numbers above `lower_bound`."""

    _names = ("lower_bound",)

    def _within(self, value: Tensor) -> Tensor:
        return self.lower_bound < value


class _GreaterThanEq(_GreaterThan):
    """Numbers from `lower_bound` up."""

    def _within(self, value: Tensor) -> Tensor:
        return self.lower_bound <= value


class _IntegerGreaterThan(_GreaterThanEq):
    """Whole numbers from `lower_bound` up."""

    is_discrete = True


class _LessThan(_Bounded):
    """Numbers below `upper_bound`."""

    _names = ("upper_bound",)

    def _within(self, value: Tensor) -> Tensor:
        return value < self.upper_bound


class _IntegerLessThan(_Bounded):
    """Whole numbers up to `upper_bound`."""

    _names, is_discrete = ("upper_bound",), True

    def _within(self, value: Tensor) -> Tensor:
        return value <= self.upper_bound


class _Interval(_Bounded):
    """Numbers from `lower_bound` to `upper_bound`, both included."""

    _names = ("lower_bound", "upper_bound")

    def _within(self, value: Tensor) -> Tensor:
        return (self.lower_bound <= value) & (value <= self.upper_bound)


class _HalfOpenInterval(_Interval):
    """Numbers from `lower_bound` to `upper_bound`, the latter not included."""

    def _within(self, value: Tensor) -> Tensor:
        return (self.lower_bound <= value) & (value < self.upper_bound)


class _IntegerInterval(_Interval):
    """Whole numbers from `lower_bound` to `upper_bound`, both included."""

    is_discrete = True


# ---- vectors ------------------------------------------------------------------------------------

class _OneHot(Constraint):
    """Vectors of one 1 and else zeros."""

    is_discrete, event_dim = True, 1

    def check(self, value: Tensor) -> Tensor:
        return boolean.check(value).all(-1) & (value.sum(-1) == 1)


class _Simplex(Constraint):
    """Vectors of numbers that are not negative and sum to 1, up to 1e-6."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < 1e-6)


class _Multinomial(Constraint):
    """Vectors of counts whose sum is at most `upper_bound`."""

    is_discrete, event_dim = True, 1

    def __init__(self, upper_bound: Any) -> None:
        self.upper_bound = upper_bound

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & (value.sum(-1) <= self.upper_bound)


# ---- matrices -----------------------------------------------------------------------------------

class _Matrices(Constraint):
    event_dim = 2


class _LowerTriangular(_Matrices):
    """Matrices with zeros above the diagonal."""

    def check(self, value: Tensor) -> Tensor:
        return (value.tril() == value).flatten(-2).all(-1)


class _LowerCholesky(_LowerTriangular):
    """Lower triangular matrices with a positive diagonal."""

    def check(self, value: Tensor) -> Tensor:
        return super().check(value) & (value.diagonal(dim1=-2, dim2=-1) > 0).all(-1)


class _CorrCholesky(_LowerCholesky):
    """Cholesky factors of correlation matrices: their rows have length 1."""

    def check(self, value: Tensor) -> Tensor:
        slack = 10 * value.shape[-1] * lampion.finfo(value.dtype).eps
        unit = (lampion.linalg.vector_norm(value.detach(), dim=-1) - 1).abs().le(slack).all(-1)
        return super().check(value) & unit


class _Square(_Matrices):
    """Square matrices."""

    def check(self, value: Tensor) -> Tensor:
        return lampion.full(value.shape[:-2], value.shape[-2] == value.shape[-1],
                            dtype=lampion.bool, device=value.device)


class _Symmetric(_Square):
    """Matrices that are their own transposes, up to 1e-6."""

    def check(self, value: Tensor) -> Tensor:
        square = super().check(value)
        if value.shape[-2] != value.shape[-1]:
            return square
        return lampion.isclose(value, value.mT, atol=1e-6).flatten(-2).all(-1)


class _PositiveSemidefinite(_Symmetric):
    """Symmetric matrices without negative eigenvalues."""

    def check(self, value: Tensor) -> Tensor:
        symmetric = super().check(value)
        if not bool(symmetric.all()):
            return symmetric
        return lampion.linalg.eigvalsh(value.detach()).ge(0).all(-1)


class _PositiveDefinite(_Symmetric):
    """Symmetric matrices with positive eigenvalues."""

    def check(self, value: Tensor) -> Tensor:
        symmetric = super().check(value)
        if not bool(symmetric.all()):
            return symmetric
        return lampion.linalg.cholesky_ex(value.detach())[1].eq(0)


# ---- joined -------------------------------------------------------------------------------------

class _Joined(Constraint):
    def __init__(self, cseq: Sequence[Constraint], dim: int) -> None:
        self.cseq, self.dim = list(cseq), dim
        if not all(isinstance(c, Constraint) for c in self.cseq):
            raise AssertionError("every part must be a Constraint")

    @property
    def is_discrete(self) -> bool:
        return any(c.is_discrete for c in self.cseq)

    def _dim(self, value: Tensor) -> int:
        if not -value.dim() <= self.dim < value.dim():
            raise AssertionError(f"dim {self.dim} is not one of a value with {value.dim()} dims")
        return self.dim % value.dim()


class _Cat(_Joined):
    """Pieces along `dim`, of the given `lengths`, each in a constraint of its own."""

    def __init__(self, cseq: Sequence[Constraint], dim: int = 0,
                 lengths: Sequence[int] | None = None) -> None:
        super().__init__(cseq, dim)
        self.lengths = [1] * len(self.cseq) if lengths is None else list(lengths)
        if len(self.lengths) != len(self.cseq):
            raise AssertionError(f"{len(self.cseq)} constraints, but {len(self.lengths)} lengths")

    @property
    def event_dim(self) -> int:
        return max(c.event_dim for c in self.cseq)

    def check(self, value: Tensor) -> Tensor:
        dim = self._dim(value)
        pieces = value.narrow(dim, 0, sum(self.lengths)).split(self.lengths, dim)
        return lampion.cat([c.check(v) for c, v in zip(self.cseq, pieces)], dim)


class _Stack(_Joined):
    """Slices along `dim`, each in a constraint of its own."""

    def __init__(self, cseq: Sequence[Constraint], dim: int = 0) -> None:
        super().__init__(cseq, dim)

    @property
    def event_dim(self) -> int:
        dims = max(c.event_dim for c in self.cseq)
        return dims + 1 if self.dim + dims < 0 else dims

    def check(self, value: Tensor) -> Tensor:
        dim = self._dim(value)
        return lampion.stack([c.check(value.select(dim, k)) for k, c in enumerate(self.cseq)], dim)


dependent = _Dependent()
dependent_property = _DependentProperty
independent = _IndependentConstraint
boolean = _Boolean()
one_hot = _OneHot()
nonnegative_integer = _IntegerGreaterThan(0)
positive_integer = _IntegerGreaterThan(1)
integer_interval = _IntegerInterval
real = _Real()
real_vector = independent(real, 1)
positive = _GreaterThan(0.0)
nonnegative = _GreaterThanEq(0.0)
greater_than = _GreaterThan
greater_than_eq = _GreaterThanEq
less_than = _LessThan
multinomial = _Multinomial
unit_interval = _Interval(0.0, 1.0)
interval = _Interval
half_open_interval = _HalfOpenInterval
simplex = _Simplex()
lower_triangular = _LowerTriangular()
lower_cholesky = _LowerCholesky()
corr_cholesky = _CorrCholesky()
square = _Square()
symmetric = _Symmetric()
positive_semidefinite = _PositiveSemidefinite()
positive_definite = _PositiveDefinite()
cat = _Cat
stack = _Stack
