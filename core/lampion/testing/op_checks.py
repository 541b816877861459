"""What an op gets tested for without writing a test: values, dtypes, shapes, forms, gradients.

Floor 7; imports the ops, autograd and NumPy. The checks run an op on the samples of its block (see
`lampion.ops.samples`) and raise AssertionError for what does not agree:

- `check_values`: every output against a reference that computes in float64 with NumPy; dtypes and
  shapes, which `meta` foretells; the inputs are left as they were; a view shares its input's
  memory.
- `check_same`: one call on two devices, where there is no reference for its dtype or layout.
- `check_forms`: `out=` and the in-place form leave what the plain call returns.
- `check_gradients`: first and second derivatives along random directions against central
  differences in float64; an op declared not differentiable returns no gradients.
- `missing_parts`: what a block lacks for these.
- `check_op`: all of them, and forward mode and vmap (see transform_checks), for the tests of an
  op plug-in.

>>> from lampion.ops.registry import REGISTRY
>>> from lampion.testing.op_checks import check_gradients
>>> check_gradients(REGISTRY["cumsum"], "cpu") > 0
True
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

import lampion

from .. import callpath, plugins
from ..base.dtype import dtype
from ..ops import registry
from ..ops import samples as S
from ..ops.plans import backend_of
from ..runtime.devices import resolve

TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-5, "float64": 1e-10,
             "complex32": 2e-3, "complex64": 2e-5, "complex128": 1e-10}
NARROW = ("float16", "bfloat16", "complex32")
STEP = 1e-5


def check_op(op: Any, device: str = "cpu", reference: Any = None) -> None:
    """Everything that the op's block promises, on one device.

    A plug-in's test is this, over its namespace:

        @pytest.mark.parametrize("op", op_checks.ops_of("acme"))
        def test_op(op):
            op_checks.check_op(op)

    AssertionError for what is missing or wrong.
    """
    lacking = missing_parts(op, reference)
    assert not lacking, f"{op.qualname} lacks {', '.join(lacking)}"
    check_values(op, device, reference)
    check_forms(op, device)
    check_gradients(op, device)
    from .transform_checks import check_batches, check_tangents

    check_tangents(op, device)
    check_batches(op, device)


def ops_of(namespace: str) -> list[Any]:
    """The public ops of a namespace, op plug-ins loaded. ValueError if there are none."""
    plugins.load_ops(registry)
    found = [op for op in registry.REGISTRY.values()
             if op.namespace == namespace and (op.where or op.method)]
    if not found:
        raise ValueError(f"no op is declared in the namespace {namespace!r}")
    return found


def missing_parts(op: Any, reference: Any = None) -> list[str]:
    """Which of "samples", "reference", "gradient" the op lacks for the checks.

    The gradient is lacking if the op is declared differentiable and no sample has a floating
    tensor to differentiate.
    """
    try:
        samples = S.samples_of(op, generator(op, "samples"))
    except ValueError as error:
        return [str(error)]
    lacking = [] if samples else ["samples"]
    if reference is None and op.reference is None:
        lacking.append("reference")
    if samples and op.differentiable and not any(map(_loose, samples)):
        lacking.append("gradient (no sample has a floating tensor; or differentiable=False)")
    return lacking


def generator(op: Any, use: str = "values") -> np.random.Generator:
    """The same numbers for an op in every run, others for every use."""
    return np.random.default_rng(zlib.crc32(f"{op.qualname} {use}".encode()))


def _loose(sample: S.Sample) -> list[int]:
    """Positions of the tensors to differentiate."""
    return [k for k, t in enumerate(sample.tensors())
            if t.dtype.startswith(("float", "bfloat", "complex")) and t.values is None
            and not t.constant]


def _usable(op: Any, device: str, limit: int | None) -> list[S.Sample]:
    """The first `limit` samples whose dtypes the device has."""
    dtypes = _dtypes(device)

    def fits(sample: S.Sample) -> bool:
        named = [a for a in (*sample.args, *sample.kwargs.values()) if isinstance(a, dtype)]
        return all(getattr(lampion, t.dtype) in dtypes for t in sample.tensors()) and all(
            d in dtypes for d in named)

    return list(islice(filter(fits, S.samples_of(op, generator(op, "samples"))), limit))


def _dtypes(device: str) -> Any:
    d = resolve(device)
    return backend_of(d).capabilities(d.index or 0).dtypes


def _maker(device: str) -> Callable[[S.Buffer], Any]:
    def make(b: S.Buffer) -> Any:
        flat = lampion.tensor(b.flat).to(device)
        return flat.as_strided(b.shape, b.strides, b.offset).detach()

    return make


def _call(op: Any, sample: S.Sample) -> Any:
    """The op on a sample with tensors. An op whose name ends in "_" writes to a copy."""
    args = sample.args
    if op.name.endswith("_"):
        args = (args[0].clone(), *args[1:])
    return op.fn(*args, **sample.kwargs)


def _flat(result: Any) -> list[Any]:
    if isinstance(result, (tuple, list)):
        return [x for r in result for x in _flat(r)]
    return [result]


def _host(t: Any) -> Any:
    """The values as an array; of 16-bit parts, with which NumPy hardly computes, as 32-bit ones."""
    t = t.detach().to("cpu").resolve_conj()
    return np.asarray((t.float() if t.dtype is lampion.bfloat16 else t).host())


# ---------------------------------------------------------------- values

def check_values(op: Any, device: str = "cpu", reference: Any = None,
                 limit: int | None = None) -> int:
    """Compare the op with its reference on its samples; returns how many samples were run.

    `reference` (by default the block's) takes the arguments of the op: tensors as arrays, with
    float64 for every floating dtype and complex128 for complex, dtypes as NumPy's. Its results
    have the shapes that the op's must have. A float64 result stands for the widest floating dtype
    among the operands (or the default dtype), complex128 likewise, unless the call has `dtype`;
    every other dtype is compared as it is.
    """
    reference = reference or op.reference
    rng = generator(op)
    samples = _usable(op, device, limit)
    for sample in samples:
        tensors, arrays = S.materialize(sample, rng, _maker(device))
        where = f"{op.qualname}({_shown(sample)}) on {device}"
        result = _call(op, tensors)
        wide = arrays.each(_wide)
        got, want = _flat(result), _flat(reference(*wide.args, **wide.kwargs))
        assert len(got) == len(want), f"{where}: {len(got)} results, not {len(want)}"
        for g, w in zip(got, want):
            _compare(g, w, sample, device, where)
        for t, a in zip(_leaves(tensors), _leaves(arrays)):
            np.testing.assert_array_equal(_host(t), a, f"{where} changed its input")
        if op.kind == "kernel" and op.detour is None:
            _check_meta(op, tensors, got, where)
        if op.kind == "view" and sample.tensors()[0].layout == "contiguous":
            assert result.data_.base is tensors.args[0].data_.base, f"{where} made a copy"
    return len(samples)


def _check_meta(op: Any, sample: S.Sample, got: list[Any], where: str) -> None:
    """The op's `meta` foretells dtypes and shapes, also where it is composed of other ops."""
    plan, _ = callpath.planned(op, op.bind(sample.args, sample.kwargs))
    told = [(m.dtype, m.shape) for m in plan.metas]
    assert told == [(g.dtype, g.meta.shape) for g in got], f"{where}: meta says {told}"


def _shown(sample: S.Sample) -> str:
    """A sample as the text that describes it, for messages."""
    def show(a: Any) -> Any:
        if not isinstance(a, S.T):
            return a
        what = a.shape if a.values is None else a.values
        return f"{a.dtype}{what}" + ("" if a.layout == "contiguous" else f".{a.layout}")

    said = sample.each(show)
    return ", ".join([*map(str, said.args), *(f"{k}={v}" for k, v in said.kwargs.items())])


def _leaves(sample: S.Sample) -> list[Any]:
    """The tensors or arrays of a sample."""
    found: list[Any] = []
    sample.each(lambda a: found.append(a) if hasattr(a, "shape") else None)
    return found


def _wide(a: Any) -> Any:
    """An argument for the reference: arrays with the widest floats, NumPy's dtypes."""
    if isinstance(a, dtype):
        return a.np
    if not isinstance(a, np.ndarray):
        return a
    return a.astype({"c": np.complex128}.get(a.dtype.kind, np.float64)) \
        if a.dtype.kind not in "biu" else a


def _compare(got: Any, want: Any, sample: S.Sample, device: str, where: str) -> None:
    """One result: value, dtype, shape, device. Results that are no tensors must be equal."""
    if not hasattr(got, "data_"):
        assert type(got) is type(want) and got == want, f"{where}: {got!r}, not {want!r}"
        return
    want = np.asarray(want)
    assert tuple(got.shape) == want.shape, f"{where}: shape {tuple(got.shape)}, not {want.shape}"
    name = _expected_dtype(want, sample)
    assert got.dtype.name == name, f"{where}: {got.dtype.name}, not {name}"
    assert got.device == lampion.device(device), f"{where}: result on {got.device}"
    narrow = [t.dtype for t in sample.tensors() if t.dtype in NARROW]
    tolerance = max([TOLERANCE.get(n, 0) for n in (name, *narrow)]) if name in TOLERANCE else 0
    np.testing.assert_allclose(_host(got), want, rtol=tolerance, atol=tolerance, err_msg=where)


def _expected_dtype(want: Any, sample: S.Sample) -> str:
    """The dtype that a reference's result stands for (see `check_values`)."""
    for asked in (*sample.args, *sample.kwargs.values()):
        if isinstance(asked, dtype):
            return asked.name
    if want.dtype not in (np.float64, np.complex128):
        return want.dtype.name
    ds = [getattr(lampion, t.dtype) for t in sample.tensors()]
    ds = [d for d in ds if d.kind in "fc"]
    d = ds[0] if ds else lampion.get_default_dtype()
    for other in ds[1:]:
        d = lampion.promote_types(d, other)
    return (d.to_complex() if want.dtype.kind == "c" else d.to_real()).name


# ---------------------------------------------------------------- two devices

def check_same(op: Any, sample: S.Sample, device: str, other: str) -> bool:
    """Compare one call on two devices: dtypes, shapes, strides and values, or the type of the
    error. AssertionError where they differ; returns whether there was a result.

    Integers and bools must be equal, floats within the dtype's tolerance. A draw has the same seed
    on both.
    """
    buffers = [S.draw(t, generator(op, _shown(sample))) for t in sample.tensors()]
    found = []
    for where in (device, other):
        rest = iter([_maker(where)(b) for b in buffers])
        call = sample.map(lambda _, rest=rest: next(rest))
        lampion.manual_seed(5)
        try:
            found.append(_flat(_call(op, call)))
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            found.append([error])
    where = f"{op.qualname}({_shown(sample)}) on {device} and {other}"
    assert len(found[0]) == len(found[1]), f"{where}: {len(found[0])} and {len(found[1])} results"
    for got, want in zip(*found):
        if not (hasattr(got, "data_") and hasattr(want, "data_")):
            if isinstance(got, Exception) or isinstance(want, Exception):
                assert type(got) is type(want), f"{where}: {got!r} and {want!r}"
                return False
            assert got == want, f"{where}: {got!r} and {want!r}"
            continue
        assert (got.dtype, got.shape, got.stride()) == (want.dtype, want.shape, want.stride()), (
            f"{where}: {got.dtype}{list(got.shape)} with strides {got.stride()}, and "
            f"{want.dtype}{list(want.shape)} with strides {want.stride()}")
        narrow = [t.dtype for t in sample.tensors() if t.dtype in NARROW]
        tolerance = max([TOLERANCE.get(n, 0) for n in (want.dtype.name, *narrow)]) \
            if want.dtype.name in TOLERANCE else 0
        np.testing.assert_allclose(_host(got), _host(want), rtol=tolerance, atol=tolerance,
                                   err_msg=where)
    return True


# ---------------------------------------------------------------- forms

def check_forms(op: Any, device: str = "cpu", limit: int | None = None) -> int:
    """The in-place and `out=` forms leave what the plain call returns, on the first sample that
    each can take; returns how many forms there were to check."""
    rng = generator(op)
    forms = {_check_out} if op.out else set()
    forms |= {_check_inplace} if op.inplace else set()
    done = 0
    for sample in _usable(op, device, limit):
        if not forms:
            break
        tensors, _ = S.materialize(sample, rng, _maker(device))
        want = _call(op, tensors)
        for form in list(forms):
            if form(op, tensors, want):
                forms.remove(form)
                done += 1
    return done


def _equal(got: Any, want: Any, what: str) -> None:
    for g, w in zip(_flat(got), _flat(want)):
        assert g.dtype is w.dtype and g.shape == w.shape, f"{what}: {g.dtype}, {g.shape}"
        np.testing.assert_array_equal(_host(g), _host(w), what)


def _check_out(op: Any, sample: S.Sample, want: Any) -> bool:
    """op(x, out=y) returns y, which holds op(x)."""
    flat = _flat(want)
    if not all(hasattr(w, "data_") for w in flat):
        return False
    outs = [lampion.empty(w.shape, dtype=w.dtype, device=w.device) for w in flat]
    given = tuple(outs) if isinstance(want, tuple) else outs[0]
    got = op.fn(*sample.args, out=given, **sample.kwargs)
    for g, o in zip(_flat(got), outs):
        assert g is o, f"{op.qualname}: out= was not returned"
    _equal(outs, flat, f"{op.qualname}(out=)")
    return True


def _check_inplace(op: Any, sample: S.Sample, want: Any) -> bool:
    """x.op_() returns x, which holds op(x), and counts a write."""
    x = sample.args[0] if sample.args else None
    if not hasattr(x, "data_") or not hasattr(want, "data_") or x.meta.shape != want.meta.shape:
        return False
    if x.dtype is not want.dtype and want.dtype is not lampion.bool:
        return False
    target = x.clone()
    version = target._version
    got = op.ifn(target, *sample.args[1:], **sample.kwargs)
    assert got is target, f"{op.qualname}_ did not return its input"
    assert target._version > version, f"{op.qualname}_ did not count its write"
    _equal(target, want.to(x.dtype), f"{op.qualname}_")
    return True


# ---------------------------------------------------------------- gradients

@dataclass
class _Point:
    """A sample with float64 values, some of which move."""

    op: Any
    sample: S.Sample
    buffers: list[S.Buffer]
    loose: list[int]
    device: str

    def run(self, values: Sequence[Any], record: bool) -> tuple[list[Any], list[Any]]:
        """(floating results of the op at these values, the moving tensors)."""
        made = [_maker(self.device)(b) for b in self.buffers]
        for k, v in zip(self.loose, values):
            self.buffers[k].array()[...] = v
            made[k] = _maker(self.device)(self.buffers[k]).requires_grad_(record)
        it = iter(made)
        call = self.sample.map(lambda _: next(it))
        if record and self.op.name.endswith("_"):
            call = S.Sample(call.args[0] * 1, *call.args[1:], **call.kwargs)
        outs = [o for o in _flat(_call(self.op, call)) if hasattr(o, "data_")]
        return ([o for o in outs if o.dtype.is_floating_point or o.dtype.is_complex],
                [made[k] for k in self.loose])


def check_gradients(op: Any, device: str = "cpu", order: int = 2,
                    limit: int | None = None) -> int:
    """Compare the derivatives along a random direction with central differences, in float64, on
    samples with floating tensors; returns how many samples were differentiated.

    The results y are summed to w y + y^2 / 2 with random weights w, so that second derivatives
    also go through the gradient of a gradient with respect to the gradient that comes in.
    """
    done = 0
    rng = generator(op)
    for sample in _usable(op, device, None):
        loose = _loose(sample)
        if not loose or (limit is not None and done == limit):
            continue
        sample = sample.each(_double)
        if not {getattr(lampion, t.dtype) for t in sample.tensors()} <= set(_dtypes(device)):
            continue
        buffers = [S.draw(t, rng) for t in sample.tensors()]
        where = f"{op.qualname}({_shown(sample)}) on {device}"
        point = _Point(op, sample, buffers, loose, device)
        if op.differentiable:
            _check_derivatives(point, rng, order, where)
        else:
            outs, _ = point.run([buffers[k].array().copy() for k in loose], True)
            assert not any(o.requires_grad for o in outs), (
                f"{where}: declared not differentiable, yet its result requires grad")
        done += 1
    return done


def _double(t: Any) -> Any:
    """A T or a dtype in double precision; memory that several elements share cannot move."""
    name = {"f": "float64", "b": "float64", "c": "complex128"}
    if isinstance(t, dtype):
        return getattr(lampion, name[t.kind]) if t.kind in "fc" else t
    if not isinstance(t, S.T) or not t.dtype.startswith(("float", "bfloat", "complex")):
        return t
    t = t.to(name[t.dtype[0]])
    return t if t.layout != "expanded" else S.replace(t, layout="contiguous")


def _check_derivatives(point: _Point, rng: np.random.Generator, order: int, where: str) -> None:
    at = [point.buffers[k].array().copy() for k in point.loose]
    along, turn = ([_noise(rng, a) for a in at] for _ in range(2))
    outs, _ = point.run(at, False)
    if not outs:
        return
    weights = [_noise(rng, _host(o)) for o in outs]

    def scalar(outs: Sequence[Any]) -> Any:
        total: Any = 0.0
        for o, w in zip(outs, weights):
            if o.is_complex():
                total = total + _dot(o, w) + (o * o.conj()).real.sum() / 2
            else:
                total = total + (o * (o * 0.5 + lampion.tensor(w).to(o.device))).sum()
        return total

    def first(values: Sequence[Any], create: bool) -> tuple[list[Any], list[Any]]:
        outs, leaves = point.run(values, True)
        loss = scalar(outs)
        assert loss.requires_grad, f"{where}: declared differentiable, yet nothing was recorded"
        grads = lampion.autograd.grad(loss, leaves, create_graph=create, allow_unused=True)
        return [lampion.zeros_like(x) if g is None else g for g, x in zip(grads, leaves)], leaves

    grads, leaves = first(at, order > 1)
    for g, x in zip(grads, leaves):
        assert g.shape == x.shape and g.dtype is x.dtype, f"{where}: gradient {g.shape}, {g.dtype}"
    _agree(sum(float(_dot(g, v)) for g, v in zip(grads, along)),
           _difference(lambda v: float(scalar(point.run(v, False)[0])), at, along), 1e-5, where)
    if order < 2 or not any(g.requires_grad for g in grads):
        return
    dotted = sum(_dot(g, t) for g, t in zip(grads, turn))
    second = lampion.autograd.grad(dotted, leaves, allow_unused=True)
    got = sum(float(_dot(g, v)) for g, v in zip(second, along) if g is not None)
    slope = _difference(
        lambda v: sum(float(_dot(g, t)) for g, t in zip(first(v, False)[0], turn)), at, along)
    _agree(got, slope, 1e-4, f"second order, {where}")


def _noise(rng: np.random.Generator, like: Any) -> Any:
    made = np.asarray(rng.standard_normal(like.shape))
    return made + 1j * rng.standard_normal(like.shape) if like.dtype.kind == "c" else made


def _dot(g: Any, v: Any) -> Any:
    """Re(sum conj(v) g) as a tensor."""
    w = lampion.tensor(np.conj(v)).to(g.device)
    product = (g * w).sum()
    return product.real if product.is_complex() else product


def _difference(f: Callable[[list[Any]], float], at: Sequence[Any], along: Sequence[Any],
                ) -> float:
    """(f(x + h v) - f(x - h v)) / 2h."""
    ahead, behind = ([a + s * STEP * v for a, v in zip(at, along)] for s in (1, -1))
    return (f(ahead) - f(behind)) / (2 * STEP)


def _agree(got: float, want: float, tolerance: float, where: str) -> None:
    assert abs(got - want) <= tolerance * (0.1 + abs(want)), (
        f"{where}: the derivative is {got!r}, by differences {want!r}")


__all__ = ["check_op", "check_values", "check_same", "check_forms", "check_gradients",
           "missing_parts", "ops_of", "generator"]
