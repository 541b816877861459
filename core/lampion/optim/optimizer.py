"""The base of all optimizers: parameter groups, state, hooks and (de)serialisation.

`Optimizer` is what a user subclasses. `Elementwise` is the base of lampion's own optimizers:
it walks a group once and hands each parameter, its gradient and its state to one fused in-place
kernel, so that a subclass only names its rule and computes its numbers.

Floor 7; imports the public lampion API and `ops.fused_optim`.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import lampion

from ..runtime import tracing
from ._hooks import RemovableHandle

__all__ = [
    "Optimizer",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "required",
]

Group = dict[str, Any]
StateDict = dict[str, Any]


class _Required:
    """The default of an option that every parameter group must give itself."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()

_global_pre_hooks: dict[int, Callable[..., Any]] = OrderedDict()
_global_post_hooks: dict[int, Callable[..., Any]] = OrderedDict()


def _add_hook(hooks: dict[int, Any], hook: Any, prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]
    return handle


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Run `hook(optimizer, args, kwargs)` before every optimizer's step.

    The hook may return `(new_args, new_kwargs)`. Returns a handle whose `remove()` undoes it.
    """
    return _add_hook(_global_pre_hooks, hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Run `hook(optimizer, args, kwargs)` after every optimizer's step."""
    return _add_hook(_global_post_hooks, hook)


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a class's `step` so that hooks run around it; without hooks it costs four tests.

    A subclass's step that calls the base's runs them once, around the outer one.
    """

    @functools.wraps(step)
    def wrapper(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if tracing.active:  # counters and rates are the host's: it steps in every later run
            return tracing.active[-1].host_call(wrapper, (self, *args), kwargs)
        hooked = (
            _global_pre_hooks
            or _global_post_hooks
            or getattr(self, "_optimizer_step_pre_hooks", None)  # a wrapper may have no tables
            or getattr(self, "_optimizer_step_post_hooks", None)
        )
        if not hooked or self._stepping or "_optimizer_step_pre_hooks" not in self.__dict__:
            return step(self, *args, **kwargs)
        self._stepping = True
        try:
            for hook in [*_global_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()]:
                args, kwargs = _replaced_arguments(self, step, hook, args, kwargs)
            result = step(self, *args, **kwargs)
            for hook in [*self._optimizer_step_post_hooks.values(), *_global_post_hooks.values()]:
                hook(self, (self, *args), kwargs)
        finally:
            self._stepping = False
        return result

    wrapper.hooked = True  # type: ignore[attr-defined]
    return wrapper


def _replaced_arguments(
    self: Optimizer, step: Any, hook: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call a pre-hook; its arguments include the optimizer, as do those it may give back."""
    given = hook(self, (self, *args), kwargs)
    if given is None:
        return args, kwargs
    if not (isinstance(given, tuple) and len(given) == 2):
        raise RuntimeError(
            f"{step} must return None or a tuple of (new_args, new_kwargs), but got {given}."
        )
    return tuple(given[0])[1:], given[1]


