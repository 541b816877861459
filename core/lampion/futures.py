"""`lampion.futures`: values that are there later. Floor 7; imports the standard library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Future", "collect_all", "wait_all"]

T = TypeVar("T")


class Future(Generic[T]):
    """A value, or an exception, that some thread sets once.

    >>> later = Future()
    >>> doubled = later.then(lambda f: f.value() * 2)
    >>> later.set_result(21)
    >>> doubled.wait()
    42
    """

    def __init__(self, *, devices: Any = None) -> None:
        self._ready = threading.Condition()
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Any], Any]] = []

    def done(self) -> bool:
        """Whether the value or an exception is there."""
        return self._done

    def wait(self) -> T:
        """The value, once it is there; raises the exception if that was set."""
        with self._ready:
            while not self._done:
                self._ready.wait()
        return self.value()

    def value(self) -> T:
        """The value, which must be there. RuntimeError if it is not."""
        if not self._done:
            raise RuntimeError("the future has no value yet; call wait()")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def _finish(self, value: Any, error: BaseException | None) -> None:
        with self._ready:
            if self._done:
                raise RuntimeError("Future can only be marked completed once")
            self._value, self._error, self._done = value, error, True
            self._ready.notify_all()
            waiting, self._callbacks = self._callbacks, []
        for fn in waiting:
            fn(self)

    def set_result(self, result: T) -> None:
        """Set the value. RuntimeError if there is one."""
        self._finish(result, None)

    def set_exception(self, result: BaseException) -> None:
        """Set the exception that `wait` raises."""
        if not isinstance(result, BaseException):
            raise AssertionError(f"{result} is of type {type(result)}, not an Exception.")
        self._finish(None, result)

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Call `callback(future)` once the value is there, at once if it is."""
        with self._ready:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def then(self, callback: Callable[[Any], Any]) -> Future[Any]:
        """The future of `callback(future)`."""
        following: Future[Any] = Future()

        def run(future: Any) -> None:
            try:
                result = callback(future)
            except Exception as error:
                following.set_exception(error)
            else:
                following.set_result(result)

        self.add_done_callback(run)
        return following


def collect_all(futures: list[Future[Any]]) -> Future[list[Future[Any]]]:
    """The future of the list, once all of them are done."""
    futures, all_ = list(futures), Future[list[Future[Any]]]()
    left, lock = [len(futures)], threading.Lock()
    if not futures:
        all_.set_result([])

    def one(future: Any) -> None:
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if last:
            all_.set_result(futures)

    for future in futures:
        future.add_done_callback(one)
    return all_


def wait_all(futures: list[Future[Any]]) -> list[Any]:
    """The values of all of them; raises the first exception."""
    return [f.wait() for f in collect_all(futures).wait()]
