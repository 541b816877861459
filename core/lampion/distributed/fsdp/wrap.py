"""Which modules inside a model are wrapped on their own. Floor 7; imports nn."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ...nn.modules.activation import MultiheadAttention
from ...nn.modules.container import ModuleDict, ModuleList
from ...nn.modules.module import Module

__all__ = ["CustomPolicy", "ModuleWrapPolicy", "always_wrap_policy", "enable_wrap",
           "lambda_auto_wrap_policy", "size_based_auto_wrap_policy",
           "transformer_auto_wrap_policy", "wrap"]


def always_wrap_policy(*args: Any, **kwargs: Any) -> bool:
    """Every module."""
    return True


def lambda_auto_wrap_policy(module: Module, recurse: bool, nonwrapped_numel: int,
                            lambda_fn: Callable[[Module], bool]) -> bool:
    """Modules that a function says yes to."""
    return recurse or bool(lambda_fn(module))


def _module_wrap_policy(module: Module, recurse: bool, nonwrapped_numel: int,
                        module_classes: Any) -> bool:
    """Modules of these classes."""
    return recurse or isinstance(module, tuple(module_classes))


def transformer_auto_wrap_policy(module: Module, recurse: bool, nonwrapped_numel: int,
                                 transformer_layer_cls: set[type[Module]]) -> bool:
    """Layers of these classes."""
    return _module_wrap_policy(module, recurse, nonwrapped_numel, transformer_layer_cls)


def size_based_auto_wrap_policy(module: Module, recurse: bool, nonwrapped_numel: int,
                                min_num_params: int = int(1e8),
                                force_leaf_modules: set[type[Module]] | None = None,
                                exclude_wrap_modules: set[type[Module]] | None = None) -> bool:
    """Modules with so many elements in parameters that no module inside was wrapped for."""
    leaf = size_based_auto_wrap_policy.FORCE_LEAF_MODULES if (  # type: ignore[attr-defined]
        force_leaf_modules is None) else force_leaf_modules
    never = size_based_auto_wrap_policy.EXCLUDE_WRAP_MODULES if (  # type: ignore[attr-defined]
        exclude_wrap_modules is None) else exclude_wrap_modules
    large = nonwrapped_numel >= min_num_params
    if recurse:
        return large and not isinstance(module, tuple(leaf))
    return large and not isinstance(module, tuple(never))


size_based_auto_wrap_policy.EXCLUDE_WRAP_MODULES = {  # type: ignore[attr-defined]
    ModuleList, ModuleDict}
size_based_auto_wrap_policy.FORCE_LEAF_MODULES = {MultiheadAttention}  # type: ignore[attr-defined]


def _or_policy(module: Module, recurse: bool, nonwrapped_numel: int, policies: Any) -> bool:
    """Modules that any of the policies wraps."""
    return any(p(module=module, recurse=recurse, nonwrapped_numel=nonwrapped_numel)
               for p in policies)


class _Policy(ABC):
    """Says of all modules of a model at once which are wrapped, and how."""

    @abstractmethod
    def _run_policy(self, root_module: Module, ignored_modules: set[Module],
                    root_kwargs: dict[str, Any]) -> dict[Module, dict[str, Any]]:
        """The modules that are wrapped and their arguments."""


class ModuleWrapPolicy(_Policy):
    """Modules of these classes."""

    def __init__(self, module_classes: Iterable[type[Module]]) -> None:
        self._module_classes = set(module_classes)

    def _run_policy(self, root_module: Module, ignored_modules: set[Module],
                    root_kwargs: dict[str, Any]) -> dict[Module, dict[str, Any]]:
        return {m: dict(root_kwargs) for m in root_module.modules()
                if m not in ignored_modules and isinstance(m, tuple(self._module_classes))}

    def __call__(self, module: Module, recurse: bool, *args: Any, **kwargs: Any) -> bool:
        return _module_wrap_policy(module, recurse, -1, self._module_classes)

    def __repr__(self) -> str:
        return f"{super().__repr__()}({{{self._module_classes}}})"


class CustomPolicy(_Policy):
    """Modules that a function says yes to, or gives arguments for. ValueError for anything else."""

    def __init__(self, lambda_fn: Callable[[Module], bool | dict[str, Any]]) -> None:
        self._lambda_fn = lambda_fn

    def _run_policy(self, root_module: Module, ignored_modules: set[Module],
                    root_kwargs: dict[str, Any]) -> dict[Module, dict[str, Any]]:
        found = {}
        for m in root_module.modules():
            if m in ignored_modules:
                continue
            said = self._lambda_fn(m)
            if not isinstance(said, (dict, bool)):
                raise ValueError("The lambda_fn passed to CustomPolicy should return False/True or "
                                 f"a kwarg dict, but it returned {said}")
            if said:
                found[m] = {**root_kwargs, **(said if isinstance(said, dict) else {})}
        return found


def wrap_inside(root: Module, policy: Any, wrapper: Callable[..., Module], kwargs: dict[str, Any],
                ignored: set[Module]) -> None:
    """Replace the modules inside a model that a policy names by wrapped ones, inner ones first."""
    if isinstance(policy, _Policy):
        chosen = policy._run_policy(root, ignored, kwargs)
        chosen.pop(root, None)
        _replace(root, chosen, wrapper, set())
    else:
        _recursive(root, policy, wrapper, kwargs, ignored)


def _replace(module: Module, chosen: dict[Module, dict[str, Any]],
             wrapper: Callable[..., Module], seen: set[int]) -> None:
    for name, child in list(module.named_children()):
        if id(child) in seen:
            continue
        seen.add(id(child))
        _replace(child, chosen, wrapper, seen)
        if child in chosen:
            setattr(module, name, wrapper(child, **chosen[child]))


def _recursive(module: Module, policy: Any, wrapper: Callable[..., Module],
               kwargs: dict[str, Any], ignored: set[Module]) -> int:
    """Elements of parameters that were wrapped inside."""
    total = sum(p.numel() for p in module.parameters())
    if not policy(module=module, recurse=True, nonwrapped_numel=total):
        return 0
    wrapped = 0
    for name, child in list(module.named_children()):
        if child in ignored:
            continue
        inside = _recursive(child, policy, wrapper, kwargs, ignored)
        rest = sum(p.numel() for p in child.parameters()) - inside
        if policy(module=child, recurse=False, nonwrapped_numel=rest):
            setattr(module, name, wrapper(child, **kwargs))
            inside += rest
        wrapped += inside
    return wrapped


_context: list[tuple[Any, dict[str, Any]]] = []


@contextlib.contextmanager
def enable_wrap(*, wrapper_cls: Any, **wrapper_kwargs: Any) -> Iterator[None]:
    """A block in which `wrap` wraps, in this class with these arguments."""
    _context.append((wrapper_cls, wrapper_kwargs))
    try:
        yield
    finally:
        _context.pop()


def wrap(module: Module, **wrap_overrides: Any) -> Module:
    """The module wrapped as the surrounding `enable_wrap` says; outside of one, the module."""
    if not _context:
        return module
    wrapper, kwargs = _context[-1]
    made: Module = wrapper(module, **{**kwargs, **wrap_overrides})
    return made
