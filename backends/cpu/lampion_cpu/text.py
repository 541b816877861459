"""Kernels that came as LLVM IR text: compiled, called through a frame, spread over the threads.

The text defines `entry(ptr results..., arguments..., i64 sizes..., i64 begin, i64 end)`; it works
on the points from begin to end of the grid, counted in order; the calls of one launch may run at
the same time. Functions of the C library and of its math part can be declared and called. May
import lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from lampion.runtime.backend import Launch, TextKernel

from . import jit
from .program import Step, make_program

_GRAIN = 1 << 14  # elements that are worth a thread
_WIDE = {"f": "double", "i": "i64", "u": "i64"}  # how a program hands numbers over, by kind


def text_program(text: TextKernel, outputs: Sequence[int]) -> Launch:
    """The Launch of a kernel in LLVM IR. RuntimeError with LLVM's message if it does not build."""
    points = math.prod(text.grid)
    letters = ["s" if kind == "memory" else "f" if d.kind == "f" else "i" for kind, d in text.args]
    steps: list[Step] = []
    if points:
        frame = _frame(text)
        name = f"frame_{hashlib.sha256((text.source + frame).encode()).hexdigest()[:16]}"
        address = jit.compile_ir(f"{text.source}\n{frame.replace('$FRAME', name)}", [name])[name]
        bytes_each = max(1, sum(outputs) // points)
        steps = [Step(address, text.sizes, tuple(range(len(letters))), points,
                      max(1, 4 * _GRAIN // bytes_each))]
    made = make_program(steps, "".join(letters[len(outputs):]), tuple(outputs))
    return Launch(made.launch, made.into, [text.entry], made)


def _frame(text: TextKernel) -> str:
    """IR of a kernel as programs call it (see `Step`), which calls the text's."""
    lines, given = [], []
    for k, (kind, d) in enumerate(text.args):
        lines.append(f"%s{k} = getelementptr ptr, ptr %args, i64 {k}")
        wide = "ptr" if kind == "memory" else _WIDE[d.kind]
        lines.append(f"%v{k} = load {wide}, ptr %s{k}")
        narrow, value = wide, f"%v{k}"
        if kind != "memory" and d.itemsize < 8:
            narrow = "float" if d.kind == "f" else f"i{8 * d.itemsize}"
            value = f"%n{k}"
            lines.append(f"{value} = {'fptrunc' if d.kind == 'f' else 'trunc'} {wide} %v{k} "
                         f"to {narrow}")
        given.append(f"{narrow} {value}")
    for k in range(len(text.sizes)):
        lines += [f"%p{k} = getelementptr i64, ptr %params, i64 {k}",
                  f"%z{k} = load i64, ptr %p{k}"]
        given.append(f"i64 %z{k}")
    given += ["i64 %lo", "i64 %hi"]
    wanted, takes = tuple([g.split()[0] for g in given]), jit.parameters(text.source, text.entry)
    if wanted != takes:
        raise RuntimeError(f"@{text.entry} takes ({', '.join(takes)}), and its schema hands over "
                           f"({', '.join(wanted)}): results, arguments, sizes, begin, end")
    body = "\n  ".join(lines)
    return (f"define void @$FRAME(ptr %args, ptr %params, i64 %lo, i64 %hi) {{\n  {body}\n"
            f"  call void @{text.entry}({', '.join(given)})\n  ret void\n}}\n")
