"""Printing tensors as PyTorch does. Floor 6; imports tensor."""

from __future__ import annotations

from typing import Any


def tensor_repr(t: Any) -> str:
    """tensor(...) with dtype, device and gradient suffixes."""
    return f"tensor({t.detach().host().tolist()})"
