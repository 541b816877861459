"""Gradients against finite differences: `gradcheck`, `gradgradcheck`.

Floor 4; imports api. For every output element (and, if it is complex, its real and imaginary
part) the backward gradient is compared with central differences over all input elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .api import grad
from .state import mode


class GradcheckError(RuntimeError):
    """The gradients of a function do not agree with finite differences."""


def gradcheck(func: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5,
              rtol: float = 1e-3, raise_exception: bool = True, nondet_tol: float = 0.0,
              check_undefined_grad: bool = True, check_grad_dtypes: bool = False,
              check_batched_grad: bool = False, check_batched_forward_grad: bool = False,
              check_forward_ad: bool = False, check_backward_ad: bool = True,
              fast_mode: bool = False, masked: bool | None = None) -> bool:
    """Whether the gradients of `func(*inputs)` agree with central differences of step `eps`.

    Inputs that require gradients should be float64 or complex128. `nondet_tol` bounds how much
    two backward passes may differ. `fast_mode` is accepted; every entry is compared in any case,
    one output at a time, so that the other outputs' gradients are absent.
    GradcheckError (or False, with raise_exception=False) if they disagree; ValueError for inputs
    without requires_grad. `check_forward_ad` compares the tangents of forward mode as well;
    `check_batched_grad` and `check_batched_forward_grad` compare derivatives under vmap with those
    taken one by one.

    >>> import lampion
    >>> x = lampion.randn(3, dtype=lampion.float64, requires_grad=True)
    >>> lampion.autograd.gradcheck(lampion.sin, (x,))
    True
    """
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    try:
        _check_inputs(args)
        if check_backward_ad:
            _check_backward(func, args, eps, atol, rtol, nondet_tol, check_grad_dtypes)
        if check_forward_ad:
            _check_forward(func, args, eps, atol, rtol, check_grad_dtypes)
        if check_batched_grad:
            _check_batched(func, args)
        if check_batched_forward_grad:
            _check_batched_forward(func, args)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(func: Callable[..., Any], inputs: Any, grad_outputs: Any = None, *,
                  eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
                  gen_non_contig_grad_outputs: bool = False, raise_exception: bool = True,
                  nondet_tol: float = 0.0, check_undefined_grad: bool = True,
                  check_grad_dtypes: bool = False, check_batched_grad: bool = False,
                  check_fwd_over_rev: bool = False, check_rev_over_rev: bool = True,
                  fast_mode: bool = False, masked: bool = False) -> bool:
    """Whether the second derivatives of `func` agree with finite differences.

    Differentiates inputs and `grad_outputs` (drawn at random if not given) through the backward
    of `func`; the options are those of `gradcheck`.
    """
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if grad_outputs is None:
        seeds = tuple(_random_like(o, gen_non_contig_grad_outputs)
                      for o in _outputs(func(*args)))
    else:
        seeds = tuple(grad_outputs) if isinstance(grad_outputs, (tuple, list)) else (
            grad_outputs,)
    n = len(seeds)

    def first(*values: Any) -> Any:
        ins, gs = values[:-n], values[-n:]
        wanted = [t for t in ins if _wanted(t)]
        got = grad(_outputs(func(*ins)), wanted, list(gs), create_graph=True, allow_unused=True)
        return tuple(g for g in got if g is not None and g.requires_grad)

    return gradcheck(first, args + seeds, eps=eps, atol=atol, rtol=rtol,
                     raise_exception=raise_exception, nondet_tol=nondet_tol,
                     check_undefined_grad=check_undefined_grad,
                     check_grad_dtypes=check_grad_dtypes, check_forward_ad=check_fwd_over_rev,
                     check_backward_ad=check_rev_over_rev, check_batched_grad=check_batched_grad)


def _wanted(t: Any) -> bool:
    return hasattr(t, "data_") and t.requires_grad


def _outputs(result: Any) -> list[Any]:
    """The differentiable outputs of a call."""
    many = result if isinstance(result, (tuple, list)) else (result,)
    return [t for t in many if hasattr(t, "data_") and t.requires_grad]


def _random_like(t: Any, strided: bool) -> Any:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 1.0, t.shape)
    if t.is_complex():
        values = values + 1j * rng.uniform(0.1, 1.0, t.shape)
    made = t.detach().new_tensor(values.tolist()).reshape(t.shape)
    if strided and made.ndim:
        wide = made.new_zeros((*made.shape, 2))
        wide[..., 0] = made
        made = wide[..., 0]
    return made.detach().requires_grad_()


def _check_inputs(args: Sequence[Any]) -> None:
    if not any(_wanted(t) for t in args):
        raise ValueError("gradcheck expects at least one input tensor to require gradient, but "
                         "none of the them have requires_grad=True.")
    for k, t in enumerate(args):
        if not _wanted(t):
            continue
        if t.meta.dtype.name not in ("float64", "complex128"):
            warnings.warn(f"Input #{k} requires gradient and is not a double precision floating "
                          "point or complex. This check will likely fail if all the inputs are "
                          "not of double precision floating point or complex. ", UserWarning,
                          stacklevel=4)
        if t.meta.overlapping:
            raise RuntimeError(f"The {k}th input has a dimension with stride 0. gradcheck only "
                               "supports inputs that are non-overlapping to be able to compute "
                               "the numerical gradients correctly. You should call .contiguous "
                               "on the input before passing it to gradcheck.")


def _check_backward(func: Any, args: tuple[Any, ...], eps: float, atol: float, rtol: float,
                    nondet_tol: float, dtypes: bool) -> None:
    outs = _outputs(func(*args))
    wanted = [(k, t) for k, t in enumerate(args) if _wanted(t)]
    leaves = [t for _, t in wanted]
    if not outs:
        _check_zero(func, args, wanted, eps)
        return
    analytic = [_analytic(o, leaves, dtypes) for o in outs]
    for o, rows in zip(outs, analytic):
        again = _analytic(o, leaves, False)
        for a, b in zip(rows, again):
            if a.size and float(np.abs(a - b).max()) > nondet_tol:
                raise GradcheckError("Backward is not reentrant, i.e., running backward with same "
                                     "input and grad_output multiple times gives different "
                                     "values, although analytical gradient matches numerical "
                                     f"gradient. The tolerance for nondeterminism was "
                                     f"{nondet_tol}.")
    for j, (k, t) in enumerate(wanted):
        numeric = _numeric(func, args, t, eps)
        for i, o in enumerate(outs):
            a, n = analytic[i][j], _seeded(numeric[i], o.is_complex())
            if not np.allclose(a, n, rtol, atol, equal_nan=True):
                raise GradcheckError(
                    f"Jacobian mismatch for output {i} with respect to input {k},\n"
                    f"numerical:{n.T}\nanalytical:{a.T}\n")


def _check_zero(func: Any, args: tuple[Any, ...], wanted: list[Any], eps: float) -> None:
    """A function without differentiable outputs must not change with its inputs."""
    for k, t in wanted:
        for change in _numeric(func, args, t, eps):
            if change.size and np.abs(change).max() > 0:
                raise GradcheckError(f"Numerical gradient for function expected to be zero, but "
                                     f"it is not, with respect to input {k}")


def _check_forward(func: Any, args: tuple[Any, ...], eps: float, atol: float, rtol: float,
                   dtypes: bool) -> None:
    """The tangent of every output for a unit tangent of every input coordinate."""
    from . import forward_ad

    outs = _outputs(func(*args))
    for j, t in enumerate(args):
        if not _wanted(t):
            continue
        numeric = _numeric(func, args, t, eps)
        steps = [1.0, 1j] if t.is_complex() else [1.0]
        flat = np.zeros(t.numel(), np.complex128 if t.is_complex() else np.float64)
        for row, (k, s) in enumerate((k, s) for k in range(flat.size) for s in steps):
            flat[:] = 0
            flat[k] = s
            v = t.detach().new_tensor(flat.tolist()).reshape(t.shape)
            with forward_ad.dual_level():
                dual = [forward_ad.make_dual(a, v) if i == j else a for i, a in enumerate(args)]
                found = [forward_ad.unpack_dual(o).tangent for o in _outputs(func(*dual))]
                for i, (o, d) in enumerate(zip(outs, found)):
                    _compare_tangent(o, d, numeric[i][row], i, j, atol, rtol, dtypes)


def _seeds(t: Any) -> Any:
    """Two random tensors like `t`, as a batch."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 1.0, (2, *t.shape))
    if t.is_complex():
        values = values + 1j * rng.uniform(0.1, 1.0, values.shape)
    return t.detach().new_tensor(values.tolist()).reshape(2, *t.shape)


