"""`lampion.signal`: signal processing, with PyTorch's names. Floor 7."""

from . import windows

__all__ = ["windows"]
