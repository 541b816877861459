"""Learning-rate schedules against PyTorch: bit-equal rates over random configurations."""

import random
import warnings

import pytest

torch = pytest.importorskip("torch")

import lampion  # noqa: E402

FRAMEWORKS = (lampion, torch)


def optimizer_of(framework, rates, kind="SGD"):
    groups = [
        {"params": [framework.tensor([float(i)]).requires_grad_(True)], "lr": rate}
        for i, rate in enumerate(rates)
    ]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(framework.optim, kind)(groups, lr=0.1, **options)


def configurations(seed):
    """(name, make(schedules module, optimizer)) with random arguments."""
    rng = random.Random(seed)
    gamma, factor = rng.uniform(0.1, 0.99), rng.uniform(0.05, 0.95)
    size, total, power = rng.randint(1, 6), rng.randint(2, 9), rng.uniform(0.3, 3)
    half, low = rng.randint(2, 9), rng.choice([0.0, 1e-3])
    marks = [rng.randint(1, 15) for _ in range(4)]
    base, top = rng.uniform(0.001, 0.01), rng.uniform(0.1, 1)
    down = rng.choice([None, 3])
    mode = rng.choice(["triangular", "triangular2", "exp_range"])
    anneal, three = rng.choice(["cos", "linear"]), rng.random() < 0.5
    pct, mult, end = rng.uniform(0.2, 0.45), rng.choice([1, 2]), rng.uniform(0.1, 1)

    def lambdas(s, o):
        return s.LambdaLR(o, [lambda e: gamma**e, lambda e: 1 / (e + factor)])

    def sequential(s, o):
        parts = [s.ConstantLR(o, factor, total), s.ExponentialLR(o, gamma), s.StepLR(o, size)]
        return s.SequentialLR(o, parts, milestones=[3, 8])

    def chained(s, o):
        return s.ChainedScheduler([s.LinearLR(o, factor, end, total), s.StepLR(o, size, gamma)])

    def nested(s, o):
        first = s.ChainedScheduler([s.ConstantLR(o, factor, total), s.ExponentialLR(o, gamma)])
        return s.SequentialLR(o, [first, s.CosineAnnealingLR(o, half)], milestones=[4])

    return {
        "LambdaLR": lambdas,
        "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda e: 1 - gamma / (e + 2)),
        "StepLR": lambda s, o: s.StepLR(o, size, gamma),
        "MultiStepLR": lambda s, o: s.MultiStepLR(o, marks, gamma),
        "ConstantLR": lambda s, o: s.ConstantLR(o, factor, total),
        "LinearLR": lambda s, o: s.LinearLR(o, factor, end, total),
        "ExponentialLR": lambda s, o: s.ExponentialLR(o, gamma),
        "PolynomialLR": lambda s, o: s.PolynomialLR(o, total, power),
        "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, half, low),
        "WarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, size, mult, low),
        "CyclicLR": lambda s, o: s.CyclicLR(o, base, top, total, down, mode, gamma),
        "CyclicLR-custom": lambda s, o: s.CyclicLR(
            o, base, top, total, scale_fn=lambda x: gamma**x, scale_mode="iterations",
            cycle_momentum=False,
        ),
        "OneCycleLR": lambda s, o: s.OneCycleLR(
            o, [top, base], total_steps=30, pct_start=pct, anneal_strategy=anneal,
            three_phase=three,
        ),
        "SequentialLR": sequential,
        "ChainedScheduler": chained,
        "nested": nested,
    }  # fmt: skip


def options_of(optimizer):
    keys = ("lr", "momentum", "betas")
    return [{k: g[k] for k in keys if k in g} for g in optimizer.param_groups]


