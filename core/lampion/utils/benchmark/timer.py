"""`Timer`: how long a statement takes. Floor 7; imports devices."""

from __future__ import annotations

import enum
import timeit
from collections.abc import Callable
from typing import Any, NoReturn

from ...runtime import devices
from .common import Measurement, TaskSpec, set_torch_threads


class Language(enum.Enum):
    """What statements are written in."""

    PYTHON = 0
    CPP = 1


def timer() -> float:
    """Seconds, after everything that was enqueued on the default device is done."""
    if devices.default_device().type != "cpu":
        devices.synchronize()
    return timeit.default_timer()


class Timer:
    """Measures a statement: with one thread by default, after a warm-up, on devices until the work
    is done.

    >>> from lampion.utils.benchmark import Timer
    >>> m = Timer("x + 1", globals={"x": lampion.ones(4)}).timeit(100)
    >>> m.number_per_run, m.median > 0
    (100, True)
    """

    def __init__(self, stmt: str = "pass", setup: str = "pass", global_setup: str = "",
                 timer: Callable[[], float] = timer, globals: dict[str, Any] | None = None,
                 label: str | None = None, sub_label: str | None = None,
                 description: str | None = None, env: str | None = None, num_threads: int = 1,
                 language: Language | str = Language.PYTHON) -> None:
        if not isinstance(stmt, str):
            raise ValueError("Currently only a `str` stmt is supported.")
        if language not in (Language.PYTHON, "py", "python") or global_setup:
            raise NotImplementedError("Timer: statements are Python; lampion builds no C++")
        import lampion

        names = {"lampion": lampion, "torch": lampion, **(globals or {})}
        self._task_spec = TaskSpec(stmt, setup, global_setup, label, sub_label, description, env,
                                   num_threads)
        self._timer = timeit.Timer(_dedented(stmt), _dedented(setup), timer, names)

    def _time(self, number: int) -> float:
        return max(self._timer.timeit(number), 1e-9)

    def timeit(self, number: int = 1_000_000) -> Measurement:
        """One run of `number` executions, after a shorter one to warm up."""
        with set_torch_threads(self._task_spec.num_threads):
            self._time(max(number // 100, 2))
            return Measurement(number, [self._time(number)], self._task_spec)

    def repeat(self, repeat: int = -1, number: int = -1) -> NoReturn:
        """NotImplementedError: use the other methods, as in PyTorch."""
        raise NotImplementedError("See `Timer.blocked_autorange.`")

    def autorange(self, callback: Any = None) -> NoReturn:
        """NotImplementedError: use `blocked_autorange`, as in PyTorch."""
        raise NotImplementedError("See `Timer.blocked_autorange.`")

    def _block(self, min_run_time: float) -> int:
        """So many executions that reading the clock does not count, and not too long."""
        overhead = min(self._timer.timer() - self._timer.timer() for _ in range(5)) or -1e-7
        number = 1
        while True:
            took = self._time(number)
            if (-overhead / took <= 1e-4 and took >= min_run_time / 1000) or took > min_run_time:
                return number
            number *= 10

    def blocked_autorange(self, callback: Callable[[int, float], NoReturn] | None = None,
                          min_run_time: float = 0.2) -> Measurement:
        """Runs for at least `min_run_time` seconds together, each so long that reading the clock
        does not count."""
        with set_torch_threads(self._task_spec.num_threads):
            number = self._block(min_run_time)
            times, total = [], 0.0
            while total < min_run_time or not times:
                times.append(self._time(number))
                total += times[-1]
                if callback is not None:
                    callback(number, times[-1])
            return Measurement(number, times, self._task_spec)

    def adaptive_autorange(self, threshold: float = 0.1, *, min_run_time: float = 0.01,
                           max_run_time: float = 10.0,
                           callback: Callable[[int, float], NoReturn] | None = None) -> Measurement:
        """Runs until the middle half of them spreads over less than `threshold` of the median, or
        for `max_run_time` seconds."""
        with set_torch_threads(self._task_spec.num_threads):
            number = self._block(0.05)
            times: list[float] = []
            while sum(times) < max_run_time:
                times.append(self._time(number))
                if callback is not None:
                    callback(number, times[-1])
                found = Measurement(number, times, self._task_spec)
                if len(times) > 3 and sum(times) > min_run_time and (
                        found.iqr / found.median < threshold):
                    break
            return Measurement(number, times, self._task_spec)

    def collect_callgrind(self, *args: Any, **kwargs: Any) -> NoReturn:
        """NotImplementedError: instructions are not counted."""
        raise NotImplementedError("collect_callgrind: lampion counts no instructions; use "
                                  "lampion.profiler, or perf")


def _dedented(text: str) -> str:
    import textwrap

    return textwrap.dedent(text).strip() or "pass"
