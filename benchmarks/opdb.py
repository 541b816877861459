"""Every op of PyTorch's op database that lampion has, against torch, at two sizes.

Prints a table by family with geometric means, the ops slower than half of torch with the reason,
and what is missing; `--write` puts them into docs/benchmarks/opdb.md. Inputs are in
`opdb_inputs.py`. A result whose shape, dtype or values are not torch's is reported, not timed.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import opdb_inputs
from measure import Row, duration, geomean, versus
from opdb_inputs import FUNCTION, RANDOM
from opdb_tensors import LARGE, SMALL, Sizes

FLOOR = 0.5  # an op slower than this fraction of torch needs a reason
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "opdb.md"

# Why an op is slower than FLOOR: expressions for names, in order, with the reason.
REASONS = (
    (r"igammac?$", "kernels of 8 or 16 steps; the host looks whether all elements have converged"),
    (r"gcd$|lcm$", "Euclid in kernels of 8 steps; the host looks whether all are done"),
    (r".*polynomial_", "a tensor of degrees: the largest is read, then one kernel a degree"),
    (r"nn.functional.ctc_loss", "lengths are read on the host; some kernels a time step"),
    (r"nn.functional.grid_sample|grid_sampler_", "composition of about a hundred small kernels"),
    (r"nn.functional.fractional_max_pool", "composition of about thirty small kernels"),
    (r"nn.functional.multi|nn.functional.max_unpool|linalg.cross|cross$|hash_tensor|cov$|corrcoef",
     "composition of small kernels"),
    (r"unique|masked_scatter|bincount|histogram|histc|isin|nonzero|argwhere|equal|allclose|"
     r"masked_select|repeat_interleave|gradient",
     "values (a size, a range, a verdict) are read on the host between kernels"),
    (r"logspace|signal.windows", "computed by NumPy in float64, then converted"),
    (r".*_indices|block_diag", "several kernels over memory, and no tensor argument "
     "to know a repeated call by"),
    (r"linalg|lu|qr|chol|svd|pinverse|lstsq|geqrf|ormqr|matrix_exp|triangular|logdet|norm/nuc|"
     r"pca_lowrank", "LAPACK of SciPy's OpenBLAS instead of MKL's, called through Python"),
    (r"nn.functional.pad/replicate_negative", "one gather a dim"),
    (r"native_", "the parts of the result are made by kernels of their own"),
    (r"fft|stft|istft", "the transform is NumPy's pocketfft or a generated pass, not MKL's"),
    (r"empty|new_empty|zero_|resize|flatten|unflatten|view_as|T$|H$|item|to$|split|expand",
     "under a microsecond or two of Python"),
    (r"topk", "NumPy's partition of whole lines; torch keeps a heap of k"),
    (r"nn.functional.embedding_bag", "rows are gathered, then added: two passes over memory"),
    (r"cumprod|logcumsumexp", "one multiplication after another, a line at a time"),
    (r"erfinv", "polynomials for 2 units in the last place in both tails, computed in every lane"),
    (r"bernoulli|multinomial|rand|normal|cauchy|exponential|geometric|uniform|log_normal|dropout|"
     r"nn.functional.rrelu", "the generator's state is kept in Python"),
)


def reason(name: str) -> str:
    """Why an entry may be slow, as far as it is known."""
    return next((text for pattern, text in REASONS if re.match(pattern, name)), "")


class Entry(NamedTuple):
    """One line of the database: "name" or "name/variant", and the class of its OpInfo."""

    name: str
    kind: str

    @property
    def family(self) -> str:
        """The family it is counted in."""
        return opdb_inputs.family(self.name, self.kind)


def entries() -> list[Entry]:
    """The database, without what belongs to torch alone."""
    from torch.testing._internal.common_methods_invocations import op_db

    found = {Entry(op.name + (f"/{op.variant_test_name}" if op.variant_test_name else ""),
                   type(op).__name__) for op in op_db}
    return sorted(e for e in found if not opdb_inputs.skipped(e.name))


def function(module: Any, entry: str) -> Callable[..., Any] | None:
    """The public function of an entry in torch or lampion: by its path, else a method."""
    name = FUNCTION.get(entry) or FUNCTION.get(entry.partition("/")[0]) or entry.partition("/")[0]
    if name in ("T", "H", "mT", "mH"):
        return lambda x: getattr(x, name)
    at = module
    try:
        for part in name.split("."):
            at = getattr(at, part)
        return at if callable(at) else getattr(module.Tensor, name)  # torch.int is a dtype
    except (AttributeError, ImportError):
        return None if "." in name else getattr(module.Tensor, name, None)


def converted(value: Any, lampion: Any, torch: Any) -> Any:
    """A torch argument as lampion's."""
    if isinstance(value, torch.Tensor):
        return lampion.from_numpy(value.contiguous().numpy().copy())
    if isinstance(value, torch.dtype):
        return getattr(lampion, str(value).partition(".")[2])
    if type(value) in (list, tuple):
        return type(value)(converted(v, lampion, torch) for v in value)
    if isinstance(value, dict):
        return {k: converted(v, lampion, torch) for k, v in value.items()}
    return value


