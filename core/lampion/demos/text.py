"""Train a small character-level transformer on the text of Python's own help topics.

    lampion demo text --device cpu --steps 400

The text is `pydoc_data.topics`, which comes with CPython.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import lampion as torch
from lampion import nn
from lampion.demos import _show
from lampion.nn import functional as F


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command-line arguments."""
    p = argparse.ArgumentParser(prog="lampion demo text", description=__doc__.split("\n")[0])
    p.add_argument("--device", default=None, help="device (default: from the configuration)")
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--context", type=int, default=64, help="characters that the model sees")
    p.add_argument("--width", type=int, default=96)
    p.add_argument("--layers", type=int, default=3)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--sample", type=int, default=300, help="characters to write at the end")
    p.add_argument("--png", default="text-loss.png", help="where the loss curve goes")
    return p.parse_args(argv)


class Block(nn.Module):
    """Pre-norm transformer block: causal self-attention, then a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(),
                                 nn.Linear(4 * width, width))

    def forward(self, x: Any) -> Any:
        b, t, c = x.shape
        q, k, v = (h.view(b, t, self.heads, c // self.heads).transpose(1, 2)
                   for h in self.qkv(self.norm1(x)).split(c, dim=2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """Token and position embeddings, blocks, a tied-free output layer."""

    def __init__(self, symbols: int, args: argparse.Namespace) -> None:
        super().__init__()
        self.context = args.context
        self.token = nn.Embedding(symbols, args.width)
        self.place = nn.Embedding(args.context, args.width)
        self.blocks = nn.Sequential(*[Block(args.width, args.heads) for _ in range(args.layers)])
        self.norm = nn.LayerNorm(args.width)
        self.head = nn.Linear(args.width, symbols, bias=False)
        self.apply(self._init)

    @staticmethod
    def _init(m: Any) -> None:
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02)
            if getattr(m, "bias", None) is not None:
                nn.init.zeros_(m.bias)

    def forward(self, ids: Any) -> Any:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.norm(self.blocks(self.token(ids) + self.place(places))))

    def write(self, ids: Any, count: int, generator: Any) -> Any:
        """Continue `ids` by `count` sampled characters."""
        self.eval()
        with torch.no_grad():
            for _ in range(count):
                logits = self(ids[:, -self.context:])[:, -1] / 0.8
                pick = torch.multinomial(F.softmax(logits, -1), 1, generator=generator)
                ids = torch.cat([ids, pick], 1)
        self.train()
        return ids


def main(argv: list[str] | None = None) -> int:
    """Train, print a sample; returns the exit status."""
    args = parse(argv)
    if args.device:
        torch.set_default_device(args.device)
    device = torch.get_default_device()
    progress = _show.need("rich.progress", "rich")
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[k] for k in sorted(topics))
    symbols = sorted(set(text))
    number = {c: k for k, c in enumerate(symbols)}
    data = torch.tensor([number[c] for c in text])
    cut = len(data) * 9 // 10
    torch.manual_seed(args.seed)
    pick = torch.Generator().manual_seed(args.seed)
    model = Model(len(symbols), args).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    warm = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm,
                                 0.55 + 0.45 * math.cos(math.pi * s / args.steps)))
    weights = sum(p.numel() for p in model.parameters())
    print(f"text: {len(text):,} characters, {len(symbols)} symbols, {weights:,} weights, "
          f"device {device}")

    def batch(part: Any) -> tuple[Any, Any]:
        at = torch.randint(len(part) - args.context - 1, (args.batch,), generator=pick).tolist()
        rows = torch.stack([part[k:k + args.context + 1] for k in at]).to(device)
        return rows[:, :-1], rows[:, 1:]

    def loss_of(part: Any) -> Any:
        x, y = batch(part)
        return F.cross_entropy(model(x).reshape(-1, len(symbols)), y.reshape(-1))

    losses: list[float] = []
    start = time.perf_counter()
    columns = (progress.TextColumn("training"), progress.BarColumn(),
               progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[info]}"))
    with progress.Progress(*columns) as bar:
        task = bar.add_task("", total=args.steps, info="")
        for _ in range(args.steps):
            loss = loss_of(data[:cut])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.update(task, advance=1, info=f"loss {losses[-1]:.3f}")
    seconds = time.perf_counter() - start
    with torch.no_grad():
        held_out = sum(loss_of(data[cut:]).item() for _ in range(8)) / 8
    print(_show.chart(losses))
    print(_show.save_curve(args.png, {"training loss": losses}, f"text on {device}"))
    print(f"held-out loss {held_out:.3f} nats/character after {args.steps} steps "
          f"(uniform guessing: {math.log(len(symbols)):.3f})")
    first = torch.tensor([[number["\n"]]], device=device)
    written = model.write(first, args.sample,
                          torch.Generator(device=device).manual_seed(args.seed))
    print("--- sample ---" + "".join(symbols[k] for k in written[0].tolist()) + "\n---")
    rate = args.steps * args.batch * args.context / seconds
    print(_show.closing(device, f"{rate:,.0f} characters/s"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
