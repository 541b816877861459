"""Functions that another compiler runs: `compile(backend=function)`.

Floor 6; imports lampion.fx when the first one is called. The backend is given an
`fx.GraphModule` and the tensors of a call, as PyTorch gives them, and makes a callable of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..autograd.state import mode
from . import arguments
from .guards import is_module


class Handed:
    """A callable that runs `fn` as `backend(graph_module, example_inputs)` makes it, once for each
    kind of call."""

    def __init__(self, fn: Callable[..., Any], backend: Callable[..., Any],
                 target: Any = None) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.backend = fn, backend
        self.target = fn if target is None else target
        self.name = getattr(self.target, "__qualname__", type(self.target).__name__)
        self.reset()

    def reset(self) -> None:
        """Forget what was made."""
        # by kind of call: what to call, and the objects that the key names by identity
        self.made: dict[Any, tuple[Callable[..., Any], list[Any]]] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key: list[Any] = [mode.enabled, getattr(self.target, "training", None)]
        tensors: list[Any] = []
        keep: list[Any] = []
        arguments.take_apart((args, kwargs), key, tensors, keep)
        where = tuple(key)
        found = self.made.get(where)
        if found is None:
            found = self.made[where] = self._make(tensors, args, kwargs), keep
        return found[0](*tensors)

    def _make(self, tensors: list[Any], args: Any, kwargs: Any) -> Callable[..., Any]:
        from .. import fx
        from ..nn import Module

        places = ", ".join(f"x{k}" for k in range(len(tensors)))
        fn = self.fn

        def call(*given: Any) -> Any:
            rest = iter(given)
            a, k = arguments.rebuild((args, kwargs), lambda t: next(rest))
            return fn(*a, **k)

        space: dict[str, Any] = {"call": call}
        exec(f"def forward({places}): return call({places})\n"
             f"def method(self, {places}): return call({places})\n", space)
        root = space["forward"]
        if is_module(self.target):
            root = type(type(self.target).__name__, (Module,),
                        {"forward": space["method"]})()
            root._orig_mod = self.target
        try:
            tracer = fx.Tracer()
            graph = tracer.trace(root)
            module = fx.GraphModule(tracer.root, graph)
        except (ValueError, TypeError) as e:  # TraceError is a ValueError
            raise RuntimeError(f"{self.name} cannot be handed to the backend as one graph: {e}. "
                               "Leave backend= out: lampion's compiler needs no symbolic trace."
                               ) from e
        made: Callable[..., Any] = self.backend(module, list(tensors))
        if not callable(made):
            raise RuntimeError(f"the backend gave a {type(made).__name__}, which cannot be called")
        return made


__all__ = ["Handed"]
