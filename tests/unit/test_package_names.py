"""What packages call beyond the documented names: futures, weak dictionaries, decorators, checks of
sizes, modes that see backward passes."""

from __future__ import annotations

import gc
import threading

import pytest

import lampion
from lampion import nn, overrides
from lampion.device_namespaces import DeviceNamespace
from lampion.futures import Future, collect_all, wait_all
from lampion.utils._contextlib import _DecoratorContextManager, _NoParamDecoratorContextManager
from lampion.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary


def test_futures():
    later = Future()
    chained = later.then(lambda f: f.value() + 1).then(lambda f: f.value() * 10)
    seen = []
    later.add_done_callback(lambda f: seen.append(f.done()))
    assert not chained.done()
    threading.Timer(0.05, later.set_result, [1]).start()
    assert chained.wait() == 20 and seen == [True]
    with pytest.raises(RuntimeError, match="only be marked completed once"):
        later.set_result(2)
    failed = Future()
    failed.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        failed.then(lambda f: f.wait()).wait()
    assert wait_all([later, chained]) == [1, 20] and collect_all([]).wait() == []
    with pytest.raises(ValueError, match="no"):
        wait_all([later, failed])


def test_dictionaries_by_identity():
    a, b = lampion.ones(2), lampion.ones(2)
    table = WeakTensorKeyDictionary({a: 1})
    table[b] = 2
    assert table[a] == 1 and table[b] == 2 and lampion.ones(2) not in table and a in table
    del a
    gc.collect()
    assert len(table) == 1 and list(table.values()) == [2]
    assert isinstance(table.copy(), WeakIdKeyDictionary) and table.copy()[b] == 2


def test_decorating_context_managers():
    inside = []

    class Mark(_DecoratorContextManager):
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            inside.append(self.name)

        def __exit__(self, *error):
            inside.pop()

        def clone(self):
            return type(self)(self.name)

    @Mark("f")
    def f():
        return list(inside)

    @Mark("g")
    def steps():
        yield list(inside)
        yield list(inside)

    assert f() == ["f"] and not inside
    with Mark("outer"):
        assert f() == ["outer", "f"]
    for got in steps():
        assert got == ["g"] and not inside

    class Plain(_NoParamDecoratorContextManager):
        def __enter__(self):
            inside.append("plain")

        def __exit__(self, *error):
            inside.pop()

    assert Plain(lambda: list(inside))() == Plain()(lambda: list(inside))() == ["plain"]


def test_sizes_are_numbers():
    x = lampion.ones(2, 3)
    assert not isinstance(x.shape[0], (lampion.SymInt, lampion.SymFloat, lampion.SymBool))
    assert lampion.sym_max(2, 3.0) == 3.0 and lampion.sym_int(2.7) == 2 and lampion.sym_not(0)
    lampion._check(x.shape[0] == 2)
    with pytest.raises(ValueError, match="two"):
        lampion._check_value(False, lambda: "two")
    with pytest.raises(RuntimeError):
        lampion._check_is_size(-1)
    with pytest.raises(TypeError, match="no symbols"):
        lampion.SymInt()
    with pytest.raises(RuntimeError, match="broken"):
        lampion._assert_async(lampion.tensor(False), "broken")
    assert lampion._shape_as_tensor(x).tolist() == [2, 3]


