"""`axis` and `keepdims`, as programs that come from NumPy write them."""

from __future__ import annotations

import inspect

import pytest

import lampion
from lampion import nn

X = lampion.tensor([[1.0, 3.0, 2.0], [6.0, 5.0, 4.0]])
AT = lampion.tensor([[1], [0]])

CALLS = {  # with a default, without one, starred, in front of a required argument, composites
    "sum": lambda n: X.sum(**{n: 1}),
    "lampion.sum": lambda n: lampion.sum(X, **{n: 0}, dtype=lampion.float64),
    "argmax": lambda n: X.argmax(**{n: 1}),
    "cumsum": lambda n: X.cumsum(**{n: 0}),
    "unsqueeze": lambda n: X.unsqueeze(**{n: 1}),
    "squeeze": lambda n: X.unsqueeze(0).squeeze(**{n: 0}),
    "gather": lambda n: lampion.gather(X, index=AT, **{n: 1}),
    "index_select": lambda n: X.index_select(index=AT[:, 0], **{n: 1}),
    "cat": lambda n: lampion.cat([X, X], **{n: 1}),
    "concatenate": lambda n: lampion.concatenate((X, X), **{n: 1}),
    "softmax": lambda n: lampion.softmax(X, **{n: 1}),
    "logsumexp": lambda n: X.logsumexp(**{n: 0}),
    "max": lambda n: X.max(**{n: 1}),
    "std": lambda n: lampion.std(X, **{n: 0}),
    "chunk": lambda n: lampion.chunk(X, 3, **{n: 1}),
    "unbind": lambda n: X.unbind(**{n: 1}),
    "narrow": lambda n: X.narrow(start=0, length=2, **{n: 1}),
    "index_add": lambda n: X.index_add(index=AT[:, 0], source=X[:, :2], **{n: 1}),
    "linalg.norm": lambda n: lampion.linalg.norm(X, **{n: 1}),
    "functional": lambda n: nn.functional.log_softmax(X, **{n: 1}),
    "sort": lambda n: X.sort(**{n: 1}),
    "median": lambda n: X.median(**{n: 1}),
    "fft": lambda n: lampion.fft.fft(X, **{n: 0}),
}


def flat(result):
    return [t.tolist() for t in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("name", CALLS)
def test_axis_is_dim(name):
    assert flat(CALLS[name]("axis")) == flat(CALLS[name]("dim"))


@pytest.mark.parametrize("call", [lampion.sum, lampion.mean, lampion.amax, lampion.prod,
                                  lampion.argmin, lampion.logsumexp, lampion.var])
def test_keepdims_is_keepdim(call):
    assert call(X, axis=1, keepdims=True).tolist() == call(X, 1, keepdim=True).tolist()
    assert call(X, dim=1, keepdims=False).shape == (2,)


@pytest.mark.parametrize("call", [
    lambda: X.sum(0, axis=1), lambda: lampion.cat([X], 1, axis=0), lambda: X.cumsum(0, axis=0),
    lambda: X.squeeze(0, axis=1), lambda: lampion.softmax(X, 1, axis=1),
    lambda: X.chunk(2, 1, axis=0), lambda: X.max(1, axis=1)])
def test_both_names_are_refused(call):
    with pytest.raises(TypeError, match="multiple values for argument 'dim'"):
        call()


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"cumsum\(\) missing .*'dim'"):
        X.cumsum()
    with pytest.raises(TypeError, match=r"gather\(\) missing .*'index'"):
        X.gather(1)
    with pytest.raises(TypeError, match=r"gather\(\) missing .*'index'"):
        lampion.gather(X, axis=1)
    with pytest.raises(TypeError, match="axes"):
        X.sum(axes=1)


def test_gradients_follow():
    x = X.clone().requires_grad_()
    x.sum(axis=1, keepdims=True).prod().backward()
    assert x.grad.tolist() == [[15.0] * 3, [6.0] * 3]


def test_functions_say_so():
    assert list(inspect.signature(lampion.argmax).parameters) == [
        "input", "dim", "keepdim", "axis", "keepdims", "out"]
