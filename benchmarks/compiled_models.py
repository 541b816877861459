"""The training steps that `compiled.py` measures, for lampion and for PyTorch alike.

A case is a class whose instances hold a model, its optimizer and its data in a library `m` that is
lampion or torch. Weights and data come from NumPy by a seed and the parameter's name, so that all
libraries start from the same numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np


def numbers(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers that depend on a name and a shape alone."""
    seed = zlib.crc32(f"{name} {tuple(shape)}".encode())
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def initial(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of a parameter: normal by fan-in, ones for norms, zeros for biases."""
    if len(shape) == 1:
        norm = name.rsplit(".", 2)[-2].startswith(("n", "bn"))
        return np.full(shape, 1.0 if norm and name.endswith("weight") else 0.0, np.float32)
    fan = int(np.prod(shape[1:]))
    return numbers(name, shape, 0.02 if ".tok" in name or ".pos" in name else fan ** -0.5)


def classes(count: int, limit: int, name: str = "classes") -> np.ndarray:
    """Whole numbers under `limit`."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, limit, count)


class Case:
    """A model in training. `step` is one training step in terms of `self.model`; `model_loss` its
    forward half."""

    title = ""
    optimizer: tuple[str, dict[str, Any]] = ("SGD", {"lr": 0.01})
    autocast = False

    def __init__(self, m: Any, device: str = "cpu") -> None:
        self.m = m
        self.model = self.build(m.nn)
        with m.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(m.from_numpy(initial(f"{type(self).__name__}.{name}", tuple(p.shape))))
        self.model.to(device)
        name, options = self.optimizer
        self.opt = getattr(m.optim, name)(self.model.parameters(), **options)
        self.x, self.y = (m.from_numpy(a).to(device) for a in self.data())

    def build(self, nn: Any) -> Any:
        """The model."""
        raise NotImplementedError

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets."""
        raise NotImplementedError

    def loss(self, model: Any, x: Any, y: Any) -> Any:
        """What is minimized."""
        return self.m.nn.functional.cross_entropy(model(x).float(), y)

    def step_of(self, model: Any, update: Callable[[], Any]) -> Callable[[Any, Any], Any]:
        """A training step as a function of a batch."""
        opt, m, cast = self.opt, self.m, self.autocast

        def step(x: Any, y: Any) -> Any:
            if cast:
                with m.autocast("cpu", dtype=m.bfloat16):
                    loss = self.loss(model, x, y)
            else:
                loss = self.loss(model, x, y)
            opt.zero_grad()
            loss.backward()
            update()
            return loss.detach()

        return step


class MLP(Case):
    """784-256-10, batch 64, SGD."""

    title = "MLP 784-256-10, batch 64, SGD"

    def build(self, nn: Any) -> Any:
        return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return numbers("mlp", (64, 784)), classes(64, 10)


class CNN(Case):
    """LeNet on 28x28, batch 64, SGD with momentum."""

    title = "LeNet, batch 64, SGD with momentum"
    optimizer = ("SGD", {"lr": 0.01, "momentum": 0.9})

    def build(self, nn: Any) -> Any:
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(800, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return numbers("cnn", (64, 1, 28, 28)), classes(64, 10)


class ResNet(Case):
    """ResNet-18 on 64x64, batch 8, SGD with momentum."""

    title = "ResNet-18, 64x64, batch 8, SGD with momentum"
    optimizer = ("SGD", {"lr": 0.01, "momentum": 0.9})

    def build(self, nn: Any) -> Any:
        relu = nn.functional.relu

        class Block(nn.Module):
            def __init__(self, ins: int, outs: int, stride: int) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
                self.bn1 = nn.BatchNorm2d(outs)
                self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
                self.bn2 = nn.BatchNorm2d(outs)
                self.down = None
                if stride > 1 or ins != outs:
                    self.down = nn.Sequential()
                    self.down.add_module("conv", nn.Conv2d(ins, outs, 1, stride, bias=False))
                    self.down.add_module("bn", nn.BatchNorm2d(outs))

            def forward(self, x: Any) -> Any:
                y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
                return relu(y + (x if self.down is None else self.down(x)))

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
                self.bn1, self.pool = nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
                rows = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2),
                        (256, 256, 1), (256, 512, 2), (512, 512, 1)]
                self.blocks = nn.Sequential(*[Block(*row) for row in rows])
                self.fc = nn.Linear(512, 100)

            def forward(self, x: Any) -> Any:
                x = self.blocks(self.pool(relu(self.bn1(self.conv1(x)))))
                return self.fc(x.mean((2, 3)))

        return Net()

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return numbers("resnet", (8, 3, 64, 64)), classes(8, 100)


class GPT(Case):
    """A character-level GPT with AdamW."""

    title = "GPT 6 layers, 384 wide, 4x256 tokens, AdamW"
    optimizer = ("AdamW", {"lr": 1e-3, "weight_decay": 0.1})
    layers, heads, width, length, batch, vocab = 6, 6, 384, 256, 4, 65

    def build(self, nn: Any) -> Any:
        m, case, F = self.m, self, nn.functional

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                c = case.width
                self.n1, self.n2 = nn.LayerNorm(c), nn.LayerNorm(c)
                self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
                self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

            def forward(self, x: Any, past: Any = None) -> Any:
                b, t, c = x.shape
                q, k, v = (h.view(b, t, case.heads, c // case.heads).transpose(1, 2)
                           for h in self.qkv(self.n1(x)).split(c, dim=2))
                if past is None:
                    a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                else:
                    keys, values, at, mask = past
                    keys.index_copy_(2, at, k)
                    values.index_copy_(2, at, v)
                    a = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
                x = x + self.out(a.transpose(1, 2).reshape(b, t, c))
                return x + self.down(F.gelu(self.up(self.n2(x))))

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.tok = nn.Embedding(case.vocab, case.width)
                self.pos = nn.Embedding(case.length, case.width)
                self.blocks = nn.ModuleList([Block() for _ in range(case.layers)])
                self.norm = nn.LayerNorm(case.width)
                self.head = nn.Linear(case.width, case.vocab, bias=False)
                self.register_buffer("places", m.arange(case.length))

            def forward(self, ids: Any) -> Any:
                x = self.tok(ids) + self.pos(self.places)
                for block in self.blocks:
                    x = block(x)
                return self.head(self.norm(x)).reshape(-1, case.vocab)

            def decode(self, ids: Any, at: Any, past: Any) -> Any:
                """Logits of one more token at position `at`; `past` is [(keys, values)]."""
                x = self.tok(ids) + self.pos(at)
                mask = (self.places <= at).view(1, 1, 1, -1)
                for block, (keys, values) in zip(self.blocks, past):
                    x = block(x, (keys, values, at, mask))
                return self.head(self.norm(x))[:, -1]

        return Net()

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        x = classes(self.batch * self.length, self.vocab, "gpt")
        return x.reshape(self.batch, self.length), np.roll(x, -1)


class CastGPT(GPT):
    """The same in bfloat16 where autocast says so."""

    title = "the same GPT, bfloat16 autocast"
    autocast = True


class LSTM(Case):
    """A language model of two LSTM layers."""

    title = "LSTM 2 layers, 256 wide, 35 steps, batch 20, SGD"
    optimizer = ("SGD", {"lr": 0.1})

    def build(self, nn: Any) -> Any:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.tok, self.rnn = nn.Embedding(1000, 256), nn.LSTM(256, 256, 2)
                self.head = nn.Linear(256, 1000)

            def forward(self, ids: Any) -> Any:
                return self.head(self.rnn(self.tok(ids))[0]).reshape(-1, 1000)

        return Net()

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        x = classes(35 * 20, 1000, "lstm")
        return x.reshape(35, 20), np.roll(x, -20)


CASES: tuple[type[Case], ...] = (MLP, CNN, ResNet, GPT, CastGPT, LSTM)


def decoder(m: Any, compiled: Callable[[Any], Any]) -> Callable[[int], list[int]]:
    """A function that writes `n` tokens with the GPT, greedily, one at a time, the keys and values
    of earlier ones being kept."""
    net = GPT(m).model.eval()
    one = compiled(net.decode)
    shape = (1, GPT.heads, GPT.length, GPT.width // GPT.heads)

    def write(n: int) -> list[int]:
        with m.no_grad():
            past = [(m.zeros(shape), m.zeros(shape)) for _ in range(GPT.layers)]
            ids, out = m.tensor([[1]]), []
            for k in range(n):
                logits = one(ids, m.tensor([k]), past)
                ids = logits.argmax(1, True)
                out.append(int(ids))
        return out

    return write


__all__ = ["CASES", "Case", "GPT", "MLP", "CNN", "decoder", "initial", "numbers", "classes"]
