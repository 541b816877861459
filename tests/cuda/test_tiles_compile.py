"""Attention and convolutions compile with NVRTC for three architectures and do not spill."""

from __future__ import annotations

import pytest

pytest.importorskip("lampion_cuda", reason="needs lampion-cuda")
pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and NVRTC")
import gate  # noqa: E402

from lampion.base import dtype as dt  # noqa: E402
from lampion_cuda import attention_kernels as attention  # noqa: E402
from lampion_cuda import conv_kernels as conv  # noqa: E402


def check(texts):
    usages = gate.gate(texts)
    assert not gate.failures(usages)
    assert len(usages) == len(texts) * len(gate.ARCHITECTURES)


@pytest.mark.parametrize("form", [
    attention.Form(dt.bfloat16, 64, "", 2), attention.Form(dt.bfloat16, 128, "", 2),
    attention.Form(dt.float32, 64, "", 2), attention.Form(dt.float32, 128, "added", 2),
    attention.Form(dt.float32, 256, "", 2), attention.Form(dt.float32, 64, "", 2, tf32=True),
    attention.Form(dt.float32, 128, "", 2, tf32=True)], ids=lambda f: " ".join(map(str, f)))
def test_attention(form):
    texts = {attention.forward_text(form)[0]: "attention",
             attention.queries_text(form)[0]: "attention_queries",
             attention.sums_text(form)[0]: "row_sums"}
    for wanted in ("kv",) if form.width <= 128 else ("k", "v"):
        keys = form._replace(shared=1, wanted=wanted)
        texts[attention.keys_text(keys)[0]] = "attention_keys"
    check(texts)


@pytest.mark.parametrize("dtype", [dt.bfloat16, dt.float32], ids=["bfloat16", "float32"])
def test_convolutions(dtype):
    form = conv.Form(dtype, 128)
    check({conv.gather_text(form)[0]: "conv_gather",
           conv.gather_text(form._replace(rows=16))[0]: "conv_gather",
           conv.gather_text(form._replace(split=True))[0]: "conv_gather",
           conv.gather_sum_text(form._replace(bias=True, rows=32))[0]: "conv_gather_sum",
           conv.weights_text(form)[0]: "conv_weights",
           conv.sum_text(form)[0]: "conv_weights_sum", conv.pack_text(form)[0]: "conv_pack"})


@pytest.mark.parametrize("mask", ["", "bool", "added"])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("dtype, most", [(dt.bfloat16, 227 << 10), (dt.float32, 99 << 10)],
                         ids=["bfloat16", "float32"])
def test_shared_memory_suffices(dtype, most, width, mask):
    """`most`: what a block may have on compute capability 9.0; on 8.6, which has the least."""
    form = attention.Form(dtype, width, mask, 2)
    for shape, owned in ((attention.forward_shape, 1), (attention.queries_shape, 2),
                         (attention.keys_shape, 2)):
        assert shape(form).shared_memory(form, owned) <= most
