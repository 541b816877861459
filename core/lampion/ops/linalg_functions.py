"""Functions of matrices: the exponential, Vandermonde matrices, diagonals.

Floor 3.
"""

from __future__ import annotations

import math

from ..base import dtype as dt
from .facts import examples
from .linalg_checks import SQUARES, eye, inexact, op, square
from .registry import composite

DEGREE, STEP = 20, 4
# 1-norms up to which the Taylor polynomial of degree 20 has a backward error below the unit
# roundoff: Al-Mohy and Higham, "Computing the action of the matrix exponential" (2011), table 3.1.
BOUNDS = {"float32": 3.6, "complex64": 3.6, "float64": 1.4, "complex128": 1.4}


def taylor(x):
    """sum of x^k / k! up to DEGREE in 7 products: Paterson and Stockmeyer (1973)."""
    powers = [eye(x.meta, x.meta.shape[-1]), x]
    while len(powers) <= STEP:
        powers.append(powers[-1] @ x)
    high = powers[STEP]

    def block(first, last):
        terms = [powers[k] * (1 / math.factorial(first + k)) for k in range(last - first + 1)]
        return sum(terms[1:], terms[0])

    y = block(DEGREE - STEP, DEGREE)
    for first in range(DEGREE - 2 * STEP, -1, -STEP):
        y = y @ high + block(first, first + STEP - 1)
    return y


@composite(method=True, where=("", "linalg"), out=False, samples=SQUARES)
def matrix_exp(input):
    """The exponential of square matrices, by scaling and squaring of a Taylor polynomial; every
    matrix of a batch is scaled by its own power of 2.

    >>> lampion.linalg.matrix_exp(lampion.tensor([[0., 1.], [0., 0.]])).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    name, m = "linalg.matrix_exp", input.meta
    inexact(name, m, low=True)
    n = square(name, m)
    if n <= 1 or not m.numel:
        return input.exp()
    if m.dtype.itemsize < 4:
        return matrix_exp.fn(input.to(dt.float32)).to(m.dtype)
    size = op("norm_dims")(input.detach(), (m.ndim - 2,), False, "one", 1.0).amax(-1)
    halvings = (size / BOUNDS[m.dtype.name]).log2().ceil().clamp(min=0)
    halvings = op("where")(size.isfinite(), halvings, 0.0)
    most, least = (int(t.item()) for t in (examples(halvings).max(), examples(halvings).min()))
    if most == 0:
        return taylor(input)
    halvings = halvings.unsqueeze(-1).unsqueeze(-1)
    y = taylor(input * (-halvings).exp2())
    for k in range(most):
        y = y @ y if k < least else op("where")(halvings > k, y @ y, y)
    return y


@composite(replay=True, where=("linalg",), out=False, name="linalg_vander",
           samples="f(3) \n f(2, 3), N=4 \n i(3) \n c(3), N=2")
def linalg_vander(x, *, N=None):
    """Matrices with rows 1, x, x^2, ... x^(N-1) for the entries of vectors; N is their length
    unless given."""
    m = x.meta
    if m.dtype.kind == "b":
        raise RuntimeError("linalg.vander supports floating point, complex, and integer tensors, "
                           f"but got {m.dtype!r}")
    if N is None and not m.ndim:
        raise RuntimeError("linalg.vander: a number has no length; give N")
    n = m.shape[-1] if N is None else N
    if not m.ndim:
        x = x.unsqueeze(0)
        m = x.meta
    if n <= 1:
        raise RuntimeError("N must be greater than 1.")
    powers = x.unsqueeze(-1)
    if n > 2 or m.dtype.kind not in "fc":
        powers = powers.expand((*m.shape, n - 1)).cumprod(-1)
    one = op("full")((*m.shape, 1), 1, dtype=powers.meta.dtype, device=m.device)
    return op("cat")([one, powers], -1)


@composite(where=("linalg",), out=False, name="linalg_diagonal", samples=SQUARES)
def linalg_diagonal(A, *, offset=0, dim1=-2, dim2=-1):
    """A view of diagonals, by default of the matrices in the last two dims."""
    return op("diagonal")(A, offset, dim1, dim2)
