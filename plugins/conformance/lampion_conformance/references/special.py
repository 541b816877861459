"""References of special functions that are composites, from SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special as sp


def _polynomial(f: Any, shifted: bool = False) -> Any:
    return lambda x, n: f(n, 2 * x - 1 if shifted else x)


def _third(n: Any, x: Any) -> Any:
    t = np.arccos(x)
    return np.cos((n + 0.5) * t) / np.cos(t / 2)


def _fourth(n: Any, x: Any) -> Any:
    t = np.arccos(x)
    return np.sin((n + 0.5) * t) / np.sin(t / 2)


KINDS = {"t": sp.eval_chebyt, "u": sp.eval_chebyu, "v": _third, "w": _fourth}

REFERENCE = {
    **{f"chebyshev_polynomial_{k}": _polynomial(f) for k, f in KINDS.items()},
    **{f"shifted_chebyshev_polynomial_{k}": _polynomial(f, True) for k, f in KINDS.items()},
    "hermite_polynomial_h": _polynomial(sp.eval_hermite),
    "hermite_polynomial_he": _polynomial(sp.eval_hermitenorm),
    "laguerre_polynomial_l": _polynomial(sp.eval_laguerre),
    "legendre_polynomial_p": _polynomial(sp.eval_legendre),
    "polygamma": sp.polygamma, "polygamma_method": lambda x, n: sp.polygamma(n, x),
    "mvlgamma": sp.multigammaln, "gammainc": sp.gammainc, "gammaincc": sp.gammaincc,
}
