"""Modules whose activations are computed again in backward passes, or kept on the host.

Floor 7; imports utils.checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import partial
from typing import Any

from ....autograd.graph import save_on_cpu
from ....nn.modules.module import Module
from ....utils.checkpoint import checkpoint
from ...fsdp.wrap import wrap_inside

__all__ = ["CheckpointImpl", "CheckpointWrapper", "OffloadWrapper",
           "apply_activation_checkpointing", "checkpoint_wrapper", "offload_wrapper"]
_INSIDE = "_checkpoint_wrapped_module"


class CheckpointImpl(Enum):
    """How activations are computed again."""

    REENTRANT = auto()
    NO_REENTRANT = auto()


class ActivationWrapper(Module):
    """A module inside another one; names in state dicts are those of the module inside."""

    def __init__(self, mod: Module) -> None:
        super().__init__()
        self._checkpoint_wrapped_module = mod
        self._register_load_state_dict_pre_hook(self._pre_load_state_dict_hook)
        self._register_state_dict_hook(self._post_state_dict_hook)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules[_INSIDE], name)

    def __getitem__(self, key: Any) -> Any:
        return self._checkpoint_wrapped_module[key]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Names without the wrapper."""
        for name, p in super().named_parameters(*args, **kwargs):
            yield name.replace(f"{_INSIDE}.", ""), p

    @staticmethod
    def _post_state_dict_hook(module: Module, state: dict[str, Any], prefix: str,
                              *rest: Any) -> dict[str, Any]:
        long = f"{prefix}{_INSIDE}."
        for key in [k for k in state if k.startswith(long)]:
            state[prefix + key[len(long):]] = state.pop(key)
        return state

    @staticmethod
    def _pre_load_state_dict_hook(state: dict[str, Any], prefix: str, *rest: Any) -> None:
        long = f"{prefix}{_INSIDE}."
        for key in [k for k in state if k.startswith(prefix) and not k.startswith(long)]:
            state[long + key[len(prefix):]] = state.pop(key)


class CheckpointWrapper(ActivationWrapper):
    """A module whose activations are computed again."""

    def __init__(self, mod: Module, checkpoint_impl: CheckpointImpl = CheckpointImpl.NO_REENTRANT,
                 checkpoint_fn: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        super().__init__(mod)
        self.checkpoint_impl = checkpoint_impl
        reentrant = checkpoint_impl is CheckpointImpl.REENTRANT
        self.checkpoint_fn = partial(checkpoint, use_reentrant=reentrant, **kwargs) if (
            checkpoint_fn is None) else partial(checkpoint_fn, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inside = self._checkpoint_wrapped_module
        if self.checkpoint_impl is CheckpointImpl.REENTRANT and kwargs:
            return self.checkpoint_fn(lambda *a: inside(*a, **kwargs), *args)
        return self.checkpoint_fn(inside, *args, **kwargs)


class OffloadWrapper(ActivationWrapper):
    """A module whose activations are kept on the host."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with save_on_cpu(pin_memory=False):
            return self._checkpoint_wrapped_module(*args, **kwargs)


def checkpoint_wrapper(module: Module,
                       checkpoint_impl: CheckpointImpl = CheckpointImpl.NO_REENTRANT,
                       checkpoint_fn: Callable[..., Any] | None = None,
                       **checkpoint_fn_kwargs: Any) -> Module:
    """The module, whose activations are computed again in backward passes."""
    return CheckpointWrapper(module, checkpoint_impl, checkpoint_fn, **checkpoint_fn_kwargs)


def offload_wrapper(module: Module) -> Module:
    """The module, whose activations are kept on the host."""
    return OffloadWrapper(module)


def apply_activation_checkpointing(
        model: Module, checkpoint_wrapper_fn: Callable[..., Module] = checkpoint_wrapper,
        check_fn: Callable[[Module], bool] = lambda module: True,
        auto_wrap_policy: Callable[..., bool] | None = None) -> None:
    """Wrap the modules inside a model that `check_fn` (or a policy) says yes to, in place."""
    def chosen(module: Module, recurse: bool, nonwrapped_numel: int) -> bool:
        return recurse or check_fn(module)

    wrap_inside(model, auto_wrap_policy or chosen, checkpoint_wrapper_fn, {}, set())
