"""What functions do with nested tensors. `RULES` maps their names to functions of their arguments;
functions of single elements need none, and functions made of others are followed into these.

Floor 7; imports the nested tensor.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import lampion

from ..base import dtype as dt
from ..base import layout as L
from ..base.limits import iinfo
from ..nn import functional as F
from ..ops import registry as R
from ..tensor import Tensor
from ..watching import unwatched
from .tensor import NestedTensor, RaggedSize, _refuse, made

RULES: dict[str, Callable[..., Any]] = {}
_inside = threading.local()


def rule(*names: str) -> Callable[[Any], Any]:
    """Decorator: the rule for functions of these names."""
    def add(fn: Any) -> Any:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return add


def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A function of nested tensors: by its rule, element by element, or as what it is made of."""
    name = getattr(func, "__name__", str(func))
    found = RULES.get(name)
    if found is not None:
        return found(*args, **kwargs)
    op = R.REGISTRY.get(name.removesuffix("_") if not name.startswith("__") else name)
    if op is not None and op.kind == "elementwise":
        return pointwise(name, func, args, kwargs)
    running = _inside.__dict__.setdefault("running", [])
    if func in running or (op is not None and op.kind != "composite"):
        _refuse(name)
    running.append(func)
    try:
        return unwatched(func)(*args, **kwargs)
    finally:
        running.pop()


# ---- element by element

