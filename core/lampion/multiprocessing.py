"""Processes that share tensors: the standard library's `multiprocessing`, with `spawn` on top.

Tensors travel between processes by value; those in shared memory (`Tensor.share_memory_`) travel
as the name of their memory, so that all processes see what one writes. Floor 7; imports interop.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import tempfile
import traceback
from multiprocessing import *  # noqa: F403
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from . import interop
from .tensor import Tensor

__all__ = [*multiprocessing.__all__, "ProcessContext", "ProcessException",
           "ProcessExitedException", "ProcessRaisedException", "SpawnContext",
           "get_all_sharing_strategies", "get_sharing_strategy", "set_sharing_strategy", "spawn",
           "start_processes"]


def get_all_sharing_strategies() -> set[str]:
    """How memory can be shared: by a name in the file system."""
    return {"file_system"}


def get_sharing_strategy() -> str:
    """How memory is shared."""
    return "file_system"


def set_sharing_strategy(new_strategy: str) -> None:
    """Choose how memory is shared; ValueError for what there is not.

    "file_descriptor" is taken as well: the memory of both is seen by all, and unlinked with its
    last tensor.
    """
    if new_strategy not in ("file_system", "file_descriptor"):
        raise ValueError(f"set_sharing_strategy: {new_strategy!r}; there is 'file_system'")


def _reduce(t: Tensor) -> Any:
    """Pickle a tensor for another process of this machine."""
    if t.requires_grad and not t.is_leaf:
        raise RuntimeError("Cowardly refusing to serialize non-leaf tensor which requires_grad, "
                           "since autograd does not support crossing process boundaries. If you "
                           "just want to transfer the data, call detach() on the tensor before "
                           "serializing (e.g., putting it on the queue).")
    name = interop.shared_name(t)
    if name is None:
        return t.__reduce_ex__(2)
    return interop.from_shared, (name, t.dtype, tuple(t.shape), t.stride(), t.storage_offset(),
                                 t.requires_grad, type(t))


ForkingPickler.register(Tensor, _reduce)


class ProcessException(Exception):
    """A process of `spawn` failed."""

    def __init__(self, msg: str, error_index: int, error_pid: int) -> None:
        super().__init__(msg)
        self.msg, self.error_index, self.error_pid = msg, error_index, error_pid


class ProcessRaisedException(ProcessException):
    """The function raised; the message holds the traceback."""


class ProcessExitedException(ProcessException):
    """The process ended with an exit code or by a signal."""

    def __init__(self, msg: str, error_index: int, error_pid: int, exit_code: int,
                 signal_name: str | None = None) -> None:
        super().__init__(msg, error_index, error_pid)
        self.exit_code, self.signal_name = exit_code, signal_name


def _run(fn: Any, index: int, args: tuple[Any, ...], report: str) -> None:
    """What a process of `spawn` does."""
    try:
        fn(index, *args)
    except KeyboardInterrupt:
        pass
    except Exception:
        Path(report).write_text(traceback.format_exc(), encoding="utf-8")
        sys.exit(1)


class ProcessContext:
    """The processes that `start_processes` began."""

    def __init__(self, processes: list[Any], reports: list[str]) -> None:
        self.processes, self._reports = processes, reports
        self.sentinels = {p.sentinel: k for k, p in enumerate(processes)}

    def pids(self) -> list[int]:
        """Their numbers."""
        return [int(p.pid) for p in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait until one ends; whether all have. If one failed the others are ended (with
        `grace_period` seconds to end by themselves) and its error is raised."""
        if not self.sentinels:
            return True
        ready = multiprocessing.connection.wait(list(self.sentinels), timeout)
        failed = None
        for sentinel in ready:
            k = self.sentinels.pop(sentinel)  # type: ignore[arg-type]
            self.processes[k].join()
            if self.processes[k].exitcode != 0:
                failed = k
        if failed is None:
            return not self.sentinels
        for end in ("join" if grace_period else "terminate", "terminate", "kill"):
            for p in self.processes:
                if p.is_alive() and end != "join":
                    getattr(p, end)()
            for p in self.processes:
                p.join(grace_period if end == "join" else 30)
        self._fail(failed)
        return False

    def _fail(self, k: int) -> None:
        process = self.processes[k]
        report = Path(self._reports[k])
        text = report.read_text(encoding="utf-8") if report.exists() else ""
        if text:
            raise ProcessRaisedException(
                f"\n\n-- Process {k} terminated with the following error:\n{text}", k, process.pid)
        code = process.exitcode
        if code < 0:
            name = signal.Signals(-code).name
            raise ProcessExitedException(f"process {k} terminated with signal {name}", k,
                                         process.pid, code, name)
        raise ProcessExitedException(f"process {k} terminated with exit code {code}", k,
                                     process.pid, code)


SpawnContext = ProcessContext


def start_processes(fn: Any, args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True,
                    daemon: bool = False, start_method: str = "spawn", **options: Any) -> Any:
    """Run `fn(k, *args)` in processes k = 0, 1, ... `nprocs` - 1.

    With `join` wait for all; `ProcessRaisedException` holds the traceback of the first that
    failed. Else give a `ProcessContext`.
    """
    context: Any = multiprocessing.get_context(start_method)
    folder = tempfile.mkdtemp(prefix="lampion-spawn-")
    processes, reports = [], []
    for k in range(nprocs):
        report = str(Path(folder) / f"{k}.txt")
        process = context.Process(target=_run, args=(fn, k, args, report), daemon=daemon)
        process.start()
        processes.append(process)
        reports.append(report)
    made = ProcessContext(processes, reports)
    if not join:
        return made
    while not made.join():
        pass
    for file in reports:
        Path(file).unlink(missing_ok=True)
    Path(folder).rmdir()
    return None


def spawn(fn: Any, args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True,
          daemon: bool = False, start_method: str = "spawn") -> Any:
    """`start_processes` with new interpreters: `fn` must be importable from its module."""
    return start_processes(fn, args, nprocs, join, daemon, start_method)
