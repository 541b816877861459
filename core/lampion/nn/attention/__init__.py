"""Which way `scaled_dot_product_attention` goes, as programs ask for it. Floor 7."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Named(enum.EnumMeta):
    """Other ways that libraries know under names of their own are accepted by these names."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_") or not name.endswith("_ATTENTION"):
            raise AttributeError(name)
        return cls.OVERRIDEABLE


class SDPBackend(enum.IntEnum, metaclass=_Named):
    """Ways to compute attention. Each device has one, which computes what all of them do."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    OVERRIDEABLE = 4


_allowed: list[SDPBackend] = [b for b in SDPBackend if b is not SDPBackend.ERROR]


@contextmanager
def sdpa_kernel(backends: Any, set_priority: bool = False) -> Iterator[None]:
    """Within the block programs prefer these ways; the device's own way is used, with the same
    results. TypeError for what is no `SDPBackend`, RuntimeError if none is left.

    >>> with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
    ...     nn.functional.scaled_dot_product_attention(*[lampion.ones(1, 1, 1)] * 3)
    tensor([[[1.]]])
    """
    wanted = [backends] if isinstance(backends, SDPBackend) else list(backends)
    for backend in wanted:
        if not isinstance(backend, SDPBackend):
            raise TypeError(f"sdpa_kernel: {backend!r} is no SDPBackend")
    if not [b for b in wanted if b is not SDPBackend.ERROR]:
        raise RuntimeError("sdpa_kernel: no way to compute attention is left")
    before, _allowed[:] = list(_allowed), wanted
    try:
        yield
    finally:
        _allowed[:] = before


def _cur_sdpa_kernel_backends(with_priority: bool = False) -> list[SDPBackend]:
    """The ways that are allowed here."""
    return list(_allowed)
