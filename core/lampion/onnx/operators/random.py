"""ONNX's random numbers. Floor 7; imports lampion and this package.

With a seed the numbers are the same in every run and on every device; without one they are drawn
from the device's generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lampion

from ..table import operator
from ..values import DTYPES


def _generator(seed: float | None, device: Any) -> Any:
    return None if seed is None else lampion.Generator(device=device).manual_seed(int(seed))


@operator("RandomNormal")
def random_normal(*, dtype: int = 1, mean: float = 0.0, scale: float = 1.0,
                  seed: float | None = None, shape: Sequence[int], device: Any = None) -> Any:
    """Numbers of a normal distribution."""
    drawn = lampion.randn(list(shape), generator=_generator(seed, device), device=device)
    return (drawn * scale + mean).to(DTYPES[dtype])


@operator("RandomUniform")
def random_uniform(*, dtype: int = 1, high: float = 1.0, low: float = 0.0,
                   seed: float | None = None, shape: Sequence[int], device: Any = None) -> Any:
    """Numbers between low and high."""
    drawn = lampion.rand(list(shape), generator=_generator(seed, device), device=device)
    return (drawn * (high - low) + low).to(DTYPES[dtype])


@operator("RandomNormalLike")
def random_normal_like(input: Any, *, dtype: int | None = None, mean: float = 0.0,
                       scale: float = 1.0, seed: float | None = None) -> Any:
    """Numbers of a normal distribution in a tensor's shape."""
    out = random_normal(mean=mean, scale=scale, seed=seed, shape=input.shape, device=input.device)
    return out.to(DTYPES[dtype] if dtype else input.dtype)


@operator("RandomUniformLike")
def random_uniform_like(input: Any, *, dtype: int | None = None, high: float = 1.0,
                        low: float = 0.0, seed: float | None = None) -> Any:
    """Numbers between low and high in a tensor's shape."""
    out = random_uniform(high=high, low=low, seed=seed, shape=input.shape, device=input.device)
    return out.to(DTYPES[dtype] if dtype else input.dtype)


@operator("Bernoulli")
def bernoulli(input: Any, *, dtype: int | None = None, seed: float | None = None) -> Any:
    """1 with the probabilities given, else 0."""
    drawn = lampion.bernoulli(input, generator=_generator(seed, input.device))
    return drawn.to(DTYPES[dtype] if dtype else input.dtype)


@operator("Multinomial")
def multinomial(input: Any, *, dtype: int = 6, sample_size: int = 1,
                seed: float | None = None) -> Any:
    """Classes drawn with the probabilities that go with unnormalized logarithms."""
    drawn = lampion.multinomial(input.to(lampion.float32).softmax(-1), sample_size, True,
                                generator=_generator(seed, input.device))
    return drawn.to(DTYPES[dtype])
