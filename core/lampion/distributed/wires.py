"""Messages between the processes of a world: one connection for each pair, and a mailbox.

A message has a tag; a thread for each connection puts what arrives into the mailbox, so that
sending never waits for the receiver's program, and messages with different tags may be asked for in
any order. Floor 7; imports the stores.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from typing import Any

from .stores import DistBackendError, Store, connect, receive_parts, send_parts


class Wires:
    """The connections of one process to all others of its world."""

    def __init__(self, rank: int, size: int, store: Store, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.peers: dict[int, socket.socket] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._mail: dict[tuple[int, bytes], deque[bytearray]] = {}
        self._arrived = threading.Condition()
        self._gone: set[int] = set()
        if size == 1:
            return
        host = _own_address(store)
        with socket.create_server((host, 0), backlog=size) as server:
            store.set(f"address/{rank}", f"{host}:{server.getsockname()[1]}")
            for other in range(rank):  # the later one calls
                at, _, port = store.get(f"address/{other}").decode().rpartition(":")
                wire = connect(at, int(port), timeout)
                send_parts(wire, [str(rank).encode()])
                self._keep(other, wire)
            server.settimeout(timeout)
            for _ in range(rank + 1, size):
                try:
                    wire, _ = server.accept()
                except TimeoutError:
                    raise DistBackendError(f"rank {rank}: {len(self.peers) + 1} of {size} "
                                           f"processes are there after {timeout:g} s") from None
                wire.settimeout(None)
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._keep(int(receive_parts(wire)[0]), wire)

    def _keep(self, other: int, wire: socket.socket) -> None:
        self.peers[other], self._locks[other] = wire, threading.Lock()
        threading.Thread(target=self._listen, args=(other, wire), daemon=True,
                         name=f"lampion rank {other}").start()

    def _listen(self, other: int, wire: socket.socket) -> None:
        """Put what a process sends into the mailbox."""
        while True:
            try:
                tag, body = receive_parts(wire)
            except (OSError, ValueError):
                with self._arrived:
                    self._gone.add(other)
                    self._arrived.notify_all()
                return
            with self._arrived:
                self._mail.setdefault((other, bytes(tag)), deque()).append(body)
                self._arrived.notify_all()

    def send(self, other: int, tag: str, body: Any) -> None:
        """Send bytes. DistBackendError if the process is gone."""
        if other == self.rank:
            with self._arrived:
                self._mail.setdefault((other, tag.encode()), deque()).append(bytearray(body))
            return
        try:
            with self._locks[other]:
                send_parts(self.peers[other], [tag.encode(), body])
        except OSError as error:
            raise DistBackendError(f"rank {self.rank}: the connection to rank {other} is closed: "
                                   f"{error}") from None

    def receive(self, other: int, tag: str) -> bytearray:
        """The next message of a process with this tag. DistBackendError if the process is gone, or
        nothing comes within the timeout."""
        return self.receive_any((other,), tag)[1]

    def receive_any(self, others: tuple[int, ...], tag: str) -> tuple[int, bytearray]:
        """(who, the message) of any of some processes."""
        key, end = tag.encode(), time.monotonic() + self.timeout
        with self._arrived:
            while True:
                for other in others:
                    waiting = self._mail.get((other, key))
                    if waiting:
                        body = waiting.popleft()
                        if not waiting:
                            del self._mail[other, key]
                        return other, body
                if self._gone.issuperset(others):
                    raise DistBackendError(f"rank {self.rank}: rank {others[0]} ended while "
                                           f"{tag.partition('/')[2]} waited for it")
                rest = end - time.monotonic()
                if rest <= 0 or not self._arrived.wait(rest):
                    raise DistBackendError(f"rank {self.rank}: nothing came from rank "
                                           f"{', '.join(map(str, others))} for "
                                           f"{tag.partition('/')[2]} within {self.timeout:g} s")

    def close(self) -> None:
        """End all connections."""
        for wire in self.peers.values():
            try:
                wire.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            wire.close()
        self.peers.clear()


def _own_address(store: Store) -> str:
    """The address of this machine as the store's is reached; of this machine alone without one."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    host, port = getattr(store, "host", None), getattr(store, "port", None)
    if host is None or port is None:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        try:
            probe.connect((host, port))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
