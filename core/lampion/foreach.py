"""`lampion._foreach_*`: one op for each tensor of some lists, as optimizers of packages call them.

Floor 7; imports the public ops. Every function takes lists of tensors and returns a row of them;
with a trailing `_` it works in place and returns the list.
"""

from __future__ import annotations

from typing import Any

import lampion

_UNARY = ("abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "expm1",
          "floor", "frac", "lgamma", "log", "log10", "log1p", "log2", "neg", "reciprocal", "round",
          "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "trunc", "zero",
          "clone")
_BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "clamp_max", "clamp_min",
           "copy")
_OF_TENSORS = {"clamp_max": "minimum", "clamp_min": "maximum"}  # of whatever is given


def _rows(value: Any, count: int, name: str) -> list[Any]:
    """One operand for each tensor. RuntimeError if a list has another length."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise RuntimeError(f"{name}: tensor lists must have the same number of tensors, got "
                           f"{count} and {len(value)}")
    return list(value)


def _apply(name: str, method: str) -> Any:
    """The function `name`, that calls a method of every tensor."""
    inplace = method.endswith("_")

    def foreach(self: Any, *operands: Any, **options: Any) -> Any:
        rows = [_rows(v, len(self), name) for v in operands]
        made = [getattr(t, method)(*row, **options) for t, *row in zip(self, *rows)]
        return self if inplace else tuple(made)

    foreach.__name__ = name
    foreach.__doc__ = f"`{method}` of every tensor."
    return foreach


def _extreme(name: str, op: str, inplace: bool) -> Any:
    """clamp and maximum of numbers, tensors and lists of both."""
    def foreach(self: Any, other: Any) -> Any:
        made = []
        for t, v in zip(self, _rows(other, len(self), name)):
            v = v if isinstance(v, lampion.Tensor) else lampion.as_tensor(v, device=t.device)
            found = getattr(lampion, op)(t, v).to(t.dtype)
            made.append(t.copy_(found) if inplace else found)
        return self if inplace else tuple(made)

    foreach.__name__ = name
    foreach.__doc__ = f"`{op}` of every tensor and its operand."
    return foreach


def _pointwise(name: str, method: str) -> Any:
    """addcmul and addcdiv: the value is a number, a list of them or a tensor of them."""
    inplace = method.endswith("_")

    def foreach(self: Any, tensor1: Any, tensor2: Any, value: Any = 1, *, scalars: Any = None,
                ) -> Any:
        value = value if scalars is None else scalars
        if isinstance(value, lampion.Tensor) and value.dim():
            value = value.tolist()
        rows = zip(self, _rows(tensor1, len(self), name), _rows(tensor2, len(self), name),
                   _rows(value, len(self), name))
        made = [getattr(t, method)(a, b, value=v) for t, a, b, v in rows]
        return self if inplace else tuple(made)

    foreach.__name__ = name
    foreach.__doc__ = f"`{method}` of every tensor."
    return foreach


def _foreach_norm(self: Any, ord: Any = 2, dtype: Any = None) -> Any:
    """The norm of every tensor."""
    return tuple([lampion.linalg.vector_norm(t, ord, dtype=dtype) for t in self])


def _foreach_max(self: Any) -> Any:
    """The largest element of every tensor."""
    return tuple([t.max() for t in self])


for _name in _UNARY:
    _full = f"_foreach_{_name}"
    if _name != "zero":
        globals()[_full] = _apply(_full, _name)
    if _name != "clone":
        globals()[_full + "_"] = _apply(_full + "_", _name + "_")
for _name in _BINARY:
    _full = f"_foreach_{_name}"
    for _tail in ("", "_"):
        _op = _OF_TENSORS.get(_name, _name)
        globals()[_full + _tail] = (
            _extreme(_full + _tail, _op, bool(_tail)) if _op in ("maximum", "minimum")
            else _apply(_full + _tail, _name + _tail))
del _foreach_copy  # type: ignore[name-defined]  # noqa: F821
for _name in ("addcmul", "addcdiv"):
    for _tail in ("", "_"):
        globals()[f"_foreach_{_name}{_tail}"] = _pointwise(f"_foreach_{_name}{_tail}",
                                                           _name + _tail)
for _tail in ("", "_"):
    globals()[f"_foreach_lerp{_tail}"] = _apply(f"_foreach_lerp{_tail}", "lerp" + _tail)

NAMES = tuple(sorted(n for n in globals() if n.startswith("_foreach_")))
