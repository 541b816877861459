"""Run a PyTorch program on lampion: `torch` and all its submodules mean lampion in it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Callable

_OURS = (__file__, runpy.run_path.__code__.co_filename)
USAGE = "lampion run [--device NAME] SCRIPT [arguments]   or   lampion run -m MODULE [arguments]"


def run(words: list[str]) -> int:
    """Take our own options off the front, then become the program."""
    parser = argparse.ArgumentParser(prog="lampion run", usage=USAGE, description=__doc__,
                                     epilog="What follows SCRIPT or MODULE is the program's own.")
    parser.add_argument("--device", help="the default device, before any that lampion.toml names")
    parser.add_argument("-m", dest="module", action="store_true",
                        help="SCRIPT is the name of a module")
    own, rest = _split(words)
    args = parser.parse_args(own)
    if not rest:
        parser.print_usage(sys.stderr)
        print("lampion run: error: which program?", file=sys.stderr)
        return 2
    import lampion
    from lampion import compat

    try:
        compat.install()
        if args.device:
            lampion.set_default_device(args.device)
    except (ValueError, RuntimeError) as error:
        print(f"lampion run: error: {error}", file=sys.stderr)
        return 2
    target, sys.argv = rest[0], rest
    if args.module:
        sys.path[0] = os.getcwd()
        return _become(lambda: runpy.run_module(target, run_name="__main__", alter_sys=True))
    if not os.path.exists(target):
        print(f"lampion run: error: there is no file {target!r}", file=sys.stderr)
        return 2
    sys.path[0] = os.path.dirname(os.path.abspath(target))
    return _become(lambda: runpy.run_path(target, run_name="__main__"))


def _become(program: Callable[[], object]) -> int:
    """Run it; exit status 1 after an error, whose traceback begins in the program, as Python's
    does."""
    try:
        program()
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in _OURS:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 1
    return 0


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """(our options, the program and its arguments)."""
    k = 0
    while k < len(words) and words[k].startswith("-") and words[k] != "--":
        k += 2 if words[k] == "--device" else 1
    return words[:k], words[k + 1 if k < len(words) and words[k] == "--" else k:]
