"""Memory shared with other libraries: DLPack's streams and `__cuda_array_interface__`.

Imports lampion's floor 0 and this package's driver and streams.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.device import device

from .driver import check
from .streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .driver import Device

LEGACY, NOTHING = 1, -1  # DLPack: the driver's default stream; do not synchronize


def hand_over(gpu: Device, stream: int | None) -> None:
    """Make later work on another library's stream come after what is enqueued on the current one.
    ValueError for 0, which DLPack forbids because it could mean two streams."""
    if stream == NOTHING:
        return
    if stream == 0:
        raise ValueError("__dlpack__(stream=0) is ambiguous: 1 is the legacy default stream, 2 the "
                         "per-thread one")
    ours = gpu.current.stream
    theirs = LEGACY if stream is None else int(stream)
    if theirs != ours.handle:
        Stream(gpu, handle=theirs).wait_stream(ours)


def interface(tensor: Any) -> dict[str, Any]:
    """`Tensor.__cuda_array_interface__`, version 3. AttributeError for tensors elsewhere and for
    bfloat16, which the protocol lacks; RuntimeError for tensors that require gradients."""
    m = tensor.meta
    if m.device.type != "cuda":
        raise AttributeError(f"Can't get __cuda_array_interface__ on a tensor on {m.device}: it is "
                             "for CUDA tensors only")
    if tensor.requires_grad:
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad. If "
                           "gradients aren't required, use var.detach() to get Variable that "
                           "doesn't require grad.")
    if m.dtype is dt.bfloat16:
        raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack")
    strides = None if m.contiguous else tuple(s * m.dtype.itemsize for s in m.strides)
    gpu = tensor.data_.bin.pool.device if m.numel else None
    shown: dict[str, Any] = {
        "typestr": f"{'|' if m.dtype.itemsize == 1 else '<'}{m.dtype.kind}{m.dtype.itemsize}",
        "shape": tuple(m.shape), "strides": strides, "data": (tensor.data_ptr(), False),
        "version": 3, "stream": gpu.current.stream.handle if gpu is not None else None}
    return shown


def adopted(backend: Any, data: Any) -> tuple[int, dt.dtype, Sequence[int], Sequence[int] | None,
                                              device] | None:
    """What `Backend.adopt` returns for an object with `__cuda_array_interface__`. What was
    enqueued on its stream comes first."""
    shown = getattr(data, "__cuda_array_interface__", None)
    if not isinstance(shown, dict):
        return None
    if shown.get("mask") is not None:
        raise TypeError("an array with a mask cannot become a tensor")
    kind = re.fullmatch(r"[<|=]([a-z])(\d+)", shown["typestr"])
    found = [d for d in dt.ALL if kind is not None and d.kind == kind[1]
             and d.itemsize == int(kind[2]) and d is not dt.bfloat16]
    if not found:
        raise TypeError(f"no dtype for the elements {shown['typestr']!r} of "
                        f"__cuda_array_interface__")
    d, shape, pointer = found[0], tuple(shown["shape"]), int(shown["data"][0] or 0)
    strides = shown.get("strides")
    if strides is not None:
        if any(s % d.itemsize or s < 0 for s in strides):
            raise ValueError(f"strides {strides} bytes are no multiples of {d.itemsize} bytes, or "
                             "negative")
        strides = tuple(s // d.itemsize for s in strides)
    gpu = backend.opened(None)
    if pointer:
        what = gpu.drv.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        gpu.activate()
        gpu = backend.open(int(check(gpu.drv.cuPointerGetAttribute(what, pointer),
                                     "asking whose memory an array's is")))
    stream = shown.get("stream")
    if stream is not None and stream != gpu.current.stream.handle:
        gpu.current.stream.wait_stream(Stream(gpu, handle=int(stream)))
    return pointer, d, shape, strides, gpu.where
