"""Switches of the process, compile and jit that run Python, and backends' switches."""

from __future__ import annotations

import pytest

import lampion as L


def test_determinism_is_remembered():
    try:
        L.use_deterministic_algorithms(True, warn_only=True)
        assert L.are_deterministic_algorithms_enabled()
        assert L.is_deterministic_algorithms_warn_only_enabled()
        assert L.get_deterministic_debug_mode() == 1
        L.set_deterministic_debug_mode("error")
        assert L.get_deterministic_debug_mode() == 2
        with pytest.raises(RuntimeError, match="invalid value"):
            L.set_deterministic_debug_mode("loud")
    finally:
        L.set_deterministic_debug_mode("default")
    assert not L.are_deterministic_algorithms_enabled()


def test_default_tensor_type():
    try:
        L.set_default_tensor_type("torch.DoubleTensor")
        assert L.ones(1).dtype is L.float64
        L.set_default_tensor_type("FloatTensor")
        with pytest.raises(TypeError, match="LongTensor"):
            L.set_default_tensor_type("torch.LongTensor")
    finally:
        L.set_default_dtype(L.float32)


def test_compile_takes_what_is_called():
    net = L.nn.Linear(2, 2)
    assert L.compile(net, disable=True) is net and L.compile(net, backend="eager") is net
    x = L.ones(1, 2)
    for compiled in (L.compile(net), L.compile(mode="max-autotune")(net)):
        assert compiled._orig_mod is net and L.equal(compiled(x), net(x))

    @L.compile
    def f(x):
        return x + 1

    assert f(L.ones(1)).item() == 2.0 and not L.compiler.is_compiling()
    with pytest.raises(RuntimeError, match="both"):
        L.compile(net, mode="default", options={})
    with pytest.raises(RuntimeError, match="int"):
        L.compile(3)


def test_jit_runs_python():
    assert L.jit.script(f := (lambda x: x)) is f and not L.jit.is_scripting()
    assert L.jit.trace(f, L.ones(1)) is f
    assert L.jit.ignore(f) is f and L.jit.ignore(drop=True)(f) is f
    assert L.jit.wait(L.jit.fork(lambda a, b: a + b, 1, b=2)) == 3
    with pytest.raises(NotImplementedError, match="state_dict"):
        L.jit.load("x.pt")


def test_backends_switches():
    import lampion.backends.somelib as lib

    assert lib is L.backends.somelib and not lib.is_available() and lib.benchmark is False
    lib.benchmark = True
    with lib.flags(benchmark=False, enabled=False):
        assert lib.benchmark is False and lib.enabled is False
    assert lib.benchmark is True and lib.enabled is True
    assert lib.math_sdp_enabled()
    lib.enable_math_sdp(False)
    assert not lib.math_sdp_enabled()
    try:
        lib.matmul.allow_tf32 = True
        assert L.get_float32_matmul_precision() == "high" and lib.matmul.allow_tf32
    finally:
        lib.matmul.allow_tf32 = False
    assert L.get_float32_matmul_precision() == "highest"


def test_accelerator():
    found = L.accelerator.current_accelerator()
    assert (found is not None) == L.accelerator.is_available()
    assert (L.accelerator.device_count() > 0) == L.accelerator.is_available()
    if found is None:
        with pytest.raises(RuntimeError, match="other than the host"):
            L.accelerator.synchronize()
    else:
        assert found.type != "cpu"
        L.accelerator.synchronize()


def test_constants_and_names():
    assert L.pi == pytest.approx(3.14159265) and L.newaxis is None and L.nan != L.nan
    assert L.typename(3) == "int" and L.typename(L.ones(1)).endswith("FloatTensor")


def test_losses_in_chunks():
    import numpy as np

    rng = np.random.default_rng(0)
    x, w, b = (L.tensor(rng.normal(size=s), requires_grad=True) for s in ((7, 3), (5, 3), (5,)))
    t, c = L.tensor([0, 4, 2, 2, 1, 3, 0]), L.tensor(rng.uniform(0.5, 2, size=5))
    F = L.nn.functional
    for size in (1, 2, 7, None):
        for reduction in ("mean", "sum", "none"):
            for extra in ({}, {"linear_bias": b, "weight": c, "ignore_index": 2}):
                options = L.nn.LinearCrossEntropyOptions(batch_chunk_size=size)
                got = F.linear_cross_entropy(x, w, t, reduction=reduction, options=options, **extra)
                want = F.linear_cross_entropy(x, w, t, reduction=reduction, **extra)
                assert L.allclose(got, want)
                a = L.autograd.grad((got * got).sum(), (x, w), create_graph=True)
                e = L.autograd.grad((want * want).sum(), (x, w), create_graph=True)
                assert all(L.allclose(p, q) for p, q in zip(a, e))
                (a,), (e,) = (L.autograd.grad((g[0] ** 2).sum(), w) for g in (a, e))
                assert L.allclose(a, e)
    assert L.allclose(F.linear_cross_entropy(x[0], w, t[0], options=options),
                      F.linear_cross_entropy(x[0], w, t[0]))
    with pytest.warns(UserWarning, match="options are ignored"):
        F.linear_cross_entropy(x, w, t, label_smoothing=0.1, options=options)
    for wrong in ({"acc_policy": "fast"}, {"batch_chunk_size": 0}, {"chunking_method": "rows"}):
        with pytest.raises(ValueError):
            L.nn.LinearCrossEntropyOptions(**wrong)
    with pytest.raises(ValueError, match="different chunk sizes"):
        F.linear_cross_entropy(x, w, t, options=L.nn.LinearCrossEntropyOptions(
            batch_chunk_size=5, chunking_method="aspect_ratio:3"))
