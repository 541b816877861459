"""What the demos show: device line, loss curves, kernels used. Floor 7; rich and matplotlib are
imported when needed and named with the remedy when missing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLOCKS = " ▁▂▃▄▅▆▇█"


def need(module: str, package: str) -> Any:
    """Import a package that only the demos use, or exit saying how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        sys.exit(f"this demo needs {package} ({e}); install it with: "
                 f"pip install 'lampion-core[demo]'")


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The values as one line of block characters, highest as a full block."""
    if not values:
        return ""
    step = max(1, -(-len(values) // width))
    means = [sum(values[k:k + step]) / len(values[k:k + step])
             for k in range(0, len(values), step)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BLOCKS[1 + round((len(BLOCKS) - 2) * (m - low) / span)] for m in means)


def chart(values: Sequence[float], width: int = 64, height: int = 10) -> str:
    """A small plot in text: mean of each column's values against a left scale."""
    step = max(1, -(-len(values) // width))
    means = [sum(values[k:k + step]) / len(values[k:k + step])
             for k in range(0, len(values), step)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    rows = []
    for r in range(height, 0, -1):
        line = ""
        for m in means:
            fill = (m - low) / span * height - (r - 1)
            line += BLOCKS[max(0, min(8, round(fill * 8)))]
        label = high if r == height else low if r == 1 else None
        rows.append((f"{label:8.3f} " if label is not None else " " * 9) + "│" + line)
    rows.append(" " * 9 + "└" + "─" * len(means))
    return "\n".join(rows)


def save_curve(path: str, series: dict[str, Sequence[float]], title: str) -> str:
    """Write the curves as a PNG; returns what to print."""
    matplotlib = need("matplotlib", "matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4), dpi=120)
    for name, values in series.items():
        ax.plot(values, label=name, linewidth=1)
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.set_title(title)
    ax.grid(alpha=0.3)
    ax.legend()
    fig.tight_layout()
    fig.savefig(path)
    plt.close(fig)
    return f"loss curve: {Path(path).resolve()}"


def kernels_used(device: Any) -> Counter[str]:
    """How many distinct kernels of each source have been planned on a device so far."""
    from lampion.ops.registry import REGISTRY

    counts: Counter[str] = Counter()
    todo = list(REGISTRY.values())
    while todo:
        op = todo.pop()
        todo += [b.op for b in getattr(op, "_backward", {}).values() if b.op is not None]
        for plan in [*op.plans.values(), *op.iplans.values()]:
            if getattr(plan, "launch", None) is not None and plan.call.device == device:
                counts[plan.chosen] += 1
    return counts


def closing(device: Any, rate: str) -> str:
    """The last line: device, backend, kernels, speed, fallbacks."""
    from lampion.runtime.devices import backend
    from lampion.runtime.fallback import fallbacks

    info = backend(device.type).devices()[device.index or 0]
    counts = kernels_used(device)
    kinds = ", ".join(f"{n} {source}" for source, n in counts.most_common())
    fell = [e for e in fallbacks() if e.device == str(device)]
    ledger = ", ".join(f"{e.op} {e.count} times on {e.ran_on}" for e in fell) or "none"
    return (f"device {device} ({info.description}) · backend {device.type} · "
            f"{sum(counts.values())} kernels ({kinds}) · {rate} · fallbacks: {ledger}")
