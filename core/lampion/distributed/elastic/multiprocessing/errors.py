"""What a process tells its launcher when it fails. Floor 7; imports the standard library."""

from __future__ import annotations

import functools
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["ChildFailedError", "record"]


class ChildFailedError(Exception):
    """A process that a launcher started failed; `failures` are the statuses by rank."""

    def __init__(self, name: str, failures: dict[int, Any]) -> None:
        super().__init__(f"{name} failed: {failures}")
        self.name, self.failures = name, failures


def record(fn: Callable[..., Any], error_handler: Any = None) -> Callable[..., Any]:
    """Decorator of a program's main function: an exception is written, as JSON, to the file that
    the environment variable TORCHELASTIC_ERROR_FILE names, and goes on."""
    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            path = os.environ.get("TORCHELASTIC_ERROR_FILE")
            if path:
                Path(path).write_text(json.dumps({"message": {
                    "message": f"{type(error).__name__}: {error}",
                    "extraInfo": {"py_callstack": traceback.format_exc(),
                                  "timestamp": str(int(time.time()))}}}), encoding="utf-8")
            raise

    return wrapped
