"""The CPU backend without oneDNN, without libgomp, on the portable storage: same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, lampion as torch
from lampion import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                    nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))
x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 4
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
losses = []
for _ in range(4):
    loss = nn.functional.cross_entropy(net(x), y)
    opt.zero_grad(); loss.backward(); opt.step()
    losses.append(loss.item())
big = torch.arange(300000, dtype=torch.float32)
print(json.dumps([losses, (big * 2).sum().item(), (x.double() @ x.double().mT).sum().item()]))
"""
WITHOUT = {
    "onednn": {"LAMPION_ONEDNN": "0"},
    "onednn and blas": {"LAMPION_ONEDNN": "0", "LAMPION_BLAS": "0"},
    "libgomp": {"LAMPION_THREADING": "own", "LAMPION_ONEDNN": "0"},
    "threads": {"LAMPION_THREADING": "serial"},
    "native storage": {"LAMPION_NATIVE": "0"},
    "wide vectors": {"LAMPION_VECTOR_BITS": "128"},
}


def run(extra: dict[str, str]) -> list[object]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **extra},
                          capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", WITHOUT)
def test_results_do_not_depend_on(what: str) -> None:
    losses, total, products = run(WITHOUT[what])
    want, want_total, want_products = run({})
    assert losses == pytest.approx(want, rel=2e-4)
    assert total == pytest.approx(want_total, rel=1e-6)
    assert products == pytest.approx(want_products, rel=1e-9)
