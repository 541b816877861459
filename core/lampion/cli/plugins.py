"""The installed plug-ins and their state."""

from __future__ import annotations

import argparse

from lampion import plugins
from lampion.cli import _show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion plugins`."""
    parser.add_argument("--load", action="store_true", help="import them, to see if that works")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List every plug-in that an installed wheel names, from metadata alone unless --load."""
    records = plugins.records()
    if args.load:
        for record in records:
            plugins.load(record)
    if args.json:
        _show.as_json([record.as_dict() for record in records])
        return 0
    rows = [(r.name, r.group, r.status, r.wheel, r.api or "-", r.module, r.reason) for r in records]
    _show.table(rows, ("name", "group", "state", "wheel", "api", "module", "reason"))
    return 0
