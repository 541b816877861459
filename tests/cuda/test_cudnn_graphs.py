"""Graphs of convolutions and attention, given to the real cuDNN: it takes every one of them and has
plans for an H200, without a GPU. Needs nvidia-cudnn-frontend and cuDNN (`lampion-cuda[cudnn]`)."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lampion_cuda")
pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings (lampion-cuda)")
import cudnn_probe  # noqa: E402

if not cudnn_probe.installed():
    pytest.skip("needs nvidia-cudnn-frontend and cuDNN (lampion-cuda[cudnn])",
                allow_module_level=True)
from simulator import hostcc  # noqa: E402

from lampion.base import dtype as dt  # noqa: E402
from lampion_cuda.cudnn_graphs import (  # noqa: E402
    Attention,
    Operand,
    Work,
    dense,
    geometry,
)

HALVES = (dt.float16, dt.bfloat16)


def convolutions():
    """Works of the three convolutions, by what is unusual about them."""
    # (input, weight, stride, padding, dilation)
    cases = {
        "3 x 3": ((8, 64, 28, 28), (64, 64, 3, 3), (1, 1), (1, 1), (1, 1)),
        "7 x 7, few channels": ((4, 3, 64, 64), (64, 3, 7, 7), (2, 2), (3, 3), (1, 1)),
        "1 x 1": ((8, 64, 14, 14), (256, 64, 1, 1), (1, 1), (0, 0), (1, 1)),
        "1 x 1, stride 2": ((8, 64, 14, 14), (128, 64, 1, 1), (2, 2), (0, 0), (1, 1)),
        "odd channels": ((2, 5, 9, 7), (11, 5, 3, 3), (1, 1), (1, 1), (1, 1)),
        "dilated": ((2, 16, 20, 20), (16, 16, 3, 3), (1, 1), (2, 2), (2, 2)),
        "one dim": ((4, 16, 1, 100), (32, 16, 1, 5), (1, 2), (0, 2), (1, 1)),
        "groups": ((4, 32, 14, 14), (64, 8, 3, 3), (1, 1), (1, 1), (1, 1)),
        "depthwise": ((4, 32, 14, 14), (32, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
        "three dims": ((2, 16, 8, 8, 8), (16, 16, 3, 3, 3), (1,) * 3, (1,) * 3, (1,) * 3),
    }
    for name, (x, w, stride, padding, dilation) in cases.items():
        space = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(
            x[2:], w[2:], stride, padding, dilation)]
        y = (x[0], w[0], *space)
        how = geometry(x, w, y, stride, padding, dilation)
        for kind, last in itertools.product((dt.bfloat16, dt.float16, dt.float32), (False, True)):
            o = [Operand(s, dense(s, last)) for s in (x, w, y)]
            for op, order in (("conv_forward", (2, 0, 1)), ("conv_backward_data", (0, 2, 1)),
                              ("conv_backward_weight", (1, 0, 2))):
                for exact in (True,) if kind in HALVES else (True, False):
                    yield (f"{name}, {op}, {kind.name}, {'last' if last else 'first'}, {exact}",
                           Work(op, kind, tuple(o[k] for k in order), how, exact=exact))
        o = [Operand(s, dense(s, True)) for s in (y, x, w, (1, w[0], *[1] * (len(x) - 2)))]
        yield f"{name}, bias", Work("conv_forward", dt.bfloat16, tuple(o), how, bias=True)


def attentions():
    """Works of attention and its gradient."""
    def operand(b, h, rows, width, heads_last):
        if heads_last:
            return Operand((b, h, rows, width), (rows * h * width, width, h * width, 1))
        return Operand((b, h, rows, width), (h * rows * width, rows * width, width, 1))

    sizes = {"one length": (2, 4, 4, 128, 128, 64), "grouped": (2, 8, 2, 128, 128, 128),
             "two lengths": (1, 4, 4, 64, 200, 64), "one key head": (1, 4, 1, 256, 256, 64),
             "odd length": (1, 4, 4, 77, 77, 64), "one query": (2, 4, 4, 1, 100, 64)}
    for (name, (b, h, shared, rows, keys, width)), causal, last in itertools.product(
            sizes.items(), (False, True), (False, True)):
        q = operand(b, h, rows, width, last)
        k = operand(b, shared, keys, width, last)
        known = Operand((b, h, rows, 1), (h * rows, rows, 1, 1))
        how = Attention(width**-0.5, causal)
        for kind in HALVES:
            label = f"{name}, {kind.name}, causal {causal}, heads last {last}"
            yield f"attention, {label}", Work("attention", kind, (q, known, q, k, k), how)
            yield f"gradient, {label}", Work("attention_backward", kind,
                                             (q, k, k, q, k, k, q, q, known), how)


def control():
    """What the library does not have, so that the test sees it say no: attention in float32."""
    (_, work), *_ = attentions()
    return work._replace(dtype=dt.float32)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{name: number of plans, or what is wrong}."""
    folder = tmp_path_factory.mktemp("probe")
    try:
        cudnn_probe.build(folder, hostcc.compiler())
    except RuntimeError as error:
        pytest.skip(str(error))
    works = dict([*convolutions(), *attentions(), ("control", control())])
    path = os.pathsep.join([str(folder), *cudnn_probe.libraries()])
    done = subprocess.run([sys.executable, str(Path(__file__).parent / "cudnn_probe.py"),
                           str(folder)], input=pickle.dumps(list(works.values())),
                          capture_output=True, timeout=500,
                          env={**os.environ, "LD_LIBRARY_PATH": path})
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found = json.loads(done.stdout)
    return dict(zip(works, found["answers"]))


def test_the_library_has_plans_for_all_of_them(answers):
    """Exact and reproducible ones: others were left out before the library was asked."""
    said = dict(answers)
    assert str(said.pop("control")).startswith("not supported")
    assert len(said) > 300
    assert {name: a for name, a in said.items() if not isinstance(a, int) or a < 1} == {}
