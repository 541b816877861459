"""The Optimizer base: groups, hooks, state dicts, closures."""

import copy
import pickle
import warnings

import pytest

import lampion
from lampion.optim import SGD, Adam, Optimizer
from lampion.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
    required,
)


def leaf(*values):
    return lampion.tensor([float(v) for v in values]).requires_grad_(True)


def give_grads(*params):
    for p in params:
        p.grad = lampion.ones_like(p)


def test_parameter_forms():
    a, b = leaf(1), leaf(2)
    assert SGD([a, b]).param_groups[0]["params"][1] is b
    assert SGD(iter([a])).param_groups[0]["params"] == [a]
    named = SGD([("first", a), ("second", b)])
    assert named.param_groups[0]["param_names"] == ["first", "second"]
    groups = SGD([{"params": a}, {"params": [b], "lr": 9.0}], lr=0.5).param_groups
    assert [g["lr"] for g in groups] == [0.5, 9.0]


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: SGD(leaf(1)), TypeError, "iterable of Tensors"),
        (lambda: SGD([]), ValueError, "empty parameter list"),
        (lambda: SGD([3]), TypeError, "can only optimize Tensors"),
        (lambda: SGD([{"params": {leaf(1)}}]), TypeError, "ordered collections"),
        (lambda: SGD([leaf(1) * 2]), ValueError, "non-leaf"),
        (lambda: SGD([("a", leaf(1)), leaf(2)]), ValueError, "with/without names"),
        (lambda: SGD([leaf(1)]).add_param_group([leaf(2)]), TypeError, "must be a dict"),
    ],
)
def test_bad_parameters(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_a_parameter_belongs_to_one_group():
    a, b = leaf(1), leaf(2)
    optimizer = SGD([a])
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(ValueError, match="with/without names"):
        optimizer.add_param_group({"params": [("b", b)]})
    optimizer.add_param_group({"params": [b], "lr": 3.0})
    assert len(optimizer.param_groups) == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SGD([a, a])
    assert "duplicate" in str(caught[0].message)


def test_required_options():
    with pytest.raises(ValueError, match="required optimization parameter lr"):
        Optimizer([leaf(1)], {"lr": required})
    assert Optimizer([{"params": [leaf(1)], "lr": 1}], {"lr": required}).defaults["lr"] is required


def test_zero_grad():
    a = leaf(1)
    optimizer = SGD([a, leaf(2)])
    give_grads(a)
    kept = a.grad
    optimizer.zero_grad(set_to_none=False)
    assert a.grad is kept and kept.tolist() == [0]
    optimizer.zero_grad()
    assert a.grad is None


def test_closure_runs_with_gradients():
    a = leaf(3)
    optimizer = SGD([a], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (a * a).sum()
        loss.backward()
        return loss

    with lampion.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 9 and a.tolist() == [0]


def test_step_leaves_grad_mode_and_history_alone():
    a = leaf(1)
    optimizer = SGD([a], lr=0.5)
    give_grads(a)
    optimizer.step()
    assert lampion.is_grad_enabled()
    assert a.is_leaf and a.requires_grad and a.grad_fn is None


def test_a_step_is_seen_by_saved_tensors():
    a = leaf(1)
    loss = (a * a).sum()
    a.grad = lampion.ones_like(a)
    SGD([a], lr=0.5).step()
    with pytest.raises(RuntimeError, match="(?s)inplace.*step"):
        loss.backward()


def test_step_hooks():
    a = leaf(1)
    optimizer, calls = SGD([a], lr=1.0), []
    handles = [
        register_optimizer_step_pre_hook(lambda o, args, kwargs: calls.append("global pre")),
        optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append("pre")),
        optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("post")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: calls.append("global post")),
    ]
    optimizer.step()
    assert calls == ["global pre", "pre", "post", "global post"]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(calls) == 4
    with optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {"closure": lambda: 7})):
        assert optimizer.step() == 7
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 1)
    with pytest.raises(RuntimeError, match="tuple"):
        optimizer.step()


