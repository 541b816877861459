"""State dicts by the names of parameters, whatever modules are wrapped in. Floor 7; imports nn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...nn.modules.module import Module
from ...tensor import Tensor

__all__ = ["StateDictOptions", "get_model_state_dict", "get_optimizer_state_dict",
           "get_state_dict", "set_model_state_dict", "set_optimizer_state_dict", "set_state_dict"]


@dataclass
class StateDictOptions:
    """What state dicts are like: whole tensors, on the host, without frozen parameters, ..."""

    full_state_dict: bool = False
    cpu_offload: bool = False
    ignore_frozen_params: bool = False
    keep_submodule_prefixes: bool = True
    strict: bool = True
    broadcast_from_rank0: bool = False
    flatten_optimizer_state_dict: bool = False
    dsd_fqn_modifiers: str = "_fqn_modifiers"


_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def clean(model: Module, name: str) -> str:
    """The name of a parameter without the wrappers around its modules."""
    from ...nn.parallel import DataParallel, DistributedDataParallel

    found: list[str] = []
    module: Any = model
    for part in name.split("."):
        wrapped = part in _WRAPPERS or (
            part == "module" and isinstance(module, (DataParallel, DistributedDataParallel)))
        module = getattr(module, "_modules", {}).get(part)
        if not wrapped:
            found.append(part)
    return ".".join(found)


def _names(model: Module) -> dict[int, str]:
    """Names of parameters by their identity."""
    return {id(p): clean(model, n) for n, p in model.named_parameters()}


def _moved(value: Any, options: StateDictOptions) -> Any:
    return value.cpu() if options.cpu_offload and isinstance(value, Tensor) else value


def get_model_state_dict(model: Module, *, submodules: set[Module] | None = None,
                         options: StateDictOptions | None = None) -> dict[str, Any]:
    """The state of a model, by names without wrappers."""
    options = options or StateDictOptions()
    frozen = {clean(model, n) for n, p in model.named_parameters() if not p.requires_grad}
    found = {clean(model, n): _moved(v, options) for n, v in model.state_dict().items()}
    if options.ignore_frozen_params:
        found = {n: v for n, v in found.items() if n not in frozen}
    if submodules is None:
        return found
    inside = {}
    for name, module in model.named_modules():
        if module in submodules:
            prefix = f"{clean(model, name)}." if name else ""
            inside.update({n if options.keep_submodule_prefixes else n[len(prefix):]: v
                           for n, v in found.items() if n.startswith(prefix)})
    return inside


def by_name(model: Module, optimizer: Any, state: Any = None) -> dict[str, Any]:
    """The state of an optimizer, by names of parameters."""
    names = _names(model)
    plain = optimizer.state_dict() if state is None else state
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]

    def name(k: Any) -> Any:
        return order[k] if isinstance(k, int) else k

    return {"state": {name(k): dict(v) for k, v in plain["state"].items()},
            "param_groups": [{**g, "params": [name(k) for k in g["params"]]}
                             for g in plain["param_groups"]]}


def by_number(model: Module, optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Such a state as `Optimizer.load_state_dict` takes it. RuntimeError for parameters that the
    state does not have."""
    names = _names(model)
    numbers: dict[Any, int] = {}
    groups = []
    theirs = [(set(g["params"]), g) for g in state["param_groups"]]
    for group in optimizer.param_groups:
        mine = [names[id(p)] for p in group["params"]]
        for n in mine:
            numbers[n] = len(numbers)
        found = next((g for known, g in theirs if set(mine) & known or not mine), None)
        if found is None:
            raise RuntimeError(f"the state of the optimizer has no parameters {mine[:3]}")
        groups.append({**{k: v for k, v in found.items() if k != "params"},
                       "params": [numbers[n] for n in mine]})
    return {"state": {numbers.get(k, k): v for k, v in state["state"].items()
                      if k in numbers or isinstance(k, int)}, "param_groups": groups}


