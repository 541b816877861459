"""Arguments that may be given in two ways: starred ones by name, and `dim` as NumPy's `axis`.

Floor 5; imports the registry. Most of it is source for the generated functions (see `callpath`).
There a call with PyTorch's names pays for one comparison; where a composite has a wrapper of its
own, NumPy's names are looked at once Python has refused the call, which costs other calls nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .ops import registry as R

# As PyTorch takes them.
NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}
_MISSING = "_missing"


def starred(op: R.Op) -> list[str]:
    """The starred arguments behind a tensor: `dims` of permute may also be given by name."""
    return [p.name for p in op.params[1:] if p.kind == "*"]


def starred_as(p: R.Param) -> str:
    """What the generated code calls the positional form of such an argument."""
    return f"{p.name}_star"


def numpy_named(op: R.Op) -> dict[str, R.Param]:
    """NumPy's names that the public functions of an op take, and the arguments they mean."""
    if not (op.method or op.where):
        return {}
    own = {p.name: p for p in op.params}
    return {numpy: own[name] for numpy, name in NUMPY_NAMES.items()
            if name in own and numpy not in own}


def parameters(op: R.Op) -> list[tuple[str, str]]:
    """(text, kind) of an op's parameters in its `def`: "" positional, "*" starred, "k" named.

    A required `dim` has a default if it may come as `axis`, and so have those behind it; what is
    then missing is found by `lines`.
    """
    numpy = numpy_named(op)
    optional = {p.name for p in numpy.values()}
    found, seen = [], False
    for p in op.params:
        kind = "k" if p.kwonly else ""
        seen = seen or p.name in optional
        if p.kind == "*":
            spelled = p.name in starred(op)
            found.append((f"*{starred_as(p)}" if spelled else f"*{p.name}", "*"))
            found += [(f"{p.name}=None", "k")] * spelled
        elif p.default is not R.REQUIRED:
            found.append((f"{p.name}=_default_{p.name}", kind))
        else:
            found.append((f"{p.name}={_MISSING}" if seen else p.name, kind))
    tail = [(f"{name}=None", "") for name in numpy]
    at = next((k for k, (_, kind) in enumerate(found) if kind), len(found))
    if at < len(found) and found[at][1] == "*":  # what follows a star is keyword-only
        return found + [(text, "k") for text, _ in tail]
    return found[:at] + tail + found[at:]


def defaults(op: R.Op) -> dict[str, Any]:
    """What the text of `parameters` refers to."""
    found = {f"_default_{p.name}": p.default for p in op.params if p.default is not R.REQUIRED}
    return {**found, _MISSING: R.REQUIRED} if numpy_named(op) else found


def lines(op: R.Op) -> list[str]:
    """Lines that settle the arguments of a call that were given in another way."""
    found, behind = [], False
    numpy = {p.name: name for name, p in numpy_named(op).items()}
    for p in op.params:
        n, axis = p.name, numpy.get(p.name)
        default = _MISSING if p.default is R.REQUIRED else f"_default_{n}"
        if p.kind == "*":
            default = "None"
        asked = [f"{axis} is not None"] if axis else []
        behind = behind or bool(axis)
        if behind and default == _MISSING:
            asked.append(f"{n} is {_MISSING}")
        if asked:
            found += [f"    if {' or '.join(asked)}:",
                      f"        {n} = in_numpy(op, {n!r}, {n}, {default}, {axis})"]
        if n in starred(op):
            star = starred_as(p)
            found.append(f"    {n} = {star} if {n} is None else by_name(op, {star}, {n})")
    return found


def by_name(op: R.Op, star: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """The value of a starred argument that was given by name. TypeError if it was given twice."""
    if star:
        raise TypeError(f"{op.qualname}() got multiple values for argument '{starred(op)[0]}'")
    return (value,)


def in_numpy(op: R.Op, name: str, value: Any, default: Any, numpy: Any) -> Any:
    """The value of an argument that was given under NumPy's name, or not at all.

    TypeError if it was given twice, or is missing.
    """
    if numpy is None:
        raise TypeError(f"{op.qualname}() missing 1 required positional argument: '{name}'")
    if value is not default:
        raise TypeError(f"{op.qualname}() got multiple values for argument '{name}'")
    return numpy


def translated(op: R.Op, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Keyword arguments under PyTorch's names, or None if all of them had those."""
    found = numpy_named(op).keys() & kwargs.keys()
    if not found:
        return None
    renamed = {n: v for n, v in kwargs.items() if n not in found}
    for n in found:
        name = NUMPY_NAMES[n]
        if name in kwargs or name in [p.name for p in op.positional[:len(args)]]:
            raise TypeError(f"{op.qualname}() got multiple values for argument '{name}'")
        renamed[name] = kwargs[n]
    return renamed


def forwarding(op: R.Op, body: Any) -> Any:
    """A composite that has no wrapper of its own, called with either names."""
    numpy = numpy_named(op)
    if not numpy or any(p.kind in ("*", "**") for p in op.params):
        return body
    inner = ", ".join(f"{p.name}={p.name}" if p.kwonly else p.name for p in op.params)
    source = [f"def {body.__name__}({signature(op)}):", *lines(op), f"    return body({inner})"]
    scope = {"body": body, "op": op, "in_numpy": in_numpy, **defaults(op)}
    exec(compile("\n".join(source), f"<lampion op {op.qualname}>", "exec"), scope)
    made = scope[body.__name__]
    for attribute in ("__module__", "__qualname__", "__doc__", "__annotations__", "__dict__"):
        setattr(made, attribute, getattr(body, attribute))
    made.__wrapped__ = body
    return made


def signature(op: R.Op, extra: Sequence[str] = ()) -> str:
    """The parameter list of an op's `def`; `extra` ones are keyword-only."""
    parts, open_ = [], True
    for text, kind in [*parameters(op), *[(e, "k") for e in extra]]:
        if kind == "k" and open_:
            parts.append("*")
        open_ = open_ and not kind
        parts.append(text)
    return ", ".join(parts)
