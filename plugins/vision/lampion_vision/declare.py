"""lampion's decorators, for ops of the namespace `vision`: functions, no methods, no out=."""

from __future__ import annotations

from functools import partial

from lampion.ops import registry

composite = partial(registry.composite, namespace="vision", out=False)
elementwise = partial(registry.elementwise, namespace="vision", method=False, out=False)
kernel_op = partial(registry.kernel_op, namespace="vision", out=False)
