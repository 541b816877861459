"""Learning-rate schedules with PyTorch's names, arguments and values.

Each schedule sets `group["lr"]` of its optimizer on construction and on every `step()`. The
recurrences are evaluated in PyTorch's order of operations, so the numbers agree to the last bit.
Schedules of two phases or more (one-cycle, warm restarts, plateaus, chains) are in
`_lr_cycles.py` and `_lr_composed.py` and are re-exported here.

Floor 7; imports the public lampion API and optim.optimizer.
"""

from __future__ import annotations

import math
import types
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import ref

import lampion

from ..runtime import tracing
from .optimizer import Optimizer

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]

Rates = list[Any]
EPOCH_WARNING = (
    "The epoch parameter in `scheduler.step()` is deprecated; call `scheduler.step()`. While it "
    "is supported, an epoch selects the closed form of the schedule where there is one."
)


def copied(value: Any) -> Any:
    """A rate that later in-place changes of `value` do not touch."""
    return value.clone() if isinstance(value, lampion.Tensor) else value


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value per parameter group; ValueError if a list has another length."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        value = [value] * groups
    elif len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {groups}."
        )
    return [copied(v) for v in value]


def group_values(optimizer: Optimizer, key: str) -> list[Any]:
    """The groups' values of an option, safe from in-place changes."""
    return [copied(group[key]) for group in optimizer.param_groups]


def set_rate(group: dict[str, Any], value: Any, key: str = "lr") -> None:
    """Set a group's option; a tensor is filled in place, so that whoever holds it sees it."""
    if isinstance(group[key], lampion.Tensor):
        group[key].fill_(value.squeeze() if isinstance(value, lampion.Tensor) else value)
    else:
        group[key] = value


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError unless given an Optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


def _count_steps(optimizer: Optimizer) -> None:
    """Let the optimizer remember that it stepped, for the warning about a wrong call order."""
    step = optimizer.step
    if hasattr(step, "_wrapped_by_lr_sched"):
        return
    owner, function = ref(optimizer), step.__func__  # type: ignore[attr-defined]

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        alive = owner()
        alive._opt_called = True  # type: ignore[union-attr]
        return function(alive, *args, **kwargs)

    counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = counted  # type: ignore[method-assign]


def _repeated(step: Callable[..., None]) -> Callable[..., None]:
    """A scheduler's `step`, which compiled steps run as it is in each of their runs: its counters
    are the host's."""
    if getattr(step, "repeated", False):
        return step

    @wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if tracing.active:
            return tracing.active[-1].host_call(wrapper, (self, *args), kwargs)
        return step(self, *args, **kwargs)

    wrapper.repeated = True  # type: ignore[attr-defined]
    return wrapper


