"""Questions about tensors and dtypes, answered on the host: composites that compute nothing.

Floor 3.
"""

from __future__ import annotations

from ..base import dtype as dt
from .registry import composite

FACT = {"out": False}


@composite(**FACT, differentiable=False, samples="""
    f(2)
    2.0
""")
def is_tensor(obj):
    """Whether an object is a tensor."""
    return hasattr(obj, "data_") and hasattr(obj, "meta")


@composite(**FACT, differentiable=False, samples="""
    f(2)
    i(2)
    c(2)
    f(2, dtype=float16)
""")
def is_floating_point(input):
    """Whether the dtype is a floating type."""
    return input.is_floating_point()


@composite(**FACT, differentiable=False, samples="""
    c(2)
    f(2)
""")
def is_complex(input):
    """Whether the dtype is complex."""
    return input.is_complex()


@composite(**FACT, differentiable=False, samples="""
    f(2, 3)
    f()
    f(0, 3)
""")
def numel(input):
    """The number of elements."""
    return input.meta.numel


@composite(method=True, **FACT, differentiable=False, samples="""
    v([2.0])
    v(0)
    v([[nan]])
""")
def is_nonzero(input):
    """Whether the one element is not 0. RuntimeError unless there is exactly one."""
    if input.meta.numel != 1:
        word = "no values" if input.meta.numel == 0 else "more than one value"
        raise RuntimeError(f"Boolean value of Tensor with {word} is ambiguous")
    return bool(input.item())


@composite(method=True, **FACT, differentiable=False, samples="""
    f(2, 3), i(2, 3)
    f(2, 3), f(3, 2)
""")
def is_same_size(input, other):
    """Whether two tensors have the same shape."""
    return input.meta.shape == other.meta.shape


@composite(**FACT, differentiable=False, samples="""
    float32, int32
    int32, float32
""")
def can_cast(from_, to):
    """Whether values of one dtype may be written into a tensor of another."""
    return dt.can_cast(from_, to)


@composite(**FACT, differentiable=False, samples="""
    f(2), 1
    i(2), 1.0
    i(2), f()
""")
def result_type(tensor1, tensor2):
    """The dtype of arithmetic on two tensors or numbers.

    >>> lampion.result_type(lampion.tensor([1, 2]), 1.0)
    lampion.float32
    """
    dims, zeros, numbers = [], [], []
    for v in (tensor1, tensor2):
        m = getattr(v, "meta", None)
        if m is None:
            numbers.append(v)
        else:
            (dims if m.ndim else zeros).append(m.dtype)
    return dt.result_dtype(dims, zeros, numbers)


def examples(t):
    """The values of `t`, under vmap those of all examples, as an ordinary tensor without history:
    what a check by the host may look at."""
    while t.meta.virtual:
        t = t.data_.value
    return t.detach()
