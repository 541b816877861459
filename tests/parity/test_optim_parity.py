"""Optimizers against PyTorch: parameters, state and state dicts after some steps."""

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lampion  # noqa: E402

SHAPES = [(3,), (2, 5), ()]

CASES = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.01},
        {"lr": 0.1, "maximize": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    ],
    "Adam": [
        {},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6},
        {"lr": 0.01, "weight_decay": 0.1},
        {"lr": 0.01, "amsgrad": True, "maximize": True},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "AdamW": [{}, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.2}],
    "RMSprop": [
        {},
        {"momentum": 0.5, "weight_decay": 0.1},
        {"centered": True, "alpha": 0.9},
        {"centered": True, "momentum": 0.9, "maximize": True},
    ],
    "Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.2, "weight_decay": 0.1}],
    "Adadelta": [{}, {"rho": 0.7, "weight_decay": 0.1, "maximize": True}],
    "Adamax": [{}, {"betas": (0.5, 0.7), "weight_decay": 0.1}],
    "NAdam": [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "RAdam": [
        {"betas": (0.9, 0.9)},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "ASGD": [{}, {"t0": 2, "weight_decay": 0.1}],
    "Adafactor": [
        {},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
        {"beta2_decay": -0.5, "eps": (1e-3, 1e-2), "d": 2.0},
    ],
    "Rprop": [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.05), "maximize": True}],
}
ALL = [(name, options) for name, cases in CASES.items() for options in cases]
IDS = [f"{name}-{'-'.join(options) or 'default'}" for name, options in ALL]
NEAR = {"rtol": 2e-5, "atol": 2e-6}


def arrays(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


def parameters(framework, seed=0, dtype=np.float32):
    tensors = [framework.tensor(a) for a in arrays(seed, dtype)]
    return [t.requires_grad_(True) for t in tensors]


def set_grads(framework, params, seed, skip=None, dtype=np.float32):
    for i, (p, g) in enumerate(zip(params, arrays(seed, dtype))):
        p.grad = None if i == skip else framework.tensor(g)


def run(framework, name, options, steps=8, dtype=np.float32, skip=None):
    params = parameters(framework, dtype=dtype)
    optimizer = getattr(framework.optim, name)(params, **options)
    for step in range(steps):
        set_grads(framework, params, 100 + step, skip(step) if skip else None, dtype)
        optimizer.step()
    return params, optimizer


def close(ours, theirs, **tolerance):
    np.testing.assert_allclose(
        np.asarray(ours.detach().tolist()), np.asarray(theirs.detach().tolist()),
        **(tolerance or NEAR),
    )


def same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours["state"]) == list(theirs["state"])
    for key in theirs["state"]:
        assert set(ours["state"][key]) == set(theirs["state"][key])
        for entry, value in theirs["state"][key].items():
            mine = ours["state"][key][entry]
            assert tuple(mine.shape) == tuple(value.shape)
            assert str(mine.dtype).split(".")[-1] == str(value.dtype).split(".")[-1]
            close(mine, value)
    assert ours["param_groups"] == theirs["param_groups"]


@pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)
def test_steps_and_state(name, options):
    ours, mine = run(lampion, name, options)
    theirs, its = run(torch, name, options)
    for a, b in zip(ours, theirs):
        close(a, b)
    same_state(mine, its)
    assert repr(mine) == repr(its)


@pytest.mark.parametrize("name", CASES)
def test_parameters_that_come_and_go(name):
    """Counters stay right when a parameter has no gradient in some steps."""

    def skip(step):
        return {0: 1, 3: 0, 6: 2}.get(step)

    ours, mine = run(lampion, name, {}, steps=9, skip=skip)
    theirs, its = run(torch, name, {}, steps=9, skip=skip)
    for a, b in zip(ours, theirs):
        close(a, b)
    order = {id(p): i for i, p in enumerate(ours)}
    for p, state in mine.state.items():
        for key, value in its.state[theirs[order[id(p)]]].items():
            close(state[key], value)


