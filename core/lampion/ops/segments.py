"""Reductions over runs of neighbouring elements.

Floor 3; composites over the scatters.
"""

from __future__ import annotations

from ..base import dtype as dt
from ..base.meta import wrap_dim
from .facts import examples
from .registry import REGISTRY, composite
from .scatter import scatter_at, scatter_reduce

_EMPTY = {"sum": 0.0, "prod": 1.0, "mean": 0.0, "max": -float("inf"), "min": float("inf")}
_SCATTER = {"sum": "sum", "prod": "prod", "mean": "sum", "max": "amax", "min": "amin"}


@composite(samples="""
    f(6, 2), "sum", lengths=v([2, 0, 3, 1])
    f(6, 2).transposed, "mean", lengths=v([2, 3, 1])
    f(6), "max", lengths=v([2, 3, 1])
    f(6), "min", lengths=v([2, 4])
    f(6).fixed, "min", lengths=v([2, 0, 4])
    f(6, 2), "prod", lengths=v([2, 0, 3, 1])
    f(6), "mean", lengths=v([2, 0, 4]), initial=1.0
    f(6, 2), "sum", offsets=v([0, 2, 6])
    f(2, 4), "max", lengths=v([[1, 3], [4, 0]]), axis=1, initial=-9.0
""")
def segment_reduce(data, reduce, *, lengths=None, indices=None, offsets=None, axis=0, unsafe=False,
                   initial=None):
    """Runs of neighbouring elements along `axis` reduced to one each, by "sum", "mean", "max",
    "min" or "prod".

    `lengths` (integers, shape data.shape[:axis] + (runs,)) says how long the runs are, or `offsets`
    where they start and the last one ends. Every run starts from `initial`; without it an empty run
    gives 0, NaN, -inf, inf or 1. Unless `unsafe`, the lengths must add up to the size of the axis.

    >>> segment_reduce(tensor([1., 2., 4.]), "sum", lengths=tensor([2, 1])).tolist()
    [3.0, 4.0]
    """
    if reduce not in _EMPTY:
        raise RuntimeError("segment_reduce(): reduce argument must be either sum, prod, mean, max "
                           f"or min, got {reduce}")
    if indices is not None:
        raise RuntimeError("segment_reduce(): indices based reduction is not supported; give "
                           "lengths or offsets")
    m = data.meta
    if m.dtype.kind != "f":
        raise NotImplementedError(f'"segment_reduce" is not implemented for {m.dtype!r}; convert '
                                  "with .float()")
    d = wrap_dim(axis, m.ndim)
    starts, ends = _bounds(lengths, offsets, d, m.shape[d], unsafe)
    lead, runs = ends.meta.shape[:-1], ends.meta.shape[-1]
    if lead != m.shape[:d]:
        raise RuntimeError("segment_reduce(): Expected the shape of lengths or offsets up to axis "
                           f"to be that of data, but got {list(lead)} and {list(m.shape[:d])}")
    at = REGISTRY["arange_int"].fn(m.shape[d], 0, 1, dtype=dt.int64, device=m.device)
    at = at.expand(*lead, m.shape[d])
    run = REGISTRY["searchsorted"].fn(ends, at.contiguous(), right=True)
    run = run.masked_fill(at < starts, runs)  # elements of no run go to an extra one
    tail = m.shape[d + 1:]
    index = run.reshape(run.meta.shape + (1,) * len(tail)).expand(*m.shape)
    shape = lead + (runs + 1,) + tail
    out = data.new_full(shape, _EMPTY[reduce] if initial is None else initial)
    out = scatter_reduce.fn(out, d, index, data, _SCATTER[reduce])
    if reduce == "mean":
        ones = data.new_ones(()).expand(*m.shape)
        count = scatter_at.fn(data.new_zeros(shape), d, index, "sum", ones)
        out = out / (count if initial is None else count.masked_fill(count == 0, 1))
    return out.narrow(d, 0, runs).contiguous()


def _bounds(lengths, offsets, d, size, unsafe):
    """(where the first run starts, where every run ends) along the last dim."""
    given = lengths if lengths is not None else offsets
    if given is None:
        raise RuntimeError("segment_reduce(): Either lengths or offsets must be defined.")
    if given.meta.dtype.kind not in "ui":
        raise NotImplementedError("segment_reduce(): lengths and offsets must be integers, not "
                                  f"{given.meta.dtype!r}")
    if given.meta.ndim != d + 1:
        raise RuntimeError("segment_reduce(): Expected axis to be the last dimension of lengths "
                           f"but got {d}.")
    if lengths is None:
        return offsets.narrow(-1, 0, 1), offsets.narrow(-1, 1, offsets.meta.shape[-1] - 1)
    if not unsafe:
        if lengths.meta.numel and examples(lengths).min().item() < 0:
            raise RuntimeError("lengths contains negative value!")
        if examples(lengths.sum(-1) != size).any().item():
            raise RuntimeError("segment_reduce(): Expected all rows of lengths along axis to sum "
                               "to data.size(lengths.dim()-1) when !unsafe.")
    ends = lengths.to(dt.int64).cumsum(-1)
    return ends.new_zeros(ends.meta.shape[:-1] + (1,)), ends
