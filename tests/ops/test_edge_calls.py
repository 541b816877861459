"""Calls at the edge of what ops take: arguments by name, empty and 0-d tensors, odd gradients.

May import: lampion, NumPy, pytest.
"""

from __future__ import annotations

import numpy as np
import pytest

import lampion as L
import lampion.nn.functional as F


@pytest.mark.parametrize(("by_name", "by_position"), [
    (lambda x: L.permute(x, dims=(1, 0)), lambda x: x.permute(1, 0)),
    (lambda x: L.reshape(x, shape=(3, 2)), lambda x: x.reshape(3, 2)),
    (lambda x: x.view(size=(6,)), lambda x: x.view(6)),
    (lambda x: x.view(dtype=L.int32), lambda x: x.view(L.int32)),
    (lambda x: x.expand(size=(4, 2, 3)), lambda x: x.expand(4, 2, 3)),
    (lambda x: L.flip(x, dims=[0]), lambda x: x.flip(0)),
    (lambda x: L.tile(x, dims=(2,)), lambda x: x.tile(2)),
    (lambda x: x.repeat(repeats=(2, 1)), lambda x: x.repeat(2, 1)),
    (lambda x: L.squeeze(x[:1], dim=0), lambda x: x[:1].squeeze(0)),
])
def test_sizes_and_dims_by_name(by_name, by_position):
    x = L.arange(6.0).reshape(2, 3)
    a, b = by_name(x), by_position(x)
    assert a.dtype is b.dtype and a.tolist() == b.tolist()


def test_an_argument_given_twice_is_an_error():
    with pytest.raises(TypeError):
        L.zeros(2, 2).flip(0, dims=(0,))


def test_views_of_nothing():
    assert L.zeros(0, dtype=L.complex64).imag.shape == (0,)
    assert F.group_norm(L.zeros(0, 6, 2), 3).shape == (0, 6, 2)
    assert F.pdist(L.ones(1, 3, requires_grad=True)).requires_grad


def test_tensordot_broadcasts_contracted_dims_of_size_one():
    a, b = np.arange(6.0).reshape(1, 6), np.arange(12.0).reshape(3, 4)
    got = L.tensordot(L.tensor(a), L.tensor(b), dims=([0], [0]))
    assert np.allclose(got.numpy(), np.tensordot(np.repeat(a, 3, 0), b, ([0], [0])))


def test_as_strided_may_look_before_its_input():
    base = L.arange(6.0)
    x = base[2:].detach().requires_grad_()
    y = x.as_strided((2, 2), (2, 1), 1)
    assert y.tolist() == [[1, 2], [3, 4]]
    y.backward(L.tensor([[1.0, 2], [3, 4]]))
    assert x.grad.tolist() == [2, 3, 4, 0]


def test_index_fill_uses_its_value_once_per_entry():
    value = L.tensor(7.0, requires_grad=True)
    y = L.zeros(4).index_fill(0, L.tensor([1, 2, 1]), value)
    assert y.tolist() == [0, 7, 7, 0]
    y.backward(L.tensor([1.0, 2, 4, 8]))
    assert value.grad.item() == 6


def test_nextafter_has_the_gradient_of_a_shift():
    x, y = L.tensor([1.0, 2.0], requires_grad=True), L.tensor([5.0, 2.0], requires_grad=True)
    L.nextafter(x, y).sum().backward()
    assert x.grad.tolist() == [1, 0]
    assert y.grad is None or y.grad.tolist() == [0, 0]


def test_ctc_gradients_sum_to_zero_over_the_classes_of_a_step():
    logits = L.tensor(np.random.default_rng(0).normal(size=(5, 2, 4)), requires_grad=True)
    logs = logits.log_softmax(2)
    logs.retain_grad()
    F.ctc_loss(logs, L.tensor([[1, 2], [3, 3]]), L.tensor([5, 4]), L.tensor([2, 1])).backward()
    assert np.allclose(logs.grad.sum(2).numpy(), 0)
    assert np.allclose(logs.grad.numpy(), logits.grad.numpy())
    assert not logs.grad[4, 1].any()  # the second sequence is over


