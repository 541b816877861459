"""`lampion.quasirandom`: points that fill a cube evenly.

Floor 7; imports the tensor, and SciPy (which has the direction numbers) on first use.
"""

from __future__ import annotations

from typing import Any

import lampion

__all__ = ["SobolEngine"]


class SobolEngine:
    """The Sobol sequence in `dimension` dims, with the direction numbers of Joe and Kuo (2008).

    `scramble` randomizes it (Owen, 1998) by `seed`, or by the default generator. ValueError unless
    1 <= dimension <= 21201.

    >>> SobolEngine(2).draw(3)
    tensor([[0.0000, 0.0000],
            [0.5000, 0.5000],
            [0.7500, 0.2500]])
    """

    MAXBIT = 30
    MAXDIM = 21201

    def __init__(self, dimension: int, scramble: bool = False, seed: int | None = None) -> None:
        if not 1 <= dimension <= self.MAXDIM:
            raise ValueError("Supported range of dimensionality for SobolEngine is "
                             f"[1, {self.MAXDIM}]")
        self.dimension, self.scramble, self.seed = dimension, scramble, seed
        if scramble and seed is None:
            self._start = int(lampion.randint(2**31 - 1, ()).item())
        else:
            self._start = seed or 0
        self.reset()

    def reset(self) -> SobolEngine:
        """Begin anew."""
        from scipy.stats import qmc

        self._engine = qmc.Sobol(self.dimension, scramble=self.scramble, bits=self.MAXBIT,
                                 rng=self._start)
        self.num_generated = 0
        return self

    def fast_forward(self, n: int) -> SobolEngine:
        """Leave out `n` points."""
        self._engine.fast_forward(n)
        self.num_generated += n
        return self

    def draw(self, n: int = 1, out: Any = None, dtype: Any = None) -> Any:
        """The next `n` points, (n, dimension), in [0, 1)."""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about numbers of points that are no power of two
            points = self._engine.random(n)
        self.num_generated += n
        made = lampion.from_numpy(points).to(dtype or lampion.get_default_dtype())
        return made if out is None else out.resize_(made.shape).copy_(made)

    def draw_base2(self, m: int, out: Any = None, dtype: Any = None) -> Any:
        """The next `2**m` points. ValueError if the number of points would be no power of two."""
        total = self.num_generated + 2**m
        if total & (total - 1):
            raise ValueError("The balance properties of Sobol' points require n to be a power of "
                             f"2. {self.num_generated} points have been previously generated, "
                             f"then: n={self.num_generated}+2**{m}={total}.")
        return self.draw(2**m, out, dtype)

    def __repr__(self) -> str:
        parts = [f"dimension={self.dimension}"]
        if self.scramble:
            parts.append("scramble=True")
        if self.seed is not None:
            parts.append(f"seed={self.seed}")
        return f"SobolEngine({', '.join(parts)})"
