"""The devices of this machine, and which one is the default."""

from __future__ import annotations

import argparse
from typing import Any

from lampion import plugins
from lampion.cli import _show
from lampion.plugins import select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion devices`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List every device of every backend; one that does not work is listed with its reason."""
    rows = [row for name in _names() for row in _devices_of(name)]
    default, reason = _default()
    if args.json:
        _show.as_json({"devices": rows, "default": default, "reason": reason})
        return 0 if rows else 1
    shown = []
    for row in rows:
        mark = "*" if row["device"] == default else " "
        what = row.get("description") or f"({row['problem']})"
        shown.append((mark, row["device"], what, row["wheel"]))
    _show.table(shown, ("", "device", "what", "plug-in"))
    print(f"\n* default: {default or 'none'}: {reason}")
    return 0 if any("description" in row for row in rows) else 1


def _names() -> list[str]:
    return sorted({r.name for r in plugins.records("lampion.backends") if r.status != "disabled"})


def _devices_of(name: str) -> list[dict[str, Any]]:
    wheel = plugins.record(name).wheel
    try:
        infos = plugins.devices(name)
    except plugins.PluginError as error:
        problem = str(error.__cause__ or error).splitlines()[0]
        return [{"device": name, "problem": problem, "wheel": wheel}]
    if not infos:
        return [{"device": name, "problem": "no device found", "wheel": wheel}]
    return [
        {
            "device": name if index == 0 else f"{name}:{index}",  # as tensors print it
            "description": info.description,
            "details": dict(info.details),
            "wheel": wheel,
        }
        for index, info in enumerate(infos)
    ]


def _default() -> tuple[str | None, str]:
    from lampion import config

    try:
        choice = select.choose(config.get("device.default"))
    except plugins.PluginError as error:
        return None, str(error)
    passed = "".join(f"\n  passed over {n}: {w.splitlines()[0]}" for n, w in choice.rejected)
    return choice.device, choice.reason + passed
