"""Copies between storages of this backend, on one GPU or between two. Imports this package."""

from __future__ import annotations

from typing import Any

from .driver import check


def between(src: Any, dst: Any, nbytes: int) -> bool:
    """Copy `nbytes` from one storage to another, in the order of both GPUs' current streams.
    False where they overlap in one buffer: the caller goes another way."""
    here, there = src.bin.pool.device, dst.bin.pool.device
    if src.buf == dst.buf and abs(src.offset - dst.offset) < nbytes:
        return bool(src.offset == dst.offset)
    if not nbytes:
        return True
    there.activate()
    if here is there:
        check(there.drv.cuMemcpyDtoDAsync(dst.ptr, src.ptr, nbytes, there.current.stream.cu),
              f"copying on {there.where}")
        return True
    if not (here.reaches(there) and there.reaches(here)):
        return False
    # The copy runs on the source's stream: after what made the source, and after what was
    # enqueued for the destination; then the destination's stream waits for it.
    drv = there.drv
    doing = f"copying from {here.where} to {there.where}"
    flags = drv.CUevent_flags.CU_EVENT_DISABLE_TIMING.value
    ready = check(drv.cuEventCreate(flags), doing)
    check(drv.cuEventRecord(ready, there.current.stream.cu), doing)
    here.activate()
    s = here.current.stream
    check(drv.cuStreamWaitEvent(s.cu, ready, 0), doing)
    check(drv.cuMemcpyPeerAsync(dst.ptr, there.context, src.ptr, here.context, nbytes, s.cu),
          doing)
    done = check(drv.cuEventCreate(flags), doing)
    check(drv.cuEventRecord(done, s.cu), doing)
    there.activate()
    check(drv.cuStreamWaitEvent(there.current.stream.cu, done, 0), doing)
    check(drv.cuEventDestroy(ready), doing)
    check(drv.cuEventDestroy(done), doing)
    return True