def disagreement(name: str, ours: Any, theirs: Any, torch: Any) -> str:
    """What is wrong with a result, or ""."""
    if isinstance(theirs, (list, tuple)) and not isinstance(theirs, torch.Size):
        if not isinstance(ours, (list, tuple)) or len(ours) != len(theirs):
            return f"{len(theirs)} results expected"
        return next(filter(None, (disagreement(name, a, b, torch)
                                  for a, b in zip(ours, theirs))), "")
    if not isinstance(theirs, torch.Tensor):
        return ""
    if tuple(ours.shape) != tuple(theirs.shape):
        return f"shape {tuple(ours.shape)}, not {tuple(theirs.shape)}"
    if str(ours.dtype).rpartition(".")[2] != str(theirs.dtype).rpartition(".")[2]:
        return f"dtype {ours.dtype}, not {theirs.dtype}"
    if any(word in name for word in RANDOM) or theirs.dtype == torch.bfloat16:
        return ""
    mine, yours = torch.from_numpy(ours.contiguous().numpy()), theirs.contiguous().resolve_conj()
    if not torch.allclose(mine, yours, rtol=2e-3, atol=2e-3, equal_nan=True):
        off = (mine != yours) & ~((mine != mine) & (yours != yours))
        return f"{int(off.sum())} of {off.numel()} values differ"
    return ""


class Result(NamedTuple):
    """What became of an entry at one size: a timing, or why there is none."""

    entry: Entry
    row: Row | None
    problem: str = ""
    missing: bool = False


def measured(entry: Entry, s: Sizes, lampion: Any, torch: Any, seconds: float) -> Result:
    """Time one entry at one size."""
    theirs, ours = function(torch, entry.name), function(lampion, entry.name)
    if theirs is None:
        return Result(entry, None, "torch has no public function", True)
    if ours is None:
        return Result(entry, None, "missing", True)
    try:
        args, kwargs = opdb_inputs.inputs(entry.name, entry.kind, s)
        expected = theirs(*args, **kwargs)
    except Exception as e:
        return Result(entry, None, f"torch: {str(e).splitlines()[0][:80]}", True)
    try:
        args_, kwargs_ = converted(args, lampion, torch), converted(kwargs, lampion, torch)
        wrong = disagreement(entry.name, ours(*args_, **kwargs_), expected, torch)
    except Exception as e:
        return Result(entry, None, f"{type(e).__name__}: {(str(e) or '?').splitlines()[0][:80]}")
    if wrong:
        return Result(entry, None, wrong)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    ours(*args_, **kwargs_)
    theirs(*args, **kwargs)
    once = clock() - start
    rounds = max(3, min(9, int(seconds / max(once, 1e-9))))
    target = max(seconds / (2 * rounds + 4), 1e-4)
    try:
        return Result(entry, versus(entry.name, lambda: ours(*args_, **kwargs_),
                                    lambda: theirs(*args, **kwargs), rounds=rounds, target=target,
                                    clock=clock))
    except Exception as e:
        return Result(entry, None, f"{type(e).__name__}: {str(e).splitlines()[0][:80]}")


