"""Which kernel ran each op of a call, who offered others, and why they lost.

`explain(fn, *args)` runs the call once with every plan made afresh and records each decision of
`ops.plans.choose` (`deciding` lets others do so, too); nothing of this is in the way of ordinary
calls. Floor 7; imports ops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from lampion.ops import plans, registry

__all__ = ["Candidate", "Choice", "Explanation", "deciding", "explain"]

_one_at_a_time = threading.RLock()


class Candidate(NamedTuple):
    """A kernel that was registered for an op on the device, and what became of it."""

    source: str
    priority: int
    verdict: str


class Choice(NamedTuple):
    """One decision: the call, what runs it, and the registered kernels in order of priority."""

    op: str
    call: str
    chosen: str
    candidates: tuple[Candidate, ...]


class Explanation(list[Choice]):
    """The decisions of a call, in order; printing it gives a text for people."""

    def __str__(self) -> str:
        lines = []
        for choice in self:
            lines.append(f"{choice.call}\n  -> {choice.chosen}")
            for c in choice.candidates:
                lines.append(f"     {c.source}, priority {c.priority}: {c.verdict}")
        return "\n".join(lines) or "no kernel ran"


def explain(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run `fn(*args, **kwargs)` and say which kernel ran each op, and why.

    The result of the call is dropped; what it raises, it raises. Equal calls are told once.

    >>> import lampion
    >>> explain(lampion.add, lampion.ones(3), lampion.ones(3))[0].op
    'add'
    """
    found = Explanation()

    def choose(ordinary: Callable[..., Any], op: Any, call: Any, lower: Any, form: str = "") -> Any:
        launch, chosen = ordinary(op, call, lower, form)
        choice = _describe(op, call, launch, chosen)
        if choice not in found:
            found.append(choice)
        return launch, chosen

    with deciding(choose):
        fn(*args, **kwargs)
    return found


@contextmanager
def deciding(choose: Callable[..., Any]) -> Iterator[None]:
    """Within this, every decision about a kernel is taken afresh, and by `choose(ordinary, op,
    call, lower, form)`, which may ask `ordinary`. What was decided before is in force again
    afterwards, and nothing of what was decided within.
    """
    ordinary = plans.choose
    with _one_at_a_time:
        kept = [(table, dict(table)) for table in _tables()]
        registry.forget_plans()
        plans.choose = partial(choose, ordinary)
        try:
            yield
        finally:
            plans.choose = ordinary
            registry.forget_plans()
            for table, before in kept:
                table.update(before)


def _tables() -> list[dict[Any, Any]]:
    """Every cache of plans, and of what follows from them."""
    return [*(table for op in registry.planned_ops() for table in registry.plan_tables(op)),
            *registry.plan_holders]


def _describe(op: Any, call: Any, launch: Any, chosen: str) -> Choice:
    backend = plans.backend_of(call.device)
    candidates = []
    won = False
    tried = plans.offers(op, backend.name)
    for impl in _in_order(op, backend.name):
        fits = impl.constraint is None or impl.constraint(call)
        if impl not in tried:
            verdict = "switched off by [kernels]"
        elif not fits:
            verdict = "its constraint does not hold"
        elif won:
            verdict = "fits, with a lower priority"
        elif launch is not None and _named(impl, chosen):
            verdict, won = "chosen", True
        else:
            verdict = "its builder declined this call"
        candidates.append(Candidate(impl.source or impl.op, impl.priority, verdict))
    text = chosen if launch is not None else f"no kernel: {chosen}"
    if launch is not None and launch.kernels:
        text += f" [{', '.join(launch.kernels)}]"
    return Choice(op.qualname, str(call), text, tuple(candidates))


def _in_order(op: Any, backend: str) -> list[Any]:
    """Every registered kernel: those that are tried, in that order, then those switched off."""
    tried = list(plans.offers(op, backend))
    return tried + [i for i in registry.kernel_impls(op.qualname, backend) if i not in tried]


def _named(impl: Any, chosen: str) -> bool:
    return chosen == f"kernel {impl.source or impl.op} (priority {impl.priority})"
