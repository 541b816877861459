"""What a tensor holds, for comparisons to the last bit. Imports lampion."""

from __future__ import annotations

from typing import Any

import numpy as np

import lampion


def bits(t: Any) -> bytes:
    """The bytes of a tensor's elements, in order."""
    t = t.cpu().contiguous()
    return (t.view(lampion.int16) if t.dtype is lampion.bfloat16 else t).numpy().tobytes()


def wide(t: Any) -> np.ndarray:
    """The values as complex128, which holds those of every dtype but large integers."""
    t = t.cpu()
    return (t.float() if t.dtype is lampion.bfloat16 else t).numpy().astype(np.complex128)
