"""The pytest plug-in: the options, the xfail file, and the report of a run.

It does nothing in a session without `--lampion-device`. Imports pytest; the report and lampion only
where a device was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import CHAPTERS

OPTIONS = {
    "device": "run the lampion conformance suite on this device",
    "xfail": "a file of lines `chapter::test[case]  reason`: tests known to fail",
    "json": "write the report as JSON to this file",
    "markdown": "write the report as Markdown to this file",
    "html": "write the report as HTML, with a badge, to this file",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lampion", "lampion conformance")
    for name, text in OPTIONS.items():
        group.addoption(f"--lampion-{name}", metavar=name.upper(), default=None, help=text)
    group.addoption("--lampion-quick", action="store_true",
                    help="a sample of every chapter: at most three minutes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("lampion_device"):
        config.pluginmanager.register(Session(config), "lampion-conformance-session")


def name_of(nodeid: str) -> str | None:
    """`chapter::test[case]` of a test of this suite; None for other tests."""
    path, _, test = nodeid.partition("::")
    chapter = Path(path).stem.removeprefix("test_")
    ours = Path(path).parent.name == Path(__file__).parent.name or "/" not in path
    return f"{chapter}::{test}" if chapter in CHAPTERS and ours else None


def read_known(path: str) -> dict[str, str]:
    """The xfail file: name of a test -> reason. UsageError for a line without a reason, and for a
    test that is named twice."""
    known: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise pytest.UsageError(f"--lampion-xfail: {error}") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, reason = line.partition(" ")
        if "::" not in name or not reason.strip():
            raise pytest.UsageError(f"{path}:{number}: a line is `chapter::test[case]  reason`, "
                                    f"not {line!r}")
        if name in known:
            raise pytest.UsageError(f"{path}:{number}: {name} is named twice")
        known[name] = reason.strip()
    return known


class Session:
    """One run: marks the tests known to fail, gathers results, writes the report at the end."""

    def __init__(self, config: pytest.Config) -> None:
        from .report import Report

        self.config = config
        get = config.getoption
        self.known = read_known(get("lampion_xfail")) if get("lampion_xfail") else {}
        self.report = Report(get("lampion_device"), bool(get("lampion_quick")))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Chapters in their order; known failures marked, strictly. Before -k deselects."""
        order = list(CHAPTERS)
        names = {item: name_of(item.nodeid) for item in items}
        items.sort(key=lambda i: order.index(names[i].partition("::")[0])  # type: ignore[union-attr]
                   if names[i] else len(order))
        for item in items:
            if names[item] in self.known:
                item.add_marker(pytest.mark.xfail(
                    reason=self.known[names[item]], strict=True))  # type: ignore[index]
        found = {n for n in names.values() if n}
        chapters = {n.partition("::")[0] for n in found}
        self.report.whole = chapters == set(CHAPTERS)
        unknown = sorted(self.known.keys() - found)
        if unknown and self.report.whole and not self.report.quick:
            raise pytest.UsageError(f"{self.config.getoption('lampion_xfail')}: there is no test "
                                    f"{', '.join(unknown)}")

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        if any(name_of(item.nodeid) for item in items):
            self.report.whole = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = name_of(report.nodeid)
        if name is None or (report.when != "call" and report.passed):
            return
        known = getattr(report, "wasxfail", None)
        if known is not None and report.skipped:
            outcome, text = "known", known
        elif report.skipped:
            outcome, text = "skipped", _reason(report)
        else:
            outcome, text = report.outcome, report.longreprtext if report.failed else ""
        self.report.add(name, outcome, report.duration, text, dict(report.user_properties))

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        yield
        if session.shouldstop or session.shouldfail or exitstatus not in (0, 1):
            self.report.whole = False  # by -x, or since somebody's patience ended
        if hasattr(self.config, "workerinput"):  # the controller of pytest-xdist writes
            return
        from . import report

        for form in ("json", "markdown", "html"):
            path = self.config.getoption(f"lampion_{form}")
            if path:
                Path(path).write_text(getattr(report, f"as_{form}")(self.report), "utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        from .report import as_text

        terminalreporter.section("lampion conformance")
        for line in as_text(self.report).splitlines():
            terminalreporter.write_line(line)


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    return str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")
