"""`lampion conformance DEVICE`: the suite in this process, its report, an exit status.

Imports the plug-in hooks only; pytest when it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lampion.plugins.hookspecs import Command

HERE = Path(__file__).parent


def lampion_cli_commands() -> list[Command]:
    """The hook."""
    from . import matrix

    return [Command("conformance", "Test a device: every level, with a report.", arguments, run),
            Command("conformance-matrix", "Tables of ops, devices and dtypes from reports.",
                    matrix.arguments, matrix.run)]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion conformance`."""
    parser.add_argument("device", help="a device, as in tensor.to(device)")
    parser.add_argument("--quick", action="store_true", help="a sample of every chapter")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="write the report as Markdown")
    parser.add_argument("--html", metavar="FILE", help="write the report as HTML, with a badge")
    parser.add_argument("--xfail", metavar="FILE", help="tests known to fail, with reasons")
    parser.add_argument("-k", metavar="EXPR", help="only tests whose name matches, as pytest's -k")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    parser.add_argument("-n", metavar="COUNT", help="processes (needs pytest-xdist); auto")


def run(args: argparse.Namespace) -> int:
    """Run the suite: 0 if every test passes or fails as known, 1 if not. PluginError if the device
    cannot be used; ValueError for what pytest refuses."""
    import pytest

    from lampion import plugins
    from lampion.runtime.devices import resolve

    if not plugins.devices(args.device.partition(":")[0]):
        raise plugins.PluginError(f"{args.device}: no device found")
    resolve(args.device)
    words = ["-q", "-ra", "--tb=short", "-p", "lampion_conformance.plugin", "-p",
             "no:cacheprovider", "-c", str(HERE / "pytest.ini"), f"--rootdir={HERE}",
             f"--lampion-device={args.device}", *(["--lampion-quick"] if args.quick else [])]
    for form in ("json", "markdown", "html", "xfail"):
        path = getattr(args, form)
        words += [f"--lampion-{form}={Path(path).absolute()}"] if path else []
    words += ["-k", args.k] if args.k else []
    words += ["-x"] if args.x else []
    words += ["-n", args.n] if args.n else []
    status = int(pytest.main([*words, str(HERE)]))
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise ValueError(f"no test matches -k {args.k!r}")
    if status not in (0, 1):
        raise ValueError(f"pytest ended with status {status}; its message is above")
    return status
