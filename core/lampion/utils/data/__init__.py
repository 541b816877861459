"""Datasets, samplers and the loader, with PyTorch's names and semantics. Floor 7.

Example:
    >>> import lampion
    >>> from lampion.utils.data import DataLoader, TensorDataset
    >>> data = TensorDataset(lampion.arange(4), lampion.arange(4) ** 2)
    >>> for x, y in DataLoader(data, batch_size=2):
    ...     print(x.tolist(), y.tolist())
    [0, 1] [0, 1]
    [2, 3] [4, 9]
"""

from typing import Any as _Any

from .collate import default_collate, default_convert
from .dataloader import DataLoader, WorkerInfo, _DatasetKind, get_worker_info
from .dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from .distributed import DistributedSampler
from .sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_PIPES = ("DFIterDataPipe", "DataChunk", "IterDataPipe", "MapDataPipe", "argument_validation",
          "functional_datapipe", "guaranteed_datapipes_determinism", "non_deterministic",
          "runtime_validation", "runtime_validation_disabled")


def __getattr__(name: str) -> _Any:
    if name not in _PIPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .datapipes import datapipe

    return getattr(datapipe, name)


__all__ = [
    *_PIPES,
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "IterableDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "StackDataset",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "WorkerInfo",
    "_DatasetKind",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "random_split",
]