class Optimizer:
    """Base class of all optimizers.

    Args:
        params: tensors to optimize, or dicts (parameter groups with their own options), or
            `(name, tensor)` pairs.
        defaults: options of groups that do not set their own.

    Raises:
        TypeError: if `params` is a tensor, or holds something that is not one.
        ValueError: if it is empty, or a tensor is not a leaf.

    Subclasses implement `step(closure=None)`.
    """

    _HOOK_TABLES = (
        "_optimizer_step_pre_hooks",
        "_optimizer_step_post_hooks",
        "_optimizer_state_dict_pre_hooks",
        "_optimizer_state_dict_post_hooks",
        "_optimizer_load_state_dict_pre_hooks",
        "_optimizer_load_state_dict_post_hooks",
    )

    _stepping = False  # inside a step whose hooks run already

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("step")
        if own is not None and not getattr(own, "hooked", False):
            cls.step = _with_hooks(own)  # type: ignore[method-assign]

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.defaults = defaults
        self._make_hook_tables()
        if isinstance(params, lampion.Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {_typename(params)}"
            )
        self.state: defaultdict[Any, Any] = defaultdict(dict)
        self.param_groups: list[Group] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def _make_hook_tables(self) -> None:
        for table in self._HOOK_TABLES:
            self.__dict__.setdefault(table, OrderedDict())

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_hook_tables()
        self.defaults.setdefault("differentiable", False)

    def __repr__(self) -> str:
        text = self.__class__.__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            for key in sorted(group.keys() - {"params"}):
                text += f"    {key}: {group[key]}\n"
        return text + ")"

    # -- hooks ---------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run `hook(optimizer, args, kwargs)` before each step; it may return new arguments."""
        return _add_hook(self._optimizer_step_pre_hooks, hook)  # type: ignore[attr-defined]

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run `hook(optimizer, args, kwargs)` after each step."""
        return _add_hook(self._optimizer_step_post_hooks, hook)  # type: ignore[attr-defined]

    def register_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """Run `hook(optimizer)` before `state_dict` collects anything."""
        return _add_hook(self.__dict__["_optimizer_state_dict_pre_hooks"], hook, prepend)

    def register_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """Run `hook(optimizer, state_dict)` on the result; it may return another one."""
        return _add_hook(self.__dict__["_optimizer_state_dict_post_hooks"], hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Any, prepend: bool = False
    ) -> RemovableHandle:
        """Run `hook(optimizer, state_dict)` before loading; it may return another one."""
        return _add_hook(self.__dict__["_optimizer_load_state_dict_pre_hooks"], hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Any, prepend: bool = False
    ) -> RemovableHandle:
        """Run `hook(optimizer)` after a state dict was loaded."""
        return _add_hook(self.__dict__["_optimizer_load_state_dict_post_hooks"], hook, prepend)

    # -- state dict ----------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """The optimizer's state with parameters replaced by their positions.

        Returns `{"state": {position: {...}}, "param_groups": [{..., "params": [positions]}]}`.
        Tensors are the optimizer's own, not copies.
        """
        hooks = self.__dict__
        for hook in list(hooks["_optimizer_state_dict_pre_hooks"].values()):
            hook(self)
        position: dict[int, int] = {}
        groups = []
        start = 0
        for group in self.param_groups:
            for i, p in enumerate(group["params"], start):
                position.setdefault(id(p), i)
            packed = {key: value for key, value in group.items() if key != "params"}
            packed["params"] = [position[id(p)] for p in group["params"]]
            start += len(packed["params"])
            groups.append(packed)
        state = {
            position[id(key)] if isinstance(key, lampion.Tensor) else key: value
            for key, value in self.state.items()
        }
        result: StateDict = {"state": state, "param_groups": groups}
        for hook in list(hooks["_optimizer_state_dict_post_hooks"].values()):
            replaced = hook(self, result)
            result = result if replaced is None else replaced
        return result

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over a state dict made by `state_dict` (lampion's or PyTorch's, once loaded).

        State tensors move to their parameter's device and, for floating parameters, its dtype;
        step counters keep theirs. Raises ValueError if the groups do not match.
        """
        state_dict = state_dict.copy()
        hooks = self.__dict__
        for hook in list(hooks["_optimizer_load_state_dict_pre_hooks"].values()):
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        saved = deepcopy(state_dict["param_groups"])
        self._check_groups_match(saved)
        ours = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
        theirs = itertools.chain.from_iterable(g["params"] for g in saved)
        param_of = dict(zip(theirs, ours))
        group_of = {key: group for group in saved for key in group["params"]}
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in param_of:
                state[param_of[key]] = _adapted(param_of[key], value, group_of[key])
            else:
                state[key] = value
        for group, new in zip(self.param_groups, saved):
            new["params"] = group["params"]
            if "param_names" in group:
                new.setdefault("param_names", group["param_names"])
        self.__setstate__({"state": state, "param_groups": saved})
        for hook in list(hooks["_optimizer_load_state_dict_post_hooks"].values()):
            hook(self)

    def _check_groups_match(self, saved: list[Group]) -> None:
        if len(self.param_groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(self.param_groups, saved)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )

    # -- the rest ------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients: set them to None, or (`set_to_none=False`) fill them with 0."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                    continue
                grad = p.grad
                if grad is not None:
                    if grad.grad_fn is not None:
                        grad.detach_()
                    else:
                        grad.requires_grad_(False)
                    grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one optimization step; subclasses implement it.

        `closure`, if given, re-evaluates the model and returns the loss, which is returned.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step()")

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: a dict with `params` and any options that differ from the defaults.

        Raises TypeError or ValueError as the constructor does, and ValueError if a parameter is
        in another group already.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        _normalise_params(param_group)
        self._check_params(param_group["params"])
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise ValueError(
                    "parameter group didn't specify a value of required optimization parameter "
                    f"{name}"
                )
            param_group.setdefault(name, default)
        params = param_group["params"]
        if len(params) != len(set(params)):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; "
                "this will be an error in a later version",
                stacklevel=3,
            )
        self._check_against_groups(param_group)
        self.param_groups.append(param_group)

    def _check_params(self, params: list[Any]) -> None:
        for param in params:
            if not isinstance(param, lampion.Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is "
                    + _typename(param)
                )
            if not self.defaults.get("differentiable") and not (
                param.is_leaf or param.retains_grad
            ):
                raise ValueError("can't optimize a non-leaf Tensor")

    def _check_against_groups(self, new: Group) -> None:
        named = "param_names" in new
        taken: set[Any] = set()
        for group in self.param_groups:
            taken.update(group["params"])
            if named != ("param_names" in group):
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param "
                    f"group {'with names' if named else 'without names'} to the optimizer"
                )
        if not taken.isdisjoint(new["params"]):
            raise ValueError("some parameters appear in more than one parameter group")


