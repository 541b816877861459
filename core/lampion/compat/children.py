"""Processes that a program starts: `torch` means lampion in them too.

A forked process has our finder already. A new interpreter reads the program's main module before
anything else, so that its command line installs us first. Imports the standard library.
"""

from __future__ import annotations

from multiprocessing import forkserver, spawn
from typing import Any

_FIRST = "import lampion.compat; lampion.compat.install(); "
_command_line = spawn.get_command_line


def _with_us(**kwargs: Any) -> list[str]:
    """The command line of a new interpreter, in which lampion is installed first."""
    words = _command_line(**kwargs)
    if "-c" in words:
        k = words.index("-c") + 1
        words[k] = _FIRST + words[k]
    return words


def install() -> None:
    """From now on new interpreters begin with `compat.install()`."""
    spawn.get_command_line = _with_us
    preloaded = forkserver._forkserver._preload_modules  # type: ignore[attr-defined]
    if "lampion.compat.child" not in preloaded:
        forkserver.set_forkserver_preload(["lampion.compat.child", *preloaded])


def uninstall() -> None:
    """New interpreters begin as they do."""
    spawn.get_command_line = _command_line
    preloaded = forkserver._forkserver._preload_modules  # type: ignore[attr-defined]
    forkserver.set_forkserver_preload([m for m in preloaded if m != "lampion.compat.child"])
