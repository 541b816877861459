"""What the nn parity tests share: samples, runs, comparisons, scenarios."""
import re
import warnings

import numpy as np
import torch

import lampion

TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}
REDUCTIONS = ("mean", "sum", "none")


def build(library, expression):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return eval("nn." + expression, {"nn": library.nn, "torch": library})


def plain(text):
    """Text without the library's name."""
    return text.replace("lampion", "torch")


def sample(spec, seed):
    rng = np.random.default_rng(seed)
    kind, shape, limit = ("normal", spec, None) if not spec or not isinstance(spec[0], str) \
        else (spec[0], spec[1], spec[2] if len(spec) > 2 else None)
    if kind == "int":
        return rng.integers(0, limit, shape).astype(np.int64)
    if kind == "labels":
        rows = np.array([rng.permutation(limit) for _ in range(shape[0])])
        rows[0, 1], rows[1, 0] = -1, -1
        return rows.astype(np.int64)
    if kind == "pos":
        return rng.uniform(0.05, 0.95, shape).astype(np.float32)
    if kind == "sign":
        return rng.choice([-1.0, 1.0], shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def array(tensor):
    return tensor.detach().numpy()


def tensors(value):
    """The tensors in nested tuples, in order."""
    if value is None:
        return []
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in tensors(v)]
    return [value]


def inputs(library, specs, grad=True):
    made = []
    for i, spec in enumerate(specs):
        values = sample(spec, 100 + i)
        tensor = library.tensor(values)
        if grad and values.dtype == np.float32:
            tensor.requires_grad_()
        made.append(tensor)
    return made


def copy_state(source, target):
    """Give lampion's module the values of torch's."""
    state = {k: lampion.tensor(array(v)) for k, v in source.state_dict().items()}
    assert str(target.load_state_dict(state)) == "<All keys matched successfully>"


def run(module, arguments, expression):
    """Outputs and gradients of inputs and parameters, as arrays."""
    fed = [a.clone() if a.requires_grad and ("True" in expression) else a for a in arguments]
    outputs = tensors(module(*fed))
    total = 0
    for i, out in enumerate(outputs):
        if out.is_floating_point() and out.requires_grad:
            total = total + (out * (i + 1) * 0.5 + out * out).sum()
    found = [array(out) for out in outputs]
    if isinstance(total, int):
        return found, []
    total.backward()
    grads = [a.grad for a in arguments if a.requires_grad]
    grads += [p.grad for p in module.parameters()]
    return found, [None if g is None else array(g) for g in grads]


def compare(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, his in zip(ours, theirs):
        if his is None or mine is None:
            assert (mine is None or not mine.any()) and (his is None or not his.any())
            continue
        assert mine.shape == his.shape and mine.dtype == his.dtype
        np.testing.assert_allclose(mine, his, **TOLERANCE)


# Texts that are lampion's own; the exception's type is torch's.
OWN_TEXT = re.compile("extra_state|isint|ParametersDict|unexpected kwargs|size_average|"
                      "Serialization|can require gradients|per channel when training")


def outcome(action):
    """The result of `action`, or the exception's type and text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return repr(action())
        except Exception as error:
            text = str(error).partition("\nin ")[0]  # what follows names the layer: ours alone
            return type(error).__name__, text


def check_scenario(scenario):
    """Every step has the same result or error in both libraries."""
    different = []
    for i, (mine, his) in enumerate(zip(scenario(lampion), scenario(torch))):
        ours, theirs = outcome(mine), outcome(his)
        ours = tuple(map(plain, ours)) if isinstance(ours, tuple) else plain(ours)
        own = OWN_TEXT.search(str(theirs)) and type(ours) is type(theirs)
        if ours == theirs or (own and ours[0] == theirs[0]):
            continue
        different.append((i, ours, theirs))
    assert not different, "\n".join(f"{i}:\n  ours  {a}\n  torch {b}" for i, a, b in different)
