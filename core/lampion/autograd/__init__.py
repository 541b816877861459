"""Floor 4: nodes, the backward engine, gradient modes, custom functions, gradient checks."""

from __future__ import annotations

from . import forward_ad, functional, graph
from .anomaly import detect_anomaly, set_detect_anomaly
from .api import backward, grad
from .function import Function, once_differentiable
from .gradcheck import gradcheck, gradgradcheck
from .modes import (
                    enable_grad,
                    inference_mode,
                    is_grad_enabled,
                    is_inference_mode_enabled,
                    no_grad,
                    set_grad_enabled,
)

__all__ = ["forward_ad", "functional", "graph", "Function", "once_differentiable", "detect_anomaly",
           "set_detect_anomaly",
           "gradcheck", "gradgradcheck",
           "backward", "grad", "no_grad", "enable_grad", "inference_mode", "set_grad_enabled",
           "is_grad_enabled", "is_inference_mode_enabled"]
