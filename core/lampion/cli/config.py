"""Every setting and where it comes from."""

from __future__ import annotations

import argparse

from lampion import config, plugins
from lampion.cli import _show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion config`."""
    parser.add_argument("name", nargs="?", help="an option or a table, for example fallback")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--all", action="store_true", help="also what each value hides, and help")


def run(args: argparse.Namespace) -> int:
    """Print effective values; plug-ins are imported, since their options are settings too."""
    for record in plugins.records("lampion.backends"):
        plugins.load(record)
    settings = config.explain()
    if args.name:
        wanted = args.name
        settings = [s for s in settings if s.name == wanted or s.name.startswith(wanted + ".")]
        if not settings:
            config.get(wanted)  # raises the error that names the nearest option
    if args.json:
        _show.as_json([s._asdict() for s in settings])
        return 0
    width = max(len(s.name) for s in settings)
    for s in settings:
        print(f"{s.name:{width}} = {s.value!r}  {_show.paint(f'# {s.source}', 'dim')}")
        if args.all:
            print(f"{'':{width}}   {s.doc}")
            for source, value in s.shadowed:
                print(f"{'':{width}}   hides {value!r} from {source}")
    for note in config.notes():
        print(f"note: {note}")
    return 0
