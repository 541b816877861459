"""The command line: `python tests/parity/opdb [options]`.

Prints a summary and a line for each failure, and writes all results as JSON (--json).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from . import check_functional, checks, derivatives, entries, forms, gaps, pool, report
from .outcome import Outcome

# The checks by name, and in which dtypes each is done unless --dtypes says so.
CHECKS: dict[str, Any] = {
    "forward": checks.forward, "reference": checks.reference, "layouts": checks.layouts,
    "grad": derivatives.grad, "gradgrad": derivatives.gradgrad,
    "forward_mode": derivatives.forward_mode, "vmap": derivatives.vmap,
    "vmap_loop": check_functional.vmap_loop,
    "errors": checks.errors, "inplace": forms.inplace, "out": forms.out,
}
DERIVATIVES = {"grad": "supports_autograd", "gradgrad": "supports_gradgrad",
               "forward_mode": "supports_forward_ad"}
DTYPES = ("float32", "float64", "int64", "bool", "bfloat16", "float16", "complex64")


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="tests/parity/opdb", description=__doc__)
    p.add_argument("--ops", default="", help="entries, by comma: full names or bare ones")
    p.add_argument("--family", default="", help="families, by comma")
    p.add_argument("--check", default="forward,grad", help=f"of {', '.join(CHECKS)}, or all")
    p.add_argument("--dtypes", default="", help="dtypes, by comma, or all; default: float32 for "
                   "values, float64 for derivatives, an entry's first dtype if it lacks them")
    p.add_argument("--samples", type=int, default=8, help="at most, of each entry; 0: all")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    p.add_argument("--timeout", type=float, default=120.0, help="seconds for an entry")
    p.add_argument("--part", default="", help="k/n: every n-th entry from the k-th on")
    p.add_argument("--json", default="", help="file for the results")
    p.add_argument("--read", nargs="*", default=[], help="take results from these files instead")
    p.add_argument("--report", default="", help="file for the support tables (Markdown)")
    p.add_argument("--gaps", action="store_true", help="compare with the list of known gaps")
    p.add_argument("--write-gaps", action="store_true", help="write that list")
    p.add_argument("--quiet", action="store_true", help="no line per failure")
    return p


def choose(args: argparse.Namespace) -> list[Any]:
    """The entries that the options ask for."""
    found = entries.all_entries()
    if args.ops:
        wanted = set(args.ops.split(","))
        found = [op for op in found if op.name in wanted or entries.full_name(op) in wanted]
    if args.family:
        wanted = set(args.family.split(","))
        found = [op for op in found if entries.family(op) in wanted]
    if args.part:
        k, n = map(int, args.part.split("/"))
        found = found[k % n::n]
    return found


def dtypes_of(op: Any, check: str, wanted: str) -> list[torch.dtype]:
    """The dtypes in which a check of an entry is done."""
    have = op.dtypes
    if check in DERIVATIVES:
        if not getattr(op, DERIVATIVES[check]):
            return []
        names = wanted.split(",") if wanted else ["float64"]
        have = op.supported_backward_dtypes("cpu") if check != "forward_mode" else have
        return [d for d in _named(names) if d in have and (d.is_floating_point or d.is_complex)]
    if wanted:
        return [d for d in _named(DTYPES if wanted == "all" else wanted.split(",")) if d in have]
    for d in (torch.float32, torch.float64, torch.complex64, torch.int64, torch.bool):
        if d in have:
            return [d]
    return []


def _named(names: Any) -> list[torch.dtype]:
    return [getattr(torch, n) for n in names]


def work(task: tuple[int, dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """All checks of one entry, {check: {dtype: outcome}}, and the ops of which the host had to do
    the work of the device."""
    at, options = task
    op = entries.all_entries()[at]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")
    import lampion

    lampion.set_num_threads(1)
    lampion.config.set("fallback.policy", "allow")
    lampion.reset_fallbacks()
    found: dict[str, Any] = {}
    for check in options["checks"]:
        table = found.setdefault(check, {})
        if (op.name, check) in entries.EXCUSED:
            continue
        if check == "errors":
            table["any"] = _guarded(checks.Job(op, check, None, *options["job"])).as_dict()
            continue
        for d in dtypes_of(op, check, options["dtypes"]):
            job = checks.Job(op, check, d, *options["job"])
            table[str(d).removeprefix("torch.")] = _guarded(job).as_dict()
    return found, sorted({e.op for e in lampion.fallbacks()})


def _guarded(job: checks.Job) -> Outcome:
    try:
        return CHECKS[job.check](job)
    except Exception as e:
        out = Outcome(total=1)
        out.fail("samples", "harness", f"{type(e).__name__}: {e}")
        return out


def collect(args: argparse.Namespace) -> dict[str, Any]:
    """Run what the options ask for: {"options", "entries": {name: {family, checks}}}."""
    names = list(CHECKS) if args.check == "all" else args.check.split(",")
    unknown = set(names) - set(CHECKS)
    if unknown:
        raise SystemExit(f"no check called {sorted(unknown)}; there are {', '.join(CHECKS)}")
    options = {"checks": names, "dtypes": args.dtypes,
               "job": (args.device, args.seed, args.samples)}
    every = entries.all_entries()
    chosen = choose(args)
    index = {id(op): k for k, op in enumerate(every)}
    results: dict[str, Any] = {}
    tasks = [(index[id(op)], options) for op in chosen]
    start = time.monotonic()
    for done, ((at, _), found, trouble) in enumerate(
            pool.run(tasks, work, args.jobs, args.timeout), 1):
        op, fallbacks = every[at], []
        if done % 50 == 0:
            print(f"{done} of {len(tasks)} entries, {time.monotonic() - start:.0f} s",
                  file=sys.stderr, flush=True)
        if found is not None:
            found, fallbacks = found
        else:
            failure = {"sample": "all", "kind": trouble, "text": trouble}
            found = {c: {"any": {"total": 1, "passed": 0, "failures": [failure]}} for c in names}
        results[entries.full_name(op)] = {"family": entries.family(op), "checks": found,
                                           "fallbacks": fallbacks}
    ordered = {entries.full_name(op): results[entries.full_name(op)] for op in chosen}
    return {"options": vars(args), "entries": ordered}


def failures(results: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(entry, check, dtype, failure) for every failure."""
    return [(name, check, d, f) for name, e in results["entries"].items()
            for check, table in e["checks"].items() for d, o in table.items()
            for f in o["failures"]]


