"""Pruning: masks that set parts of a parameter to zero before every forward pass.

A pruned parameter `name` becomes `name_orig` (what is trained) and the buffer `name_mask`; their
product is the plain attribute `name`, computed by a forward pre-hook. Floor 7; imports nn.
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import lampion

from ...tensor import Tensor

__all__ = ["BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured",
           "PruningContainer", "RandomStructured", "RandomUnstructured", "custom_from_mask",
           "global_unstructured", "identity", "is_pruned", "l1_unstructured", "ln_structured",
           "random_structured", "random_unstructured", "remove"]


class BasePruningMethod(ABC):
    """Base of pruning methods: subclasses say which elements stay, in `compute_mask`.

    `PRUNING_TYPE` is "unstructured", "structured" or "global": what a later pruning of the same
    parameter looks at.
    """

    PRUNING_TYPE = "unstructured"
    _tensor_name: str

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The mask for importance scores `t`, within `default_mask`."""

    def apply_mask(self, module: Any) -> Tensor:
        """The masked parameter."""
        name = self._tensor_name
        mask, whole = getattr(module, name + "_mask"), getattr(module, name + "_orig")
        return mask.to(dtype=whole.dtype) * whole

    @classmethod
    def apply(cls, module: Any, name: str, *args: Any, importance_scores: Any = None,
              **kwargs: Any) -> BasePruningMethod:
        """Prune a parameter of a module; on top of what was pruned before."""
        method = cls(*args, **kwargs)
        method._tensor_name = name
        before = [(k, hook) for k, hook in module._forward_pre_hooks.items()
                  if isinstance(hook, BasePruningMethod) and hook._tensor_name == name]
        if len(before) > 1:
            raise AssertionError(f"{name} is pruned by several hooks")
        first = not before
        if not first:
            container = PruningContainer(before[0][1])
            container.add_pruning_method(method)
            method = container  # type: ignore[assignment]
        whole = getattr(module, name)
        if importance_scores is None:
            importance_scores = whole
        elif importance_scores.shape != whole.shape:
            raise AssertionError("importance_scores should have the same shape as parameter "
                                 f"{name} of {module}")
        default = (lampion.ones_like(whole) if first
                   else getattr(module, name + "_mask").detach().clone())
        mask = method.compute_mask(importance_scores, default_mask=default)
        if first:
            del module._parameters[name]
            module.register_parameter(name + "_orig", whole)
        else:
            del module._forward_pre_hooks[before[0][0]]
        module.register_buffer(name + "_mask", mask)
        setattr(module, name, method.apply_mask(module))
        module.register_forward_pre_hook(method)
        return method

    def prune(self, t: Any, default_mask: Any = None, importance_scores: Any = None) -> Tensor:
        """A tensor with its less important elements set to zero."""
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise AssertionError("importance_scores should have the same shape as tensor t")
        default = lampion.ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=default)

    def remove(self, module: Any) -> None:
        """Make the pruning permanent: the parameter itself has the zeros."""
        name = self._tensor_name
        if name is None:
            raise AssertionError(f"module {module} has to be pruned before pruning can be removed")
        made = self.apply_mask(module)
        if hasattr(module, name):
            delattr(module, name)
        whole = module._parameters.pop(name + "_orig")
        whole.data = made.data
        del module._buffers[name + "_mask"]
        module.register_parameter(name, whole)


class PruningContainer(BasePruningMethod):
    """Several pruning methods of one parameter, one after another."""

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[Any, ...] = ()
        given = list(args[0]) if len(args) == 1 and isinstance(args[0], Iterable) else args
        if len(args) == 1 and isinstance(args[0], BasePruningMethod):
            self._tensor_name = args[0]._tensor_name
        for method in given:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: Any) -> None:
        """One more. TypeError if it is no pruning method, ValueError if of another parameter."""
        if not isinstance(method, BasePruningMethod) and method is not None:
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method is not None and getattr(self, "_tensor_name", method._tensor_name) != (
                method._tensor_name):
            raise ValueError("Can only add pruning methods acting on the parameter named "
                             f"'{self._tensor_name}' to PruningContainer {self}. Found "
                             f"'{method._tensor_name}'")
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Any:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The last method's mask of what the earlier ones have left."""
        method = self._pruning_methods[-1]
        mask = default_mask.to(dtype=t.dtype)
        if method.PRUNING_TYPE == "global":
            part: Any = (slice(None),) * t.dim()
        elif method.PRUNING_TYPE == "unstructured":
            part = mask == 1
        elif method.PRUNING_TYPE == "structured":
            dim = method.dim % t.dim()
            left = mask.sum([d for d in range(t.dim()) if d != dim]) != 0
            part = (slice(None),) * dim + (left,)
        else:
            raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")
        found = method.compute_mask(t[part], default_mask=mask[part])
        made = mask.clone()
        made[part] = found.to(dtype=made.dtype)
        return made


def _count(amount: Any, size: int) -> int:
    """How many units `amount` is: a share of them, or their number."""
    count = amount if isinstance(amount, numbers.Integral) else round(amount * size)
    if count > size:
        raise ValueError(f"amount={amount} should be smaller than the number of parameters to "
                         f"prune={size}")
    return int(count)


