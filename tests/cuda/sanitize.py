"""NVIDIA's compute-sanitizer over the tests of kernels, on a GPU: `python tests/cuda/sanitize.py`.

`make gpu SANITIZE=1` runs it. memcheck finds accesses outside memory, racecheck threads that do not
wait for each other. More arguments go to pytest. Exits with 1 if a tool or a test finds something
wrong; without compute-sanitizer it says so and checks nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = ("memcheck", "racecheck")
# Tests that run hand-written and generated kernels on a GPU.
KERNELS = ("test_generated_kernels.py", "test_gemm.py", "test_cuda_conv.py",
           "test_cuda_attention.py", "test_sorting.py", "test_scans.py", "test_fourier.py",
           "test_random.py")
MISSING = (
    "SANITIZE: compute-sanitizer was not found, so that NO kernel was checked by it. It comes with "
    "the CUDA toolkit: put its folder in PATH, or set CUDA_HOME.")


def found() -> str | None:
    """The program's path."""
    places = [os.environ.get("PATH", "")]
    places += [str(Path(os.environ[name], part)) for name in ("CUDA_HOME", "CUDA_PATH")
               if os.environ.get(name) for part in ("bin", "compute-sanitizer")]
    places += ["/usr/local/cuda/bin"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def command(program: str, tool: str, more: list[str]) -> list[str]:
    """The command line of one tool; pytest runs in its process alone, one test after the other."""
    return [program, "--tool", tool, "--error-exitcode", "9", "--target-processes",
            "application-only", sys.executable, "-m", "pytest", "-q", "-p", "no:xdist",
            *(str(HERE / name) for name in KERNELS if (HERE / name).exists()), *more]


def main(more: list[str]) -> int:
    """Run all tools."""
    program = found()
    if program is None:
        print(MISSING, flush=True)
        return 0
    wrong = []
    for tool in TOOLS:
        print(f"SANITIZE: {tool}, by {program}", flush=True)
        done = subprocess.run(command(program, tool, more),
                              env={**os.environ, "LAMPION_CUDA_REAL": "1"}, check=False)
        if done.returncode:
            wrong.append(f"{tool} (exit status {done.returncode})")
    print(f"SANITIZE: {'found errors: ' + ', '.join(wrong) if wrong else 'nothing was found'}",
          flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