class LRScheduler:
    """Base class: subclasses define `get_lr()` from `last_epoch`, `base_lrs` and the groups.

    Args:
        optimizer: whose groups' `lr` is set.
        last_epoch: index of the last epoch, -1 to start.

    Raises:
        TypeError: if `optimizer` is not one.
        KeyError: when resuming (`last_epoch >= 0`) without `initial_lr` in the groups.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _repeated(cls.step)  # type: ignore[method-assign]

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", copied(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                    "scheduler with last_epoch >= 0: load the optimizer's state first, or start "
                    "afresh with last_epoch=-1"
                )
        self.base_lrs: Rates = group_values(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        _count_steps(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> Rates:
        """The rates set by the last step, one per group."""
        return self._last_lr

    def get_lr(self) -> Rates:
        """The rates for the current `last_epoch`, one per group."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr()")

    @_repeated
    def step(self, epoch: int | None = None) -> None:
        """Advance by one epoch (or to `epoch`, deprecated) and set the groups' rates."""
        if self._step_count == 1:
            self._warn_about_order()
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_WARNING, UserWarning, stacklevel=3)
        self._update_lr(epoch)

    def _warn_about_order(self) -> None:
        if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler "
                "initialization. Please, make sure to call `optimizer.step()` before "
                "`lr_scheduler.step()`.",
                UserWarning,
                stacklevel=4,
            )
        elif not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`. Call them in "
                "the opposite order, or the first value of the schedule is skipped.",
                UserWarning,
                stacklevel=4,
            )

    def _update_lr(self, epoch: int | None = None) -> None:
        with self._computing():
            if epoch is None:
                self.last_epoch += 1
                values = self.get_lr()
            else:
                self.last_epoch = epoch
                closed = getattr(self, "_get_closed_form_lr", self.get_lr)
                values = closed()
        self._set_rates(values)

    def _set_rates(self, values: Rates) -> None:
        for group, value in zip(self.optimizer.param_groups, values):
            set_rate(group, value)
        self._last_lr: Rates = group_values(self.optimizer, "lr")

    @contextmanager
    def _computing(self) -> Any:
        """Marks that get_lr is called by step; user code should call get_last_lr instead."""
        self._get_lr_called_within_step = True
        try:
            yield
        finally:
            self._get_lr_called_within_step = False

    def _warn_unless_computing(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use "
                "`get_last_lr()`.",
                UserWarning,
                stacklevel=3,
            )

    def _current(self) -> Rates:
        return group_values(self.optimizer, "lr")

    def _scaled(self, factor: float) -> Rates:
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class _LambdaSchedule(LRScheduler):
    """What LambdaLR and MultiplicativeLR share: one function per group, and its state."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        groups = len(optimizer.param_groups)
        if isinstance(lr_lambda, (list, tuple)):
            if len(lr_lambda) != groups:
                raise ValueError(f"Expected {groups} lr_lambdas, but got {len(lr_lambda)}")
            self.lr_lambdas: list[Callable[[int], float]] = list(lr_lambda)
        else:
            self.lr_lambdas = [lr_lambda] * groups
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(
                    f"lr_lambda should be a function, but got {type(function).__name__}"
                )
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and plain functions; callable objects give their dict."""
        state = super().state_dict()
        state["lr_lambdas"] = [
            None if isinstance(f, types.FunctionType) else f.__dict__.copy()
            for f in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; plain functions stay as constructed."""
        state = dict(state_dict)
        for function, attributes in zip(self.lr_lambdas, state.pop("lr_lambdas")):
            if attributes is not None:
                function.__dict__.update(attributes)
        self.__dict__.update(state)


class LambdaLR(_LambdaSchedule):
    """The initial rate times `lr_lambda(epoch)`.

    Args:
        lr_lambda: a function of the epoch, or a list with one per group.

    Example:
        >>> import lampion
        >>> opt = lampion.optim.SGD([lampion.nn.Parameter(lampion.ones(1))], lr=1.0)
        >>> LambdaLR(opt, lambda epoch: 0.5 ** (epoch + 1)).get_last_lr()
        [0.5]
    """

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        return [
            base * function(self.last_epoch)
            for function, base in zip(self.lr_lambdas, self.base_lrs)
        ]


class MultiplicativeLR(_LambdaSchedule):
    """The previous rate times `lr_lambda(epoch)`."""

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        if self._is_initial:
            return self._current()
        return [
            group["lr"] * function(self.last_epoch)
            for function, group in zip(self.lr_lambdas, self.optimizer.param_groups)
        ]


class StepLR(LRScheduler):
    """Multiply the rate by `gamma` every `step_size` epochs."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        if self.last_epoch == 0 or self.last_epoch % self.step_size != 0:
            return self._current()
        return self._scaled(self.gamma)

    def _get_closed_form_lr(self) -> Rates:
        factor = self.gamma ** (self.last_epoch // self.step_size)
        return [base * factor for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """Multiply the rate by `gamma` at each epoch in `milestones` (once per occurrence)."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        if self.last_epoch not in self.milestones:
            return self._current()
        return self._scaled(self.gamma ** self.milestones[self.last_epoch])

    def _get_closed_form_lr(self) -> Rates:
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [base * self.gamma**passed for base in self.base_lrs]


class ConstantLR(LRScheduler):
    """`factor` times the initial rate until `total_iters`, then the initial rate."""

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if factor > 1.0 or factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        if self.last_epoch == 0:
            return self._scaled(self.factor)
        if self.last_epoch != self.total_iters:
            return self._current()
        return self._scaled(1.0 / self.factor)

    def _get_closed_form_lr(self) -> Rates:
        done = self.last_epoch >= self.total_iters
        return [base * (self.factor + done * (1 - self.factor)) for base in self.base_lrs]


class LinearLR(LRScheduler):
    """A factor that goes linearly from `start_factor` to `end_factor` in `total_iters` epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or equal "
                "to 1."
            )
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._current()
        rise = self.end_factor - self.start_factor
        previous = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return self._scaled(1.0 + rise / previous)

    def _get_closed_form_lr(self) -> Rates:
        rise = self.end_factor - self.start_factor
        done = min(self.total_iters, self.last_epoch)
        return [base * (self.start_factor + rise * done / self.total_iters)
                for base in self.base_lrs]  # fmt: skip


class ExponentialLR(LRScheduler):
    """Multiply the rate by `gamma` every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        return self._current() if self._is_initial else self._scaled(self.gamma)

    def _get_closed_form_lr(self) -> Rates:
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


class PolynomialLR(LRScheduler):
    """Fall to 0 in `total_iters` epochs along `(1 - epoch / total_iters) ** power`."""

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        if self._is_initial or self.last_epoch > self.total_iters:
            return self._current()
        left = 1.0 - self.last_epoch / self.total_iters
        left_before = 1.0 - (self.last_epoch - 1) / self.total_iters
        return self._scaled((left / left_before) ** self.power)

    def _get_closed_form_lr(self) -> Rates:
        left = 1.0 - min(self.total_iters, self.last_epoch) / self.total_iters
        return [base * left**self.power for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """Swing between the initial rate and `eta_min` along a cosine of half period `T_max`."""

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Rates:
        """The rates for the current epoch."""
        self._warn_unless_computing()
        epoch, half, low = self.last_epoch, self.T_max, self.eta_min
        if self._is_initial:
            return self._current()
        if self._step_count == 1 and epoch > 0:
            height = 1 + math.cos(epoch * math.pi / half)
            return [low + (base - low) * height / 2 for base in self.base_lrs]
        groups = self.optimizer.param_groups
        if (epoch - 1 - half) % (2 * half) == 0:  # at a trough the ratio below would be 0 / 0
            rise = 1 - math.cos(math.pi / half)
            return [g["lr"] + (base - low) * rise / 2 for base, g in zip(self.base_lrs, groups)]
        height = 1 + math.cos(math.pi * epoch / half)
        before = 1 + math.cos(math.pi * (epoch - 1) / half)
        return [height / before * (g["lr"] - low) + low for g in groups]

    def _get_closed_form_lr(self) -> Rates:
        height = 1 + math.cos(math.pi * self.last_epoch / self.T_max)
        return [self.eta_min + (base - self.eta_min) * height / 2 for base in self.base_lrs]


from ._lr_composed import ChainedScheduler, ReduceLROnPlateau, SequentialLR  # noqa: E402
from ._lr_cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR  # noqa: E402

_LRScheduler = LRScheduler  # its older name, which packages still look for
