"""Which kernel runs an operator on a device, and why."""

from __future__ import annotations

import argparse

from lampion.cli import _inputs, _show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion explain`."""
    parser.add_argument("op", help="an operator, for example add")
    parser.add_argument(
        "inputs", nargs="*", help="shapes such as 64x64 or scalar, and arguments such as dim=1"
    )
    parser.add_argument("--device", help="a device; left out: the default one")
    parser.add_argument("--dtype", default="float32", help="of the tensors (float32)")
    parser.add_argument("--backward", action="store_true", help="its gradient, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the op once on tensors of ones and tell every decision."""
    import lampion  # noqa: F401  (declares the built-in ops)
    from lampion.explaining import explain

    op = _inputs.op_named(args.op)
    values, named = _inputs.call_of(op, args.inputs, args.dtype, args.device)

    def call() -> None:
        if args.backward:
            for value in values:
                if hasattr(value, "requires_grad_"):
                    value.requires_grad_()
        result = op(*values, **named)
        if args.backward:
            result.sum().backward()

    choices = explain(call)
    if args.json:
        _show.as_json(
            [c._asdict() | {"candidates": [k._asdict() for k in c.candidates]} for c in choices]
        )
    else:
        print(choices)
    return 0
