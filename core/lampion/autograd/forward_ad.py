"""Forward-mode differentiation: dual tensors.

Floor 4; its functions call the transforms of floor 5 when used.

>>> import lampion
>>> from lampion.autograd import forward_ad
>>> with forward_ad.dual_level():
...     x = forward_ad.make_dual(lampion.tensor(3.0), lampion.tensor(1.0))
...     forward_ad.unpack_dual(x * x).tangent
tensor(6.)
"""

from __future__ import annotations

from typing import Any, NamedTuple


class UnpackedDualTensor(NamedTuple):
    """What `unpack_dual` returns: the primal, and its tangent (None for a tensor without one)."""

    primal: Any
    tangent: Any


_MISSING = ("Trying to create a dual Tensor for forward AD but no level exists, make sure to "
            "enter_dual_level() first.")


def _levels() -> list[Any]:
    """This thread's levels, outermost first."""
    from ..transforms.levels import stack

    return [v for v in stack.levels if v.merged]


def enter_dual_level() -> int:
    """Begin a level of forward mode in this thread; returns its number."""
    from ..transforms.tangents import DualLevel

    DualLevel(merged=True).__enter__()
    return len(_levels()) - 1


def exit_dual_level(*, level: int | None = None) -> None:
    """End the innermost level: its tangents are gone, its tensors are ordinary ones again.
    RuntimeError if there is none, or if `level` is not the innermost."""
    levels = _levels()
    if not levels:
        raise RuntimeError("Trying to exit a forward AD level but no level exists, make sure to "
                           "enter_dual_level() first.")
    if level is not None and level != len(levels) - 1:
        raise RuntimeError("Trying to exit a forward AD level that was not the last one that was "
                           "created. This is not supported.")
    levels[-1].__exit__()


class dual_level:
    """Context manager within which tensors can have tangents."""

    def __enter__(self) -> int:
        self.level = enter_dual_level()
        return self.level

    def __exit__(self, *exc: Any) -> None:
        exit_dual_level(level=self.level)


def _level(level: int | None) -> Any:
    levels = _levels()
    if not levels or (level is not None and not 0 <= level < len(levels)):
        return None
    return levels[-1 if level is None else level]


def make_dual(tensor: Any, tangent: Any, *, level: int | None = None) -> Any:
    """A view of `tensor` with a tangent of the same shape and dtype.

    RuntimeError outside a level and for a tangent of another shape or dtype; ValueError for
    dtypes that cannot be differentiated.
    """
    from ..transforms import tangents as T

    at = _level(level)
    if at is None:
        raise RuntimeError(_MISSING)
    for what, t in (("primal", tensor), ("tangent", tangent)):
        if t.meta.dtype.kind not in "fc":
            raise ValueError(f"Expected {what} to be floating point or complex, but got: "
                             f"{t.meta.dtype!r}")
    if tangent.meta.shape != tensor.meta.shape:
        raise RuntimeError(
            "Trying to set a forward gradient that has a different size than that of the original "
            f"Tensor, this is not supported. Tensor is of size {list(tensor.meta.shape)} while "
            f"the given forward gradient is of size {list(tangent.meta.shape)}.")
    if tangent.meta.dtype is not tensor.meta.dtype:
        raise RuntimeError(f"Expected the tangent to have the dtype of the primal, "
                           f"{tensor.meta.dtype!r}, but got {tangent.meta.dtype!r}")
    return T.make_dual(at, tensor, tangent)


def unpack_dual(tensor: Any, *, level: int | None = None) -> UnpackedDualTensor:
    """(primal, tangent) of a tensor at a level; both can be differentiated further."""
    from ..transforms import tangents as T

    at = _level(level)
    return UnpackedDualTensor(*((tensor, None) if at is None else T.unpack(at, tensor)))


__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual",
           "unpack_dual"]
