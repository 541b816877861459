"""One fork/join thread pool for every kernel of the process.

Kernels have the signature ``void k(ptr args, ptr params, i64 lo, i64 hi)`` and are run over
``[0, units)`` in equal chunks by the native function ``lampion_parallel`` (see
`parallel_address`). Three ways to run them:

- ``gomp``: through libgomp's own pool, when that library is there. Libraries built on it (oneDNN)
  then share the very same threads: two busy pools on one machine cost milliseconds.
- ``own``: pthread workers that spin shortly, then sleep on a condition variable.
- ``serial``: the calling thread.

``LAMPION_THREADING`` forces one of them, ``LAMPION_NUM_THREADS`` the number of threads.
Only one parallel region runs at a time; a second thread that asks meanwhile runs its own work
itself, which also makes nested regions harmless. A forked child starts with one thread.

May import: the standard library, `jit`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import signal
import sys
import threading
from pathlib import Path

from . import jit

__all__ = [
    "default_num_threads",
    "get_num_threads",
    "libgomp",
    "parallel_address",
    "parallel_for",
    "set_num_threads",
    "threading_kind",
]

_KINDS = ("gomp", "own", "serial")
_MAX_THREADS = 256
_SLOT_BYTES = 256
_SPIN = 500

# The pool's state, shared with the native code: indices of 64-bit words.
_NTHREADS, _BUSY, _USE_GOMP, _WORKERS = 0, 1, 2, 3
_GOMP_PARALLEL, _OMP_TID, _OMP_COUNT = 4, 5, 6
_JOB, _GENERATION, _PENDING = 8, 14, 16
_STATE_WORDS = 24

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_PAUSE["AMD64"] = _PAUSE["x86_64"]
_PAUSE["arm64"] = _PAUSE["aarch64"]


def _word(name: str, index: int) -> str:
    return f"  %{name} = getelementptr i64, ptr @lampion_pool, i64 {index}\n"


def _pool_ir() -> str:
    """The pool in LLVM IR.

    A worker's slot: word 0 its offer (even: a chunk waits to be claimed; odd: none), word 1
    whether it sleeps, word 2 its index; a mutex at byte 64, a condition variable at byte 128.
    Every worker has its own chunk, so that it meets the same data again in its own cache, but the
    calling thread claims the chunks of workers the system has not scheduled yet. Whoever claims a
    chunk may read the job: it is not replaced before all its chunks are done.

    Waking is Dekker's pattern: the caller stores the offer, then looks at `sleeping`; the worker
    stores `sleeping`, then looks at the offer; both with sequential consistency, so at least one
    of them sees the other.
    """
    declare_pause, pause = _PAUSE.get(platform.machine(), ("", ""))
    return f"""
@lampion_pool = external global [{_STATE_WORDS} x i64]
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)
declare i32 @sched_yield()
{declare_pause}

define internal void @chunk(ptr %job, i64 %index, i64 %count) nounwind {{
  %fn = load ptr, ptr %job
  %p1 = getelementptr i64, ptr %job, i64 1
  %args = load ptr, ptr %p1
  %p2 = getelementptr i64, ptr %job, i64 2
  %params = load ptr, ptr %p2
  %p3 = getelementptr i64, ptr %job, i64 3
  %units = load i64, ptr %p3
  %m0 = mul i64 %units, %index
  %lo = udiv i64 %m0, %count
  %next = add i64 %index, 1
  %m1 = mul i64 %units, %next
  %hi = udiv i64 %m1, %count
  call void %fn(ptr %args, ptr %params, i64 %lo, i64 %hi)
  ret void
}}

define internal void @gomp_body(ptr %job) nounwind {{
{_word("tp", _OMP_TID)}{_word("cp", _OMP_COUNT)}  %tf = load ptr, ptr %tp
  %cf = load ptr, ptr %cp
  %t32 = call i32 %tf()
  %c32 = call i32 %cf()
  %t = zext i32 %t32 to i64
  %c = zext i32 %c32 to i64
  call void @chunk(ptr %job, i64 %t, i64 %c)
  ret void
}}

