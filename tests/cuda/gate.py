"""The compile gate: every kernel text goes through NVRTC, without a GPU, for several architectures.

    python tests/cuda/gate.py report FOLDER [-o FILE] [--arch sm_90 ...]

compiles the texts in FOLDER (which tests leave there under LAMPION_SIMULATOR="on,texts=FOLDER") and
writes a table of registers, shared and local memory, and spills; it fails if a kernel does not
compile or spills. Uses the plug-in's own compiler; results are kept in lampion's cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# Functions of double numbers (exp, division) are subroutines, around whose calls ptxas saves a few
# registers however many are free. That is not the want of registers that the gate looks for.
AROUND_CALLS, PLENTY = 32, 96


class Usage(NamedTuple):
    """What one kernel takes on one architecture: registers of a thread; bytes of shared memory of a
    block, of local memory and of spilled registers of a thread. `wide` if the text computes with
    double numbers; `error` if it does not compile."""

    kernel: str
    arch: str
    registers: int = 0
    shared: int = 0
    local: int = 0
    spilled: int = 0
    wide: bool = False
    error: str = ""

    @property
    def spills(self) -> bool:
        """Whether the registers were not enough."""
        return self.spilled > (AROUND_CALLS if self.wide and self.registers < PLENTY else 0)


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'(.*?)(?=Compiling entry|\Z)",
                    re.DOTALL)


def parse(log: str) -> list[Usage]:
    """The usage of each kernel that a log of `ptxas -v` names. ValueError if it names none.

    >>> parse('''ptxas info    : Compiling entry function 'k' for 'sm_90'
    ... ptxas info    : Function properties for k
    ...     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
    ... ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem
    ... ''')  # doctest: +NORMALIZE_WHITESPACE
    [Usage(kernel='k', arch='sm_90', registers=40, shared=512, local=16, spilled=12, wide=False,
    error='')]
    """
    found = []
    for name, arch, text in _ENTRY.findall(log):
        def number(pattern: str, text: str = text) -> int:
            return sum(int(n) for n in re.findall(pattern, text))

        found.append(Usage(name, arch, number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"),
                           number(r"(\d+) bytes stack frame"),
                           number(r"(\d+) bytes spill (?:stores|loads)")))
    if not found:
        raise ValueError(f"the compiler's log does not tell what kernels use: {log[:500]!r}")
    return found


def compile_text(source: str, name: str, arch: str) -> list[Usage]:
    """The usage of the kernels of a text, from the cache if it was compiled before."""
    from lampion_cuda.compiler import NVRTC, _cached

    compiler = _compiler()
    options = [*NVRTC.options, f"--gpu-architecture={arch}", "--ptxas-options=-v"]
    form = Usage._fields  # of what is kept
    parts = repr((form, compiler.version(), options, source))
    key = hashlib.sha256(parts.encode()).hexdigest()[:40]

    def make() -> bytes:
        _, log = compiler.compile(source, name, options)
        wide = re.search(r"\bdouble\b", source) is not None
        return json.dumps([u._replace(wide=wide) for u in parse(log)]).encode()

    try:
        return [Usage(*fields) for fields in json.loads(_cached(f"{key}.usage", make))]
    except RuntimeError as error:
        return [Usage(name, arch, error=str(error).partition("\n--- source")[0])]


_made: list = []


def _compiler():
    if not _made:
        from lampion_cuda.compiler import NVRTC

        _made.append(NVRTC())
    return _made[0]


def gate(texts: Mapping[str, str], architectures: Sequence[str] = ARCHITECTURES) -> list[Usage]:
    """The usage of all kernels; `texts` maps texts to the name of their kernel."""
    _compiler()
    jobs = [(source, name, arch) for source, name in texts.items() for arch in architectures]
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        return [u for found in workers.map(lambda job: compile_text(*job), jobs) for u in found]


def failures(usages: Iterable[Usage]) -> str:
    """What is wrong with the kernels, or nothing."""
    lines = [f"{u.kernel} on {u.arch}: " + (u.error or f"{u.spilled} bytes of registers spilled "
                                            f"(it uses {u.registers})")
             for u in usages if u.error or u.spills]
    return "\n".join(lines)


def table(usages: Sequence[Usage]) -> str:
    """A Markdown table: a line per kernel name, the largest use over its variants."""
    architectures = sorted({u.arch for u in usages}, key=lambda a: int(re.sub(r"\D", "", a)))
    groups: dict[str, list[Usage]] = defaultdict(list)
    for u in usages:
        groups[u.kernel].append(u)
    lines = ["| kernel | variants | " + " | ".join(f"registers {a}" for a in architectures)
             + " | shared | local | spilled |", "|---|" + "--:|" * (len(architectures) + 4)]
    for kernel, all_of in sorted(groups.items()):
        registers = [max((u.registers for u in all_of if u.arch == a), default=0)
                     for a in architectures]
        numbers = [len(all_of) // len(architectures), *registers,
                   *(max(getattr(u, part) for u in all_of)
                     for part in ("shared", "local", "spilled"))]
        lines.append(f"| `{kernel}` | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def read_texts(folder: Path) -> dict[str, str]:
    """The texts that a toolchain kept: files NAME-HASH.cu."""
    return {path.read_text(): path.stem.rpartition("-")[0] for path in sorted(folder.glob("*.cu"))}


def report(usages: Sequence[Usage]) -> str:
    """The page: what was compiled with what, and the table."""
    version = ".".join(map(str, _compiler().version()))
    kernels = len({u.kernel for u in usages})
    return (f"# Registers of the CUDA backend's kernels\n\nNVRTC {version}, {kernels} kernels in "
            f"{len(usages)} compilations. `variants` counts texts of one name; other columns are "
            f"the largest of them: registers per thread, and bytes of shared memory per block, of "
            f"local memory and of spilled registers per thread.\n\n{table(usages)}\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compile kernel texts with NVRTC.")
    parser.add_argument("command", choices=["report"])
    parser.add_argument("folder", type=Path, help="texts that tests have left")
    parser.add_argument("-o", "--output", type=Path, help="where to write the table")
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES)
    chosen = parser.parse_args()
    texts = read_texts(chosen.folder)
    if not texts:
        print(f"{chosen.folder} holds no texts; run tests with "
              f'LAMPION_SIMULATOR="on,texts={chosen.folder}"', file=sys.stderr)
        return 2
    usages = gate(texts, chosen.arch)
    page, wrong = report(usages), failures(usages)
    if chosen.output:
        chosen.output.write_text(page)
    else:
        print(page)
    print(wrong or f"{len(texts)} texts compile for {', '.join(chosen.arch)}, none spills",
          file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
