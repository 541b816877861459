"""Keys and values that the processes of a group share: in memory, over TCP, in a file.

Floor 7; imports the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any


class DistError(RuntimeError):
    """Something between processes failed."""


class DistBackendError(DistError):
    """A collective failed."""


class DistNetworkError(DistError):
    """A connection could not be made, or broke."""


class DistStoreError(DistError):
    """A key of a store did not come in time."""


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


class Store:
    """Keys and their values, which are bytes. `get` and `wait` wait for keys that are not there."""

    def __init__(self) -> None:
        self.timeout = timedelta(seconds=300)
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def _held(self, change: bool) -> Iterator[dict[str, bytes]]:
        """The values, while nobody else has them."""
        with self._changed:
            yield self._values
            if change:
                self._changed.notify_all()

    def _pause(self, rest: float) -> None:
        """Wait until something may have changed."""
        with self._changed:
            self._changed.wait(min(rest, 1.0))

    def _until(self, keys: Sequence[str], timeout: timedelta | None) -> None:
        limit = (timeout or self.timeout).total_seconds()
        end = time.monotonic() + limit
        while not self.check(list(keys)):
            rest = end - time.monotonic()
            if rest <= 0:
                raise DistStoreError(f"store: keys {list(keys)} did not come within {limit:g} s")
            self._pause(rest)

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key its value."""
        with self._held(True) as values:
            values[key] = _bytes(value)

    def get(self, key: str) -> bytes:
        """The value of a key, once it is there."""
        self._until([key], None)
        with self._held(False) as values:
            return values[key]

    def add(self, key: str, amount: int) -> int:
        """Count a key up, from 0; the new value."""
        with self._held(True) as values:
            total = int(values.get(key, b"0")) + amount
            values[key] = str(total).encode()
            return total

    def append(self, key: str, value: str | bytes) -> None:
        """Lengthen a key's value."""
        with self._held(True) as values:
            values[key] = values.get(key, b"") + _bytes(value)

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Give a key a value if it has the expected one (or is new and none is expected); what it
        then is."""
        with self._held(True) as values:
            now = values.get(key)
            if (now is None and not expected) or now == _bytes(expected):
                values[key] = _bytes(desired)
            return values.get(key, _bytes(expected))

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there. DistStoreError if they do not come in time."""
        self._until(keys, timeout)

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        with self._held(False) as values:
            return all(k in values for k in keys)

    def num_keys(self) -> int:
        """How many keys there are."""
        with self._held(False) as values:
            return len(values)

    def delete_key(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        with self._held(True) as values:
            return values.pop(key, None) is not None

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of several keys."""
        return [self.get(k) for k in keys]

    def multi_set(self, keys: list[str], values: list[str | bytes]) -> None:
        """Give several keys their values."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

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
    """A store in a file that all processes of a machine can write to. The file is made when it is
    needed, and holds what earlier runs left in it: use a new name for each run."""

    def __init__(self, file_name: str, world_size: int = -1) -> None:
        super().__init__()
        self.path = file_name

    @contextlib.contextmanager
    def _held(self, change: bool) -> Iterator[dict[str, bytes]]:
        import fcntl  # of POSIX only

        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            values = {k: bytes.fromhex(v) for k, v in json.loads(text or b"{}").items()}
            yield values
            if change:
                file.truncate(0)
                file.write(json.dumps({k: v.hex() for k, v in values.items()}).encode())

    def _pause(self, rest: float) -> None:
        time.sleep(min(rest, 0.01))


# ---- over TCP: a request is a list of byte strings, and so is its answer

def send_parts(to: socket.socket, parts: Sequence[Any]) -> None:
    """Write a list of byte strings."""
    head = struct.pack(f"!I{len(parts)}Q", len(parts), *map(len, parts))
    to.sendall(head)
    for part in parts:
        to.sendall(part)


def receive_parts(source: socket.socket) -> list[bytearray]:
    """Read a list of byte strings. ConnectionError at the end of the connection."""
    (count,) = struct.unpack("!I", receive(source, 4))
    sizes = struct.unpack(f"!{count}Q", receive(source, 8 * count))
    return [receive(source, n) for n in sizes]


def receive(source: socket.socket, size: int) -> bytearray:
    """Read so many bytes."""
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        got = source.recv_into(view[at:])
        if not got:
            raise ConnectionError("the other process closed the connection")
        at += got
    return found


def connect(host: str, port: int, limit: float) -> socket.socket:
    """A connection to a process that may not listen yet. DistNetworkError after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        try:
            made = socket.create_connection((host, port), timeout=limit)
            made.settimeout(None)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except OSError as error:
            if time.monotonic() > end:
                raise DistNetworkError(f"nobody answers at {host}:{port} within {limit:g} s: "
                                       f"{error}") from None
            time.sleep(0.05)


class TCPStore(Store):
    """A store that one process (`is_master`) keeps and all reach by its address. With port 0 the
    master takes a free one (`store.port`).

    >>> from lampion.distributed import TCPStore
    >>> store = TCPStore("127.0.0.1", 0, 1, is_master=True)
    >>> store.add("count", 2)
    2
    """

    def __init__(self, host_name: str, port: int, world_size: int | None = None,
                 is_master: bool = False, timeout: timedelta = timedelta(seconds=300),
                 wait_for_workers: bool = True, multi_tenant: bool = False,
                 master_listen_fd: int | None = None, use_libuv: bool = True) -> None:
        super().__init__()
        self.host, self.timeout = host_name, timeout
        self._server: socket.socket | None = None
        if is_master:
            self._server = socket.create_server(("", port), backlog=128)
            port = self._server.getsockname()[1]
            threading.Thread(target=self._accept, daemon=True, name="lampion store").start()
        self.port = port
        self._mine = threading.local()
        if world_size is not None and wait_for_workers:
            self.add("worker-count", 1)
            end = time.monotonic() + timeout.total_seconds()
            while is_master and int(self.get("worker-count")) < world_size:
                if time.monotonic() > end:
                    raise DistStoreError(f"TCPStore: {self.get('worker-count').decode()} of "
                                         f"{world_size} processes came in time")
                time.sleep(0.01)

    def _accept(self) -> None:
        assert self._server is not None
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:  # closed
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(peer, HashStore.__new__(HashStore)),
                             daemon=True, name="lampion store").start()

    def _serve(self, peer: socket.socket, local: Store) -> None:
        """Answer one connection."""
        local.timeout, local._values, local._changed = self.timeout, self._values, self._changed
        with peer, contextlib.suppress(OSError):
            while True:
                name, *args = receive_parts(peer)
                try:
                    answer = _ANSWERS[name.decode()](local, *map(bytes, args))
                    send_parts(peer, [b"ok", *answer])
                except DistStoreError as error:
                    send_parts(peer, [b"late", str(error).encode()])

    def _ask(self, name: str, *args: bytes) -> list[bytes]:
        """A request and its answer, over this thread's connection."""
        wire = getattr(self._mine, "wire", None)
        if wire is None:
            wire = self._mine.wire = connect(self.host, self.port, self.timeout.total_seconds())
        try:
            send_parts(wire, [name.encode(), *args])
            status, *answer = receive_parts(wire)
        except OSError as error:
            raise DistNetworkError(f"TCPStore: the store at {self.host}:{self.port} is gone: "
                                   f"{error}") from None
        if status == b"late":
            raise DistStoreError(answer[0].decode())
        return [bytes(a) for a in answer]

    def set(self, key: str, value: str | bytes) -> None:
        """Give a key its value."""
        self._ask("set", key.encode(), _bytes(value))

    def get(self, key: str) -> bytes:
        """The value of a key, once it is there."""
        self.wait([key])
        return self._ask("get", key.encode())[0]

    def add(self, key: str, amount: int) -> int:
        """Count a key up, from 0; the new value."""
        return int(self._ask("add", key.encode(), str(amount).encode())[0])

    def append(self, key: str, value: str | bytes) -> None:
        """Lengthen a key's value."""
        self._ask("append", key.encode(), _bytes(value))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Give a key a value if it has the expected one; what it then is."""
        return self._ask("compare_set", key.encode(), _bytes(expected), _bytes(desired))[0]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys are there. DistStoreError if they do not come in time."""
        limit = (timeout or self.timeout).total_seconds()
        self._ask("wait", str(limit).encode(), *(k.encode() for k in keys))

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""
        return self._ask("check", *(k.encode() for k in keys))[0] == b"1"

    def num_keys(self) -> int:
        """How many keys there are."""
        return int(self._ask("num_keys")[0])

    def delete_key(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        return self._ask("delete_key", key.encode())[0] == b"1"

    def close(self) -> None:
        """Answer no more; the other processes' requests fail."""
        if self._server is not None:
            self._server.close()


def _flag(yes: bool) -> list[bytes]:
    return [b"1" if yes else b"0"]


_ANSWERS: dict[str, Callable[..., list[bytes]]] = {
    "set": lambda s, k, v: s.set(k.decode(), v) or [],
    "get": lambda s, k: [s.get(k.decode())],
    "add": lambda s, k, n: [str(s.add(k.decode(), int(n))).encode()],
    "append": lambda s, k, v: s.append(k.decode(), v) or [],
    "compare_set": lambda s, k, a, b: [s.compare_set(k.decode(), a, b)],
    "wait": lambda s, limit, *keys: s.wait(
        [k.decode() for k in keys], timedelta(seconds=float(limit))) or [],
    "check": lambda s, *keys: _flag(s.check([k.decode() for k in keys])),
    "num_keys": lambda s: [str(s.num_keys()).encode()],
    "delete_key": lambda s, k: _flag(s.delete_key(k.decode())),
}


class PrefixStore(Store):
    """A view of a store, in which every key has a prefix."""

    def __init__(self, prefix: str, store: Store) -> None:
        self.prefix, self.underlying_store = prefix, store

    @property
    def timeout(self) -> timedelta:  # type: ignore[override]
        """How long `get` and `wait` wait."""
        return self.underlying_store.timeout

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


def rendezvous(init_method: str | None, size: int, rank: int, timeout: timedelta,
               environment: Any = os.environ) -> Store:
    """The store of a world: `env://` (MASTER_ADDR, MASTER_PORT), `tcp://host:port` or
    `file://path`. ValueError for anything else, or if the environment does not say."""
    scheme, _, rest = (init_method or "env://").partition("://")
    if scheme == "file":
        return FileStore(str(Path("/" + rest.lstrip("/"))), size)
    if scheme == "env":
        missing = [v for v in ("MASTER_ADDR", "MASTER_PORT") if v not in environment]
        if missing:
            raise ValueError(f"init_process_group: environment variable {missing[0]} expected, "
                             "but not set; a launcher sets it, or give init_method="
                             "'tcp://host:port'")
        host, port = environment["MASTER_ADDR"], environment["MASTER_PORT"]
    elif scheme == "tcp":
        host, _, port = rest.partition("?")[0].rpartition(":")
    else:
        raise ValueError(f"init_process_group: no rendezvous handler for {scheme}://; there are "
                         "env://, tcp://host:port and file://path")
    # Under a launcher that keeps the store itself, every process is a client.
    kept = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and scheme == "env"
    return TCPStore(host, int(port), size, rank == 0 and not kept, timeout, not kept)