define ptr @lampion_worker(ptr %slot) nounwind {{
entry:
{_word("job", _JOB)}{_word("pending", _PENDING)}{_word("countp", _JOB + 4)}
  %sleeping = getelementptr i64, ptr %slot, i64 1
  %indexp = getelementptr i64, ptr %slot, i64 2
  %mutex = getelementptr i8, ptr %slot, i64 64
  %cond = getelementptr i8, ptr %slot, i64 128
  %index = load i64, ptr %indexp
  br label %idle
idle:
  br label %spin
spin:
  %k = phi i64 [ 0, %idle ], [ %k1, %again ]
  %seen = load atomic i64, ptr %slot acquire, align 8
  %odd = and i64 %seen, 1
  %new = icmp eq i64 %odd, 0
  br i1 %new, label %claim, label %again
again:
  {pause}
  %k1 = add i64 %k, 1
  %tired = icmp ugt i64 %k1, {_SPIN}
  br i1 %tired, label %sleep, label %spin
sleep:
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  store atomic i64 1, ptr %sleeping seq_cst, align 8
  br label %check
check:
  %look = load atomic i64, ptr %slot seq_cst, align 8
  %odd2 = and i64 %look, 1
  %woken = icmp eq i64 %odd2, 0
  br i1 %woken, label %awake, label %wait
wait:
  %w = call i32 @pthread_cond_wait(ptr %cond, ptr %mutex)
  br label %check
awake:
  store atomic i64 0, ptr %sleeping seq_cst, align 8
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %claim
claim:
  %offer = phi i64 [ %seen, %spin ], [ %look, %awake ]
  %mine = call i1 @claim(ptr %slot, i64 %offer)
  br i1 %mine, label %work, label %idle
work:
  %count = load i64, ptr %countp
  call void @chunk(ptr %job, i64 %index, i64 %count)
  %left = atomicrmw sub ptr %pending, i64 1 release, align 8
  br label %idle
}}

define internal i1 @claim(ptr %slot, i64 %offer) nounwind {{
  %taken = or i64 %offer, 1
  %got = cmpxchg ptr %slot, i64 %offer, i64 %taken acq_rel monotonic, align 8
  %mine = extractvalue {{ i64, i1 }} %got, 1
  ret i1 %mine
}}

define internal void @own_run(ptr %request, i64 %count) nounwind {{
entry:
{_word("job", _JOB)}{_word("pending", _PENDING)}{_word("generation", _GENERATION)}
{_word("workersp", _WORKERS)}  %workers = load ptr, ptr %workersp
  %words = load <4 x i64>, ptr %request, align 8
  store <4 x i64> %words, ptr %job, align 8
  %countp = getelementptr i64, ptr %job, i64 4
  store i64 %count, ptr %countp
  %others = sub i64 %count, 1
  store atomic i64 %others, ptr %pending release, align 8
  %g0 = load i64, ptr %generation
  %g = add i64 %g0, 2
  store i64 %g, ptr %generation
  br label %wake
wake:
  %i = phi i64 [ 1, %entry ], [ %i1, %woken ]
  %off = mul i64 %i, {_SLOT_BYTES}
  %slot = getelementptr i8, ptr %workers, i64 %off
  store atomic i64 %g, ptr %slot seq_cst, align 8
  %sleepingp = getelementptr i64, ptr %slot, i64 1
  %sleeping = load atomic i64, ptr %sleepingp seq_cst, align 8
  %asleep = icmp ne i64 %sleeping, 0
  br i1 %asleep, label %signal, label %woken
signal:
  %mutex = getelementptr i8, ptr %slot, i64 64
  %cond = getelementptr i8, ptr %slot, i64 128
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %s = call i32 @pthread_cond_signal(ptr %cond)
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %woken
woken:
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %count
  br i1 %more, label %wake, label %first
first:
  call void @chunk(ptr %job, i64 0, i64 %count)
  br label %steal
steal:
  %v = phi i64 [ 1, %first ], [ %v1, %next ]
  %voff = mul i64 %v, {_SLOT_BYTES}
  %vslot = getelementptr i8, ptr %workers, i64 %voff
  %idle = call i1 @claim(ptr %vslot, i64 %g)
  br i1 %idle, label %help, label %next
help:
  call void @chunk(ptr %job, i64 %v, i64 %count)
  %left = atomicrmw sub ptr %pending, i64 1 release, align 8
  br label %next
next:
  %v1 = add i64 %v, 1
  %rest = icmp ult i64 %v1, %count
  br i1 %rest, label %steal, label %join
join:
  %k = phi i64 [ 0, %next ], [ %k1, %again ]
  %open = load atomic i64, ptr %pending acquire, align 8
  %done = icmp eq i64 %open, 0
  br i1 %done, label %out, label %busy
busy:
  {pause}
  %k1 = add i64 %k, 1
  %long = icmp ugt i64 %k1, {_SPIN}
  br i1 %long, label %yield, label %again
yield:
  %y = call i32 @sched_yield()
  br label %again
again:
  br label %join
out:
  ret void
}}

