"""skip_init: modules without drawing their start values.

May import: nn.init, nn.modules.module.
"""
from __future__ import annotations

import inspect
from typing import Any

from lampion.nn import init
from lampion.nn.modules.module import Module


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Module:
    """A module of `module_cls` whose parameters are uninitialized memory.

    RuntimeError if it is no Module class or its constructor takes no `device`.

    >>> nn.utils.skip_init(nn.Linear, 2, 3)
    Linear(in_features=2, out_features=3, bias=True)
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    signature = inspect.signature(module_cls)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if "device" not in signature.parameters and not takes_any:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    with init.skipped():
        return module_cls(*args, **kwargs)
