"""What a tensor holds, for comparisons to the last bit. Imports lampion."""

from __future__ import annotations

from typing import Any

import numpy as np

import lampion


def bits(t: Any) -> bytes:
    """The bytes of a tensor's elements, in order."""
    t = t.cpu().contiguous()
    plain = {lampion.bfloat16: lampion.int16, lampion.complex32: lampion.int32}.get(t.dtype)
    return (t if plain is None else t.view(plain)).numpy().tobytes()


def wide(t: Any) -> np.ndarray:
    """The values as complex128, which holds those of every dtype but large integers."""
    return t.cpu().host().astype(np.complex128)
