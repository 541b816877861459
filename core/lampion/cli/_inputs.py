"""Inputs for an op from words on the command line. Floor 7.

A word is a tensor's shape (`64x64`, `5`x as in `5x`, or `scalar`), a number (`=2.5`), or an
argument (`dim=1`). What is left out gets 64x64 for tensors and its default for the rest.
"""

from __future__ import annotations

import ast
import re
from typing import Any

DEFAULT_SHAPE = (64, 64)
SHAPE = re.compile(r"\d+(x\d+)*x?")


def op_named(name: str) -> Any:
    """The op of this name; ValueError that names the nearest ones."""
    import difflib

    from lampion import plugins
    from lampion.ops import registry

    found = registry.REGISTRY.get(name)
    if found is None:
        plugins.load_ops(registry)
        found = registry.REGISTRY.get(name)
    if found is None:
        close = difflib.get_close_matches(name, list(registry.REGISTRY), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; see `lampion ops`"
        raise ValueError(f"there is no op '{name}'{hint}")
    return found


def call_of(op: Any, words: list[str], dtype: str, device: str | None) -> tuple[Any, Any]:
    """(args, kwargs) for a call of `op`; tensors hold ones."""
    shapes = [shape_of(w) for w in words if SHAPE.fullmatch(w) or w == "scalar"]
    named = dict(_argument(w) for w in words if "=" in w)
    unknown = [w for w in words if "=" not in w and not SHAPE.fullmatch(w) and w != "scalar"]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no shape (64x64, 5, scalar) and no argument (dim=1)")
    args: list[Any] = []
    for param in _required(op):
        if param.name in named:
            args.append(named.pop(param.name))
        elif param.kind in ("S", "I"):
            args.append(1)
        elif param.kind == "A" and op.kind != "composite":
            raise ValueError(f"{op.qualname} needs {param.name}=...")
        else:
            shape = shapes.pop(0) if shapes else DEFAULT_SHAPE
            made = _ones(shape, dtype, device)
            args.append([made, made] if param.kind == "T[]" else made)
    return args, named


def _required(op: Any) -> list[Any]:
    from lampion.ops.registry import REQUIRED

    return [p for p in op.positional if p.default is REQUIRED]


def _ones(shape: tuple[int, ...], dtype: str, device: str | None) -> Any:
    import lampion

    kind = getattr(lampion, dtype, None)
    if kind is None:
        raise ValueError(f"there is no dtype '{dtype}'")
    return lampion.ones(*shape, dtype=kind, device=device)


def shape_of(word: str) -> tuple[int, ...]:
    """The shape that a word stands for."""
    return () if word == "scalar" else tuple(int(n) for n in word.split("x") if n)


def _argument(word: str) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text
