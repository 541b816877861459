"""What a run says about a device: outcomes by chapter, a level, a percentage, in four formats.

Imports the standard library, and lampion for what the device is called.
"""

from __future__ import annotations

import html
import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from . import CHAPTERS, LEVELS

OUTCOMES = ("passed", "failed", "known", "skipped")


@dataclass
class Result:
    """One test. `outcome`: passed, failed, known (failed as the xfail file says) or skipped (the
    device does not claim what the test is about); `text` is the reason or the error."""

    name: str
    outcome: str
    seconds: float
    text: str = ""
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def chapter(self) -> str:
        return self.name.partition("::")[0]


class Report:
    """The results of a run. `whole`: no test was deselected; only then is there a level."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick, self.whole = device, quick, False
        self.about: dict[str, Any] = {}  # of the device, where it is another process's
        self.results: dict[str, Result] = {}

    @classmethod
    def of(cls, *reports: dict[str, Any]) -> "Report":
        """What JSON reports of one device say together: a later one counts where it has a test."""
        made = cls(reports[0]["device"]["device"], all(r["quick"] for r in reports))
        made.whole = any(r["whole"] for r in reports)
        made.about = reports[-1]["device"]
        for r in reports:
            for t in r["tests"]:
                made.results.pop(t["name"], None)
                made.add(t["name"], t["outcome"], t["seconds"], t["text"],
                         {k: t[k] for k in ("computed", "elsewhere") if k in t})
        return made

    def add(self, name: str, outcome: str, seconds: float, text: str,
            properties: dict[str, Any]) -> None:
        """A test's outcome; of several (setup, call, teardown) a failure stays."""
        before = self.results.get(name)
        if before is None or before.outcome != "failed":
            self.results[name] = Result(name, outcome, seconds, text, properties)

    def counts(self, chapter: str | None = None) -> Counter[str]:
        """Tests by outcome, of a chapter or of all."""
        return Counter(r.outcome for r in self.results.values() if chapter in (None, r.chapter))

    def percentage(self, chapter: str | None = None) -> float:
        """Passed tests in a hundred that apply to the device; known failures are failures."""
        n = self.counts(chapter)
        applied = n["passed"] + n["failed"] + n["known"]
        return 100.0 * n["passed"] / applied if applied else 0.0

    @property
    def elsewhere(self) -> list[str]:
        """The ops that ran on another device, since they were allowed to."""
        return sorted({op for r in self.results.values()
                       for op in r.properties.get("elsewhere", ())})

    @property
    def level(self) -> int | None:
        """The highest level all of whose chapters, and those below, pass. -1 if L0 does not; None
        if not all tests were run. L2 also means that no op ran elsewhere."""
        if not self.whole:
            return None
        reached = -1
        for level in LEVELS:
            for chapter in (c for c, at in CHAPTERS.items() if at == level):
                n = self.counts(chapter)
                if n["failed"] or n["known"] or not n["passed"]:
                    if chapter == "kernels" and not (n["failed"] or n["known"]):
                        continue  # a device that compiles no kernels has the primitives by name
                    return reached
            if level == 2 and self.elsewhere:
                return reached
            reached = level
        return reached

    @property
    def label(self) -> str:
        """The level in words: "L1", "below L0", "part of the suite"."""
        if self.level is None:
            return "part of the suite"
        return "below L0" if self.level < 0 else f"L{self.level}"

    @property
    def numerics(self) -> dict[str, dict[str, Any]]:
        """Largest errors in ulps: function -> dtype -> error."""
        table: dict[str, dict[str, Any]] = {}
        for r in self.results.values():
            if "ulps" in r.properties:
                function, dtype, error = r.properties["ulps"]
                table.setdefault(function, {})[dtype] = error
        return table

    def described(self) -> dict[str, str]:
        """The device, its driver, and the versions of what was run."""
        if self.about:
            return self.about
        found = {"device": self.device, "python": platform.python_version(),
                 "machine": f"{platform.system()} {platform.machine()}"}
        try:
            from lampion import plugins
            from lampion.runtime.devices import resolve

            info = plugins.devices(self.device.partition(":")[0])[resolve(self.device).index or 0]
            found["description"] = info.description
            found |= {str(k): str(v) for k, v in info.details.items()}
            record = plugins.record(self.device.partition(":")[0])
            found["plug-in"] = record.wheel
        except Exception as error:  # the report of a device that does not work says so
            found["description"] = f"{type(error).__name__}: {error}"
        for wheel in ("lampion-core", "lampion-conformance"):
            try:
                found[wheel] = metadata.version(wheel)
            except metadata.PackageNotFoundError:
                found[wheel] = "from source"
        return found


def as_json(r: Report) -> str:
    """Everything, for programs: see docs/conformance.md for the keys."""
    data = {
        "format": 1, "device": r.described(), "quick": r.quick, "whole": r.whole,
        "level": r.level, "label": r.label, "percentage": round(r.percentage(), 2),
        "chapters": {c: {**{o: r.counts(c)[o] for o in OUTCOMES}, "level": CHAPTERS[c],
                         "percentage": round(r.percentage(c), 2)} for c in CHAPTERS},
        "elsewhere": r.elsewhere, "numerics": r.numerics,
        "tests": [{"name": t.name, "outcome": t.outcome, "seconds": round(t.seconds, 4),
                   "text": t.text,
                   **{k: v for k, v in t.properties.items() if k in ("computed", "elsewhere")}}
                  for t in r.results.values()],
    }
    return json.dumps(data, indent=1) + "\n"


