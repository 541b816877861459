"""Eager kernels at 64K, 1M and 16M elements, and matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import Row, versus

SIZES = {"64K": (64, 1024), "1M": (1024, 1024), "16M": (16384, 1024)}


def cases(m: Any, shape: tuple[int, int], source: Any) -> dict[str, Callable[[], Any]]:
    """The same kernels for both libraries on the same values."""
    F = m.nn.functional
    x, y = m.from_numpy(source[0].copy()), m.from_numpy(source[1].copy())
    p = x.abs() + 0.5
    w, b = m.ones(shape[1]), m.zeros(shape[1])
    i = m.arange(shape[0] - 1, -1, -1)
    cond = x > 0
    return {
        "add": lambda: x + y, "mul": lambda: x * y, "x * 2": lambda: x * 2.0,
        "div": lambda: x / p, "exp": lambda: m.exp(x), "log": lambda: m.log(p),
        "sqrt": lambda: m.sqrt(p), "tanh": lambda: m.tanh(x), "sigmoid": lambda: m.sigmoid(x),
        "sin": lambda: m.sin(x), "erf": lambda: m.erf(x), "pow(x, 3)": lambda: x ** 3,
        "relu": lambda: F.relu(x), "gelu": lambda: F.gelu(x), "silu": lambda: F.silu(x),
        "where": lambda: m.where(cond, x, y), "x > y": lambda: x > y,
        "add row": lambda: x + w, "add_": lambda: y.add_(0.0 * 1e-9),
        "to(float64)": lambda: x.to(m.float64), "to(bfloat16)": lambda: x.to(m.bfloat16),
        "sum": lambda: x.sum(), "sum(0)": lambda: x.sum(0), "sum(1)": lambda: x.sum(1),
        "mean(1)": lambda: x.mean(1), "var(1)": lambda: x.var(1), "amax(1)": lambda: x.amax(1),
        "argmax(1)": lambda: x.argmax(1), "cumsum(1)": lambda: x.cumsum(1),
        "softmax(1)": lambda: F.softmax(x, 1), "log_softmax(1)": lambda: F.log_softmax(x, 1),
        "layer_norm": lambda: F.layer_norm(x, (shape[1],), w, b),
        "logsumexp(1)": lambda: m.logsumexp(x, 1), "transposed copy": lambda: x.t().contiguous(),
        "rows[index]": lambda: x[i], "cat": lambda: m.cat([x, y]),
        "clone": lambda: x.clone(), "full": lambda: m.full(shape, 1.0)}


def rows(lampion: Any, torch: Any, size: str) -> list[Row]:
    """One size."""
    import numpy as np

    shape = SIZES[size]
    rng = np.random.default_rng(0)
    source = rng.standard_normal((2, *shape)).astype("float32")
    ours, theirs = cases(lampion, shape, source), cases(torch, shape, source)
    target = {"64K": 4e-3, "1M": 2e-2, "16M": 0.1}[size]
    rounds = {"64K": 11, "1M": 9, "16M": 5}[size]
    return [versus(n, ours[n], theirs[n], rounds=rounds, target=target) for n in ours]


def library(lampion: Any, torch: Any) -> list[Row]:
    """float32 matrix products and convolutions, forward and backward."""
    out = []
    for m, k, n in ((64, 64, 64), (256, 256, 256), (1024, 1024, 1024), (64, 784, 256),
                    (1024, 768, 3072), (1024, 3072, 768)):
        fs = []
        for lib in (lampion, torch):
            a, b = lib.ones(m, k), lib.ones(k, n)
            fs.append(lambda a=a, b=b: a @ b)
        out.append(versus(f"matmul {m}x{k}x{n}", *fs, rounds=7, target=2e-2))
    for name, (batch, cin, size, cout, kernel, stride, pad) in {
            "digits 1→16": (64, 1, 8, 16, 3, 1, 1), "digits 16→32": (64, 16, 8, 32, 3, 1, 1),
            "LeNet 6→16": (64, 6, 14, 16, 5, 1, 0), "ResNet 64→64": (8, 64, 56, 64, 3, 1, 1),
            "ResNet 256→256": (8, 256, 14, 256, 3, 1, 1)}.items():
        pairs = []
        for lib in (lampion, torch):
            x = lib.ones(batch, cin, size, size, requires_grad=True)
            w = lib.ones(cout, cin, kernel, kernel, requires_grad=True)

            def forward(lib: Any = lib, x: Any = x, w: Any = w) -> Any:
                return lib.nn.functional.conv2d(x, w, None, stride, pad)

            g = lib.ones(*forward().shape)

            def both(forward: Any = forward, x: Any = x, w: Any = w, g: Any = g) -> None:
                forward().backward(g)
                x.grad = w.grad = None

            pairs.append((forward, both))
        out.append(versus(f"conv2d {name}", pairs[0][0], pairs[1][0], rounds=7, target=2e-2))
        out.append(versus(f"conv2d {name} + backward", pairs[0][1], pairs[1][1], rounds=7,
                          target=2e-2))
    return out
