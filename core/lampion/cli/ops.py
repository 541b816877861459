"""The operators, by kind."""

from __future__ import annotations

import argparse
from typing import Any

from lampion.cli import _show

KINDS = {
    "elementwise": "a scalar expression; kernels and gradients are derived",
    "kernel": "a loop nest or a library kernel, with a gradient of its own",
    "view": "another look at the same memory",
    "composite": "Python over other operators",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lampion ops`."""
    parser.add_argument("pattern", nargs="?", default="", help="only names with this in them")
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind")
    parser.add_argument("--device", help="show the kernels that plug-ins registered for it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List the registry, op plug-ins included."""
    import lampion  # noqa: F401  (declares the built-in ops)
    from lampion import plugins
    from lampion.ops import registry

    plugins.load_ops(registry)
    if args.device:
        plugins.backend(args.device.partition(":")[0])
    plugins.load_kernels(registry)
    rows = [
        _facts(op, args.device)
        for op in sorted(registry.REGISTRY.values(), key=lambda op: op.qualname)
        if args.pattern in op.qualname and args.kind in (None, op.kind)
    ]
    if args.json:
        _show.as_json(rows)
        return 0 if rows else 1
    columns = ["name", "kind", "variants", "gradient", "summary"]
    if args.device:
        columns.insert(4, "kernels")
    _show.table([[row[c] for c in columns] for row in rows], columns)
    for kind, text in KINDS.items():
        count = sum(row["kind"] == kind for row in rows)
        if count:
            print(f"{count:5} {kind}: {text}")
    return 0 if rows else 1


def _facts(op: Any, device: str | None) -> dict[str, Any]:
    """What there is to say of one op, as words."""
    variants = [v for v in ("method", "inplace", "out") if getattr(op, v)]
    facts = {
        "name": op.qualname,
        "kind": op.kind,
        "variants": " ".join(variants) or "-",
        "gradient": "yes" if op.differentiable else "no",
        "namespaces": [place or "lampion" for place in op.where],
        "summary": next(iter(op.doc.strip().splitlines()), ""),
    }
    if device:
        from lampion.ops import registry

        impls = registry.kernel_impls(op.qualname, device.partition(":")[0])
        facts["kernels"] = ", ".join(f"{i.source or i.op}({i.priority})" for i in impls) or "-"
    return facts
