"""Random choices: from given probabilities, and of what a dropout keeps.

Floor 7; imports sampling and ops. The streams are those of `ops/random.py`.
"""

from __future__ import annotations

import math
from typing import Any

from .base import dtype as dt
from .base.meta import meta
from .callpath import NS
from .creation import like
from .ops import plans as P
from .ops import registry as R
from .ops import streams
from .random import generator_of
from .runtime import tracing
from .runtime.tracing import refuse
from .sampling import (
    BERNOULLI,
    EXPONENTIAL,
    UNIFORM,
    _floating,
    _generator,
    _unrecorded,
    _whole,
    draw,
    threshold,
)


@R.composite(method=True, out_cast="any")
def bernoulli(input: Any, p: Any = None, *, generator: Any = None) -> Any:
    """Ones with the probabilities in `input`, else zeros, of input's dtype; with `p`, that
    probability for every element. RuntimeError for probabilities outside [0, 1].

    >>> bernoulli(full((2, 2), 1.0)).sum()
    tensor(4.)
    """
    generator = _generator(generator, "bernoulli")
    m = input.meta.plain
    if p is not None:
        return draw(BERNOULLI, meta(m.dtype, m.shape, None, m.device), generator,
                    threshold(p, "bernoulli"))
    _floating(m, "bernoulli_tensor")
    with _unrecorded():
        input = input.contiguous()
        if NS["modes"] and NS["levels"]:
            input = NS["transformed_spread"](input)
        m = input.meta.plain
        if tracing.active:
            refuse(~((input >= 0) & (input <= 1)), RuntimeError(
                "bernoulli expects all probabilities to be in [0, 1]"))
        low, high = (0.5, 0.5) if tracing.active else extremes(input)
        if not (low >= 0.0 and high <= 1.0):
            raise RuntimeError("bernoulli expects all probabilities to be in [0, 1], but they go "
                               f"from {low} to {high}")
        g = generator or generator_of(m.device)
        groups = -(-m.numel // streams.per_group("draw_bernoulli_each", m.dtype))
        return R.REGISTRY["draw_bernoulli_each"].fn(input.detach(), g.key, g.advance(groups),
                                                    dtype=m.dtype)


def extremes(t: Any, unknown: float = 1.0) -> tuple[float, float]:
    """Least and greatest element (NaN if there is one), or twice `unknown` where none is there to
    look at: empty tensors, and devices that the host cannot read without waiting for them."""
    m = t.meta
    if not m.numel or "host-memory" not in P.backend_of(m.device).capabilities(
            m.device.index or 0).features:
        return unknown, unknown
    from .ops.facts import examples

    t = examples(t)
    return t.amin().item(), t.amax().item()


@R.composite(method=True)
def multinomial(input: Any, num_samples: int, replacement: bool = False, *,
                generator: Any = None) -> Any:
    """Indices drawn by the weights in the last dim of `input` (1 or 2 dims), shape
    (..., num_samples), int64; without `replacement` no index comes twice.

    RuntimeError for negative or non-finite weights, for a row of zeros, and for more samples
    than there are categories (without replacement).
    """
    generator = _generator(generator, "multinomial")
    m = input.meta.plain
    if m.dtype.kind != "f":
        raise RuntimeError("multinomial only supports floating-point dtypes for input, got: "
                           f"{P._word(m.dtype)}")
    if m.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    n = _whole(num_samples, "multinomial")
    if n <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and n > m.shape[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without "
                           "replacement")
    with _unrecorded():
        weights = input.detach()
        _check_weights(weights)
        if m.dtype.itemsize < 4:
            weights = weights.float()
        if replacement and n > 1:
            return _with_replacement(weights, n, generator)
        # the largest of weight / waiting time is a draw by weight, the next ones follow
        waiting = draw(EXPONENTIAL, like(weights.meta, None, None, None), generator, 1.0)
        race = weights / waiting
        return race.argmax(-1, True) if n == 1 else race.topk(n, -1)[1]


def _check_weights(w: Any) -> None:
    wrong = RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    none = RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if tracing.active:
        refuse(~((w >= 0) & (w < math.inf)), wrong)
        refuse(~(w.amax(-1) > 0), none)
        return
    low, high = extremes(w)
    if not (low >= 0.0 and high < math.inf):
        raise wrong
    if w.meta.ndim == 2 and w.meta.shape[0] > 1 and w.meta.numel:
        high = extremes(w.amax(-1))[0]
    if not high > 0.0:
        raise none


def _with_replacement(w: Any, n: int, generator: Any) -> Any:
    """Inverse of the cumulative weights at uniform numbers. Weights of 0 are never drawn: the
    first sum above the number belongs to a positive weight."""
    sums = w.cumsum(-1)
    total = sums.narrow(-1, w.meta.shape[-1] - 1, 1)
    m = meta(w.meta.dtype, (*w.meta.shape[:-1], n), None, w.meta.device)
    at = draw(UNIFORM, m, generator) * total
    found = R.REGISTRY["searchsorted"].fn(sums.contiguous(), at, right=True)
    # a product that rounds up to the total goes to the last category of positive weight
    last = R.REGISTRY["searchsorted"].fn(sums.contiguous(), total.contiguous())
    return found.minimum(last)


# ---- counts -----------------------------------------------------------------

@R.composite()
def poisson(input: Any, generator: Any = None) -> Any:
    """Poisson-distributed numbers with the rates in `input`, of its dtype. RuntimeError for
    negative rates."""
    generator = _generator(generator, "poisson")
    m = input.meta.plain
    _floating(m, "poisson_cpu")
    with _unrecorded():
        input = input.contiguous()
        if NS["modes"] and NS["levels"]:
            input = NS["transformed_spread"](input)
        m = input.meta.plain
        low, high = extremes(input, math.inf)
        if not low >= 0.0:
            raise RuntimeError("invalid Poisson rate, expected rate to be non-negative")
        g = generator or generator_of(m.device)
        return R.REGISTRY["draw_poisson"].fn(input.detach(), g.key,
                                             g.advance(m.numel * streams.TRIES),
                                             large=high >= 10.0)


@R.composite(out=False)
def binomial(count: Any, prob: Any, generator: Any = None) -> Any:
    """Numbers of successes among `count` trials of probability `prob`, two floating tensors of one
    dtype that broadcast; 0 for a count or probability below 0. RuntimeError for other dtypes.

    >>> binomial(full((3,), 4.0), full((), 1.0)).tolist()
    [4.0, 4.0, 4.0]
    """
    generator = _generator(generator, "binomial")
    if count.meta.dtype is not prob.meta.dtype:
        raise RuntimeError(f"Found dtype {P._word(prob.meta.dtype)} but expected "
                           f"{P._word(count.meta.dtype)}")
    _floating(count.meta, "binomial_cpu")
    with _unrecorded():
        count, prob = R.REGISTRY["broadcast_tensors"].fn(count.detach(), prob.detach())
        count, prob = count.contiguous(), prob.contiguous()
        m = count.meta.plain
        g = generator or generator_of(m.device)
        mean = extremes(count * prob.minimum(1 - prob), math.inf)[1]
        return R.REGISTRY["draw_binomial"].fn(count, prob, g.key,
                                              g.advance(m.numel * streams.TRIES),
                                              large=not mean < 10.0)


# ---- gamma and Dirichlet ------------------------------------------------------------

def log_gamma_draws(shape: Any, generator: Any = None) -> Any:
    """Logarithms of gamma-distributed numbers of the shapes in a floating tensor, with their
    derivative by these: exact also where the numbers themselves would be 0."""
    return _gamma(shape, generator, "_standard_gamma", True)


def _gamma(input: Any, generator: Any, name: str, log: bool) -> Any:
    generator = _generator(generator, name)
    _floating(input.meta, name)
    with _unrecorded():
        shape = input.detach().contiguous()
        if NS["modes"] and NS["levels"]:
            shape = NS["transformed_spread"](shape)
        m = shape.meta.plain
        g = generator or generator_of(m.device)
        counters = m.numel * streams.GAMMA_TRIES * streams.GAMMA_COUNTERS
        drawn = R.REGISTRY["draw_gamma"].fn(shape, g.key, g.advance(counters), log=log)
    return R.REGISTRY["gamma_path"].fn(drawn, input, log=log)


@R.composite(out=False)
def _standard_gamma(input: Any, generator: Any = None) -> Any:
    """Gamma-distributed numbers of rate 1, of the shapes (concentrations) in the floating tensor
    `input`; NaN for negative ones. Differentiable by `input`, as `random_gamma.log_slope` says."""
    return _gamma(input, generator, "_standard_gamma", False)


@R.composite(out=False)
def _standard_gamma_grad(input: Any, output: Any) -> Any:
    """The derivative of the gamma numbers `output` by their shapes `input`."""
    return R.REGISTRY["gamma_path_slope"].fn(input, output)


@R.composite(out=False)
def _sample_dirichlet(input: Any, generator: Any = None) -> Any:
    """Dirichlet-distributed vectors along the last dim, of the concentrations in `input`: gamma
    numbers over their sum, by their logarithms. Differentiable by `input`."""
    return log_gamma_draws(input, generator).softmax(-1)


# ---- dropout -----------------------------------------------------------------

def _rate(p: Any, name: str) -> None:
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"{name} probability has to be between 0 and 1, but got {p}")


