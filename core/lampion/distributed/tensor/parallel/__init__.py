"""Layers whose parameters are shared out, in meshes of one process. Floor 7; imports nn."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from ....nn.modules.module import Module
from ..api import _mesh
from ..placement_types import Replicate, Shard

__all__ = ["ColwiseParallel", "ParallelStyle", "PrepareModuleInput", "PrepareModuleOutput",
           "RowwiseParallel", "SequenceParallel", "loss_parallel", "parallelize_module"]


class ParallelStyle:
    """How a module's parameters are shared out."""

    def __init__(self, **options: Any) -> None:
        self.options = options


class ColwiseParallel(ParallelStyle):
    """Outputs of a linear layer or an embedding are shared out."""

    def __init__(self, *, input_layouts: Any = None, output_layouts: Any = None,
                 use_local_output: bool = True) -> None:
        super().__init__(input_layouts=input_layouts or Replicate(),
                         output_layouts=output_layouts or Shard(-1),
                         use_local_output=use_local_output)


class RowwiseParallel(ParallelStyle):
    """Inputs of a linear layer are shared out."""

    def __init__(self, *, input_layouts: Any = None, output_layouts: Any = None,
                 use_local_output: bool = True) -> None:
        super().__init__(input_layouts=input_layouts or Shard(-1),
                         output_layouts=output_layouts or Replicate(),
                         use_local_output=use_local_output)


class SequenceParallel(ParallelStyle):
    """The sequence of a norm or dropout is shared out."""

    def __init__(self, *, sequence_dim: int = 1, use_local_output: bool = False) -> None:
        super().__init__(sequence_dim=sequence_dim, use_local_output=use_local_output)


class PrepareModuleInput(ParallelStyle):
    """Inputs are placed otherwise."""


class PrepareModuleOutput(ParallelStyle):
    """Outputs are placed otherwise."""


def parallelize_module(module: Module, device_mesh: Any = None, parallelize_plan: Any = None, *,
                       src_data_rank: int | None = 0) -> Module:
    """Share the parameters of layers out among the processes of a mesh: of one, which keeps them.
    `parallelize_plan` is a style, or styles by the names of modules. TypeError for what is no
    style; NotImplementedError for larger meshes."""
    mesh = _mesh(device_mesh)
    if mesh.size() > 1:
        raise NotImplementedError(f"parallelize_module: a mesh of {mesh.size()} processes; lampion "
                                  "does not share the parameters of layers out. Use "
                                  "DistributedDataParallel")
    plan = parallelize_plan if isinstance(parallelize_plan, dict) else {"": parallelize_plan}
    names = [n for n, _ in module.named_modules()]
    for pattern, style in plan.items():
        if not isinstance(style, ParallelStyle) and style is not None:
            raise TypeError(f"Expect ParallelStyle or a dict of them for `parallelize_plan`, but "
                            f"got {type(style).__name__}")
        if not any(fnmatch(n, pattern) for n in names):
            raise ValueError(f"parallelize_module: no module is called {pattern!r}")
    return module


class loss_parallel:
    """A block in which losses of shared outputs are computed; in one process they are as usual."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass
