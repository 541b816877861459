"""Parametrizations: a parameter computed from others, recomputed at each access.

`register_parametrization(module, "weight", P())` makes `module.weight` the value of `P` applied to
the parameter(s) kept in `module.parametrizations.weight`. May import: nn.parameter,
nn.modules.{module, container}.
"""
from __future__ import annotations

import copy
import copyreg
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lampion
from lampion.nn.modules.container import ModuleDict, ModuleList
from lampion.nn.modules.module import Module
from lampion.nn.parameter import Parameter
from lampion.tensor import Tensor

_cache_enabled = 0
_cache: dict[tuple[int, str], Any] = {}


@contextmanager
def cached() -> Iterator[None]:
    """Within the block each parametrized tensor is computed once.

    >>> with nn.utils.parametrize.cached():
    ...     pass
    """
    global _cache_enabled
    _cache_enabled += 1
    try:
        yield
    finally:
        _cache_enabled -= 1
        if not _cache_enabled:
            _cache.clear()


def _register(module: Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor in order, with the originals they start from.

    With a `right_inverse` that returns several tensors the originals are original0, original1,
    ..., otherwise there is one, `original`.
    """

    original: Tensor
    unsafe: bool

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        start, new = original, original
        with lampion.no_grad():
            for module in reversed(self):
                if hasattr(module, "right_inverse"):
                    new = _inverse(module, new)
        self._check_inverse(new)
        self.is_tensor = isinstance(new, Tensor)
        self.ntensors = 1 if self.is_tensor else len(new)
        self._keep(start, new)
        if not unsafe:
            self._check_result(start)

    def _check_inverse(self, new: Any) -> None:
        if isinstance(new, Tensor):
            return
        if not isinstance(new, Sequence):
            raise ValueError("'right_inverse' must return a Tensor or a Sequence of tensors (list, "
                             f"tuple...). Got {type(new).__name__}")
        for i, tensor in enumerate(new):
            if not isinstance(tensor, Tensor):
                raise ValueError(f"In a Sequence of Tensors, 'right_inverse' returned a "
                                 f"{type(tensor).__name__} at position {i}")

    def _keep(self, start: Tensor, new: Any) -> None:
        """Register the originals: the tensor itself (its values replaced), or several new ones."""
        if self.is_tensor:
            if start.dtype != new.dtype:
                raise ValueError("When `right_inverse` outputs one tensor, it may not change the "
                                 f"dtype.\noriginal.dtype: "
                                 f"{start.dtype}\nright_inverse(original).dtype:"
                                 f" {new.dtype}")
            with lampion.no_grad():
                start.data = new.data
            _register(self, "original", start)
            return
        for i, tensor in enumerate(new):
            made = Parameter(tensor, requires_grad=start.requires_grad) \
                if isinstance(start, Parameter) else tensor
            _register(self, f"original{i}", made)

    def _check_result(self, start: Tensor) -> None:
        with lampion.no_grad():
            result = self()
        if not isinstance(result, Tensor):
            raise ValueError(f"A parametrization must return a tensor. Got "
                             f"{type(result).__name__}.")
        if result.dtype != start.dtype:
            raise ValueError("Registering a parametrization may not change the dtype of the "
                             "tensor, unless `unsafe` flag is enabled.\nunparametrized dtype: "
                             f"{start.dtype}\nparametrized dtype: {result.dtype}")
        if not self.is_tensor:
            return
        if result.shape != self.original.shape and result.shape != start.shape:
            raise ValueError("Registering a parametrization may not change the shape of the "
                             "tensor, unless `unsafe` flag is enabled.\nunparametrized shape: "
                             f"{start.shape}\nparametrized shape: {result.shape}")

    def originals(self) -> list[Tensor]:
        """The tensors that are kept."""
        if self.is_tensor:
            return [self.original]
        return [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the parametrized tensor becomes `value`."""
        with lampion.no_grad():
            for module in reversed(self):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(f"parametrization {type(module).__name__} does not "
                                       "implement right_inverse.")
                value = _inverse(module, value)
            parts = [value] if self.is_tensor else list(value)
            if len(parts) != self.ntensors:
                raise ValueError("'right_inverse' must return a sequence of tensors of length "
                                 f"{self.ntensors}. Got a sequence of length {len(parts)}.")
            for kept, part in zip(self.originals(), parts):
                if part.dtype != kept.dtype:
                    raise ValueError("The tensor returned by `right_inverse` has dtype "
                                     f"{part.dtype} while the original has dtype {kept.dtype}")
                if part.shape == kept.shape:
                    kept.copy_(part)
                else:
                    kept.data = part.data

    def forward(self) -> Tensor:
        modules = iter(self)
        value = next(modules)(*self.originals())
        for module in modules:
            value = module(value)
        return value


def _inverse(module: Any, value: Any) -> Any:
    return module.right_inverse(*value) if isinstance(value, tuple) \
        else module.right_inverse(value)


def _inject_class(module: Module) -> None:
    """Give `module` a class of its own, so that properties can be put on it."""
    cls = module.__class__

    def default_deepcopy(self: Module, memo: dict[int, Any]) -> Module:
        found = memo.get(id(self))
        if found is not None:
            return found
        replica = self.__new__(self.__class__)
        memo[id(self)] = replica
        replica.__dict__ = copy.deepcopy(self.__dict__, memo)
        for slot in copyreg._slotnames(self.__class__):
            if hasattr(self, slot):
                setattr(replica, slot, copy.deepcopy(getattr(self, slot), memo))
        return replica

    def getstate(self: Module) -> Any:
        raise RuntimeError("Serialization of parametrized modules is only supported through "
                           "state_dict().")

    namespace: dict[str, Any] = {"__getstate__": getstate}
    if not hasattr(cls, "__deepcopy__"):
        namespace["__deepcopy__"] = default_deepcopy
    module.__class__ = type(f"Parametrized{cls.__name__}", (cls,), namespace)


def _inject_property(module: Module, name: str) -> None:
    """`module.<name>` computes the parametrized tensor; assigning to it goes through
    right_inverse.
    """

    def get(self: Module) -> Tensor:
        parametrization = self.parametrizations[name]
        if not _cache_enabled:
            return parametrization()
        key = (id(self), name)
        if key not in _cache:
            _cache[key] = parametrization()
        return _cache[key]

    def put(self: Module, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    setattr(module.__class__, name, property(get, put))


def register_parametrization(module: Module, tensor_name: str, parametrization: Module, *,
                             unsafe: bool = False) -> Module:
    """Put `parametrization` on the parameter or buffer `tensor_name` of `module`, after any
    others.

    ValueError if there is no such tensor or the result differs in dtype or shape (unless
    `unsafe`).

    >>> class Symmetric(nn.Module):
    ...     def forward(self, x):
    ...         return x.triu() + x.triu(1).transpose(-1, -2)
    >>> register = nn.utils.parametrize.register_parametrization
    >>> layer = register(nn.Linear(3, 3), "weight", Symmetric())
    >>> bool((layer.weight == layer.weight.T).all())
    True
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        _append(module, tensor_name, parametrization, unsafe)
    elif tensor_name in module._buffers or tensor_name in module._parameters:
        original = getattr(module, tensor_name)
        made = ParametrizationList([parametrization], original, unsafe=unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            _inject_class(module)
            module.parametrizations = ModuleDict()
        _inject_property(module, tensor_name)
        module.parametrizations[tensor_name] = made
    else:
        raise ValueError(f"Module '{module}' does not have a parameter, a buffer, or a "
                         f"parametrized element with name '{tensor_name}'")
    return module


def _append(module: Module, name: str, parametrization: Module, unsafe: bool) -> None:
    """One more parametrization after those of `name`; the originals go through its inverse."""
    listed = module.parametrizations[name]
    if not unsafe:
        with lampion.no_grad():
            before = getattr(module, name)
            after = parametrization(before)
        if not isinstance(after, Tensor):
            raise ValueError(f"A parametrization must return a tensor. Got {type(after).__name__}.")
        for what in ("dtype", "shape"):
            if getattr(after, what) != getattr(before, what):
                raise ValueError(f"Registering a parametrization may not change the {what} of the "
                                 f"tensor, unless the `unsafe` flag is "
                                 f"enabled.\nmodule.{name}.{what}: "
                                 f"{getattr(before, what)}\nparametrization(module.{name}).{what}: "
                                 f"{getattr(after, what)}")
        if hasattr(parametrization, "right_inverse"):
            value = parametrization.right_inverse(before)
            if isinstance(value, Tensor):
                if value.dtype != before.dtype:
                    raise ValueError("parametrization.right_inverse changed the dtype")
                if all(hasattr(module_, "right_inverse") for module_ in listed):
                    setattr(module, name, value)
    listed.append(parametrization)
    listed.unsafe = listed.unsafe or unsafe


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Has `module` any parametrization, or one of `tensor_name`?"""
    parametrizations = getattr(module, "parametrizations", None)
    if not isinstance(parametrizations, ModuleDict):
        return False
    return len(parametrizations) > 0 if tensor_name is None else tensor_name in parametrizations


def remove_parametrizations(module: Module, tensor_name: str,
                            leave_parametrized: bool = True) -> Module:
    """Make `tensor_name` a plain tensor again, with its parametrized value or the original.

    ValueError if it is not parametrized, or without a single original to leave.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    listed = module.parametrizations[tensor_name]
    if listed.is_tensor:
        original = listed.original
        if leave_parametrized:
            with lampion.no_grad():
                value = getattr(module, tensor_name)
                if value.shape == original.shape:
                    original.copy_(value.detach().clone())
                else:
                    original.data = value.detach().clone()
    else:
        if not leave_parametrized:
            raise ValueError("Cannot leave unparametrized (`leave_parametrized=False`) a tensor "
                             "that is parametrized in terms of a sequence of tensors.")
        value = getattr(module, tensor_name).detach()
        trained = any(t.requires_grad for t in listed.originals())
        original = Parameter(value) if trained else value
    delattr(module.__class__, tensor_name)
    del module.parametrizations[tensor_name]
    _register(module, tensor_name, original)
    if not is_parametrized(module):
        delattr(module, "parametrizations")
        module.__class__ = module.__class__.__bases__[0]
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class of `module` without its parametrizations."""
    return module.__class__.__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(from_module: Module, to_module: Module,
                                         tensor_name: str | None = None) -> Module:
    """Copy the parametrizations (of `tensor_name`, or all) and their tensors to another module."""
    if not is_parametrized(from_module):
        return to_module
    names = list(from_module.parametrizations) if tensor_name is None else [tensor_name]
    for name in names:
        listed = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name).detach().clone()))
        for parametrization in listed:
            register_parametrization(to_module, name, copy.deepcopy(parametrization), unsafe=True)
        for mine, his in zip(to_module.parametrizations[name].originals(), listed.originals()):
            mine.data = his.detach().clone()
    return to_module