def test_margin_losses_take_one_score():
    assert F.multi_margin_loss(L.tensor(0.5), L.tensor(0)).item() == 0
    assert F.multilabel_margin_loss(L.tensor(0.5), L.tensor(0)).item() == 0


def test_histogram_of_equal_values_is_one_wide():
    hist, edges = L.histogram(L.tensor([3.0, 3.0]), 2)
    assert edges.tolist() == [2.5, 3.0, 3.5] and hist.tolist() == [0, 2]


def test_two_numbers_make_a_tensor():
    assert L.add(2, 3).dtype is L.int64 and L.add(2, 3).item() == 5
    assert L.div(7, 2).item() == 3.5 and L.div(7, 2, rounding_mode="floor").item() == 3
    with pytest.raises(TypeError, match="must be Tensor, not int"):
        L.pow(2, 3)


@pytest.mark.parametrize("call", [
    lambda x: L.maximum(x, 2), lambda x: L.atan2(2, x), lambda x: L.eq(2, x),
    lambda x: L.gcd(x.long(), 2), lambda x: L.isclose(x, 2), lambda x: L.logical_and(x, 1),
    lambda x: L.complex(x, 2), lambda x: L.rsub(2, x), lambda x: L.Tensor.__radd__(2, x),
])
def test_operands_that_must_be_tensors(call):
    with pytest.raises(TypeError):
        call(L.ones(3))


@pytest.mark.parametrize(("call", "dtype", "fits"), [
    (lambda x, out: L.add(x, x, out=out), L.float64, True),
    (lambda x, out: L.add(x, x, out=out), L.int64, False),
    (lambda x, out: L.abs(x, out=out), L.float64, False),
    (lambda x, out: L.mm(x, x, out=out), L.float64, False),
    (lambda x, out: L.cat([x, x], out=out), L.float64, True),
    (lambda x, out: L.cumsum(x, 0, out=out), L.int64, True),
    (lambda x, out: L.outer(x[0], x[0], out=out), L.float64, True),
])
def test_dtypes_of_out(call, dtype, fits):
    x, out = L.ones(2, 2), L.empty(0, dtype=dtype)
    if fits:
        assert call(x, out) is out and out.dtype is dtype and out.numel() >= 4
    else:
        with pytest.raises(RuntimeError):
            call(x, out)


def test_out_is_resized_with_a_warning_and_never_recorded():
    x, out = L.ones(3), L.zeros(2)
    with pytest.warns(UserWarning, match="was resized"):
        assert L.exp(x, out=out).shape == (3,)
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        L.outer(x.requires_grad_(), x, out=out)
    with pytest.raises(RuntimeError, match="single memory location"):
        L.exp(L.ones(3), out=L.zeros(1).expand(3))


@pytest.mark.parametrize("name", ["silu", "log_ndtr", "logsigmoid", "softplus", "mish"])
def test_second_derivatives_vanish_far_out(name):
    f = getattr(F, name, None) or getattr(L.special, name)
    x = L.tensor([-500.0, 500.0], requires_grad=True)
    g, = L.autograd.grad(f(x).sum(), x, create_graph=True)
    h, = L.autograd.grad(g.sum(), x)
    assert h.isfinite().all() and abs(h[1].item()) < 1e-6


def test_second_derivative_of_logaddexp():
    a, b = L.tensor([0.0, -300.0], requires_grad=True), L.tensor([0.0, 300.0])
    g, = L.autograd.grad(L.logaddexp(a, b).sum(), a, create_graph=True)
    h, = L.autograd.grad(g.sum(), a)
    assert h.tolist() == [0.25, 0]


