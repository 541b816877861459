"""Whether lampion's result is PyTorch's: structure, dtype, shape, values; statistics where the
result is random.

A value may differ from PyTorch's by the usual tolerance of its dtype. Beyond that, the exact
result decides (PyTorch's in double precision, from the same inputs): lampion's error must not be
larger than a small multiple of PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from . import convert

# (relative, absolute); those of torch.testing.assert_close, except that a float32 sum may be
# taken in another order
TOLERANCE = {
    torch.float16: (2e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5), torch.float32: (1e-5, 1e-5),
    torch.float64: (1e-7, 1e-7), torch.complex64: (1e-5, 1e-5), torch.complex128: (1e-7, 1e-7),
    torch.complex32: (2e-3, 1e-5),
}
WIDER = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
         torch.complex64: torch.complex128, torch.complex32: torch.complex128}
TIMES = 8  # lampion's largest error against PyTorch's


class Difference(Exception):
    """A mismatch; `kind` is structure, dtype, shape or value."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def same(want: Any, got: Any, exact: Callable[[], Any] | None = None, where: str = "result",
         strides: bool = False, scaled: bool = False) -> None:
    """Difference unless lampion's `got` equals PyTorch's `want`. `exact` recomputes `want` in
    double precision, in the same structure; it is only called for values that differ. With
    `scaled`, a tensor is taken as a whole: its largest element gives the absolute tolerance."""
    import lampion

    if isinstance(want, torch.Tensor):
        if not isinstance(got, lampion.Tensor):
            raise Difference("structure", f"{where}: {type(got).__name__}, not a tensor")
        tensor(want, got, exact, where, strides, scaled)
    elif isinstance(want, (tuple, list, torch.Size)):
        kind = tuple if isinstance(want, tuple) else list
        if not isinstance(got, kind) or len(got) != len(want):
            raise Difference("structure", f"{where}: {type(got).__name__} of "
                             f"{len(got) if hasattr(got, '__len__') else '?'}, not "
                             f"{kind.__name__} of {len(want)}")
        fields = [n for n in ("_fields",) if hasattr(want, n)]
        if fields or type(want).__module__ == "torch.return_types":
            for name in [n for n in dir(want) if not n.startswith(("_", "n_", "count", "index"))
                         and isinstance(getattr(want, n), torch.Tensor)]:
                if not hasattr(got, name):
                    raise Difference("structure", f"{where} has no field {name!r}")
        for k, (a, b) in enumerate(zip(want, got)):
            same(a, b, None if exact is None else (lambda k=k: exact()[k]), f"{where}[{k}]",
                 strides)
    elif isinstance(want, dict):
        if not isinstance(got, dict) or list(got) != list(want):
            raise Difference("structure", f"{where}: {got!r:.60}, not a dict of {list(want)}")
        for k in want:
            same(want[k], got[k], None, f"{where}[{k!r}]", strides)
    elif isinstance(want, torch.dtype):
        if convert.dtype_back(got) != want:
            raise Difference("value", f"{where}: {got}, not {want}")
    elif type(want) is not type(got):
        raise Difference("structure", f"{where}: {type(got).__name__}, not "
                         f"{type(want).__name__}")
    elif want != got and not (want != want and got != got):
        a, b = torch.tensor(want), torch.tensor(got)
        if not torch.allclose(a, b, equal_nan=True):
            raise Difference("value", f"{where}: {got}, not {want}")


def tensor(want: torch.Tensor, got: Any, exact: Callable[[], Any] | None, where: str,
           strides: bool, scaled: bool = False) -> None:
    """`same` for two tensors."""
    geometry(want, got, where, strides)
    values(want.detach().resolve_conj().resolve_neg(), convert.back(got), exact, where, scaled)


def geometry(want: torch.Tensor, got: Any, where: str, strides: bool) -> None:
    """Difference unless dtype and shape (and strides, if asked) of two tensors agree."""
    if got.dtype.name != str(want.dtype).removeprefix("torch."):
        raise Difference("dtype", f"{where}: {got.dtype.name}, not "
                         f"{str(want.dtype).removeprefix('torch.')}")
    if tuple(got.shape) != tuple(want.shape):
        raise Difference("shape", f"{where}: {list(got.shape)}, not {list(want.shape)}")
    if strides and tuple(got.stride()) != tuple(want.stride()):
        raise Difference("strides", f"{where}: {got.stride()}, not {tuple(want.stride())}")