def summary(results: dict[str, Any]) -> str:
    """Entries and samples that pass, per check, and the kinds of failures."""
    lines = []
    for check in CHECKS:
        good, total, passed, samples = report.count(results, check)
        if total:
            lines.append(f"{check:13} {good}/{total} entries, {passed}/{samples} samples")
    kinds = Counter((c, f["kind"]) for _, c, _, f in failures(results))
    lines += [f"  {n:5} {check} {kind}" for (check, kind), n in kinds.most_common(30)]
    return "\n".join(lines)


def merged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of the same device as one: the checks of each entry together. Where two files have
    the same check of an entry, the later one counts. How a check was made, the last file tells that
    has every entry."""
    by_device: dict[str, dict[str, Any]] = {}
    for results in found:
        o = results["options"]
        results["made"] = {c: {k: o[k] for k in ("samples", "seed", "dtypes")} for c in CHECKS
                           if o["check"] == "all" or c in o["check"].split(",")}
        into = by_device.setdefault(results["options"]["device"], results)
        if into is results:
            continue
        into["seconds"] += results["seconds"]
        whole = len(results["entries"]) >= len(into["entries"])
        into["made"] = {**into["made"], **results["made"]} if whole else {
            **results["made"], **into["made"]}
        for name, e in results["entries"].items():
            one = into["entries"].setdefault(name, e)
            one["checks"].update(e["checks"])
            one["fallbacks"] = sorted({*one.get("fallbacks", ()), *e.get("fallbacks", ())})
    return list(by_device.values())


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 if anything fails (with --gaps: that is not known, or no longer)."""
    args = parser().parse_args(argv)
    if args.read:
        found = merged([json.loads(Path(f).read_text()) for f in args.read])
    else:
        start = time.monotonic()
        found = merged([{**collect(args), "seconds": 0}])
        found[0]["seconds"] = round(time.monotonic() - start, 1)
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(found[0], indent=1))
    bad = [f for results in found for f in failures(results)]
    if not args.quiet:
        for name, check, d, f in bad:
            print(f"{name} {check} {d} #{f['sample']} {f['kind']}: {f['text']}")
    for results in found:
        print(f"seed {results['options']['seed']}, {results['seconds']} s; {report.line(results)}")
        print(summary(results) if not args.report else "\n".join(report.table(results)))
    if args.report:
        Path(args.report).write_text(report.document(found))
    if args.write_gaps:
        gaps.write(found[0])
    if args.gaps:
        news, mended = gaps.compare(found[0])
        for text, lines in (("fails and is no known gap", news), ("passes: not a gap", mended)):
            for line in lines:
                print(f"{line}: {text}")
        return 1 if news or mended else 0
    return 1 if bad and not args.report else 0
