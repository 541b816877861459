"""The table of ONNX operators: how each is declared, and how it is found.

An operator is a function whose positional parameters are the ONNX inputs and whose keyword-only
parameters are the ONNX attributes, with ONNX's names and defaults, those of the newest opset. What
an older opset gives as an attribute and the newest one as an input is passed as that input.
Keyword-only parameters of these names ask for something about the node:

- `opset`: the version of the operator set that the model imports,
- `outputs`: how many results the node names,
- `device`: the device of the model.

Inputs listed in `host` come as NumPy arrays: what decides about shapes is read on the host. Where
`moves` is set the operator only moves or compares values, so that it can work on codes of values
whose dtype lampion lacks; `host_only` says that the function takes such values itself. Floor 7.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

_FAMILIES = ("arithmetic", "casts", "shape", "selection", "reductions", "layers", "pooling",
             "recurrent", "attention", "control", "sequences", "quantized", "vision", "signal",
             "random", "losses", "text", "training")
_ASKED = ("opset", "outputs", "device")


class Operator:
    """An entry of the table; see the module's docstring."""

    def __init__(self, name: str, fn: Callable[..., Any], host: tuple[int, ...] = (),
                 moves: bool = False, host_only: bool = False, domain: str = "") -> None:
        self.name, self.fn, self.host, self.moves = name, fn, frozenset(host), moves
        self.host_only, self.domain = host_only, domain
        self.inputs: list[str] = []
        self.attributes: set[str] = set()
        self.asks: list[str] = []
        for p in inspect.signature(fn).parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                continue
            if p.kind is not p.KEYWORD_ONLY:
                self.inputs.append(p.name)
            elif p.name in _ASKED:
                self.asks.append(p.name)
            else:
                self.attributes.add(p.name)


OPERATORS: dict[tuple[str, str], Operator] = {}


def operator(*names: str, **options: Any) -> Callable[[Any], Any]:
    """Decorator: the function is the ONNX operator of these names."""
    def declare(fn: Any) -> Any:
        for name in names:
            OPERATORS[options.get("domain", ""), name] = Operator(name, fn, **options)
        return fn

    return declare


def unary(name: str, fn: Callable[[Any], Any]) -> None:
    """Declare an operator of one input and no attributes."""
    operator(name)(lambda X: fn(X))


def binary(name: str, fn: Callable[[Any, Any], Any], **options: Any) -> None:
    """Declare an operator of two inputs and no attributes."""
    operator(name, **options)(lambda A, B: fn(A, B))


def load() -> dict[tuple[str, str], Operator]:
    """The whole table."""
    for family in _FAMILIES:
        importlib.import_module(f".operators.{family}", __package__)
    return OPERATORS


__all__ = ["Operator", "OPERATORS", "operator", "unary", "binary", "load"]
