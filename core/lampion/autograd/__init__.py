"""Floor 4: nodes, the backward engine, gradient modes, custom functions, gradient checks.

What few programs use is imported when it is first asked for.
"""

from __future__ import annotations

from ..late import late
from .api import backward, grad
from .gradcheck import gradcheck, gradgradcheck  # now: the module has the function's name
from .modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
    set_multithreading_enabled,
)

_MODULES = ("anomaly", "forward_ad", "function", "functional", "graph", "variable", "profiler")
_LATE = {"Function": "function", "once_differentiable": "function", "detect_anomaly": "anomaly",
         "set_detect_anomaly": "anomaly", "Variable": "variable"}

__all__ = ["forward_ad", "functional", "graph", "Function", "once_differentiable", "detect_anomaly",
           "set_detect_anomaly", "set_multithreading_enabled",
           "gradcheck", "gradgradcheck",
           "backward", "grad", "no_grad", "enable_grad", "inference_mode", "set_grad_enabled",
           "is_grad_enabled", "is_inference_mode_enabled"]


__getattr__, _ = late(__name__, {**dict.fromkeys(_MODULES, ""), **_LATE})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