def _check_batched(func: Any, args: tuple[Any, ...]) -> None:
    """Gradients for a batch of output gradients, against one after the other."""
    from .api import batched_grad

    leaves = [t for t in args if _wanted(t)]
    for i, o in enumerate(_outputs(func(*args))):
        seeds = _seeds(o)
        got = batched_grad([o], leaves, [seeds], True, False, True)
        want = [grad(o, leaves, seeds[k], retain_graph=True, allow_unused=True) for k in (0, 1)]
        for j, g in enumerate(got):
            _compare_batch(g, [w[j] for w in want], f"gradient of output {i} for input {j}")


def _check_batched_forward(func: Any, args: tuple[Any, ...]) -> None:
    """Tangents for a batch of input tangents, against one after the other."""
    from ..transforms.batching import BatchLevel
    from . import forward_ad

    def tangents(j: int, v: Any) -> list[Any]:
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(a, v) if i == j else a for i, a in enumerate(args)]
            return [forward_ad.unpack_dual(o).tangent for o in _outputs(func(*dual))]

    for j, t in enumerate(args):
        if _wanted(t):
            seeds = _seeds(t)
            with BatchLevel(2) as level:
                got = [o if o is None else level.take(o, 0)
                       for o in tangents(j, level.over(seeds))]
            want = [tangents(j, seeds[k]) for k in (0, 1)]
            for i, g in enumerate(got):
                _compare_batch(g, [w[i] for w in want], f"tangent of output {i} for input {j}")


