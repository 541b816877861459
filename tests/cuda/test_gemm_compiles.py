"""The generated matrix products compile for every architecture, without spilling registers.

NVRTC needs no GPU. It runs in a process of its own: the one of these tests may have the simulator's
driver loaded, which NVRTC would take for a real one.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("lampion_cuda")
pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings (lampion-cuda)")

GATE = """
import json, re, sys
from lampion.base import dtype as dt
from lampion_cuda import gemm, gemm_text
from lampion_cuda.compiler import NVRTC

arch, compiler, found = sys.argv[1], NVRTC(), {}

def gate(label, source, name):
    options = [*compiler.options, f"--gpu-architecture={arch}", "--ptxas-options=-v"]
    log = compiler.compile(source, name, options)[1]
    found[label] = [int(re.search(rf"(\\d+) {what}", log)[1])
                    for what in ("bytes spill stores", "bytes spill loads")]

for turned in (False, True):
    along = (not turned, turned)
    for t in (*gemm.TENSOR, gemm.FLAT):
        d = dt.float16 if turned else dt.bfloat16
        gate(f"tensor {d.name} {t.rows} {along}",
             gemm_text.tensor(d, t, along, 1, not turned, turned), "tensor")
    for d, offers in ((dt.float32, gemm.PLAIN), (dt.float64, gemm.WIDE), (dt.int64, gemm.WIDE)):
        for t in offers:
            gate(f"tiles {d.name} {t.rows} {along}",
                 gemm_text.tiles(d, t, along, 1, not turned, turned), "tiles")
gate("parts", gemm_text.parts(dt.bfloat16, 2, True), "parts")
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
    assert len(found) == 15
    assert {k: v for k, v in found.items() if v != [0, 0]} == {}
