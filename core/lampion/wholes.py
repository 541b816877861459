"""Composites that layers or transforms see as one op, before any of the ops they are made of runs.

Floor 5; imports callpath. Autocast decides about `cross_entropy` as a whole, for example, and vmap
runs `bincount` on one example at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .callpath import NS

NAMED = frozenset({"batch_norm"})  # what formats of models have as one operator

# What sees composites: `handler(body, args, kwargs) -> result or NotImplemented`. Whoever adds one
# raises NS["modes"], so that calls look here.
handlers: list[Callable[..., Any]] = []


def whole(body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a composite under the layers that see it as one op."""
    for handler in reversed(handlers):
        result = handler(body, args, kwargs)
        if result is not NotImplemented:
            return result
    return body(*args, **kwargs)


def seen_whole(body: Callable[..., Any]) -> Callable[..., Any]:
    """A composite that layers see as one op; without layers it costs one test more."""
    import inspect  # milliseconds of every start, for what regions need

    params = list(inspect.signature(body, follow_wrapped=False).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in params):
        @functools.wraps(body)
        def general(*args: Any, **kwargs: Any) -> Any:
            return whole(body, args, kwargs) if NS["modes"] else body(*args, **kwargs)

        return general
    head, star = [], False
    for p in params:
        if p.kind is p.KEYWORD_ONLY and not star:
            head.append("*")
            star = True
        head.append(p.name if p.default is p.empty else f"{p.name}=default_{p.name}")
    free = ", ".join(p.name for p in params if p.kind is not p.KEYWORD_ONLY)
    named = ", ".join(f"{p.name}={p.name}" for p in params if p.kind is p.KEYWORD_ONLY)
    local = {"body": body, "whole": whole,
             **{f"default_{p.name}": p.default for p in params if p.default is not p.empty}}
    lines = [f"def make({', '.join(local)}):", f"    def {body.__name__}({', '.join(head)}):",
             "        if modes:", f"            return whole(body, ({free},), dict({named}))",
             f"        return body({', '.join(filter(None, (free, named)))})",
             f"    return {body.__name__}"]
    scope: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<lampion op {body.__name__}>", "exec"), NS, scope)
    return functools.update_wrapper(scope["make"](**local), body)


def one_by_one(body: Callable[..., Any]) -> Callable[..., Any]:
    """A function that reads values on the host: vmap runs it on one example at a time."""
    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        if NS["levels"]:
            from .transforms.examples import each_example

            result = each_example(run, args, kwargs)
            if result is not NotImplemented:
                return result
        return body(*args, **kwargs)

    return run