def _compare_batch(got: Any, want: list[Any], what: str) -> None:
    for k, w in enumerate(want):
        a = np.zeros(()) if got is None else np.asarray(got[k].detach().host())
        b = np.zeros(()) if w is None else np.asarray(w.detach().host())
        if not np.allclose(a, b, 1e-6, 1e-8, equal_nan=True):
            raise GradcheckError(f"vmap: the {what} in a batch differs from the one taken alone")


def _compare_tangent(o: Any, d: Any, n: Any, i: int, j: int, atol: float, rtol: float,
                     dtypes: bool) -> None:
    if d is not None and dtypes and d.dtype is not o.dtype:
        raise GradcheckError("Forward AD does not return tangents of the output's dtype")
    a = np.zeros(n.shape) if d is None else np.asarray(d.detach().host()).ravel()
    if not np.allclose(a, n, rtol, atol, equal_nan=True):
        raise GradcheckError(f"Jacobian computed with forward mode mismatch for output {i} with "
                             f"respect to input {j},\nnumerical:{n}\nanalytical:{a}\n")


def _ones(o: Any) -> Any:
    return o.detach() * 0 + 1


def _analytic(o: Any, leaves: list[Any], dtypes: bool) -> list[Any]:
    """Per input, an array (seeds, input coordinates): each output element gives one seed, or two
    (1 and 1j) if complex; each complex input element has two coordinates."""
    seeds = [1.0, 1j] if o.is_complex() else [1.0]
    rows: list[list[Any]] = [[] for _ in leaves]
    flat = np.zeros(o.numel(), np.complex128 if o.is_complex() else np.float64)
    for k in range(o.numel()):
        for s in seeds:
            flat[:] = 0
            flat[k] = s
            g = o.detach().new_tensor(flat.tolist()).reshape(o.shape)
            got = grad(o, leaves, g, retain_graph=True, allow_unused=True)
            for row, t, x in zip(rows, leaves, got):
                row.append(_coordinates(t, x, dtypes))
    return [np.array(r).reshape(len(r), -1) for r in rows]


def _coordinates(t: Any, g: Any, dtypes: bool) -> Any:
    """A gradient as real numbers."""
    n = t.numel()
    if g is None:
        return np.zeros(2 * n if t.is_complex() else n)
    if dtypes and g.dtype is not t.dtype:
        raise GradcheckError("Backward does not return gradients of the input's dtype")
    if g.shape != t.shape:
        raise GradcheckError("Backward does not return gradients of the input's shape")
    a = np.asarray(g.detach().host()).ravel()
    return np.stack([a.real, a.imag], -1).ravel() if t.is_complex() else a


def _numeric(func: Any, args: tuple[Any, ...], t: Any, eps: float) -> list[Any]:
    """Per output, an array (input coordinates, output elements) of central differences."""
    saved = np.array(t.detach().host(), copy=True)
    flat = saved.ravel()
    steps = [1.0, 1j] if t.is_complex() else [1.0]
    rows: list[list[Any]] = []
    try:
        for k in range(flat.size):
            for s in steps:
                high = _at(func, args, t, flat, k, eps * s)
                low = _at(func, args, t, flat, k, -eps * s)
                rows.append([(h - w) / (2 * eps) for h, w in zip(high, low)])
    finally:
        _write(t, flat)
    count = len(rows[0]) if rows else 0
    if not rows:
        return [np.zeros((0, o.numel())) for o in _outputs(func(*args))]
    return [np.array([r[i] for r in rows]).reshape(len(rows), -1) for i in range(count)]


def _at(func: Any, args: tuple[Any, ...], t: Any, flat: Any, k: int, step: Any) -> list[Any]:
    """The outputs with one element of `t` moved."""
    moved = flat.copy()
    moved[k] += step
    _write(t, moved)
    result = func(*args)
    many = result if isinstance(result, (tuple, list)) else (result,)
    outs = _outputs(result) or [o for o in many if hasattr(o, "data_")]
    return [np.array(o.detach().host(), np.complex128 if o.is_complex() else np.float64).ravel()
            for o in outs]


def _write(t: Any, flat: Any) -> None:
    previous, mode.enabled = mode.enabled, False
    try:
        t.copy_(t.new_tensor(flat.tolist()).reshape(t.shape))
    finally:
        mode.enabled = previous


def _seeded(change: Any, is_complex: bool) -> Any:
    """Central differences (coordinates, elements) as rows by seed: Re(conj(seed) * change)."""
    if not is_complex:
        return np.real(change).T
    return np.stack([change.real.T, change.imag.T], 1).reshape(-1, change.shape[0])


__all__ = ["gradcheck", "gradgradcheck", "GradcheckError"]
