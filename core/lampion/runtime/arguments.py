"""What backends that generate launches need of arguments: kinds, conversions, sizes in words.

Floor 2; imports ir.kernel. A kind is a letter: s a storage, f a floating number, i an integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir.kernel import Program


def input_kinds(program: Program, noutputs: int) -> str:
    """The kind of each input slot of a lowered op, read off its kernels' arguments."""
    kinds: dict[int, str] = {}
    for call in program.calls:
        for arg, slot in zip(call.kernel.args, call.slots):
            kinds[slot] = "s" if arg.kind != "scalar" else (
                "f" if arg.dtype.kind == "f" else "i")
    count = max(kinds, default=-1) + 1 - len(program.scratch)
    return "".join(kinds.get(k, "s") for k in range(noutputs, count))


def whole(value: Any) -> int:
    """An integer argument as the signed 64-bit number with its bits.

    TypeError for what is no integer, OverflowError beyond 64 bits.

    >>> whole(2**64 - 1), whole(True)
    (-1, 1)
    """
    if not isinstance(value, int):
        if not hasattr(value, "__index__"):
            raise TypeError(f"expected an integer, not {type(value).__name__} {value!r}")
        value = value.__index__()
    if -(1 << 63) <= value < 1 << 63:
        return int(value)
    if 0 <= value < 1 << 64:
        return int(value) - (1 << 64)
    raise OverflowError(f"{value} does not fit into 64 bits")


def refuse(storage: type, values: Sequence[Any], kinds: str) -> None:
    """Raise the TypeError for arguments of the wrong kind; `storage` is the backend's type."""
    for k, (v, kind) in enumerate(zip(values, kinds)):
        if kind == "s" and type(v) is not storage:
            raise TypeError(f"argument {k} must be a storage of this backend, "
                            f"not {type(v).__name__}")
    raise TypeError("wrong arguments")


def human(n: int) -> str:
    """A size in readable units.

    >>> human(1536)
    '1.5 KiB'
    """
    value, unit = float(n), "bytes"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, bigger
    return f"{value:.4g} {unit}"
