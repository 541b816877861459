"""Kernels that the plug-in generates compile with NVRTC for three architectures and do not spill.

Here those of a choice of ops, with their gradients; `gate.py report` takes all that tests made.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lampion_cuda", reason="needs lampion-cuda")
pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and NVRTC")
import gate  # noqa: E402

import lampion  # noqa: E402
from lampion import nn  # noqa: E402

SPILLS = """extern "C" __global__ void __launch_bounds__(1024, 2) spills(float *x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; i++) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int k = 1; k < 64; k++)
#pragma unroll
    for (int i = 0; i < 64; i++) v[i] = v[i] * v[(i * k) % 64] + v[63 - i];
#pragma unroll
  for (int i = 0; i < 64; i++) x[i * 1024 + threadIdx.x] = v[i]; }"""


def touch_many_kernels(device: str) -> None:
    """Ops of every schedule: elementwise, broadcast, reductions, scans, scatters, random."""
    def make(*shape, dtype="float32"):
        x = np.linspace(0.1, 0.9, int(np.prod(shape))).reshape(shape)
        return lampion.tensor(x, dtype=getattr(lampion, dtype), device=device)

    for dtype in ("float32", "float64", "bfloat16"):
        x = make(33, 70, dtype=dtype).requires_grad_()
        y = (x * 2 + x[0]).exp().log1p().tanh() / (1 + x.sin().abs()) + lampion.where(x > 0.5, x, 0)
        y = nn.functional.gelu(nn.functional.silu(y))
        z = nn.functional.layer_norm(y, (70,)) + lampion.softmax(y, 1) + y.cumsum(0)
        (z.sum() + y.amax(1).sum() + y.std(0).sum() + y.prod(1).sum()).backward()
        assert x.grad is not None
        x.detach().argmax(1), x.detach().transpose(0, 1).contiguous(), x.detach().sum(0)
    i = make(100).mul(1000).to(lampion.int64)
    (i // 7 + i % 5).bitwise_xor(i << 3).max()
    make(64, dtype="complex64").exp().abs().sum()
    lampion.zeros(10, device=device).index_add(0, i % 10, make(100)).sort()
    lampion.randn(1000, device=device), lampion.rand(10, 10, device=device)
    x = make(2, 3, 8, 8)
    nn.functional.max_pool2d(x, 2), nn.functional.pad(x, (1, 1)), x.flip(2), lampion.erfinv(x)
    nn.functional.cross_entropy(make(8, 10), i[:8] % 10), lampion.special.gammaln(x)


def test_generated_kernels_compile_and_do_not_spill(gpu, simulated):
    before = dict(simulated.toolchain().texts)
    touch_many_kernels(gpu)
    texts = simulated.toolchain().texts
    assert len(texts) > len(before) or len(texts) > 100, "kernels were generated"
    # those of the schedule (k_...): hand-written ones have gates of their own, by form
    texts = {text: name for text, name in texts.items() if name.startswith("k_")}
    usages = gate.gate(texts)
    assert not gate.failures(usages)
    assert len(usages) == len(texts) * len(gate.ARCHITECTURES)
    assert all(0 < u.registers <= 255 for u in usages)


def test_spills_and_errors_are_found():
    usages = gate.gate({SPILLS: "spills", 'extern "C" __global__ void broken() { x; }': "broken"},
                       ["sm_90"])
    assert [bool(u.error) for u in usages] == [False, True]
    assert usages[0].spilled > 0 and usages[0].local > 0
    text = gate.failures(usages)
    assert "spills on sm_90" in text and 'identifier "x" is undefined' in text


def test_the_report_has_a_line_per_kernel(tmp_path, monkeypatch, capsys):
    (tmp_path / "scale-1.cu").write_text(
        'extern "C" __global__ void scale(float *x) { x[threadIdx.x] *= 2; }')
    page = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["gate.py", "report", str(tmp_path), "-o", str(page)])
    assert gate.main() == 0
    assert "| `scale` | 1 | " in page.read_text()
    assert "1 texts compile for sm_80, sm_90, sm_100, none spills" in capsys.readouterr().err
