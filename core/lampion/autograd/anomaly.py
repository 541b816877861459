"""Anomaly detection: which forward line made a backward fail or give NaN.

Floor 4; imports observe, engine. While it is on, every recorded node keeps the stack of its
forward call, and every gradient is looked at for NaN.
"""

from __future__ import annotations

import os
import traceback
import warnings
from typing import Any

from ..ops.facts import examples
from ..ops.pieces import settled
from . import engine
from .node import Node
from .observe import Observer
from .state import mode

_LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def remember(node: Node) -> None:
    """Keep the stack of the call that made this node."""
    extra = node.more()
    if extra.trace is None:
        frames = [f for f in traceback.extract_stack()[:-2]
                  if not f.filename.startswith((_LIBRARY, "<lampion op"))]
        extra.trace = "".join(traceback.format_list(frames))


def apply_checked(node: Node, grads: list[Any]) -> Any:
    """Run a node; an error or a NaN in its gradients is reported with the forward call."""
    try:
        outs = [settled(g) for g in node.apply(grads)]
    except Exception:
        report(node)
        raise
    if engine.anomaly[1]:
        for k, g in enumerate(outs):
            if g is not None and has_nan(g):
                report(node)
                raise RuntimeError(f"Function '{node.name()}' returned nan values in its {k}th "
                                   "output.")
    return outs


def has_nan(g: Any) -> bool:
    """Whether a gradient holds a NaN."""
    if g.meta.dtype.kind not in "fc":
        return False
    previous, mode.enabled = mode.enabled, False
    try:
        return bool(examples(g).isnan().any())
    finally:
        mode.enabled = previous


def report(node: Node) -> None:
    """Warn with the forward call of a node."""
    trace = node.extra.trace if node.extra is not None else None
    if trace is None:
        text = ("No forward pass information available. Enable detect anomaly during forward pass "
                "for more information.")
    else:
        text = f"Traceback of forward call that caused the error:\n{trace}"
    warnings.warn(f"Error detected in {node.name()}. {text}", UserWarning, stacklevel=4)


class detect_anomaly:
    """Context manager: backward errors name the forward call, and NaN gradients are errors.

    `check_nan=False` leaves out the NaN check. It slows programs down a lot.

    >>> import lampion
    >>> with lampion.autograd.detect_anomaly():
    ...     lampion.zeros(1, requires_grad=True).sqrt().mul(0).sum().backward()
    Traceback (most recent call last):
    RuntimeError: Function 'SqrtBackward0' returned nan values in its 0th output.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.mode, self.check_nan = True, check_nan
        warnings.warn("Anomaly Detection has been enabled. This mode will increase the runtime "
                      "and should only be enabled for debugging.", stacklevel=2)

    def __enter__(self) -> None:
        self.previous = tuple(engine.anomaly)
        _switch(self.mode, self.check_nan)

    def __exit__(self, *exc: Any) -> None:
        _switch(*self.previous)


class set_detect_anomaly(detect_anomaly):
    """Turn anomaly detection on or off, at once; as a context manager, restore it at the end."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self.previous = tuple(engine.anomaly)
        _switch(bool(mode), check_nan)

    def __enter__(self) -> None:
        pass


def is_anomaly_enabled() -> bool:
    """Whether anomaly detection is on."""
    return engine.anomaly[0]


def is_anomaly_check_nan_enabled() -> bool:
    """Whether gradients are looked at for NaN while anomaly detection is on."""
    return engine.anomaly[1]


_observer: list[Observer] = []


def _switch(on: bool, check_nan: bool) -> None:
    engine.anomaly[:] = [on, check_nan]
    if on and not _observer:
        _observer.append(Observer(remember, everywhere=True).__enter__())
    elif not on and _observer:
        _observer.pop().__exit__()


__all__ = ["apply_checked", "detect_anomaly", "set_detect_anomaly", "is_anomaly_enabled",
           "is_anomaly_check_nan_enabled"]
