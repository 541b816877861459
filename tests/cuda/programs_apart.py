"""Runs a program in a process of its own, on the simulator with settings of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PREAMBLE = """
import sys
sys.path.insert(0, {folder!r})
import simulator
simulator.install({settings})
import lampion
"""


def run(program: str, *, environment: dict[str, str] | None = None, simulated: bool = True,
        timeout: float = 300, **settings: int) -> str:
    """What the program prints. AssertionError with its errors if it fails."""
    folder = str(Path(__file__).parent)
    text = ", ".join(f"{k}={v}" for k, v in settings.items())
    head = PREAMBLE.format(folder=folder, settings=text) if simulated else "import lampion\n"
    done = subprocess.run([sys.executable, "-c", head + textwrap.dedent(program)],
                          env={**os.environ, **(environment or {})}, capture_output=True,
                          text=True, timeout=timeout)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
