"""Names under which kernels are looked up: for which ops that happens at all, and what to say where
settings or plug-ins name others. Floor 3; imports the registry.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from .. import plugins
from ..config import ConfigError
from ..logging import get_logger
from . import registry
from .registry import REGISTRY

_log = get_logger("kernels")
_checked: list[Any] = [None]


def check_settings(settings: dict[str, str], where: str) -> None:
    """ConfigError if `[kernels]` names what is no op, or is not written as op@device."""
    if _checked[0] == settings:
        return
    for key in settings:
        op, at, kind = key.rpartition("@")
        if not (at and op and kind):
            raise ConfigError(f"{where}: [kernels] {key!r} is not written as \"op@device\"")
        if not has_kernels(op):
            plugins.load_ops(registry)
        if not has_kernels(op):
            raise ConfigError(f"{where}: [kernels] {key!r}: {no_kernels(op)}")
    _checked[0] = dict(settings)


def has_kernels(name: str) -> bool:
    """Whether devices run kernels for an op of this name: a registered one that is no view and no
    composite, its in-place form, what is derived from it, or an optimizer's step."""
    for end in ("", "_", "_backward", "_jvp"):
        op = REGISTRY.get(name.removesuffix(end))
        if name.endswith(end) and op is not None and op.kind in ("elementwise", "kernel"):
            return True
    return name.startswith("optim::")


def no_kernels(name: str) -> str:
    """Why `has_kernels` says no, for messages."""
    if name in REGISTRY:
        if REGISTRY[name].kind != "composite":
            return f"{name!r} is a view, for which nothing runs"
        return (f"{name!r} is composed of other ops, and kernels are looked up for those; "
                f"`lampion explain {name}` names them")
    close = difflib.get_close_matches(name, list(REGISTRY), n=1)
    return f"there is no op {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


_told: set[tuple[str, str]] = set()


def warn_of_unused(impls: Mapping[tuple[str, str], list[Any]]) -> None:
    """Log, once for each, the kernels of plug-ins that no call will ask for."""
    for name, backend in impls:
        if (name, backend) not in _told and not has_kernels(name):
            _told.add((name, backend))
            _log.warning("nobody will use a kernel", op=name, device=backend, why=no_kernels(name),
                         offered_by=impls[name, backend][0].source)