@R.composite(out=False)
def dropout(input: Any, p: float, train: bool) -> Any:
    """Each element with probability 1 - p, scaled by 1 / (1 - p), else 0; the input itself if
    not training. RuntimeError unless 0 <= p <= 1.

    Nothing is kept for the gradient, which draws the same numbers again.
    """
    if not 0.0 <= p <= 1.0:
        _rate(p, "dropout")
    if not train or p == 0.0:
        return input
    m = input.meta
    if m.dtype.kind != "f" or p == 1.0 or (NS["modes"] and NS["levels"]):
        return input * _keep(input, m.shape, p, "dropout")
    if m.span != m.nbytes:
        input = R.REGISTRY["duplicate"].fn(input)
        m = input.meta
    g = generator_of(m.device)
    return R.REGISTRY["drop_elements"].fn(
        input, g.key, g.advance((m.numel + 3) >> 2), round((1.0 - p) * 4294967296.0),
        1.0 / (1.0 - p), strides=m.strides)


def _keep(input: Any, shape: Any, p: float, name: str) -> Any:
    """0 with probability p, else 1 / (1 - p). RuntimeError if the input holds integers."""
    _rate(p, name)
    m = input.meta
    if m.dtype.kind in "bui":
        raise RuntimeError("result type Float can't be cast to the desired output type "
                           f"{P._word(m.dtype)}")
    d = m.dtype.to_real() if m.dtype.kind == "c" else m.dtype
    kept = draw(BERNOULLI, meta(d, shape, None, m.device), None, threshold(1.0 - p, name))
    return kept if p == 1.0 else kept / (1.0 - p)


