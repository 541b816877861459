"""`GradScaler`: losses multiplied so that gradients in float16 do not vanish.

The factor grows while gradients stay finite and backs off when they do not (Micikevicius et al.,
"Mixed Precision Training", 2018, section 3.2). Floor 7; imports tensor.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..autograd.modes import no_grad
from ..base.dtype import float16
from ..tensor import Tensor


class OptState(Enum):
    """What was done with an optimizer's gradients since the last update."""

    READY = 0
    UNSCALED = 1
    STEPPED = 2


class GradScaler:
    """Scales losses, unscales gradients, and skips steps whose gradients are not finite.

    `init_scale` is the first factor, multiplied by `growth_factor` after `growth_interval` steps in
    a row without infinities or NaN and by `backoff_factor` after a step with one. `enabled=False`
    makes every method do what a program without scaling would.

    >>> scaler = lampion.amp.GradScaler("cpu", init_scale=4.0)
    >>> w = lampion.ones(2, requires_grad=True)
    >>> opt = lampion.optim.SGD([w], lr=1.0)
    >>> scaler.scale((w * 0.5).sum()).backward()
    >>> scaler.step(opt)
    >>> scaler.update()
    >>> w.detach()
    tensor([0.5000, 0.5000])
    """

    def __init__(self, device: str = "", init_scale: float = 2.0**16, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000,
                 enabled: bool = True) -> None:
        self._device = device
        self._enabled = enabled
        if enabled:
            if growth_factor <= 1.0:
                raise AssertionError("The growth factor must be > 1.0.")
            if backoff_factor >= 1.0:
                raise AssertionError("The backoff factor must be < 1.0.")
            self._scale = float(init_scale)
            self._growth_factor = growth_factor
            self._backoff_factor = backoff_factor
            self._growth_interval = growth_interval
            self._growth_tracker = 0
            # by optimizer: what was done, and where infinities were looked for, by device
            self._states: dict[int, OptState] = {}
            self._found: dict[int, list[Tensor]] = {}

    def scale(self, outputs: Any) -> Any:
        """A tensor, or each of an iterable, multiplied by the factor."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if isinstance(outputs, (list, tuple)):
            scaled = [self.scale(x) for x in outputs]
            return type(outputs)(scaled) if not hasattr(outputs, "_fields") else type(outputs)(
                *scaled)
        if hasattr(outputs, "__iter__"):
            return map(self.scale, outputs)
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the factor, in place.

        For programs that look at gradients (to clip them) before `step`; once per step.
        """
        if not self._enabled:
            return
        state = self._states.get(id(optimizer), OptState.READY)
        if state is OptState.UNSCALED:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update().")
        if state is OptState.STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        self._found[id(optimizer)] = self._unscale(optimizer)
        self._states[id(optimizer)] = OptState.UNSCALED

    def _unscale(self, optimizer: Any) -> list[Tensor]:
        """Unscale; per device, a tensor that is true if some gradient is not finite."""
        inverse = 1.0 / self._scale
        found: dict[Any, Tensor] = {}
        with no_grad():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    g = p.grad
                    if g.dtype is float16:
                        raise ValueError("Attempting to unscale FP16 gradients.")
                    bad = g.isfinite().all().logical_not()
                    seen = found.get(g.device)
                    found[g.device] = bad if seen is None else seen.logical_or(bad)
                    g.mul_(inverse)
        return list(found.values())

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(*args, **kwargs)` if all gradients are finite; what it returned.

        Unscales first unless `unscale_` was called. Closures are not supported.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError(
                "Closure use is not currently supported if GradScaler is enabled.")
        state = self._states.get(id(optimizer), OptState.READY)
        if state is OptState.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if state is OptState.READY:
            self.unscale_(optimizer)
        found = self._found[id(optimizer)]
        if not found:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        result = None
        if not any(bool(f.item()) for f in found):
            result = optimizer.step(*args, **kwargs)
        self._states[id(optimizer)] = OptState.STEPPED
        return result

    def update(self, new_scale: Any = None) -> None:
        """Move the factor by what the steps since the last update found, or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        else:
            found = [f for many in self._found.values() for f in many]
            if not found:
                raise AssertionError("No inf checks were recorded prior to update.")
            if any(bool(f.item()) for f in found):
                self._scale *= self._backoff_factor
                self._growth_tracker = 0
            else:
                self._growth_tracker += 1
                if self._growth_tracker == self._growth_interval:
                    self._scale *= self._growth_factor
                    self._growth_tracker = 0
        self._states.clear()
        self._found.clear()

    def get_scale(self) -> float:
        """The factor; 1.0 if not enabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the factor is multiplied by when it grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Change it."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the factor is multiplied by when it backs off."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Change it."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Steps without infinities until the factor grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Change it."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether this scaler does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs; empty if not enabled."""
        if not self._enabled:
            return {}
        return {"scale": self._scale, "growth_factor": self._growth_factor,
                "backoff_factor": self._backoff_factor, "growth_interval": self._growth_interval,
                "_growth_tracker": self._growth_tracker}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state. RuntimeError for the empty one of a scaler that was not enabled.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("The source state dict is empty, possibly because it was saved from "
                               "a disabled instance of GradScaler.")
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._enabled:
            if self._states:
                raise RuntimeError("A GradScaler instance may only be pickled at the beginning of "
                                   "an iteration, or at the end after scaler.update().")
            state["_states"], state["_found"] = {}, {}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