def pointwise(name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A function of single elements, of nested tensors of the same offsets and of what broadcasts
    along their ragged dim."""
    like = next(a for a in (*args, *kwargs.values()) if isinstance(a, NestedTensor))

    def plain(a: Any) -> Any:
        if isinstance(a, NestedTensor):
            if RaggedSize.of(a._starts) != RaggedSize.of(like._starts) or (
                    a._ragged_idx - a.dim() != like._ragged_idx - like.dim()):
                _refuse(name, f"cannot be called with inputs of shapes {tuple(like.shape)} and "
                        f"{tuple(a.shape)}: make one from the other's offsets")
            return a._held
        return beside(name, like, a) if isinstance(a, Tensor) else a

    result = func(*map(plain, args), **{k: plain(v) for k, v in kwargs.items()})
    if isinstance(result, tuple):
        return tuple(map(like._with, result))
    if result is like._held:
        return like
    return like._with(result, result.dim() + 1 - (like.dim() - like._ragged_idx))


def beside(name: str, like: NestedTensor, t: Tensor) -> Tensor:
    """A dense tensor as it goes with the values: without a batch dim; that of a tensor (B, 1, ...)
    is repeated for the elements of each example."""
    from_right = like.dim() - like._ragged_idx
    if t.dim() >= from_right and t.shape[-from_right] != 1:
        _refuse(name, f"cannot be called with inputs of shapes {tuple(like.shape)} and "
                f"{tuple(t.shape)}: a dense tensor is the same along the ragged dim")
    if t.dim() < like.dim():
        return t
    if t.dim() > like.dim():
        _refuse(name, f"a dense tensor of {t.dim()} dims beside a nested one of {like.dim()}")
    if t.shape[0] == 1:
        return t.squeeze(0)
    if t.shape[0] != len(like):
        _refuse(name, f"a dense tensor of {t.shape[0]} examples beside {len(like)}")
    rows = examples(like)
    return t.squeeze(like._ragged_idx).index_select(0, rows).movedim(0, like._ragged_idx - 1)


def examples(x: NestedTensor) -> Tensor:
    """Which example each place of the values belongs to. RuntimeError for values with holes."""
    if x._counts is not None:
        _refuse("nested tensors", "elements that no example has are in the way; call contiguous()")
    return lampion.arange(len(x), device=x._held.device).repeat_interleave(
        x._starts.diff(), output_size=x._held.shape[x._ragged_idx - 1])


# ---- dense and back

def padded(x: NestedTensor, value: Any, width: int | None = None) -> Tensor:
    """(B, width, ...): the ragged dim second, filled up with `value`."""
    width = x._get_max_seqlen() if width is None else width
    held = x._held.movedim(x._ragged_idx - 1, 0)
    place = lampion.arange(width, device=held.device)
    there = place < x.sizes_of().unsqueeze(1)
    if not held.shape[0]:
        return held.new_full((len(x), width, *held.shape[1:]), value)
    at = (x._starts[:-1].unsqueeze(1) + place).where(there, 0)
    there = there.reshape(*there.shape, *[1] * (held.dim() - 1))
    return held[at].where(there, lampion.full((), value, dtype=held.dtype, device=held.device))


def unpadded(dense: Tensor, like: NestedTensor) -> NestedTensor:
    """The examples of `like`'s lengths from such a tensor; the ragged dim is where `like` has
    it."""
    rows = examples(like)
    place = lampion.arange(rows.shape[0], device=rows.device) - like._starts[rows]
    return like._with(dense[rows, place].movedim(0, like._ragged_idx - 1))


@rule("to_padded_tensor")
def to_padded_tensor(x: Tensor, padding: float, output_size: Any = None) -> Tensor:
    """See `lampion.nested.to_padded_tensor`."""
    if not isinstance(x, NestedTensor):
        raise RuntimeError("to_padded_tensor: a nested tensor is padded, not a dense one")
    width = None if output_size is None else int(output_size[x._ragged_idx])
    if width is not None and width < x._get_max_seqlen():
        raise RuntimeError(f"to_padded_tensor: an example has {x._get_max_seqlen()} elements, the "
                           f"output size {tuple(output_size)} has room for {width}")
    return padded(x, padding, width).movedim(1, x._ragged_idx)


@rule("unbind")
def unbind(x: NestedTensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The examples, views of the values."""
    if x._dim(dim):
        _refuse("unbind", "only supported for NestedTensor on dim=0")
    starts, counts = x._starts.tolist(), x.sizes_of().tolist()
    return tuple(x._held.narrow(x._ragged_idx - 1, s, n) for s, n in zip(starts, counts))


@rule("contiguous", "clone")
def contiguous(x: NestedTensor, *, memory_format: Any = None) -> NestedTensor:
    """A copy, without holes."""
    if x._counts is None:
        return x._with(x._held.clone())
    parts = x.unbind()
    starts = lampion.cat([x._counts.new_zeros(1), x._counts.cumsum(0)])
    return made(lampion.cat(parts, x._ragged_idx - 1), starts, None, x._ragged_idx, x._kind)


# ---- reductions

def _neutral(name: str, d: Any) -> Any:
    """What does not change a reduction."""
    if name in ("prod", "all"):
        return 1
    if name in ("amax", "max", "argmax", "logsumexp", "softmax", "log_softmax"):
        return -math.inf if d.kind == "f" else 0 if d is dt.bool_ else iinfo(d).min
    if name in ("amin", "min", "argmin"):
        return math.inf if d.kind == "f" else 1 if d is dt.bool_ else iinfo(d).max
    return 0


def _reduction(name: str) -> None:
    def reduce(x: NestedTensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        method = getattr(Tensor, name)
        if dim is None:
            full = x if x._counts is None else contiguous(x)
            return method(full._held, **kwargs)
        dims = sorted({x._dim(d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))})
        at = x._ragged_idx
        if 0 not in dims and at not in dims:
            return _inner(x, method, dims, keepdim, kwargs)
        if dims[0] == 0:
            if at not in dims:
                _refuse(name, "reducing along the batch dimension but not the ragged dimension is "
                        "not supported for nested tensors")
            full = x if x._counts is None else contiguous(x)
            found = method(full._held, [d - 1 for d in dims[1:]], keepdim, **kwargs)
            return found.unsqueeze(0) if keepdim else found
        if len(dims) > 1:
            _refuse(name, "reducing along a ragged and non-batch dimension is not supported for "
                    "nested tensors")
        return _ragged(x, name, method, keepdim, kwargs)

    reduce.__name__ = name
    rule(name)(reduce)


def _inner(x: NestedTensor, method: Any, dims: list[int], keepdim: bool,
           kwargs: dict[str, Any]) -> Any:
    """A reduction of each place of the ragged dim."""
    where = [d - 1 for d in dims]
    found = method(x._held, where[0] if len(where) == 1 else where, keepdim=keepdim, **kwargs)
    at = x._ragged_idx - (0 if keepdim else sum(d < x._ragged_idx for d in dims))
    if isinstance(found, tuple):
        return type(found)(*(x._with(t, at) for t in found))
    return x._with(found, at)


def _ragged(x: NestedTensor, name: str, method: Any, keepdim: bool, kwargs: dict[str, Any]) -> Any:
    """A reduction of each example: dense."""
    if name == "mean":
        total = _ragged(x, "sum", Tensor.sum, keepdim, kwargs)
        count = x.sizes_of().reshape(-1, *[1] * (total.dim() - 1))
        return total / count.to(total.dtype)
    if name in ("var", "std", "norm"):
        _refuse(name, "along the ragged dimension is not supported for nested tensors; use "
                "unbind()")
    dense = padded(x, _neutral(name, x.dtype))
    found = method(dense, 1, keepdim=keepdim, **kwargs)

    def back(t: Tensor) -> Tensor:
        return t.movedim(1, x._ragged_idx) if keepdim else t

    return type(found)(*map(back, found)) if isinstance(found, tuple) else back(found)


for _name in ("sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "any",
              "all", "logsumexp", "var", "std", "norm", "nansum"):
    _reduction(_name)


def _softmax(name: str) -> None:
    def soften(x: NestedTensor, dim: Any = None, *args: Any, dtype: Any = None,
               **kwargs: Any) -> NestedTensor:
        if dim is None:
            raise ValueError(f"{name}: give the dim of a nested tensor")
        d = x._dim(dim)
        x = x if dtype is None else x.to(dtype)
        if d == 0:
            _refuse(name, "not supported when reducing across the batch dimension for NestedTensor")
        fn = getattr(Tensor, name)
        if d != x._ragged_idx:
            return x._with(fn(x._held, d - 1))
        if name == "cumsum":
            return unpadded(fn(padded(contiguous(x), 0), 1), x)
        full = x if x._counts is None else contiguous(x)
        return unpadded(fn(padded(full, _neutral(name, x.dtype)), 1), full)

    rule(name)(soften)


for _name in ("softmax", "log_softmax", "cumsum"):
    _softmax(_name)


# ---- layers: what is about the last dims of each element

def _by_values(name: str, dims: Callable[..., int]) -> None:
    def layer(x: NestedTensor, *args: Any, **kwargs: Any) -> NestedTensor:
        if not isinstance(x, NestedTensor):
            _refuse(name, "the first argument is the nested tensor")
        if x.dim() - x._ragged_idx <= dims(*args, **kwargs):
            _refuse(name, "not supported along the ragged dimension of a nested tensor")
        return x._with(getattr(F, name)(x._held, *args, **kwargs))

    rule(name)(layer)


_by_values("linear", lambda *args, **kwargs: 1)
_by_values("layer_norm", lambda shape=(), *args, normalized_shape=(), **kwargs: len(
    shape or normalized_shape))
_by_values("rms_norm", lambda shape=(), *args, normalized_shape=(), **kwargs: len(
    shape or normalized_shape))
_by_values("dropout", lambda *args, **kwargs: -1)
_by_values("normalize", lambda *args, **kwargs: 1)
_by_values("glu", lambda *args, **kwargs: 1)


@rule("embedding")
def embedding(x: NestedTensor, weight: Tensor, *args: Any, **kwargs: Any) -> NestedTensor:
    """A row of the table for every element."""
    return x._with(F.embedding(x._held, weight, *args, **kwargs))


@rule("matmul", "__matmul__", "bmm")
def matmul(x: Any, y: Any) -> Any:
    """Products with a matrix, with one matrix for each example, and of two nested tensors over
    their ragged dim."""
    if isinstance(x, NestedTensor) and isinstance(y, NestedTensor):
        if (x._ragged_idx, y._ragged_idx) != (x.dim() - 1, y.dim() - 2) or (
                RaggedSize.of(x._starts) != RaggedSize.of(y._starts)):
            _refuse("matmul", f"not supported between inputs of shapes {tuple(x.shape)} and "
                    f"{tuple(y.shape)}: a ragged dim is summed over, or use "
                    "scaled_dot_product_attention")
        return padded(x, 0).movedim(1, -1) @ padded(y, 0).movedim(1, -2)
    if isinstance(y, NestedTensor):
        _refuse("matmul", "the first factor is the nested tensor")
    if x._ragged_idx == x.dim() - 1:
        _refuse("matmul", f"the ragged dim of {tuple(x.shape)} meets a dense one")
    if y.dim() <= 2:
        return x._with(x._held @ y)
    if x._ragged_idx != 1 or x.dim() != 3:
        _refuse("matmul", f"one matrix for each example of a nested tensor {tuple(x.shape)}")
    return unpadded(padded(x, 0) @ y, x)


@rule("scaled_dot_product_attention")
def attention(query: NestedTensor, key: NestedTensor, value: NestedTensor, attn_mask: Any = None,
              dropout_p: float = 0.0, is_causal: bool = False, scale: Any = None,
              enable_gqa: bool = False) -> NestedTensor:
    """Attention within each example, which has its own numbers of queries and keys; (B, heads,
    ragged, E) each. No masks."""
    for name, t in (("query", query), ("key", key), ("value", value)):
        if not isinstance(t, NestedTensor) or t._ragged_idx != t.dim() - 2:
            _refuse("scaled_dot_product_attention", f"{name} is a nested tensor (B, heads, ragged, "
                    "E), as query, key and value are together; transpose(1, 2) makes it")
    if attn_mask is not None:
        _refuse("scaled_dot_product_attention", "nested tensors need no attn_mask: each example "
                "sees itself only")
    parts = [F.scaled_dot_product_attention(q, k, v, None, dropout_p, is_causal, scale, enable_gqa)
             for q, k, v in zip(unbind(query), unbind(key), unbind(value))]
    return query._with(lampion.cat(parts, query._ragged_idx - 1)) if query._counts is None else (
        contiguous(query)._with(lampion.cat(parts, query._ragged_idx - 1)))


# ---- the same elements in other shapes

def _inner_dim(name: str, x: NestedTensor, dim: int, new: int = 0) -> int:
    """The dim of the values for one of the tensor's that is neither the batch nor ragged."""
    n = x.dim() + new
    d = dim + n if dim < 0 else dim
    if d == 0 or (d == x._ragged_idx and not new):
        _refuse(name, f"not supported for NestedTensor on dim={d}")
    return d - 1


@rule("transpose", "swapaxes", "swapdims")
def transpose(x: NestedTensor, dim0: int, dim1: int) -> NestedTensor:
    """Exchange two dims, of which none is the batch."""
    a, b = x._dim(dim0), x._dim(dim1)
    if a != b and 0 in (a, b):
        raise ValueError("Transpose is not supported on the batch dimension for jagged NT")
    if a == b:
        return x
    at = {a: b, b: a}.get(x._ragged_idx, x._ragged_idx)
    return x._with(x._held.transpose(a - 1, b - 1), at)


@rule("permute")
def permute(x: NestedTensor, *dims: Any) -> NestedTensor:
    """Another order of the dims behind the batch."""
    order = [x._dim(d) for d in (dims[0] if isinstance(dims[0], (tuple, list)) else dims)]
    if order[0] != 0:
        raise ValueError("Permute is not supported on the batch dimension for jagged NT")
    return x._with(x._held.permute([d - 1 for d in order[1:]]), order.index(x._ragged_idx))


@rule("view", "reshape", "expand")
def view(x: NestedTensor, *shape: Any) -> NestedTensor:
    """Another shape: the batch and the ragged dim stay, written as the ragged size or -1."""
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    ragged = [k for k, n in enumerate(sizes) if isinstance(n, RaggedSize)] or [
        k for k, n in enumerate(sizes) if n == -1]
    if not sizes or sizes[0] != len(x) or len(ragged) != 1:
        _refuse("view", f"cannot view shape {tuple(x.shape)} as {sizes}")
    at, before, after = ragged[0], x._held.shape[:x._ragged_idx - 1], x._held.shape[x._ragged_idx:]
    if (math.prod(before), math.prod(after)) != (math.prod(sizes[1:at]), math.prod(sizes[at + 1:])):
        _refuse("view", f"cannot view shape {tuple(x.shape)} as {sizes}")
    held = x._held.shape[x._ragged_idx - 1]
    return x._with(x._held.reshape([*sizes[1:at], held, *sizes[at + 1:]]), at)


@rule("flatten")
def flatten(x: NestedTensor, start_dim: int = 0, end_dim: int = -1) -> NestedTensor:
    """Neighbouring dims as one, on one side of the ragged dim."""
    a, b = x._dim(start_dim), x._dim(end_dim)
    if a == b:
        return x
    if a == 0 or a <= x._ragged_idx <= b:
        _refuse("flatten", f"not supported for NestedTensor on dim={a} to {b}")
    return x._with(x._held.flatten(a - 1, b - 1),
                   x._ragged_idx - (b - a if b < x._ragged_idx else 0))


@rule("unflatten")
def unflatten(x: NestedTensor, dim: int, sizes: Any) -> NestedTensor:
    """A dim as several."""
    d = _inner_dim("unflatten", x, dim)
    more = len(sizes) - 1 if d < x._ragged_idx - 1 else 0
    return x._with(x._held.unflatten(d, sizes), x._ragged_idx + more)


@rule("unsqueeze")
def unsqueeze(x: NestedTensor, dim: int) -> NestedTensor:
    """One more dim, of size 1."""
    d = _inner_dim("unsqueeze", x, dim, new=1)
    return x._with(x._held.unsqueeze(d), x._ragged_idx + (d < x._ragged_idx))


@rule("squeeze")
def squeeze(x: NestedTensor, dim: Any = None) -> NestedTensor:
    """Without a dim of size 1."""
    if dim is None:
        _refuse("squeeze", "name the dim of a nested tensor")
    d = _inner_dim("squeeze", x, dim)
    gone = x._held.shape[d] == 1 and d < x._ragged_idx - 1
    return x._with(x._held.squeeze(d), x._ragged_idx - gone)


def _parts(name: str) -> None:
    def cut(x: NestedTensor, *args: Any, dim: int = 0) -> Any:
        (size, dim) = args if len(args) == 2 else (args[0], dim)
        if name == "chunk" and x._dim(dim) == 0:
            return _examples_in(x, -(-len(x) // size))
        d = _inner_dim(name, x, dim)
        return tuple(map(x._with, getattr(Tensor, name)(x._held, size, d)))

    rule(name)(cut)


def _examples_in(x: NestedTensor, count: int) -> tuple[NestedTensor, ...]:
    """`count` examples at a time."""
    kept = x.unbind()
    out = []
    for first in range(0, len(x), count):
        starts = x._starts[first:first + count + 1]
        if x._counts is None:
            held = x._held.narrow(x._ragged_idx - 1, int(starts[0]), int(starts[-1] - starts[0]))
            out.append(made(held, starts - starts[0], None, x._ragged_idx, x._kind))
        else:
            rows = x._counts[first:first + count]
            begin = lampion.cat([rows.new_zeros(1), rows.cumsum(0)])
            out.append(made(lampion.cat(kept[first:first + count], x._ragged_idx - 1), begin, None,
                            x._ragged_idx, x._kind))
    return tuple(out)


for _name in ("chunk", "split", "tensor_split", "split_with_sizes"):
    _parts(_name)


@rule("select")
def select(x: NestedTensor, dim: int, index: int) -> Any:
    """One example, or one place of an inner dim."""
    if x._dim(dim) == 0:
        return unbind(x)[index]
    d = _inner_dim("select", x, dim)
    return x._with(x._held.select(d, index), x._ragged_idx - (d < x._ragged_idx - 1))


@rule("narrow")
def narrow(x: NestedTensor, dim: int, start: int, length: int) -> NestedTensor:
    """A part of an inner dim."""
    return x._with(x._held.narrow(_inner_dim("narrow", x, dim), start, length))


@rule("__getitem__")
def getitem(x: NestedTensor, key: Any) -> Any:
    """An example, then its elements; or all examples, with indices of the inner dims."""
    items = list(key) if isinstance(key, tuple) else [key]
    if isinstance(items[0], int) or (isinstance(items[0], Tensor) and not items[0].dim()):
        one = unbind(x)[int(items[0])]
        return one[tuple(items[1:])] if len(items) > 1 else one
    if Ellipsis in [k for k in items if k is Ellipsis]:
        at = next(n for n, k in enumerate(items) if k is Ellipsis)
        items[at:at + 1] = [slice(None)] * (x.dim() - len(items) + 1)
    items += [slice(None)] * (x.dim() - len(items))
    for d in (0, x._ragged_idx):
        if items[d] != slice(None):
            _refuse("slice", f"not supported for NestedTensor on dim={d}")
    if not all(isinstance(k, (int, slice)) for k in items):
        _refuse("index", "inner dims of nested tensors take numbers and slices")
    gone = sum(isinstance(k, int) for k in items[:x._ragged_idx])
    return x._with(x._held[tuple(items[1:])], x._ragged_idx - gone)


@rule("__setitem__")
def setitem(x: NestedTensor, key: Any, value: Any) -> None:
    """RuntimeError: examples are written through `unbind()` or `values()`."""
    _refuse("__setitem__", "write to unbind() or to values()")


@rule("cat", "concat", "concatenate")
def cat(tensors: Any, dim: int = 0) -> NestedTensor:
    """Nested tensors of the same offsets side by side."""
    first = next(t for t in tensors if isinstance(t, NestedTensor))
    d = _inner_dim("cat", first, dim)
    parts = []
    for t in tensors:
        if not isinstance(t, NestedTensor) or (
                RaggedSize.of(t._starts) != RaggedSize.of(first._starts)):
            _refuse("cat", "only tensors of the same offsets are joined")
        parts.append(t._held)
    return first._with(lampion.cat(parts, d))


@rule("stack")
def stack(tensors: Any, dim: int = 0) -> NestedTensor:
    """Nested tensors of the same offsets, along a new inner dim."""
    d = _inner_dim("stack", tensors[0], dim, new=1)
    return cat([t.unsqueeze(d + 1) for t in tensors], d + 1)


# ---- other values of the same examples

def _of_values(name: str) -> None:
    def same(x: NestedTensor, *args: Any, **kwargs: Any) -> NestedTensor:
        fn = getattr(lampion, name, None) if name.endswith("_like") else getattr(Tensor, name)
        if kwargs.get("layout") in (L.jagged, x._kind):
            kwargs.pop("layout")
        return _moved(x, fn(x._held, *args, **kwargs))

    rule(name)(same)


def _moved(x: NestedTensor, held: Tensor) -> NestedTensor:
    """The same examples with these values, which may be on another device."""
    if held.device == x._held.device:
        return x._with(held)
    counts = None if x._counts is None else x._counts.to(held.device)
    return made(held, x._starts.to(held.device), counts, x._ragged_idx, x._kind, x._min, x._max)


for _name in ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
              "randint_like", "to", "type", "float", "double", "half", "bfloat16", "long", "int",
              "short", "char", "byte", "bool", "cpu", "pin_memory", "fill_", "zero_",
              "bernoulli_", "normal_", "uniform_"):
    _of_values(_name)


@rule("masked_fill")
def masked_fill(x: NestedTensor, mask: Any, value: Any) -> NestedTensor:
    """`value` where a mask of the same examples is True."""
    return lampion.where(mask, value, x)


@rule("copy_")
def copy_(x: NestedTensor, source: NestedTensor, non_blocking: bool = False) -> NestedTensor:
    """Overwrite the values with those of a tensor of the same sizes."""
    if not isinstance(source, NestedTensor) or source._held.shape != x._held.shape or (
            not source._starts.equal(x._starts)):
        _refuse("copy_", "only nested tensors of the same sizes are copied")
    x._held.copy_(source._held)
    return x


@rule("equal")
def equal(x: Any, y: Any) -> bool:
    """Whether two nested tensors have the same examples."""
    return (isinstance(x, NestedTensor) and isinstance(y, NestedTensor)
            and x._starts.equal(y._starts) and x._held.equal(y._held))


@rule("is_same_size")
def is_same_size(x: Any, y: Any) -> bool:
    """Whether two nested tensors have the same offsets and inner sizes."""
    return isinstance(x, NestedTensor) and isinstance(y, NestedTensor) and x.shape == y.shape
