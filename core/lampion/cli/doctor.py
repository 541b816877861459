"""What is installed, what works, and how to repair what does not."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lampion import config, plugins
from lampion.cli import _show
from lampion.plugins import select, versions
from lampion.plugins.plugin_record import DISABLED, LOADED, PluginRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion doctor`."""
    parser.add_argument("plugin", nargs="?", help="only this plug-in, with its traceback")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of all problems")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Load every plug-in, ask each backend for its devices, and report; 1 if there is a problem."""
    records = plugins.records()
    if args.plugin:
        records = [r for r in records if args.plugin in (r.name, r.distribution)]
        if not records:
            plugins.record(args.plugin)  # raises the error that lists what is installed
    report: dict[str, Any] = {
        "system": _system(),
        "default_device": _default_device(),
        "plugins": [_examine(record) for record in records],
        "notes": config.notes(),
    }
    problems = sum(bool(p["problem"]) for p in report["plugins"])
    report["problems"] = problems
    if args.json:
        _show.as_json(report)
    else:
        _print(report, verbose=args.verbose or bool(args.plugin), whole=not args.plugin)
    return 1 if problems else 0


# --- finding out ---------------------------------------------------------------------------------


def _system() -> dict[str, Any]:
    cache = config.cache_dir()
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    return {
        "lampion-core": metadata.version("lampion-core"),
        "plugin_api": str(versions.CURRENT),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "core_path": str(Path(config.__file__).parent),
        "config_files": [str(p) for p in config.files()],
        "cache_dir": str(cache),
        "cache_writable": os.access(parent, os.W_OK),
        "numpy": _version("numpy"),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _default_device() -> dict[str, Any]:
    try:
        choice = select.choose(config.get("device.default"))
    except plugins.PluginError as error:
        return {"device": None, "reason": str(error), "passed_over": []}
    return {
        "device": choice.device,
        "reason": choice.reason,
        "passed_over": [list(pair) for pair in choice.rejected],
    }


def _examine(record: PluginRecord) -> dict[str, Any]:
    """Load one plug-in, and its devices if it is a backend; never raises."""
    plugins.load(record)
    devices: list[dict[str, Any]] = []
    report: dict[str, str] = {}
    problem = ""
    if record.status == LOADED and record.group == "lampion.backends":
        try:
            devices = [_device(info) for info in plugins.devices(record.name)]
            problem = "" if devices else "it is installed but finds no device"
            report = plugins.backend(record.name).report()
        except plugins.PluginError as error:
            cause = error.__cause__ or error
            problem = f"{type(cause).__name__}: {cause}"
        except Exception as error:
            problem = f"in its report: {type(error).__name__}: {error}"
    if record.status not in (LOADED, DISABLED):
        problem = record.reason
    facts = record.as_dict()
    facts["location"] = getattr(record.plugin, "__file__", None) or record.location
    facts.update(problem=problem, devices=devices, report=report, needs=_needs(record.distribution))
    if record.device_error is not None and not facts["traceback"]:
        import traceback

        facts["traceback"] = "".join(traceback.format_exception(record.device_error))
    return facts


def _device(info: Any) -> dict[str, Any]:
    return {"name": info.name, "description": info.description, "details": dict(info.details)}


def _needs(distribution: str) -> list[str]:
    """What the wheel requires and which version is there; a missing one is called missing.

    Requirements under an environment marker are listed only when they are installed.
    """
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in required:
        match = re.match(r"[\w.-]+", line)
        if match is None or "extra ==" in line or match[0].startswith("lampion"):
            continue
        version = _version(match[0])
        if version or ";" not in line:
            found.append(f"{match[0]} {version or 'MISSING'}")
    return found


# --- printing ------------------------------------------------------------------------------------


def _print(report: dict[str, Any], verbose: bool, whole: bool) -> None:
    if whole:
        _print_system(report["system"], report["default_device"])
    print(_show.paint("plug-ins", "bold"))
    if not report["plugins"]:
        print("  none installed; try: pip install lampion")
    for facts in report["plugins"]:
        _print_plugin(facts, verbose)
    if whole and report["notes"]:
        print(_show.paint("\nnotes", "bold"))
        for note in report["notes"]:
            print(f"  {note}")
    count = report["problems"]
    print(f"\n{'no problems' if not count else f'{count} problem(s)'} found")


def _print_system(system: dict[str, Any], default: dict[str, Any]) -> None:
    writable = "" if system["cache_writable"] else "  (NOT WRITABLE: kernels are compiled anew)"
    rows = {
        "lampion": f"lampion-core {system['lampion-core']}, plug-in API {system['plugin_api']}",
        "": system["core_path"],
        "python": f"{system['python']}  {system['executable']}",
        "system": f"{system['platform']}, {system['cores']} cores, numpy {system['numpy']}",
        "settings": ", ".join(system["config_files"]) or "no files; defaults and environment",
        "cache": system["cache_dir"] + writable,
        "default": f"{default['device'] or 'NO DEVICE'}: {default['reason']}",
    }
    for label, text in rows.items():
        head, *rest = text.splitlines()
        print(f"{_show.paint(label.ljust(10), 'bold')}{head}")
        for line in rest:
            print(" " * 10 + line)
    for name, why in default["passed_over"]:
        print(f"{'':10}passed over {name}: {why.splitlines()[0]}")
    print()


def _print_plugin(facts: dict[str, Any], verbose: bool) -> None:
    state = _show.paint(facts["status"].ljust(8), facts["status"])
    kind = facts["group"].partition(".")[2]
    wheel = f"{facts['distribution']} {facts['version']}"
    print(f"  {facts['name']:10} {state}  {kind:9} {wheel}  (api {facts['api'] or '?'})")
    print(_show.paint(f"      {facts['module']}  {facts['location']}", "dim"))
    if facts["needs"]:
        print(f"      with {', '.join(facts['needs'])}")
    for key, value in facts["report"].items():
        print(f"      {key}: {value}")
    for device in facts["devices"]:
        print(f"      {device['name']}  {device['description']}")
        for key, value in device["details"].items():
            print(f"          {key}: {value}")
    for what in facts["deprecated"]:
        print(f"      note: {what}")
    if facts["problem"]:
        print(_show.paint(_show.indented(facts["problem"], "      ! "), "failed"))
    elif facts["status"] == DISABLED:
        print(f"      {facts['reason']}")
    if facts["remedy"]:
        print(f"      {_show.paint('try: ' + facts['remedy'], 'try')}")
    if verbose and facts["traceback"]:
        print(_show.indented(facts["traceback"], "      | "))
    elif facts["traceback"]:
        print(f"      traceback: lampion doctor {facts['name']}")
