"""Hand-written kernels of sorting, transforms and linear algebra compile for every architecture,
without spilling registers. As in test_gemm_compiles.py, NVRTC runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("lampion_cuda")
pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings (lampion-cuda)")

GATE = """
import json, re, sys
from string import Template
from lampion.base import dtype as dt
from lampion.base.meta import meta
from lampion_cuda import fourier, handwritten, solver, sorting
from lampion_cuda.compiler import NVRTC
from lampion_cuda.dialect import PRELUDE

texts = {}
handwritten.build = lambda device, source, name: texts.setdefault(source, name)

class Device:
    units, max_group = 132, 1024

for d, descending in ((dt.float32, True), (dt.bfloat16, False), (dt.int64, False),
                      (dt.float64, True), (dt.uint8, False)):
    for shape, dim in (((3, 50), 1), ((3, 4000), 1), ((4000, 3), 0), ((2, 3, 9000), 2)):
        x, n = meta(d, shape, None, None), shape[dim]
        lines = sorting.Lines(dim, x=x, v=x, places=meta(dt.int64, shape, None, None))
        if n > sorting.TILE:
            sorting.radix_calls(Device, lines, d, n, descending, n)
            continue
        for result in (sorting._FIRST_OF_LINES, sorting._ENTRY_OF_LINES):
            sorting.tile_call(Device, lines, d, n, descending, n, result)

def add(name, text, **holes):
    texts[PRELUDE + Template(text).substitute(NAME=name, THREADS=256, WARPS=8, **holes)] = name

for size, bits in ((4, "uint"), (8, "ulong"), (16, "E")):
    for name in ("_TRIANGLE", "_IDENTITY"):
        add(name, getattr(solver, name), SIZE=size, BITS=bits, ONE="0x3f800000ul", UPPER=1)
for real in ("float", "double"):
    add("conjugate", solver._CONJUGATE, REAL=real)
    add("finish", fourier._FINISH, REAL=real, TURN=1, KEEP=0)
    add("scale", fourier._SCALE, REAL=real)
    for parts in (1, 2):
        add("mirror", solver._MIRROR, REAL=real, PARTS=parts, UPPER=0)
        for log in (0, 1):
            add("determinant", solver._DETERMINANT, REAL=real, PARTS=parts, LOG=log)
add("pointers", solver._POINTERS)
add("rows", solver._ROWS, INVERSE=1)

arch, compiler, found = sys.argv[1], NVRTC(), {}
for k, (source, name) in enumerate(texts.items()):
    options = [*compiler.options, f"--gpu-architecture={arch}", "--ptxas-options=-v"]
    log = compiler.compile(source, name, options)[1]
    found[f"{name} {k}"] = [int(re.search(rf"(\\d+) {what}", log)[1])
                            for what in ("bytes spill stores", "bytes spill loads")]
print(json.dumps(found))
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_gate(arch):
    done = subprocess.run([sys.executable, "-c", GATE, arch], capture_output=True, text=True,
                          timeout=500)
    if "cannot be loaded" in done.stderr:
        pytest.skip("needs nvidia-cuda-nvrtc")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) > 60
    assert {k: v for k, v in found.items() if v != [0, 0]} == {}
