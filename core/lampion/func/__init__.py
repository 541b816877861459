"""Composable function transforms: `grad`, `vjp`, `jvp`, `vmap` and what is built of them.

Floor 7. Transforms take a function and give a function; they nest to any depth.

>>> import lampion
>>> from lampion.func import grad, vmap
>>> grad(lampion.sin)(lampion.tensor(0.0))
tensor(1.)
>>> vmap(grad(lambda x: (x ** 3).sum()))(lampion.tensor([[1.0, 2.0], [3.0, 0.0]]))
tensor([[ 3., 12.],
        [27.,  0.]])
"""

from __future__ import annotations

from typing import Any

from ._derivatives import grad, grad_and_value, jvp, linearize, vjp
from ._jacobians import hessian, jacfwd, jacrev
from ._modules import (
    functional_call,
    functionalize,
    replace_all_batch_norm_modules_,
    stack_module_state,
)
from ._vmap import vmap

__all__ = ["grad", "grad_and_value", "vjp", "jvp", "linearize", "jacrev", "jacfwd", "hessian",
           "vmap", "functional_call", "stack_module_state", "replace_all_batch_norm_modules_",
           "functionalize", "debug_unwrap"]


def debug_unwrap(tensor: Any, *, recurse: bool = True) -> Any:
    """The tensor below those of function transforms, to be looked at: a batch for what `vmap` shows
    one example of. With `recurse=False` only the innermost transform is taken off."""
    while tensor.meta.virtual:
        tensor = tensor.data_.value
        if not recurse:
            break
    return tensor
