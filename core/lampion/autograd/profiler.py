"""The label `record_function`, under its older name. Floor 5, by name."""

from lampion.profiler import record_function

__all__ = ["record_function"]