def values(want: torch.Tensor, ours: torch.Tensor, exact: Callable[[], Any] | None,
           where: str, scaled: bool = False) -> None:
    """Difference("value") unless the values agree."""
    if not want.numel():
        return
    if want.dtype not in TOLERANCE:
        wrong = want != ours
        if bool(wrong.any()):
            raise Difference("value", _first(want, ours, wrong, where))
        return
    rtol, atol = TOLERANCE[want.dtype]
    if scaled:
        finite = want[torch.isfinite(want)].abs()
        atol *= max(1.0, float(finite.max()) if finite.numel() else 1.0)
    close = torch.isclose(ours.to(WIDER.get(want.dtype, want.dtype)),
                          want.to(WIDER.get(want.dtype, want.dtype)), rtol, atol, equal_nan=True)
    if bool(close.all()):
        return
    if exact is not None:
        best = exact()
        if isinstance(best, torch.Tensor) and best.shape == want.shape:
            best = best.detach().resolve_conj().resolve_neg()
            wide = WIDER.get(want.dtype, want.dtype)
            a, b, c = want.to(wide), ours.to(wide), best.to(wide)
            regular = torch.isfinite(c) & torch.isfinite(a)
            rest = bool(torch.isclose(b, a, equal_nan=True)[~regular].all()) or bool(
                torch.isclose(b.to(want.dtype), c.to(want.dtype), rtol, atol,
                              equal_nan=True)[~regular].all())
            if rest and bool(regular.any()):
                theirs = ((a - c).abs() / (atol + rtol * c.abs()))[regular].max()
                mine = ((b - c).abs() / (atol + rtol * c.abs()))[regular].max()
                if bool(mine <= TIMES * theirs.clamp(min=0.25)):
                    return
            elif rest:
                return
    raise Difference("value", _first(want, ours, ~close, where))


def undetermined(want: torch.Tensor, got: Any, others: Iterable[torch.Tensor]) -> bool:
    """Whether PyTorch's own derivative is so ill-conditioned that it moves about as far as
    lampion's differs when the inputs move by units in the last place (`others` are those). What
    jumps, as at the edge of a step, is not meant: differences beyond a thousandth never pass."""
    ours = convert.back(got)
    difference = (ours - want).abs()
    scale = max(1.0, float(want[torch.isfinite(want)].abs().max()))
    if not bool(torch.isfinite(difference).all()) or bool(difference.max() > 1e-3 * scale):
        return False
    return bool(difference.max() <= TIMES * max((t - want).abs().max() for t in others))


def _first(want: torch.Tensor, ours: torch.Tensor, wrong: torch.Tensor, where: str) -> str:
    at = tuple(wrong.nonzero()[0].tolist()) if wrong.ndim else ()
    return (f"{where}{list(at)}: {ours[at].item()}, not {want[at].item()} "
            f"({int(wrong.sum())} of {wrong.numel()} differ)")


def distribution(theirs: list[torch.Tensor], ours: list[torch.Tensor], where: str) -> None:
    """Difference("value") if two pools of random values hardly come from one distribution (a
    Kolmogorov-Smirnov test at one in a million)."""
    from scipy.stats import ks_2samp

    def pool(xs: list[torch.Tensor]) -> np.ndarray:
        flat = torch.cat([x.detach().reshape(-1) for x in xs])
        if flat.dtype.is_complex:
            flat = torch.view_as_real(flat).reshape(-1)
        return flat.double().numpy()

    a, b = pool(theirs), pool(ours)
    if not a.size:
        return
    if np.isnan(a).mean() != np.isnan(b).mean():
        raise Difference("value", f"{where}: {np.isnan(b).mean():.0%} NaN, not "
                         f"{np.isnan(a).mean():.0%}")
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if a.size and ks_2samp(a, b, method="asymp").pvalue < 1e-6:
        raise Difference("value", f"{where}: another distribution (means {b.mean():.4g} and "
                         f"{a.mean():.4g}, deviations {b.std():.4g} and {a.std():.4g})")
