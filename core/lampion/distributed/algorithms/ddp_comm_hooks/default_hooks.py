"""Averages of gradients as hooks, some of them in fewer bits. Floor 7; imports the collectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lampion

from ....futures import Future
from ....tensor import Tensor
from ...collectives import all_reduce
from ...groups import ProcessGroup, _the
from ...reducing import GradBucket

Hook = Callable[[Any, GradBucket], Future[Tensor]]


def _average(group: ProcessGroup | None, row: Tensor) -> Future[Tensor]:
    pg = _the(group)
    work = all_reduce(row.div_(pg.size()), group=pg, async_op=True)
    assert work is not None
    return work.get_future().then(lambda f: f.value()[0])


def allreduce_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """The average, as without a hook."""
    return _average(process_group, bucket.buffer())


def _compressed(dtype: Any, group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    row = bucket.buffer()
    return _average(group, row.to(dtype)).then(lambda f: row.copy_(f.value()))


def fp16_compress_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """The average of gradients that travel in float16."""
    return _compressed(lampion.float16, process_group, bucket)


def bf16_compress_hook(process_group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """The average of gradients that travel in bfloat16."""
    return _compressed(lampion.bfloat16, process_group, bucket)


def _wrapper(dtype: Any, hook: Hook) -> Hook:
    def wrapped(state: Any, bucket: GradBucket) -> Future[Tensor]:
        row = bucket.buffer()
        bucket.set_buffer(row.to(dtype))
        return hook(state, bucket).then(lambda f: row.copy_(f.value()))

    return wrapped


def fp16_compress_wrapper(hook: Hook) -> Hook:
    """A hook whose gradients travel in float16."""
    return _wrapper(lampion.float16, hook)


def bf16_compress_wrapper(hook: Hook) -> Hook:
    """A hook whose gradients travel in bfloat16."""
    return _wrapper(lampion.bfloat16, hook)
