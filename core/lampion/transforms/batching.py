"""vmap's levels: tensors with a batch dim that their functions do not see.

Floor 5; imports levels. A batched tensor shows the shape of one example; the batch is the first
dim of the tensor below. A call is carried out once for the whole batch: elementwise ops align the
batch dims, views shift their dims, other ops say what their arguments mean (`batch` in their
block), are composed of other ops, or else run example by example.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.state import mode
from ..base import dtype as dt
from ..base.meta import Meta, meta, wrap_dim
from ..callpath import NS
from ..ops import registry as R
from . import levels as L
from .levels import Level, Virtual, stand


class Batched(Virtual):
    """A batch of tensors: the first dim of `value` if `batched`, else `value` for every example."""

    __slots__ = ("batched",)

    def __init__(self, level: Level, value: Any, batched: bool) -> None:
        self.level, self.value, self.batched = level, value, batched

    def meta(self) -> Meta:
        m = self.value.meta.plain
        return meta(m.dtype, m.shape[1:], m.strides[1:], m.device) if self.batched else m

    def describe(self) -> str:
        if not self.batched:
            return repr(self.value)
        inner = repr(self.value).replace("\n", "\n    ")
        return f"BatchedTensor(lvl={self.level.number}, bdim=0, value=\n    {inner}\n)"


_HOST = {
    "item": "vmap: It looks like you're calling .item() on a Tensor. We don't support vmap over "
            "calling .item() on a Tensor, please try to rewrite what you're doing with other "
            "operations.",
    "bool": "vmap: It looks like you're attempting to use a Tensor in some data-dependent control "
            "flow. We don't support that yet: lampion.where() chooses by values.",
}
_DYNAMIC = frozenset(("count_chunks", "fill_nonzero", "pick_true", "place_true"))
_RANDOM = frozenset(("draw_bernoulli_each", "draw_gamma", "draw_poisson", "drop_elements"))


class BatchLevel(Level):
    """A level of vmap over `size` examples. `randomness` is "error", "same" or "different"."""

    word = "vmap"

    def __init__(self, size: int, randomness: str = "error") -> None:
        super().__init__()
        self.size, self.randomness = size, randomness

    def __enter__(self) -> "BatchLevel":
        NS["modes"] += 1  # random functions take their general path, which asks this level
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        NS["modes"] -= 1

    def put(self, t: Any, dim: int | None) -> Any:
        """A tensor whose `dim` is the batch (None: the same for every example)."""
        if dim is None:
            return t
        d = wrap_dim(dim, t.meta.ndim)
        return self.over(R.REGISTRY["movedim"].fn(t, d, 0) if d else t)

    def over(self, value: Any) -> Any:
        """The batched tensor over `value`, whose first dim is the batch."""
        return stand(Batched(self, value, True))

    def take(self, t: Any, dim: int) -> Any:
        """The tensor below `t` with the batch at `dim`."""
        value, batched = self.parts(t)
        if not batched:
            value = value.expand(self.size, *value.meta.shape)
        d = wrap_dim(dim, value.meta.ndim)
        return R.REGISTRY["movedim"].fn(value, 0, d) if d else value

    def parts(self, t: Any) -> tuple[Any, bool]:
        """(tensor below, whether its first dim is the batch)."""
        if L.owner(t) is not self:
            return t, False
        return t.data_.value, t.data_.batched

    def full(self, t: Any) -> Any:
        """The tensor below with the batch as its first dim, also if all examples are the same."""
        value, batched = self.parts(t)
        return value if batched else value.expand(self.size, *value.meta.shape)

    def aligned(self, t: Any, n: int) -> Any:
        """The tensor below, with dims of size 1 between the batch and the dims of one example, so
        that these line up with `n` dims."""
        value, batched = self.parts(t)
        missing = n + 1 - value.meta.ndim
        if not batched or missing <= 0:
            return value
        shape = value.meta.shape
        return R.REGISTRY["view_as_shape"].fn(value, (shape[0], *(1,) * missing, *shape[1:]))

    # what Level asks for ------------------------------------------------------

    def inert(self, value: Any) -> Virtual:
        return Batched(self, value, False)

    def detach(self, t: Any) -> Virtual:
        return Batched(self, L.detached(t.data_.value), t.data_.batched)

    def apply(self, t: Any, fn: Callable[[Any], Any]) -> Virtual:
        return Batched(self, fn(t.data_.value), t.data_.batched)

    def read(self, t: Any, how: str) -> Any:
        if t.data_.batched:
            raise RuntimeError(_HOST.get(how, f"vmap: .{how}() would need the values of one "
                                         "example, but the tensor holds a batch of them"))
        return t.data_.value

    def demote(self, t: Any) -> None:
        if t.data_.batched:
            raise RuntimeError("a batched tensor of vmap is used after the function that it was "
                               "made in has returned; return it from the function instead of "
                               "keeping it")
        super().demote(t)

    def fresh(self, t: Any, made: Any) -> Any:
        value, batched = self.parts(t)
        if not batched:
            return L.fresh(value, made)
        return self.over(L.fresh(value, made.expand(self.size, *made.meta.shape).clone()))

    def write(self, target: Any, source: Any) -> None:
        value, batched = self.parts(source)
        into, takes = self.parts(target)
        if batched and not takes:
            raise RuntimeError(
                "vmap: inplace arithmetic(self, *extra_args) is not possible because there exists "
                "a Tensor `other` in extra_args which has more elements than `self`. This happened "
                "due to `other` being vmapped over but `self` not being vmapped over in a vmap. "
                "Please use out-of-place operators, or make `self` from a batched tensor "
                "(x.new_zeros(...), zeros_like(x)).")
        if L.owner(target) is not self and source.node is not None and mode.enabled:
            L.promote_family(self, target)
            into = target.data_.value
        into.copy_(self.aligned(source, target.meta.ndim) if batched else value)

    def call(self, op: R.Op, args: list[Any]) -> Any:
        if not any(self.parts(t)[1] for t in L.tensors_of(args)):
            outs = L.invoke(op, L.each(args, lambda t: self.parts(t)[0]))
            return L.finish(self, op, args, outs if isinstance(outs, tuple) else [outs])
        if op.name in _DYNAMIC:
            raise RuntimeError(
                "vmap: We do not support batching operators that can output dynamic shape "
                f"({op.qualname}): the examples' results would differ in size. "
                "lampion.where() keeps the shape.")
        plan = L.shadow(op, args) if op.kind != "view" or not _copies(op, args) else None
        if op.kind == "elementwise":
            outs = _elementwise(self, op, args, plan)
        elif op.kind == "view":
            if plan is None:
                return op.compose(*args)  # type: ignore[attr-defined]
            outs = _view(self, op, args, plan)
        elif op.name in _RANDOM:
            outs = _draw(self, op, args)
        elif op.batch is not None:  # type: ignore[attr-defined]
            outs = _ruled(self, op, args, plan)
        elif op.compose is not None:  # type: ignore[attr-defined]
            return op.compose(*args)  # type: ignore[attr-defined]
        else:
            outs = _one_by_one(self, op, args, plan)
        many = outs if isinstance(outs, (tuple, list)) else (outs,)
        return L.finish(self, op, args, [self.over(o) for o in many])


# ---------------------------------------------------------------- rules

def _elementwise(level: BatchLevel, op: Any, args: Sequence[Any], plan: Any) -> Any:
    """Line up the batch dims. A batch of numbers has a dim that one number has not, so that the
    promotion of dtypes is done as for one example."""
    n = plan.metas[0].ndim
    cast = _promoted(level, op, args)
    values = []
    for v in args:
        if hasattr(v, "data_"):
            if cast is not None and level.parts(v)[1] and not v.meta.ndim:
                v = v.to(cast)
            v = level.aligned(v, n)
        values.append(v)
    return L.invoke(op, values)


def _promoted(level: BatchLevel, op: Any, args: Sequence[Any]) -> Any:
    """The dtype to which batched numbers must be converted first; None if it does not matter."""
    metas = [(v.meta, level.parts(v)[1]) for p, v in zip(op.params, args)
             if hasattr(v, "data_") and p.name not in op.fixed]
    if len({m.dtype for m, _ in metas}) < 2 or not any(b and not m.ndim for m, b in metas):
        return None
    numbers = [v for p, v in zip(op.params, args)
               if p.kind == R.TENSOR_OR_NUMBER and not hasattr(v, "data_")]
    return dt.result_dtype([m.dtype for m, _ in metas if m.ndim],
                           [m.dtype for m, _ in metas if not m.ndim], numbers)


def _copies(op: Any, args: Sequence[Any]) -> bool:
    return L.view_of(op, args[0].meta.plain, args[1:]) is None


_FULL = (None, None, None)  # a whole dim in the key of an index_view
# The arguments of a view below the batch dim, from the number of dims and those of one example.
_SHIFTED: dict[str, Callable[..., tuple[Any, ...]]] = {
    "transpose": lambda n, a, b: (wrap_dim(a, n) + 1, wrap_dim(b, n) + 1),
    "permute_dims": lambda n, dims: ((0, *[wrap_dim(d, n) + 1 for d in dims]),),
    "unsqueeze": lambda n, d: (wrap_dim(d, n + 1) + 1,),
    "select": lambda n, d, k: (wrap_dim(d, n) + 1, k),
    "slice_dim": lambda n, d, *rest: (d + 1, *rest),
    "diagonal": lambda n, offset, a, b: (offset, wrap_dim(a, n) + 1, wrap_dim(b, n) + 1),
    "unfold_dim": lambda n, d, *rest: (wrap_dim(d, n) + 1, *rest),
    "index_view": lambda n, key: ((_FULL, *key),),
}
_RESHAPES = frozenset(("view_as_shape", "view", "reshape", "unflatten", "squeeze_dims", "squeeze"))


def _view(level: BatchLevel, op: Any, args: Sequence[Any], plan: Any) -> Any:
    """The view of every example as one view."""
    source, rest = args[0], args[1:]
    m, out, value = source.meta, plan.meta, level.parts(source)[0]
    if out.dtype is not m.dtype:  # another reading of the bytes concerns the last dim at most
        return L.invoke(op, [value, *rest])
    shift = _SHIFTED.get(op.name)
    if shift is not None and m.ndim:
        return op.fn(value, *shift(m.ndim, *rest))
    if op.name in _RESHAPES:
        return R.REGISTRY["view_as_shape"].fn(value, (level.size, *out.shape))
    if op.name in ("expand_to", "expand"):
        value = level.aligned(source, out.ndim)
        return R.REGISTRY["expand_to"].fn(value, (level.size, *out.shape))
    shape, strides, offset, _ = L.view_of(op, m.plain, rest)
    if op.name == "as_strided_view" and L.reaches_out(m, shape, strides, offset):
        raise RuntimeError(f"vmap: as_strided with size {list(shape)}, stride {list(strides)} "
                           "reaches outside of one example, into memory of others")
    return R.REGISTRY["as_strided_view"].fn(
        value, (level.size, *shape), (value.meta.strides[0], *strides), offset)


class Batching:
    """What an op's `batch` rule sees of a call: `size` of the batch, `has(name)` whether an
    argument is batched, `ndim(name)` of one example, `full(name)` and `aligned(name, n)` with the
    batch as first dim (see BatchLevel), `metas` of the results for one example, `args` as the
    examples see them."""

    def __init__(self, level: BatchLevel, op: Any, args: Sequence[Any], metas: Any) -> None:
        self.level, self.size, self.metas, self.op = level, level.size, metas, op
        self.args = {p.name: v for p, v in zip(op.params, args)}
        self.names = list(self.args)

    def has(self, name: str) -> bool:
        """Whether the argument (or one of a list) is batched."""
        return any(self.level.parts(t)[1] for t in L.tensors_of([self.args[name]]))

    def ndim(self, name: str) -> int:
        """Dims of one example."""
        return self.args[name].meta.ndim

    def full(self, name: str) -> Any:
        """The argument with the batch as its first dim; of a list, all of them."""
        v = self.args[name]
        return L.each([v], self.level.full)[0]

    def tensors(self) -> list[Any]:
        """The tensor arguments of one example."""
        return list(L.tensors_of(list(self.args.values())))

    def invoke(self, values: Sequence[Any]) -> Any:
        """The op on arguments in the order of `names`."""
        return L.invoke(self.op, values)

    def composed(self, fn: Callable[..., Any]) -> Any:
        """The result of other ops on the arguments as the examples see them."""
        return self.level.full(fn(*self.args.values()))

    def aligned(self, name: str, n: int) -> Any:
        """The argument with 1s after the batch dim, to line up with n dims."""
        return self.level.aligned(self.args[name], n)


def _ruled(level: BatchLevel, op: Any, args: Sequence[Any], plan: Any) -> Any:
    """By the op's own rule: a function, or the names of the arguments that count dims."""
    b = Batching(level, op, args, plan.metas)
    if callable(op.batch):
        outs = op.batch(b, *L.each(args, lambda t: level.parts(t)[0]))
        if outs is NotImplemented:
            return _one_by_one(level, op, args, plan)
        many = outs if isinstance(outs, (tuple, list)) else (outs,)
    else:
        n = next(L.tensors_of(args)).meta.ndim
        names = op.batch.split()
        values = L.each(args, lambda t: _at_least_1d(level.full(t), level.size))
        values = [_dims(v, n) if p.name in names else v for p, v in zip(op.params, values)]
        outs = L.invoke(op, values)
        many = outs if isinstance(outs, (tuple, list)) else (outs,)
    return [o if o.meta.shape == (level.size, *m.shape) else o.reshape(level.size, *m.shape)
            for o, m in zip(many, plan.metas)]


