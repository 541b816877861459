"""cuDNN on a GPU: each plan's first result beside the generated kernel's, and both against NumPy in
float64. Runs with LAMPION_CUDA_REAL=1 where cuDNN is installed; `test_cudnn.py` has the rest."""

from __future__ import annotations

import pytest
import test_cuda_attention as on_attention
import test_cuda_conv as on_conv
from real import REAL

import lampion
from lampion import config
from lampion.ops import attention, conv

pytestmark = pytest.mark.skipif(
    not REAL or not lampion.backends.cudnn.is_available(),
    reason="needs a GPU (LAMPION_CUDA_REAL=1) and cuDNN (lampion-cuda[cudnn])")


@pytest.fixture(autouse=True)
def checked(gpu):
    lampion.ones(1, device=gpu)  # the options of the backend are there
    for op in (*on_conv.OPS, attention.fused_attention, attention.fused_attention_backward):
        op.plans.clear()
    with config.override({"backend.cuda.dnn": "cudnn", "backend.cuda.check_plans": True}):
        yield


@pytest.mark.parametrize("case", on_conv.CASES)
def test_convolutions(gpu, case):
    args, options = on_conv.CASES[case]
    on_conv.run(gpu, *args, **options)
    assert any("cuda.cudnn" in p.chosen for p in conv.conv_backward_data.plans.values())


@pytest.mark.parametrize("case", [n for n, (a, o) in on_attention.CASES.items()
                                  if a[0] is not on_attention.F32 and "mask" not in o])
def test_attention(gpu, case):
    args, options = on_attention.CASES[case]
    on_attention.run(gpu, *args, **options)
    assert attention.fused_attention.plans


def test_results_are_the_same_every_time(gpu):
    args = on_conv.CASES["3 x 3, channels last"]
    outs = []
    for _ in range(2):
        on_conv.rng = on_conv.np.random.default_rng(3)
        outs.append(on_conv.run(gpu, *args[0], **args[1]))
    for a, b in zip(*outs):
        assert lampion.equal(a, b)
