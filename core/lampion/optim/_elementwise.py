"""What lampion's own optimizers share: one walk over a group, one fused kernel per parameter.

A subclass names its update rule and computes the rule's numbers; `Elementwise` collects
gradients and state, counts steps and launches. Step counters of a group are views of one small
host tensor, so that counting costs one operation per group and not one per parameter, while each
`state[p]["step"]` stays an ordinary 0-d tensor, as in PyTorch.

Floor 7; imports the public lampion API and `ops.fused_optim`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from operator import itemgetter
from typing import Any

import lampion

from ..ops.fused_optim import Rule
from ..runtime.capture import captures
from ._update import updater
from .optimizer import Group, Optimizer

State = dict[str, Any]


def number(value: Any) -> Any:
    """A hyperparameter as a Python number (tensors of one element are read)."""
    if isinstance(value, (float, int)):
        return value
    return value.item() if isinstance(value, lampion.Tensor) else float(value)


def ready(value: Any, group: Group, step: Any) -> Any:
    """A hyperparameter as a rule takes it: a tensor stays one if the group is `differentiable`, or
    if the step count is a tensor on its device; otherwise a Python number."""
    if isinstance(value, lampion.Tensor) and (
            group["differentiable"]
            or (isinstance(step, lampion.Tensor) and value.device == step.device)):
        return value
    return number(value)


def check_lr(lr: Any) -> None:
    """Raise ValueError unless `lr` is a non-negative number or one-element tensor."""
    if isinstance(lr, lampion.Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")


def check_betas(betas: Any) -> None:
    """Raise ValueError unless both moving-average factors lie in [0, 1)."""
    for i in (0, 1):
        if not 0.0 <= betas[i] < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {betas[i]}")


def check_rho(rho: Any) -> None:
    """Raise ValueError unless a moving-average factor lies in [0, 1]."""
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"Invalid rho value: {rho}")


def check_etas(etas: Any) -> None:
    """Raise ValueError unless the shrinking factor is in (0, 1) and the growing one above 1."""
    if not 0.0 < etas[0] < 1.0 < etas[1]:
        raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")


# How hyperparameters are checked; those that are not here must not be negative.
_CHECKS: dict[str, Callable[[Any], None]] = {
    "lr": check_lr, "betas": check_betas, "rho": check_rho, "etas": check_etas,
}
_TITLES = {"eps": "epsilon"}


def check_hyperparameters(**given: Any) -> None:
    """Raise ValueError for the first hyperparameter that is out of its range."""
    for name, value in given.items():
        if name in _CHECKS:
            _CHECKS[name](value)
        elif not value >= 0.0:
            raise ValueError(f"Invalid {_TITLES.get(name, name)} value: {value}")


def check_modes(foreach: Any, fused: Any, differentiable: Any) -> None:
    """Raise RuntimeError for combinations of implementation options that contradict."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def scalar_dtype() -> Any:
    """The dtype of counters: float64 if that is the default dtype, else float32."""
    default = lampion.get_default_dtype()
    return lampion.float64 if default == lampion.float64 else lampion.float32


def counter(group: Group, param: Any, value: float = 0.0) -> Any:
    """A fresh 0-d counter tensor; on the host unless the group is `capturable`."""
    device = param.device if group.get("capturable") else "cpu"
    return lampion.tensor(value, dtype=scalar_dtype(), device=device)


def _wide(t: Any) -> Any:
    """Counters in float64 where the device has it, for powers close to 1."""
    kinds = t.device.backend.capabilities(t.device.index or 0).dtypes
    return t.double() if lampion.float64 in kinds else t


def _only(name: str, state: State) -> tuple[Any]:
    return (state[name],)


def refuse_fresh_state(optimizer: Any) -> None:
    """Raise: state that is made during a capture would be made anew by every replay."""
    raise RuntimeError(f"the first step() of {type(optimizer).__name__} for a parameter cannot be "
                       "captured: every replay would start from fresh state. Run a step before "
                       "the capture.")


class _Counters:
    """The step counters of one group: one tensor and its 0-d views."""

    __slots__ = ("tensor", "views")

    def __init__(self, states: list[State]) -> None:
        steps = [state["step"] for state in states]
        self.tensor = lampion.stack(steps)
        self.views = self.tensor.unbind(0)
        for state, view in zip(states, self.views):
            state["step"] = view

    def hold(self, states: list[State]) -> bool:
        """Whether exactly these states count by our views."""
        if len(states) != len(self.views):
            return False
        for state, view in zip(states, self.views):  # noqa: SIM110 (a generator is slower)
            if state["step"] is not view:
                return False
        return True


def _options(kind: type) -> Group:
    """What an optimizer's constructors take that is off by default: files of older versions lack
    some of these."""
    return {p.name: p.default for k in reversed(kind.__mro__) if "__init__" in vars(k)
            for p in signature(k).parameters.values() if p.default is None
            or (isinstance(p.default, int) and not p.default)}


