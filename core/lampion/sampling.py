"""Random tensors: factories, in-place filling, and draws from given probabilities.

Floor 7; imports creation, random and ops. All numbers come from the counter streams of
`ops/random.py`; which generator is `generator=`, else the default one of the device.
"""

from __future__ import annotations

import math
from typing import Any

from . import callpath
from .autograd.state import mode
from .base import dtype as dt
from .base.meta import Meta, dense_strides_like, meta
from .callpath import NS
from .creation import _check_layout, _finish, _named, like, sizes
from .ops import plans as P
from .ops import random as streams
from .ops import registry as R
from .random import Generator, generator_of
from .runtime.devices import resolve
from .tensor import Tensor, make_tensor

__all__ = ["rand", "randn", "randint", "randperm", "normal", "rand_like", "randn_like",
           "randint_like", "bernoulli", "multinomial", "dropout", "dropout_"]

_plans: dict[Any, Any] = {}


def plan(name: str, m: Meta, kinds: tuple[type, ...], wide: int | None) -> tuple[Any, int]:
    """(plan, groups) of a drawing op on a dense result of meta `m`."""
    op = R.REGISTRY[name]
    middle = [] if wide is None else [wide]
    values = [m.shape, int, int, *kinds, *middle, m.dtype, m.device, m.strides]
    per = streams.per_group(name, m.dtype, bool(wide))
    if len(_plans) > 20_000:
        _plans.clear()
    p = P.kernel_plan(op, values, [m])  # type: ignore[arg-type]
    found = _plans[name, m, wide] = (p, -(-m.numel // per))
    return found


def draw(name: str, m: Meta, generator: Generator | None, *numbers: Any,
         wide: int | None = None) -> Tensor:
    """A fresh tensor of the dense meta `m`, filled by a drawing op. The types of `numbers` must be
    those of the op's slots."""
    found = _plans.get((name, m, wide))
    if found is None:
        found = plan(name, m, tuple(map(type, numbers)), wide)
    p, groups = found
    g = generator or generator_of(m.device)
    offset = g.advance(groups)
    if NS["modes"]:
        extra = {} if wide is None else {"wide": wide}
        return R.REGISTRY[name].fn(m.shape, g.key, offset, *numbers, dtype=m.dtype,
                                   device=m.device, strides=m.strides, **extra)
    return make_tensor(p.launch(g.key, offset, *numbers), m, None)


def refill(t: Tensor, word: str, name: str, generator: Generator | None, *numbers: Any,
           wide: int | None = None) -> Tensor:
    """Overwrite `t` by a drawing op, in memory order; `word` is the method's name."""
    callpath.check_leaf(t, word)
    m = t.meta.plain
    if m.overlapping:
        raise RuntimeError(
            f"{word}: unsupported operation: more than one element of the written-to tensor refers "
            "to a single memory location. Please clone() the tensor before performing the "
            "operation.")
    if m.span != m.nbytes or NS["modes"] or (t.node is not None and mode.enabled):
        dense = meta(m.dtype, m.shape, dense_strides_like(m.shape, m.strides), m.device)
        return t.copy_(draw(name, dense, generator, *numbers, wide=wide))  # type: ignore
    found = _plans.get((name, m, wide))
    if found is None:
        found = plan(name, m, tuple(map(type, numbers)), wide)
    p, groups = found
    g = generator or generator_of(m.device)
    offset = g.advance(groups)
    if groups:
        p.into(t.data_, g.key, offset, *numbers)
    callpath.wrote(t, word, 3)
    return t


def _generator(g: Any, name: str) -> Generator | None:
    if g is None or isinstance(g, Generator):
        return g
    raise TypeError(f"{name}(): argument 'generator' must be Generator, not {type(g).__name__}")


def _floating(m: Meta, name: str) -> None:
    if m.dtype.kind != "f":
        raise NotImplementedError(f'"{name}" not implemented for \'{P._word(m.dtype)}\'')


# ---- factories -------------------------------------------------------------------------------------

def _real_or_complex(name: str, m: Meta, g: Any, numbers: tuple[Any, ...], what: str) -> Tensor:
    if m.dtype.kind == "f":
        return draw(name, m, g, *numbers)
    if m.dtype.kind != "c":
        raise NotImplementedError(f'"{what}" not implemented for \'{P._word(m.dtype)}\'')
    parts = meta(m.dtype.to_real(), (*m.shape, 2), (*[2 * s for s in m.strides], 1), m.device)
    if name == "draw_normal":  # each part has half of the variance
        numbers = (numbers[0], numbers[1] * math.sqrt(0.5))
    pairs = draw(name, parts, g, *numbers)
    return R.REGISTRY["view_as_complex"].fn(pairs).clone()


def _maker(name: str, op: str, numbers: tuple[Any, ...], what: str, doc: str) -> Any:
    def make(*size: Any, generator: Any = None, dtype: Any = None, device: Any = None,
             requires_grad: bool = False, out: Any = None, layout: Any = None,
             pin_memory: bool = False, **named: Any) -> Tensor:
        d = dtype or (dt._default if out is None else out.meta.dtype)
        where = resolve(device) if out is None or device is not None else out.meta.device
        m = meta(d, sizes(_named(size, named, name), name), None, where)
        if layout is not None:
            _check_layout(layout)
        if generator is not None:
            _generator(generator, name)
        r = draw(op, m, generator, *numbers) if d.kind == "f" else _real_or_complex(
            op, m, generator, numbers, what)
        if out is not None or requires_grad:
            return _finish(r, requires_grad, out)
        return r

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc
    return make


rand = _maker("rand", "draw_uniform", (), "check_uniform_bounds",
              "Uniform numbers of [0, 1). rand(2, 3) and rand((2, 3)) mean the same.")
randn = _maker("randn", "draw_normal", (0.0, 1.0), "normal_kernel_cpu",
               "Standard normal numbers. randn(2, 3) and randn((2, 3)) mean the same.")


def _maker_like(name: str, op: str, numbers: tuple[Any, ...], what: str, doc: str) -> Any:
    def make(input: Tensor, *, generator: Any = None, dtype: Any = None, device: Any = None,
             requires_grad: bool = False, memory_format: Any = None, layout: Any = None,
             pin_memory: bool = False) -> Tensor:
        m = like(input.meta, dtype, device, memory_format)
        r = _real_or_complex(op, m, _generator(generator, name), numbers, what)
        return r.requires_grad_() if requires_grad else r

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc
    return make


rand_like = _maker_like("rand_like", "draw_uniform", (), "check_uniform_bounds",
                        "Uniform numbers of [0, 1) with the shape, dtype, device and dim order of "
                        "`input`.")
randn_like = _maker_like("randn_like", "draw_normal", (0.0, 1.0), "normal_kernel_cpu",
                         "Standard normal numbers with the shape, dtype, device and dim order of "
                         "`input`.")

_NARROW = 1 << 20  # spans up to here take one word: no value is favoured by more than 2**-12


def _wide(span: int) -> int:
    return 0 if span <= _NARROW else 1 if span <= 1 << 32 else 2


def _signed(n: int) -> int:
    return n - (1 << 64) if n >> 63 else n


def _check_range(low: int, high: int, d: dt.dtype, name: str) -> None:
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= "
                           f"to={high}")
    least, most = integer_bounds(d)
    if not least <= low <= most:
        raise RuntimeError(f"from is out of bounds for {P._word(d)}: {low} ({name})")
    if not least <= high - 1 <= most:
        raise RuntimeError(f"to - 1 is out of bounds for {P._word(d)}: {high - 1} ({name})")


def integer_bounds(d: dt.dtype) -> tuple[int, int]:
    """The integers that a dtype holds exactly, without gaps, from and to."""
    if d.kind == "b":
        return 0, 1
    if d.kind in "iu":
        bits = 8 * d.itemsize
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if d.kind == "i" else (0, (1 << bits) - 1)
    digits = {"float16": 11, "bfloat16": 8, "float32": 24}.get(d.name, 53)
    return -(1 << digits), 1 << digits


def _integers(m: Meta, low: Any, high: Any, generator: Any, name: str) -> Tensor:
    if m.dtype.kind == "c":
        raise NotImplementedError(f'"random_from_to" not implemented for '
                                  f"'{P._word(m.dtype)}'")
    low, high = _whole(low, name), _whole(high, name)
    _check_range(low, high, m.dtype, name)
    return draw("draw_integers", m, generator, _signed(low), _signed((high - low) % (1 << 64)),
                wide=_wide(high - low))


def _whole(n: Any, name: str) -> int:
    if isinstance(n, Tensor) and n.meta.numel == 1:
        n = n.item()
    if isinstance(n, float) or not hasattr(n, "__index__"):
        raise TypeError(f"{name}(): bounds must be ints, not {type(n).__name__}")
    return int(n.__index__())


def randint(*args: Any, low: Any = None, high: Any = None, size: Any = None,
            generator: Any = None, dtype: Any = None, device: Any = None,
            requires_grad: bool = False, out: Any = None, layout: Any = None,
            pin_memory: bool = False) -> Tensor:
    """Integers from low (default 0) to high, high not included: randint(high, size) or
    randint(low, high, size). int64 unless `dtype` says otherwise."""
    given = list(args)
    if size is None:
        if not given or isinstance(given[-1], int):
            raise TypeError("randint(): argument 'size' must be tuple of ints")
        size = given.pop()
    if len(given) == 2:
        low, high = given
    elif len(given) == 1:
        if high is None:
            high = given[0]
        else:
            low = given[0]
    elif given:
        raise TypeError(f"randint() takes at most 3 positional arguments ({len(args)} given)")
    if high is None:
        raise TypeError("randint(): missing required argument 'high'")
    if layout is not None:
        _check_layout(layout)
    d = dtype or (dt.int64 if out is None else out.meta.dtype)
    m = meta(d, sizes((size,), "randint"), None,
             resolve(device) if out is None or device is not None else out.meta.device)
    r = _integers(m, 0 if low is None else low, high, _generator(generator, "randint"), "randint")
    return _finish(r, requires_grad, out) if out is not None or requires_grad else r


def randint_like(input: Tensor, *args: Any, low: Any = None, high: Any = None,
                 generator: Any = None, dtype: Any = None, device: Any = None,
                 requires_grad: bool = False, memory_format: Any = None, layout: Any = None,
                 pin_memory: bool = False) -> Tensor:
    """Integers from low (default 0) to high, with the shape, dtype, device and dim order of
    `input`: randint_like(x, high) or randint_like(x, low, high)."""
    if len(args) == 2:
        low, high = args
    elif len(args) == 1:
        low, high = (low, args[0]) if high is None else (args[0], high)
    if high is None:
        raise TypeError("randint_like(): missing required argument 'high'")
    m = like(input.meta, dtype, device, memory_format)
    r = _integers(m, 0 if low is None else low, high, _generator(generator, "randint_like"),
                  "randint_like")
    return r.requires_grad_() if requires_grad else r


def randperm(n: int, *, generator: Any = None, out: Any = None, dtype: Any = None,
             device: Any = None, requires_grad: bool = False, layout: Any = None,
             pin_memory: bool = False) -> Tensor:
    """A random order of 0, 1, ... n - 1 (int64 unless `dtype` says otherwise).

    The indices are sorted by random numbers of 63 bits, so that the order is the same on every
    device.
    """
    n = _whole(n, "randperm")
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    d = dtype or (dt.int64 if out is None else out.meta.dtype)
    if d.kind == "c" or d.kind == "b":
        raise NotImplementedError(f'"randperm" not implemented for \'{P._word(d)}\'')
    if n and n - 1 > integer_bounds(d)[1]:
        raise RuntimeError(f"n is too large for result tensor type: '{P._word(d)}'")
    m = meta(dt.int64, (n,), None, resolve(device))
    keys = draw("draw_integers", m, _generator(generator, "randperm"), 0, _signed(1 << 63), wide=2)
    r = R.REGISTRY["argsort"].fn(keys, stable=True)
    return _finish(r if d is dt.int64 else r.to(d), requires_grad, out)  # type: ignore


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None,
           dtype: Any = None, device: Any = None, requires_grad: bool = False, out: Any = None,
           layout: Any = None, pin_memory: bool = False) -> Tensor:
    """Normal numbers: normal(mean, std, size), or with tensors of means, of deviations or both,
    one number for every element of their broadcast shape."""
    generator = _generator(generator, "normal")
    tensors = [v for v in (mean, std) if isinstance(v, Tensor)]
    if not tensors:
        if size is None:
            raise TypeError("normal(): argument 'size' is needed when mean and std are numbers")
        _check_std(std)
        d = dtype or (dt._default if out is None else out.meta.dtype)
        m = meta(d, sizes((size,), "normal"), None, resolve(device))
        r = _real_or_complex("draw_normal", m, generator, (float(mean), float(std)), "normal")
        return _finish(r, requires_grad, out)
    with _unrecorded():
        if isinstance(std, Tensor):
            _floating(std.meta, "normal")
            if std.meta.numel and bool((std < 0).any()):  # type: ignore[operator]
                raise RuntimeError("normal expects all elements of std >= 0.0")
        else:
            _check_std(std)
        shaped = tensors[0] if len(tensors) == 1 else tensors[0] + tensors[1]  # type: ignore
        _floating(shaped.meta, "normal")
        r = randn_like(shaped, generator=generator) * std + mean
    return _finish(r, requires_grad, out)