def _channels(input: Any, name: str) -> tuple[int, ...]:
    if input.meta.ndim < 2:
        raise RuntimeError(f"{name} requires at least 2 dimensions in the input")
    return (*input.meta.shape[:2], *[1] * (input.meta.ndim - 2))


@R.composite(out=False)
def feature_dropout(input: Any, p: float, train: bool) -> Any:
    """Dropout of whole channels: slices (n, c) of (N, C, *)."""
    _rate(p, "dropout")
    if not train or p == 0.0 or not input.meta.numel:
        return input
    return input * _keep(input, _channels(input, "Feature dropout"), p, "dropout")


@R.composite(out=False)
def alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """Dropout to the limit of selu at minus infinity, keeping mean 0 and variance 1."""
    return _alpha(input, None, p, train)


@R.composite(out=False)
def feature_alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """alpha_dropout of whole channels: slices (n, c) of (N, C, *)."""
    return _alpha(input, _channels(input, "Feature dropout"), p, train)


def _alpha(input: Any, shape: Any, p: float, train: bool) -> Any:
    _rate(p, "dropout")
    if not train or p == 0.0 or not input.meta.numel:
        return input
    if p == 1.0:
        return input * 0.0
    limit = 1.7580993408473766  # selu(-inf), negated
    scale = 1.0 / math.sqrt((limit * limit * p + 1.0) * (1.0 - p))
    m = input.meta
    keep = draw(BERNOULLI, meta(m.dtype, m.shape if shape is None else shape, None, m.device), None,
                threshold(1.0 - p, "dropout"))
    return input * (keep * scale) + ((keep - 1.0) * (limit * scale) + limit * scale * p)


@R.composite(out=False)
def native_dropout(input: Any, p: float, train: bool | None) -> Any:
    """(dropout, the bool tensor of what was kept)."""
    _rate(p, "dropout")
    m = input.meta
    if train is False or p == 0.0:
        return input.clone(), R.REGISTRY["full"].fn(m.shape, True, dtype=dt.bool_, device=m.device)
    kept = draw(BERNOULLI, meta(dt.bool_, m.shape, None, m.device), None,
                threshold(1.0 - p, "dropout"))
    return input * kept * (0.0 if p == 1.0 else 1.0 / (1.0 - p)), kept


def _into(op: Any) -> Any:
    def fn(input: Any, p: float, train: bool) -> Any:
        if not train or p == 0.0:
            _rate(p, op.name)
            return input
        return NS["assign"](input, op.fn(input, p, train), op.name + "_")

    fn.__name__ = fn.__qualname__ = op.name + "_"
    fn.__doc__ = f"In-place `{op.name}`."
    return fn


dropout_, feature_dropout_ = _into(dropout), _into(feature_dropout)
alpha_dropout_, feature_alpha_dropout_ = _into(alpha_dropout), _into(feature_alpha_dropout)
__all__ = ["dropout_", "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_"]
