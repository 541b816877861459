"""lampion.masked where the mask leaves nothing, and what it refuses; its values and gradients are
tested from the samples in its blocks."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensors

import lampion

masked = lampion.masked
X = np.random.default_rng(5).standard_normal((3, 4)).astype(np.float32)


def test_where_nothing_takes_part(device):
    x, none = tensors([X, np.zeros((1, 4), bool)], device)
    neutral = {"sum": 0.0, "prod": 1.0, "amax": -np.inf, "amin": np.inf, "mean": np.nan,
               "var": np.nan, "logsumexp": -np.inf}
    for name, value in neutral.items():
        np.testing.assert_equal(getattr(masked, name)(x, 1, mask=none).cpu().numpy(), [value] * 3)
    i = x.to(lampion.int16)
    assert masked.amax(i, mask=none).item() == -(2**15)
    assert masked.amin(i, mask=none).item() == 2**15 - 1
    assert masked.sum(i).dtype is lampion.int64 and masked.cumsum(i, 0).dtype is lampion.int16
    with pytest.raises(ValueError, match="masked out"):
        masked.median(i, 1, mask=none)
    with pytest.raises(ValueError, match="mean"):
        masked.mean(i)
    with pytest.raises(IndexError, match="dimensionality"):
        masked.sum(x, mask=none.unsqueeze(0))
