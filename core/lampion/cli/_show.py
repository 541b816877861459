"""Printing for the commands: tables, colours where they are wanted, JSON. Floor 7."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_COLOURS = {
    "loaded": "32",
    "found": "36",
    "refused": "33",
    "failed": "31",
    "disabled": "90",
    "dim": "90",
    "bold": "1",
    "try": "36",
}


def paint(text: str, style: str) -> str:
    """`text` in the colour of a state, when standard output is a terminal and NO_COLOR unset."""
    if style not in _COLOURS or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[{_COLOURS[style]}m{text}\033[0m"


def table(rows: Iterable[Sequence[Any]], header: Sequence[str], indent: str = "") -> None:
    """Print rows under a header in columns; the last column is as long as it likes."""
    cells = [list(map(str, header)), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for number, row in enumerate(cells):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line = "  ".join(padded).rstrip()
        print(indent + (paint(line, "bold") if number == 0 else line))


def as_json(data: Any) -> None:
    """Print data as indented JSON; what JSON does not know is printed as text."""
    print(json.dumps(data, indent=2, default=str))


def indented(text: str, prefix: str) -> str:
    """Every line of `text` behind a prefix."""
    return "\n".join(prefix + line for line in text.rstrip().splitlines())