def test_hooks_wrap_the_step_of_a_users_subclass():
    class Mine(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self, closure=None):
            return "mine"

    optimizer, calls = Mine([leaf(1)]), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    assert optimizer.step() == "mine" and calls == [1]


def test_hooks_run_once_around_a_step_that_calls_its_base():
    class Mine(SGD):
        def step(self, closure=None):
            super().step(closure)
            return "mine"

    optimizer, calls = Mine([leaf(1)]), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    assert optimizer.step() == "mine" and calls == ["pre", "post"]
    assert optimizer.step() == "mine" and len(calls) == 4


def trained(steps=3):
    a, b = leaf(1, 2), leaf(3)
    optimizer = Adam([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    for _ in range(steps):
        give_grads(a, b)
        optimizer.step()
    return (a, b), optimizer


def test_state_dict_format():
    _, optimizer = trained()
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert list(state["state"]) == [0, 1]
    assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["state"][1]["step"].item() == 3 and state["state"][1]["step"].shape == ()
    assert [g["params"] for g in state["param_groups"]] == [[0], [1]]


def test_load_state_dict_resumes():
    (a, b), optimizer = trained()
    copies = [leaf(*a.tolist()), leaf(*b.tolist())]
    fresh = Adam([{"params": copies[:1]}, {"params": copies[1:]}])
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [g["lr"] for g in fresh.param_groups] == [0.1, 0.5]
    for _ in range(3):
        give_grads(a, b, *copies)
        optimizer.step()
        fresh.step()
    assert copies[0].tolist() == a.tolist() and copies[1].tolist() == b.tolist()
    assert fresh.state[copies[0]]["step"].item() == 6


def test_load_state_dict_adapts_to_the_parameter():
    _, optimizer = trained()
    wide = [lampion.zeros(2, dtype=lampion.float64), lampion.zeros(1, dtype=lampion.float64)]
    fresh = Adam([{"params": wide[:1]}, {"params": wide[1:]}])
    fresh.load_state_dict(optimizer.state_dict())
    state = fresh.state[wide[0]]
    assert state["exp_avg"].dtype == lampion.float64 and state["step"].dtype == lampion.float32


def test_load_state_dict_checks_groups():
    _, optimizer = trained()
    with pytest.raises(ValueError, match="number of parameter groups"):
        Adam([leaf(1)]).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size"):
        Adam([{"params": [leaf(1), leaf(2)]}, {"params": [leaf(3)]}]).load_state_dict(
            optimizer.state_dict()
        )


def test_numbers_as_steps_become_tensors():
    _, optimizer = trained()
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = 3
    fresh = Adam([{"params": [leaf(1, 2)]}, {"params": [leaf(3)]}])
    fresh.load_state_dict(state)
    assert all(s["step"].item() == 3 for s in fresh.state.values())


def test_state_dict_hooks():
    _, optimizer = trained()
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda o, s: {**s, "extra": 1})
    state = optimizer.state_dict()
    assert calls == ["pre"] and state["extra"] == 1
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append("load pre"))
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("load post"))
    optimizer.load_state_dict(state)
    assert calls[1:] == ["first", "load pre", "load post"]


def test_deepcopy_and_pickle():
    (a, b), optimizer = trained()
    for clone in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        p = clone.param_groups[0]["params"][0]
        assert p is not a and p.tolist() == a.tolist()
        before = a.tolist()
        p.grad = lampion.ones_like(p)
        clone.step()
        assert clone.state[p]["step"].item() == 4
        assert a.tolist() == before and optimizer.state[a]["step"].item() == 3


def test_repr():
    text = repr(SGD([leaf(1)], lr=0.25))
    assert text.startswith("SGD (\nParameter Group 0\n    dampening: 0\n") and "lr: 0.25" in text