def headline(r: Report) -> str:
    """One line: device, level, percentage."""
    n = r.counts()
    applied = n["passed"] + n["failed"] + n["known"]
    how = " (--quick)" if r.quick else ""
    return f"{r.device}: {r.label}, {r.percentage():.1f}% of {applied} tests{how}"


def rows(r: Report) -> list[list[str]]:
    """The table by chapter."""
    return [[c, f"L{CHAPTERS[c]}", *(str(r.counts(c)[o]) for o in OUTCOMES),
             f"{r.percentage(c):.1f}%"] for c in CHAPTERS if r.counts(c)]


HEADER = ["chapter", "level", *OUTCOMES, "passes"]


def as_text(r: Report) -> str:
    """For the terminal."""
    table = [HEADER, *rows(r)]
    widths = [max(len(row[k]) for row in table) for k in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in table]
    if r.elsewhere:
        lines.append(f"on another device ran: {', '.join(r.elsewhere)}")
    return "\n".join([*lines, "", headline(r)])


def as_markdown(r: Report) -> str:
    """A page with the table, the failures, and the errors of functions."""
    out = [f"# Conformance of {r.device}", "", f"**{headline(r)}**", ""]
    out += [f"- {k}: {v}" for k, v in r.described().items()]
    out += ["", *_table(HEADER, rows(r))]
    for outcome, title in (("failed", "Failures"), ("known", "Known failures")):
        tests = [t for t in r.results.values() if t.outcome == outcome]
        if tests:
            out += ["", f"## {title}", ""]
            out += [f"- `{t.name}`: {_last(t.text)}" for t in tests]
    if r.elsewhere:
        out += ["", "## Ops that ran on another device", "", ", ".join(r.elsewhere)]
    if r.numerics:
        out += ["", "## Largest errors, in units in the last place", "",
                *_table(["function", "float32", "float64"], _errors(r))]
    return "\n".join(out) + "\n"


def _errors(r: Report) -> list[list[str]]:
    def shown(error: Any) -> str:
        return "" if error is None else f"{float(error):.2f}"

    return [[f, shown(e.get("float32")), shown(e.get("float64"))] for f, e in r.numerics.items()]


def _table(header: list[str], body: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |"
            for row in (header, ["---"] * len(header), *body)]


def _last(text: str) -> str:
    """The line of an error that says what it is."""
    lines = [line for line in text.splitlines() if line.startswith("E ")] or text.splitlines()[-1:]
    return lines[0].removeprefix("E").strip() if lines else ""


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;
text-align:left}pre{background:#f5f5f5;padding:.5rem;overflow:auto}"""


def as_html(r: Report) -> str:
    """The same as one page without other files, the badge in it."""
    e = html.escape
    parts = [f"<h1>Conformance of {e(r.device)}</h1>", badge(r), f"<p>{e(headline(r))}</p>", "<ul>"]
    parts += [f"<li>{e(k)}: {e(v)}</li>" for k, v in r.described().items()]
    parts += ["</ul>", _html_table(HEADER, rows(r))]
    for outcome, title in (("failed", "Failures"), ("known", "Known failures")):
        tests = [t for t in r.results.values() if t.outcome == outcome]
        if tests:
            parts.append(f"<h2>{title}</h2>")
            parts += [f"<details><summary><code>{e(t.name)}</code> {e(_last(t.text))}</summary>"
                      f"<pre>{e(t.text)}</pre></details>" for t in tests]
    if r.elsewhere:
        parts += ["<h2>Ops that ran on another device</h2>", f"<p>{e(', '.join(r.elsewhere))}</p>"]
    if r.numerics:
        parts += ["<h2>Largest errors, in units in the last place</h2>",
                  _html_table(["function", "float32", "float64"], _errors(r))]
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{e(headline(r))}</title>'
            f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n")


def _html_table(header: list[str], body: list[list[str]]) -> str:
    def line(tag: str, row: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"

    return "<table>" + line("th", header) + "".join(line("td", b) for b in body) + "</table>"


def badge(r: Report) -> str:
    """An SVG of two fields: "lampion conformance" and the level with the percentage."""
    left, right = "lampion conformance", f"{r.label} {r.percentage():.0f}%"
    colour = {None: "#777", -1: "#c0392b", 0: "#b9770e", 1: "#7d8c1f", 2: "#2e8b57"}[r.level]
    a, b = (12 + 7 * len(text) for text in (left, right))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{a + b}" height="20" role="img" '
            f'aria-label="{left}: {right}"><rect width="{a}" height="20" fill="#444"/>'
            f'<rect x="{a}" width="{b}" height="20" fill="{colour}"/>'
            '<g fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle">'
            f'<text x="{a / 2}" y="14">{left}</text><text x="{a + b / 2}" y="14">{right}</text>'
            "</g></svg>")
