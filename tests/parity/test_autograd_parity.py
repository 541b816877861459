"""Autograd against PyTorch: random programs of views and in-place writes, modes, printing."""

from __future__ import annotations

import numpy as np
import pytest

import lampion

torch = pytest.importorskip("torch")

VIEWS = (lambda t: t[1:], lambda t: t[..., ::2], lambda t: t.transpose(0, -1), lambda t: t[0],
         lambda t: t.unsqueeze(0), lambda t: t.flatten() if t.is_contiguous() else t.detach()[:0],
         lambda t: t.narrow(0, 0, 1), lambda t: t.diagonal() if t.dim() > 1 else t[:1])
WRITES = (lambda t, u: t.mul_(2.0), lambda t, u: t.add_(u), lambda t, u: t.mul_(u),
          lambda t, u: t.sin_(), lambda t, u: t.copy_(u), lambda t, u: t.zero_(),
          lambda t, u: t.fill_(3.0))


def run_program(lib, seed: int, contiguous: bool):
    """Values and gradient of one random program; the same draws for both libraries."""
    rng = np.random.default_rng(seed)
    x = lib.tensor(rng.uniform(0.5, 1.5, (3, 4)).tolist(), dtype=lib.float64, requires_grad=True)
    base = x * 1.5 if contiguous else x.t() * 1.5
    if not contiguous:
        base = base.t().clone()
    alive = [base]
    for _ in range(6):
        t = alive[rng.integers(len(alive))]
        if rng.integers(2):
            view = VIEWS[rng.integers(len(VIEWS))](t) if t.dim() else t
            if view.numel():
                alive.append(view)
        else:
            write = rng.integers(len(WRITES))
            other = alive[rng.integers(len(alive))]
            u = (other * 0.5).sum() + x.sum() * 0.1  # a copy, with history
            WRITES[write](t, u)
    weights = [rng.uniform(0.5, 1.5, tuple(t.shape)).tolist() for t in alive]
    total = sum((t * lib.tensor(w, dtype=lib.float64)).sum() for t, w in zip(alive, weights))
    total.backward()
    return [np.array(t.detach().tolist()) for t in alive], np.array(x.grad.tolist())


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("block", range(4))
def test_views_and_writes(block: int, contiguous: bool) -> None:
    for seed in range(15 * block, 15 * block + 15):
        try:
            want = run_program(torch, seed, contiguous)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                run_program(lampion, seed, contiguous)
            continue
        got = run_program(lampion, seed, contiguous)
        for a, b in zip(got[0], want[0]):
            np.testing.assert_allclose(a, b, rtol=1e-10, err_msg=f"seed {seed}")
        np.testing.assert_allclose(got[1], want[1], rtol=1e-9, err_msg=f"seed {seed}")


def both(fn):
    return fn(lampion), fn(torch)


def test_functional_products() -> None:
    def program(lib):
        F = lib.autograd.functional
        x = lib.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=lib.float64)
        w = lib.tensor([0.5, 0.2], dtype=lib.float64)
        f = lambda x, w: ((x * w).sin() * x.exp()).sum()  # noqa: E731
        v = (x + 1, w + 1)
        parts = [F.vhp(f, (x, w), v)[1], F.hvp(f, (x, w), v)[1],
                 F.jvp(f, (x, w), v)[1:], *F.hessian(f, (x, w)), F.jacobian(f, (x, w))]
        return [np.array(t.tolist()) for part in parts for t in part]

    for a, b in zip(*both(program)):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_hook_order() -> None:
    def program(lib):
        seen = []
        x = lib.ones(2, requires_grad=True)
        y = x * 2
        y.register_hook(lambda g: seen.append("a"))
        y.register_hook(lambda g: seen.append("b") or g * 3)
        y.grad_fn.register_prehook(lambda gs: seen.append("pre"))
        y.grad_fn.register_hook(lambda gi, go: seen.append("post"))
        y.retain_grad()
        x.register_hook(lambda g: seen.append("leaf"))
        x.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
        y.sum().backward()
        return seen, x.grad.tolist(), y.grad.tolist()

    got, want = both(program)
    assert got == want


@pytest.mark.parametrize("text", [
    "[1.0, 2.5]", "[1e-8, 1.0]", "[1e10, 1.0]", "[float('nan'), 1.0, float('inf')]",
    "[[1, 2], [3, 4]]", "[True, False]", "[1 + 2j, -3.5j]", "3.25", "[]", "[[[0.1]]]",
    "[1e5, 2.0]"])
def test_print(text: str) -> None:
    got, want = both(lambda lib: repr(lib.tensor(eval(text))))
    assert got == want


@pytest.mark.parametrize("shape", [(40, 40), (2000,), (2, 3, 4), (0, 3), (30,)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int16", "float16"])
def test_print_shapes(shape, dtype: str) -> None:
    def program(lib):
        n = int(np.prod(shape))
        return repr(lib.arange(n).to(getattr(lib, dtype)).reshape(shape))

    got, want = both(program)
    assert got.replace("lampion.", "torch.") == want


def test_print_suffixes() -> None:
    def program(lib):
        x = lib.ones(2, requires_grad=True)
        return [repr(x), repr(x * 2), repr(x.sum()), repr(x.exp())]

    got, want = both(program)
    assert got == want
