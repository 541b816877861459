"""The cases of `compiled_models.py` in JAX: a process that trains when it is told to.

`python compiled_jax.py MLP` prints a line of JSON when it is ready: the losses of the first steps
and the seconds until the second step was done. For every line with a number it then runs that many
steps and prints the seconds they took, and of processor time.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
from compiled_models import CNN, GPT, MLP, initial
from compiled_remote import serve, shapes_of
from jax import lax


def weights(case: type, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The parameters that all libraries start from."""
    return {n: jnp.asarray(initial(f"{case.__name__}.{n}", s)) for n, s in shapes.items()}


def linear(p: dict[str, Any], name: str, x: Any) -> Any:
    """x W^T + b."""
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def layer_norm(p: dict[str, Any], name: str, x: Any) -> Any:
    """Normalized rows, scaled and shifted."""
    d = x - x.mean(-1, keepdims=True)
    r = lax.rsqrt((d * d).mean(-1, keepdims=True) + 1e-5)
    return d * r * p[f"{name}.weight"] + p[f"{name}.bias"]


def cross_entropy(logits: Any, y: Any) -> Any:
    """The mean of -log softmax at the targets."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def mlp(p: dict[str, Any], x: Any) -> Any:
    """Logits of the MLP."""
    return linear(p, "2", jax.nn.relu(linear(p, "0", x)))


def cnn(p: dict[str, Any], x: Any) -> Any:
    """Logits of LeNet."""
    for name, pad in (("0", 2), ("3", 0)):
        x = lax.conv_general_dilated(x, p[f"{name}.weight"], (1, 1), [(pad, pad)] * 2)
        x = jax.nn.relu(x + p[f"{name}.bias"][:, None, None])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    x = x.reshape(len(x), -1)
    for name in ("7", "9"):
        x = jax.nn.relu(linear(p, name, x))
    return linear(p, "11", x)


def gpt(p: dict[str, Any], ids: Any) -> Any:
    """Logits of the GPT."""
    b, t = ids.shape
    c, h = GPT.width, GPT.heads
    x = p["tok.weight"][ids] + p["pos.weight"]
    mask = jnp.tril(jnp.ones((t, t), bool))
    for k in range(GPT.layers):
        at = f"blocks.{k}."
        qkv = linear(p, at + "qkv", layer_norm(p, at + "n1", x))
        q, key, v = (z.reshape(b, t, h, c // h).swapaxes(1, 2) for z in jnp.split(qkv, 3, 2))
        score = q @ key.swapaxes(2, 3) * (c // h) ** -0.5
        a = jax.nn.softmax(jnp.where(mask, score, -jnp.inf)) @ v
        x = x + linear(p, at + "out", a.swapaxes(1, 2).reshape(b, t, c))
        up = jax.nn.gelu(linear(p, at + "up", layer_norm(p, at + "n2", x)), approximate=False)
        x = x + linear(p, at + "down", up)
    return linear(p, "head", layer_norm(p, "norm", x)).reshape(b * t, -1)


def sgd(p: Any, g: Any, state: Any, lr: float, momentum: float = 0.0) -> tuple[Any, Any]:
    """PyTorch's SGD."""
    if momentum:
        g = state = jax.tree.map(lambda v, d: momentum * v + d, state, g)
    return jax.tree.map(lambda w, d: w - lr * d, p, g), state


def adamw(p: Any, g: Any, state: Any, lr: float, weight_decay: float) -> tuple[Any, Any]:
    """PyTorch's AdamW."""
    m, v, n = state
    n = n + 1
    m = jax.tree.map(lambda a, d: 0.9 * a + 0.1 * d, m, g)
    v = jax.tree.map(lambda a, d: 0.999 * a + 0.001 * d * d, v, g)

    def update(w: Any, a: Any, b: Any) -> Any:
        root = jnp.sqrt(b) / jnp.sqrt(1 - 0.999 ** n) + 1e-8
        return w * (1 - lr * weight_decay) - lr / (1 - 0.9 ** n) * a / root

    return jax.tree.map(update, p, m, v), (m, v, n)


def trainer(case: type) -> Any:
    """A function that runs one training step and returns the loss."""
    forward = {MLP: mlp, CNN: cnn, GPT: gpt}[case]
    rule, options = case.optimizer  # type: ignore[attr-defined]
    update = {"SGD": sgd, "AdamW": adamw}[rule]
    p = weights(case, shapes_of(case))
    zeros = jax.tree.map(jnp.zeros_like, p)
    state = (zeros, zeros, jnp.zeros(())) if rule == "AdamW" else (
        zeros if "momentum" in options else ())
    x, y = (jnp.asarray(a) for a in case.data(case))  # type: ignore[attr-defined]

    @jax.jit
    def step(p: Any, state: Any) -> Any:
        loss, g = jax.value_and_grad(lambda q: cross_entropy(forward(q, x), y))(p)
        return loss, *update(p, g, state, **options)

    held = [p, state]

    def run() -> Any:
        loss, *held[:] = step(*held)
        return loss.block_until_ready()

    return run


def main() -> None:
    """Talk to the benchmark."""
    serve(trainer({"MLP": MLP, "CNN": CNN, "GPT": GPT}[sys.argv[1]]))


if __name__ == "__main__":
    main()
