"""`vmap`: a function of one example over batches.

Floor 7; imports transforms, utils.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ops.registry import REGISTRY
from ..tensor import Tensor
from ..transforms.batching import BatchLevel
from ..utils._pytree import tree_flatten, tree_leaves, tree_structure, tree_unflatten
from ._arguments import name_of, spread, wraps


def vmap(func: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error",
         *, chunk_size: int | None = None) -> Callable[..., Any]:
    """A function that maps `func` over a dim of its tensor arguments.

    in_dims: the dim of each argument that is mapped over, or None to hand it over whole; an int
    for all, or a tree that is a prefix of the arguments. out_dims: where the batch goes in the
    results. randomness: whether random functions inside are an "error", or draw the "same" or
    "different" numbers for the examples. chunk_size: run at most so many examples at once.

    ValueError for dims that do not fit the arguments or differ in size; RuntimeError for what a
    batch cannot do: control flow by values, results whose shape depends on values.

    >>> import lampion
    >>> vmap(lampion.dot)(lampion.ones(3, 2), lampion.arange(6.0).reshape(3, 2))
    tensor([1., 5., 9.])
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError("Only allowed values for randomness are 'error', 'different', or "
                           f"'same'. Got {randomness}")
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call(func, in_dims, out_dims, args)
        if chunk_size is None or chunk_size >= call.size:
            return call.run(call.flat, call.size, randomness, kwargs)
        return call.in_chunks(chunk_size, randomness, kwargs)

    return wrapper


class _Call:
    """One call of a mapped function: its flat arguments and their dims."""

    def __init__(self, func: Callable[..., Any], in_dims: Any, out_dims: Any,
                 args: tuple[Any, ...]) -> None:
        name = name_of(func)
        self.what = f"vmap({name}, in_dims={in_dims}, ...)(<inputs>)"
        self.func, self.out_dims, self.name = func, out_dims, name
        if not isinstance(in_dims, (int, tuple)):
            raise ValueError(f"{self.what}: expected `in_dims` to be int or a (potentially nested) "
                             f"tuple matching the structure of inputs, got: {type(in_dims)}.")
        if not args:
            raise ValueError(f"vmap({name})(<inputs>): got no inputs. Maybe you forgot to add "
                             "inputs, or you are trying to vmap over a function with no inputs. "
                             "The latter is unsupported.")
        self.flat, self.spec = tree_flatten(args)
        dims = spread(in_dims, self.spec)
        if dims is None:
            raise ValueError(f"{self.what}: in_dims is not compatible with the structure of "
                             f"`inputs`. in_dims has structure {tree_structure(in_dims)} but "
                             f"inputs has structure {self.spec}.")
        self.dims = [self.checked(t, d) for t, d in zip(self.flat, dims)]
        sizes = [t.shape[d] for t, d in zip(self.flat, self.dims) if d is not None]
        if not sizes:
            raise ValueError("vmap: Expected at least one Tensor to vmap over")
        if any(n != sizes[0] for n in sizes):
            raise ValueError("vmap: Expected all tensors to have the same size in the mapped "
                             f"dimension, got sizes {sizes} for the mapped dimension")
        self.size = sizes[0]

    def checked(self, t: Any, d: Any) -> Any:
        """A dim in range."""
        if d is None:
            return None
        if not isinstance(d, int):
            raise ValueError(f"{self.what}: Got in_dim={d} for an input but in_dim must be either "
                             "an integer dimension or None.")
        if not isinstance(t, Tensor):
            raise ValueError(f"{self.what}: Got in_dim={d} for an input but the input is of type "
                             f"{type(t)}. We cannot vmap over non-Tensor arguments, please use "
                             "None as the respective in_dim")
        n = t.dim()
        if not -n <= d < n:
            raise ValueError(f"{self.what}: Got in_dim={d} for some input, but that input is a "
                             f"Tensor of dimensionality {n} so expected in_dim to satisfy -{n} <= "
                             f"in_dim < {n}.")
        return d % n

    def run(self, flat: list[Any], size: int, randomness: str, kwargs: dict[str, Any]) -> Any:
        """The function over one batch."""
        with BatchLevel(size, randomness) as level:
            args = [level.put(t, d) for t, d in zip(flat, self.dims)]
            result = self.func(*tree_unflatten(args, self.spec), **kwargs)
            outs, spec = tree_flatten(result)
            dims = self.results(spec)
            return tree_unflatten([self.taken(level, t, d) for t, d in zip(outs, dims)], spec)

    def results(self, spec: Any) -> list[Any]:
        """The dim of every result."""
        where = f"vmap({self.name}, ..., out_dims={self.out_dims})"
        for d in tree_leaves(self.out_dims):
            if d is not None and not isinstance(d, int):
                raise ValueError(f"{where}: `out_dims` must be an int, None or a python collection "
                                 "of ints representing where in the outputs the vmapped dimension "
                                 "should appear.")
        given = self.out_dims
        if isinstance(given, tuple) and len(given) == 1 and spec.num_leaves == 1 \
                and spec.type is None:
            given = given[0]
        dims = spread(given, spec)
        if dims is None:
            raise ValueError(f"{where}(<inputs>): out_dims is not compatible with the structure of "
                             f"`outputs`. out_dims has structure {tree_structure(given)} but "
                             f"outputs has structure {spec}.")
        return dims

    def taken(self, level: BatchLevel, t: Any, d: int | None) -> Any:
        """A result with the batch at `d`."""
        if d is None:
            if isinstance(t, Tensor):
                value, batched = level.parts(t)
                if batched:
                    raise ValueError(f"vmap({self.name}, ...): `{self.name}` can not return a "
                                     "BatchedTensor when out_dim is None")
                return value
            return t
        if not isinstance(t, Tensor):
            raise ValueError(f"vmap({self.name}, ...): `{self.name}` must only return Tensors, got "
                             f"type {type(t)}. Did you mean to set out_dims= to None for output?")
        return level.take(t, d)

    def in_chunks(self, chunk: int, randomness: str, kwargs: dict[str, Any]) -> Any:
        """Batch by batch of at most `chunk` examples; the results are joined."""
        parts = []
        for start in range(0, self.size, chunk):
            n = min(chunk, self.size - start)
            flat = [t if d is None else t.narrow(d, start, n)
                    for t, d in zip(self.flat, self.dims)]
            parts.append(tree_flatten(self.run(flat, n, randomness, kwargs)))
        spec = parts[0][1]
        cat = REGISTRY["cat"].fn
        joined = [column[0] if d is None else cat(list(column), d)
                  for d, column in zip(self.results(spec), zip(*[p for p, _ in parts]))]
        return tree_unflatten(joined, spec)
