"""The support matrix, ops by devices and dtypes, from the JSON reports of conformance runs.

    lampion conformance-matrix cpu.json ref.json --write docs/matrix.md

A report says what was run and what passed; nothing is claimed that no test has shown. Imports the
registry for the names of ops, and the reports.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import Report, Result

# Dtypes in the order of the page, with the letters that stand for them there.
LETTERS = {
    "bool": "b", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "int8": "i1",
    "int16": "i2", "int32": "i4", "int64": "i8", "float16": "f2", "bfloat16": "bf",
    "float32": "f4", "float64": "f8", "complex64": "c8", "complex128": "c16"}
_CASE = re.compile(r"(\w+)::(\w+)\[(.+)\]")
# What stands for an op as a whole: the test, and the word for it.
_PARTS = {("ops", "test_values"): "values", ("ops", "test_forms"): "forms",
          ("gradients", "test_gradients"): "gradients"}

_GROUPS = {"u": "u1 u2 u4 u8", "i": "i1 i2 i4 i8", "f": "f2 bf f4 f8", "c": "c8 c16"}

_HEAD = """# Support, op by op

Written by `lampion conformance-matrix` from reports of [the conformance suite](conformance.md):
nothing is claimed here that no test has shown. `make matrix DEVICES="cpu ref"` runs the suite on
devices and writes the page anew.

The column after an op's name has the dtypes that it is defined for, as far as tests have run it;
**u**, **i**, **f** and **c** alone stand for all dtypes of their kind ({letters}).
Then each device has a cell, in which

- **v** says that its values agree with NumPy, **o** that the in-place and `out=` forms agree with
  the plain call, **g** that first and second derivatives agree with central differences;
- **all** says that it gives what the reference device gives in every one of these dtypes;
  otherwise those in which it does are listed{note};
- what is struck out, like ~~f2~~ or ~~g~~, failed; what is missing was not tested, or asks for what
  the device does not claim.

"""


class Cells:
    """What the report of a device says of every op."""

    def __init__(self, report: Report) -> None:
        about = report.described()
        self.device, self.about = about["device"], about.get("description", "")
        self.label = report.label + (", a quick run" if report.quick else "")
        self.percentage, self.quick = report.percentage(), report.quick
        self.dtypes: dict[str, dict[str, bool]] = {}  # op -> dtype -> passed
        self.parts: dict[str, dict[str, bool]] = {}   # op -> "values"... -> passed
        for test in report.results.values():
            self._take(test)

    def _take(self, test: Result) -> None:
        found = _CASE.fullmatch(test.name)
        if found is None or test.outcome == "skipped":
            return
        chapter, name, case = found.groups()
        passed = test.outcome == "passed"
        if (chapter, name) == ("primitives", "test_dtypes"):
            op, _, dtype = case.rpartition("-")
            if test.properties.get("computed") or not passed:  # else the op refuses the dtype
                self.dtypes.setdefault(op, {})[dtype] = passed
        elif (chapter, name) in _PARTS:
            self.parts.setdefault(case, {})[_PARTS[chapter, name]] = passed

    def cell(self, op: str, full: set[str]) -> str:
        """The text of an op's cell; `full` are the dtypes in which it computes on any device."""
        got, parts = self.dtypes.get(op, {}), self.parts.get(op, {})
        marks = [(letter, parts[part]) for part, letter in (
            ("values", "v"), ("forms", "o"), ("gradients", "g")) if part in parts]
        words = ["".join(letter for letter, passed in marks if passed)]
        words += [f"~~{letter}~~" for letter, passed in marks if not passed]
        if got and all(got.values()) and full <= got.keys() | {"float32"}:
            words.append("all")
        else:
            words += [LETTERS[d] if got[d] else f"~~{LETTERS[d]}~~" for d in LETTERS if d in got]
        return " ".join(filter(None, words))


def defined(dtypes: set[str]) -> str:
    """The dtypes of an op in letters, whole kinds as one."""
    if dtypes & {"float16", "bfloat16", "float64"}:
        dtypes = dtypes | {"float32"}  # which test_dtypes leaves to the comparison with NumPy
    text = " ".join(letter for d, letter in LETTERS.items() if d in dtypes)
    for kind, members in _GROUPS.items():
        text = text.replace(members, kind)
    return text


def page(reports: Sequence[dict[str, Any]]) -> str:
    """The text of the page. Several reports of one device are one column, in which a later run of
    a test counts."""
    devices: dict[str, list[dict[str, Any]]] = {}
    for r in reports:
        devices.setdefault(r["device"]["device"], []).append(r)
    columns = [Cells(Report.of(*given)) for given in devices.values()]
    ops = sorted({op for c in columns for op in (*c.dtypes, *c.parts)},
                 key=lambda op: (op.startswith("_"), op))
    full = {op: {d for c in columns for d in c.dtypes.get(op, ())} for op in ops}
    note = " (a quick run tests a sample)" if any(c.quick for c in columns) else ""
    letters = ", ".join(f"{letter}: {d}" for d, letter in LETTERS.items() if letter[0] not in "ui")
    lines = [_HEAD.format(note=note, letters=f"by bytes; {letters}").rstrip(), "",
             "| device | what it is | level | tests passed |", "|---|---|---|---:|"]
    lines += [f"| {c.device} | {c.about} | {c.label} | {c.percentage:.1f}% |" for c in columns]
    for kind, title in (("primitive", "Primitives, which devices run themselves"),
                        ("composite", "Ops composed of those")):
        names = [op for op in ops if bool(full[op]) == (kind == "primitive")]
        if names:
            dtypes = ["dtypes"] if kind == "primitive" else []
            head = ["op", *dtypes, *(c.device for c in columns)]
            lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for op in names:
            cells = [f"`{op}`", *([defined(full[op])] if kind == "primitive" else []),
                     *(c.cell(op, full[op]) for c in columns)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion conformance-matrix`."""
    parser.add_argument("reports", nargs="+", metavar="REPORT.json",
                        help="written by lampion conformance DEVICE --json")
    parser.add_argument("--write", metavar="FILE", help="write the page there, not to the terminal")


def run(args: argparse.Namespace) -> int:
    """Write the page. ValueError for what is no report."""
    reports = []
    for path in args.reports:
        try:
            report = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
        if not isinstance(report, dict) or report.get("format") != 1:
            raise ValueError(f"{path} is no report of lampion conformance")
        reports.append(report)
    text = page(reports)
    if args.write:
        Path(args.write).write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0
