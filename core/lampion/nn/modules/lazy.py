"""Lazy modules: layers whose parameter shapes come from the first input.

May import: nn.parameter.
"""
from __future__ import annotations

from typing import Any

from lampion.nn.parameter import is_lazy


class LazyModuleMixin:
    """Mix in before a layer class; define `initialize_parameters(*args, **kwargs)`.

    The first call runs it and then turns the module into `cls_to_become`. Until then the module
    has uninitialized parameters, which state_dict saves as they are.

    >>> layer = nn.LazyLinear(3); _ = layer(lampion.zeros(1, 5)); layer
    Linear(in_features=5, out_features=3, bias=True)
    """

    cls_to_become: type | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._load_hook = hook
        self._initialize_hook = self.register_forward_pre_hook(
            type(self)._infer_parameters, with_kwargs=True)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._persistent().items():
            as_is = is_lazy(tensor) or keep_vars
            destination[prefix + name] = tensor if as_is else tensor.detach()

    def _lazy_load_hook(self, state_dict: Any, prefix: str, *unused: Any) -> None:
        """Give the own tensors the shapes of those about to be loaded."""
        for name, tensor in self._persistent().items():
            loaded = state_dict.get(prefix + name)
            if loaded is not None and is_lazy(tensor) and not is_lazy(loaded):
                tensor.materialize(loaded.shape)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Materialize the parameters for these inputs."""
        raise NotImplementedError(
            f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self) -> bool:
        """Is any own parameter or buffer still without a shape?"""
        tensors = [*self._parameters.values(), *self._buffers.values()]
        return any(is_lazy(tensor) for tensor in tensors)

    def _infer_parameters(self, args: tuple[Any, ...],
                          kwargs: dict[str, Any] | None = None) -> None:
        """The forward pre-hook: initialize, check, and become the eager class."""
        self.initialize_parameters(*args, **(kwargs or {}))
        if self.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")
        self._initialize_hook.remove()
        self._load_hook.remove()
        del self._initialize_hook, self._load_hook
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become
