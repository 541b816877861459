"""Which operators of a model a device lacks, before the first step runs there."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from lampion.cli import _show
from lampion.cli._inputs import SHAPE, shape_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion requires`."""
    parser.add_argument("model", help="FILE.py:NAME or PACKAGE.MODULE:NAME: a module or function "
                        "of tensors, or what makes a module when called without arguments")
    parser.add_argument("inputs", nargs="+", help="shapes such as 8x3x32x32 or scalar; whole "
                        "numbers from 0 as 8x128:int64")
    parser.add_argument("--device", required=True, help="the device to ask about")
    parser.add_argument("--backward", action="store_true", help="gradients, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the model once where it is, and tell what the device lacks: 1 if that is anything."""
    from lampion.requirements import requires

    found = requires(_model(args.model), [_input(word) for word in args.inputs],
                     device=args.device, backward=args.backward)
    if args.json:
        _show.as_json({"device": found.device, "complete": found.complete,
                       "needs": [n._asdict() for n in found.needs]})
    else:
        print(found)
    return 0 if found.complete else 1


def _model(reference: str) -> Any:
    """The model of a reference. ValueError if there is none."""
    place, colon, name = reference.rpartition(":")
    if not colon:
        raise ValueError(f"{reference!r} names no model: write FILE.py:NAME or PACKAGE.MODULE:NAME")
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).parent.absolute()))
        found = runpy.run_path(place).get(name)
    else:
        sys.path.insert(0, "")
        found = getattr(importlib.import_module(place), name, None)
    if not callable(found):
        raise ValueError(f"{place} has no module or function {name!r}")
    from lampion.nn.modules.module import Module

    if isinstance(found, Module) or not (isinstance(found, type) or _takes_nothing(found)):
        return found
    return found()


def _takes_nothing(function: Any) -> bool:
    import inspect

    return not inspect.signature(function).parameters


def _input(word: str) -> Any:
    """A tensor for a word: normal numbers, or zeros where they are whole."""
    import lampion

    shape, _, name = word.partition(":")
    dtype = getattr(lampion, name or "float32", None)
    if not (SHAPE.fullmatch(shape) or shape == "scalar") or not isinstance(dtype, lampion.dtype):
        raise ValueError(f"{word!r} is no input: write a shape, as 8x3x32x32, scalar or 8x10:int64")
    if dtype.is_floating_point:
        return lampion.randn(shape_of(shape), dtype=dtype)
    return lampion.zeros(shape_of(shape), dtype=dtype)
