"""Generators of random numbers and the default ones' seeds and states.

Floor 7; imports the runtime and, when a state becomes a tensor, creation. A generator is a seed
and a position in the counter stream of that seed, whatever the device: with one seed all devices
draw the same numbers. What is drawn from it is in `sampling.py`.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any

from .base.device import device as Device
from .runtime import devices, tracing
from .runtime.capture import captures

__all__ = ["Generator", "manual_seed", "seed", "initial_seed", "get_rng_state", "set_rng_state",
           "fork_rng", "default_generator"]

UNSEEDED = 67280421310721  # the seed of a new Generator, PyTorch's number
_STATE = struct.Struct("<QQ")


class Generator:
    """A stream of random numbers: `Generator().manual_seed(0)`.

    `device` is only a label: a generator may be used on any device, and draws the same numbers
    on all of them. Every draw moves the position by its number of groups of four words; reading
    and writing `offset` in neighbouring statements without a call is what keeps two threads from
    drawing the same numbers (the interpreter switches threads at calls and jumps only).

    >>> Generator().manual_seed(7).initial_seed()
    7
    """

    __slots__ = ("device", "_seed", "key", "offset", "__weakref__")

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device if isinstance(device, Device) else Device(device)
        self._set(UNSEEDED, 0)

    def _set(self, seed: int, offset: int) -> None:
        self._seed = seed
        self.key = seed - (1 << 64) if seed >> 63 else seed  # as int64, the way kernels take it
        self.offset = offset

    def advance(self, groups: int) -> int:
        """Reserve counters for `groups` groups; returns the first."""
        for capture in captures:
            given = capture.draw(self, groups)
            if given is not None:
                return given
        first = self.offset
        self.offset = first + groups
        if tracing.active:
            tracing.active[-1].drew(self, first, groups)
        return first

    def manual_seed(self, seed: int) -> "Generator":
        """Start the stream of `seed`, an integer of 64 bits. Returns the generator."""
        tracing.fail("a generator is seeded")
        self._set(seed_value(seed), 0)
        return self

    def seed(self) -> int:
        """Start the stream of a seed from the system's entropy, and return the seed."""
        tracing.fail("a generator is seeded")
        self._set(entropy(), 0)
        return self._seed

    def initial_seed(self) -> int:
        """The seed of the current stream."""
        return self._seed

    def get_state(self) -> Any:
        """Seed and position as a tensor of 16 bytes (uint8)."""
        return state_tensor(self._seed, self.offset)

    def set_state(self, state: Any) -> "Generator":
        """Continue where `get_state()` was called. TypeError or RuntimeError for anything that
        is not such a tensor."""
        self._set(*read_state(state))
        return self

    def get_offset(self) -> int:
        """How many groups were drawn from this stream."""
        return self.offset

    def set_offset(self, offset: int) -> None:
        """Move to a position of the stream."""
        if not 0 <= offset < 1 << 63:
            raise RuntimeError(f"offset must be a number of 63 bits, not {offset}")
        self.offset = int(offset)

    def graphsafe_get_state(self) -> "Generator":
        """The state as a generator, to hand to `graphsafe_set_state`."""
        return self.clone_state()

    def graphsafe_set_state(self, state: "Generator") -> "Generator":
        """Continue from the state of another generator. TypeError for anything else."""
        if not isinstance(state, Generator):
            raise TypeError("graphsafe_set_state() expected a Generator, but got "
                            f"{type(state).__name__}")
        self._set(state._seed, state.offset)
        return self

    def clone_state(self) -> "Generator":
        """A generator that continues independently from the same state."""
        other = Generator(self.device)
        other._set(self._seed, self.offset)
        return other

    def __deepcopy__(self, memo: Any) -> "Generator":
        return self.clone_state()

    def __reduce__(self) -> Any:
        return (_restored, (str(self.device), self._seed, self.offset))

    def __repr__(self) -> str:
        return f"<lampion.Generator device={self.device} seed={self._seed} offset={self.offset}>"


def _restored(where: str, seed: int, offset: int) -> Generator:
    made = Generator(where)
    made._set(seed, offset)
    return made


