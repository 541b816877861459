"""From kernel IR to launchable programs: picks the schedule, prints, builds, sizes.

Imports lampion.ir and this package's runtime.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.ir import cfamily_lanes, cfamily_threads
from lampion.ir.kernel import Kernel
from lampion.ir.math import expand_kernel

from .dialect import OpenCLC

if TYPE_CHECKING:
    from .runtime import Compiled, Device


class Bound(NamedTuple):
    """A program with everything that does not depend on the call: sizes and integer arguments
    (kernel parameters, then the schedule's). `items` is () when there is nothing to do; without a
    `group` the driver chooses."""

    compiled: "Compiled | None"
    items: tuple[int, ...]
    group: tuple[int, ...] | None
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
        threads = cfamily_threads.choose(kernel, params, min(256, device.max_group),
                                         device.dialect)
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
    kernel = expand_kernel(kernel, dialect.expands)
    if isinstance(variant, cfamily_lanes.Variant):
        return cfamily_lanes.render(kernel, dialect, variant, name)
    return cfamily_threads.render(kernel, dialect, variant, name)
