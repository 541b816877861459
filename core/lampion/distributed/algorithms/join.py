"""`Join`: a block in which processes may have unequal numbers of inputs.

At the beginning of each step every process says whether it still has input. One that has none stays
in the block and does, through its hooks, what the steps of the others need of it. Floor 7; imports
the collectives.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import lampion

from .. import collectives
from ..groups import _the


class JoinHook:
    """What a process does that has no input."""

    def main_hook(self) -> None:
        """For each step of the others."""

    def post_hook(self, is_last_joiner: bool) -> None:
        """When all are done."""


class _Config:
    """How a joinable takes part: whether a block is there, and whether it says so first."""

    enable = False
    throws = False
    first = False
    divides_by_initial = True


class Joinable(ABC):
    """What can be used in a `Join` block."""

    @abstractmethod
    def __init__(self) -> None:
        super().__init__()
        self._join_config = _Config()

    @abstractmethod
    def join_hook(self, **kwargs: Any) -> JoinHook:
        """What a process does that is done."""

    @property
    @abstractmethod
    def join_device(self) -> Any:
        """Where its tensors are."""

    @property
    @abstractmethod
    def join_process_group(self) -> Any:
        """The processes that take part."""


class Join:
    """The block: `with Join([ddp, optimizer]): for batch in batches: ...`. ValueError without
    joinables, or for joinables of different groups."""

    def __init__(self, joinables: list[Joinable], enable: bool = True,
                 throw_on_early_termination: bool = False, **kwargs: Any) -> None:
        if not joinables:
            raise ValueError("The join context manager requires at least one joinable")
        groups = {id(_the(j.join_process_group)) for j in joinables}
        if len(groups) > 1:
            raise ValueError("Using join context manager with multiple process groups")
        self._joinables, self._enable = joinables, enable
        self._throws = throw_on_early_termination
        self._group = _the(joinables[0].join_process_group)
        self._hooks = [j.join_hook(**kwargs) for j in joinables]

    def __enter__(self) -> Join:
        for k, j in enumerate(self._joinables):
            j._join_config.enable, j._join_config.throws = self._enable, self._throws
            j._join_config.first = k == 0
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        try:
            if self._enable and kind is None and self._group.size() > 1:
                self._follow()
        finally:
            for j in self._joinables:
                j._join_config = _Config()

    def _follow(self) -> None:
        """Do what the others need until all are done."""
        last, steps = True, 0
        while True:
            count = lampion.zeros(1)
            collectives.all_reduce(count, group=self._group)
            if not count.item():
                break
            if self._throws:
                collectives.barrier(self._group)  # all raise together
                raise RuntimeError(_EARLY)
            last, steps = False, steps + 1
            if steps == 1000:
                warnings.warn("this process has followed the others for 1000 steps: their numbers "
                              "of inputs differ much", stacklevel=3)
            for hook in self._hooks:
                hook.main_hook()
        for hook in self._hooks:
            hook.post_hook(last)

    @staticmethod
    def notify_join_context(joinable: Joinable) -> Any:
        """Called by joinables at the beginning of a step: the `Work` of counting who has input;
        None outside of a block, or if another joinable says it."""
        config = getattr(joinable, "_join_config", None)
        if config is None or not config.enable or not config.first:
            return None
        group = _the(joinable.join_process_group)
        work = collectives.all_reduce(lampion.ones(1), group=group, async_op=True)
        if config.throws and work is not None:
            work.wait()
            if int(work.result()[0]) < group.size():
                collectives.barrier(group)
                raise RuntimeError(_EARLY)
        return work


_EARLY = "Detected at least one rank that exhausted inputs. Throwing across all ranks."
