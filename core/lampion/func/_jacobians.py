"""Jacobians: `jacrev` by rows, `jacfwd` by columns, `hessian` as one over the other.

Floor 7; imports the transforms of this package. A Jacobian is a `vmap` of products with unit
vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..base.dtype import int64
from ..ops.registry import REGISTRY
from ..utils._pytree import tree_flatten, tree_unflatten
from ._arguments import pick, positions, wraps
from ._derivatives import pullback, pushforward
from ._vmap import vmap


def _real(tensors: Sequence[Any], what: str, place: str) -> None:
    for k, t in enumerate(tensors):
        if getattr(t, "meta", None) is not None and t.is_complex():
            raise RuntimeError(f"{what}: Expected all {place} to be real but received complex "
                               f"tensor at flattened input idx: {k}")


def _units(tensors: Sequence[Any], start: int, count: int) -> list[Any]:
    """Rows start... of the identity over all elements of the tensors, cut into their shapes."""
    found, at = [], 0
    arange, zeros = REGISTRY["arange_int"].fn, REGISTRY["full"].fn
    for t in tensors:
        m = t.meta
        rows = zeros((count, m.numel), 0, dtype=m.dtype, device=m.device)
        first, last = max(at, start), min(at + m.numel, start + count)
        if last > first:
            k = arange(last - first, 0, 1, dtype=int64, device=m.device)
            rows[k + (first - start), k + (first - at)] = 1
        found.append(rows.reshape(count, *m.shape))
        at += m.numel
    return found


def jacrev(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False,
           chunk_size: int | None = None) -> Callable[..., Any]:
    """The Jacobian of `func` with respect to the arguments `argnums`, by reverse mode: for every
    output (a tree) the tree of arguments with tensors of shape (*output, *input).

    chunk_size: so many rows at once. With `has_aux`, (Jacobian, aux).

    >>> import lampion
    >>> jacrev(lambda x: x * x)(lampion.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")

    @wraps(func)
    def wrapper(*args: Any) -> Any:
        _real(tree_flatten(args)[0], "jacrev", "inputs")
        output, pull, *aux = pullback(func, args, argnums, has_aux)
        outs, spec = tree_flatten(output)
        _real(outs, "jacrev", "outputs")
        ins, in_spec = tree_flatten(pick(args, positions(argnums, len(args))))
        total = sum(o.numel() for o in outs)
        step = total if chunk_size is None else chunk_size
        columns: list[list[Any]] = [[] for _ in ins]
        for start in range(0, total, max(step, 1)):
            units = _units(outs, start, min(step, total - start))
            got = vmap(pull)(tree_unflatten(units, spec))
            for column, part in zip(columns, tree_flatten(got)[0]):
                column.append(part)
        table = _split(columns, outs, ins, in_spec)
        found = tree_unflatten(table, spec)
        return (found, aux[0]) if has_aux else found

    return wrapper


def _split(columns: list[list[Any]], outs: Sequence[Any], ins: Sequence[Any],
           in_spec: Any) -> list[Any]:
    """Per output the tree of inputs of (*output, *input) from rows by all output elements."""
    cat = REGISTRY["cat"].fn
    whole = [c[0] if len(c) == 1 else cat(c, 0) if c else None for c in columns]
    table, at = [], 0
    for o in outs:
        n = o.numel()
        row = [t.new_zeros((*o.shape, *t.shape)) if w is None
               else w.narrow(0, at, n).reshape(*o.shape, *t.shape) for w, t in zip(whole, ins)]
        table.append(tree_unflatten(row, in_spec))
        at += n
    return table


def jacfwd(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False, *,
           randomness: str = "error") -> Callable[..., Any]:
    """The Jacobian of `func` by forward mode, in the form of `jacrev`; `randomness` as in `vmap`.

    >>> import lampion
    >>> jacfwd(lampion.cumsum)(lampion.tensor([1.0, 2.0]), 0)
    tensor([[1., 0.],
            [1., 1.]])
    """
    @wraps(func)
    def wrapper(*args: Any) -> Any:
        _real(tree_flatten(args)[0], "jacfwd", "inputs")
        ins, in_spec = tree_flatten(pick(args, positions(argnums, len(args))))
        aux: list[Any] = []

        def push(units: Any) -> Any:
            _, tangents, *aux[:] = pushforward(func, args, units, argnums, False, has_aux)
            return tangents

        units = tree_unflatten(_units(ins, 0, sum(t.numel() for t in ins)), in_spec)
        outs, spec = tree_flatten(vmap(push, randomness=randomness)(units))
        _real(outs, "jacfwd", "outputs")
        table = []
        for o in outs:
            at, row = 0, []
            for t in ins:
                part = o.narrow(0, at, t.numel()).movedim(0, -1)
                row.append(part.reshape(*o.shape[1:], *t.shape))
                at += t.numel()
            table.append(tree_unflatten(row, in_spec))
        found = tree_unflatten(table, spec)
        return (found, aux[0]) if has_aux else found

    return wrapper


def hessian(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The Hessian of `func`, by forward mode over reverse mode.

    >>> import lampion
    >>> hessian(lambda x: (x ** 3).sum())(lampion.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    return jacfwd(jacrev(func, argnums), argnums)

