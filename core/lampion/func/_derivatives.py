"""Derivatives of functions: `grad`, `vjp`, `jvp`, `linearize`.

Floor 7; imports transforms, autograd, utils. Reverse mode runs on the graph of the innermost level
(see transforms/levels.py) from starting points of its own, so that what a derivative knows of
outer derivatives is just what the values themselves know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.api import grad as gradients
from ..autograd.modes import enable_grad
from ..autograd.node import zeros
from ..autograd.state import mode
from ..tensor import Tensor
from ..transforms import levels as L
from ..transforms.tangents import DualLevel
from ..utils._pytree import tree_flatten, tree_map, tree_unflatten
from ._arguments import only_tensors, outputs, pick, positions, replaced, with_aux, wraps


class Tape:
    """Reverse mode from given tensors, within one level."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        self.level = L.stack.levels[-1] if L.stack.levels else None
        self.tensors = list(tensors)
        for t in tensors:
            if not isinstance(t, Tensor):
                raise ValueError(f"Thing passed to transform API must be Tensor, got {type(t)}")
        L.highest(tensors)
        self.starts = [L.leaf(t, self.level) for t in tensors]
        self.own = [t.node for t in self.starts]

    def depends(self, t: Any) -> bool:
        """Whether `t` has a history in the tape's graph."""
        return t.node is not None and (self.level is None or L.owner(t) is self.level)

    def recorded(self, outs: Sequence[Any], seeds: Sequence[Any]) -> bool:
        """Whether derivatives of derivatives may be asked for, by what is outside of the tape."""
        return self.level is not None or any(
            t is not None and L.tracked(t) for t in seeds) or L.depends(
            [t.node for t in outs], self.own)

    def gradients(self, outs: Sequence[Any], seeds: Sequence[Any] | None, retain: bool,
                  create: bool) -> list[Any]:
        """The gradients of `outs` at the tape's tensors; zeros where there is no dependence."""
        pairs = [(o, None if seeds is None else seeds[k]) for k, o in enumerate(outs)
                 if self.depends(o)]
        got: Sequence[Any] = [None] * len(self.starts)
        if pairs:
            create = create and self.recorded([o for o, _ in pairs], [s for _, s in pairs])
            got = gradients([o for o, _ in pairs], self.starts,
                            None if seeds is None else [s for _, s in pairs],
                            retain_graph=retain or create, create_graph=create,
                            allow_unused=True)
        return [self.zeros(t) if g is None else self.out(g) for t, g in zip(self.tensors, got)]

    def zeros(self, t: Any) -> Any:
        """The gradient of what does not depend on `t`."""
        return zeros(t.meta.plain)

    def out(self, t: Any) -> Any:
        """A result as the caller gets it: without the tape's part of its history, if that is all
        of it."""
        if not isinstance(t, Tensor) or not L.tracked(t):
            return t
        return L.trimmed(t, self.own, self.level) if mode.enabled else L.bare(t)


def grad_and_value(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0,
                   has_aux: bool = False) -> Callable[..., Any]:
    """A function like `func` that returns (gradient, value), or (gradient, (value, aux)).

    See `grad`.

    >>> import lampion
    >>> grad_and_value(lambda x: x * x)(lampion.tensor(3.0))
    (tensor(6.), tensor(9.))
    """
    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outer = mode.enabled
        at = positions(argnums, len(args))
        flat, spec = tree_flatten(pick(args, at))
        aux = None
        with enable_grad():
            tape = Tape(flat)
            output = func(*replaced(args, at, tree_unflatten(tape.starts, spec)), **kwargs)
            if has_aux:
                output, aux = with_aux(output, "grad_and_value(f)(*args)")
            if not isinstance(output, Tensor):
                raise RuntimeError("grad_and_value(f)(*args): Expected f(*args) to return a "
                                   f"Tensor, got {type(output)}")
            if output.dim() != 0:
                raise RuntimeError(
                    "grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got "
                    f"tensor with {output.dim()} dims. Maybe you wanted to use the vjp or jacrev "
                    "APIs instead?")
            mode.enabled = outer
            found = tree_unflatten(tape.gradients([output], None, False, outer), spec)
            output, aux = tape.out(output), tree_map(tape.out, aux)
        return (found, (output, aux)) if has_aux else (found, output)

    return wrapper


