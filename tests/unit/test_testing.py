"""`lampion.testing`, the limits of dtypes, and the names of results."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import lampion
from lampion.testing import assert_close, make_tensor

pytest.importorskip("lampion_cpu")


def complaint(a, b, **options) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_close(a, b, **options)
    return str(caught.value)


def test_equal_things_pass():
    t = lampion.tensor([1.0, math.inf, -0.0])
    assert_close(t, t.clone())
    assert_close({"a": [t, 3, None, True]}, {"a": (t, 3, None, True)})
    assert_close(np.ones(3), np.ones(3))
    assert_close(lampion.empty(0, 3), lampion.empty(0, 3))
    assert_close(lampion.tensor([1 + 2j]), lampion.tensor([1 + 2j]))
    assert_close(lampion.tensor([2**63 - 1]), lampion.tensor([2**63 - 1]))
    assert_close(lampion.tensor([1.0, 2.0]), lampion.tensor([1.0, 2.0 + 1e-6]))


def test_differences_are_counted_and_placed():
    text = complaint(lampion.tensor([[1.0, 2.0], [3.0, 4.0]]),
                     lampion.tensor([[1.0, 2.0], [3.5, 4.0]]))
    assert "Mismatched elements: 1 / 4 (25.0%)" in text
    assert "Greatest absolute difference: 0.5 at index (1, 0) (up to 1e-05 allowed)" in text
    text = complaint(lampion.tensor([2**63 - 1]), lampion.tensor([2**63 - 3]))
    assert "not equal" in text and "difference: 2 at index (0,)" in text
    assert "Expected 2.0 but got 1.0" in complaint(lampion.tensor(1.0), lampion.tensor(2.0))


@pytest.mark.parametrize(("a", "b", "words"), [
    (lampion.ones(2), lampion.ones(3), "attribute 'shape'"),
    (lampion.ones(2), lampion.ones(2).double(), "attribute 'dtype'"),
    ([1, 2], [1], "length of the sequences"),
    ({"a": 1}, {"b": 1}, "keys of the mappings"),
    ({"a": [1, 2]}, {"a": [1, 3]}, "item ['a'][1]"),
    (1, 1.0, "types do not match"),
    (True, 1, "Booleans"),
    (lampion.tensor([math.inf]), lampion.tensor([1.0]), "Mismatched"),
    (lampion.tensor([math.nan]), lampion.tensor([math.nan]), "Mismatched"),
])
def test_what_differs_is_said(a, b, words):
    assert words in complaint(a, b)


def test_options():
    nan = lampion.tensor([math.nan])
    assert_close(nan, nan, equal_nan=True)
    assert_close(lampion.ones(2), lampion.ones(2).double(), check_dtype=False)
    assert_close(1.0, 1.2, rtol=0.2, atol=0)
    assert "stride" in complaint(lampion.ones(2, 3), lampion.ones(3, 2).T, check_stride=True)
    assert complaint(1, 2, msg="mine") == "mine"
    assert complaint(1, 2, msg=lambda text: "got: " + text).startswith("got: Scalars")
    with pytest.raises(ValueError, match="both"):
        assert_close(1, 1, rtol=0.1)
    with pytest.raises(TypeError, match="No comparison pair"):
        assert_close(lampion.ones(2), [1.0, 1.0])


def test_made_tensors_stay_in_their_range():
    for d in (lampion.float32, lampion.float16, lampion.bfloat16, lampion.int8, lampion.uint8,
              lampion.int64):
        t = make_tensor(200, dtype=d, low=1, high=3)
        assert t.dtype is d and t.min() >= 1 and t.max() < 3
    assert not make_tensor((3, 4), dtype=lampion.float32, noncontiguous=True).is_contiguous()
    assert (make_tensor(400, dtype=lampion.int32, low=0, high=2, exclude_zero=True) == 1).all()
    assert make_tensor((), dtype=lampion.complex64, requires_grad=True).requires_grad
    assert set(make_tensor(200, dtype=lampion.bool).tolist()) == {True, False}
    for wrong in ({"low": 3, "high": 1}, {"low": math.nan}):
        with pytest.raises(ValueError):
            make_tensor(2, dtype=lampion.float32, **wrong)
    with pytest.raises(ValueError, match="requires_grad"):
        make_tensor(2, dtype=lampion.int8, requires_grad=True)


def test_limits():
    f = lampion.finfo(lampion.bfloat16)
    assert (f.bits, f.eps, f.resolution, f.dtype) == (16, 2.0**-7, 0.01, "bfloat16")
    assert lampion.finfo(lampion.complex128).max == np.finfo(np.float64).max
    assert lampion.finfo() == lampion.finfo(lampion.float32)
    i = lampion.iinfo(lampion.uint64)
    assert (i.min, i.max, i.bits) == (0, 2**64 - 1, 64)
    assert repr(lampion.iinfo(lampion.int8)) == "iinfo(min=-128, max=127, dtype=int8)"
    with pytest.raises(TypeError, match="floating"):
        lampion.finfo(lampion.int32)
    with pytest.raises(TypeError, match="integer"):
        lampion.iinfo(lampion.float32)


def test_results_have_names():
    r = lampion.tensor([3, 1, 2]).max(0)
    assert repr(r) == "lampion.return_types.max(\nvalues=tensor(3),\nindices=tensor(0))"
    assert type(r) is lampion.return_types.max
    again = pickle.loads(pickle.dumps(r))
    assert type(again) is type(r) and again.indices.item() == 0


def test_kinds_and_formats():
    t = lampion.ones(2)
    assert t.type() == "lampion.FloatTensor" and t.long().type() == "lampion.LongTensor"
    assert t.type(lampion.LongTensor).dtype is t.type("torch.LongTensor").dtype is lampion.int64
    assert t.type(lampion.int8).dtype is lampion.int8
    with pytest.raises(TypeError, match="neither a dtype"):
        t.type("torch.NoTensor")
    assert f"{lampion.tensor(2)} {lampion.tensor(2.5):.2f}" == "2 2.50"
    with pytest.raises(TypeError, match=r"^add\(\) missing 1 required"):
        lampion.add(t)
