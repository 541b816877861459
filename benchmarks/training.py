"""Whole training steps in eager mode, and their peak memory in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from measure import Row, versus


def mlp(m: Any) -> Callable[[], Any]:
    """784-256-10, batch 64, SGD."""
    nn = m.nn
    m.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    x, y = m.rand(64, 784), m.arange(64) % 10
    return step(m, net, m.optim.SGD(net.parameters(), lr=0.01), x, y)


def cnn(m: Any) -> Callable[[], Any]:
    """The network of the digits demo, batch 64, Adam."""
    nn = m.nn
    m.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, 10))
    x, y = m.rand(64, 1, 8, 8), m.arange(64) % 10
    return step(m, net, m.optim.Adam(net.parameters(), lr=1e-3), x, y)


def transformer(m: Any) -> Callable[[], Any]:
    """Two encoder layers, 64 wide, 64 positions, batch 16, AdamW."""
    nn = m.nn
    m.manual_seed(0)

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(64), nn.LayerNorm(64)
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
            self.mlp = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = (h.view(b, t, 4, 16).transpose(1, 2)
                       for h in self.qkv(self.n1(x)).split(64, dim=2))
            a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, t, c))
            return x + self.mlp(self.n2(x))

    class Net(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(96, 64), nn.Embedding(64, 64)
            self.blocks = nn.Sequential(Block(), Block())
            self.head = nn.Linear(64, 96)

        def forward(self, ids: Any) -> Any:
            x = self.token(ids) + self.place(m.arange(64))
            return self.head(self.blocks(x)).reshape(-1, 96)

    net = Net()
    ids = (m.arange(16 * 64) * 7 % 96).reshape(16, 64)
    return step(m, net, m.optim.AdamW(net.parameters(), lr=1e-3), ids, ids.reshape(-1))


def step(m: Any, net: Any, opt: Any, x: Any, y: Any) -> Callable[[], Any]:
    """A training step as a function."""
    def run() -> None:
        loss = m.nn.functional.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()

    return run


MODELS = {"MLP 784-256-10, batch 64, SGD": mlp, "CNN of the digits demo, batch 64, Adam": cnn,
          "transformer 2x64, 16x64 tokens, AdamW": transformer}


def rows(lampion: Any, torch: Any) -> list[Row]:
    """All models."""
    return [versus(n, f(lampion), f(torch), rounds=9, target=5e-2) for n, f in MODELS.items()]


PROBE = """
import sys
m = __import__(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import training
run = training.transformer(m)
for _ in range(6):
    run()
# the high-water mark of this process alone (rusage would carry over the parent's)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def memory() -> str:
    """Peak resident memory of training processes."""
    from pathlib import Path

    lines = ["Peak resident memory of a process that trains the transformer (whole process, "
             "import included):", ""]
    for name in ("lampion", "torch"):
        out = subprocess.run([sys.executable, "-c", PROBE, name, str(Path(__file__).parent)],
                             capture_output=True, text=True, check=True).stdout.split()
        lines.append(f"- {name}: {float(out[0]) / 1024:.0f} MB")
    return "\n".join(lines) + "\n"
