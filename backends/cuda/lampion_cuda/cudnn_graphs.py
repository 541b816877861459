"""Graphs of cuDNN: convolutions and attention as the library's frontend is told of them.

`Work` says what is computed, and is what plans are kept by; `describe` makes the frontend's graph
of it. The frontend (the module `cudnn` of nvidia-cudnn-frontend) is an argument, so that importing
this loads nothing. Imports lampion's floors 0-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.base.meta import Meta

TYPES = {dt.float16: "HALF", dt.bfloat16: "BFLOAT16", dt.float32: "FLOAT"}
# Ways to compute that are less exact than float32: by notes of the library's on its kernels.
_INEXACT = ("TENSOR_CORE", "FFT", "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6",
            "WINOGRAD_TILE_13x13")


class Operand(NamedTuple):
    """Shape and strides of a tensor, of the number of dims that the library wants."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Convolution(NamedTuple):
    """Geometry, one number per space dim; `before` and `after` are zeros around the input."""

    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]


class Attention(NamedTuple):
    """What attention does to its scores."""

    scale: float
    causal: bool


class Work(NamedTuple):
    """A computation. `operands` are results first, in the order of the op's; that of number k has
    the uid k + 1. `exact`: float32 is not rounded to TF32. `same`: the same results every time."""

    op: str
    dtype: dtype
    operands: tuple[Operand, ...]
    how: Convolution | Attention
    bias: bool = False
    exact: bool = True
    same: bool = True

    def type_of(self, k: int) -> dtype:
        """The dtype of an operand: the logarithms of sums are of float32."""
        known = {"attention": 1, "attention_backward": 8}.get(self.op)
        return dt.float32 if k == known else self.dtype

    def nbytes(self, k: int) -> int:
        """Bytes from an operand's first element to the end of the last."""
        o = self.operands[k]
        return (sum((n - 1) * s for n, s in zip(o.shape, o.strides)) + 1) * self.type_of(k).itemsize

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, o.shape)) for o in self.operands)
        how = ", ".join(f"{k}={v}" for k, v in self.how._asdict().items())
        return f"{self.op} of {self.dtype.name} ({shapes}; {how})"


# ---------------------------------------------------------------- layouts


def dense(shape: Sequence[int], last: bool) -> tuple[int, ...]:
    """Strides of (n, channels, *space) without gaps, channels last or first."""
    order = (1, *range(len(shape) - 1, 1, -1), 0) if last else range(len(shape) - 1, -1, -1)
    strides, step = [0] * len(shape), 1
    for d in order:
        strides[d], step = step, step * shape[d]
    return tuple(strides)