def test_logaddexp_of_complex_numbers_neither_overflows_nor_wraps():
    inf = float("inf")
    a = L.tensor([1 + 3j, 500 + 1j, 1 + 9j, complex(-inf, 1), complex(-inf, 0)])
    b = L.tensor([0.5 + 3.1j, 500 + 2j, 1 - 9j, complex(-inf, 2), 3 + 9j])
    got = L.logaddexp(a, b).tolist()
    for x, want in zip(got, [1.4729 + 3.0377j, 500.5626 + 1.5j, 1.6001 + 9.4248j,
                             complex(-inf, 2), 3 + 9j]):
        assert x.real == pytest.approx(want.real, abs=1e-4)
        assert x.imag == pytest.approx(want.imag, abs=1e-4)


def test_addbmm_in_place_resizes_what_broadcasts():
    x, a, b = L.ones(1), L.ones(2, 3, 4), L.ones(2, 4, 5)
    assert x.addbmm_(a, b, beta=2) is x
    assert x.tolist() == [[10.0] * 5] * 3


def test_losses_and_norms_of_other_dtypes():
    a, b = L.tensor([1.0, 2.0]), L.tensor([1 + 1j, 2 - 3j])
    assert F.l1_loss(a, b, reduction="none").tolist() == [1, 3]
    x = L.tensor([3 + 4j, 0j], dtype=L.complex128, requires_grad=True)
    assert F.softsign(x).tolist() == [0.5 + 2j / 3, 0j]
    assert L.autograd.gradcheck(F.softsign, (x[:1].detach().requires_grad_(),))
    assert L.autograd.gradgradcheck(F.softsign, (x[:1].detach().requires_grad_(),))
    whole = F.local_response_norm(L.tensor([[[1], [2], [4]]]), 2, alpha=1.0, beta=1.0)
    assert whole[0, :, 0].tolist() == pytest.approx([1, 2 / 3, 4 / 11])  # means 0, 2, 10
    x = L.full((1, 1, 1), 1.0, dtype=L.float16)
    mean, var = L.tensor([0.1], dtype=L.float16), L.tensor([1e-5], dtype=L.float16)
    want = (1.0 - float(mean)) / (float(var) + 1e-5) ** 0.5
    assert F.batch_norm(x, mean, var).item() == pytest.approx(want, rel=1e-3)


def test_norms_of_nothing():
    nothing = L.empty(0)
    assert F.batch_norm(nothing, nothing, nothing).shape == (0,)
    with pytest.raises(ValueError, match="2D"):
        F.batch_norm(L.ones(1), L.ones(1), L.ones(1))
    whole = L.empty(0, 3, 2, dtype=L.int64)
    assert F.local_response_norm(whole, 2) is whole


def test_ends_of_whole_steps_are_whole():
    assert L.linspace(4.9, 2, 4, dtype=L.int64).tolist() == [4, 3, 2, 2]
    assert L.linspace(4.3, L.tensor(-3), 8, dtype=L.int64).tolist() == [4, 3, 2, 1, 0, -1, -2, -3]


def test_sums_of_bools_with_factors_are_bools():
    x = L.tensor([True, False])
    assert L.addr(x, x, x, beta=3, alpha=2).tolist() == [[True, False], [True, False]]
    assert L.addr(x, x, x, beta=3, alpha=2).dtype is L.bool


def test_float_power_in_place_keeps_double_precision():
    assert L.full((2,), 3.0, dtype=L.float64).float_power_(2).tolist() == [9, 9]
    with pytest.raises(RuntimeError, match="requires dtype"):
        L.ones(2).float_power_(2)


def test_sums_are_taken_in_the_dtype_of_out():
    x = L.tensor([0.6, 0.6, 0.6])
    assert L.cumsum(x, 0, out=L.empty(0, dtype=L.int64)).tolist() == [0, 0, 0]
    assert L.sum(x, 0, out=L.empty((), dtype=L.float64)).dtype is L.float64
    with pytest.raises(RuntimeError, match="dtype"):
        L.cumsum(x, 0, dtype=L.float32, out=L.empty(0, dtype=L.float64))
    with pytest.raises(TypeError):
        L.cat([x, x], out=L.empty(0, dtype=L.int64))


