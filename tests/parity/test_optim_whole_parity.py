"""Optimizers of their own kind against PyTorch: L-BFGS and its line search, Muon for matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lampion

MODULES = (lampion, torch)


def rosenbrock(p):
    x, y = p[0], p[1]
    return (1 - x) ** 2 + 100 * (y - x ** 2) ** 2


@pytest.mark.parametrize("options", [
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "history_size": 2, "max_iter": 7},
    {"line_search_fn": "strong_wolfe", "max_eval": 5, "lr": 0.5},
    {"lr": 0.01, "max_iter": 5},
    {"lr": 0.3, "tolerance_grad": 1e-2, "max_iter": 3},
])
@pytest.mark.parametrize("start", [(-1.2, 1.0), (0.5, -0.5), (1.0, 1.0)])
def test_lbfgs_takes_the_same_steps(options, start):
    paths = []
    for m in MODULES:
        p = m.tensor(start, dtype=m.float64, requires_grad=True)
        opt = m.optim.LBFGS([p], **options)
        path = []

        def closure(opt=opt, p=p):
            opt.zero_grad()
            loss = rosenbrock(p)
            loss.backward()
            return loss

        for _ in range(4):
            loss = opt.step(closure)
            path.append((float(loss), *p.tolist(), opt.state[p]["func_evals"],
                         opt.state[p]["n_iter"]))
        paths.append(path)
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-5, atol=1e-8)


def test_lbfgs_trains_a_network_and_resumes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    w = [rng.normal(size=(8, 3)), rng.normal(size=8), rng.normal(size=(1, 8)), rng.normal(size=1)]
    results = []
    for m in MODULES:
        ps = [m.tensor(a, requires_grad=True) for a in w]
        a, b = m.tensor(x), m.tensor(y)

        def closure(m=m, ps=ps, a=a, b=b):
            for p in ps:
                p.grad = None
            h = m.tanh(m.nn.functional.linear(a, ps[0], ps[1]))
            loss = ((m.nn.functional.linear(h, ps[2], ps[3]) - b) ** 2).mean()
            loss.backward()
            return loss

        opt = m.optim.LBFGS(ps, max_iter=6, line_search_fn="strong_wolfe")
        opt.step(closure)
        other = m.optim.LBFGS(ps, max_iter=6, line_search_fn="strong_wolfe")
        other.load_state_dict(opt.state_dict())
        losses = [float(other.step(closure)) for _ in range(3)]
        results.append((losses, ps[0].detach().numpy()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_lbfgs_errors():
    for m in MODULES:
        p = m.ones(2, requires_grad=True)
        with pytest.raises(ValueError):
            m.optim.LBFGS([{"params": [p]}, {"params": [m.ones(1, requires_grad=True)]}])
        opt = m.optim.LBFGS([p], line_search_fn="weak")

        def closure(p=p):
            loss = (p * p).sum()
            loss.backward()
            return loss

        with pytest.raises(RuntimeError, match="strong_wolfe"):
            opt.step(closure)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("options", [
    {}, {"nesterov": False, "weight_decay": 0.0, "lr": 0.1},
    {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
])
def test_muon(shape, options):
    rng = np.random.default_rng(1)
    start, grads = rng.normal(size=shape), rng.normal(size=(4, *shape))
    found = []
    for m in MODULES:
        p = m.tensor(start.astype(np.float32), requires_grad=True)
        opt = m.optim.Muon([p], **options)
        for g in grads:
            p.grad = m.tensor(g.astype(np.float32))
            opt.step()
        found.append((p.detach().numpy(), opt.state[p]["momentum_buffer"].numpy()))
    lr = options.get("lr", 1e-3)
    np.testing.assert_allclose(found[0][0], found[1][0], atol=lr * 0.1)  # bfloat16 inside
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


def test_muon_refuses_vectors():
    for m in MODULES:
        with pytest.raises(ValueError, match="2D"):
            m.optim.Muon([m.ones(3, requires_grad=True)])
