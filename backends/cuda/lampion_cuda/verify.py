"""A vendor library's first results beside those of generated kernels.

With `check_plans` in [backend.cuda] (LAMPION_CUDA_CHECK=1) a plan that a library made runs its
first call twice: by the library, and by the kernels that would run without it. Imports this
package and lampion's floors 0-2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.meta import Meta
from lampion.runtime.backend import Launch, OpCall

if TYPE_CHECKING:
    import numpy as np

    from .driver import Device


def verified(device: Device, call: OpCall, made: Launch, other: Launch | None,
             name: Callable[[], str], tolerance: float) -> Launch:
    """`made`, whose first call is compared with `other`'s: RuntimeError that says `name()` if a
    result differs by more than `tolerance` of the largest value. Calls in a graph's capture run
    unchecked, and the next one outside is the first. Without an `other` nothing is compared."""
    if other is None:
        return made
    waiting = [True]
    results = len(call.outputs)

    def compare(outs: Any, inputs: Any) -> None:
        if device.current.stream.capture is not None:
            return
        waiting.clear()
        wanted = other.launch(*inputs)
        wanted = wanted if results > 1 else (wanted,)
        for k, (m, a, b) in enumerate(zip(call.outputs, outs, wanted)):
            differ = difference(values(a, m), values(b, m))
            if not differ <= tolerance:
                raise RuntimeError(
                    f"{name()} on {device.where} disagrees with the generated kernel: result {k} "
                    f"differs by {differ:.2g} of the largest value, {tolerance:.2g} is allowed. "
                    "Set `dnn = \"generated\"` in [backend.cuda] and report this plan.")

    def launch(*inputs: Any) -> Any:
        out = made.launch(*inputs)
        if waiting:
            compare(out if results > 1 else (out,), inputs)
        return out

    def into(*args: Any) -> None:
        made.into(*args)
        if waiting:
            compare(args[:results], args[results:])

    return Launch(launch, into, made.kernels, made.keep)


def values(storage: Any, m: Meta) -> np.ndarray[Any, Any]:
    """The elements of a storage, in float64."""
    import numpy as np

    backend = m.device.backend
    raw = np.frombuffer(backend.copy_to_host(storage, m.span), np.uint8)
    if m.dtype is dt.bfloat16:
        wide = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        wide = raw.view(m.dtype.name)
    strides = [wide.itemsize * s for s in m.strides]
    return np.lib.stride_tricks.as_strided(wide, m.shape, strides).astype(np.float64)


def difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """The largest difference, in units of the largest finite value of b. Infinite where one is
    finite and the other is not, or where infinities differ."""
    import numpy as np

    fine = np.isfinite(b)
    if not np.array_equal(fine, np.isfinite(a)) or not np.array_equal(
            a[~fine], b[~fine], equal_nan=True):
        return float("inf")
    if not fine.any():
        return 0.0
    gap, top = np.abs(a[fine] - b[fine]).max(), np.abs(b[fine]).max()
    return float(gap / top) if top else float(gap)
