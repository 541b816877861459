"""Turn a list of samples into a batch.

Batches are made on the host whatever the default device is: workers cannot share a device, and
moving one batch is cheaper than moving its samples. Floor 7; imports the public lampion API.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

import lampion

__all__ = ["collate", "default_collate", "default_convert"]

CollateMap = Mapping[Any, Callable[..., Any]]


def _is_text(kind: str) -> bool:
    return kind in "SUO"


def default_convert(data: Any) -> Any:
    """NumPy arrays and numbers in a sample become tensors; containers are walked.

    Everything else, strings included, stays as it is.

    Example:
        >>> import numpy as np
        >>> default_convert([np.array([1, 2]), "a"])
        [tensor([1, 2]), 'a']
    """
    if isinstance(data, lampion.Tensor):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        if _is_text(data.dtype.kind):
            return data
        return _from_arrays(np.asarray(data))
    if isinstance(data, Mapping):
        return _mapping_like(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(item) for item in data))
    if isinstance(data, tuple):
        return [default_convert(item) for item in data]
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _sequence_like(data, [default_convert(item) for item in data])
    return data


def _mapping_like(pattern: Any, values: dict[Any, Any]) -> Any:
    """`values` in a mapping of the pattern's type, or a dict if it cannot be made."""
    try:
        if isinstance(pattern, MutableMapping):
            made = copy.copy(pattern)
            made.update(values)
            return made
        return type(pattern)(values)  # type: ignore[call-arg]
    except TypeError:  # the type has no copy, or another constructor
        return values


def _sequence_like(pattern: Any, values: list[Any]) -> Any:
    """`values` in a sequence of the pattern's type, or a list if it cannot be made."""
    try:
        if isinstance(pattern, MutableSequence):
            made = copy.copy(pattern)
            for i, value in enumerate(values):
                made[i] = value
            return made
        return type(pattern)(values)  # type: ignore[call-arg]
    except TypeError:
        return values


def _from_arrays(array: Any) -> Any:
    """A host tensor of an array's values, sharing memory where that is possible."""
    if not array.flags.writeable or not array.flags.c_contiguous:
        array = array.copy()
    return lampion.from_numpy(array)


def _stack_arrays(batch: Sequence[Any]) -> Any:
    first = batch[0].shape
    for i, array in enumerate(batch):
        if array.shape != first:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(first)} at entry 0 "
                f"and {list(array.shape)} at entry {i}"
            )
    return lampion.from_numpy(np.stack(batch))


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack samples along a new first dimension.

    Tensors and arrays are stacked, Python and NumPy numbers become one tensor (floats in
    float64), strings and bytes stay lists, mappings and sequences are collated entry by entry.

    Raises:
        TypeError: for entries of another type.
        RuntimeError: if sizes differ.

    Example:
        >>> default_collate([(1, "a"), (2, "b")])
        [tensor([1, 2]), ('a', 'b')]
    """
    return collate(batch)


def collate(batch: Any, *, collate_fn_map: CollateMap | None = None) -> Any:
    """`default_collate` with own functions for some types.

    `collate_fn_map` maps a type (or tuple of types) to `fn(batch, collate_fn_map=...)`; exact
    types are tried before base classes, and both before the default rules.
    """
    first = batch[0]
    if collate_fn_map:
        kind = type(first)
        if kind in collate_fn_map:
            return collate_fn_map[kind](batch, collate_fn_map=collate_fn_map)
        for base, function in collate_fn_map.items():
            if isinstance(first, base):
                return function(batch, collate_fn_map=collate_fn_map)
    if isinstance(first, lampion.Tensor):
        return lampion.stack(list(batch), 0)
    if isinstance(first, (np.ndarray, np.generic)):
        if _is_text(first.dtype.kind):
            raise TypeError(_cannot_collate(first.dtype))
        return _stack_arrays([np.asarray(item) for item in batch])
    if isinstance(first, float):
        return lampion.tensor(list(batch), dtype=lampion.float64, device="cpu")
    if isinstance(first, (int, complex)):
        return lampion.tensor(list(batch), device="cpu")
    if isinstance(first, (str, bytes)):
        return batch
    return _collate_container(batch, first, collate_fn_map)


def _cannot_collate(kind: Any) -> str:
    return (
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {kind}"
    )


def _collate_container(batch: Any, first: Any, fns: CollateMap | None) -> Any:
    if isinstance(first, Mapping):
        columns = {
            key: collate([sample[key] for sample in batch], collate_fn_map=fns) for key in first
        }
        return _mapping_like(first, columns)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(collate(column, collate_fn_map=fns) for column in zip(*batch)))
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        values = [collate(column, collate_fn_map=fns) for column in zip(*batch)]
        return values if isinstance(first, tuple) else _sequence_like(first, values)
    raise TypeError(_cannot_collate(type(first)))