def lies(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether strides are the wanted ones, but where a dim has one entry."""
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, wanted))


def widened(m: Meta) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides with at least two space dims, which is what the library knows."""
    if m.ndim > 3:
        return m.shape, m.strides
    n, c, x = m.shape
    return (n, c, 1, x), (*m.strides[:2], x * m.strides[2], m.strides[2])


def channels_last(*tensors: Meta) -> bool:
    """Whether one of the tensors has its channels last, and not first as well."""
    for m in tensors:
        shape, strides = widened(m)
        if lies(shape, strides, dense(shape, True)) \
                and not lies(shape, strides, dense(shape, False)):
            return True
    return False


def geometry(x: Sequence[int], w: Sequence[int], y: Sequence[int], stride: Sequence[int],
             before: Sequence[int], dilation: Sequence[int]) -> Convolution:
    """The geometry of a convolution of widened shapes: what is after an input follows from the
    sizes, and is as much as before it if that fits."""
    missing = len(x) - 2 - len(stride)
    s, b, d = ((*[fill] * missing, *v) for fill, v in ((1, stride), (0, before), (1, dilation)))
    after = []
    for n, k, out, step, pad, gap in zip(x[2:], w[2:], y[2:], s, b, d):
        reach = gap * (k - 1) + 1
        fits = (n + 2 * pad - reach) // step + 1 == out
        after.append(pad if fits else max(0, (out - 1) * step + reach - n - pad))
    return Convolution(s, b, tuple(after), d)


def heads(shape: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """(shape, strides) of a tensor (*batch, rows, columns) as (examples, heads, rows, columns):
    dims after the first batch dim become one, as grouped heads are. None if they do not lie so."""
    batch, steps = list(shape[:-2]), list(strides[:-2])
    while len(batch) > 2:
        n, step = batch.pop(), steps.pop()
        if n != 1 and batch[-1] != 1 and steps[-1] != n * step:
            return None
        steps[-1] = step if n != 1 else steps[-1]
        batch[-1] *= n
    missing = 2 - len(batch)
    rows = shape[-2] * strides[-2]
    return ((*[1] * missing, *batch, *shape[-2:]), (*[rows] * missing, *steps, *strides[-2:]))


def shares_neighbours(query: Sequence[int], key: Sequence[int]) -> bool:
    """Whether heads of the query that share a key are neighbours once dims of heads are one, as
    the library has it: dims that only the query has come last."""
    alone = [a != b for a, b in zip(query, key) if a != 1]
    return alone == sorted(alone)


# ---------------------------------------------------------------- graphs


def avoided(fe: Any, work: Work) -> list[Any]:
    """The library's notes on kernels that must not be used."""
    if isinstance(work.how, Attention):
        return [fe.numerical_note.NONDETERMINISTIC] if work.same else []
    names = ["REDUCED_PRECISION_REDUCTION"]  # sums are of float32
    if work.dtype is dt.float32:
        names += ["DOWN_CONVERT_INPUTS", *(_INEXACT if work.exact else ())]
    names += ["NONDETERMINISTIC"] if work.same else []
    return [getattr(fe.numerical_note, n) for n in names]


def describe(fe: Any, work: Work, handle: Any = None) -> Any:
    """The frontend's graph of a computation, whose tensors have uids from 1 on."""
    wide = fe.data_type.FLOAT
    kind = getattr(fe.data_type, TYPES[work.dtype])
    g = fe.pygraph(io_data_type=kind, intermediate_data_type=wide, compute_data_type=wide,
                   handle=handle)
    results = {"attention": 2, "attention_backward": 3}.get(work.op, 1)
    types = [getattr(fe.data_type, TYPES[work.type_of(k)]) for k in range(len(work.operands))]
    inputs = [g.tensor(dim=list(o.shape), stride=list(o.strides), data_type=types[k], uid=k + 1)
              for k, o in enumerate(work.operands) if k >= results]
    made = (_attention if isinstance(work.how, Attention) else _convolution)(fe, g, work, inputs)
    for k, t in enumerate(made):
        o = work.operands[k]
        t.set_output(True).set_dim(list(o.shape)).set_stride(list(o.strides)).set_uid(k + 1)
        t.set_data_type(types[k])
    return g


def _convolution(fe: Any, g: Any, work: Work, inputs: list[Any]) -> list[Any]:
    c = work.how
    assert isinstance(c, Convolution)
    how = {"pre_padding": list(c.before), "post_padding": list(c.after), "stride": list(c.stride),
           "dilation": list(c.dilation)}
    first, second = inputs[:2]
    if work.op == "conv_forward":
        y = g.conv_fprop(image=first, weight=second, **how)
        return [g.bias(input=y, bias=inputs[2]) if work.bias else y]
    if work.op == "conv_backward_data":
        return [g.conv_dgrad(loss=first, filter=second, **how)]
    return [g.conv_wgrad(image=first, loss=second, **how)]


def _attention(fe: Any, g: Any, work: Work, inputs: list[Any]) -> list[Any]:
    a = work.how
    assert isinstance(a, Attention)
    how: dict[str, Any] = {"attn_scale": a.scale}
    if a.causal:
        how |= {"diagonal_alignment": fe.diagonal_alignment.TOP_LEFT,
                "diagonal_band_right_bound": 0}
    if work.op == "attention":
        q, k, v = inputs
        return list(g.sdpa(q=q, k=k, v=v, generate_stats=True, **how))
    q, k, v, o, grad, stats = inputs
    return list(g.sdpa_backward(q=q, k=k, v=v, o=o, dO=grad, stats=stats,
                                use_deterministic_algorithm=work.same, **how))


def finish(fe: Any, g: Any, work: Work, workspace: int) -> None:
    """Find the library's kernels for a graph. Raises the frontend's error if there are none."""
    g.validate()
    g.build_operation_graph()
    g.create_execution_plans([fe.heur_mode.A, fe.heur_mode.FALLBACK])
    g.deselect_numeric_notes(avoided(fe, work))
    g.deselect_workspace_greater_than(workspace)
    g.check_support()
