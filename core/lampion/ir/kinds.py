"""Ten kinds of kernels, from the simplest to the hardest: what a new backend fills in one by one.

Floor 1; imports expr and kernel.
"""

from __future__ import annotations

from .expr import walk
from .kernel import ArgReduce, Kernel, Reduce, Scan, Scatter, Store, coefficient

KINDS = ("fill", "copy", "convert", "elementwise", "gather", "reduce", "arg_reduce", "rows", "scan",
         "scatter")


def kind(kernel: Kernel) -> str:
    """What a kernel mostly does, one of `KINDS`.

    fill: stores values that are read from nowhere. copy: moves elements, whatever the strides.
    convert: changes their dtype. elementwise: arithmetic on elements. gather: reads where another
    tensor says. reduce: sums and the like. arg_reduce: positions of extremes. rows: several passes
    over the same rows (softmax, normalisation). scan: running values. scatter: writes where another
    tensor says, or where several points meet.
    """
    statements = [s for stage in kernel.stages for s in stage.body]
    if any(isinstance(s, Scatter) for s in statements):
        return "scatter"
    if any(isinstance(s, Scan) for s in statements):
        return "scan"
    if any(isinstance(s, ArgReduce) for s in statements):
        return "arg_reduce"
    if any(isinstance(s, Reduce) for s in statements):
        return "rows" if sum(1 for stage in kernel.stages if stage.ranges) > 1 else "reduce"
    stores = [s for s in statements if isinstance(s, Store)]
    nodes = walk([s.value for s in stores] + [s.index for s in stores])
    loads = [e for e in nodes if e.op == "load"]
    if not loads:
        return "fill"
    axes = len(kernel.grid) + max((len(stage.ranges) for stage in kernel.stages), default=0)
    if any(coefficient(e.args[0], axis) is None for e in loads for axis in range(axes)):
        return "gather"
    if all(s.value.op == "load" for s in stores):
        return "copy"
    if all(s.value.op == "cast" and s.value.args[0].op == "load" for s in stores):
        return "convert"
    return "elementwise"
