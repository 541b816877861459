"""Who wrote, and where: turning a stored frame position into text. Floor 4; imports nothing."""

from __future__ import annotations

import sys
from typing import Any


def here(depth: int = 2) -> tuple[Any, int]:
    """(code, instruction) of the calling frame: cheap to take, resolved only in an error."""
    f = sys._getframe(depth)
    return f.f_code, f.f_lasti


def line_of(code: Any, lasti: int) -> int:
    """Line number of an instruction."""
    line = code.co_firstlineno
    for start, end, n in code.co_lines():
        if start <= lasti < end and n is not None:
            return int(n)
    return int(line)


# Files whose frames stand between a call and the program while calls are watched.
between: set[str] = set()


def describe_writer(writer: Any) -> str:
    """One sentence on the call that last wrote to a storage."""
    if not writer:
        return "The write came from outside (a NumPy or DLPack alias)."
    name, code, lasti = writer
    if code.co_filename in between:
        return f"It was last written by {name}, in a call that a profile or a trace was watching."
    return f"It was last written by {name} at {code.co_filename}:{line_of(code, lasti)}."