def entropy() -> int:
    """64 bits that nobody foresees."""
    return int.from_bytes(os.urandom(8), "little")


def seed_value(seed: Any) -> int:
    """A seed as an unsigned number of 64 bits; negative ones count from 2**64 down."""
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    if not hasattr(seed, "__index__"):
        raise TypeError(f"manual_seed expected a long, but got {type(seed).__name__}")
    n = seed.__index__()
    if not -(1 << 63) <= n < 1 << 64:
        raise ValueError("Overflow when unpacking long long: a seed has 64 bits")
    return int(n % (1 << 64))


def state_tensor(seed: int, offset: int) -> Any:
    """The 16 bytes of a state as a tensor on the host."""
    import numpy as np

    from .base import dtype as dt
    from .creation import upload

    raw = np.frombuffer(_STATE.pack(seed, offset), np.uint8)
    return upload(raw, dt.uint8, "cpu")


def read_state(state: Any) -> tuple[int, int]:
    """(seed, offset) of a state tensor."""
    d = getattr(getattr(state, "dtype", None), "name", type(state).__name__)
    if d != "uint8":
        raise TypeError(f"RNG state must be a ByteTensor, not {d}")
    if state.numel() != _STATE.size:
        raise RuntimeError(f"RNG state is wrong size: {state.numel()} bytes instead of "
                           f"{_STATE.size}")
    return _STATE.unpack(bytes(state.tolist()))  # type: ignore[return-value]


# ---- the default generators -----------------------------------------------------------------

default_generator = Generator()
default_generator.seed()
_defaults: dict[Device, Generator] = {}
_start = [default_generator._seed]


def generator_of(where: Device) -> Generator:
    """The default generator of a device (as `resolve` names it): all start from one seed."""
    found = _defaults.get(where)
    if found is None:
        if where.type == default_generator.device.type:
            found = default_generator
        else:
            found = Generator(where)
            found._set(_start[0], 0)  # not by the program, which a trace would note
        _defaults[where] = found
    return found


def defaults() -> list[Generator]:
    """The default generators of all devices that were asked for."""
    return list({id(g): g for g in (default_generator, *_defaults.values())}.values())


def manual_seed(seed: int) -> Generator:
    """Start the stream of `seed` on all devices. Returns the default generator of the host.

    Integers of 64 bits; ValueError beyond.
    """
    tracing.fail("the generators are seeded")
    n = seed_value(seed)
    _start[0] = n
    default_generator._set(n, 0)
    for g in _defaults.values():
        g._set(n, 0)
    return default_generator


def seed() -> int:
    """Seed all devices from the system's entropy; returns the seed."""
    n = entropy()
    manual_seed(n)
    return n


def initial_seed() -> int:
    """The seed of the host's default generator."""
    return default_generator.initial_seed()


def get_rng_state(device: Any = "cpu") -> Any:
    """The state of a device's default generator: a tensor of 16 bytes."""
    return generator_of(devices.resolve(device)).get_state()


def set_rng_state(new_state: Any, device: Any = "cpu") -> None:
    """Restore the state of a device's default generator."""
    generator_of(devices.resolve(device)).set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, **options: Any) -> Iterator[None]:
    """Draw inside the block without moving the default generators outside of it.

    All of them are restored, unless `devices` lists some (the host's is restored in any case).
    """
    options.pop("device_type", None)
    if options:
        raise TypeError(f"fork_rng() got an unexpected keyword argument "
                        f"'{next(iter(options))}'")
    if not enabled:
        yield
        return
    if devices is None:
        chosen = list(_defaults.values())
    else:
        chosen = [generator_of(_resolve(d)) for d in devices]
    known, start = set(_defaults), _start[0]
    kept = [(g, g._seed, g.offset) for g in {*chosen, default_generator}]
    try:
        yield
    finally:
        for g, n, offset in kept:
            g._set(n, offset)
        if devices is None:
            _start[0] = start
            for where in set(_defaults) - known:  # first used inside: they start afresh
                _defaults[where]._set(start, 0)


def _resolve(where: Any) -> Device:
    return devices.resolve(where)


def thread_safe_generator() -> Generator | None:
    """The generator of a loader's worker that is a thread: None, for workers are processes."""
    return None
