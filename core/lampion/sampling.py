"""Random tensors: factories, in-place filling, and draws from given probabilities.

Floor 7; imports creation, random and ops. All numbers come from the counter streams of
`ops/random.py`; which generator is `generator=`, else the default one of the device.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import callpath
from .autograd.state import mode
from .base import dtype as dt
from .base.meta import Meta, broadcast_shapes, dense_strides_like, meta
from .callpath import NS
from .creation import _check_layout, _finish, _named, like, sizes
from .ops import plans as P
from .ops import registry as R
from .ops import streams
from .random import Generator, generator_of
from .runtime.capture import captures
from .runtime.devices import _default, lasting, resolve
from .tensor import Tensor, make_tensor

__all__ = ["rand", "randn", "randint", "randperm", "normal", "rand_like", "randn_like",
           "randint_like"]

_clock, _getframe = NS["clock"], NS["getframe"]


class Kind:
    """A drawing op and, per dense meta, (launch, into, groups, default generator) of its plans.

    `word` is the name of the method that fills in place, `wide` the attribute of integer draws.
    """

    __slots__ = ("op", "word", "wide", "entries")

    def __init__(self, op: str, word: str, wide: int | None = None) -> None:
        self.op, self.word, self.wide = op, word, wide
        self.entries: dict[Meta, Any] = {}
        R.plan_holders.append(self.entries)

    def entry(self, m: Meta, numbers: tuple[Any, ...]) -> Any:
        """The entry of a dense meta. The types of `numbers` must be those of the op's slots."""
        found = self.entries.get(m)
        if found is None:
            middle = [] if self.wide is None else [self.wide]
            values = [m.shape, int, int, *map(type, numbers), *middle, m.dtype, m.device, m.strides]
            p = P.kernel_plan(R.REGISTRY[self.op], values, [m])  # type: ignore[arg-type]
            per = streams.per_group(self.op, m.dtype, bool(self.wide))
            if len(self.entries) > 20_000:
                self.entries.clear()
            found = self.entries[m] = (p.launch, p.into, -(-m.numel // per),
                                       generator_of(m.device))
        return found


UNIFORM, BETWEEN = Kind("draw_uniform", "uniform_"), Kind("draw_between", "uniform_")
NORMAL, LOG_NORMAL = Kind("draw_normal", "normal_"), Kind("draw_log_normal", "log_normal_")
EXPONENTIAL, CAUCHY = Kind("draw_exponential", "exponential_"), Kind("draw_cauchy", "cauchy_")
GEOMETRIC, BERNOULLI = Kind("draw_geometric", "geometric_"), Kind("draw_bernoulli", "bernoulli_")
ORDER = Kind("draw_order", "")
INTEGERS = tuple(Kind("draw_integers", "random_", wide) for wide in range(3))


def draw(kind: Kind, m: Meta, generator: Generator | None, *numbers: Any) -> Any:
    """A fresh tensor of the dense meta `m`; within vmap, as its `randomness` says."""
    if NS["modes"] and NS["levels"]:
        return NS["transformed_draw"](
            lambda m: _draw(kind, m, generator, *numbers), m)
    return _draw(kind, m, generator, *numbers)


def _draw(kind: Kind, m: Meta, generator: Generator | None, *numbers: Any) -> Any:
    launch, _, groups, g = kind.entries.get(m) or kind.entry(m, numbers)
    if generator is not None:
        g = generator
    offset = g.advance(groups)
    if NS["modes"]:
        extra = {} if kind.wide is None else {"wide": kind.wide}
        return R.REGISTRY[kind.op].fn(m.shape, g.key, offset, *numbers, dtype=m.dtype,
                                      device=m.device, strides=m.strides, **extra)
    return make_tensor(launch(g.key, offset, *numbers), m, None)


def refill(t: Tensor, kind: Kind, generator: Generator | None, *numbers: Any) -> Tensor:
    """Overwrite `t` in memory order; called by the method itself."""
    try:
        _, into, groups, g = kind.entries[t.meta]
    except KeyError:
        return _refill(t, kind, generator, numbers)
    if t.node is not None or t.root is not None or NS["modes"] or captures:
        return _refill(t, kind, generator, numbers)
    if generator is not None:
        g = _generator(generator, kind.word)
    if groups:
        offset = g.offset
        g.offset = offset + groups
        into(t.data_, g.key, offset, *numbers)
    base, f = t.data_.base, _getframe(2)
    base.version += 1
    if t.data_ is not base and t.data_.epoch:  # a view whose writes are not counted
        return t
    _clock[0] = base.epoch = _clock[0] + 1
    base.writer = (kind.word, f.f_code, f.f_lasti)
    return t


def _refill(t: Tensor, kind: Kind, generator: Any, numbers: tuple[Any, ...]) -> Tensor:
    """The general case: views, gaps in memory, tensors with a history, the first use."""
    callpath.check_leaf(t, kind.word)
    generator = _generator(generator, kind.word)
    m = t.meta.plain
    if m.overlapping:
        raise RuntimeError(
            f"{kind.word}: unsupported operation: more than one element of the written-to tensor "
            "refers to a single memory location. Please clone() the tensor before performing the "
            "operation.")
    if m.span != m.nbytes or NS["modes"] or (t.node is not None and mode.enabled):
        dense = meta(m.dtype, m.shape, dense_strides_like(m.shape, m.strides), m.device)
        return t.copy_(draw(kind, dense, generator, *numbers))  # type: ignore[attr-defined]
    _, into, groups, g = kind.entry(m, numbers)
    if generator is not None:
        g = generator
    if groups:
        into(t.data_, g.key, g.advance(groups), *numbers)
    callpath.wrote(t, kind.word, 4)
    return t


def _generator(g: Any, name: str) -> Generator | None:
    if g is None or isinstance(g, Generator):
        return g
    raise TypeError(f"{name}(): argument 'generator' must be Generator, not {type(g).__name__}")


def _floating(m: Meta, name: str) -> None:
    if m.dtype.kind != "f":
        raise NotImplementedError(f'"{name}" not implemented for \'{P._word(m.dtype)}\'')


# ---- factories -----------------------------------------------------------------

def _real_or_complex(kind: Kind, m: Meta, g: Any, numbers: tuple[Any, ...], what: str) -> Tensor:
    if m.dtype.kind == "f":
        return draw(kind, m, g, *numbers)
    if m.dtype.kind != "c":
        raise NotImplementedError(f'"{what}" not implemented for \'{P._word(m.dtype)}\'')
    parts = meta(m.dtype.to_real(), (*m.shape, 2), (*[2 * s for s in m.strides], 1), m.device)
    if kind is NORMAL:  # each part has half of the variance
        numbers = (numbers[0], numbers[1] * math.sqrt(0.5))
    pairs = draw(kind, parts, g, *numbers)
    return R.REGISTRY["view_as_complex"].fn(pairs).clone()


def _maker(name: str, kind: Kind, numbers: tuple[Any, ...], what: str, doc: str) -> Any:
    known: dict[Any, Any] = {}  # (size, dtype, device) of earlier calls -> (meta, its entry)

    def make(*size: Any, generator: Any = None, dtype: Any = None, device: Any = None,
             requires_grad: bool = False, out: Any = None, layout: Any = None,
             pin_memory: bool = False, **named: Any) -> Tensor:
        key: Any = (size, dtype or dt._default, device or (_default[-1] if _default else None))
        try:
            found = known.get(key)
        except TypeError:  # a list
            found = key = None
        if found is None or out is not None or layout is not None or named or NS["modes"] \
                or captures:
            return _make(size, generator, dtype, device, requires_grad, out, layout, named, key)
        m, launch, groups, g = found
        if generator is not None:
            g = _generator(generator, name)
        offset = g.offset
        g.offset = offset + groups
        r = make_tensor(launch(g.key, offset, *numbers), m, None)
        return r.requires_grad_() if requires_grad else r

    def _make(size: Any, generator: Any, dtype: Any, device: Any, requires_grad: bool, out: Any,
              layout: Any, named: Any, key: Any) -> Tensor:
        d = dt.of_type(dtype) or (dt._default if out is None else out.meta.dtype)
        where = resolve(device) if out is None or device is not None else out.meta.device
        if layout is not None:
            _check_layout(layout)
        plain = not named and out is None
        m = meta(d, sizes(_named(size, named, name), name), None, where)
        r = _real_or_complex(kind, m, _generator(generator, name), numbers, what)
        if key is not None and plain and d.kind == "f" and lasting(device, where) is (
                device or where):
            if len(known) > 20_000:
                known.clear()
            launch, _, groups, g = kind.entry(m, numbers)
            known[key] = (m, launch, groups, g)
        return _finish(r, requires_grad, out)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc
    return make


rand = _maker("rand", UNIFORM, (), "check_uniform_bounds",
              "Uniform numbers of [0, 1). rand(2, 3) and rand((2, 3)) mean the same.")
randn = _maker("randn", NORMAL, (0.0, 1.0), "normal_kernel_cpu",
               "Standard normal numbers. randn(2, 3) and randn((2, 3)) mean the same.")


def _maker_like(name: str, kind: Kind, numbers: tuple[Any, ...], what: str, doc: str) -> Any:
    def make(input: Tensor, *, generator: Any = None, dtype: Any = None, device: Any = None,
             requires_grad: bool = False, memory_format: Any = None, layout: Any = None,
             pin_memory: bool = False) -> Tensor:
        m = like(input.meta, dtype, device, memory_format)
        r = _real_or_complex(kind, m, _generator(generator, name), numbers, what)
        return r.requires_grad_() if requires_grad else r

    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc
    return make


rand_like = _maker_like("rand_like", UNIFORM, (), "check_uniform_bounds",
                        "Uniform numbers of [0, 1) with the shape, dtype, device and dim order of "
                        "`input`.")
randn_like = _maker_like("randn_like", NORMAL, (0.0, 1.0), "normal_kernel_cpu",
                         "Standard normal numbers with the shape, dtype, device and dim order of "
                         "`input`.")

_NARROW = 1 << 20  # spans up to here take one word: no value is favoured by more than 2**-12


def _integers_kind(span: int) -> Kind:
    return INTEGERS[0 if span <= _NARROW else 1 if span <= 1 << 32 else 2]


def _signed(n: int) -> int:
    return n - (1 << 64) if n >= 1 << 63 else n


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
    return draw(_integers_kind(high - low), m, generator, _signed(low),
                _signed((high - low) % (1 << 64)))


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
    key: Any = (args, low, high, size, dtype, device or (_default[-1] if _default else None))
    try:
        found = _randints.get(key)
    except TypeError:  # a list
        found = key = None
    if found is None or out is not None or layout is not None or NS["modes"] or captures:
        return _randint(list(args), low, high, size, generator, dtype, device, requires_grad, out,
                        layout, key)
    m, launch, groups, g, first, span = found
    if generator is not None:
        g = _generator(generator, "randint")
    offset = g.offset
    g.offset = offset + groups
    r = make_tensor(launch(g.key, offset, first, span), m, None)
    return r.requires_grad_() if requires_grad else r


_randints: dict[Any, Any] = {}


def _randint(given: list[Any], low: Any, high: Any, size: Any, generator: Any, dtype: Any,
             device: Any, requires_grad: bool, out: Any, layout: Any, key: Any) -> Tensor:
    if size is None:
        if not given or isinstance(given[-1], int):
            raise TypeError("randint(): argument 'size' must be tuple of ints")
        size = given.pop()
    if len(given) == 2:
        low, high = given
    elif len(given) == 1:
        low, high = (low, given[0]) if high is None else (given[0], high)
    elif given:
        raise TypeError(f"randint() takes at most 3 positional arguments ({len(given) + 1} given)")
    if high is None:
        raise TypeError("randint(): missing required argument 'high'")
    if layout is not None:
        _check_layout(layout)
    d = dtype or (dt.int64 if out is None else out.meta.dtype)
    m = meta(d, sizes((size,), "randint"), None,
             resolve(device) if out is None or device is not None else out.meta.device)
    low = 0 if low is None else low
    r = _integers(m, low, high, _generator(generator, "randint"), "randint")
    if key is not None and type(low) is type(high) is int and out is None and lasting(
            device, m.device) is (device or m.device):
        numbers = _signed(low), _signed((high - low) % (1 << 64))
        launch, _, groups, g = _integers_kind(high - low).entry(m, numbers)
        if len(_randints) > 20_000:
            _randints.clear()
        _randints[key] = (m, launch, groups, g, *numbers)
    return _finish(r, requires_grad, out)


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

    The indices are sorted by random numbers in front of them, 63 bits in all, so that the order
    is the same on every device.
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
    generator = _generator(generator, "randperm")
    if NS["modes"] and NS["levels"]:
        r = NS["transformed_draws"](lambda: _order(m, generator))
    else:
        r = _order(m, generator)
    return _finish(r if d is dt.int64 else r.to(d), requires_grad, out)


def _order(m: Meta, generator: Any) -> Any:
    n = m.numel
    bits = max(n - 1, 1).bit_length()
    r = _draw(ORDER, m, generator, bits)
    # whoever watches ops could not see the host's work
    raw = None if NS["modes"] else P.backend_of(m.device).host_view(r.data_)
    if raw is None:
        r = r.sort()[0] & ((1 << bits) - 1)  # type: ignore[attr-defined]
    else:
        keys = np.frombuffer(raw, np.int64, n)
        keys.sort()
        keys &= (1 << bits) - 1
    return r


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
        r = _real_or_complex(NORMAL, m, generator, (float(mean), float(std)), "normal")
        return _finish(r, requires_grad, out)
    with _unrecorded():
        if isinstance(std, Tensor):
            _floating(std.meta, "normal")
            if std.meta.numel and not std.detach().amin().item() >= 0.0:  # type: ignore[attr-defined]
                raise RuntimeError("normal expects all elements of std >= 0.0")
        else:
            _check_std(std)
        shaped = tensors[0] if len(tensors) == 1 else tensors[0] + tensors[1]  # type: ignore
        _floating(shaped.meta, "normal")
        if out is not None:
            if out.meta.dtype.kind not in "fc":
                raise NotImplementedError("normal: not implemented for out= of dtype "
                                          f"{out.meta.dtype.name}; give one of a floating dtype")
            if len(tensors) == 1:  # out= takes part in broadcasting
                shaped = shaped.expand(  # type: ignore[union-attr]
                    broadcast_shapes(shaped.meta.shape, out.meta.shape))
        r = randn_like(shaped, generator=generator,  # type: ignore[call-arg]
                       dtype=None if out is None else out.meta.dtype) * std + mean
        if out is not None:
            r = r.to(out.meta.dtype)
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


# ---- in place -----------------------------------------------------------------

def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None,
             **named: Any) -> Tensor:
    """Fill with uniform numbers of [from, to)."""
    if named:
        from_ = named.pop("from", from_)
        if named:
            raise TypeError(f"uniform_() got an unexpected keyword argument '{next(iter(named))}'")
    low, high = float(from_), float(to)
    d = self.meta.dtype
    if d is dt.float32 and -1e38 <= low <= high <= 1e38:
        return refill(self, BETWEEN, generator, low, high) if low != 0.0 or high != 1.0 else (
            refill(self, UNIFORM, generator))
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
        return refill(self, UNIFORM, generator)
    return refill(self, BETWEEN, generator, low, high)


