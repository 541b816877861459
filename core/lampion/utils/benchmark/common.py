"""What was measured and how. Floor 7; imports threads."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...runtime.threads import get_num_threads, set_num_threads

_UNITS = {"ns": (1e-9, "nanosecond"), "us": (1e-6, "microsecond"), "ms": (1e-3, "millisecond"),
          "s": (1.0, "second")}
_WORTH_SAYING, _SUSPICIOUS, _BAD = 0.1, 0.25, 0.5  # spread over median


@dataclass(init=True, repr=False, eq=True, frozen=True)
class TaskSpec:
    """What is measured: the statement, and the words it is shown under."""

    stmt: str
    setup: str
    global_setup: str = ""
    label: str | None = None
    sub_label: str | None = None
    description: str | None = None
    env: str | None = None
    num_threads: int = 1

    @property
    def title(self) -> str:
        """The words that name the task."""
        if self.label is not None:
            return self.label + (f": {self.sub_label}" if self.sub_label else "")
        if "\n" not in self.stmt:
            return self.stmt + (f": {self.sub_label}" if self.sub_label else "")
        return f"stmt:{' (' + self.sub_label + ')' if self.sub_label else ''}\n{self.stmt}"

    def setup_str(self) -> str:
        """The setup, if there is one."""
        return "" if self.setup in ("", "pass") else f"setup: {self.setup}"

    def summarize(self) -> str:
        """The title, the setup and the threads, in lines."""
        parts = [self.title, self.description or "", self.setup_str(),
                 f"{self.num_threads} thread{'s' * (self.num_threads > 1)}"]
        return "\n".join(p for p in parts if p)


@dataclass(repr=False)
class Measurement:
    """Seconds that runs took: `raw_times` of `number_per_run` executions each."""

    number_per_run: int
    raw_times: list[float]
    task_spec: TaskSpec
    metadata: dict[Any, Any] | None = None

    def __getattr__(self, name: str) -> Any:  # the task's words
        if name in ("stmt", "setup", "label", "sub_label", "description", "env", "num_threads",
                    "title"):
            return getattr(self.task_spec, name)
        raise AttributeError(name)

    @property
    def times(self) -> list[float]:
        """Seconds of one execution, of each run."""
        return [t / self.number_per_run for t in self.raw_times]

    def _some(self) -> list[float]:
        if not self.raw_times:
            raise ValueError("a measurement without runs")
        return self.times

    @property
    def median(self) -> float:
        """The median of one execution, in seconds."""
        return statistics.median(self._some())

    @property
    def mean(self) -> float:
        """The mean of one execution, in seconds."""
        return statistics.fmean(self._some())

    @property
    def iqr(self) -> float:
        """The range of the middle half of the runs."""
        times = sorted(self._some())

        def quantile(q: float) -> float:
            at = q * (len(times) - 1)
            low = math.floor(at)
            high = min(low + 1, len(times) - 1)
            return times[low] + (times[high] - times[low]) * (at - low)

        return quantile(0.75) - quantile(0.25)

    @property
    def significant_figures(self) -> int:
        """How many figures of the median the spread leaves meaningful: an interval of two standard
        errors, the deviation taken from the middle half as of a normal distribution."""
        count = len(self._some())
        interval = 2.0 * (self.iqr / 1.349) / math.sqrt(count)
        if not interval or not self.median:
            return 5
        return max(1, min(5, math.floor(math.log10(self.median / interval)) + 1))

    @property
    def has_warnings(self) -> bool:
        """Whether the spread is large."""
        return self.iqr / self.median > _SUSPICIOUS if self.median else False

    @property
    def as_row_name(self) -> str:
        """The name of its row in a table."""
        return self.sub_label or self.stmt or "[Unknown]"

    @staticmethod
    def merge(measurements: Iterable[Measurement]) -> list[Measurement]:
        """Those of the same task as one each."""
        found: dict[TaskSpec, list[Measurement]] = {}
        for m in measurements:
            found.setdefault(m.task_spec, []).append(m)
        out = []
        for task, group in found.items():
            count = group[0].number_per_run
            times = [t if m.number_per_run == count else t * count / m.number_per_run
                     for m in group for t in m.raw_times]
            out.append(Measurement(count, times, task))
        return out

    def __repr__(self) -> str:
        unit, scale = select_unit(self.median)
        lines = [f"<{__name__}.Measurement object at {id(self):#x}>", self.task_spec.summarize()]
        if len(self.raw_times) == 1:
            lines.append(f"  {self.median / scale:.2f} {unit}\n  1 measurement, "
                         f"{self.number_per_run} runs , {self.num_threads} thread"
                         f"{'s' * (self.num_threads > 1)}")
            return "\n".join(lines)
        lines.append(f"  Median: {self.median / scale:.2f} {unit}")
        spread = self.iqr / self.median if self.median else 0.0
        if spread > _WORTH_SAYING:
            lines.append(f"  IQR:    {self.iqr / scale:.2f} {unit}")
        lines.append(f"  {len(self.raw_times)} measurements, {self.number_per_run} runs per "
                     f"measurement, {self.num_threads} thread{'s' * (self.num_threads > 1)}")
        if spread > _SUSPICIOUS:
            lines.append(f"  WARNING: Interquartile range is {100 * spread:.1f}% of the median. "
                         "This " + ("suggests significant environmental influence." if spread > _BAD
                                    else "could indicate system fluctuation."))
        return "\n".join(lines)


def select_unit(t: float) -> tuple[str, float]:
    """(name, seconds) of the unit in which a time is written.

    >>> select_unit(2.5e-5)
    ('us', 1e-06)
    """
    if t <= 0:
        return "ns", 1e-9
    unit = ("ns", "us", "ms", "s")[max(0, min(3, (math.floor(math.log10(t)) // 3) + 3))]
    return unit, _UNITS[unit][0]


def unit_to_english(u: str) -> str:
    """The name of a unit in words."""
    return _UNITS[u][1]


def trim_sigfig(x: float, n: int) -> float:
    """A number with n significant figures.

    >>> trim_sigfig(1234.5, 2)
    1200.0
    """
    if x == 0:
        return 0.0
    scale = 10 ** (math.floor(math.log10(abs(x))) + 1 - n)
    return float(round(x / scale) * scale)


def ordered_unique(elements: Iterable[Any]) -> list[Any]:
    """The elements, each once, in the order in which they come."""
    return list(dict.fromkeys(elements))


@contextlib.contextmanager
def set_torch_threads(n: int) -> Iterator[None]:
    """A block with this number of threads."""
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
