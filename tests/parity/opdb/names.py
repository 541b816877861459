"""Which function of lampion an op_db entry means.

Most entries are called like PyTorch's function (`linalg.norm`, `nn.functional.pad`, `add`) and are
found by that name. The others are wrapped in a lambda or exist only as methods: they are listed
here, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lampion
from lampion import Tensor

from .outcome import Outcome

# Entries whose op is a method of the first argument.
METHODS = frozenset("""
    __getitem__ __radd__ __rand__ __rdiv__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__ __rsub__
    __rxor__ bfloat16 bool byte cdouble cfloat chalf char contiguous double expand expand_as float
    half int item long new_empty new_empty_strided new_full new_ones new_zeros repeat reshape_as
    short sum_to_size to unfold view view_as
""".split())

# Entries of methods that write into their input, under a name without the underscore.
WRITERS = {"cauchy": "cauchy_", "exponential": "exponential_", "geometric": "geometric_",
           "log_normal": "log_normal_", "uniform": "uniform_"}

ATTRIBUTES = frozenset(("T", "H", "mT", "mH"))


def public(path: str) -> Callable[..., Any]:
    """The public function at a dotted path below `lampion`. AttributeError if there is none."""
    found: Any = lampion
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except ModuleNotFoundError as e:
            raise AttributeError(str(e)) from None
    return found


def _max_pool2d_backward(*args: Any, **kwargs: Any) -> Any:
    x = args[0].detach().requires_grad_()
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    out = public("nn.functional.max_pool2d")(
        x, *args[1:], **{k: v for k, v in kwargs.items() if k in names})
    return lampion.autograd.grad(out, x, lampion.ones_like(out))[0]


# Entries that wrap a call in a lambda, with the same call in lampion. Each takes what the
# entry takes.
CALLS: dict[str, Callable[..., Any]] = {
    "einsum": lambda tensors, equation: public("einsum")(equation, tensors),
    "where": lambda x, condition, other, **kw: public("where")(condition, x, other, **kw),
    "polygamma": lambda x, n, **kw: public("polygamma")(n, x, **kw),
    "special.polygamma": lambda x, n, **kw: public("special.polygamma")(n, x, **kw),
    "slice": lambda x, dim=0, start=None, end=None, step=1: x[
        (*[slice(None)] * (dim % x.dim()), slice(start, end, step))],
    "resize_": lambda x, shape: x.clone().resize_(shape),
    "resize_as_": lambda x, other: x.clone().resize_as_(other),
    "zero_": lambda x: x.clone().zero_(),
    "svd_lowrank": lambda a, b, **kw: public("svd_lowrank")(a @ b.mT, **kw),
    "pca_lowrank": lambda a, b, **kw: public("pca_lowrank")(a @ b.mT, **kw),
    "nn.functional.embedding": lambda weight, index, **kw: public("nn.functional.embedding")(
        index, weight, **kw),
    "nn.functional.embedding_bag": lambda weight, index, **kw: public(
        "nn.functional.embedding_bag")(index, weight, **kw),
    "max_pool2d_with_indices_backward": _max_pool2d_backward,
    "normal.in_place": lambda x, *args, **kw: x.normal_(*args, **kw),
    "normal.number_mean": lambda std, mean, *args, **kw: public("normal")(mean, std, *args, **kw),
    "linalg.pinv.singular": lambda a, b: public("linalg.pinv")(a @ b.mT),
    "linalg.lstsq.grad_oriented": lambda a, b, driver: public("linalg.lstsq")(
        a, b, driver=driver)[:2],
}


def function_of(op: Any) -> Callable[..., Any]:
    """lampion's function of an entry. AttributeError if it is missing."""
    full = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
    call = CALLS.get(full, CALLS.get(op.name))
    if call is not None:
        return call
    if op.name in ATTRIBUTES:
        return lambda x: getattr(x, op.name)
    method = op.name if op.name in METHODS else WRITERS.get(op.name)
    if method is not None:
        return getattr(Tensor, method)
    return public(op.name)


def inplace_of(op: Any) -> Callable[..., Any]:
    """lampion's in-place method of an entry. AttributeError if it is missing."""
    variant = op.inplace_variant
    if op.name in ("polygamma", "special.polygamma"):
        return lambda x, n, **kw: x.polygamma_(n, **kw)
    if getattr(variant, "__name__", "<lambda>") == "<lambda>":  # a function with inplace=True
        fn = public(op.name)
        return lambda x, *args, **kw: fn(x, *args, **kw, inplace=True)
    return getattr(Tensor, getattr(variant, "__name__", op.name + "_"))


def find(lookup: Callable[[Any], Any], op: Any, out: Outcome) -> Callable[..., Any] | None:
    """What a look-up of this module finds; where that is nothing, a failure is noted in `out`."""
    try:
        return lookup(op)
    except AttributeError as e:
        out.total = 1
        out.fail("all", "missing", str(e))
        return None
