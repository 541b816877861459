"""Matrices to try the linear algebra ops on: well-conditioned, with batches and empty ones.

Floor 3; imports samples.
"""

from __future__ import annotations

import numpy as np

from .samples import Sample, T

SQUARE = ((3, 3), (2, 4, 4), (1, 1), (0, 0), (0, 3, 3))
RECTANGULAR = ((4, 3), (3, 5), (2, 4, 2), (3, 0), (0, 3, 2))


def of(values):
    """A description of a tensor with these values."""
    return T(values.shape, values=values)


def squares(rng, shapes=SQUARE, **kwargs):
    """Matrices well away from singular ones: random, with twice the size on the diagonal."""
    return [Sample(of(rng.standard_normal(s) + 2 * s[-1] * np.eye(s[-1])), **kwargs)
            for s in shapes]


def hermitians(rng, **kwargs):
    """Symmetric matrices with eigenvalues near 1, 2, 3..."""
    made = []
    for s in SQUARE:
        x = rng.standard_normal(s) * 0.1
        made.append(x + np.swapaxes(x, -2, -1) + np.diag(np.arange(1.0, s[-1] + 1)))
    return [Sample(of(x), **kwargs) for x in made]


def positives(rng, **kwargs):
    """Symmetric positive-definite matrices."""
    return hermitians(rng, **kwargs)


def rectangles(rng, **kwargs):
    """Random matrices of full rank, wide and tall."""
    return [Sample(of(rng.standard_normal(s) + 2 * np.eye(*s[-2:])), **kwargs)
            for s in (*SQUARE, *RECTANGULAR)]


def systems(rng, left=squares, columns=2, **kwargs):
    """(matrix, right-hand sides) pairs."""
    return [Sample(*s.args, of(rng.standard_normal((*s.args[0].shape[:-1], columns))), **kwargs)
            for s in left(rng)]
