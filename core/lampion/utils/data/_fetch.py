"""Fetch samples by index, or from a stream, and collate them. Floor 7.

A `TensorDataset` (or a `Subset` of one) under the default collation is fetched by indexing each
tensor once with the whole batch; the result is the same as stacking its rows.
"""

from __future__ import annotations

from typing import Any

import lampion

from .collate import default_collate
from .dataset import IterableDataset, Subset, TensorDataset


class MapFetcher:
    """Fetches from a map-style dataset."""

    ended = False

    def __init__(self, dataset: Any, auto_collation: bool, collate_fn: Any) -> None:
        self.dataset = dataset
        self.auto_collation = auto_collation
        self.collate_fn = collate_fn
        inner = dataset.dataset if type(dataset) is Subset else dataset
        self.rows = (
            inner.tensors
            if type(inner) is TensorDataset and auto_collation and collate_fn is default_collate
            else None
        )

    def fetch(self, index: Any) -> Any:
        """The batch (or single sample) at `index`."""
        if not self.auto_collation:
            return self.collate_fn(self.dataset[index])
        if self.rows is not None:
            return self._rows(index)
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.collate_fn(self.dataset.__getitems__(index))
        return self.collate_fn([self.dataset[i] for i in index])

    def _rows(self, index: Any) -> list[Any]:
        if type(self.dataset) is Subset:
            index = [self.dataset.indices[i] for i in index]
        at = lampion.tensor(index, dtype=lampion.int64, device="cpu")
        out = []
        for tensor in self.rows:
            here = at if tensor.device.type == "cpu" else at.to(tensor.device)
            out.append(tensor[here])
        return out


class IterableFetcher:
    """Fetches from a stream; `index` only says how many samples a batch takes."""

    def __init__(
        self, dataset: Any, auto_collation: bool, collate_fn: Any, drop_last: bool
    ) -> None:
        self.samples = iter(dataset)
        self.auto_collation = auto_collation
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.ended = False

    def fetch(self, index: Any) -> Any:
        """The next batch (or sample); StopIteration at the end of the stream."""
        if self.ended:
            raise StopIteration
        if not self.auto_collation:
            return self.collate_fn(next(self.samples))
        data = []
        for _ in index:
            try:
                data.append(next(self.samples))
            except StopIteration:
                self.ended = True
                break
        if not data or (self.drop_last and len(data) < len(index)):
            raise StopIteration
        return self.collate_fn(data)


def make_fetcher(dataset: Any, auto_collation: bool, collate_fn: Any, drop_last: bool) -> Any:
    """The fetcher that fits the dataset's kind."""
    if isinstance(dataset, IterableDataset):
        return IterableFetcher(dataset, auto_collation, collate_fn, drop_last)
    return MapFetcher(dataset, auto_collation, collate_fn)