class Elementwise(Optimizer):
    """Base of the optimizers whose update is one element-wise rule per parameter.

    Subclasses define `_rule`, `_init_state` and `_scalars`. `foreach`, `fused` and `capturable`
    are accepted as in PyTorch; the update is one fused kernel per parameter whichever is set.
    `capturable` keeps counters on the parameter's device and computes the rule's numbers there, so
    that no step reads a value and a step may be captured into a graph. With `differentiable`, the
    same rule runs as recorded tensor operations.
    """

    _scalars_vary = False  # True: the numbers depend on the parameter's state, not its step only

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.pop("_counters", None)
        for group in self.param_groups:
            for key, value in _options(type(self)).items():
                group.setdefault(key, value)
            for p in group["params"]:
                own = self.state.get(p)
                if own and "step" in own and not isinstance(own["step"], lampion.Tensor):
                    own["step"] = counter(group, p, float(own["step"]))

    def _rule(self, group: Group) -> tuple[Rule, dict[str, bool]]:
        """The update rule of a group and its on/off options."""
        raise NotImplementedError

    def _init_state(self, group: Group, param: Any, grad: Any, state: State) -> None:
        """Fill the empty state of a parameter that is updated for the first time."""
        raise NotImplementedError

    def _scalars(self, group: Group, step: Any, state: State) -> tuple[Any, ...]:
        """The rule's numbers at this step (1 for the first). `step` may be a tensor of steps, if
        the group is `capturable`: then the results may be tensors, too."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; run with gradients enabled.

        Returns the closure's result, or None.
        """
        loss = None
        if closure is not None:
            with lampion.enable_grad():
                loss = closure()
        if self.defaults["differentiable"]:
            with lampion.enable_grad():
                self._update_groups()
        else:
            with lampion.no_grad():
                self._update_groups()
        return loss

    def _update_groups(self) -> None:
        for index, group in enumerate(self.param_groups):
            self._update_group(index, group)

    def _update_group(self, index: int, group: Group) -> None:
        params, grads, states = self._collect(group)
        if not params:
            return
        rule, flags = self._rule(group)
        on_device = group.get("capturable") and states[0]["step"].device.type != "cpu"
        if on_device and not group["differentiable"]:
            self._update_on_device(index, group, params, grads, states)
            return
        if captures:
            self._refuse_capture()
        update = updater(rule, flags, bool(group["differentiable"]))
        names = rule.buffers
        pick = itemgetter(*names) if len(names) > 1 else partial(_only, names[0])
        vary, last, scalars = self._scalars_vary, None, ()
        for p, grad, state, step in zip(params, grads, states, self._advance(index, states)):
            if vary or step != last:
                scalars, last = self._scalars(group, step, state), step
            update(p, grad, *pick(state), *scalars)

    def _update_on_device(self, index: int, group: Group, params: list[Any], grads: list[Any],
                          states: list[State]) -> None:
        """The update without a host read: numbers that depend on the step are tensors."""
        rule, flags = self._rule(group)
        steps = self._advance_on_device(index, states)
        if self._scalars_vary:
            rows = [self._scalars(group, step, state) for step, state in zip(steps, states)]
        else:
            columns = [
                s.unbind(0) if isinstance(s, lampion.Tensor) and s.ndim else [s] * len(states)
                for s in self._scalars(group, lampion.stack(steps) if isinstance(steps, list)
                                       else steps, {})]
            rows = list(zip(*columns))
        held = tuple(name for name, s in zip(rule.scalars, rows[0])
                     if isinstance(s, lampion.Tensor))
        update = updater(rule, flags, False, held)
        for p, grad, state, scalars in zip(params, grads, states, rows):
            update(p, grad, *[state[name] for name in rule.buffers], *scalars)

    def _advance_on_device(self, index: int, states: list[State]) -> Any:
        """Add one to the step counters, which are on a device; the steps in float64, as one tensor
        or a list. Counters are bundled as on the host, but not into a capture's own memory."""
        table = self.__dict__.setdefault("_counters", {})
        ours = table.get(index)
        if not (isinstance(ours, _Counters) and ours.hold(states)):
            alike = all(s["step"].device == states[0]["step"].device for s in states)
            if captures or not alike:
                for state in states:
                    state["step"].add_(1)
                return [_wide(state["step"]) for state in states]
            ours = table[index] = _Counters(states)
        ours.tensor.add_(1)
        return _wide(ours.tensor)

    def _refuse_capture(self) -> None:
        name = type(self).__name__
        raise RuntimeError(
            f"Attempting to capture a step() of {name} for later replays, but param_groups' "
            f"capturable is False: the step count would stay what it is now. Make it "
            f"{name}(..., capturable=True), where that exists, with parameters on the device.")

    def _collect(self, group: Group) -> tuple[list[Any], list[Any], list[State]]:
        """Parameters with a gradient, those gradients, and their (initialised) states."""
        params, grads, states = [], [], []
        state_of = self.state
        for p in group["params"]:
            grad = p.grad
            if grad is not None:
                state = state_of[p]
                if not state:
                    if captures:
                        refuse_fresh_state(self)
                    self._init_state(group, p, grad, state)
                params.append(p)
                grads.append(grad)
                states.append(state)
        return params, grads, states

    def _advance(self, index: int, states: list[State]) -> list[float]:
        """Add one to the step counters of `states` and return them."""
        table = self.__dict__.setdefault("_counters", {})
        ours = table.get(index)
        if isinstance(ours, _Counters) and ours.hold(states):
            ours.tensor.add_(1)
            return ours.tensor.tolist()
        for state in states:
            state["step"].add_(1)
        # Bundle counters once the same parameters came twice: a set that changes with every
        # step would be bundled over and over.
        signature = tuple(map(id, states))
        if ours == signature and self._may_bundle(states):
            table[index] = _Counters(states)
            return table[index].tensor.tolist()
        complete = len(states) == len(self.param_groups[index]["params"])
        if complete or not isinstance(ours, _Counters):
            table[index] = signature
        return [state["step"].item() for state in states]

    @staticmethod
    def _may_bundle(states: list[State]) -> bool:
        dtype = states[0]["step"].dtype
        return all(
            state["step"].dtype == dtype and state["step"].device.type == "cpu" for state in states
        )

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_counters", None)
        return state
