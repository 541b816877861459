"""Train a small convolutional network on scikit-learn's handwritten digits (1,797 images).

    lampion demo digits --device cpu --epochs 12 --seed 0

The program is plain PyTorch style: everything below `import lampion as torch` would read the
same there.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import lampion as torch
from lampion.demos import _show


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command-line arguments."""
    p = argparse.ArgumentParser(prog="lampion demo digits", description=__doc__.split("\n")[0])
    p.add_argument("--device", default=None, help="device (default: from the configuration)")
    p.add_argument("--epochs", type=int, default=12)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--png", default="digits-loss.png", help="where the loss curve goes")
    p.add_argument("--json", default=None, help="also write the results to this file")
    return p.parse_args(argv)


def load() -> tuple[Any, Any, Any, Any]:
    """Images in [0, 1] as [N, 1, 8, 8] float32 and labels, split 80/20 with a fixed seed."""
    datasets = _show.need("sklearn.datasets", "scikit-learn")
    import numpy as np

    data = datasets.load_digits()
    images = (data.images / 16.0).astype("float32")[:, None]
    labels = data.target.astype("int64")
    order = np.random.default_rng(1234).permutation(len(images))
    images, labels = images[order], labels[order]
    cut = len(images) * 4 // 5
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    return x[:cut], y[:cut], x[cut:], y[cut:]


def make_model() -> Any:
    """Two convolutions with batch norm, pooling, dropout and two linear layers."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, 10))


def evaluate(model: Any, x: Any, y: Any) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).sum().item()
    model.train()
    return right / len(y)


def main(argv: list[str] | None = None) -> int:
    """Train, print, plot; returns the exit status."""
    args = parse(argv)
    if args.device:
        torch.set_default_device(args.device)
    device = torch.get_default_device()
    progress = _show.need("rich.progress", "rich")
    x, y, x_test, y_test = load()
    torch.manual_seed(args.seed)
    model = make_model().to(device)
    x_test, y_test = x_test.to(device), y_test.to(device)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=args.batch, shuffle=True,
        generator=torch.Generator().manual_seed(args.seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    weights = sum(p.numel() for p in model.parameters())
    print(f"digits: {len(x)} training and {len(x_test)} test images, {weights} weights, "
          f"device {device}")
    losses: list[float] = []
    history: list[tuple[float, float]] = []
    busy = 0.0
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(),
               progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[info]}"))
    with progress.Progress(*columns) as bar:
        for epoch in range(args.epochs):
            task = bar.add_task(f"epoch {epoch + 1:2d}", total=len(loader), info="")
            total = 0.0
            for xb, yb in loader:
                start = time.perf_counter()
                xb, yb = xb.to(device), yb.to(device)
                loss = torch.nn.functional.cross_entropy(model(xb), yb)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                busy += time.perf_counter() - start
                total += losses[-1] * len(yb)
                bar.update(task, advance=1, info=f"loss {losses[-1]:.4f}")
            schedule.step()
            accuracy = evaluate(model, x_test, y_test)
            history.append((total / len(x), accuracy))
            bar.update(task, info=f"loss {total / len(x):.4f}  test accuracy {accuracy:.2%}")
    accuracy = history[-1][1]
    print(_show.chart(losses))
    print(_show.save_curve(args.png, {"training loss": losses}, f"digits on {device}"))
    print(f"test accuracy {accuracy:.2%} after {args.epochs} epochs")
    rate = args.epochs * len(x) / busy
    print(_show.closing(device, f"{rate:,.0f} images/s"))
    if args.json:
        import json

        with open(args.json, "w") as f:
            json.dump({"device": str(device), "losses": losses, "history": history,
                       "accuracy": accuracy, "images_per_s": rate}, f)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
