"""Many launches as one native call: what a compiled graph runs on this backend.

A launch of this backend is a program, a list of kernel calls over slots. Those of a graph, one
after the other, are a program as well, whose slots are the graph's memory: `sequence` renumbers the
slots and joins the steps. A step then costs a few nanoseconds, and Python is not asked between
them. Launches that are functions of Python (NumPy's sort, SciPy's transforms) stay calls between
two such programs. Imports ``program``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from lampion.runtime.backend import Launch

from .program import Program, Step, make_program

_ALIGN = 64
_LEAST_SHARED = 4  # products that make it worth packing their weights apart

Place = tuple[int, int]  # a slot, and bytes behind its start
Part = tuple[Launch, Sequence[Place]]


def sequence(parts: Sequence[Part], kinds: str, constants: dict[int, Any]) -> Callable[..., None]:
    """See `Backend.sequence`."""
    runs: list[tuple[Callable[..., None], Any]] = []
    group: list[Part] = []
    for part in parts:
        if native(part[0]):
            group.append(part)
            continue
        if group:
            runs.append(_joined(group, kinds, constants))
            group = []
        runs.append((part[0].into, tuple(part[1])))
    if group:
        runs.append(_joined(group, kinds, constants))
    given = {k: at for at, k in enumerate(k for k in range(len(kinds)) if k not in constants)}
    if len(runs) == 1 and native(parts[0][0]):
        into, used = runs[0]
        order = [given[k] for k in used]
        if order == list(range(len(given))):
            return into
        return lambda *slots: into(*[slots[k] for k in order])
    steps = []
    for run, where in runs:
        if where and type(where[0]) is tuple:
            steps.append((run, [(given.get(k, -1), at, constants.get(k)) for k, at in where]))
        else:
            steps.append((run, [(given[k], 0, None) for k in where]))

    def several(*slots: Any) -> None:
        for run, where in steps:
            run(*[number if k < 0 else (slots[k].view(at) if at else slots[k])
                  for k, at, number in where])

    return several


def native(launch: Launch) -> bool:
    """Whether a launch is a program and nothing else."""
    return type(launch.keep) is Program and launch.into is launch.keep.into


def _joined(parts: Sequence[Part], kinds: str, constants: dict[int, Any],
            ) -> tuple[Callable[..., None], list[int]]:
    """(the joint program's `into`, the slots it takes)."""
    used = sorted({k for _, where in parts for k, _ in where if k not in constants})
    place = {k: at for at, k in enumerate(used)}
    shared = _shared(parts)
    room = max((layout(_scratch(launch.keep, n in shared))[1]
                for n, (launch, _) in enumerate(parts)), default=0)
    scratch = [room] if room else []
    first = len(used) + len(scratch) + len(set(shared.values()))
    packed: dict[Any, int] = {}  # slots of packed operands
    derived: dict[tuple[int, int], int] = {}

    def slot(source: int, amount: int) -> int:
        if source >= 0 and not amount:
            return source
        return first + derived.setdefault((source, amount), len(derived))

    steps: list[Step] = []
    for n, (launch, where) in enumerate(parts):
        program = launch.keep
        letters = "s" * len(program.outputs) + program.inputs
        places = [(-1, _word(constants[k], letter, at)) if k in constants else (place[k], at)
                  for (k, at), letter in zip(where, letters, strict=True)]
        if n not in shared:
            steps += inlined(program, places, len(used), slot)
            continue
        form, held = program.packed, packed.get(shared[n])
        if held is None:
            packed[shared[n]] = held = len(used) + len(scratch)
            scratch.append(form.scratch[form.steps[0].slots[1] - len(places)])
            todo = form.steps
        else:
            todo = form.steps[1:]
        every = [*places, *[(len(used), at) for at in layout(_scratch(program, True))[0]]]
        every[form.steps[0].slots[1]] = (held, 0)
        steps += _moved(todo, [slot(*place) for place in every])
    made = make_program(
        steps, "".join(kinds[k] for k in used), (), tuple(scratch),
        nogil=any(launch.keep.nogil for launch, _ in parts),
        keep=([launch.keep for launch, _ in parts], list(constants.values())),
        derived=list(derived))
    return made.into, used


def inlined(program: Any, places: Sequence[Place], room: int,
            slot: Callable[[int, int], int]) -> list[Step]:
    """The steps of a program whose outputs and inputs are at `places` of another one, and its
    scratch in that one's slot `room`; `slot(source, amount)` gives the other one's slot of a
    place. A source of -1 stands for a constant."""
    every = [*places, *((room, at) for at in layout(program.scratch)[0])]
    for source, amount in program.derived:
        from_, at = (-1, 0) if source < 0 else every[source]
        every.append((from_, at + amount))
    return _moved(program.steps, [slot(*place) for place in every])


def _moved(steps: Sequence[Step], slots: Sequence[int]) -> list[Step]:
    """Steps with other slots for theirs."""
    return [step._replace(slots=tuple(slots[s] for s in step.slots)) for step in steps]


def _shared(parts: Sequence[Part]) -> dict[int, Any]:
    """By the number of a part what it packs, if enough parts pack that alike and none writes to it
    between them."""
    uses: dict[Any, list[int]] = {}
    writes = []
    for n, (launch, where) in enumerate(parts):
        program = launch.keep
        writes += [(n, k, at, at + size) for (k, at), size in zip(where, program.outputs)]
        if program.packed is not None:
            step = program.packed.steps[0]
            key = (*where[step.slots[0]], program.packed.span, step.fn, step.params)
            uses.setdefault(key, []).append(n)
    return {n: key for key, row in uses.items() if len(row) >= _LEAST_SHARED
            and not any(row[0] <= n <= row[-1] and k == key[0] and start < key[1] + key[2]
                        and end > key[1] for n, k, start, end in writes) for n in row}


def _scratch(program: Any, packed: bool) -> Sequence[int]:
    """The scratch sizes of a program, or of its form with a packed operand, which has memory of its
    own."""
    if not packed:
        return program.scratch
    sizes = list(program.packed.scratch)
    sizes[program.packed.steps[0].slots[1] - len(program.outputs) - len(program.inputs)] = 0
    return sizes


def layout(scratch: Sequence[int]) -> tuple[list[int], int]:
    """(offsets of scratch slots in one block, its size). Steps run one after the other, so all
    programs may have the same block."""
    offsets, at = [], 0
    for n in scratch:
        offsets.append(at)
        at += -(-n // _ALIGN) * _ALIGN
    return offsets, at


def _word(number: Any, letter: str, at: int) -> int:
    """The 64 bits that a kernel reads of a number, or the address `at` bytes into a storage."""
    if letter == "s":
        return int(number.ptr) + at
    if letter == "f":
        return int(struct.unpack("<q", struct.pack("<d", number))[0])
    n = int(number)
    return n - (1 << 64) if n >= 1 << 63 else n
