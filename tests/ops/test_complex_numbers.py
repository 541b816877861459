"""complex32 on every device, and complex Python numbers among the arguments of ops.

May import: lampion, NumPy, pytest.
"""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

import lampion as L

VALUES = [1 + 2j, -0.5 + 0.25j, 3 - 4j]


def half(device="cpu"):
    return L.tensor(VALUES, dtype=L.complex32, device=device)


def test_complex32_is_a_dtype():
    x = half()
    assert x.dtype is L.complex32 is L.chalf and x.dtype.itemsize == 4 and x.is_complex()
    assert x.tolist() == VALUES and x[0].item() == VALUES[0]
    assert "complex32" in repr(x) and "3.0000-4.0000j" in repr(x)
    assert L.finfo(L.complex32).dtype == "float16" and x.type() == "lampion.ComplexHalfTensor"
    with pytest.raises(TypeError, match="ComplexHalf"):
        x.numpy()


@pytest.mark.parametrize(("other", "want"), [
    (L.int64, L.complex32), (L.float16, L.complex32), (L.bfloat16, L.complex64),
    (L.float32, L.complex64), (L.float64, L.complex128), (L.complex64, L.complex64)])
def test_complex32_promotes(other, want):
    assert L.promote_types(L.complex32, other) is want is L.promote_types(other, L.complex32)


def test_half_becomes_complex32():
    h = L.ones(2, dtype=L.float16)
    assert (h + 1j).dtype is L.complex(h, h).dtype is L.complex32
    assert L.view_as_complex(h).dtype is L.complex32
    assert (L.ones(2, dtype=L.bfloat16) + 1j).dtype is L.complex64


def test_complex32_arithmetic(device):
    x, want = half(device), np.array(VALUES)
    for got, ref in ((x + x, want + want), (x * x, want * want), (x - 2j, want - 2j),
                     (x.conj(), want.conj()), (x.sum(), want.sum()), (L.cat([x, x]),
                     np.tile(want, 2)), (x[[2, 0]], want[[2, 0]]), (-x, -want)):
        assert got.dtype is L.complex32 and got.device == x.device
        np.testing.assert_allclose(got.cpu().host(), ref, rtol=1e-3)
    for got, ref in ((x.abs(), abs(want)), (x.real, want.real), (x.imag, want.imag)):
        assert got.dtype is L.float16
        np.testing.assert_allclose(got.cpu().numpy(), ref, rtol=1e-3)
    assert (x == x).all().item() and x.bool().all().item()


def test_complex32_values_are_computed_in_complex64():
    x = L.full((4,), 200 + 200j, dtype=L.complex32)  # the squares of the parts overflow
    np.testing.assert_allclose(x.abs().numpy(), 282.84, rtol=1e-3)
    np.testing.assert_allclose((x / x).cfloat().numpy(), 1, rtol=1e-3)
    many = L.full((4096,), 1 + 1j, dtype=L.complex32)  # a sum in float16 ends at 2048
    assert many.sum().item() == 4096 + 4096j


def test_complex32_gradients():
    x = L.tensor([1.0, 2.0], dtype=L.float64, requires_grad=True)
    (x.chalf() * 3j).imag.sum().backward()
    assert x.grad.dtype is L.float64 and x.grad.tolist() == [3, 3]


def test_complex32_is_saved_and_copied():
    file = io.BytesIO()
    L.save(half(), file)
    file.seek(0)
    for x in (L.load(file), copy.deepcopy(half()), half().clone().share_memory_()):
        assert x.dtype is L.complex32 and x.tolist() == VALUES


@pytest.mark.parametrize("call", [
    lambda x: x * 0.1j, lambda x: 0.1j + x, lambda x: L.where(x == x, x * 0 + 0.1j, 1j),
    lambda x: x.fill_(0.1j), lambda x: x.index_fill(0, L.tensor([0]), 0.1j),
    lambda x: x.scatter(0, L.tensor([0]), 0.1j), lambda x: x.masked_fill(x == x, 0.1j),
    lambda x: x.__setitem__(0, 0.1j) or x])
def test_complex_numbers_keep_their_digits(call):
    got = call(L.ones(1, dtype=L.complex128)).item()
    assert got.imag == 0.1  # not the float32 next to it


@pytest.mark.parametrize("call", [
    lambda x: x.fill_(1j), lambda x: x.index_fill(0, L.tensor([0]), 1j),
    lambda x: x.scatter(0, L.tensor([0]), 1j), lambda x: L.addcmul(x, x, x, value=1j),
    lambda x: L.linspace(0, 1j, 3, dtype=x.dtype), lambda x: L.logspace(0, 1j, 3, dtype=x.dtype)])
def test_real_tensors_take_no_complex_number(call):
    with pytest.raises(RuntimeError, match="convert|cast"):
        call(L.ones(1))


def test_complex_value_of_addcmul_and_addcdiv():
    c, t = np.array([0.5 + 0.25j]), np.array([2 - 1j])
    x, y = L.tensor(c), L.tensor(t)
    assert np.allclose(L.addcmul(x, y, y, value=1j).numpy(), c + 1j * t * t)
    assert np.allclose(L.addcdiv(x, x, y, value=1j).numpy(), c + 1j * c / t)
    assert np.allclose(x.addcmul_(y, y, value=2j).numpy(), c + 2j * t * t)


def test_logspace_of_complex_exponents():
    got = L.logspace(0, 1j, 3, dtype=L.complex128).numpy()
    assert np.allclose(got, 10.0 ** np.array([0, 0.5j, 1j]))
    assert L.logspace(0, 1j, 3).dtype is L.complex64
