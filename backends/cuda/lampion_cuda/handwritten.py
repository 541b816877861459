"""Hand-written kernels: from a text with holes to a kernel call, and the geometry of lines.

A text is CUDA C++ of one kernel; `$NAME` holes are filled in, dtypes and sizes that matter to the
compiler among them. Everything else is a run-time integer, so that one compiled kernel serves
many shapes. Imports lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING, Any

from lampion.base.dtype import dtype
from lampion.base.meta import Meta
from lampion.runtime.lowering import collapse

from .compiler import Bound, build
from .dialect import PRELUDE

if TYPE_CHECKING:
    from .driver import Device

ADDRESS = ("address", None)
_UNSIGNED = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}


def bits_type(d: dtype) -> str:
    """The unsigned C type of a dtype's size."""
    return _UNSIGNED[d.itemsize]


def kernel(device: Device, name: str, text: str, grid: int, block: int, slots: Sequence[int],
           integers: Sequence[int], **holes: Any) -> tuple[Bound, list[Any], tuple[int, ...]]:
    """A call of the kernel `name` as `launch.make_launch` takes it: `grid` blocks of `block`
    threads; its parameters are an address for each slot, then the integers as `long`."""
    source = PRELUDE + Template(text).substitute(NAME=name, THREADS=block, WARPS=block // 32,
                                                    **holes)
    compiled = build(device, source, name)
    bound = Bound(compiled, (grid, 1, 1), (block, 1, 1), 0, tuple(integers))
    return bound, [ADDRESS] * len(slots), tuple(slots)


class Lines:
    """The lines along one dim of tensors of equal shape but for that dim.

    `count` lines of each operand start at offsets that the text `offsets()` computes from `row`;
    `steps` has every operand's distance from one entry of a line to the next. `integers` are the
    values of the parameters that `declared()` lists. A 0-d tensor is one line of one entry.
    """

    def __init__(self, dim: int, **operands: Meta) -> None:
        self.names = list(operands)
        first = next(iter(operands.values()))
        rest = [d for d in range(first.ndim) if d != dim]
        sizes = [first.shape[d] for d in rest]
        self.count = math.prod(sizes)
        self.steps = {n: m.strides[dim] if m.ndim else 0 for n, m in operands.items()}
        self.sizes, self.strides = collapse(sizes, [[m.strides[d] for d in rest]
                                                    for m in operands.values()])
        self.integers = [*self.sizes[1:], *(s for row in self.strides for s in row),
                         *self.steps.values()]

    def declared(self) -> str:
        """The parameters, with a comma before each."""
        rank = len(self.sizes)
        names = [f"size{k}" for k in range(1, rank)]
        names += [f"{n}_stride{k}" for n in self.names for k in range(rank)]
        return "".join(f", const long {n}" for n in [*names, *(f"{n}_step" for n in self.names)])

    def offsets(self, *names: str) -> str:
        """Declarations of `NAME_at`, where the line `row` of an operand begins."""
        rank = len(self.sizes)
        lines = [f"long {n}_at = 0;" for n in names]
        if rank:
            lines.append("{ long rest = row;")
            for k in reversed(range(1, rank)):
                lines.append(f"const long c{k} = rest % size{k}; rest /= size{k};")
                lines += [f"{n}_at += c{k} * {n}_stride{k};" for n in names]
            lines += [f"{n}_at += rest * {n}_stride0;" for n in names] + ["}"]
        return " ".join(lines)