def _largest(d: dt.dtype) -> float:
    return {"float16": 65504.0, "float64": 1.7976931348623157e308}.get(
        d.name, 3.3895313892515355e38 if d is dt.bfloat16 else 3.4028234663852886e38)


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers of a mean and a standard deviation."""
    _check_std(std)
    mean, std = float(mean), float(std)
    if self.meta.dtype.kind == "c":
        parts = R.REGISTRY["view_as_real"].fn(self.detach())
        normal_(parts, mean, std * math.sqrt(0.5), generator=generator)
        return self
    _floating(self.meta, "normal_")
    return refill(self, NORMAL, generator, mean, std)


def random_(self: Tensor, *args: Any, generator: Any = None, to: Any = None,
            **named: Any) -> Tensor:
    """Fill with integers: random_() up to the largest that the dtype holds, random_(to) below
    `to`, random_(from, to)."""
    m = self.meta.plain
    most = integer_bounds(m.dtype)[1]
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
    return refill(self, _integers_kind(to - low), generator, _signed(low),
                  _signed((to - low) % (1 << 64)))


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with exponential waiting times of rate `lambd`."""
    _floating(self.meta, "exponential_")
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd}")
    return refill(self, EXPONENTIAL, generator, float(lambd))


def cauchy_(self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None,
            ) -> Tensor:
    """Fill with Cauchy-distributed numbers."""
    _floating(self.meta, "cauchy_")
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    return refill(self, CAUCHY, generator,
                  float(median), float(sigma))


