"""The errors of the special functions against mpmath, within the bounds of docs/accuracy.md."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import lampion
from lampion._accuracy import cases, measure
from lampion.base import dtype as dt

pytest.importorskip("mpmath")
CASES = list(cases())
special = lampion.special


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}-{c.low:g}")
def test_error(case):
    for k, d in enumerate((dt.float32, dt.float64)):
        assert measure(case, d, 60) <= case.limit[k], d


def test_the_document_names_every_case():
    text = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text()
    for case in CASES:
        assert f"| {case.name} | {case.low:g} | {case.high:g} |" in text


@pytest.mark.parametrize("dtype", (lampion.float32, lampion.float64))
@pytest.mark.parametrize("name, at, want", (
    ("digamma", 0.0, -math.inf), ("digamma", -0.0, math.inf), ("digamma", -3.0, math.nan),
    ("digamma", math.inf, math.inf), ("digamma", -math.inf, math.nan),
    ("erfcx", math.inf, 0.0), ("erfcx", -math.inf, math.inf), ("erfcx", 0.0, 1.0),
    ("ndtr", math.inf, 1.0), ("ndtr", -math.inf, 0.0), ("ndtr", 0.0, 0.5),
    ("log_ndtr", math.inf, 0.0), ("log_ndtr", -math.inf, -math.inf),
    ("ndtri", 0.0, -math.inf), ("ndtri", 1.0, math.inf), ("ndtri", 1.5, math.nan),
    ("ndtri", -0.1, math.nan), ("ndtri", 0.5, 0.0), ("erfinv", 1.0, math.inf),
    ("erfinv", -1.0, -math.inf), ("erfinv", 1.1, math.nan), ("i0", 0.0, 1.0),
    ("i0", -math.inf, math.inf), ("i1", -math.inf, -math.inf), ("i0e", math.inf, 0.0),
    ("modified_bessel_k0", 0.0, math.inf), ("modified_bessel_k0", -1.0, math.nan),
    ("modified_bessel_k0", math.inf, 0.0), ("modified_bessel_k1", math.inf, 0.0),
    ("scaled_modified_bessel_k0", math.inf, 0.0), ("scaled_modified_bessel_k1", 0.0, math.inf),
    ("bessel_j0", 0.0, 1.0), ("bessel_j1", 0.0, 0.0), ("bessel_y0", 0.0, -math.inf),
    ("bessel_y1", -1.0, math.nan), ("logit", 0.5, 0.0), ("logit", 1.0, math.inf),
    ("logit", 0.0, -math.inf), ("logit", 2.0, math.nan), ("sinc", 0.0, 1.0),
    ("sinc", 3.0, 0.0), ("sinc", -2.0, 0.0), ("entr", 0.0, 0.0), ("entr", -1.0, -math.inf)))
def test_edges(name, at, want, dtype):
    got = getattr(special, name)(lampion.tensor(at, dtype=dtype)).item()
    np.testing.assert_allclose(got, want, rtol=np.finfo(dtype.np).eps, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_nan_stays(case):
    x = lampion.tensor(math.nan)
    f = getattr(special, case.name)
    got = f(x, 2) if case.name == "multigammaln" else f(*case.first, x)
    assert math.isnan(got.item())