define void @lampion_parallel(
    ptr %fn, ptr %args, ptr %params, i64 %units, i64 %grain) nounwind {{
{_word("np", _NTHREADS)}{_word("busy", _BUSY)}{_word("kindp", _USE_GOMP)}
  %n = load i64, ptr %np
  %small = icmp slt i64 %grain, 1
  %g = select i1 %small, i64 1, i64 %grain
  %room = sdiv i64 %units, %g
  %fits = icmp slt i64 %room, %n
  %count = select i1 %fits, i64 %room, i64 %n
  %one = icmp slt i64 %count, 2
  br i1 %one, label %serial, label %try
try:
  %got = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic, align 8
  %mine = extractvalue {{ i64, i1 }} %got, 1
  br i1 %mine, label %fork, label %serial
fork:
  %request = alloca [4 x i64], align 8
  store ptr %fn, ptr %request
  %r1 = getelementptr i64, ptr %request, i64 1
  store ptr %args, ptr %r1
  %r2 = getelementptr i64, ptr %request, i64 2
  store ptr %params, ptr %r2
  %r3 = getelementptr i64, ptr %request, i64 3
  store i64 %units, ptr %r3
  %kind = load i64, ptr %kindp
  %gomp = icmp ne i64 %kind, 0
  br i1 %gomp, label %shared, label %own
shared:
{_word("gp", _GOMP_PARALLEL)}  %start = load ptr, ptr %gp
  %c32 = trunc i64 %count to i32
  call void %start(ptr @gomp_body, ptr %request, i32 %c32, i32 0)
  br label %release
own:
  call void @own_run(ptr %request, i64 %count)
  br label %release
release:
  store atomic i64 0, ptr %busy release, align 8
  ret void
serial:
  call void %fn(ptr %args, ptr %params, i64 0, i64 %units)
  ret void
}}
"""


# ---- how many threads --------------------------------------------------------------------------


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(cpus: set[int]) -> int:
    """Cores among `cpus`, counting hyper-thread siblings once."""
    cores = set()
    for cpu in cpus:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(path.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _quota() -> float:
    """Processors the control group grants, infinity without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if limit == "max" else int(limit) / int(period)


def _count(name: str) -> int | None:
    text = os.environ.get(name, "").split(",")[0].strip()
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name}={text!r} is not a number of threads")
    return int(text)


def default_num_threads() -> int:
    """Threads used unless told otherwise: the environment's wish, else the usable cores.

    ``LAMPION_NUM_THREADS`` wins over ``OMP_NUM_THREADS``; cores outside the process's affinity
    mask or beyond its control group's quota do not count, nor do hyper-thread siblings.
    """
    asked = _count("LAMPION_NUM_THREADS") or _count("OMP_NUM_THREADS")
    if asked is None:
        asked = int(max(1, min(_physical_cores(_usable_cpus()), _quota())))
    return min(asked, _MAX_THREADS)


# ---- the pool ----------------------------------------------------------------------------------


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


@functools.cache
def libgomp() -> ctypes.CDLL | None:
    """The GNU OpenMP runtime, or None where it is not installed.

    Whoever loads a library that needs it must call this first: it makes the idle threads go to
    sleep after some 30 microseconds. By default they spin for ten milliseconds, which on a machine
    that runs anything else made small parallel regions 10 to 100 times slower than serial ones.
    ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY`` in the environment override that.
    """
    if not sys.platform.startswith("linux"):
        return None
    quiet = not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    if quiet:  # read once, while the library loads
        os.environ["GOMP_SPINCOUNT"] = str(_SPIN)
    try:
        library = ctypes.CDLL("libgomp.so.1")
        _ = (library.GOMP_parallel, library.omp_get_thread_num, library.omp_set_num_threads)
    except (OSError, AttributeError):
        return None
    finally:
        if quiet:
            del os.environ["GOMP_SPINCOUNT"]
    return library


