"""The support tables: printed, and written to docs/support.md from results of the command."""

from __future__ import annotations

from typing import Any

from . import entries

COLUMNS = {"forward": "forward", "reference": "edge values", "layouts": "strided",
           "grad": "gradient", "gradgrad": "second derivatives", "forward_mode": "forward mode",
           "vmap": "vmap", "errors": "error inputs", "inplace": "in-place", "out": "out="}


def count(results: dict[str, Any], check: str, family: str = "") -> tuple[int, int, int, int]:
    """(entries that pass, entries, samples that pass, samples) of a check."""
    good = total = passed = samples = 0
    for e in results["entries"].values():
        if family and e["family"] != family:
            continue
        outcomes = list(e["checks"].get(check, {}).values())
        n, m = sum(o["total"] for o in outcomes), sum(o["passed"] for o in outcomes)
        if n:
            total, good = total + 1, good + (n == m)
        samples, passed = samples + n, passed + m
    return good, total, passed, samples


def line(results: dict[str, Any]) -> str:
    """One line for a device: every check that was made."""
    parts = []
    for check, label in COLUMNS.items():
        good, total, passed, samples = count(results, check)
        if total:
            parts.append(f"{label} {good}/{total} (samples {passed}/{samples})")
    return f"{results['options']['device']}: " + ", ".join(parts)


def table(results: dict[str, Any]) -> list[str]:
    """A Markdown table of families and checks."""
    made = [c for c in COLUMNS if count(results, c)[1]]
    families = sorted({e["family"] for e in results["entries"].values()})
    lines = ["| family | entries | " + " | ".join(COLUMNS[c] for c in made) + " |",
             "|---|---:|" + "---:|" * len(made)]
    for f in [*families, ""]:
        n = sum(not f or e["family"] == f for e in results["entries"].values())
        cells = []
        for c in made:
            good, total, _, _ = count(results, c, f)
            cells.append(f"{good}/{total}" if total else "")
        lines.append(f"| {f or '**all**'} | {n} | " + " | ".join(cells) + " |")
    return lines


def made(results: dict[str, Any]) -> list[str]:
    """How many samples there were and agreed, and which."""
    lines = []
    for check, how in results["made"].items():
        _, total, passed, samples = count(results, check)
        if total and check in COLUMNS:
            many = f"up to {how['samples']}" if how["samples"] else "all"
            dtypes = {"": "float64" if "grad" in check or check == "forward_mode" else "float32",
                      "all": "every dtype"}.get(how["dtypes"], how["dtypes"])
            lines.append(f"- {COLUMNS[check]}: {passed} of {samples} samples ({many} of each "
                         f"entry, seed {how['seed']}, {dtypes})")
    return lines


def failing(results: dict[str, Any]) -> list[str]:
    """The entries that fail something, a line each."""
    lines = []
    for name, e in sorted(results["entries"].items()):
        bad = [COLUMNS[c] for c, t in e["checks"].items()
               if any(o["total"] != o["passed"] for o in t.values())]
        if bad:
            lines.append(f"- `{name}`: {', '.join(bad)}")
    return lines


def native(results: dict[str, Any]) -> list[str]:
    """What a device does itself, and the ops that it leaves to the host."""
    left: dict[str, list[str]] = {}
    for name, e in sorted(results["entries"].items()):
        for op in e.get("fallbacks", ()):
            left.setdefault(op, []).append(name)
    tried = [e for e in results["entries"].values() if any(
        o["total"] for t in e["checks"].values() for o in t.values())]
    good = sum(not e.get("fallbacks") for e in tried)
    lines = [f"Natively {good}/{len(tried)} entries ({good / max(len(tried), 1):.1%})."]
    if left:
        lines += ["Of the others, these ops run on the host where a fallback is allowed, as here,",
                  "and are errors that say so under the default policy:", ""]
        lines += [f"- `{op}`: {', '.join(f'`{n}`' for n in names)}"
                  for op, names in sorted(left.items())]
    return lines


def document(found: list[dict[str, Any]]) -> str:
    """docs/support.md."""
    lines = ["# Support", "",
             "What of PyTorch's operators lampion has, counted by PyTorch's own operator database",
             "(op_db of PyTorch 2.13): results, gradients, errors and forms are compared with",
             "PyTorch's, sample by sample. `make parity` writes this page; `make parity-full` does",
             "so from every sample in every dtype. An entry counts if all of its samples agree.",
             ""]
    for results in found:
        o = results["options"]
        lines += [f"## Device `{o['device']}`", "", *table(results), "", *made(results), ""]
        if o["device"] != "cpu":
            lines += [*native(results), ""]
        bad = failing(results)
        if bad:
            lines += ["Not all samples agree for:", "", *bad, ""]
    lines += ["## Left out", "", "Entries that mean nothing outside PyTorch:", ""]
    lines += [f"- `{name}`: {why}" for name, why in entries.LEFT_OUT.items()]
    lines += ["", "Checks in which PyTorch itself is wrong:", ""]
    lines += [f"- `{name}`, {COLUMNS[check]}{' with a larger tensor' if rest else ''}: {why}"
              for (name, check, *rest), why in entries.EXCUSED.items()]
    return "\n".join(lines) + "\n"