NAMES = list(configurations(0))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", NAMES)
def test_rates_are_equal(name, seed):
    traces = []
    for framework in FRAMEWORKS:
        kind = "SGD" if seed % 2 else "Adam"
        optimizer = optimizer_of(framework, [0.3, 0.0517], kind)
        schedule = configurations(seed)[name](framework.optim.lr_scheduler, optimizer)
        trace = [options_of(optimizer)]
        for _ in range(25):
            optimizer.step()
            schedule.step()
            trace.append((options_of(optimizer), schedule.get_last_lr()))
        traces.append(trace)
    assert traces[0] == traces[1]


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_equal_and_resume(name):
    states = []
    for framework in FRAMEWORKS:
        optimizer = optimizer_of(framework, [0.3, 0.0517])
        schedule = configurations(7)[name](framework.optim.lr_scheduler, optimizer)
        for _ in range(5):
            optimizer.step()
            schedule.step()
        states.append((schedule.state_dict(), optimizer, schedule))
    ours, theirs = states[0][0], states[1][0]
    assert ours.keys() == theirs.keys()
    assert ours["_last_lr"] == theirs["_last_lr"]

    fresh = optimizer_of(lampion, [0.3, 0.0517])
    resumed = configurations(7)[name](lampion.optim.lr_scheduler, fresh)
    fresh.load_state_dict(states[0][1].state_dict())
    resumed.load_state_dict(ours)
    for _ in range(8):
        for optimizer, schedule in ((fresh, resumed), states[1][1:]):
            optimizer.step()
            schedule.step()
    assert options_of(fresh) == options_of(states[1][1])


CLOSED = ["StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR",
          "CosineAnnealingLR", "WarmRestarts"]  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_equal(name):
    traces = []
    for framework in FRAMEWORKS:
        optimizer = optimizer_of(framework, [0.3])
        schedule = configurations(3)[name](framework.optim.lr_scheduler, optimizer)
        trace = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for epoch in (3, 1, 8, 2, 14):
                optimizer.step()
                schedule.step(epoch)
                trace.append(schedule.get_last_lr())
        traces.append(trace)
    assert traces[0] == traces[1]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau(mode, threshold_mode):
    traces = []
    for framework in FRAMEWORKS:
        rng = random.Random(1)
        optimizer = optimizer_of(framework, [0.3, 0.05])
        schedule = framework.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode, 0.5, 2, 1e-2, threshold_mode, cooldown=1, min_lr=[0.001, 0.01]
        )
        trace = []
        for _ in range(40):
            schedule.step(rng.random())
            trace.append((schedule.get_last_lr(), schedule.num_bad_epochs, schedule.best))
        traces.append((trace, schedule.state_dict()))
    assert traces[0] == traces[1]


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 1, 6])
def test_swalr(strategy, epochs):
    traces = []
    for framework in FRAMEWORKS:
        optimizer = optimizer_of(framework, [0.3, 0.05])
        schedule = framework.optim.swa_utils.SWALR(optimizer, 0.01, epochs, strategy)
        trace = []
        for _ in range(10):
            optimizer.step()
            schedule.step()
            trace.append(schedule.get_last_lr())
        traces.append(trace)
    assert traces[0] == traces[1]


def test_tensor_rates_are_filled_in_place():
    for framework in FRAMEWORKS:
        rate = framework.tensor(0.5, dtype=framework.float64)
        p = framework.tensor([1.0]).requires_grad_(True)
        optimizer = framework.optim.SGD([p], lr=rate)
        schedule = framework.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == 0.25


@pytest.mark.parametrize(
    "make",
    [
        lambda s, o: s.LambdaLR(o, [lambda e: 1.0]),
        lambda s, o: s.ConstantLR(o, 1.5),
        lambda s, o: s.LinearLR(o, 0.0),
        lambda s, o: s.LinearLR(o, 0.5, 1.5),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 0),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 1, 0),
        lambda s, o: s.OneCycleLR(o, 0.1),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=-1),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=5, pct_start=2.0),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=5, anneal_strategy="no"),
        lambda s, o: s.CyclicLR(o, [0.1], 0.2),
        lambda s, o: s.CyclicLR(o, 0.1, 0.2, mode="no"),
        lambda s, o: s.ReduceLROnPlateau(o, factor=1.0),
        lambda s, o: s.ReduceLROnPlateau(o, "no"),
        lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0.1]),
        lambda s, o: s.SequentialLR(o, [], []),
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [1]),
        lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []),
        lambda s, o: s.ChainedScheduler([s.ReduceLROnPlateau(o)]),
        lambda s, o: s.StepLR(None, 1),
    ],
)
def test_errors_are_torchs(make):
    raised = []
    for framework in FRAMEWORKS:
        with pytest.raises((ValueError, TypeError)) as caught:
            make(framework.optim.lr_scheduler, optimizer_of(framework, [0.1, 0.2]))
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]
