"""`ShardedGradScaler`: `amp.GradScaler` whose processes skip a step together. Floor 7."""

from __future__ import annotations

from typing import Any

from ... import amp
from .. import collectives, groups


class ShardedGradScaler(amp.GradScaler):
    """A scaler of losses; if gradients overflow in one process, all of the group skip the step."""

    def __init__(self, device: str = "", init_scale: float = 2.0**16,
                 backoff_factor: float = 0.5, growth_factor: float = 2.0,
                 growth_interval: int = 2000, enabled: bool = True,
                 process_group: Any = None) -> None:
        super().__init__(device, init_scale, growth_factor, backoff_factor, growth_interval,
                         enabled)
        self.process_group = process_group

    def unscale_(self, optimizer: Any) -> None:
        """Divide gradients by the scale, and tell the other processes whether they overflowed."""
        super().unscale_(optimizer)
        if not self.is_enabled() or groups._the(self.process_group).size() == 1:
            return
        for found in self._found[id(optimizer)]:
            collectives.all_reduce(found, collectives.ReduceOp.MAX, group=self.process_group)