def _typename(value: Any) -> str:
    if isinstance(value, lampion.Tensor):
        return value.type() if hasattr(value, "type") else "lampion.Tensor"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _normalise_params(group: Group) -> None:
    """Make `group["params"]` a list of tensors; names of named parameters go beside it."""
    params = group["params"]
    if isinstance(params, lampion.Tensor):
        params = [params]
    elif isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering "
            "of tensors in sets will change between runs. Please use a list instead."
        )
    pairs = [p if isinstance(p, tuple) else (None, p) for p in params]
    names = [name for name, p in pairs if name is not None]
    if names and len(names) != len(pairs):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    group["params"] = [p for _, p in pairs]
    if names:
        group["param_names"] = names


def _adapted(param: Any, value: Any, group: Group, key: Any = None) -> Any:
    """A loaded state value, fit for its parameter."""
    if isinstance(value, lampion.Tensor):
        if key == "step":
            if group.get("capturable"):
                return value.to(dtype=lampion.float32, device=param.device)
            return value
        if param.is_floating_point():
            return value.to(dtype=param.dtype, device=param.device)
        return value.to(device=param.device)
    if isinstance(value, dict):
        return {k: _adapted(param, v, group, k) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return type(value)(_adapted(param, v, group) for v in value)  # type: ignore[call-arg]
    return value


class OneByOne(Optimizer):
    """Base of the optimizers that update one parameter after the other; subclasses define
    `_update`."""

    def _update(self, group: Group, p: Any, g: Any) -> None:
        """Update a parameter of a group by its gradient."""
        raise NotImplementedError

    @lampion.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for every parameter that has a gradient; `closure` computes the loss anew, which
        is returned."""
        loss = None
        if closure is not None:
            with lampion.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(group, p, p.grad)
        return loss
