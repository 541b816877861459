"""`PostLocalSGDOptimizer`: steps of each process's own, and averages of parameters. Floor 7."""

from __future__ import annotations

from typing import Any

from ...optim.optimizer import Optimizer


class PostLocalSGDOptimizer(Optimizer):
    """An optimizer whose parameters an averager averages after its steps."""

    def __init__(self, optim: Optimizer, averager: Any) -> None:
        self.optim, self.averager = optim, averager
        self.param_groups = optim.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The optimizer's."""
        return self.optim.state

    def __repr__(self) -> str:
        return repr(self.optim)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step, then the averager."""
        self.optim.step(closure)
        self.averager.average_parameters(self.optim.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optim.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """More parameters."""
        self.optim.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with the averager's steps."""
        return {**self.optim.state_dict(), "step": self.averager.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load such a state."""
        self.optim.load_state_dict({k: v for k, v in state_dict.items() if k != "step"})
        self.averager.step = state_dict.get("step", 0)
        self.param_groups = self.optim.param_groups