def _check_std(std: Any) -> None:
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")


class _unrecorded:
    """Without autograd, cheaper than a context manager of the public kind."""

    def __enter__(self) -> None:
        self.before, mode.enabled = mode.enabled, False

    def __exit__(self, *exc: Any) -> None:
        mode.enabled = self.before


# ---- in place --------------------------------------------------------------------------------------

def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None,
             **named: Any) -> Tensor:
    """Fill with uniform numbers of [from, to)."""
    if named:
        from_ = named.pop("from", from_)
        if named:
            raise TypeError(f"uniform_() got an unexpected keyword argument '{next(iter(named))}'")
    low, high = float(from_), float(to)
    d = self.meta.dtype
    if d.kind == "c":
        uniform_(R.REGISTRY["view_as_real"].fn(self.detach()), low, high, generator=generator)
        return self
    _floating(self.meta, "check_uniform_bounds")
    if not low <= high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low} > "
                           f"to={high}")
    most = _largest(d)
    if not (-most <= low and high <= most and high - low <= most):
        raise RuntimeError(f"uniform_ expects to-from <= std::numeric_limits<{d.name}>::max(), but "
                           f"found to={high} and from={low} which result in to-from to exceed the "
                           "limit")
    if low == 0.0 and high == 1.0:
        return refill(self, "uniform_", "draw_uniform", _generator(generator, "uniform_"))
    return refill(self, "uniform_", "draw_between", _generator(generator, "uniform_"), low, high)


