"""Compiled modules: a module around a module, as `lampion.compile(model)` gives it.

May import: nn.modules.module, the compiler. Imported when the first module is compiled.
"""

from __future__ import annotations

from typing import Any

from lampion.compiler.function import Compiled
from lampion.compiler.handed import Handed
from lampion.nn.modules.module import Module


class OptimizedModule(Module):
    """Runs the module `_orig_mod` as compiled programs; attributes are those of that module.

    Its state_dict has the keys of the module with the prefix `_orig_mod.`, as in PyTorch.
    """

    def __init__(self, model: Any, backend: Any = None, **options: Any) -> None:
        super().__init__()
        self._orig_mod = model
        run = lambda *args, **kwargs: model(*args, **kwargs)  # noqa: E731
        self.__dict__["_compiled"] = Compiled(run, target=model, **options) if backend is None \
            else Handed(run, backend, model)
        self.__dict__["training"] = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        return self._compiled(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Switch the module's mode."""
        self.__dict__["training"] = mode
        self._orig_mod.train(mode)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("_modules", {}).get("_orig_mod")
        if inner is None or name == "_orig_mod" or name in self.__dict__:
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)


    def __reduce__(self) -> Any:
        return (OptimizedModule, (self._orig_mod,))


__all__ = ["OptimizedModule"]