def _check_amount(amount: Any) -> None:
    if not isinstance(amount, numbers.Real):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    if (isinstance(amount, numbers.Integral) and amount < 0) or (
            not isinstance(amount, numbers.Integral) and not 0.0 <= float(amount) <= 1.0):
        raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a "
                         "non-negative integer")


class Identity(BasePruningMethod):
    """Prunes nothing."""

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The mask that was there."""
        return default_mask


class RandomUnstructured(BasePruningMethod):
    """Prunes elements drawn at random: a share `amount` or that many."""

    def __init__(self, amount: Any) -> None:
        _check_amount(amount)
        self.amount = amount

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The mask without the elements drawn."""
        count, mask = _count(self.amount, t.numel()), default_mask.clone()
        if count:
            drawn = lampion.rand(t.shape, device=t.device)
            mask.view(-1)[drawn.view(-1).topk(count).indices] = 0
        return mask


class L1Unstructured(RandomUnstructured):
    """Prunes the elements of smallest magnitude."""

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The mask without these elements."""
        count = _count(self.amount, t.numel())
        mask = default_mask.clone(memory_format=lampion.contiguous_format)
        if count:
            mask.view(-1)[t.abs().reshape(-1).topk(count, largest=False).indices] = 0
        return mask


class RandomStructured(BasePruningMethod):
    """Prunes slices along a dim, drawn at random."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Any, dim: int = -1) -> None:
        _check_amount(amount)
        self.amount, self.dim = amount, dim

    def _scores(self, t: Any) -> Any:
        return lampion.rand(t.shape[self.dim], device=t.device)

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The mask without the slices of smallest score."""
        if t.dim() < 2:
            raise ValueError("Structured pruning can only be applied to multidimensional tensors. "
                             f"Found tensor of shape {tuple(t.shape)}")
        if not -t.dim() <= self.dim < t.dim():
            raise IndexError(f"Invalid index {self.dim} for tensor of size {tuple(t.shape)}")
        size = t.shape[self.dim]
        count = _count(self.amount, size)
        if not count:
            return default_mask
        kept = self._scores(t).topk(size - count).indices
        mask = lampion.zeros_like(t).index_fill_(self.dim % t.dim(), kept, 1)
        return mask * default_mask.to(dtype=mask.dtype)


class LnStructured(RandomStructured):
    """Prunes the slices along a dim that have the smallest n-norm."""

    def __init__(self, amount: Any, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def _scores(self, t: Any) -> Any:
        others = [d for d in range(t.dim()) if d != self.dim % t.dim()]
        return lampion.norm(t, p=self.n, dim=others)


class CustomFromMask(BasePruningMethod):
    """Prunes by a mask that is given."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Any) -> None:
        self.mask = mask

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The product of both masks."""
        if default_mask.shape != self.mask.shape:
            raise AssertionError(f"the mask has shape {tuple(self.mask.shape)}, the parameter "
                                 f"{tuple(default_mask.shape)}")
        return default_mask * self.mask.to(dtype=default_mask.dtype)


def identity(module: Any, name: str) -> Any:
    """Give a parameter a mask of ones. Returns the module, as all functions here."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Any, name: str, amount: Any) -> Any:
    """Prune elements drawn at random.

    >>> layer = nn.utils.prune.random_unstructured(nn.Linear(4, 2), "weight", amount=3)
    >>> int((layer.weight_mask == 0).sum())
    3
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: Any, name: str, amount: Any, importance_scores: Any = None) -> Any:
    """Prune the elements of smallest magnitude, or score."""
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: Any, name: str, amount: Any, dim: int) -> Any:
    """Prune slices along `dim`, drawn at random."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(module: Any, name: str, amount: Any, n: Any, dim: int,
                  importance_scores: Any = None) -> Any:
    """Prune the slices along `dim` of smallest n-norm."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: Any, name: str, mask: Any) -> Any:
    """Prune by a mask."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(parameters: Any, pruning_method: Any, importance_scores: Any = None,
                        **kwargs: Any) -> None:
    """Prune elements of several `(module, name)` as if they were one parameter."""
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    pairs = list(parameters)
    given = importance_scores or {}
    if not isinstance(given, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    scores = lampion.cat([given.get((m, n), getattr(m, n)).detach().reshape(-1)
                          for m, n in pairs])
    masks = lampion.cat([getattr(m, n + "_mask", lampion.ones_like(getattr(m, n))).reshape(-1)
                         for m, n in pairs])
    container = PruningContainer()
    container._tensor_name = "temp"
    method = pruning_method(**kwargs)
    method._tensor_name = "temp"
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError('Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. '
                        f"Found method {pruning_method} of type {method.PRUNING_TYPE}")
    container.add_pruning_method(method)
    final = container.compute_mask(scores, masks)
    start = 0
    for module, name in pairs:
        whole = getattr(module, name)
        custom_from_mask(module, name, final[start:start + whole.numel()].view_as(whole))
        start += whole.numel()


def remove(module: Any, name: str) -> Any:
    """Make the pruning of a parameter permanent. ValueError if it is not pruned."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can "
                     "be removed")


def is_pruned(module: Any) -> bool:
    """Whether a parameter in the module or below is pruned."""
    return any(isinstance(hook, BasePruningMethod)
               for m in module.modules() for hook in m._forward_pre_hooks.values())


