"""Helpers around tensors: data loading, trees of containers, checkpoint files. Floor 7."""

from . import data

__all__ = ["data"]