def summary(results: dict[str, list[Result]]) -> str:
    """The table of families and the lists, in Markdown."""
    lines = ["| family | ops | " + " | ".join(results) + " |",
             "|---|---:|" + "---:|" * len(results)]
    families = sorted({r.entry.family for found in results.values() for r in found if r.row})
    for name in [*families, ""]:
        cells, count = [], 0
        for found in results.values():
            rows = [r.row for r in found if r.row and (not name or r.entry.family == name)]
            count = max(count, len(rows))
            cells.append(f"{geomean([r.ratio for r in rows]):.2f}x" if rows else "")
        title, mark = (name, "") if name else ("all", "**")
        lines.append(f"| {mark}{title}{mark} | {count} | "
                     + " | ".join(f"{mark}{c}{mark}" for c in cells) + " |")
    for size, found in results.items():
        slow = sorted((r.row for r in found if r.row and r.row.ratio < FLOOR),
                      key=lambda r: r.ratio)
        lines += ["", f"## Slower than {FLOOR:g}x torch, {size}: {len(slow)}", ""]
        if slow:
            lines += ["| op | lampion | torch | ratio | reason |", "|---|---:|---:|---:|---|"]
        lines += [f"| {r.name} | {duration(r.ours)} | {duration(r.theirs)} | {r.ratio:.2f} | "
                  f"{reason(r.name)} |" for r in slow]
    last = next(iter(results.values()))
    missing = [r.entry.name for r in last if r.missing]
    lines += ["", f"## Missing: {len(missing)}", "", ", ".join(missing) or "nothing"]
    wrong = {r.entry.name: f"{size}: {r.problem}" for size, found in results.items() for r in found
             if r.problem and not r.missing}
    lines += ["", f"## Not comparable: {len(wrong)}", ""]
    lines += [f"- {name}: {why}" for name, why in sorted(wrong.items())]
    return "\n".join(lines) + "\n"


def detail(results: dict[str, list[Result]]) -> str:
    """Every row, by family."""
    lines = ["", "## Every op", ""]
    by: dict[str, dict[str, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for size, found in results.items():
        for r in found:
            if r.row:
                by[r.entry.family][r.entry.name][size] = r.row
    for name, ops in sorted(by.items()):
        lines += [f"### {name}", "", "| op | " + " | ".join(
            f"{size}: lampion | torch | ratio" for size in results) + " |",
            "|---|" + "---:|---:|---:|" * len(results)]
        for op, rows in sorted(ops.items()):
            cells = []
            for size in results:
                row = rows.get(size)
                cells.append(f"{duration(row.ours)} | {duration(row.theirs)} | {row.ratio:.2f}"
                             if row else " | | ")
            lines.append(f"| {op} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def run(lampion: Any, torch: Any, arguments: Sequence[str] = ()) -> None:
    """Measure and print; see --help."""
    p = argparse.ArgumentParser(prog="run.py opdb", description=__doc__)
    p.add_argument("-k", default="", help="only entries whose name matches this expression")
    p.add_argument("--size", choices=("small", "large", "both"), default="both")
    p.add_argument("--seconds", type=float, default=0.15, help="spent on an op at a size")
    p.add_argument("--threads", type=int, default=0,
                   help="of both; 0: what torch takes; 1: processor time is counted")
    p.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = p.parse_args(list(arguments))
    threads = given.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    lampion.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    sizes = {"small": [SMALL], "large": [LARGE], "both": [SMALL, LARGE]}[given.size]
    chosen = [e for e in entries() if re.search(given.k, e.name)]
    results: dict[str, list[Result]] = {s.name: [] for s in sizes}
    for e in chosen:
        for s in sizes:
            r = measured(e, s, lampion, torch, given.seconds)
            results[s.name].append(r)
            if given.k and r.row:
                print(f"{e.name:44} {s.name:10} {duration(r.row.ours):>9} "
                      f"{duration(r.row.theirs):>9} {r.row.ratio:6.2f}", flush=True)
            if r.problem and (given.k or not r.missing):
                print(f"{e.name:44} {s.name:10} {r.problem}", file=sys.stderr, flush=True)
    if not any(r.row for found in results.values() for r in found):
        return
    text = summary(results)
    print(text)
    if given.write:
        clock = " (processor time)" if threads == 1 else ""
        head = (f"# PyTorch's op database\n\nlampion against torch {torch.__version__} on "
                f"{platform.machine()}, Python {platform.python_version()}, {threads} thread"
                f"{'s' * (threads > 1)} each{clock}, alternating in one process, medians; "
                "a ratio above 1 means that lampion is faster. Made by "
                "`make bench SUITE=opdb ARGS=--write`.\n\n")
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(head + text + detail(results))


__all__ = ["run", "entries", "function", "measured"]