def _several(optimizers: Any) -> list[Any]:
    return list(optimizers) if isinstance(optimizers, Iterable) else [optimizers]


def get_optimizer_state_dict(model: Module, optimizers: Any, *,
                             submodules: set[Module] | None = None,
                             options: StateDictOptions | None = None) -> dict[str, Any]:
    """The state of optimizers, by names of parameters. With `flatten_optimizer_state_dict` the
    names are "state.PARAMETER.WHAT" and "param_groups.PARAMETER.WHAT"."""
    options = options or StateDictOptions()
    found: dict[str, Any] = {"state": {}, "param_groups": []}
    for optimizer in _several(optimizers):
        part = by_name(model, optimizer)
        found["state"].update({n: {k: _moved(v, options) for k, v in s.items()}
                               for n, s in part["state"].items()})
        found["param_groups"] += part["param_groups"]
    if not options.flatten_optimizer_state_dict:
        return found
    flat = {f"state.{n}.{k}": v for n, s in found["state"].items() for k, v in s.items()}
    for group in found["param_groups"]:
        flat.update({f"param_groups.{n}.{k}": v for n in group["params"]
                     for k, v in group.items() if k != "params"})
    return flat


def get_state_dict(model: Module, optimizers: Any, *, submodules: set[Module] | None = None,
                   options: StateDictOptions | None = None) -> tuple[dict[str, Any], Any]:
    """(the state of a model, that of its optimizers)."""
    return (get_model_state_dict(model, submodules=submodules, options=options),
            get_optimizer_state_dict(model, optimizers, submodules=submodules, options=options))


def set_model_state_dict(model: Module, model_state_dict: dict[str, Any], *,
                         options: StateDictOptions | None = None) -> Any:
    """Load such a state of a model; what is missing and what is not known. With
    `broadcast_from_rank0` it is that of the first process."""
    options = options or StateDictOptions()
    wrapped = {clean(model, n): n for n in model.state_dict()}
    given = {wrapped.get(n, n): v for n, v in _from_first(model_state_dict, options).items()}
    return model.load_state_dict(given, strict=options.strict)


def _from_first(state: Any, options: StateDictOptions) -> Any:
    from .. import collectives, groups

    if not options.broadcast_from_rank0 or not groups.is_initialized():
        return state
    box = [state]
    collectives.broadcast_object_list(box, 0)
    return box[0]


def set_optimizer_state_dict(model: Module, optimizers: Any, optim_state_dict: dict[str, Any], *,
                             options: StateDictOptions | None = None) -> None:
    """Load such a state of optimizers."""
    options = options or StateDictOptions()
    state = _from_first(optim_state_dict, options)
    if options.flatten_optimizer_state_dict:
        state = _unflattened(model, _several(optimizers), state)
    for optimizer in _several(optimizers):
        optimizer.load_state_dict(by_number(model, optimizer, state))


def _unflattened(model: Module, optimizers: list[Any], flat: dict[str, Any]) -> dict[str, Any]:
    """The state that flat names were made of."""
    names = _names(model)
    state: dict[str, Any] = {}
    groups = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            mine = [names[id(p)] for p in group["params"]]
            for n in mine:
                found = {k.removeprefix(f"state.{n}."): v for k, v in flat.items()
                         if k.startswith(f"state.{n}.")}
                if found:
                    state[n] = found
            first = f"param_groups.{mine[0]}."
            groups.append({"params": mine, **{k.removeprefix(first): v for k, v in flat.items()
                                              if k.startswith(first)}})
    return {"state": state, "param_groups": groups}


def set_state_dict(model: Module, optimizers: Any, *, model_state_dict: dict[str, Any],
                   optim_state_dict: dict[str, Any],
                   options: StateDictOptions | None = None) -> Any:
    """Load the states of a model and its optimizers."""
    found = set_model_state_dict(model, model_state_dict, options=options)
    set_optimizer_state_dict(model, optimizers, optim_state_dict, options=options)
    return found
