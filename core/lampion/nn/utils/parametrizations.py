"""Ready parametrizations: weight_norm and spectral_norm.

May import: nn.functional, nn.modules.module, nn.utils.{parametrize, weight_norm}.
"""
from __future__ import annotations

from typing import Any

import lampion
from lampion.nn import functional as F
from lampion.nn.modules.module import Module
from lampion.nn.utils import parametrize
from lampion.nn.utils.weight_norm import norm_except_dim
from lampion.tensor import Tensor

# ---- weight norm --------------------------------------------------------------------------------


class _WeightNorm(Module):
    """weight = g v / ‖v‖, the norm over all axes but `dim`."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except_dim(weight_v, 2, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except_dim(weight, 2, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Parametrize `name` by a size (original0) and a direction (original1); dim None: one size.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    >>> layer.parametrizations.weight.original0.shape
    lampion.Size([2, 1])
    """
    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def older_keys(state_dict: Any, prefix: str, *unused: Any) -> None:
        """States of the hook-based weight_norm have name_g and name_v."""
        for old, new in (("g", "original0"), ("v", "original1")):
            key = f"{prefix}{name}_{old}"
            if key in state_dict:
                state_dict[f"{prefix}parametrizations.{name}.{new}"] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(older_keys)
    return module


# ---- spectral norm ------------------------------------------------------------------------------


class _SpectralNorm(Module):
    """weight / s, s its largest singular value by power iteration (one round per training access).
    """

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0,
                 eps: float = 1e-12) -> None:
        super().__init__()
        ndim = weight.ndim
        if not -ndim <= dim < ndim:
            raise IndexError("Dimension out of range (expected to be in range of "
                             f"[-{ndim}, {ndim - 1}] but got {dim})")
        if n_power_iterations <= 0:
            raise ValueError("Expected n_power_iterations to be positive, but got "
                             f"n_power_iterations={n_power_iterations}")
        self.dim = dim if dim >= 0 else dim + ndim
        self.eps = eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            matrix = self._matrix(weight)
            rows, columns = matrix.size()
            u, v = (F.normalize(matrix.new_empty(n).normal_(0, 1), dim=0, eps=eps)
                    for n in (rows, columns))
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)
            self._power(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        """The weight with `dim` first and the other axes as one."""
        if self.dim != 0:
            others = [d for d in range(weight.dim()) if d != self.dim]
            weight = weight.permute(self.dim, *others)
        return weight.flatten(1)

    def _power(self, matrix: Tensor, rounds: int) -> None:
        with lampion.no_grad():
            for _ in range(rounds):
                u = F.normalize(lampion.mv(matrix, self._v), dim=0, eps=self.eps)
                v = F.normalize(lampion.mv(matrix.t(), u), dim=0, eps=self.eps)
                self._u.copy_(u)
                self._v.copy_(v)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._power(matrix, self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()
        return weight / lampion.dot(u, lampion.mv(matrix, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(module: Module, name: str = "weight", n_power_iterations: int = 1,
                  eps: float = 1e-12, dim: int | None = None) -> Module:
    """Parametrize `name` by its value divided by its largest singular value.

    dim: the axis of the outputs, by default 1 for transposed convolutions and 0 otherwise.

    >>> _ = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if dim is None:
        dim = 1 if _is_transposed(module) else 0
    made = _SpectralNorm(weight, n_power_iterations, dim, eps)
    parametrize.register_parametrization(module, name, made)
    return module


def _is_transposed(module: Module) -> bool:
    from lampion.nn.modules.conv import _ConvTransposeNd
    return isinstance(module, _ConvTransposeNd)