@pytest.mark.parametrize("name", CASES)
def test_float64(name):
    ours, _ = run(lampion, name, {}, dtype=np.float64)
    theirs, _ = run(torch, name, {}, dtype=np.float64)
    for a, b in zip(ours, theirs):
        # counters such as NAdam's product are float32 in both
        close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_torch_state_continues_here(name):
    """A state dict of PyTorch's optimizer, converted, continues as PyTorch does."""
    theirs, its = run(torch, name, {}, steps=3)
    ours = [lampion.tensor(p.detach().numpy()).requires_grad_(True) for p in theirs]
    mine = getattr(lampion.optim, name)(ours)
    state = copy.deepcopy(its.state_dict())
    for entries in state["state"].values():
        for key, value in entries.items():
            entries[key] = lampion.tensor(value.numpy())
    mine.load_state_dict(state)
    for step in range(3):
        for framework, params, optimizer in ((lampion, ours, mine), (torch, theirs, its)):
            set_grads(framework, params, 200 + step)
            optimizer.step()
    for a, b in zip(ours, theirs):
        close(a, b)
    same_state(mine, its)


def test_groups_override_defaults():
    results = []
    for framework in (lampion, torch):
        params = parameters(framework)
        optimizer = framework.optim.SGD(
            [{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "momentum": 0.9}], lr=0.1
        )
        for step in range(3):
            set_grads(framework, params, step)
            optimizer.step()
        results.append((params, optimizer))
    for a, b in zip(results[0][0], results[1][0]):
        close(a, b)
    assert repr(results[0][1]) == repr(results[1][1])


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad", "ASGD"])
def test_differentiable_step(name):
    """The gradient of a later loss with respect to the learning signal flows through steps.

    SGD runs without momentum: PyTorch cuts the first step out of the graph there, lampion does
    not (the unit tests check it against finite differences).
    """
    options = {"lr": 0.1, "differentiable": True}
    grads = []
    for framework in (lampion, torch):
        g = framework.tensor(arrays(5)[1]).requires_grad_(True)
        start = framework.tensor(arrays(6)[1]).requires_grad_(True)
        p = start.clone()
        optimizer = getattr(framework.optim, name)([p], **options)
        for _ in range(2):
            p.grad = g * 2.0
            optimizer.step()
        (p * p).sum().backward()
        grads.append((g.grad, start.grad))
    for a, b in zip(*grads):
        close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": -1.0}),
        ("SGD", {"momentum": -0.1}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"weight_decay": -1.0}),
        ("SGD", {"fused": True, "foreach": True}),
        ("Adam", {"betas": (1.0, 0.9)}),
        ("Adam", {"betas": (0.9, -0.1)}),
        ("Adam", {"betas": (0, 0.9)}),
        ("Adam", {"eps": -1.0}),
        ("AdamW", {"fused": True, "differentiable": True}),
        ("RMSprop", {"alpha": -1.0}),
        ("Adagrad", {"lr_decay": -1.0}),
        ("Adadelta", {"rho": 1.1}),
        ("NAdam", {"momentum_decay": -1.0}),
        ("Rprop", {"etas": (1.1, 1.2)}),
        ("ASGD", {"weight_decay": -0.5}),
        ("Adamax", {"betas": (0.0, 1.0)}),
        ("RAdam", {"weight_decay": -1}),
    ],
)
def test_errors_are_torchs(name, options):
    raised = []
    for framework in (lampion, torch):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            getattr(framework.optim, name)(parameters(framework), **options)
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


def test_signatures_are_torchs():
    import inspect

    for name in CASES:
        ours = inspect.signature(getattr(lampion.optim, name).__init__)
        theirs = inspect.signature(getattr(torch.optim, name).__init__)
        assert list(ours.parameters) == list(theirs.parameters), name
        for a, b in itertools.zip_longest(ours.parameters.values(), theirs.parameters.values()):
            assert (a.kind, a.default) == (b.kind, b.default), (name, a, b)