def grad(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0,
         has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of `func` with respect to the arguments `argnums`
    (tensors, or trees of tensors); with `has_aux`, (gradient, aux) of a func that returns
    (output, aux).

    `func` must return a tensor of one element without dims; RuntimeError otherwise.

    >>> import lampion
    >>> grad(grad(lambda x: x ** 3))(lampion.tensor(2.0))
    tensor(12.)
    """
    both = grad_and_value(func, argnums, has_aux)

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return wrapper


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), a function from cotangents to vector-Jacobian products[, aux]).

    The function returns one gradient for each primal, a tuple if there are several. RuntimeError
    for outputs that are no floating or complex tensors, and for cotangents of another structure.

    >>> import lampion
    >>> y, pull = vjp(lambda x: x * x, lampion.tensor([1.0, 3.0]))
    >>> pull(lampion.tensor([1.0, 10.0]))
    (tensor([ 2., 60.]),)
    """
    return pullback(func, primals, None, has_aux)


def pullback(func: Callable[..., Any], primals: tuple[Any, ...], argnums: Any,
             has_aux: bool) -> Any:
    """`vjp` with respect to the arguments `argnums` (None: all, as a tuple)."""
    at = tuple(range(len(primals))) if argnums is None else positions(argnums, len(primals))
    flat, spec = tree_flatten(pick(primals, at))
    aux = None
    outer = mode.enabled
    with enable_grad():
        tape = Tape(flat)
        result = func(*replaced(primals, at, tree_unflatten(tape.starts, spec)))
        if has_aux:
            result, aux = with_aux(result, "vjp(f, *primals)")
        outs, out_spec = tree_flatten(result)
        outputs(outs, "vjp(f, *primals)")
        for o in outs:
            if o.meta.dtype.kind not in "fc":
                raise RuntimeError("vjp(f, ...): All outputs of f must be floating-point or "
                                   f"complex Tensors, got Tensor with dtype {o.dtype}")
        mode.enabled = outer
        shown, aux = [tape.out(o) for o in outs], tree_map(tape.out, aux)

    def pull(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        given, given_spec = tree_flatten(cotangents)
        if given_spec != out_spec:
            raise RuntimeError("Expected pytree structure of cotangents to be the same as pytree "
                               f"structure of outputs to the function. cotangents: {given_spec}, "
                               f"primal output: {out_spec}")
        create = mode.enabled if create_graph is None else create_graph
        return tree_unflatten(tape.gradients(outs, given, retain_graph, create), spec)

    shown = tree_unflatten(shown, out_spec)
    return (shown, pull, aux) if has_aux else (shown, pull)


_JVP = "jvp(f, primals, tangents)"


def jvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False,
        has_aux: bool = False) -> Any:
    """(func(*primals), the Jacobian of func times `tangents`[, aux]), by forward mode.

    `tangents` has the structure of the tuple `primals`. With `strict`, outputs that do not depend
    on the inputs are a RuntimeError.

    >>> import lampion
    >>> jvp(lampion.sin, (lampion.tensor(0.0),), (lampion.tensor(2.0),))
    (tensor(0.), tensor(2.))
    """
    if not isinstance(primals, tuple):
        raise RuntimeError(f"{_JVP}: Expected primals to be a tuple. E.g. it should be valid to "
                           "call f(*primals).")
    return pushforward(func, primals, tangents, None, strict, has_aux)


def pushforward(func: Callable[..., Any], primals: tuple[Any, ...], tangents: Any, argnums: Any,
                strict: bool, has_aux: bool) -> Any:
    """`jvp` with respect to the arguments `argnums` (None: all, as a tuple)."""
    at = tuple(range(len(primals))) if argnums is None else positions(argnums, len(primals))
    flat, spec = tree_flatten(pick(primals, at))
    given, given_spec = tree_flatten(tangents)
    if spec != given_spec:
        raise RuntimeError(f"{_JVP}: Expected primals and tangents to have the same python "
                           "structure. For example, if primals is a tuple of 3 tensors, tangents "
                           f"also must be. Got primals with structure {spec} and tangents with "
                           f"structure {given_spec}")
    only_tensors(flat, _JVP, "primals")
    only_tensors(given, _JVP, "tangents")
    for p, t in zip(flat, given):
        if p.meta.shape != t.meta.shape or p.meta.dtype is not t.meta.dtype:
            raise RuntimeError(f"{_JVP}: a tangent must have the shape and dtype of its primal, "
                               f"{list(p.shape)} {p.dtype}, but got {list(t.shape)} {t.dtype}")
    aux = None
    with DualLevel() as level:
        duals = tree_unflatten([level.dual(p, t) for p, t in zip(flat, given)], spec)
        result = func(*replaced(primals, at, duals))
        if has_aux:
            result, aux = with_aux(result, _JVP)
            aux = tree_map(lambda t: level.parts(t)[0] if isinstance(t, Tensor) else t, aux)
        outs, out_spec = tree_flatten(result)
        outputs(outs, _JVP)
        pairs = []
        for o in outs:
            primal, tangent = level.parts(o)
            if tangent is None:
                if strict:
                    raise RuntimeError("jvp(f, primals, tangents, strict=True): The output of f is "
                                       "independent of the inputs. This is not allowed with "
                                       "strict=True.")
                tangent = zeros(primal.meta.plain)
            pairs.append((primal, tangent))
    found = tuple(tree_unflatten([p[k] for p in pairs], out_spec) for k in (0, 1))
    return (*found, aux) if has_aux else found


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """(func(*primals), the linear function tangents -> Jacobian times tangents).

    The function is differentiated once; calls of the result repeat none of its work. RuntimeError
    for tangents that do not fit the primals.

    >>> import lampion
    >>> y, push = linearize(lambda x: x * x, lampion.tensor(3.0))
    >>> push(lampion.tensor(1.0)), push(lampion.tensor(10.0))
    (tensor(6.), tensor(60.))
    """
    flat, spec = tree_flatten(primals)
    with enable_grad():
        tape = Tape(flat)
        outs, out_spec = tree_flatten(func(*tree_unflatten(tape.starts, spec)))
        outputs(outs, "linearize(f, *primals)")
        live = [o for o in outs if tape.depends(o) and o.meta.dtype.kind in "fc"]
        seeds = Tape([zeros(o.meta.plain) for o in live])
        first = gradients(live, tape.starts, seeds.starts, create_graph=True,
                          allow_unused=True) if live else [None] * len(flat)
    own = [*tape.own, *seeds.own]
    order = {id(o): k for k, o in enumerate(live)}

    def push(*tangents: Any) -> Any:
        given, given_spec = tree_flatten(tangents)
        if given_spec != spec:
            raise RuntimeError(f"Expected the tangents {given_spec} to have the same argspec as "
                               f"the primals {spec}")
        for k, (p, t) in enumerate(zip(flat, given)):
            for what, a, b in (("shape", t.shape, p.shape), ("device", t.device, p.device),
                               ("dtype", t.dtype, p.dtype)):
                if a != b:
                    raise RuntimeError(f"tangent:{k} with {what} {a} in flattened pytree doesn't "
                                       f"match the {what} {b} of the corresponding primal.")
        pairs = [(g, t) for g, t in zip(first, given) if g is not None and seeds.depends(g)]
        got: Sequence[Any] = [None] * len(live)
        if pairs:
            create = mode.enabled and (tape.level is not None or any(L.tracked(t) for _, t in pairs)
                                       or L.depends([g.node for g, _ in pairs], own))
            got = gradients([g for g, _ in pairs], seeds.starts, [t for _, t in pairs],
                            retain_graph=True, create_graph=create, allow_unused=True)
        found = []
        for o in outs:
            t = got[order[id(o)]] if id(o) in order else None
            found.append(zeros(o.meta.plain) if t is None else L.trimmed(t, own, tape.level))
        return tree_unflatten(found, out_spec)

    return tree_unflatten([tape.out(o) for o in outs], out_spec), push