def _at_least_1d(value: Any, size: int) -> Any:
    return value if value.meta.ndim > 1 else value.reshape(size, 1)


def _dims(v: Any, n: int) -> Any:
    """Dims of one example as dims below the batch; none means all."""
    if v is None or v == ():
        return tuple(range(1, max(n, 1) + 1))
    if isinstance(v, tuple):
        return tuple([wrap_dim(d, n) + 1 for d in v])
    return wrap_dim(v, n) + 1


def _example(level: BatchLevel, t: Any, k: int) -> Any:
    value, batched = level.parts(t)
    return R.REGISTRY["select"].fn(value, 0, k) if batched else value


_told: set[str] = set()


def _one_by_one(level: BatchLevel, op: Any, args: Sequence[Any], plan: Any) -> Any:
    """Run the op on each example and stack the results. Said once for each op."""
    if op.qualname not in _told:
        _told.add(op.qualname)
        warnings.warn("There is a performance drop because we have not yet implemented the "
                      f"batching rule for {op.qualname}: it runs example by example. Its block "
                      "can give one (docs/write-ops.md).", UserWarning, stacklevel=5)
    rows = [L.invoke(op, L.each(args, lambda t, k=k: _example(level, t, k)))
            for k in range(level.size)]
    if not rows:
        return [NS["filled"](meta(m.dtype, (0, *m.shape), None, m.device), 0) for m in plan.metas]
    stack = R.REGISTRY["stack"].fn
    if isinstance(rows[0], tuple):
        return [stack(list(column)) for column in zip(*rows)]
    return stack(rows)


