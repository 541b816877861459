"""How many host threads kernels use. Floor 2; imports the device registry.

The number belongs to the backends that compute on the host; a backend without host threads
ignores it.
"""

from __future__ import annotations

from typing import Any


def _host_backend() -> Any:
    """The backend of the host's own device."""
    from .devices import resolve

    return resolve("cpu").backend


def set_num_threads(count: int) -> None:
    """Use `count` host threads for kernels from now on.

    TypeError unless it is an int, ValueError below 1.
    """
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"set_num_threads expects an int, but got a {type(count).__name__}")
    if count < 1:
        raise ValueError(f"set_num_threads expects a positive integer, but got {count}")
    _host_backend().set_num_threads(count)


def get_num_threads() -> int:
    """Number of host threads that a large kernel uses."""
    return int(_host_backend().get_num_threads())
