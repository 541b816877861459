"""The installed plug-ins and their state; `disable NAME` and `enable NAME` change the settings."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path

from lampion import config, plugins
from lampion.cli import _settings_file, _show

OPTION = "plugins.disable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion plugins`."""
    parser.add_argument("action", nargs="?", choices=("disable", "enable"),
                        help="switch a plug-in off or on, in the settings file")
    parser.add_argument("name", nargs="?", help="of a plug-in or a wheel")
    parser.add_argument("--load", action="store_true", help="import them, to see if that works")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List every plug-in that an installed wheel names, from metadata alone unless --load; or
    switch one off or on."""
    if args.action:
        return _switch(args.name, args.action == "disable")
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


def _switch(name: str | None, off: bool) -> int:
    """Put a name into `[plugins] disable`, or take it out. ValueError if there is no such plug-in
    (one that is switched off may be gone)."""
    listed = config.get(OPTION)
    known = sorted({*listed, *(word for r in plugins.records() for word in (r.name,
                                                                            r.distribution))})
    if name is None or name not in known:
        close = difflib.get_close_matches(name or "", known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
        raise ValueError(f"there is no plug-in {name!r}{hint}" if name else
                         f"name a plug-in or a wheel{hint}")
    if (name in listed) == off:
        print(f"{name} is {'off' if off else 'on'} already")
        return 0
    path = _file()
    _settings_file.set_list(path, "plugins", "disable",
                            [*listed, name] if off else [n for n in listed if n != name])
    print(f"{name} is switched {'off' if off else 'on'} in {path}")
    return 0


def _file() -> Path:
    """The settings file that decides which plug-ins are off: the one that says so now, or the
    user's. ValueError where something else decides."""
    where = config.source(OPTION)
    if where == "default":
        return config.user_dir("config") / "lampion.toml"
    path = Path(re.sub(r":\d+$", "", where))
    if path.name != "lampion.toml":
        raise ValueError(f"[plugins] disable is set by {where}: change it there")
    return path
