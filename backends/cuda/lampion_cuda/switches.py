"""`lampion.backends.cudnn` and `lampion.backends.cuda`: PyTorch's switches as options of this
backend.

Each switch reads and sets an option of the table [backend.cuda]; whatever changes plans calls
afresh. Imports lampion's configuration, and this package when it is asked whether there is cuDNN.
"""

from __future__ import annotations

from typing import Any

from lampion import config

_TABLE = "backend.cuda."
# What a plan of cuDNN's depends on.
_OPTIONS = ("dnn", "dnn_attention", "dnn_tf32", "dnn_deterministic", "dnn_benchmark",
            "dnn_benchmark_limit", "check_plans")


def watch() -> None:
    """Forget all plans when one of the options changes."""
    def forget() -> None:
        from lampion.ops.registry import forget_plans

        forget_plans()

    config.watch(tuple(_TABLE + name for name in _OPTIONS), forget)


class _Switch:
    """An attribute that is an option."""

    def __init__(self, option: str, kind: type) -> None:
        self.option, self.kind = option, kind

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, switches: Any, owner: Any = None) -> Any:
        return config.get(_TABLE + self.option)

    def __set__(self, switches: Any, value: Any) -> None:
        config.set(_TABLE + self.option, self.kind(value), f"backends.cudnn.{self.name}")


class _Precision:
    """`fp32_precision`, as a word."""

    def __get__(self, switches: Any, owner: Any = None) -> str:
        return "tf32" if config.get(_TABLE + "dnn_tf32") else "ieee"

    def __set__(self, switches: Any, value: str) -> None:
        if value not in ("none", "ieee", "tf32"):
            raise RuntimeError(f"Invalid precision: {value!r}; fp32_precision is 'none', 'ieee' or "
                               "'tf32'")
        config.set(_TABLE + "dnn_tf32", value == "tf32", "backends.cudnn.fp32_precision")


class CuDNN:
    """The switches of `lampion.backends.cudnn`."""

    benchmark = _Switch("dnn_benchmark", bool)
    benchmark_limit = _Switch("dnn_benchmark_limit", int)
    deterministic = _Switch("dnn_deterministic", bool)
    allow_tf32 = _Switch("dnn_tf32", bool)
    fp32_precision = _Precision()

    @property
    def enabled(self) -> bool:
        """Whether cuDNN is used where it is installed."""
        return bool(config.get(_TABLE + "dnn") != "generated")

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if bool(value) != self.enabled:
            config.set(_TABLE + "dnn", "auto" if value else "generated", "backends.cudnn.enabled")

    @staticmethod
    def is_available() -> bool:
        """Whether there are a GPU and cuDNN with its frontend."""
        return CuDNN.version() is not None

    @staticmethod
    def version() -> int | None:
        """cuDNN's version, for example 92801, or None where it cannot be used."""
        from . import namespace
        from .cudnn import library
        from .streams import BACKEND

        if not namespace.is_available():
            return None
        found = library(BACKEND[0].opened(None))
        return None if isinstance(found, str) else found.version


class _Convolutions:
    """The switches of `lampion.backends.cudnn.conv`."""

    fp32_precision = _Precision()


class CUDA:
    """Those switches of `lampion.backends.cuda` that choose what attends."""

    @staticmethod
    def cudnn_sdp_enabled() -> bool:
        """Whether attention may be cuDNN's."""
        return bool(config.get(_TABLE + "dnn_attention"))

    @staticmethod
    def enable_cudnn_sdp(enabled: bool) -> None:
        """Allow attention to be cuDNN's, or not."""
        config.set(_TABLE + "dnn_attention", bool(enabled), "backends.cuda.enable_cudnn_sdp")


SWITCHES = {"cudnn": CuDNN(), "cudnn.conv": _Convolutions(), "cuda": CUDA()}
