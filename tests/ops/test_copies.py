"""The copying forms of the views: same values as the view, memory of their own."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import tensors

import lampion
from lampion.ops.copies import COPIES
from lampion.ops.registry import REGISTRY
from lampion.ops.samples import materialize, samples_of


def made(device):
    return lambda b: lampion.tensor(b.flat).to(device).as_strided(b.shape, b.strides, b.offset)


def parts(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_the_view_in_memory_of_its_own(name, device):
    view = REGISTRY[COPIES[name][0]].fn
    rng = np.random.default_rng(3)
    for sample in samples_of(REGISTRY[name], rng):
        call, _ = materialize(sample, rng, made(device))
        source = call.args[0]
        copies = parts(getattr(lampion, name)(*call.args, **call.kwargs))
        views = parts(view(*call.args, **call.kwargs))
        assert len(copies) == len(views)
        for copy, seen in zip(copies, views):
            assert copy.shape == seen.shape and copy.dtype is seen.dtype
            assert copy.is_contiguous() and copy._base is None
            assert copy.tolist() == seen.tolist()
            before = source.tolist()
            copy.zero_()
            assert source.tolist() == before


def test_out_is_resized_and_written(device):
    (t,) = tensors([np.arange(6.0, dtype=np.float32).reshape(2, 3)], device)
    out = lampion.empty(0).to(device)
    assert lampion.t_copy(t, out=out) is out
    assert out.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize("call", [
    lambda x: x.permute(dims=(1, 0)), lambda x: lampion.permute(x, dims=(1, 0)),
    lambda x: x.view(size=(3, 2)).reshape(shape=(2, 3)).t(), lambda x: x.t().squeeze(dim=1),
    lambda x: x.expand(size=(2, 3)).t(), lambda x: x.t().flip(dims=(0,)).flip(0),
    lambda x: x.repeat(repeats=(1, 1)).t(), lambda x: lampion.tile(x, dims=(1,)).t()])
def test_sizes_and_dims_may_be_named(call):
    x = lampion.arange(6).reshape(2, 3)
    assert call(x).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert x.float().view(dtype=lampion.int32).dtype is lampion.int32
