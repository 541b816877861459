"""Data pipes: datasets that are chained by methods, `pipe.map(f).filter(g).batch(8)`.

`iter` has the streams, `map` those with a length and places. Floor 7; imports utils.data.
"""

from . import iter, map
from .datapipe import DataChunk, DFIterDataPipe, IterDataPipe, MapDataPipe

__all__ = ["DFIterDataPipe", "DataChunk", "IterDataPipe", "MapDataPipe", "iter", "map"]
