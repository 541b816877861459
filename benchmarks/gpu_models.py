"""Whole training steps on a GPU: GPT-2 small and ResNet-50, beside PyTorch eager and compiled.

Run: python benchmarks/gpu_models.py [--device cuda] [--tiny] [--only gpt2|resnet50]

Parameters and activations are bfloat16 (as `model.to(bfloat16)` makes them), the optimizers are
AdamW and SGD with momentum, the data is random and on the device. Each step is timed over several
with one wait at the end; engines alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any


def gpt2(m: Any, device: str, tiny: bool) -> tuple[Callable[[], Any], Any, int]:
    """(a training step, the module, tokens a step): 12 layers of 768, context 1024."""
    nn, F = m.nn, m.nn.functional
    layers, width, heads, length, batch, words = (
        (2, 32, 2, 16, 2, 64) if tiny else (12, 768, 12, 1024, 8, 50304))
    m.manual_seed(0)

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = (h.view(b, t, heads, c // heads).transpose(1, 2)
                       for h in self.attend(self.ln_1(x)).split(c, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(y.transpose(1, 2).contiguous().view(b, t, c))
            return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class GPT(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, words, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, ids: Any) -> Any:
            x = self.tokens(ids) + self.places(m.arange(ids.shape[1], device=ids.device))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    net = GPT().to(m.bfloat16).to(device)
    ids = m.randint(0, words, (batch, length + 1)).to(device)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous().view(-1)
    opt = m.optim.AdamW(net.parameters(), lr=1e-4)

    def step(net: Any = net) -> Any:
        loss = F.cross_entropy(net(x).view(-1, words), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return step, net, batch * length


def resnet50(m: Any, device: str, tiny: bool) -> tuple[Callable[[], Any], Any, int]:
    """(a training step, the module, images a step): ImageNet shapes, batch 64."""
    nn = m.nn
    batch, size, stages = (2, 32, (1, 1, 1, 1)) if tiny else (64, 224, (3, 4, 6, 3))
    m.manual_seed(0)

    class Bottleneck(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inside: int, width: int, stride: int) -> None:
            super().__init__()
            out = 4 * width
            self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
            self.relu = nn.ReLU()
            self.short = nn.Identity() if stride == 1 and inside == out else nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            return self.relu(self.bn3(self.conv3(y)) + self.short(x))

    blocks, inside = [], 64
    for k, count in enumerate(stages):
        for n in range(count):
            blocks.append(Bottleneck(inside, 64 << k, 2 if k and not n else 1))
            inside = 256 << k
    net = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2048, 1000)).to(m.bfloat16).to(device)
    x = m.randn(batch, 3, size, size).to(m.bfloat16).to(device)
    y = m.randint(0, 1000, (batch,)).to(device)
    opt = m.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step(net: Any = net) -> Any:
        loss = nn.functional.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return step, net, batch


MODELS = {"gpt2": (gpt2, "tokens"), "resnet50": (resnet50, "images")}


def seconds(step: Callable[[], Any], wait: Callable[[], Any], n: int) -> float:
    """Median time of a step over three rounds of `n`."""
    spent = []
    for _ in range(3):
        wait()
        start = time.perf_counter()
        for _ in range(n):
            step()
        wait()
        spent.append((time.perf_counter() - start) / n)
    return statistics.median(spent)


def rival() -> Any:
    """PyTorch, if it is here and has a GPU."""
    try:
        import torch

        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models, to try the script")
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    import lampion

    torch = rival()
    n = 1 if args.tiny else 5
    print("### Training steps in bfloat16\n")
    print("| model | engine | ms a step | a second | first loss -> last | times torch eager |")
    print("|---|---|---:|---:|---|---:|")
    for name, (build, unit) in MODELS.items():
        if args.only in (None, name):
            one_model(name, build, unit, lampion, torch, args, n)


def one_model(name: str, build: Any, unit: str, lampion: Any, torch: Any, args: Any, n: int,
              ) -> None:
    """Rows of one model; an engine that fails gets a row that says how."""
    eager: float | None = None
    for engine in ("torch", "torch.compile", "lampion"):
        m = lampion if engine == "lampion" else torch
        if m is None or (engine == "torch.compile" and args.no_compile):
            continue
        device = args.device if m is lampion else "cuda"
        try:
            step, net, count = build(m, device, args.tiny)
            wait = (lambda: lampion.synchronize(device)) if m is lampion else torch.cuda.synchronize
            if engine == "torch.compile":
                compiled, plain = torch.compile(net), step
                step = lambda: plain(compiled)  # noqa: E731
            first = float(step())
            step()
            spent = seconds(step, wait, n)
            eager = spent if engine == "torch" else eager
            ratio = "" if eager is None else f"{eager / spent:.2f}"
            print(f"| {name} | {engine} | {spent * 1e3:.1f} | {count / spent:,.0f} {unit} | "
                  f"{first:.3f} -> {float(step()):.3f} | {ratio} |", flush=True)
        except Exception as error:  # the others still count
            print(f"| {name} | {engine} | failed: {type(error).__name__}: "
                  f"{str(error).splitlines()[0][:200]} | | | |", flush=True)
        finally:
            step = net = compiled = plain = None
            if torch is not None:
                torch.cuda.empty_cache()
    print(flush=True)


if __name__ == "__main__":
    main()