def _largest(d: dt.dtype) -> float:
    return {"float16": 65504.0, "float64": 1.7976931348623157e308}.get(
        d.name, 3.3895313892515355e38 if d is dt.bfloat16 else 3.4028234663852886e38)


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers of a mean and a standard deviation."""
    _check_std(std)
    mean, std = float(mean), float(std)
    if self.meta.dtype.kind == "c":
        parts = R.REGISTRY["view_as_real"].fn(self.detach())
        normal_(parts, 0.0, std * math.sqrt(0.5), generator=generator)
        parts.select(-1, 0).add_(mean)
        return self
    _floating(self.meta, "normal_")
    return refill(self, "normal_", "draw_normal", _generator(generator, "normal_"), mean, std)


def random_(self: Tensor, *args: Any, generator: Any = None, to: Any = None,
            **named: Any) -> Tensor:
    """Fill with integers: random_() up to the largest that the dtype holds, random_(to) below
    `to`, random_(from, to)."""
    m = self.meta.plain
    least, most = integer_bounds(m.dtype)
    low: Any = named.pop("from", None)
    if len(args) == 2:
        low, to = args
    elif len(args) == 1:
        low, to = (low, args[0]) if low is None and to is None else (args[0], to)
    if m.dtype.kind == "c" or len(args) > 2 or named:
        raise TypeError("random_(): takes from and to, on real tensors")
    if low is None and to is None:
        low, to = 0, most + 1
    elif to is None:
        to = most + 1
    low, to = _whole(0 if low is None else low, "random_"), _whole(to, "random_")
    _check_range(low, to, m.dtype, "random_")
    return refill(self, "random_", "draw_integers", _generator(generator, "random_"),
                  _signed(low), _signed((to - low) % (1 << 64)), wide=_wide(to - low))


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with exponential waiting times of rate `lambd`."""
    _floating(self.meta, "exponential_")
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd}")
    return refill(self, "exponential_", "draw_exponential",
                  _generator(generator, "exponential_"), float(lambd))


