"""How fast public programs train under lampion and under PyTorch, eager, on the same processor.

Run: LAMPION_PROGRAMS=/path python tests/torch_programs/speed.py [--write PAGE] [CASE ...]

Both run as processes of their own and take steps in turn, so that a busy machine is busy for both;
the fastest step of each counts, with one thread in seconds of the processor.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
NAMES = ["nanoGPT", "nanoGPT-large", "makemore-transformer", "makemore-mlp", "makemore-bow",
         "makemore-rnn", "makemore-gru", "cifar-resnet18", "cifar-resnet18-large", "cifar-vgg11",
         "cifar-mobilenet", "cifar-mobilenetv2", "cifar-lenet", "cifar-shufflenetv2",
         "cifar-senet", "siamese", "mnist", "vae", "word-lstm", "word-lstm-large", "word-gru",
         "word-rnn_tanh", "word-transformer", "vit", "vit-large", "vit-simple", "vit-deep",
         "time-sequence", "gpt2", "einops"]


class Stepper:
    """A process that takes steps when asked."""

    def __init__(self, command: list[str], name: str, programs: str, threads: int) -> None:
        path = os.pathsep.join([str(HERE), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, *command, str(HERE / "step_model.py"), name, programs, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": path, "LAMPION_THREADS": str(threads)})
        line = ""
        while not line.startswith("ready "):  # programs print while they are built
            line = self._line()
        self.whose = line.split()[-1]

    def _line(self) -> str:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"the process ended with status {self.process.wait()}")
        return line.strip()

    def step(self, count: int) -> float:
        """Seconds of the fastest of some steps."""
        self.process.stdin.write(f"{count}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return float(self._line())

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(name: str, programs: str, threads: int, rounds: int) -> tuple[float, float]:
    """(lampion, PyTorch) seconds a step."""
    ours = Stepper(["-m", "lampion", "run"], name, programs, threads)
    theirs = Stepper([], name, programs, threads)
    assert ours.whose.startswith("lampion") and theirs.whose.startswith("torch")
    try:
        both = [(ours.step(3), theirs.step(3)) for _ in range(rounds + 1)][1:]
    finally:
        ours.end()
        theirs.end()
    return min(a for a, _ in both), min(b for _, b in both)


def page(rows: list[tuple[str, float, float]], threads: int) -> str:
    """The table as Markdown."""
    import importlib.metadata as installed

    ratios = [b / a for _, a, b in rows]
    lines = [
        "# Programs of others, eager, on a CPU", "",
        "Training steps (forward, loss, backward, optimizer) of models from unmodified public "
        "files, under `lampion run` and under PyTorch. Each runs in a process of its own; both "
        "take steps in turn, and the fastest step counts: with one thread in processor time, with "
        "more by the clock. Above 1 lampion is faster.", "",
        "To reproduce, put checkouts of the repositories that `tests/torch_programs/cases.py` "
        "names into a folder and run `make programs PROGRAMS=/path`; it also compares what the "
        "models compute, and writes this page. Sizes are those of the cases: small ones show the "
        "cost of calls, `-large` ones that of kernels.", "",
        f"This run: Python {platform.python_version()}, torch {installed.version('torch')}, "
        f"{threads} thread{'s' * (threads != 1)}, {platform.machine()}. Median ratio "
        f"{statistics.median(ratios):.2f}, lowest {min(ratios):.2f}.", "",
        "| program | lampion | torch | torch / lampion |", "|---|---:|---:|---:|"]
    lines += [f"| {n} | {1e3 * a:.2f} ms | {1e3 * b:.2f} ms | {b / a:.2f} |" for n, a, b in rows]
    return "\n".join(lines) + "\n"


def main() -> Any:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--write", help="the page to write the table to")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    programs = os.environ["LAMPION_PROGRAMS"]
    rows = []
    for name in options.names:
        try:
            row = (name, *measure(name, programs, options.threads, options.rounds))
        except RuntimeError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
            continue
        rows.append(row)
        print(f"{name}: {row[2] / row[1]:.2f}", file=sys.stderr, flush=True)
    text = page(rows, options.threads)
    print(text)
    if options.write:
        Path(options.write).write_text(text)


if __name__ == "__main__":
    main()
