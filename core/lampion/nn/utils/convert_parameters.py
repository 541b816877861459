"""Parameters as one vector and back.

May import: lampion.tensor.
"""
from __future__ import annotations

from collections.abc import Iterable

import lampion
from lampion.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened and joined. TypeError if they are on several devices.

    >>> nn.utils.parameters_to_vector(nn.Linear(2, 3).parameters()).shape
    lampion.Size([9])
    """
    listed = list(parameters)
    _check_device(listed)
    return lampion.cat([param.reshape(-1) for param in listed])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Set the parameters' values to the consecutive parts of `vec`, as views of it."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected lampion.Tensor, but got: {type(vec).__name__}")
    listed = list(parameters)
    _check_device(listed)
    start = 0
    for param in listed:
        stop = start + param.numel()
        param.data = vec[start:stop].view_as(param).data
        start = stop


def _check_device(parameters: list[Tensor]) -> None:
    if len({param.device for param in parameters}) > 1:
        raise TypeError("Found two parameters on different devices, this is currently not "
                        "supported.")
