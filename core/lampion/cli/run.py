"""Run a PyTorch program on lampion: `torch` and all its submodules mean lampion in it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

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
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return 0
    if not os.path.exists(target):
        print(f"lampion run: error: there is no file {target!r}", file=sys.stderr)
        return 2
    sys.path[0] = os.path.dirname(os.path.abspath(target))
    runpy.run_path(target, run_name="__main__")
    return 0


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """(our options, the program and its arguments)."""
    k = 0
    while k < len(words) and words[k].startswith("-") and words[k] != "--":
        k += 2 if words[k] == "--device" else 1
    return words[:k], words[k + 1 if k < len(words) and words[k] == "--" else k:]
