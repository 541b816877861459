"""Sizes and random tensors that the recipes of `opdb_recipes` are written with."""


from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Sizes(NamedTuple):
    """Dimensions of one size: `n` elements of a vector, `r` x `c` of a table, `m` x `m` of a
    matrix product, `d` x `d` of a decomposition, `b` images or sequences, `ch` channels, `h` and
    `l` the edge of an image and length of a sequence, `e` features, `v` classes or words."""

    name: str
    n: int
    r: int
    c: int
    m: int
    d: int
    b: int
    ch: int
    h: int
    l: int  # noqa: E741
    e: int
    v: int


SMALL = Sizes("4 elements", 4, 2, 2, 2, 2, 1, 2, 4, 4, 4, 4)
LARGE = Sizes("large", 1 << 20, 1024, 1024, 512, 128, 8, 32, 56, 128, 256, 1000)


def call(*args: Any, **kwargs: Any) -> Call:
    """The arguments of a call."""
    return args, kwargs


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
    """Uniform float32."""
    return torch.rand(shape) * (high - low) + low


def p(*shape: int) -> torch.Tensor:
    """Probabilities, away from 0 and 1."""
    return f(*shape, low=0.05, high=0.95)


def i(*shape: int, high: int = 8, low: int = 0) -> torch.Tensor:
    """Uniform int64 below `high`."""
    return torch.randint(low, high, shape)


def b(*shape: int) -> torch.Tensor:
    """Booleans."""
    return torch.rand(shape) < 0.5


def z(*shape: int) -> torch.Tensor:
    """Complex numbers."""
    return torch.complex(f(*shape), f(*shape))


def spd(*shape: int) -> torch.Tensor:
    """Symmetric positive definite matrices."""
    a = f(*shape, shape[-1], low=-1, high=1)
    return a @ a.mT / shape[-1] + torch.eye(shape[-1])


def regular(*shape: int) -> torch.Tensor:
    """Well conditioned square matrices."""
    return f(*shape, shape[-1], low=-1, high=1) / shape[-1] ** 0.5 + 2 * torch.eye(shape[-1])


def perm(n: int) -> torch.Tensor:
    """A permutation as indices."""
    return torch.randperm(n)




def table(s: Sizes) -> torch.Tensor:
    """The table that most recipes start from."""
    return f(s.r, s.c)


Recipe = Callable[[Sizes], Call]
