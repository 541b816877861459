"""From kernel IR to launchable programs: picks the schedule, prints, builds, sizes.

Imports lampion.ir and this package's runtime.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.base.dtype import dtype
from lampion.ir import cfamily_lanes, cfamily_threads
from lampion.ir import expr as E
from lampion.ir.expr import Expr
from lampion.ir.kernel import Kernel, Stage
from lampion.ir.math import expand

from .dialect import OpenCLC

if TYPE_CHECKING:
    from .runtime import Compiled, Device


class Bound(NamedTuple):
    """A program with everything that does not depend on the call: sizes and integer arguments
    (kernel parameters, then the schedule's). `items` is () when there is nothing to do."""

    compiled: "Compiled | None"
    items: tuple[int, ...]
    group: tuple[int, ...]
    integers: tuple[int, ...]


def bind(device: "Device", kernel: Kernel, params: Sequence[int]) -> Bound:
    """Compile `kernel` in the variant that suits `params`."""
    params = tuple(params)
    if device.lanes:
        lanes = cfamily_lanes.choose(kernel, params)
        items, extra = cfamily_lanes.geometry(kernel, lanes, params, device.units)
        variant: Any = lanes
        group = (1, 1)
    else:
        threads = cfamily_threads.choose(kernel, params, min(256, device.max_group))
        items, extra = cfamily_threads.geometry(kernel, threads, params)
        variant = threads
        group = (threads.group, 1)
    if 0 in items or 0 in cfamily_lanes.sizes(kernel, params)[0]:
        return Bound(None, (), (), ())
    compiled = _compile(device, kernel, variant)
    return Bound(compiled, items, group, params + tuple(extra))


def _compile(device: "Device", kernel: Kernel, variant: Any) -> "Compiled":
    table = device.variants
    key = (kernel.key, variant)
    found = table.get(key)
    if found is None:
        name = entry_name(kernel)
        source = render(device.dialect, kernel, variant, name)
        found = table[key] = device.build(source, name)
    return found


def entry_name(kernel: Kernel) -> str:
    """A C identifier that tells what the kernel is."""
    return "k_" + re.sub(r"\W", "_", kernel.name)[:40]


def render(dialect: OpenCLC, kernel: Kernel, variant: Any, name: str) -> str:
    """The OpenCL C text of a kernel."""
    kernel = expand_kernel(kernel, dialect)
    if isinstance(variant, cfamily_lanes.Variant):
        return cfamily_lanes.render(kernel, dialect, variant, name)
    return cfamily_threads.render(kernel, dialect, variant, name)


def expand_kernel(kernel: Kernel, dialect: OpenCLC) -> Kernel:
    """Replace the functions that the dialect does not call by arithmetic."""
    memo: dict[Expr, Expr] = {}

    def of(e: Expr) -> Expr:
        found = memo.get(e)
        if found is None:
            found = memo[e] = E.rewrite([e], lambda old, args: _expand(old, args, dialect))[0]
        return found

    stages = []
    for stage in kernel.stages:
        body = []
        for s in stage.body:
            parts = {f: getattr(s, f, None) for f in ("value", "index", "mask", "position")}
            changed: dict[str, Any] = {f: of(e) for f, e in parts.items() if isinstance(e, Expr)}
            body.append(replace(s, **changed))
        stages.append(Stage(stage.ranges, tuple(body)))
    return Kernel(kernel.name, kernel.args, kernel.grid, tuple(stages), kernel.nparams)


def _expand(e: Expr, args: tuple[Expr, ...], dialect: OpenCLC) -> Expr:
    d = e.dtype
    if not (isinstance(d, dtype) and d.kind == "f" and e.op in E.INTRINSICS
            and dialect.expands(e.op, d)):
        return E.node(e.op, args, e.value, d)
    names = {E.var(f"{k}", a.dtype): a for k, a in enumerate(args)}
    alone = E.node(e.op, tuple(names), e.value, d)
    done = expand(alone)
    return E.substitute([done], names)[0]
