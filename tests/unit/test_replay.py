"""Replayed composites: what they give, when they run their Python, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lampion as torch
from lampion.ops import registry
from lampion.ops.samples import materialize, samples_of
from lampion.replay import replayed

F = torch.nn.functional
REPLAYED = [op for op in registry.REGISTRY.values() if getattr(op, "replay", False)]


class Counted:
    """A function that counts its calls."""

    def __init__(self, body: Any) -> None:
        self.calls = 0
        self.__name__, self.body = "counted", body

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.body(*args, **kwargs)


def runs(body: Any, *args: Any, times: int = 5, **kwargs: Any) -> tuple[int, Any]:
    """(how often the Python of `body` ran in `times` calls, the last result)."""
    counted = Counted(body)
    fn = replayed(counted)
    for _ in range(times):
        result = fn(*args, **kwargs)
    return counted.calls, result


def flat(result: Any) -> list[Any]:
    """The arrays in a result."""
    if isinstance(result, (tuple, list)):
        return [a for r in result for a in flat(r)]
    return [result.detach().resolve_conj().numpy() if isinstance(result, torch.Tensor) else result]


def same(a: Any, b: Any) -> None:
    """AssertionError unless two results are equal in type (a named tuple will do for a tuple),
    shape, dtype, strides and values."""
    assert isinstance(a, type(b))
    for x, y in zip(flat(a), flat(b), strict=True):
        np.testing.assert_array_equal(x, y)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype and x.strides == y.strides


@pytest.mark.parametrize("op", REPLAYED, ids=lambda op: op.qualname)
def test_other_values_of_the_same_shapes(op: Any) -> None:
    """Replayed on values that the watched call did not have, an op gives what its Python gives."""
    rng = np.random.default_rng(0)
    found = samples_of(op, rng)
    for k in range(len(found)):
        make = lambda buffer: torch.from_numpy(buffer.array())  # noqa: E731
        try:
            first = materialize(samples_of(op, np.random.default_rng(1))[k],
                                np.random.default_rng(1), make)[0]
            second = materialize(samples_of(op, np.random.default_rng(1))[k],
                                 np.random.default_rng(2), make)[0]
        except (TypeError, ValueError):  # a dtype or layout that NumPy has not
            continue
        for _ in range(3):
            op.fn(*first.args, **first.kwargs)
        same(op.fn(*second.args, **second.kwargs), op.body(*second.args, **second.kwargs))


def test_zeros_of_both_signs_are_told_apart() -> None:
    fn = replayed(lambda x, number: x * number)
    x = torch.ones(2)
    for _ in range(3):
        assert [np.signbit(fn(x, n).numpy()).any() for n in (0.0, -0.0, 0)] == [False, True, False]


def test_python_runs_twice() -> None:
    calls, y = runs(lambda a, b: (a.reshape(4) * b).reshape(2, 2) + 1,
                    torch.ones(2, 2), torch.full((4,), 3.0))
    assert calls == 2 and y.tolist() == [[4, 4], [4, 4]]


def test_other_numbers_and_shapes_are_other_calls() -> None:
    fn = replayed(lambda x, n, *, k=1: x.flatten() * n + k)
    for _ in range(4):
        assert fn(torch.ones(2), 2).tolist() == [3, 3]
        assert fn(torch.ones(2), 2.5).tolist() == [3.5, 3.5]
        assert fn(torch.ones(2), True).dtype is torch.float32
        assert fn(torch.ones(2, dtype=torch.int64), True).dtype is torch.int64
        assert fn(torch.ones(3), 2, k=5).tolist() == [7, 7, 7]
        assert fn(torch.ones(2), 2).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert replayed(fn)(torch.arange(2), 0.5).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_views_share_the_memory_of_the_argument() -> None:
    x = torch.zeros(3, 4)
    fn = replayed(lambda x: (x.transpose(0, 1)[1], x, x.sum()))
    for k in range(4):
        part, whole, total = fn(x)
        assert part._base is x and whole is x and total._base is None
        part.fill_(k + 1.0)
        assert x[:, 1].tolist() == [k + 1.0] * 3 and fn(x)[2].item() == 3.0 * (k + 1)
    inner = x[1:]  # a view of a view hangs at the tensor below
    assert fn(inner)[0]._base is x and fn(inner)[0]._base is x and fn(inner)[0]._base is x


def test_recorded_calls_run_the_python() -> None:
    counted = Counted(lambda x: (x * 2).tanh().sum())
    fn = replayed(counted)
    x = torch.ones(3)
    for _ in range(3):
        fn(x)
    p = torch.nn.Parameter(torch.ones(3))
    fn(p).backward()
    assert counted.calls == 3 and p.grad is not None
    with torch.no_grad():
        assert not fn(p).requires_grad
    assert counted.calls == 3


def _reads(x: Any) -> Any:
    return x * 2 if x.sum().item() > 0 else x - 1


def _writes(x: Any) -> Any:
    out = torch.zeros_like(x)
    out[1:].copy_(x[:-1])
    return out


@pytest.mark.parametrize("body", [
    _reads, _writes, lambda x: x + torch.rand(3), lambda x: x.tolist(), lambda x: x.add_(1),
    lambda x: torch.tensor([1.0, 2.0, 3.0]), lambda x: x * x.nonzero().size(0),
], ids=["reads", "writes", "random", "list", "in place", "constant", "nonzero"])
def test_what_cannot_be_replayed(body: Any) -> None:
    assert runs(body, torch.ones(3))[0] == 5


def test_values_that_decide_are_looked_at_every_time() -> None:
    fn = replayed(_reads)
    for _ in range(3):
        fn(torch.ones(3))
    assert fn(-torch.ones(3)).tolist() == [-2, -2, -2]


def test_constants_are_kept() -> None:
    calls, y = runs(lambda x: x + torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))
    assert calls == 2 and y.tolist() == [2, 3, 4]


def test_arguments_that_are_one_tensor() -> None:
    counted = Counted(lambda a, b: a * 2 + b)
    fn = replayed(counted)
    x, y = torch.ones(2), torch.full((2,), 5.0)
    for _ in range(3):
        assert fn(x, x).tolist() == [3, 3]
    for _ in range(3):
        assert fn(x, y).tolist() == [7, 7]
    assert fn(x, x).tolist() == [3, 3]


def test_lists_out_and_unhashable_arguments() -> None:
    assert runs(lambda ts, dim: torch.cat(ts, dim).sum(), [torch.ones(2), torch.ones(3)], 0)[0] == 2
    assert runs(lambda x, a: x + 1, torch.ones(2), {})[0] == 5
    out = torch.empty(4, 4)
    for _ in range(3):
        assert torch.kron(torch.ones(2, 2), torch.ones(2, 2), out=out) is out
    assert out.sum().item() == 16


def test_errors_come_every_time() -> None:
    for _ in range(4):
        with pytest.raises(RuntimeError, match="inner"):
            torch.inner(torch.ones(2), torch.ones(3))
        with pytest.raises(IndexError):
            F.nll_loss(torch.zeros(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("fn, shapes", [
    (lambda x: F.pixel_shuffle(x, 2), [(1, 4, 2, 2)]),
    (F.cosine_similarity, [(3, 4), (3, 4)]),
    (lambda x, g: F.grid_sample(x, g, align_corners=False), [(1, 2, 3, 3), (1, 2, 2, 2)]),
    (F.normalize, [(3, 4)]),
    (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 2)]),
    (lambda a: torch.quantile(a, 0.3, 1), [(3, 5)]),
], ids=["pixel_shuffle", "cosine_similarity", "grid_sample", "normalize", "einsum", "quantile"])
def test_functions_of_networks(fn: Any, shapes: Any) -> None:
    draw = lambda: [torch.randn(*s) for s in shapes]  # noqa: E731
    for _ in range(3):
        fn(*draw())
    args = draw()
    with torch.enable_grad():
        expected = fn(*[a.clone().requires_grad_() for a in args]).detach()
    same(fn(*args), expected)
