"""Fourier transforms on the CPU through scipy.fft (pocketfft), imported when the first is planned.

Small smooth sizes stay with the generated kernels, which take less time than a call of SciPy.

May import: numpy, scipy, lampion's floors 0-2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lampion.runtime.backend import KernelImpl, Launch, OpCall

from .sorting import array

SMALL = 256  # points in all up to which a generated program is faster, if no factor is above 13
PARALLEL = 1 << 16  # points from which several threads pay

Array = Any
_NORMS = {True: ("backward", "ortho", "forward"), False: ("forward", "ortho", "backward")}


def kernels() -> Sequence[KernelImpl]:
    """The three primitives."""
    return [KernelImpl(op, "cpu", build, large, 10, "cpu.scipy")
            for op in ("fft_c2c", "fft_r2c", "fft_c2r")]


def smooth(n: int) -> bool:
    """Whether a size has no prime factor above 13."""
    for p in (2, 3, 5, 7, 11, 13):
        while n % p == 0:
            n //= p
    return n == 1


def large(call: OpCall) -> bool:
    """Whether SciPy pays."""
    whole = call.input if call.op != "fft_c2r" else call.outputs[0]
    if not call.outputs[0].numel:
        return False
    return whole.numel > SMALL or not all(smooth(whole.shape[d]) for d in call.dim)


def build(call: OpCall) -> Launch | None:
    """A launch that has SciPy transform an array over our memory."""
    try:
        from scipy import fft
    except ImportError:
        return None
    from . import native

    m, out = call.input, call.outputs[0]
    run = transform(call, fft)

    def into(y: Any, x: Any) -> None:
        target = array(y, out)
        result = run(array(x, m), target)
        if result is not target:
            target[...] = result

    def launch(x: Any) -> Any:
        y = native.empty(out.span)
        into(y, x)
        return y

    return Launch(launch, into, [f"scipy.{call.op}"])


def transform(call: OpCall, fft: Any) -> Callable[[Array, Array], Array]:
    """(source, target) to the result, which is the target itself where SciPy can work in place."""
    from . import pool

    axes, forward = call.dim, bool(call.forward)
    parallel = max(call.input.numel, call.outputs[0].numel) >= PARALLEL
    norm = _NORMS[forward][call.norm]

    def workers() -> int | None:
        return pool.get_num_threads() if parallel else None

    if call.op == "fft_c2r":
        size = [call.input.shape[d] for d in axes[:-1]] + [call.size]
        back = fft.hfftn if forward else fft.irfftn
        return lambda x, y: back(x, size, axes, norm, workers=workers())
    if call.op == "fft_r2c":
        half = fft.rfftn if forward else fft.ihfftn
        return lambda x, y: half(x, None, axes, norm, workers=workers())
    if len(axes) == 1:
        axis = axes[0]
        line = fft.fft if forward else fft.ifft
        if call.input.dtype.kind != "c":
            return lambda x, y: line(x, None, axis, norm, workers=workers())

        def in_place(x: Array, y: Array) -> Array:
            y[...] = x
            return line(y, None, axis, norm, True, workers())

        return in_place
    full = fft.fftn if forward else fft.ifftn
    if call.input.dtype.kind != "c":
        return lambda x, y: full(x, None, axes, norm, workers=workers())

    def all_in_place(x: Array, y: Array) -> Array:
        y[...] = x
        return full(y, None, axes, norm, True, workers())

    return all_in_place
