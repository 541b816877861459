"""The onnx package's own node tests, each run by `lampion.onnx.load`, on the host's device.

`make onnx` runs them. Those whose results lampion cannot have are listed with the reason; a listed
one that does agree is a failure, so that the list stays true.
"""

import fnmatch
import warnings

import numpy as np
import pytest

import lampion
from lampion.onnx import load, values

onnx = pytest.importorskip("onnx")
from onnx.backend.test.loader import load_model_tests  # noqa: E402

RANDOM = "the numbers were drawn by NumPy's generator"
ROUNDED = "the results were rounded to 16 bits after every addition of a sum"
WIDE = "float32 results that were computed in float64, held to 1e-7 where they should be 0"
OTHER = {  # pattern -> (reason, whether it must fail)
    "test_bernoulli*": (RANDOM, False),
    "test_training_dropout*": (RANDOM, False),
    "test_attention_4d_causal_bf16*": (ROUNDED, True),
    "test_attention_4d_causal_fp16*": (ROUNDED, True),
    "test_attention_4d_padded_kv_bf16*": (ROUNDED, True),
    "test_attention_4d_causal_padded_kv_bf16*": (ROUNDED, True),
    "test_attention_4d_attn_mask_causal_bf16*": (ROUNDED, True),
    "test_attention_3d_causal_bf16*": (ROUNDED, True),
    "test_dft": (WIDE, True), "test_dft_opset19": (WIDE, True),
    "test_dft_axis": (WIDE, True), "test_dft_axis_opset19": (WIDE, True),
    "test_dft_rfft": (WIDE, True), "test_dft_rfft_opset19": (WIDE, True)}
SAME_AFTER_ALL = {"test_training_dropout_zero_ratio", "test_training_dropout_zero_ratio_mask"}


def cases():
    """The tests of all domains but classical machine learning's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    for case in found:
        if any(o.domain == "ai.onnx.ml" for o in case.model.opset_import):
            continue
        marks = []
        for pattern, (reason, must) in OTHER.items():
            if fnmatch.fnmatchcase(case.name, pattern) and case.name not in SAME_AFTER_ALL:
                marks = [pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
                         if must else pytest.mark.skip(reason=reason)]
        yield pytest.param(case, id=case.name, marks=marks)


def value(x):
    """A test's value as lampion.onnx has it."""
    if isinstance(x, (list, tuple)):
        return [value(v) for v in x]
    if isinstance(x, onnx.TensorProto):
        x = values.from_proto(x)
    return x if x is None else values.from_array(x)


def check(got, want, case):
    """Equal in kind, dtype and shape, and close in value."""
    if want is None or isinstance(want, list):
        assert type(got) is type(want)
        for g, w in zip(got or (), want or (), strict=True):
            check(g, w, case)
        return
    assert isinstance(got, type(want)), (type(got), type(want))
    got, want = values.to_array(got), values.to_array(want)
    assert got.shape == want.shape and got.dtype == want.dtype
    if got.dtype.kind == "O":
        assert got.tolist() == want.tolist()
        return
    if got.dtype.kind not in "biufc":
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("case", cases())
def test_node(case):
    model = load(case.model)
    for inputs, outputs in case.data_sets:
        with lampion.no_grad():
            got = model(*map(value, inputs))
        got = got if isinstance(got, tuple) else (got,)
        assert len(got) == len(outputs)
        for g, w in zip(got, outputs):
            check(g, value(w), case)
