"""Averaging the parameters of all processes every few steps. Floor 7; imports the collectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from ....autograd.modes import no_grad
from ... import collectives
from ...groups import _the

__all__ = ["ModelAverager", "PeriodicModelAverager"]


class ModelAverager(ABC):
    """Averages parameters; counts the steps."""

    def __init__(self, process_group: Any = None) -> None:
        self.process_group, self.step = _the(process_group), 0

    @abstractmethod
    def average_parameters(self, params: Iterable[Any]) -> None:
        """Average the parameters, if it is time."""


class PeriodicModelAverager(ModelAverager):
    """Averages parameters every `period` steps, after `warmup_steps`. ValueError for others than
    positive numbers."""

    def __init__(self, period: int, warmup_steps: int = 0, process_group: Any = None) -> None:
        super().__init__(process_group)
        if warmup_steps < 0:
            raise ValueError("Arg ``warmup_steps`` must be a non-negative number.")
        if period <= 0:
            raise ValueError("Arg ``period`` must be a positive value.")
        self.period, self.warmup_steps = period, warmup_steps

    def average_parameters(self, params: Iterable[Any]) -> None:
        """Average the parameters (or those of the groups of an optimizer), if it is time."""
        if self.step >= self.warmup_steps and (self.step - self.warmup_steps) % self.period == 0:
            with no_grad():
                for p in params:
                    for q in p["params"] if isinstance(p, dict) else (p,):
                        if q.grad is not None or not isinstance(p, dict):
                            collectives.all_reduce(q, collectives.ReduceOp.AVG,
                                                   self.process_group)
        self.step += 1
