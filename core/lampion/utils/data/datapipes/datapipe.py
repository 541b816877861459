"""The bases of data pipes and the table of their methods.

A class decorated with `functional_datapipe("name")` becomes the method `name` of all pipes of its
kind. Floor 7; imports the datasets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..dataset import Dataset, IterableDataset

__all__ = ["DFIterDataPipe", "DataChunk", "IterDataPipe", "MapDataPipe", "argument_validation",
           "functional_datapipe", "guaranteed_datapipes_determinism", "non_deterministic",
           "runtime_validation", "runtime_validation_disabled"]

T = TypeVar("T")


class DataChunk(list):
    """A batch: a list of samples.

    >>> DataChunk([1, 2]).as_str()
    '[1, 2]'
    """

    def __init__(self, items: Any) -> None:
        items = list(items)
        super().__init__(items)
        self.items = items

    def as_str(self, indent: str = "") -> str:
        """The samples as text."""
        return indent + "[" + ", ".join(map(str, self)) + "]"

    def raw_iterator(self) -> Iterator[Any]:
        """The samples, as the list has them."""
        yield from self.items


class _Chained:
    """What both kinds of pipes share: methods made of registered classes."""

    functions: dict[str, Callable[..., Any]]

    def __getattr__(self, name: str) -> Any:
        made = type(self).functions.get(name)
        if made is None:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return functools.partial(made, self)

    @classmethod
    def register_function(cls, function_name: str, function: Callable[..., Any]) -> None:
        """Make `function(pipe, ...)` the method `function_name`."""
        cls.functions[function_name] = function

    @classmethod
    def register_datapipe_as_function(cls, function_name: str, cls_to_register: Any,
                                      enable_df_api_tracing: bool = False) -> None:
        """Make a class the method `function_name`; its first argument is the pipe. Exception if
        there is such a method."""
        if function_name in cls.functions:
            raise Exception(f"Unable to add DataPipe function name {function_name} as it is "
                            "already taken")
        cls.functions[function_name] = cls_to_register

    def __str__(self) -> str:
        return type(self).__qualname__

    def __repr__(self) -> str:
        return type(self).__qualname__

    def reset(self) -> None:
        """Called before a pipe is read anew; subclasses forget what they keep."""


class IterDataPipe(_Chained, IterableDataset[T]):
    """A stream of samples: subclasses define `__iter__`.

    >>> from lampion.utils.data.datapipes.iter import IterableWrapper
    >>> list(IterableWrapper(range(5)).map(lambda x: x * x).batch(2))
    [[0, 1], [4, 9], [16]]
    """

    functions: dict[str, Callable[..., Any]] = {}


class DFIterDataPipe(IterDataPipe[T]):
    """A stream of data frames."""


class MapDataPipe(_Chained, Dataset[T]):
    """Samples by place: subclasses define `__getitem__` and `__len__`."""

    functions: dict[str, Callable[..., Any]] = {}


class Shuffling(IterDataPipe[T]):
    """A pipe in an order drawn for each pass while it is `_on`, from `_seed` if there is one."""

    _on, _seed = True, None

    def set_shuffle(self, shuffle: bool = True) -> Any:
        """Whether the order changes at all."""
        self._on = shuffle
        return self

    def set_seed(self, seed: int) -> Any:
        """The seed of the next pass."""
        self._seed = seed
        return self


class functional_datapipe:
    """Class decorator: the pipe becomes the method `name` of the pipes of its kind."""

    def __init__(self, name: str, enable_df_api_tracing: bool = False) -> None:
        self.name = name

    def __call__(self, cls: Any) -> Any:
        kind = next((k for k in (IterDataPipe, MapDataPipe) if issubclass(cls, k)), None)
        if kind is None:
            raise TypeError("`functional_datapipe` can only decorate IterDataPipe or MapDataPipe")
        kind.register_datapipe_as_function(self.name, cls)
        return cls


_strict: list[bool] = [False]  # whether pipes whose order varies are refused


class guaranteed_datapipes_determinism:
    """A block in which pipes that are declared not deterministic cannot be made."""

    def __init__(self) -> None:
        self._before = _strict[0]
        _strict[0] = True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        _strict[0] = self._before


class non_deterministic:
    """Class decorator for pipes whose order varies; with a function, for those objects for which
    it is true. TypeError when such a pipe is made where determinism is guaranteed."""

    def __init__(self, arg: Any) -> None:
        self._of_class = isinstance(arg, type)
        self._arg = arg

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._of_class:
            self._refuse(self._arg, True)
            return self._arg(*args, **kwargs)
        cls, varies = args[0], self._arg

        def made(*args: Any, **kwargs: Any) -> Any:
            self._refuse(cls, _strict[0] and varies(*args, **kwargs))
            return cls(*args, **kwargs)

        return functools.wraps(cls, updated=())(made)

    def _refuse(self, cls: Any, varies: bool) -> None:
        if varies and _strict[0]:
            raise TypeError(f"{cls.__name__} is non-deterministic, but you set "
                            "'guaranteed_datapipes_determinism'")


def argument_validation(f: T) -> T:
    """The function as it is: annotations of pipes are for readers and type checkers."""
    return f


runtime_validation = argument_validation


@contextmanager
def runtime_validation_disabled() -> Iterator[None]:
    """A block in which samples are not checked against annotations, as anywhere."""
    yield
