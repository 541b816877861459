"""docs/compat.md: every public name of PyTorch's documented namespaces, present or absent.

Run: python -m lampion.compat.report > docs/compat.md

Imports this package; PyTorch is not needed.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import install, installed, surface, uninstall
from .absent import Absent

# The namespaces that programs are written against; the goal is 95% of their names.
MAIN = ("torch", "torch.Tensor", "torch.nn", "torch.nn.functional", "torch.nn.init",
        "torch.nn.utils", "torch.optim", "torch.optim.lr_scheduler", "torch.linalg", "torch.fft",
        "torch.special", "torch.distributions", "torch.utils.data", "torch.amp", "torch.func",
        "torch.autograd", "torch.autograd.functional")


def present(module: str, name: str) -> bool:
    """Whether a name is there and is no stand-in."""
    try:
        if module == "torch.Tensor":
            owner: Any = importlib.import_module("torch").Tensor
        else:
            owner = importlib.import_module(module)
        found = getattr(owner, name)
    except (ImportError, AttributeError):
        return False
    return not (isinstance(found, type) and issubclass(found, Absent))


def counts() -> dict[str, tuple[list[str], list[str]]]:
    """(present, absent) names by namespace."""
    was = installed()
    install()
    try:
        found = {}
        for module in surface.modules():
            names = sorted(surface.names(module))
            have = [n for n in names if present(module, n)]
            found[module] = (have, sorted(set(names) - set(have)))
        return found
    finally:
        if not was:
            uninstall()


def page() -> str:
    """The page, as Markdown."""
    found = counts()
    main = [found[m] for m in MAIN]
    have, all_ = sum(len(h) for h, _ in main), sum(len(h) + len(a) for h, a in main)
    lines = [
        "# PyTorch's names", "",
        f"Which public names of PyTorch {surface.VERSION} lampion has, under `lampion run` or "
        "`lampion.compat.install()`. A name that is absent can be imported; it raises an error "
        "that names it when it is used. Written by `python -m lampion.compat.report`.", "",
        "In the namespaces that programs are mostly written against (marked *): "
        f"**{have} of {all_} names, {100 * have / all_:.1f}%**.", "",
        "| namespace | present | of | absent |", "|---|---:|---:|---|"]
    order = [*MAIN, *(m for m in found if m not in MAIN)]
    for module in order:
        have_, absent = found[module]
        mark = " *" if module in MAIN else ""
        shown = ", ".join(f"`{n}`" for n in absent)
        lines.append(f"| `{module}`{mark} | {len(have_)} | {len(have_) + len(absent)} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
