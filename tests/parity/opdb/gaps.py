"""The list of known gaps: `known_gaps.txt`, lines of `entry check dtype`, `#` starts a comment.

The list is strict: a gap that passes has to leave it, a failure that is not on it is news. It
holds for the checks, samples and seed of OPTIONS only, because other samples of an entry may pass.
A line that ends in `?` is of a gap that rounding closes on some processors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("known_gaps.txt")
# what the list holds for
OPTIONS = ("--check", "forward,grad,errors,inplace", "--samples", "2", "--seed", "0")


def known() -> dict[tuple[str, str, str], bool]:
    """(entry, check, dtype) of each line: whether it has to fail everywhere."""
    if not FILE.exists():
        return {}
    lines = (line.partition("#")[0].split() for line in FILE.read_text().splitlines())
    return {(words[0], words[1], words[2]): "?" not in words[3:] for words in lines if words}


def outcomes(results: dict[str, Any]) -> dict[tuple[str, str, str], bool]:
    """Whether each check of each entry passed."""
    return {(name, check, d): o["total"] == o["passed"]
            for name, e in results["entries"].items()
            for check, table in e["checks"].items() for d, o in table.items() if o["total"]}


def compare(results: dict[str, Any], family: str = "") -> tuple[list[str], list[str]]:
    """(failures that are not known, known gaps that pass), as lines of the file."""
    found = outcomes(results)
    if family:
        found = {k: v for k, v in found.items()
                 if results["entries"][k[0]]["family"] == family}
    listed = known()
    news = sorted(k for k, good in found.items() if not good and k not in listed)
    mended = sorted(k for k, strict in listed.items() if strict and found.get(k, False))
    return [" ".join(k) for k in news], [" ".join(k) for k in mended]


def write(results: dict[str, Any]) -> None:
    """Make the list hold what fails in `results`."""
    bad = sorted(k for k, good in outcomes(results).items() if not good)
    head = ["# Known gaps against PyTorch's operator database; see gaps.py.",
            "# Written by",
            f"# python tests/parity/opdb {' '.join(OPTIONS)} --write-gaps"]
    FILE.write_text("\n".join([*head, *(" ".join(k) for k in bad)]) + "\n")
