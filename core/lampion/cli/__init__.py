"""The `lampion` program: one file per command, imported when it is asked for.

A command module has `add_arguments(parser)` and `run(args) -> exit status`. Other wheels add
commands by the entry-point group `lampion.cli`. Floor 7.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

COMMANDS = {
    "devices": "the devices of this machine, and which one is the default",
    "doctor": "what is installed, what works, and how to repair what does not",
    "config": "every setting and where it comes from",
    "plugins": "the installed plug-ins and their state",
    "ops": "the operators, by kind",
    "explain": "which kernel runs an operator on a device, and why",
    "requires": "which ops of a model a device lacks, before it runs there",
    "run": "run a PyTorch program: torch means lampion in it",
    "new": "write a package to start from: a backend, or ops",
    "demo": "train a small network on real data",
    "bench": "time operators on a device",
}

# Where a command takes what follows as it is, so that its own --help is reached.
_PASS_THROUGH = {"demo", "run"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments; returns the exit status.

    2 is a mistake in arguments or settings, 1 a command that found a problem.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:  # errors are the program's own: they keep their traceback
        return _run(words)
    try:
        return _run(words)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, RuntimeError) as error:
        if _debugging():
            raise
        print(f"lampion: error: {error}", file=sys.stderr)
        return 2


def _debugging() -> bool:
    """Whether a traceback is wanted; not when the settings themselves are what is wrong."""
    from lampion.config import ConfigError
    from lampion.logging import get_logger

    try:
        return get_logger("cli").enabled("debug")
    except ConfigError:
        return False


def _run(words: list[str]) -> int:
    name = next((w for w in words if not w.startswith("-")), None)
    parser = _top_parser()
    if name is None or words[0] != name:
        parser.parse_args(words)
        parser.print_help()
        return 0
    command = _command(name)
    if command is None:
        return _no_such_command(name)
    add_arguments, run, text = command
    child = argparse.ArgumentParser(prog=f"lampion {name}", description=text)
    if name in _PASS_THROUGH:
        return int(run(words[1:]))
    add_arguments(child)
    return int(run(child.parse_args(words[1:])))


def _command(name: str) -> tuple[Any, Any, str] | None:
    """(add_arguments, run, description) of a built-in or plugged-in command."""
    if name in COMMANDS:
        module = importlib.import_module(f"lampion.cli.{name}")
        return getattr(module, "add_arguments", None), module.run, module.__doc__ or ""
    from lampion import plugins

    if all(record.name != name for record in plugins.records("lampion.cli")):
        return None
    record = plugins.load(plugins.record(name, "lampion.cli"))
    commands = plugins.call(record, "lampion_cli_commands", once=False)
    if not record.usable:
        raise record.problem()
    for command in commands or ():
        if command.name == name:
            return command.add_arguments, command.run, command.help
    raise plugins.PluginError(f"plug-in {record.wheel} announces a command '{name}' it lacks")


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = ["commands:"] + [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    for name, wheel in _plugged_in():
        lines.append(f"  {name:{width}}  (from {wheel})")
    lines.append("\n`lampion COMMAND --help` says more.")
    parser = argparse.ArgumentParser(
        prog="lampion",
        usage="lampion COMMAND [arguments]",
        description="Tensors and autograd whose hardware is plugged in.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"lampion {version('lampion-core')}")
        parser.exit(0)


def _plugged_in() -> list[tuple[str, str]]:
    from lampion import plugins

    return [(r.name, r.wheel) for r in plugins.records("lampion.cli") if r.usable]


def _no_such_command(name: str) -> int:
    import difflib

    names = [*COMMANDS, *(n for n, _ in _plugged_in())]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; commands: {', '.join(names)}"
    print(f"lampion: error: there is no command '{name}'{hint}", file=sys.stderr)
    return 2
