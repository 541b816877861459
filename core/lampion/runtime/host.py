"""Running a function on NumPy arrays over a device's storages.

Floor 2; imports base. Some algorithms (the LAPACK set) have no loop nest worth generating. Their
op's block has a `host` part: `host(call)` gives a function on arrays, outputs first, then inputs,
which writes the outputs. It runs on devices with the feature "host-functions", and nowhere else
unless a fallback is allowed: one implementation for every backend that computes on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base.meta import Meta
from .backend import Launch, OpCall


def host_launch(call: OpCall, function: Callable[..., None], backend: Any) -> Launch:
    """A Launch of `function(*outputs, *inputs)` on arrays. They share the storages' memory if the
    backend has "host-memory", else the bytes are copied in and out."""
    shares = "host-memory" in backend.capabilities(call.device.index or 0).features
    run = _on_views if shares else _on_copies
    into = run(call, function, backend)
    allocate, where = backend.allocate, call.device
    sizes = [m.span for m in call.outputs]

    def launch(*inputs: Any) -> Any:
        outs = [allocate(n, where) for n in sizes]
        into(*outs, *inputs)
        return outs[0] if len(outs) == 1 else tuple(outs)

    return Launch(launch, into, [f"host:{call.op}"])


def array_over(m: Meta, buffer: Any) -> Any:
    """The elements of a tensor of meta `m` whose bytes start `buffer`, as an array."""
    strides = tuple(s * m.dtype.itemsize for s in m.strides)
    return np.ndarray(m.shape, m.dtype.np, buffer if m.numel else None, strides=strides)


def _on_views(call: OpCall, function: Callable[..., None], backend: Any) -> Callable[..., None]:
    views = [_viewer(m, backend.host_view) for m in (*call.outputs, *call.inputs)]
    return lambda *slots: function(*[view(s) for view, s in zip(views, slots)])


def _viewer(m: Any, host_view: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if not isinstance(m, Meta):  # a number passed at run time
        return lambda number: number
    shape, kind, ndarray = m.shape, m.dtype.np, np.ndarray
    strides = tuple(s * m.dtype.itemsize for s in m.strides)
    if not m.numel:
        return lambda storage: ndarray(shape, kind)
    return lambda storage: ndarray(shape, kind, host_view(storage), 0, strides)


def _on_copies(call: OpCall, function: Callable[..., None], backend: Any) -> Callable[..., None]:
    outputs, inputs = call.outputs, call.inputs

    def into(*slots: Any) -> None:
        results = [bytearray(m.span) for m in outputs]
        values = [array_over(m, backend.copy_to_host(s, m.span)) if isinstance(m, Meta) else s
                  for m, s in zip(inputs, slots[len(outputs):])]
        function(*[array_over(m, r) for m, r in zip(outputs, results)], *values)
        for storage, result in zip(slots, results):
            backend.copy_from_host(result, storage)

    return into
