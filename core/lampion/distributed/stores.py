"""Keys and values that the processes of a group share. Floor 7; imports the standard library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


class Store:
    """Keys and their values, which are bytes. `get` and `wait` wait for keys that are not there."""

    def __init__(self) -> None:
        self.timeout = timedelta(seconds=300)
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def _until(self, there: Callable[[], bool], what: str, timeout: timedelta | None) -> None:
        limit = (timeout or self.timeout).total_seconds()
        if not self._changed.wait_for(there, limit):
            raise RuntimeError(f"store: {what} did not come within {limit:g} s")

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key its value."""
        with self._changed:
            self._values[key] = _bytes(value)
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        """The value of a key, once it is there."""
        with self._changed:
            self._until(lambda: key in self._values, f"the key {key!r}", None)
            return self._values[key]

    def add(self, key: str, amount: int) -> int:
        """Count a key up, from 0; the new value."""
        with self._changed:
            total = int(self._values.get(key, b"0")) + amount
            self._values[key] = str(total).encode()
            self._changed.notify_all()
            return total

    def append(self, key: str, value: str | bytes) -> None:
        """Lengthen a key's value."""
        with self._changed:
            self._values[key] = self._values.get(key, b"") + _bytes(value)
            self._changed.notify_all()

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Give a key a value if it has the expected one (or is new and none is expected); what it
        then is."""
        with self._changed:
            now = self._values.get(key)
            if (now is None and not expected) or now == _bytes(expected):
                self._values[key] = _bytes(desired)
                self._changed.notify_all()
            return self._values.get(key, _bytes(expected))

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there."""
        with self._changed:
            self._until(lambda: all(k in self._values for k in keys), f"keys {keys}", timeout)

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        return all(k in self._values for k in keys)

    def num_keys(self) -> int:
        """How many keys there are."""
        return len(self._values)

    def delete_key(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        with self._changed:
            return self._values.pop(key, None) is not None

    def set_timeout(self, timeout: timedelta) -> None:
        """How long `get` and `wait` wait."""
        self.timeout = timeout


class HashStore(Store):
    """A store in this process, for its threads.

    >>> store = lampion.distributed.HashStore()
    >>> store.set("key", "value")
    >>> store.get("key")
    b'value'
    """


class FileStore(Store):
    """A store named by a file. A world of one process keeps it in memory; the file is not made."""

    def __init__(self, file_name: str, world_size: int = -1) -> None:
        super().__init__()
        if world_size > 1:
            raise NotImplementedError(f"FileStore: a world of {world_size} processes; lampion has "
                                      "groups of one process so far")
        self.path = file_name


class PrefixStore(Store):
    """A view of a store, in which every key has a prefix."""

    def __init__(self, prefix: str, store: Store) -> None:
        self.prefix, self.underlying_store = prefix, store

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key its value."""
        self.underlying_store.set(self._key(key), value)

    def get(self, key: str) -> bytes:
        """The value of a key, once it is there."""
        return self.underlying_store.get(self._key(key))

    def add(self, key: str, amount: int) -> int:
        """Count a key up, from 0; the new value."""
        return self.underlying_store.add(self._key(key), amount)

    def append(self, key: str, value: str | bytes) -> None:
        """Lengthen a key's value."""
        self.underlying_store.append(self._key(key), value)

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Give a key a value if it has the expected one; what it then is."""
        return self.underlying_store.compare_set(self._key(key), expected, desired)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there."""
        self.underlying_store.wait([self._key(k) for k in keys], timeout)

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        return self.underlying_store.check([self._key(k) for k in keys])

    def num_keys(self) -> int:
        """How many keys the store below has."""
        return self.underlying_store.num_keys()

    def delete_key(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        return self.underlying_store.delete_key(self._key(key))

    def set_timeout(self, timeout: timedelta) -> None:
        """How long `get` and `wait` wait."""
        self.underlying_store.set_timeout(timeout)
