"""L-BFGS. Floor 7.

Nocedal and Wright, "Numerical Optimization", 2nd edition: the two-loop recursion is algorithm 7.4,
the line search for the strong Wolfe conditions algorithms 3.5 and 3.6 with cubic interpolation
(equation 3.59).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import lampion

from .optimizer import Optimizer

__all__ = ["LBFGS"]

_SUFFICIENT, _CURVATURE = 1e-4, 0.9  # the constants of the Wolfe conditions


class _Point(NamedTuple):
    """A place on the line: step, loss, gradient, and slope of the loss along the line."""

    t: float
    f: float
    g: Any
    slope: float


class LBFGS(Optimizer):
    """Limited-memory BFGS: a quasi-Newton method that calls the closure several times a step.

    All parameters are of one group. The curvature is remembered from the last `history_size`
    changes of parameters and gradient.

    Args:
        params: tensors (real, on one device).
        lr: length of the steps; with a line search, the first that is tried.
        max_iter, max_eval: iterations, and calls of the closure, of one step at most (1.25 times
            max_iter by default).
        tolerance_grad: end where no entry of the gradient is larger.
        tolerance_change: end where neither the loss nor a parameter changes more.
        history_size: changes that are remembered.
        line_search_fn: None, or "strong_wolfe".

    Raises:
        ValueError: for a negative rate or more than one group.

    Example:
        >>> import lampion
        >>> w = lampion.nn.Parameter(lampion.tensor([3.0, -2.0]))
        >>> opt = LBFGS([w], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = ((w - 1) ** 2).sum()
        ...     loss.backward()
        ...     return loss
        >>> float(opt.step(closure)), bool(((w - 1).abs() < 1e-5).all())
        (13.0, True)
    """

    def __init__(self, params: Any, lr: Any = 1, max_iter: int = 20, max_eval: int | None = None,
                 tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9,
                 history_size: int = 100, line_search_fn: str | None = None) -> None:
        if isinstance(lr, lampion.Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn})
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self._params = self.param_groups[0]["params"]

    # ---- parameters as one vector --------------------------------------------------------------

    def _gradient(self) -> Any:
        parts = []
        for p in self._params:
            g = p.new_zeros(p.shape) if p.grad is None else p.grad
            parts.append((lampion.view_as_real(g) if g.is_complex() else g).reshape(-1))
        return lampion.cat(parts)

    def _move(self, t: float, d: Any) -> None:
        at = 0
        for p in self._params:
            real = lampion.view_as_real(p) if p.is_complex() else p
            real.add_(d[at:at + real.numel()].view(real.shape), alpha=t)
            at += real.numel()

    def _evaluate(self, closure: Callable[[], Any], start: list[Any], t: float, d: Any) -> _Point:
        """The loss at `start` + t d; the parameters are at `start` again afterwards."""
        self._move(t, d)
        f = float(closure())
        g = self._gradient()
        for p, x in zip(self._params, start):
            p.copy_(x)
        return _Point(t, f, g, float(g.dot(d)))

    # ---- a step --------------------------------------------------------------------------------

    @lampion.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Up to `max_iter` iterations; returns the loss before them."""
        closure = lampion.enable_grad()(closure)
        group = self.param_groups[0]
        lr, change = float(group["lr"]), group["tolerance_change"]
        search = group["line_search_fn"]
        if search not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")
        state = self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        first = closure()
        loss, evals = float(first), 1
        state["func_evals"] += 1
        g = self._gradient()
        if float(g.abs().max()) <= group["tolerance_grad"]:
            return first
        d, t = state.get("d"), state.get("t")
        before, prev_loss = state.get("prev_flat_grad"), state.get("prev_loss")
        for n in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            if state["n_iter"] == 1:
                d = g.neg()
                state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
                t = min(1.0, 1.0 / float(g.abs().sum())) * lr
            else:
                self._remember(state, g - before, d * t, group["history_size"])
                d = self._direction(state, g)
                t = lr
            before, prev_loss = g.clone(), loss
            slope = float(g.dot(d))
            if slope > -change:
                break
            used = 0
            if search is not None:
                start = [p.clone() for p in self._params]
                found, used = _strong_wolfe(
                    lambda t, d=d, start=start: self._evaluate(closure, start, t, d), t,
                    float(d.abs().max()), _Point(0.0, loss, g, slope), change,
                    group["max_eval"] - evals)
                t, loss, g = found.t, found.f, found.g
                self._move(t, d)
            else:
                self._move(t, d)
                if n != group["max_iter"]:
                    loss, used = float(closure()), 1
                    g = self._gradient()
            evals += used
            state["func_evals"] += used
            if (n == group["max_iter"] or evals >= group["max_eval"]
                    or float(g.abs().max()) <= group["tolerance_grad"]
                    or float((d * t).abs().max()) <= change or abs(loss - prev_loss) < change):
                break
        state.update(d=d, t=t, prev_flat_grad=before, prev_loss=prev_loss)
        return first

    @staticmethod
    def _remember(state: Any, y: Any, s: Any, size: int) -> None:
        """Keep a change s of the parameters and y of the gradient, if the curvature is positive."""
        ys = float(y.dot(s))
        if ys <= 1e-10:
            return
        if len(state["old_dirs"]) == size:
            for name in ("old_dirs", "old_stps", "ro"):
                state[name].pop(0)
        state["old_dirs"].append(y)
        state["old_stps"].append(s)
        state["ro"].append(1.0 / ys)
        state["H_diag"] = ys / float(y.dot(y))

    @staticmethod
    def _direction(state: Any, g: Any) -> Any:
        """Minus the inverse Hessian's estimate times the gradient: the two-loop recursion."""
        pairs = list(zip(state["old_dirs"], state["old_stps"], state["ro"]))
        q, weights = g.neg(), []
        for y, s, ro in reversed(pairs):
            a = float(s.dot(q)) * ro
            weights.append(a)
            q.add_(y, alpha=-a)
        r = q * state["H_diag"]
        for (y, s, ro), a in zip(pairs, reversed(weights)):
            r.add_(s, alpha=a - float(y.dot(r)) * ro)
        return r


def _strong_wolfe(at: Callable[[float], _Point], t: float, size: float, start: _Point,
                  change: float, most: int) -> tuple[_Point, int]:
    """(a point that satisfies the strong Wolfe conditions, or the best one, evaluations).

    `at(t)` evaluates a step, `size` is the largest entry of the direction.
    """
    def too_high(p: _Point) -> bool:
        return p.f > start.f + _SUFFICIENT * p.t * start.slope

    def flat(p: _Point) -> bool:
        return abs(p.slope) <= -_CURVATURE * start.slope

    prev, new, evals, tries = start, at(t), 1, 0
    bracket: list[_Point] | None = None
    while tries < most:
        if too_high(new) or (tries > 1 and new.f >= prev.f):
            bracket = [prev, new]
            break
        if flat(new):
            return new, evals
        if new.slope >= 0:
            bracket = [prev, new]
            break
        lowest, highest = new.t + 0.01 * (new.t - prev.t), new.t * 10
        t = _cubic(prev, new, lowest, highest)
        prev, new = new, at(t)
        evals += 1
        tries += 1
    if bracket is None:  # out of tries
        bracket = [start, new]
    low, high = (0, 1) if bracket[0].f <= bracket[1].f else (1, 0)
    stuck = False
    while tries < most:
        a, b = sorted((bracket[0].t, bracket[1].t))
        if (b - a) * size < change:
            break
        t = _cubic(bracket[0], bracket[1], a, b)
        margin = 0.1 * (b - a)
        if min(b - t, t - a) < margin:  # at an end: twice in a row, move away from it
            if stuck or t >= b or t <= a:
                t = b - margin if abs(t - b) < abs(t - a) else a + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        new = at(t)
        evals += 1
        tries += 1
        if too_high(new) or new.f >= bracket[low].f:
            bracket[high] = new
            low, high = (0, 1) if bracket[0].f <= bracket[1].f else (1, 0)
            continue
        done = flat(new)
        if not done and new.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = new
        if done:
            break
    return bracket[low], evals


def _cubic(p: _Point, q: _Point, lowest: float, highest: float) -> float:
    """Where the cubic through two points and slopes is least, within bounds; the middle of the
    bounds if it has no minimum."""
    a, b = (p, q) if p.t <= q.t else (q, p)
    d1 = a.slope + b.slope - 3 * (a.f - b.f) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (lowest + highest) / 2
    d2 = math.sqrt(square)
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(t, lowest), highest)