def log_normal_(self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Any = None,
                ) -> Tensor:
    """Fill with exp of normal numbers of a mean and a standard deviation."""
    _floating(self.meta, "log_normal_")
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    return refill(self, LOG_NORMAL, generator,
                  float(mean), float(std))


def geometric_(self: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """Fill with the numbers of trials up to the first success, of probability `p`."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    if self.meta.dtype.kind in "bc":
        raise NotImplementedError(f'"geometric_" not implemented for '
                                  f"'{P._word(self.meta.dtype)}'")
    return refill(self, GEOMETRIC, generator,
                  math.log1p(-float(p)))


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
            drawn = R.REGISTRY["bernoulli"].fn(
                p.expand(self.meta.shape), generator=generator)  # type: ignore[attr-defined]
        return self.copy_(drawn)  # type: ignore[attr-defined]
    if self.meta.dtype.kind == "c":
        raise NotImplementedError(f'"bernoulli_" not implemented for '
                                  f"'{P._word(self.meta.dtype)}'")
    return refill(self, BERNOULLI, generator,
                  threshold(p, "bernoulli_"))


for _method in (uniform_, normal_, random_, exponential_, cauchy_, log_normal_, geometric_,
                bernoulli_):
    setattr(Tensor, _method.__name__, _method)
