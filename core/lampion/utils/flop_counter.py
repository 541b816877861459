"""Counting floating-point operations of products and convolutions, by module.

Floor 7; imports nn and overrides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ..nn.modules.module import (
    Module,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from ..overrides import TorchFunctionMode
from ..tensor import Tensor

__all__ = ["FlopCounterMode", "register_flop_formula"]


def _product(a: Any, b: Any, out: Any) -> int:
    """Two for each multiplication and addition; the inner size follows from the other sizes."""
    if not out.numel():
        return 0
    sizes = [math.prod(t.shape[-2:]) for t in (a, b, out)]
    return 2 * out.numel() * round(math.sqrt(sizes[0] * sizes[1] / sizes[2]))


def _gemm(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
    a, b = [t for t in args if isinstance(t, Tensor)][:2]
    if a.dim() == 1 or b.dim() == 1:
        return 2 * max(a.numel(), b.numel())
    return _product(a, b, out_val)


def _addmm(input: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return _gemm(*args, out_val=out_val)


def _linear(input: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * int(input.numel()) * int(weight.shape[0])


def _conv(input: Any, weight: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return 2 * int(out_val.numel()) * math.prod(weight.shape[1:])


def _conv_data(grad: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * int(grad.numel()) * math.prod(weight.shape[1:])


def _conv_weight(input: Any, grad: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    weight = out_val[0] if isinstance(out_val, (tuple, list)) else out_val
    return 2 * int(grad.numel()) * math.prod(weight.shape[1:])


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    lead = math.prod(query.shape[:-1])
    return 2 * lead * key.shape[-2] * (query.shape[-1] + value.shape[-1])


flop_registry: dict[Any, Callable[..., int]] = {
    **dict.fromkeys(("gemm", "matmul", "mm", "bmm", "mv", "dot"), _gemm),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _addmm), "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_forward"), _conv),
    "conv_backward_data": _conv_data,  # and transposed convolutions
    **dict.fromkeys(("conv_backward_weight", "conv_backward_weight_bias"), _conv_weight),
    "attention": _attention}


def register_flop_formula(targets: Any, get_raw: bool = False) -> Callable[[Any], Any]:
    """Decorator: a function of an op's arguments (and `out_val`) that counts its operations.

    `targets` are functions or names of ops.
    """
    def register(formula: Any) -> Any:
        for target in targets if isinstance(targets, (list, tuple)) else [targets]:
            flop_registry[_name(target)] = formula
        return formula

    return register


def _name(op: Any) -> str:
    return op if isinstance(op, str) else getattr(op, "__name__", str(op))


class FlopCounterMode(TorchFunctionMode):
    """Inside, floating-point operations of products and convolutions are counted: those of forward
    passes under the path of each module, and these and those of backward passes under "Global".

    >>> counter = FlopCounterMode(display=False)
    >>> with counter:
    ...     y = nn.Linear(3, 4)(lampion.ones(2, 3))
    >>> counter.get_total_flops()
    48
    """

    def __init__(self, mods: Any = None, depth: int | None = 2, display: bool = True,
                 custom_mapping: dict[Any, Any] | None = None) -> None:
        super().__init__()
        self.depth = 999999 if depth is None else depth
        self.display = display
        self.formulas = {**flop_registry,
                         **{_name(k): v for k, v in (custom_mapping or {}).items()}}
        self.flop_counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._names: dict[int, str] = {}
        self._open: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> FlopCounterMode:
        self.flop_counts.clear()
        self._open, self._names = [], {}
        self._hooks = [register_module_forward_pre_hook(self._begin),
                       register_module_forward_hook(self._end, always_call=True)]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        if self.display:
            print(self.get_table(self.depth))

    def _begin(self, module: Module, inputs: Any) -> None:
        if id(module) not in self._names:
            top = type(module).__name__
            for name, child in module.named_modules():
                self._names.setdefault(id(child), f"{top}.{name}" if name else top)
        self._open.append(self._names[id(module)])

    def _end(self, module: Module, inputs: Any, output: Any) -> None:
        self._open.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = _name(func)
        formula = self.formulas.get(name)
        if formula is not None:
            count = formula(*args, **(kwargs or {}), out_val=out)
            for path in {"Global", *self._open}:
                self.flop_counts[path][name] += count
        return out

    def get_total_flops(self) -> int:
        """All operations that were counted."""
        return sum(self.flop_counts["Global"].values())

    def get_flop_counts(self) -> dict[str, dict[Any, int]]:
        """Operations by the path of the module and the name of the op."""
        return {k: dict(v) for k, v in self.flop_counts.items()}

    def get_table(self, depth: int | None = None) -> str:
        """The counts as a table of modules and ops."""
        depth = self.depth if depth is None else depth
        total = self.get_total_flops()
        rows = [("Module", "FLOP", "% Total")]
        for path in sorted(self.flop_counts):
            level = 0 if path == "Global" else path.count(".") + 1
            if level > depth:
                continue
            counts = self.flop_counts[path]
            pad = " " * level
            entries = [(pad + path, sum(counts.values()))]
            entries += [(f"{pad} - {name}", n) for name, n in counts.items()]
            rows += [(label, _short(n), f"{n / total:.2%}" if total else "0.00%")
                     for label, n in entries]
        widths = [max(len(r[k]) for r in rows) for k in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _short(count: int) -> str:
    """A count with a letter for its thousands."""
    for letter in ("", "K", "M", "B", "T"):
        if count < 1000 or letter == "T":
            return f"{count:.3f}{letter}" if letter else str(count)
        count /= 1000  # type: ignore[assignment]
    return str(count)
