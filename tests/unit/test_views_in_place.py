"""`t_`, `squeeze_` and their kin, NumPy operands, and facts about tensors."""

from __future__ import annotations

import numpy as np
import pytest

import lampion

pytest.importorskip("lampion_cpu")

CASES = [("t_", ()), ("transpose_", (0, 2)), ("swapaxes_", (0, 1)), ("swapdims_", (-1, 0)),
         ("squeeze_", ()), ("squeeze_", (1,)), ("unsqueeze_", (-1,)),
         ("as_strided_", ((2, 2), (1, 2), 1))]


@pytest.mark.parametrize(("name", "args"), CASES)
def test_the_tensor_becomes_the_view(name, args):
    shape = (2, 3) if name == "t_" else (2, 1, 3)
    x = lampion.arange(6.0).reshape(shape)
    want = getattr(x, name[:-1])(*args)
    pointer, version = want.data_ptr(), x._version
    assert getattr(x, name)(*args) is x
    assert (x.shape, x.stride(), x.data_ptr()) == (want.shape, want.stride(), pointer)
    assert x.tolist() == want.tolist() and x._version == version + 1


@pytest.mark.parametrize(("name", "args"), CASES)
def test_history_goes_on(name, args):
    shape = (2, 3) if name == "t_" else (2, 1, 3)
    leaf = lampion.arange(6.0).reshape(shape).requires_grad_()
    grads = []
    for inplace in (False, True):
        y = leaf * 2
        view = y[1:]  # a view made before, written after
        z = getattr(y, name if inplace else name[:-1])(*args)
        z.mul_(3)
        if name != "as_strided_":  # whose tensor no longer spans the older view
            view.mul_(5)
        weight = lampion.arange(1.0, z.numel() + 1).reshape(z.shape)
        grads.append(lampion.autograd.grad((z * weight).sum(), leaf)[0])
    assert grads[0].tolist() == grads[1].tolist()


def test_leaves_and_saved_tensors_are_protected():
    leaf = lampion.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="t_: a leaf Variable"):
        leaf.t_()
    y = leaf * 1
    out = (y * y).sum()
    y.t_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_numpy_arrays_beside_tensors():
    t, a = lampion.tensor([1.0, 2.0]), np.array([1.0, 3.0])
    for r in (t * a, a * t, np.multiply(a, t)):
        assert isinstance(r, lampion.Tensor) and r.tolist() == [1.0, 6.0]
    assert (a - t).tolist() == [0.0, 1.0] and (t == a).tolist() == [True, False]
    assert isinstance(np.exp(t), lampion.Tensor)
    assert (t @ a.astype("f4")).item() == 7.0 and (t * a[::-1]).tolist() == [3.0, 2.0]
    t.requires_grad_()
    (t * a).sum().backward()
    assert t.grad.tolist() == [1.0, 3.0]
    with pytest.raises(TypeError):
        t.detach() + np.array(["a", "b"])


def test_facts():
    t = lampion.ones(2)
    assert t.layout is lampion.strided and t.is_cpu
    assert not (t.is_sparse or t.is_meta or t.is_quantized or t.is_nested)
    assert not hasattr(lampion, "nosuchmodule")
    capsule = lampion.utils.dlpack.to_dlpack(t)
    assert lampion.utils.dlpack.from_dlpack(capsule).tolist() == [1.0, 1.0]
