"""Every op with samples, exported to ONNX and run by the onnx package's reference evaluator and by
lampion: where ONNX has words for an op, they mean the same.

`make onnx` runs this.
"""

import warnings

import numpy as np
import pytest

import lampion
from lampion.base.errors import UnsupportedError
from lampion.export import ExportError
from lampion.ops import registry
from lampion.ops import samples as S
from lampion.testing import op_checks
from lampion.utils import _pytree

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

# op -> why its samples are left out.
LEFT_OUT = {
    "max_pool1d": "the reference evaluator's MaxPool passes over NaN",
    "bitwise_left_shift": "samples shift by negative numbers, which ONNX does not define",
    "bitwise_right_shift": "samples shift by negative numbers, which ONNX does not define",
    "conv_transpose1d": "the reference evaluator lacks the transpose of one-dimensional "
                        "convolutions with strides"}


def subjects():
    """Public ops with samples."""
    for op in registry.REGISTRY.values():
        if not op.namespace and (op.where or op.method):
            yield op


def samples_of(op):
    try:
        return op_checks._usable(op, "cpu", 12)
    except ValueError:
        return []


def tensors_of(sample):
    """(args, kwargs) with tensors."""
    made, _ = S.materialize(sample, np.random.default_rng(0), op_checks._maker("cpu"))
    return made.args, made.kwargs


def run(op, sample):
    """None, or what is wrong; raises UnsupportedError where there is no translation."""
    args, kwargs = tensors_of(sample)
    leaves, spec = _pytree.tree_flatten((args, kwargs))
    at = [k for k, v in enumerate(leaves) if isinstance(v, lampion.Tensor)]

    class Call(lampion.nn.Module):
        def forward(self, *tensors):
            given = list(leaves)
            for k, t in zip(at, tensors):
                given[k] = t
            a, kw = _pytree.tree_unflatten(given, spec)
            return op.fn(*a, **kw)

    inputs = tuple(leaves[k].detach().clone() for k in at)
    with lampion.no_grad():
        want = op.fn(*args, **kwargs)
    want = [t for t in _pytree.tree_leaves(want) if isinstance(t, lampion.Tensor)]
    program = lampion.onnx.export(Call(), inputs)
    onnx.checker.check_model(program.model_proto, full_check=True)
    names = [i.name for i in program.model_proto.graph.input]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        ours = program(*[t.clone() for t in inputs])
        theirs = ReferenceEvaluator(program.model_proto).run(
            None, {n: t.numpy() for n, t in zip(names, inputs)})
    ours = ours if isinstance(ours, tuple) else (ours,)
    for w, a, b in zip(want, ours, theirs):
        w = w.numpy()
        for who, got in (("lampion", a.numpy()), ("the reference", np.asarray(b))):
            assert got.dtype == w.dtype and got.shape == w.shape, (who, sample, got.shape)
            np.testing.assert_allclose(got, w, rtol=2e-4, atol=2e-5, err_msg=f"{who}: {sample}")


exported = set()


@pytest.mark.parametrize("op", list(subjects()), ids=str)
def test_op(op):
    if op.name in LEFT_OUT:
        pytest.skip(LEFT_OUT[op.name])
    reasons = []
    for sample in samples_of(op)[:6]:
        try:
            run(op, sample)
            exported.add(op.name)
        except (UnsupportedError, ExportError) as error:
            reasons.append(str(error))
    if reasons and op.name not in exported:
        pytest.skip(reasons[0])


def test_most_ops_are_exported():
    """So that what is exported does not get less unnoticed; run after the ops, in one process."""
    if len(exported) < 100:
        pytest.skip("the ops ran in other processes")
    assert len(exported) >= 370
