"""`Compare`: measurements as tables. Floor 7; imports the measurements."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

from .common import Measurement, ordered_unique, select_unit, trim_sigfig, unit_to_english


class Colorize(enum.Enum):
    """Which cells are compared by colours."""

    NONE = "none"
    COLUMNWISE = "columnwise"
    ROWWISE = "rowwise"


_COLOURS = ((1.2, "\033[92m"), (2.0, ""), (float("inf"), "\033[91m"))  # good, fair, slow
_END = "\033[0m"


class Compare:
    """Measurements in tables: one for each label, a row for each sub-label and number of threads, a
    column for each description.

    >>> from lampion.utils.benchmark import Compare, Timer
    >>> m = Timer("1 + 1", label="sums", sub_label="small", description="ints").timeit(100)
    >>> print(Compare([m]))  # doctest: +ELLIPSIS
    [--- sums ---]
                 |...
    """

    def __init__(self, results: Iterable[Measurement]) -> None:
        self._results: list[Measurement] = []
        self.extend_results(results)
        self._trim = self._warn = False
        self._colour = Colorize.NONE

    def extend_results(self, results: Iterable[Measurement]) -> None:
        """More measurements. ValueError for what is none."""
        results = list(results)
        for r in results:
            if not isinstance(r, Measurement):
                raise ValueError("Expected an instance of `Measurement`, but got "
                                 f"{type(r)} instead.")
        self._results += results

    def trim_significant_figures(self) -> None:
        """Show as many figures as the spread leaves meaningful."""
        self._trim = True

    def colorize(self, rowwise: bool = False) -> None:
        """Compare the cells of a column, or of a row, by colours."""
        self._colour = Colorize.ROWWISE if rowwise else Colorize.COLUMNWISE

    def highlight_warnings(self) -> None:
        """Mark measurements with a large spread by (! XX%)."""
        self._warn = True

    def print(self) -> None:
        """Print the tables."""
        print(str(self))

    def __str__(self) -> str:
        merged = Measurement.merge(self._results)
        labels = ordered_unique(m.label for m in merged)
        return "\n\n".join(self._table([m for m in merged if m.label == label])
                           for label in labels)

    def _table(self, results: list[Measurement]) -> str:
        unit, scale = select_unit(min(m.median for m in results))
        columns = ordered_unique(m.description or "" for m in results)
        rows = ordered_unique((m.num_threads, m.env or "", m.as_row_name) for m in results)
        cells: dict[Any, Measurement] = {
            ((m.num_threads, m.env or "", m.as_row_name), m.description or ""): m for m in results}
        texts = {key: self._text(m, scale) for key, m in cells.items()}
        best = {key: self._best(key, cells) for key in cells}
        width = max(len(name) + len(env) + 3 * bool(env) for _, env, name in rows) + 6
        wide = [max([len(c), *(len(texts[r, c]) for r in rows if (r, c) in texts)])
                for c in columns]
        title = f" {results[0].label or 'times'} "
        total = max(width + sum(w + 5 for w in wide), len(title) + 6)
        left = max((total - len(title) - 2) // 2, 3)
        lines = [f"[{'-' * left}{title}{'-' * max(total - 2 - left - len(title), 3)}]",
                 " " * width + "".join(f"|  {c:^{w}}  " for c, w in zip(columns, wide))]
        for threads in ordered_unique(r[0] for r in rows):
            head = f"{threads} threads: "
            lines.append(head + "-" * max(total - len(head), 0))
            for row in (r for r in rows if r[0] == threads):
                name = (f"({row[1]}) " if row[1] else "") + row[2]
                line = f"      {name:<{width - 6}}"
                for c, w in zip(columns, wide):
                    text = f"{texts.get((row, c), ''):^{w}}"
                    if (row, c) in cells and self._colour is not Colorize.NONE:
                        ratio = cells[row, c].median / best[row, c]
                        mark = next(colour for limit, colour in _COLOURS if ratio <= limit)
                        text = f"{mark}{text}{_END}" if mark else text
                    line += f"|  {text}  "
                lines.append(line)
        return "\n".join([*lines, "", f"Times are in {unit_to_english(unit)}s ({unit})."])

    def _text(self, m: Measurement, scale: float) -> str:
        value = m.median / scale
        if self._trim:
            value = trim_sigfig(value, m.significant_figures)
        text = f"{value:.0f}" if value >= 1000 else f"{value:.1f}"
        if self._warn and m.has_warnings:
            text += f" (! {100 * m.iqr / m.median:.0f}%)"
        return text

    def _best(self, key: Any, cells: dict[Any, Measurement]) -> float:
        at = 0 if self._colour is Colorize.ROWWISE else 1
        return min(m.median for other, m in cells.items() if other[at] == key[at])