WRITES = [
    lambda x, v: x.fill_(v), lambda x, v: L.fill(x, v), lambda x, v: L.full_like(x, v),
    lambda x, v: L.full((2,), v, dtype=x.dtype), lambda x, v: x.masked_fill(x == x, v),
    lambda x, v: x.index_fill(0, L.tensor([0]), v), lambda x, v: x.scatter(0, L.tensor([0]), v),
    lambda x, v: F.pad(x, (1, 1), value=v)]
ASSIGNED = [lambda x, v, k=k: x.__setitem__(k, v) for k in (0, slice(None), (slice(0, 1),))] + [
    lambda x, v: x.__setitem__(L.tensor([0]), v), lambda x, v: x.__setitem__(x == x, v)]


@pytest.mark.parametrize("write", WRITES + ASSIGNED)
@pytest.mark.parametrize(("dtype", "good", "bad"), [
    (L.int8, -128, 128), (L.int8, 127.5, 300.0), (L.int8, 3, np.nan), (L.uint8, -255, -256),
    (L.uint8, 255, 256), (L.int32, 2**31 - 1, 2**31), (L.int64, 1, 1e30), (L.float32, 3e38, 4e38),
    (L.bool, 2, None), (L.float32, np.inf, None), (L.float16, -np.inf, None),
    (L.float16, np.nan, None)])
def test_a_number_that_a_dtype_cannot_hold_is_an_error(write, dtype, good, bad):
    for _ in range(3):  # also where the call is known by then
        write(L.ones(2, dtype=dtype), good)
        if bad is not None:
            with pytest.raises(RuntimeError, match="without overflow"):
                write(L.ones(2, dtype=dtype), bad)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("dtype", [L.float16, L.bfloat16])
def test_numbers_do_not_become_infinite(write, dtype):
    with pytest.raises(RuntimeError, match="without overflow"):
        write(L.ones(2, dtype=dtype), 1e39)


def test_assignments_to_16_bits_do_become_infinite():
    x = L.ones(3, dtype=L.float16)
    x[0], x[L.tensor([1])], x[x == 1] = 1e6, -1e6, 1e6  # as in PyTorch
    assert x.tolist() == [np.inf, -np.inf, np.inf]
    with pytest.raises(RuntimeError, match="without overflow"):
        L.tensor([1.0, 300.0], dtype=L.int8)


@pytest.mark.parametrize("call", [
    lambda t: L.baddbmm(t(2, 3, 4), t(2, 3, 5), t(2, 5, 4), beta=0.7, alpha=1.3),
    lambda t: L.addmm(t(3, 4), t(3, 5), t(5, 4), beta=0.7), lambda t: L.addr(t(3, 4), t(3), t(4)),
    lambda t: F.group_norm(t(2, 6, 5), 3, t(6), t(6)),
    lambda t: F.scaled_dot_product_attention(*[t(2, 5, 4)] * 3, t(5, 5), scale=2.0),
    lambda t: F.embedding_bag(L.tensor([[0, 1, 2, 3, 4, 5, 6, 7]]), t(8, 5), mode="sum")])
@pytest.mark.parametrize("dtype", [L.float16, L.bfloat16])
def test_16_bit_results_are_rounded_once(call, dtype):
    def run(wide):
        rng = np.random.default_rng(3)
        return call(lambda *shape: L.tensor(rng.standard_normal(shape)).to(dtype).to(wide))

    got, want = run(dtype), run(L.float64)
    assert got.dtype is dtype
    np.testing.assert_allclose(got.double().numpy(), want.numpy(), rtol=L.finfo(dtype).eps,
                               atol=1e-6)


def test_logspace_of_integers_truncates_its_ends():
    assert L.logspace(4.3, 6.9, 3, base=2, dtype=L.int64).tolist() == [16, 32, 64]


def test_fractional_pools_take_empty_batches():
    assert F.fractional_max_pool2d(L.ones(0, 1, 6, 6), 2, 3).shape == (0, 1, 3, 3)
    assert F.fractional_max_pool3d(L.ones(0, 1, 6, 6, 6), 2, 3).shape == (0, 1, 3, 3, 3)
