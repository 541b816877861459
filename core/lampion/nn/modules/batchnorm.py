"""Batch normalization over 1, 2 and 3 spatial axes, and its lazy forms.

May import: nn.functional, nn.init, nn.parameter, nn.modules.{module, lazy}.
"""
from __future__ import annotations

from typing import Any

import lampion
from lampion.base.located import located
from lampion.nn import functional as F
from lampion.nn import init
from lampion.nn.modules.lazy import LazyModuleMixin
from lampion.nn.modules.module import Module
from lampion.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter
from lampion.tensor import Tensor


class _NormBase(Module):
    """Scale, shift and running statistics, shared by batch and instance normalization."""

    _version = 2
    __constants__ = ["track_running_stats", "momentum", "eps", "num_features", "affine"]

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
                 affine: bool = True, track_running_stats: bool = True, device: Any = None,
                 dtype: Any = None, *, bias: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        kind = {"device": device, "dtype": dtype}
        self.register_parameter(
            "weight", Parameter(lampion.empty(num_features, **kind)) if affine else None)
        self.register_parameter(
            "bias", Parameter(lampion.empty(num_features, **kind)) if affine and bias else None)
        self._register_statistics(num_features, kind)
        self.reset_parameters()

    def _register_statistics(self, num_features: int, kind: dict[str, Any]) -> None:
        if not self.track_running_stats:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                self.register_buffer(name, None)
            return
        self.register_buffer("running_mean", lampion.zeros(num_features, **kind))
        self.register_buffer("running_var", lampion.ones(num_features, **kind))
        count = lampion.tensor(0, dtype=lampion.long, device=kind["device"])
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Set the statistics to mean 0, variance 1, no batches seen."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set statistics, scale and shift to their start values."""
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    @located
    def _check_input_dim(self, input: Tensor) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define _check_input_dim")

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, bias={self.bias is not None}, "
                f"track_running_stats={self.track_running_stats}")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any,
                              *args: Any) -> None:
        version = local_metadata.get("version", None)
        if (version is None or version < 2) and self.track_running_stats:
            # States older than the counter get the module's own.
            key = prefix + "num_batches_tracked"
            own = self.num_batches_tracked
            if key not in state_dict:
                state_dict[key] = lampion.tensor(0, dtype=lampion.long) if own is None else own
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class _BatchNorm(_NormBase):
    """The forward of batch normalization."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        try:  # see Linear.forward
            params, buffers = self._parameters, self._buffers
            weight, bias = params["weight"], params["bias"]
            mean, var = buffers["running_mean"], buffers["running_var"]
            count = buffers["num_batches_tracked"]
        except KeyError:
            weight, bias = self.weight, self.bias
            mean, var = self.running_mean, self.running_var
            count = self.num_batches_tracked
        training = self.training
        momentum = 0.0 if self.momentum is None else self.momentum
        if training and self.track_running_stats and count is not None:
            count.add_(1)
            if self.momentum is None:  # cumulative average
                momentum = 1.0 / float(count)
        use_batch = training or (mean is None and var is None)
        if training and not self.track_running_stats:
            mean = var = None
        return F.batch_norm(input, mean, var, weight, bias, use_batch, momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    """Normalize each channel of (N, C) or (N, C, L) over the batch (and L): y = (x - E) / sqrt(V +
    eps).

    In evaluation the running statistics are used; momentum None keeps a cumulative average.
    ValueError for other shapes.

    >>> nn.BatchNorm1d(100)(lampion.randn(20, 100)).shape
    lampion.Size([20, 100])
    """

    @located
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {input.dim()}D input)")


class BatchNorm2d(_BatchNorm):
    """Normalize each channel of (N, C, H, W) over batch, H and W.

    >>> nn.BatchNorm2d(3)(lampion.randn(2, 3, 4, 5)).shape
    lampion.Size([2, 3, 4, 5])
    """

    @located
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"expected 4D input (got {input.dim()}D input)")


class BatchNorm3d(_BatchNorm):
    """Normalize each channel of (N, C, D, H, W) over batch and space."""

    @located
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 5:
            raise ValueError(f"expected 5D input (got {input.dim()}D input)")


class _LazyNormBase(LazyModuleMixin, _NormBase):
    """num_features come from axis 1 of the first input."""

    def __init__(self, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, device: Any = None, dtype: Any = None, *,
                 bias: bool = True) -> None:
        super().__init__(0, eps, momentum, False, False, device, dtype)
        self.affine = affine
        self.track_running_stats = track_running_stats
        kind = {"device": device, "dtype": dtype}
        if affine:
            self.weight = UninitializedParameter(**kind)
            if bias:
                self.bias = UninitializedParameter(**kind)
        if track_running_stats:
            self.running_mean = UninitializedBuffer(**kind)
            self.running_var = UninitializedBuffer(**kind)
            self.num_batches_tracked = lampion.tensor(0, dtype=lampion.long, device=device)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Give parameters and statistics their shapes from `input`."""
        if not self.has_uninitialized_params():
            return
        self.num_features = input.shape[1]
        for tensor in (self.weight, self.bias, self.running_mean, self.running_var):
            if tensor is not None:
                tensor.materialize((self.num_features,))
        self.reset_parameters()


class SyncBatchNorm(_BatchNorm):
    """Normalize each channel of (N, C, ...) over the batch of all processes of a group.

    A group has one process so far, whose batch is all there is.

    >>> nn.SyncBatchNorm(3)(lampion.randn(2, 3, 4)).shape
    lampion.Size([2, 3, 4])
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
                 affine: bool = True, track_running_stats: bool = True, process_group: Any = None,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group

    @located
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """The module with every batch norm in it replaced by one of these, which has its
        parameters and statistics."""
        made = module
        if isinstance(module, _BatchNorm):
            new = cls(module.num_features, module.eps, module.momentum, module.affine,
                      module.track_running_stats, process_group)
            for table in ("_parameters", "_buffers"):
                getattr(new, table).update(getattr(module, table))
            new.training = module.training
            made = new
        for name, child in module.named_children():
            made.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return made


class LazyBatchNorm1d(_LazyNormBase, _BatchNorm):
    """BatchNorm1d without num_features: they come from the first input."""

    cls_to_become = BatchNorm1d
    _check_input_dim = BatchNorm1d._check_input_dim


class LazyBatchNorm2d(_LazyNormBase, _BatchNorm):
    """BatchNorm2d without num_features: they come from the first input."""

    cls_to_become = BatchNorm2d
    _check_input_dim = BatchNorm2d._check_input_dim


class LazyBatchNorm3d(_LazyNormBase, _BatchNorm):
    """BatchNorm3d without num_features: they come from the first input."""

    cls_to_become = BatchNorm3d
    _check_input_dim = BatchNorm3d._check_input_dim
