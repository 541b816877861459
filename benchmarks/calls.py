"""Cost of a call on 4-element tensors: what Python pays per operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from measure import Row, versus


def cases(m: Any, record: bool) -> dict[str, Callable[[], Any]]:
    """The calls, for lampion or torch; `record` makes the operands require gradients."""
    F, nn = m.nn.functional, m.nn
    m.manual_seed(0)
    a = m.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=record)
    b = m.tensor([0.5, 1.5, 2.5, 3.5])
    plain = m.tensor([1.0, 2.0, 3.0, 4.0])
    x = m.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=record)
    y = m.tensor([[0.5, 1.0], [1.5, 2.0]])
    w, bias = m.ones(2, 2), m.ones(2)
    g4, b4 = m.ones(4), m.zeros(4)
    index = m.tensor([0, 2])
    mask = plain > 2
    layer = nn.Linear(2, 2)
    act = nn.ReLU()
    found = {
        "a + b": lambda: a + b, "a - b": lambda: a - b, "a * b": lambda: a * b,
        "a / b": lambda: a / b, "a + 1.0": lambda: a + 1.0, "2.0 * a": lambda: 2.0 * a,
        "a ** 2": lambda: a ** 2, "-a": lambda: -a, "a > b": lambda: a > b,
        "exp": lambda: m.exp(a), "relu": lambda: F.relu(a), "tanh": lambda: m.tanh(a),
        "sigmoid": lambda: m.sigmoid(a), "gelu": lambda: F.gelu(a),
        "where": lambda: m.where(mask, a, b), "clamp": lambda: a.clamp(0.0, 1.0),
        "sum": lambda: a.sum(), "sum(dim)": lambda: x.sum(1), "mean": lambda: a.mean(),
        "max(dim)": lambda: x.max(1), "argmax": lambda: a.argmax(),
        "softmax": lambda: F.softmax(a, -1),
        "layer_norm": lambda: F.layer_norm(a, (4,), g4, b4),
        "x[0]": lambda: x[0], "x[:, 1]": lambda: x[:, 1], "a[1:3]": lambda: a[1:3],
        "a[index]": lambda: a[index], "view": lambda: a.view(2, 2),
        "reshape": lambda: a.reshape(2, 2), "transpose": lambda: x.transpose(0, 1),
        "unsqueeze": lambda: a.unsqueeze(0), "cat": lambda: m.cat([a, b]),
        "stack": lambda: m.stack([a, b]), "matmul": lambda: x @ y,
        "linear": lambda: F.linear(x, w, bias), "mse_loss": lambda: F.mse_loss(a, b),
        "Linear module": lambda: layer(x), "ReLU module": lambda: act(a),
        "detach": lambda: a.detach(), "clone": lambda: a.clone(),
    }
    if not record:
        found |= {
            "add_": lambda: plain.add_(b), "mul_(1.0)": lambda: plain.mul_(1.0),
            "copy_": lambda: plain.copy_(b), "zeros(4)": lambda: m.zeros(4),
            "arange(4)": lambda: m.arange(4), "item": lambda: b[0].item(),
            "tensor([..])": lambda: m.tensor([1.0, 2.0, 3.0, 4.0]), "to(dtype)": lambda:
            b.to(m.float64), "rand(4)": lambda: m.rand(4)}
    return found


def chain(m: Any) -> Callable[[], Any]:
    """Forward and backward of ten operations."""
    a = m.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True)
    b = m.tensor([0.5, 0.6, 0.7, 0.8])

    def run() -> None:
        y = a * b
        y = (y + a).tanh()
        y = (y * 2.0).exp()
        y = (y - b).sigmoid()
        y = (y / 3.0).relu()
        y.sum().backward()
        a.grad = None

    return run


def step(m: Any, name: str) -> Callable[[], Any]:
    """One optimizer step over four small parameters."""
    ps = [m.nn.Parameter(m.ones(4)) for _ in range(4)]
    for p in ps:
        p.grad = m.ones(4)
    options = {"SGD": {"lr": 1e-3, "momentum": 0.9}, "Adam": {"lr": 1e-3},
               "AdamW": {"lr": 1e-3}}[name]
    return getattr(m.optim, name)(ps, **options).step


def rows(lampion: Any, torch: Any, record: bool) -> list[Row]:
    """All calls, with or without recording."""
    ours, theirs = cases(lampion, record), cases(torch, record)
    out = [versus(name, ours[name], theirs[name]) for name in ours]
    if record:
        out.append(versus("10 ops + backward", chain(lampion), chain(torch)))
    else:
        out += [versus(f"{n}.step, 4 tensors", step(lampion, n), step(torch, n))
                for n in ("SGD", "Adam", "AdamW")]
    return out
