"""Modules run by several processes or devices; here, by one process on one device. Floor 7."""
from lampion.nn.parallel.data_parallel import DataParallel, data_parallel
from lampion.nn.parallel.distributed import DistributedDataParallel
from lampion.nn.parallel.scatter_gather import gather, scatter

__all__ = ["DataParallel", "DistributedDataParallel", "data_parallel", "gather", "scatter"]
