"""The Tensor and its call path: dtypes, views, writes, errors, on every device."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import lampion
from lampion.base import dtype as dt


def test_promotion_of_dims_zeros_and_numbers(device):
    i8 = lampion.ones(2, dtype=lampion.int8).to(device)
    f16 = lampion.ones(2, dtype=lampion.float16).to(device)
    zero = lampion.tensor(1.0, dtype=lampion.float64).to(device)
    assert (i8 + 1).dtype is lampion.int8 and (i8 + 1.0).dtype is lampion.float32
    assert (f16 + zero).dtype is lampion.float16 and (i8 * f16).dtype is lampion.float16
    assert (i8 / 2).dtype is lampion.float32 and (i8 > 0).dtype is lampion.bool
    assert dt.promote_types(lampion.uint8, lampion.int8) is lampion.int16


def test_views_share_memory_and_copies_do_not(device):
    x = lampion.arange(12, dtype=lampion.float32).to(device)
    v = x.view(3, 4).t()[1:3]
    v.mul_(10)
    assert x.tolist() == [0, 10, 20, 3, 4, 50, 60, 7, 8, 90, 100, 11]
    assert v._base is x and v.storage_offset() == 1 and v.stride() == (1, 4)
    with pytest.raises(RuntimeError, match="Use .reshape"):
        x.view(3, 4).t().view(12)
    copied = x.view(3, 4).t().reshape(12)
    copied.zero_()
    assert x[1].item() == 10


def test_shape_errors_name_op_and_shapes(device):
    a, b = lampion.zeros(2, 3).to(device), lampion.zeros(2, 4).to(device)
    with pytest.raises(RuntimeError, match=r"add.*size of tensor a \(3\).*\[2, 3\], \[2, 4\]"):
        a + b
    with pytest.raises(RuntimeError, match="broadcast shape"):
        lampion.zeros(3).to(device).add_(a)
    with pytest.raises(IndexError, match="out of range"):
        a.sum(5)
    with pytest.raises(TypeError):
        a + "x"


def test_a_failed_write_changes_nothing(device):
    a = lampion.ones(3).to(device)
    with pytest.raises(RuntimeError):
        a.add_(lampion.ones(4).to(device))
    with pytest.raises(RuntimeError):
        lampion.ones(3, dtype=lampion.int64).to(device).mul_(1.5)
    assert a.tolist() == [1, 1, 1] and a._version == 0


def test_mixed_devices_name_both(device):
    if device == "cpu":
        pytest.skip("needs a second device")
    with pytest.raises(RuntimeError, match=f"cpu.*{device}|{device}.*cpu"):
        lampion.ones(3) + lampion.ones(3).to(device)


def test_devices_meet_in_one_graph(device):
    w = lampion.tensor([1.0, 2.0], requires_grad=True)
    ((w * 2).to(device) * 3).sum().to("cpu").backward()
    assert w.grad.tolist() == [6.0, 6.0] and str(w.grad.device) == "cpu"


def test_a_saved_tensor_that_was_written_names_the_line(device):
    x = lampion.ones(3, requires_grad=True)
    y = x.to(device) * 1.0
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"add_ at .*test_tensor_core\.py:\d+"):
        z.sum().backward()


def test_overlapping_writes_are_refused():
    x = lampion.arange(5, dtype=lampion.float32)
    with pytest.raises(RuntimeError, match="clone"):
        x[1:].add_(x[:-1])
    with pytest.raises(RuntimeError, match="single memory location"):
        lampion.ones(1).expand(3).add_(1)
    x[::2].add_(x[1:4].clone()[0])
    assert x.tolist() == [1, 1, 3, 3, 5]


def test_out_is_resized_and_checked(device):
    a = lampion.tensor([1.0, 2.0]).to(device)
    out = lampion.zeros(2).to(device)
    assert lampion.add(a, a, out=out) is out and out.tolist() == [2, 4]
    with pytest.raises(RuntimeError, match="can't be cast"):
        lampion.add(a, a, out=lampion.zeros(2, dtype=lampion.int64).to(device))
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        lampion.add(a.requires_grad_(), a, out=out)


def test_copies_and_pickles(device):
    x = lampion.arange(6, dtype=lampion.float32).to(device).view(2, 3)
    pair = copy.deepcopy([x, x.t()])
    pair[0][0, 1] = 9
    assert pair[1][1, 0].item() == 9 and x[0, 1].item() == 1
    back = pickle.loads(pickle.dumps(x.t().requires_grad_()))
    assert back.tolist() == x.t().tolist() and back.requires_grad
    assert str(back.device) == str(x.device)


def test_numpy_shares_memory_with_the_host():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = lampion.from_numpy(a.T)
    t.add_(1)
    assert a[0, 0] == 1 and np.shares_memory(t.numpy(), a)
    kept = lampion.arange(1000).numpy()
    gc.collect()
    [lampion.zeros(1000) for _ in range(20)]
    assert kept.sum() == 499500
    other = np.from_dlpack(t)
    assert np.shares_memory(other, a)


def test_tensors_die_without_the_collector(device):
    gc.disable()
    try:
        x = lampion.ones(3, requires_grad=True)
        y = (x.to(device) * 2).exp().view(3, 1)
        seen = [weakref.ref(y), weakref.ref(y.grad_fn)]
        y.sum().backward()
        del y
        assert all(r() is None for r in seen)
    finally:
        gc.enable()


def test_numbers_wrap_and_convert(device):
    t = lampion.tensor([250, 3], dtype=lampion.uint8).to(device)
    assert (t + 10).tolist() == [4, 13] and (-t).tolist() == [6, 253]
    f = lampion.tensor([1.9, -1.9, 0.0]).to(device)
    assert f.to(lampion.int32).tolist() == [1, -1, 0]
    assert f.to(lampion.bool).tolist() == [True, True, False]
    assert f.bfloat16().float().tolist() == pytest.approx([1.8984375, -1.8984375, 0.0])


def test_a_namespace_cannot_hide_a_module_of_ops():
    from lampion.ops.registry import namespace

    with pytest.raises(ValueError, match="'reduce' is taken by lampion.ops.reduce"):
        namespace("reduce")


def test_ops_of_a_namespace(device):
    from lampion.ir.expr import exp
    from lampion.ops.registry import REGISTRY, elementwise, namespace

    if "coretest::swish" not in REGISTRY:
        with namespace("coretest"):
            @elementwise
            def swish(input):
                """input * sigmoid(input)."""
                return input / (1 + exp(-input))

    x = lampion.tensor([1.0, -2.0]).to(device).requires_grad_()
    y = lampion.ops.coretest.swish(x)
    y.sum().backward()
    want = lampion.nn.functional.silu(lampion.tensor([1.0, -2.0]))
    assert y.tolist() == pytest.approx(want.tolist(), rel=1e-5)
    assert x.grad.tolist() == pytest.approx([0.92767, -0.09078], rel=1e-3)
    with pytest.raises(AttributeError, match="no installed plug-in"):
        lampion.ops.nobody  # noqa: B018