def test_modes_see_backward_passes():
    names = []

    class Names(overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    x, layer = lampion.ones(2, 3, requires_grad=True), nn.Linear(3, 4)
    with Names():
        layer(x).sum().backward()
    assert {"linear", "sum", "expand"} <= set(names) and x.grad.shape == (2, 3)


def test_rows_of_groups():
    x, w = lampion.randn(5, 2), lampion.randn(2, 2, 3)
    out = nn.functional.grouped_mm(x, w, offs=lampion.tensor([2, 4], dtype=lampion.int32))
    assert lampion.allclose(out[:2], x[:2] @ w[0]) and lampion.allclose(out[2:4], x[2:4] @ w[1])
    assert not out[4:].any()
    with pytest.raises(RuntimeError, match="offs"):
        nn.functional.grouped_mm(x, w)


def test_states_of_random_numbers_where_there_is_no_device():
    missing = DeviceNamespace("nothing")
    assert missing.get_rng_state_all() == []
    missing.set_rng_state_all([])
    here = DeviceNamespace("cpu")
    states = here.get_rng_state_all()
    first = lampion.rand(3)
    here.set_rng_state_all(states)
    assert len(states) == 1 and lampion.equal(lampion.rand(3), first)


def test_python_s_types_stand_for_dtypes():
    assert lampion.ones(2, 2, dtype=bool).tril().tolist() == [[True, False], [True, True]]
    assert lampion.zeros(2, dtype=float).dtype is lampion.float64
    assert lampion.full((2,), 1, dtype=int).dtype is lampion.int64
    assert lampion.zeros_like(lampion.ones(2), dtype=complex).dtype is lampion.complex128


def test_isinstance_looks_into_types():
    from typing import Any

    from lampion.jit import isinstance_

    t = lampion.ones(1)
    assert isinstance_([t], list[lampion.Tensor]) and not isinstance_([t, 1], list[lampion.Tensor])
    assert isinstance_([], list[int]) and isinstance_([1], list) and isinstance_(t, Any)
    assert isinstance_({"a": [1]}, dict[str, list[int]]) and not isinstance_({1: 1}, dict[str, int])
    assert isinstance_((1, "a"), tuple[int, str]) and not isinstance_((1,), tuple[int, str])
    assert isinstance_((1, 2, 3), tuple[int, ...]) and not isinstance_(["a"], tuple[str, ...])
    assert isinstance_(None, int | None) and not isinstance_("a", int | None)
    assert isinstance_(1, (str, list[int], int)) and not isinstance_(1.0, (str, list[int]))


def test_tensors_are_sorted_by_device_and_dtype():
    from lampion.compat.torch_internals import EXTRA

    group = EXTRA["torch.utils._foreach_utils"]()["_group_tensors_by_device_and_dtype"]
    a, b, c = lampion.ones(1), lampion.ones(1, dtype=lampion.float64), lampion.zeros(2)
    found = group([[a, b, c], [], [None, 1, 2]], with_indices=True)
    assert found == {(a.device, a.dtype): ([[a, c], [], [None, 2]], [0, 2]),
                     (a.device, b.dtype): ([[b], [], [1]], [1])}


def test_checks_raise_what_they_are_named_for():
    from lampion.compat.torch_internals import _checks

    checks = _checks()
    for name, error in (("_check", RuntimeError), ("_check_index", IndexError),
                        ("_check_value", ValueError), ("_check_type", TypeError),
                        ("_check_not_implemented", NotImplementedError)):
        assert checks[name](True, lambda: 1 / 0) is None
        with pytest.raises(error, match="no good"):
            checks[name](False, lambda: "no good")
    with pytest.raises(KeyError, match="mine"):
        checks["_check_with"](KeyError, False, lambda: "mine")
    with pytest.raises(TypeError, match="must be a bool"):
        checks["_check"](lampion.ones(1))
    with pytest.raises(RuntimeError, match="Expected cond"):
        checks["_check_tensor_all"](lampion.tensor([True, False]))
    with pytest.raises(RuntimeError):
        checks["_check_is_size"](-1)
    checks["_check_is_size"](3, max=3)


PICKLED = (  # by Python's pickle, of torch.arange(6.).reshape(2, 3)
    "gASVngEAAAAAAACMDHRvcmNoLl91dGlsc5SMEl9yZWJ1aWxkX3RlbnNvcl92MpSTlCiMDXRvcmNoLnN0b3JhZ2WUjB"
    "BfbG9hZF9mcm9tX2J5dGVzlJOUQhMBAACAAooKbPycRvkgaqhQGS6AAk3pAy6AAn1xAChYEAAAAHByb3RvY29sX3Zl"
    "cnNpb25xAU3pA1gNAAAAbGl0dGxlX2VuZGlhbnECiFgKAAAAdHlwZV9zaXplc3EDfXEEKFgFAAAAc2hvcnRxBUsCWA"
    "MAAABpbnRxBksEWAQAAABsb25ncQdLBHV1LoACKFgHAAAAc3RvcmFnZXEAY3RvcmNoCkZsb2F0U3RvcmFnZQpxAVgO"
    "AAAAOTQxMTM5ODE1MTUzNjBxAlgDAAAAY3B1cQNLBk50cQRRLoACXXEAWA4AAAA5NDExMzk4MTUxNTM2MHEBYS4GAA"
    "AAAAAAAAAAAAAAAIA/AAAAQAAAQEAAAIBAAACgQJSFlFKUSwBLAksDhpRLA0sBhpSJjAtjb2xsZWN0aW9uc5SMC09y"
    "ZGVyZWREaWN0lJOUKVKUdJRSlC4=")


def test_plain_pickles_of_tensors_are_read():
    import base64
    import pickle

    from lampion import compat

    compat.install()
    try:
        assert pickle.loads(base64.b64decode(PICKLED)).tolist() == [[0, 1, 2], [3, 4, 5]]
    finally:
        compat.uninstall()