def cauchy_(self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None,
            ) -> Tensor:
    """Fill with Cauchy-distributed numbers."""
    _floating(self.meta, "cauchy_")
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    return refill(self, "cauchy_", "draw_cauchy", _generator(generator, "cauchy_"),
                  float(median), float(sigma))


def log_normal_(self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Any = None,
                ) -> Tensor:
    """Fill with exp of normal numbers of a mean and a standard deviation."""
    _floating(self.meta, "log_normal_")
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    return refill(self, "log_normal_", "draw_log_normal", _generator(generator, "log_normal_"),
                  float(mean), float(std))


def geometric_(self: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """Fill with the numbers of trials up to the first success, of probability `p`."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    if self.meta.dtype.kind in "bc":
        raise NotImplementedError(f'"geometric_" not implemented for '
                                  f"'{P._word(self.meta.dtype)}'")
    return refill(self, "geometric_", "draw_geometric", _generator(generator, "geometric_"),
                  math.log1p(-float(p)))


# ---- yes or no -------------------------------------------------------------------------------------

def threshold(p: Any, name: str) -> int:
    """How many of the 2**32 words mean yes, at probability `p`."""
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"{name} expects p to be in [0, 1], but got p={p}")
    return round(p * 4294967296.0)


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with ones of probability `p` (a number, or a tensor of the probabilities), else
    zeros."""
    if isinstance(p, Tensor):
        _floating(p.meta, "bernoulli_")
        with _unrecorded():
            drawn = bernoulli(p.expand(self.meta.shape), generator=generator)
        return self.copy_(drawn)  # type: ignore[attr-defined]
    if self.meta.dtype.kind == "c":
        raise NotImplementedError(f'"bernoulli_" not implemented for '
                                  f"'{P._word(self.meta.dtype)}'")
    return refill(self, "bernoulli_", "draw_bernoulli", _generator(generator, "bernoulli_"),
                  threshold(p, "bernoulli_"))


def bernoulli(input: Tensor, p: Any = None, *, generator: Any = None, out: Any = None) -> Tensor:
    """Ones with the probabilities in `input`, else zeros, of input's dtype; with `p`, that
    probability for every element. RuntimeError for probabilities outside [0, 1]."""
    generator = _generator(generator, "bernoulli")
    m = input.meta.plain
    if p is not None:
        r = draw("draw_bernoulli", like(m, None, None, None), generator,
                 threshold(p, "bernoulli"))
        return _finish(r, False, out)
    _floating(m, "bernoulli_tensor")
    with _unrecorded():
        if m.span != m.nbytes:
            input = R.REGISTRY["duplicate"].fn(input)
        _check_probabilities(input, "bernoulli")
        g = generator or generator_of(m.device)
        per = streams.per_group("draw_bernoulli_each", m.dtype)
        r = R.REGISTRY["draw_bernoulli_each"].fn(
            input.detach(), g.key, g.advance(-(-m.numel // per)), dtype=m.dtype)
    return _finish(r, False, out)


def _check_probabilities(p: Tensor, name: str) -> None:
    """RuntimeError unless all lie in [0, 1]. Not asked of a device that the host cannot read,
    because it would wait for it."""
    m = p.meta
    features = P.backend_of(m.device).capabilities(m.device.index or 0).features
    if m.numel and "host-memory" in features and not bool(((p >= 0) & (p <= 1)).all()):
        raise RuntimeError(f"{name} expects all probabilities to be in [0, 1]")


# ---- categories ------------------------------------------------------------------------------------

def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *,
                generator: Any = None, out: Any = None) -> Tensor:
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
        weights: Any = input.detach()
        _check_weights(weights)
        if weights.meta.dtype.itemsize < 4:
            weights = weights.float()
        if replacement and n > 1:
            r = _with_replacement(weights, n, generator)
        else:  # the largest of weight / waiting time is a draw by weight; the next ones follow
            race = weights / draw("draw_exponential", like(weights.meta, None, None, None),
                                  generator, 1.0)
            r = race.argmax(-1, True) if n == 1 else race.topk(n, -1)[1]
    return _finish(r, False, out)


def _check_weights(w: Any) -> None:
    if not w.meta.numel:
        return
    features = P.backend_of(w.meta.device).capabilities(w.meta.device.index or 0).features
    if "host-memory" not in features:
        return
    if not bool(((w >= 0) & (w < math.inf)).all()):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if bool((w.sum(-1) == 0).any()):
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")


def _with_replacement(w: Any, n: int, generator: Any) -> Any:
    """Inverse of the cumulative weights at uniform numbers. Weights of 0 are never drawn: the
    first sum above the number belongs to a positive weight."""
    sums = w.cumsum(-1)
    total = sums.narrow(-1, w.meta.shape[-1] - 1, 1)
    m = meta(w.meta.dtype, (*w.meta.shape[:-1], n), None, w.meta.device)
    at = draw("draw_uniform", m, generator) * total
    found = R.REGISTRY["searchsorted"].fn(sums.contiguous(), at, right=True)
    # a product that rounds up to the total goes to the last category of positive weight
    last = R.REGISTRY["searchsorted"].fn(sums.contiguous(), total.contiguous())
    return found.minimum(last)


# ---- dropout ---------------------------------------------------------------------------------------

def dropout(input: Tensor, p: float = 0.5, train: bool = True) -> Tensor:
    """Each element with probability 1 - p, scaled by 1 / (1 - p), else 0; the input itself if
    not training. RuntimeError unless 0 <= p <= 1.

    Nothing is kept for the gradient, which draws the same numbers again.
    """
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not train or p == 0.0:
        return input
    m = input.meta
    if m.dtype.kind != "f" or p == 1.0:
        return _dropout_unusual(input, float(p))
    if m.span != m.nbytes:
        input = R.REGISTRY["duplicate"].fn(input)
        m = input.meta
    g = generator_of(m.device)
    return R.REGISTRY["drop_elements"].fn(
        input, g.key, g.advance((m.numel + 3) >> 2), round((1.0 - p) * 4294967296.0),
        1.0 / (1.0 - p), strides=m.strides)


def _dropout_unusual(input: Any, p: float) -> Tensor:
    """Everything dropped; complex numbers. RuntimeError for integers."""
    m = input.meta
    if m.dtype.kind in "bui":
        raise RuntimeError("result type Float can't be cast to the desired output type "
                           f"{P._word(m.dtype)}")
    if p == 1.0:
        return input * 0.0
    keep = draw("draw_bernoulli", meta(m.dtype.to_real(), m.shape, None, m.device), None,
                threshold(1.0 - p, "dropout"))
    return input * (keep / (1.0 - p))


def dropout_(input: Tensor, p: float = 0.5, train: bool = True) -> Tensor:
    """In-place dropout."""
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not train or p == 0.0:
        return input
    m = input.meta
    keep = draw("draw_bernoulli", like(m.plain, None, None, None), None,
                threshold(1.0 - p, "dropout_"))
    return input.mul_(keep / (1.0 - p) if p < 1.0 else keep)  # type: ignore[attr-defined]


for _method in (uniform_, normal_, random_, exponential_, cauchy_, log_normal_, geometric_,
                bernoulli_, bernoulli, multinomial):
    setattr(Tensor, _method.__name__, _method)