class _Pool:
    def __init__(self) -> None:
        self.state = jit.pin((ctypes.c_int64 * _STATE_WORDS)())
        self.gomp: ctypes.CDLL | None = None
        self.started = 1
        self.kind = self._choose()
        self.state[_NTHREADS] = 1
        symbols = {"lampion_pool": ctypes.addressof(self.state)}
        self.libc = ctypes.CDLL(None) if os.name == "posix" else None
        if self.libc is None:
            self.address = _serial_address()
        else:
            for name in ("mutex_lock", "mutex_unlock", "cond_wait", "cond_signal"):
                symbols[f"pthread_{name}"] = _address(self.libc[f"pthread_{name}"])
            symbols["sched_yield"] = _address(self.libc.sched_yield)
            found = jit.compile_ir(_pool_ir(), ["lampion_parallel", "lampion_worker"], symbols)
            self.address = found["lampion_parallel"]
            self.worker = found["lampion_worker"]
        self.call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)(
            self.address
        )
        self.resize(default_num_threads())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _choose(self) -> str:
        asked = os.environ.get("LAMPION_THREADING") or None
        if asked not in (None, *_KINDS):
            raise ValueError(f"LAMPION_THREADING={asked!r}: choose one of {', '.join(_KINDS)}")
        if asked in (None, "gomp"):
            self.gomp = libgomp()
            if self.gomp is not None:
                self.state[_GOMP_PARALLEL] = _address(self.gomp.GOMP_parallel)
                self.state[_OMP_TID] = _address(self.gomp.omp_get_thread_num)
                self.state[_OMP_COUNT] = _address(self.gomp.omp_get_num_threads)
                self.state[_USE_GOMP] = 1
                return "gomp"
            if asked:
                raise RuntimeError("LAMPION_THREADING=gomp, but libgomp.so.1 cannot be loaded")
        return "own" if asked != "serial" and os.name == "posix" else "serial"

    def resize(self, count: int) -> None:
        if self.kind == "serial":
            count = 1
        elif self.kind == "own":
            self._start_workers(count)
        elif self.gomp is not None:
            self.gomp.omp_set_num_threads(count)
        self.state[_NTHREADS] = count

    def _start_workers(self, count: int) -> None:
        if count <= 1:
            return
        if not self.state[_WORKERS]:
            buffer = jit.pin(ctypes.create_string_buffer(_SLOT_BYTES * (_MAX_THREADS + 1)))
            start = ctypes.addressof(buffer)
            self.state[_WORKERS] = -(-start // _SLOT_BYTES) * _SLOT_BYTES
            self.started = 1
        # Python's signal handlers run in the main thread: workers must not swallow signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while self.started < count:
                self._start_worker(self.started)
                self.started += 1
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_worker(self, index: int) -> None:
        assert self.libc is not None
        slot = self.state[_WORKERS] + index * _SLOT_BYTES
        words = (ctypes.c_int64 * 3).from_address(slot)
        words[0], words[1], words[2] = 1, 0, index
        self.libc.pthread_mutex_init(ctypes.c_void_p(slot + 64), None)
        self.libc.pthread_cond_init(ctypes.c_void_p(slot + 128), None)
        thread = ctypes.c_void_p()
        error = self.libc.pthread_create(
            ctypes.byref(thread), None, ctypes.c_void_p(self.worker), ctypes.c_void_p(slot)
        )
        if error:
            raise RuntimeError(f"cannot start worker thread {index}: {os.strerror(error)}")
        self.libc.pthread_detach(thread)

    def _after_fork(self) -> None:
        """In a forked child no worker exists, and libgomp would wait for its lost threads."""
        global _lock
        _lock = threading.Lock()
        self.state[_NTHREADS] = 1
        self.state[_BUSY] = 0
        self.state[_WORKERS] = 0
        self.state[_GENERATION] = 0
        if self.kind == "gomp" and self.gomp is not None:
            self.gomp.omp_set_num_threads(1)
            self.state[_USE_GOMP] = 0
            self.kind = "own"


def _serial_address() -> int:
    """`lampion_parallel` for systems without pthreads."""
    text = """
define void @lampion_parallel(ptr %fn, ptr %args, ptr %params, i64 %units, i64 %grain) nounwind {
  call void %fn(ptr %args, ptr %params, i64 0, i64 %units)
  ret void
}
"""
    return jit.compile_ir(text, ["lampion_parallel"])["lampion_parallel"]


_pool: _Pool | None = None
_lock = threading.Lock()


def _get() -> _Pool:
    global _pool
    if _pool is None:
        with _lock:
            if _pool is None:
                _pool = _Pool()
    return _pool


def parallel_address() -> int:
    """Address of ``void lampion_parallel(ptr fn, ptr args, ptr params, i64 units, i64 grain)``.

    It calls ``fn(args, params, lo, hi)`` for chunks that cover ``[0, units)``, each of at least
    `grain` units and all of nearly the same size, and returns when all are done. With one thread,
    or ``units < 2 * grain``, it is one call in the calling thread. Declare it in IR and pass the
    address to `jit.compile_ir` as a symbol. Starts the pool.
    """
    return _get().address


def parallel_for(function: int, args: int, params: int, units: int, grain: int) -> None:
    """Run the kernel at address `function` over `units`; see `parallel_address`."""
    _get().call(function, args, params, units, grain)


def threading_kind() -> str:
    """``"gomp"``, ``"own"`` or ``"serial"``: how kernels are spread over threads."""
    return _get().kind


def get_num_threads() -> int:
    """Number of threads a large kernel uses."""
    return int(_get().state[_NTHREADS])


def set_num_threads(count: int) -> None:
    """Use `count` threads from now on; ValueError below 1 or above 256.

    Under ``serial`` threading the count stays 1. In a forked child this starts workers of its own.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"set_num_threads expects an int, not {type(count).__name__}")
    if not 1 <= count <= _MAX_THREADS:
        raise ValueError(f"the number of threads must be from 1 to {_MAX_THREADS}, not {count}")
    _get().resize(count)
