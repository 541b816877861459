"""Timing two implementations against each other: interleaved in one process, medians, ratios.

A lone time on a shared machine proves nothing; a ratio of medians of alternating runs does.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One line of a table: seconds a call of ours and of the rival's."""

    name: str
    ours: float
    theirs: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster we are."""
        return self.theirs / self.ours


def repetitions(fn: Callable[[], Any], target: float,
                clock: Callable[[], float] = time.perf_counter) -> int:
    """How many calls take about `target` seconds."""
    fn()
    n = 1
    while True:
        start = clock()
        for _ in range(n):
            fn()
        spent = clock() - start
        if spent > target / 4 or n >= 1 << 20:
            return max(1, int(n * target / max(spent, 1e-9)))
        n *= 4


def versus(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], *, rounds: int = 11,
           target: float = 2e-3, note: str = "",
           clock: Callable[[], float] = time.perf_counter) -> Row:
    """Alternate the two for `rounds` rounds of about `target` seconds each; medians.

    `clock` may be `time.thread_time` where both run in one thread: then a machine that others use
    too disturbs less.
    """
    counts = [repetitions(f, target, clock) for f in (ours, theirs)]
    spent: list[list[float]] = [[], []]
    for _ in range(rounds):
        for k, f in enumerate((ours, theirs)):
            n = counts[k]
            start = clock()
            for _ in range(n):
                f()
            spent[k].append((clock() - start) / n)
    return Row(name, statistics.median(spent[0]), statistics.median(spent[1]), note)


def undisturbed(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], *,
                rounds: int = 31, target: float = 1e-2, rest: float = 0.02) -> Row:
    """Alternate the two for `rounds` rounds of about `target` seconds each; of the times of single
    calls the one that a hundredth of them stay below.

    For two that have several threads each. When another process takes a core, all of a call's
    threads wait for the one that was stopped, and a median tells mostly how often that happened.
    Before each round there is a pause of `rest` seconds: OpenMP's threads spin for milliseconds
    after a call, and would take a core from the other's.
    """
    counts = [repetitions(f, target) for f in (ours, theirs)]
    spent: list[list[float]] = [[], []]
    for _ in range(rounds):
        for k, f in enumerate((ours, theirs)):
            time.sleep(rest)
            for _ in range(counts[k]):
                start = time.perf_counter()
                f()
                spent[k].append(time.perf_counter() - start)
    return Row(name, *(sorted(times)[len(times) // 100] for times in spent))


def geomean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def duration(seconds: float) -> str:
    """A time with three digits and a unit."""
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def table(title: str, rows: Sequence[Row], floor: float,
          names: tuple[str, str] = ("lampion", "torch")) -> str:
    """A Markdown table with the geometric mean; rows under `floor` are marked."""
    ours, theirs = names
    lines = [f"### {title}", "", f"| what | {ours} | {theirs} | {theirs} / {ours} | |",
             "|---|---:|---:|---:|---|"]
    for r in rows:
        mark = r.note if r.ratio >= floor else f"**below {floor:g}** {r.note}"
        lines.append(f"| {r.name} | {duration(r.ours)} | {duration(r.theirs)} | "
                     f"{r.ratio:.2f} | {mark} |")
    mean = geomean([r.ratio for r in rows])
    worst = min(rows, key=lambda r: r.ratio)
    lines += ["", f"Geometric mean **{mean:.2f}x** over {len(rows)}; worst {worst.ratio:.2f}x "
              f"({worst.name}).", ""]
    return "\n".join(lines)
