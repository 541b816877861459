"""Who watches every launch of a thread in order to repeat it: the compiler's traces.

Floor 2; imports nothing. `active` holds the trace that is going on, if there is one. The slow paths
of calls tell it what they launch and what they allocate; whoever does something that a list of
launches cannot repeat tells it so (`fail`), or asks to be called again in every later run
(`host_call`). Fast paths do not look: while a trace goes on, every call takes the slow path.

`changes` counts what compiled programs took for granted: attributes of modules, which memory a
tensor shows, hooks of all modules. Comparing two numbers tells that nothing of the kind happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Tracer(Protocol):
    """What a trace is told, by its own thread or another (which it then ignores). Inherited,
    `item`, `part` and `check` leave things to the caller."""

    def ran(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """A plan was launched on storages and numbers; these storages were made or written."""

    def made(self, storage: Any) -> None:
        """A storage was allocated; its bytes are undefined."""

    def drew(self, generator: Any, first: int, groups: int) -> None:
        """Numbers were reserved in the stream of a generator."""

    def grad_read(self, leaf: Any) -> None:
        """The gradient of a leaf (its node) is about to be used."""

    def grad_cleared(self, leaf: Any) -> None:
        """The gradient of a leaf (its node) is about to be replaced, whatever it was."""

    def fail(self, reason: str) -> None:
        """What happens now cannot be repeated."""

    def part(self) -> None:
        """What follows is not to be replaced by what came before."""

    def item(self, t: Any) -> Any:
        """The number in a tensor, if the trace's function does nothing but return it, or None."""

    def original(self, t: Any, what: str) -> Any:
        """The tensor that the caller gave for `t`, if it is an argument: somebody looks at what
        its meta does not tell."""
        return t

    def sizes(self, row: Sequence[int]) -> Sequence[int]:
        """A tensor's sizes or strides, that somebody looks at."""
        return row

    def decided(self, name: str, a: int, b: int) -> None:
        """An op decides by a comparison, quotient or remainder of sizes."""

    def viewed(self, plan: Any) -> None:
        """A view was made by this plan."""

    def length(self, n: int) -> None:
        """Somebody asks for the length of a tensor, as Python's own number."""

    def check(self, bad: Any, error: Exception) -> bool:
        """Whether it looks, now and in every later run, if an element of a bool tensor is true,
        and raises the error then."""

    def host_call(self, function: Callable[..., Any], args: Sequence[Any],
                  kwargs: dict[str, Any]) -> Any:
        """Call a function now and in every later run, at this point."""


class Seen(int):
    """A size that a trace handed to the user's code."""


active: list[Tracer] = []
changes = {"modules": 0, "tensors": 0, "hooks": 0}


def fail(reason: str) -> None:
    """Tell the trace that goes on, if there is one, that it cannot be repeated."""
    if active:
        active[-1].fail(reason)


def original(t: Any, what: str) -> Any:
    """The tensor whose property `what`, beyond shape and dtype, is asked for: `t`, or what a trace
    put it in the place of."""
    return active[-1].original(t, what) if active else t


def decided(name: str, a: int, b: int) -> None:
    """Tell the trace that an op decides by a size: by name(a, b), a function of `operator`. (What
    follows from metas by itself, it knows.)"""
    if active:
        active[-1].decided(name, a, b)


def part() -> None:
    """Tell the trace that what follows is computed anew on purpose: what was computed before shall
    not be kept for it."""
    if active:
        active[-1].part()


def refuse(bad: Any, error: Exception) -> None:
    """Raise `error` if any element of a bool tensor is true. While a trace goes on, it is told:
    later runs look again, after their work."""
    if not (active and active[-1].check(bad, error)) and bad.any().item():
        raise error


__all__ = ["Tracer", "Seen", "active", "changes", "decided", "fail", "original", "part", "refuse"]
