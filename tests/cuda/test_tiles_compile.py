"""Attention and convolutions compile with NVRTC for three architectures and do not spill."""

from __future__ import annotations

import pytest

pytest.importorskip("lampion_cuda", reason="needs lampion-cuda")
pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and NVRTC")
import gate  # noqa: E402

from lampion.base import dtype as dt  # noqa: E402
from lampion_cuda import attention_kernels as attention  # noqa: E402
from lampion_cuda import conv_kernels as conv  # noqa: E402

SHARED = 227 << 10  # bytes that a block may have on compute capability 9.0


def check(texts):
    usages = gate.gate(texts)
    assert not gate.failures(usages)
    assert len(usages) == len(texts) * len(gate.ARCHITECTURES)


@pytest.mark.parametrize("width", [64, 128])
def test_attention(width):
    form = attention.Form(dt.bfloat16, width, "", 2)
    check({attention.forward_text(form)[0]: "attention",
           attention.queries_text(form)[0]: "attention_queries",
           attention.keys_text(form._replace(shared=1))[0]: "attention_keys",
           attention.sums_text(form)[0]: "row_sums"})


@pytest.mark.parametrize("dtype", [dt.bfloat16, dt.float32], ids=["bfloat16", "float32"])
def test_convolutions(dtype):
    form = conv.Form(dtype, 128)
    check({conv.gather_text(form)[0]: "conv_gather", conv.weights_text(form)[0]: "conv_weights",
           conv.sum_text(form)[0]: "conv_weights_sum", conv.pack_text(form)[0]: "conv_pack"})


@pytest.mark.parametrize("mask", ["", "bool", "half"])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 192, 256])
def test_shared_memory_suffices(width, mask):
    for shape, owned in ((attention.forward_shape, 1), (attention.queries_shape, 2),
                         (attention.keys_shape, 2)):
        assert shape(width, mask).shared_memory(width, owned, 2) <= SHARED