# ---------------------------------------------------------------- randomness

def _check_random(level: BatchLevel) -> None:
    if level.randomness == "error":
        raise RuntimeError(
            "vmap: called random operation while in randomness error mode. Please either use the "
            "'same' or 'different' randomness flags on vmap or perform the randomness operation "
            "out of vmap")


def _draw(level: BatchLevel, op: Any, args: Sequence[Any]) -> Any:
    """A draw from a batch: numbers of their own for every example, or the same ones."""
    _check_random(level)
    at = next(k for k, p in enumerate(op.params) if p.name == "seed")
    rows = []
    for k in range(level.size):
        one = L.each(args, lambda t, k=k: _example(level, t, k))
        if level.randomness == "different":
            one[at] = _stream(one[at], k)
        rows.append(L.invoke(op, one))
    return R.REGISTRY["stack"].fn(rows)


def _stream(seed: int, k: int) -> int:
    """The key of a random stream of its own for example k."""
    mixed = (seed ^ (k * 0x9E3779B97F4A7C15)) & (1 << 64) - 1
    return mixed - (1 << 64) if mixed >> 63 else mixed


def spread(t: Any) -> Any:
    """`t` as a random function of probabilities takes it within vmap: an example of its own for
    each draw."""
    level = _innermost()
    if level is None:
        return t
    _check_random(level)
    if level.randomness == "same" or (L.owner(t) is level and t.data_.batched):
        return t
    return level.over(level.full(t).contiguous())


def _innermost() -> BatchLevel | None:
    return next((v for v in reversed(L.stack.levels) if isinstance(v, BatchLevel)), None)


def draw(make: Callable[[Meta], Any], m: Meta) -> Any:
    """A random tensor of meta `m`, made by `make(meta)`, within vmap."""
    level = _innermost()
    if level is None:
        return make(m)
    _check_random(level)
    with L.below(level):
        if level.randomness == "same":
            return draw(make, m)
        whole = meta(m.dtype, (level.size, *m.shape), (m.numel, *m.strides), m.device)
        return level.over(draw(make, whole))


def draws(make: Callable[[], Any]) -> Any:
    """What `make()` draws, within vmap: once, or once for every example."""
    level = _innermost()
    if level is None:
        return make()
    _check_random(level)
    with L.below(level):
        if level.randomness == "same":
            return draws(make)
        return level.over(R.REGISTRY["stack"].fn([draws(make) for _ in range(level.size)]))


NS.update(transformed_draw=draw, transformed_draws=draws, transformed_spread=spread)

__all__ = ["BatchLevel", "Batched", "Batching"]
