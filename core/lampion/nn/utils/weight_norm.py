"""The hook-based weight_norm: the weight is computed before each forward.

May import: nn.parameter, nn.modules.module.
"""
from __future__ import annotations

import warnings
from typing import Any

import lampion
from lampion.nn.modules.module import Module
from lampion.nn.parameter import Parameter, is_lazy
from lampion.tensor import Tensor


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The norm over all axes but `dim`, shaped to broadcast; dim -1 is one norm of everything."""
    if dim == -1:
        return v.norm(pow)
    axis = dim % v.dim()
    others = [d for d in range(v.dim()) if d != axis]
    return v.norm(pow, others, keepdim=True) if others else v.abs()


class WeightNorm:
    """The forward pre-hook that sets `name` to name_g name_v / ‖name_v‖."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = -1 if dim is None else dim

    def compute_weight(self, module: Module) -> Tensor:
        """The normalized weight."""
        size, direction = (getattr(module, f"{self.name}_{part}") for part in "gv")
        return direction * (size / norm_except_dim(direction, 2, self.dim))

    @staticmethod
    def apply(module: Module, name: str, dim: int | None) -> WeightNorm:
        """Replace the parameter `name` of `module` by name_g and name_v and this hook."""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == name:
                raise RuntimeError("Cannot register two weight_norm hooks on the same parameter "
                                   f"{name}")
        weight = getattr(module, name)
        if is_lazy(weight):
            raise ValueError("The module passed to `WeightNorm` can't have uninitialized "
                             "parameters. Make sure to run the dummy forward before applying "
                             "weight normalization")
        made = WeightNorm(name, dim)
        del module._parameters[name]
        size = norm_except_dim(weight.detach(), 2, made.dim)
        module.register_parameter(name + "_g", Parameter(size))
        module.register_parameter(name + "_v", Parameter(weight.detach()))
        setattr(module, name, made.compute_weight(module))
        module.register_forward_pre_hook(made)
        return made

    def remove(self, module: Module) -> None:
        """Make `name` an ordinary parameter again."""
        with lampion.no_grad():
            weight = self.compute_weight(module)
        delattr(module, self.name)
        del module._parameters[self.name + "_g"]
        del module._parameters[self.name + "_v"]
        setattr(module, self.name, Parameter(weight))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Train size and direction of `name` apart, as name_g and name_v (older form: see
    parametrizations).

    >>> [n for n, _ in nn.utils.weight_norm(nn.Linear(4, 2)).named_parameters()]
    ['bias', 'weight_g', 'weight_v']
    """
    warnings.warn("`nn.utils.weight_norm` is deprecated in favor of "
                  "`nn.utils.parametrizations.weight_norm`.", FutureWarning, stacklevel=2)
    WeightNorm.apply(module, name, dim)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Undo weight_norm; ValueError if there is none."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")
