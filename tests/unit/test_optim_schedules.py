"""Schedules and weight averaging, by their closed forms."""

import math
import warnings

import pytest

import lampion
from lampion.optim import SGD, Adam, lr_scheduler, swa_utils


def make(lr=1.0, kind=SGD, **options):
    return kind([lampion.ones(1).requires_grad_(True)], lr=lr, **options)


def trace(optimizer, schedule, steps):
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda o: lr_scheduler.StepLR(o, 2, 0.5), [1, 1, 0.5, 0.5, 0.25]),
        (lambda o: lr_scheduler.MultiStepLR(o, [1, 3, 3], 0.5), [1, 0.5, 0.5, 0.125, 0.125]),
        (lambda o: lr_scheduler.ConstantLR(o, 0.5, 2), [0.5, 0.5, 1, 1, 1]),
        (lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 2), [0.5, 0.75, 1, 1, 1]),
        (lambda o: lr_scheduler.ExponentialLR(o, 0.5), [1, 0.5, 0.25, 0.125, 0.0625]),
        (lambda o: lr_scheduler.PolynomialLR(o, 4, 1.0), [1, 0.75, 0.5, 0.25, 0]),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 2), [1, 0.5, 0, 0.5, 1]),
        (lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (e + 1)), [1, 0.5, 1 / 3, 0.25, 0.2]),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2), [1, 0.5, 1, 0.5, 1]),
        (
            lambda o: lr_scheduler.CyclicLR(o, 0.0, 1.0, 2, cycle_momentum=False),
            [0, 0.5, 1, 0.5, 0],
        ),
    ],
)
def test_closed_forms(build, expected):
    optimizer = make()
    assert trace(optimizer, build(optimizer), 4) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_moves_rate_and_momentum():
    for kind, options in ((SGD, {"momentum": 0.9}), (Adam, {})):
        optimizer = make(kind=kind, **options)
        schedule = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=10)
        rates = trace(optimizer, schedule, 9)
        assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 2
        assert rates[0] == pytest.approx(1 / 25) and rates[-1] == pytest.approx(1 / 25e4)
        group = optimizer.param_groups[0]
        last = group["momentum"] if kind is SGD else group["betas"][0]
        assert last == pytest.approx(0.95)
        optimizer.step()
        schedule.step()
        with pytest.raises(ValueError, match="Tried to step"):
            schedule.step()


def test_order_of_calls_is_checked():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lr_scheduler.StepLR(make(), 1).step()
    assert len(caught) == 1 and "optimizer.step()" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_get_lr_points_to_get_last_lr():
    schedule = lr_scheduler.StepLR(make(), 1)
    with pytest.warns(UserWarning, match="get_last_lr"):
        schedule.get_lr()


def test_resuming_needs_the_initial_rate():
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(make(), 1, last_epoch=3)


def test_average_of_models():
    model = lampion.nn.Linear(1, 1, bias=False)
    averaged = swa_utils.AveragedModel(model)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5))
    own = swa_utils.AveragedModel(model, avg_fn=lambda a, p, n: a + (p - a) / (n + 1))
    for value in (1.0, 2.0, 6.0):
        with lampion.no_grad():
            model.weight.fill_(value)
        for m in (averaged, ema, own):
            m.update_parameters(model)
    assert averaged.module.weight.item() == pytest.approx(3.0)
    assert own.module.weight.item() == pytest.approx(3.0)
    assert ema.module.weight.item() == pytest.approx(3.75)
    assert int(averaged.n_averaged) == 3 and "n_averaged" in averaged.state_dict()
    x = lampion.ones(1, 1)
    assert averaged(x).item() == pytest.approx(3.0)
    with pytest.raises(ValueError, match="Invalid decay"):
        swa_utils.get_ema_avg_fn(1.5)


def test_update_bn_refreshes_statistics():
    model = lampion.nn.Sequential(lampion.nn.BatchNorm1d(1))
    layer = model[0]
    layer.running_mean.fill_(50.0)
    model.eval()
    batches = [lampion.tensor([[0.0], [2.0]]), [lampion.tensor([[4.0], [6.0]]), "label"]]
    swa_utils.update_bn(batches, model)
    assert layer.running_mean.item() == pytest.approx(3.0)
    assert layer.momentum == 0.1 and not model.training


def test_swalr():
    optimizer = make(lr=1.0)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.1, anneal_epochs=4)
    rates = trace(optimizer, schedule, 6)
    assert rates[0] == 1.0 and rates[4:] == pytest.approx([0.1] * 3)
    middle = 0.1 * (1 - math.cos(math.pi / 2)) / 2 + 1.0 * (1 + math.cos(math.pi / 2)) / 2
    assert rates[2] == pytest.approx(middle)
