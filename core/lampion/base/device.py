"""Devices: a backend's name and an index. Floor 0; imports nothing.

`device("name:1")` is interned. The runtime fills in `backend` when the device is first used,
so that hot paths reach the backend by one attribute.
"""

from __future__ import annotations

from typing import Any

_TABLE: dict[tuple[str, int], "device"] = {}
aliases: dict[str, str] = {}  # names that programs write -> the devices that are meant


def _meant(name: str) -> str:
    """The device string that an alias stands for, with the index that was written, if any."""
    head, colon, index = name.partition(":")
    target = aliases.get(head)
    if target is None:
        return name
    return target if ":" in target or not colon else f"{target}:{index}"


class device:
    """Where a tensor lives: `device("cpu")`, `device("name", 1)`, `device("name:1")`.

    `index` is None when the user gave none; such a device equals index 0 for storage purposes
    and is resolved by the runtime. Raises RuntimeError for a malformed string.
    """

    __slots__ = ("type", "index", "backend", "__weakref__")
    type: str
    index: int | None
    backend: Any

    def __new__(cls, type: Any = None, index: int | None = None) -> "device":
        if isinstance(type, device):
            return type
        if isinstance(type, int) and not isinstance(type, bool):
            raise TypeError(
                f"device({type}) names no backend; write device('NAME:{type}') or device('NAME')")
        if not isinstance(type, str):
            raise TypeError(f"device() expects a string such as 'cpu' or 'name:0', got {type!r}")
        if aliases:
            type = _meant(type)
        if ":" in type:
            if index is not None:
                raise RuntimeError(
                    f"'type' must not include an index because index was passed: {type!r}")
            type, _, tail = type.partition(":")
            if not tail.isdigit():
                raise RuntimeError(f"Invalid device string: '{type}:{tail}'")
            index = int(tail)
        if not type:
            raise RuntimeError("Device string must not be empty")
        key = (type, -1 if index is None else int(index))
        found = _TABLE.get(key)
        if found is None:
            found = object.__new__(cls)
            found.type, found.index, found.backend = type, index, None
            _TABLE[key] = found
        return found

    def __repr__(self) -> str:
        if self.index is None:
            return f"device(type='{self.type}')"
        return f"device(type='{self.type}', index={self.index})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __reduce__(self) -> Any:
        return (device, (self.type, self.index))

    def __copy__(self) -> "device":
        return self

    def __deepcopy__(self, memo: Any) -> "device":
        return self
