"""Weight averaging: running copies of a model, their schedule, and batch-norm refresh. Floor 7."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import lampion

from ..nn import Module
from .lr_scheduler import LRScheduler, Rates, per_group
from .optimizer import Optimizer

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )


def _can_lerp(tensor: Any) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[..., None]:
    """A function `(averages, currents, n)` that moves the averages by exponential decay."""
    _check_decay(decay)

    def ema_update(averages: Any, currents: Any, _: Any) -> None:
        with lampion.no_grad():
            for average, current in zip(averages, currents):
                if _can_lerp(average):
                    average.lerp_(current, 1 - decay)
                else:
                    average.copy_(average * decay + current * (1 - decay))

    return ema_update


def get_swa_multi_avg_fn() -> Callable[..., None]:
    """A function `(averages, currents, n)` that keeps equal-weight means."""

    def swa_update(averages: Any, currents: Any, num_averaged: Any) -> None:
        with lampion.no_grad():
            weight = 1 / (float(num_averaged) + 1)
            for average, current in zip(averages, currents):
                if _can_lerp(average):
                    average.lerp_(current, weight)
                else:
                    average.copy_(average + (current - average) * weight)

    return swa_update


def get_ema_avg_fn(decay: float = 0.999) -> Callable[..., Any]:
    """A function `(average, current, n)` giving the exponentially decayed average."""
    _check_decay(decay)

    def ema_update(average: Any, current: Any, num_averaged: Any) -> Any:
        with lampion.no_grad():
            return decay * average + (1 - decay) * current

    return ema_update


def get_swa_avg_fn() -> Callable[..., Any]:
    """A function `(average, current, n)` giving the mean of n + 1 values."""

    def swa_update(average: Any, current: Any, num_averaged: Any) -> Any:
        with lampion.no_grad():
            return average + (current - average) / (num_averaged + 1)

    return swa_update


class AveragedModel(Module):
    """A copy of `model` whose parameters are running averages of the model's.

    Args:
        model: the module to follow; it is deep-copied.
        device: where the copy lives; None keeps the model's.
        avg_fn: `(average, current, n) -> new average`, for one tensor.
        multi_avg_fn: `(averages, currents, n) -> None`, in place for many tensors.
        use_buffers: average buffers too; otherwise they are copied.

    Example:
        >>> import lampion
        >>> model = lampion.nn.Linear(2, 1)
        >>> averaged = AveragedModel(model)
        >>> averaged.update_parameters(model)
        >>> int(averaged.n_averaged)
        1
    """

    def __init__(
        self,
        model: Any,
        device: Any = None,
        avg_fn: Callable[..., Any] | None = None,
        multi_avg_fn: Callable[..., None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer(
            "n_averaged", lampion.tensor(0, dtype=lampion.long, device=device)
        )
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged module's forward."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Any) -> None:
        """Take the model's present parameters into the averages."""
        with lampion.no_grad():
            self._update(model)

    def _update(self, model: Any) -> None:
        ours, theirs = self._tensors(self.module), self._tensors(model)
        pairs = [(a.detach(), p.detach().to(a.device)) for a, p in zip(ours, theirs)]
        count = int(self.n_averaged)
        if count == 0:
            for average, current in pairs:
                average.copy_(current)
        elif self.avg_fn is not None:
            for average, current in pairs:
                n = self.n_averaged.to(average.device)
                average.copy_(self.avg_fn(average, current, n))
        else:
            self._update_many(pairs)
        if not self.use_buffers:
            for mine, its in zip(self.module.buffers(), model.buffers()):
                mine.detach().copy_(its.detach().to(mine.device))
        self.n_averaged += 1

    def _tensors(self, module: Any) -> Iterable[Any]:
        if self.use_buffers:
            return itertools.chain(module.parameters(), module.buffers())
        return module.parameters()

    def _update_many(self, pairs: list[tuple[Any, Any]]) -> None:
        """One call per device and dtype, as multi_avg_fn expects."""
        update = self.multi_avg_fn or get_swa_multi_avg_fn()
        alike: dict[Any, tuple[list[Any], list[Any]]] = {}
        for average, current in pairs:
            averages, currents = alike.setdefault((average.device, average.dtype), ([], []))
            averages.append(average)
            currents.append(current)
        for (device, _), (averages, currents) in alike.items():
            update(averages, currents, self.n_averaged.to(device))


def _batch_norm_class() -> Any:
    from ..nn.modules import batchnorm  # not needed by schedules, and not cheap

    return batchnorm._BatchNorm


def update_bn(loader: Iterable[Any], model: Any, device: Any = None) -> None:
    """Recompute the running statistics of the model's batch-norm layers over `loader`.

    Batches may be tensors, or tuples or lists whose first entry is the input.
    """
    batch_norm = _batch_norm_class()
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, batch_norm)}
    if not momenta:
        return
    was_training = model.training
    model.train()
    for layer in momenta:
        layer.reset_running_stats()
        layer.momentum = None
    with lampion.no_grad():
        for batch in loader:
            batch = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(batch if device is None else batch.to(device))
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    model.train(was_training)


def _cosine(t: float) -> float:
    return (1 - math.cos(math.pi * t)) / 2


def _linear(t: float) -> float:
    return t


class SWALR(LRScheduler):
    """Anneal the rate to `swa_lr` in `anneal_epochs` epochs ("cos" or "linear"), and hold it."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        for value, group in zip(per_group("swa_lr", optimizer, swa_lr), optimizer.param_groups):
            group["swa_lr"] = value
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                "anneal_strategy must be one of 'cos' or 'linear', instead got "
                f"{anneal_strategy}"
            )
        self._set_anneal_func(anneal_strategy)
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(
                f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}"
            )
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _set_anneal_func(self, strategy: str) -> None:
        self._anneal_strategy = strategy
        self.anneal_func = _cosine if strategy == "cos" else _linear

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        length = max(1, self.anneal_epochs)
        before = self.anneal_func(max(0, min(1, (step - 1) / length)))
        now = self.anneal_func(max(0, min(1, step / length)))
        rates = []
        for group in self.optimizer.param_groups:
            target = group["swa_lr"]
            if before == 1:
                start = target
            else:
                start = (group["lr"] - before * target) / (1 - before)
            rates.append(target * now + start * (1 - now))
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and the annealing function."""
        state = super().state_dict()
        state.pop("anneal_func")
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.__dict__.update(state_dict)
        self._set_anneal_func(self._anneal_strategy)
