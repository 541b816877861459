"""NumPy, DLPack, pickling and copying: tensors in and out of the host's world.

Floor 6; imports tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .ops import plans as P


def host_array(t: Any) -> Any:
    """A NumPy array of a tensor's values; shares memory if the host can see the storage."""
    m = t.meta
    backend = P.backend_of(m.device)
    strides = tuple(s * m.dtype.itemsize for s in m.strides)
    view = backend.host_view(t.data_)
    if view is None:
        raw = backend.copy_to_host(t.data_, m.span)
        return np.ndarray(m.shape, m.dtype.np, raw, strides=strides)
    return np.ndarray(m.shape, m.dtype.np, view, strides=strides)


def to_numpy(t: Any, force: bool) -> Any:
    """Tensor.numpy()."""
    if t.node is not None and not force:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use "
                           "tensor.detach().numpy() instead.")
    return host_array(t.detach())
