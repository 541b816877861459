"""What the linear algebra families share: checks of their arguments, layouts, small helpers.

Floor 3.
"""

from __future__ import annotations

import numpy as np

from ..base import dtype as dt
from ..base.errors import DtypeError
from ..base.meta import contiguous_strides
from .plans import _word
from .registry import REGISTRY

# Samples of ops of one matrix: square ones, and ones of any shape.
SQUARES = """
    f(3, 3)
    f(2, 4, 4)
    f(1, 1)
    f(0, 0)
    f(0, 3, 3)
    f(3, 3).transposed
    f(2, 2).strided
    c(3, 3)
"""
MATRICES = """
    f(3, 3)
    f(4, 2)
    f(2, 4)
    f(2, 2, 3).transposed
    f(3, 4).strided
    c(3, 2)
"""


def op(name):
    """The function of an op of another family."""
    return REGISTRY[name].fn


def columns(shape):
    """Strides of matrices stored by columns, the layout that LAPACK works in."""
    m, n = shape[-2:]
    *outer, _, _ = contiguous_strides(shape)
    return (*outer, 1, max(m, 1)) if m and n else (*outer, 1, 1)


def matrices(name, m, arg="A"):
    """RuntimeError unless a meta has at least two dims."""
    if m.ndim < 2:
        raise RuntimeError(f"{name}: The input tensor {arg} must have at least 2 dimensions.")


def square(name, m, arg="A"):
    """RuntimeError unless a meta is one of square matrices. Returns their size."""
    matrices(name, m, arg)
    if m.shape[-1] != m.shape[-2]:
        raise RuntimeError(f"{name}: {arg} must be batches of square matrices, but they are "
                           f"{m.shape[-2]} by {m.shape[-1]} matrices")
    return m.shape[-1]


def inexact(name, m, low=False):
    """RuntimeError unless elements are floating point or complex; of 16 bits only if `low`."""
    if m.dtype.kind not in "fc":
        raise RuntimeError(f"{name}: Expected a floating point or complex tensor as input. Got "
                           f"{_word(m.dtype)}")
    if not low and m.dtype.to_real() in (dt.float16, dt.bfloat16):
        raise DtypeError(f"{name}: Low precision dtypes not supported. Got {_word(m.dtype)}")


def same_dtype(name, a, b, first="A", second="B"):
    """RuntimeError unless two metas have one dtype."""
    if a.dtype is not b.dtype:
        raise RuntimeError(f"{name}: Expected {first} and {second} to have the same dtype, but "
                           f"found {first} of type {_word(a.dtype)} and {second} of type "
                           f"{_word(b.dtype)} instead")


def eps(d):
    """The spacing of numbers around 1 in a dtype."""
    return float(np.finfo(d.to_real().np).eps)


def eye(m, n, columns=None):
    """The n x n (or n x columns) identity in a meta's dtype, on its device."""
    return op("identity_matrix")(n, n if columns is None else columns, dtype=m.dtype,
                                 device=m.device)


def real_if(x, m):
    """x, or its real part if the meta `m` is real and x is not."""
    return op("real")(x) if m.dtype.kind != "c" and x.meta.dtype.kind == "c" else x
