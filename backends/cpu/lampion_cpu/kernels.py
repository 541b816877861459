"""Library kernels of the CPU backend: what oneDNN, BLAS, NumPy or SciPy do better."""

from __future__ import annotations

from collections.abc import Sequence

from lampion.runtime.backend import KernelImpl


def kernels() -> Sequence[KernelImpl]:
    """All of them."""
    return ()
