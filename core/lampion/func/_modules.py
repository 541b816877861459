"""Modules as functions of their parameters: `functional_call`, `stack_module_state`.

Floor 7; imports nn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..nn.utils.stateless import functional_call as _call
from ..ops.registry import REGISTRY
from ._arguments import wraps


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = None,
                    kwargs: dict[str, Any] | None = None, *, tie_weights: bool = True,
                    strict: bool = False) -> Any:
    """`module(*args, **kwargs)` with the named tensors in place of its parameters and buffers.

    parameter_and_buffer_dicts: a dict by dotted name, or several with distinct keys (ValueError
    otherwise). With `strict` they must name all of the module's, else RuntimeError.

    >>> import lampion
    >>> layer = lampion.nn.Linear(2, 1)
    >>> given = {"weight": lampion.ones(1, 2), "bias": lampion.zeros(1)}
    >>> functional_call(layer, given, lampion.ones(2))
    tensor([2.])
    """
    given = parameter_and_buffer_dicts
    return _call(module, given if isinstance(given, dict) else tuple(given), args, kwargs,
                 tie_weights=tie_weights, strict=strict)


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, buffers) of several modules of one class, stacked by name along a new first
    dim: new leaves, for `vmap` over an ensemble.

    RuntimeError for no models, different classes, different training modes, and parameters of
    which only some require gradients.

    >>> import lampion
    >>> params, buffers = stack_module_state([lampion.nn.Linear(2, 1) for _ in range(3)])
    >>> params["weight"].shape
    lampion.Size([3, 1, 2])
    """
    models = list(models)
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if len({m.training for m in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to have the same "
                           "training/eval mode.")
    if any(type(m) is not type(models[0]) for m in models):
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    params = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return tuple(  # type: ignore[return-value]
        {name: _stacked([t[name] for t in tables], name) for name in tables[0]}
        for tables in (params, buffers))


def _stacked(tensors: list[Any], name: str) -> Any:
    needs = {t.requires_grad for t in tensors}
    if len(needs) > 1:
        raise RuntimeError(f"Expected {name} from each model to have the same .requires_grad")
    made = REGISTRY["stack"].fn([t.detach() for t in tensors])
    return made.requires_grad_() if needs.pop() else made


def replace_all_batch_norm_modules_(root: Any) -> Any:
    """Let the batch norms of a module use the statistics of each batch only, so that `vmap` has no
    running statistics to write for several examples at once. Changes and returns `root`.

    >>> import lampion
    >>> net = replace_all_batch_norm_modules_(lampion.nn.Sequential(lampion.nn.BatchNorm1d(2)))
    >>> net[0].running_mean is None
    True
    """
    for module in root.modules():
        if getattr(module, "track_running_stats", None) and hasattr(module, "running_mean"):
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    return root


def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """A function with the results of `func`, for programs written for PyTorch.

    PyTorch's transform rewrites in-place operations while a program is traced. Nothing here needs
    that: derivatives and `vmap` take in-place operations as they are. RuntimeError for a value of
    `remove` other than "mutations" and "mutations_and_views".
    """
    if remove not in ("mutations", "mutations_and_views"):
        raise RuntimeError(f"functionalize(f, remove='mutations'): received invalid argument for "
                           f"remove={remove}. Valid options are 'mutations' and "
                           "'mutations_and_views'.")

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper
