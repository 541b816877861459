"""The reference device of lampion: a complete backend in one readable file of NumPy.

It is three things: the tutorial (`docs/write-a-backend.md` walks through it), the oracle that
other backends are compared with, and the proof that an outsider can add a device. It uses the
public contract only: `lampion.runtime.backend` for the class to subclass and `lampion.ir` for the
kernels that lampion asks it to run. Nothing in lampion knows this file.

A backend answers four questions. Where do bytes live (`allocate`)? How do they travel
(`copy_from_host`, `copy_to_host`)? What can the device compute with (`capabilities`)? And how
does it run a kernel (`compile`)? Everything else, all ops and all gradients, follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lampion.base import dtype as dt
from lampion.base.device import device
from lampion.base.errors import OutOfMemoryError
from lampion.ir import interpret
from lampion.ir.expr import Expr, walk
from lampion.ir.kernel import (ArgReduce, Kernel, Reduce, Scan, Scatter, Stage, Store,
                               coefficient)
from lampion.runtime.backend import (Backend, Capabilities, DeviceInfo, KernelImpl, Launch,
                                     OpCall, Storage)

as_strided = np.lib.stride_tricks.as_strided


def lampion_backend() -> Backend:
    """The hook that lampion calls, once, when the device is first used."""
    return RefBackend()


class RefBackend(Backend):
    """A device whose memory is NumPy arrays and whose kernels are interpreted."""

    name = "ref"

    def devices(self) -> list[DeviceInfo]:
        return [DeviceInfo("ref", "NumPy reference device", {"numpy": np.__version__})]

    def capabilities(self, index: int) -> Capabilities:
        # "kernel-ir": compile() accepts every kernel, so this device runs every op natively.
        return Capabilities(frozenset(dt.ALL), frozenset({"kernel-ir"}))

    # ---- memory: a Storage holds whatever handle we like; here, an array of bytes ---------------

    def allocate(self, nbytes: int, device: device) -> Storage:
        try:
            return Storage(np.empty(nbytes, np.uint8), nbytes, device)
        except MemoryError as e:
            raise OutOfMemoryError(f"ref: {nbytes} bytes cannot be allocated: {e}") from e

    def copy_from_host(self, data: Any, storage: Storage) -> None:
        raw = np.frombuffer(data, np.uint8)
        storage.handle[storage.offset:storage.offset + raw.size] = raw

    def copy_to_host(self, storage: Storage, nbytes: int) -> bytes:
        return storage.handle[storage.offset:storage.offset + nbytes].tobytes()

    # ---- kernels: the loop nests that lampion lowers ops to -------------------------------------

    def compile(self, kernel: Kernel) -> Callable[[Sequence[Any], Sequence[int]], None]:
        def run(args: Sequence[Any], params: Sequence[int]) -> None:
            buffers = [elements(a, arg.dtype) if isinstance(a, Storage) else a
                       for a, arg in zip(args, kernel.args)]
            with np.errstate(all="ignore"):
                Evaluation(kernel, params, buffers).run()

        return run

    # ---- library kernels: any op may be claimed with something better than its lowering ---------

    def kernels(self) -> Sequence[KernelImpl]:
        return [KernelImpl("contract", "ref", build_contract, constraint=no_extras,
                           priority=10, source="numpy.matmul")]


def lampion_kernels(registry: Any) -> None:
    """The hook through which a plug-in offers kernels for ops."""
    for impl in RefBackend().kernels():
        registry.register_kernel(impl)


def elements(storage: Storage, dtype: dt.dtype) -> np.ndarray:
    """The storage from its offset on, as a flat array of a dtype."""
    raw = storage.handle[storage.offset:]
    return raw[:raw.size - raw.size % dtype.itemsize].view(dtype.np)


class Evaluation:
    """One run of a kernel: stage by stage, every stage on all its points at once.

    The value of an expression is an array that broadcasts to grid + ranges, the shape of the
    stage's iteration space.
    """

    def __init__(self, kernel: Kernel, params: Sequence[int], buffers: list[Any]) -> None:
        self.kernel, self.params, self.buffers = kernel, params, buffers
        self.grid = tuple(self.number(n) for n in kernel.grid)
        self.refs: dict[str, np.ndarray] = {}  # results of finished reductions, of shape grid

    def run(self) -> None:
        if 0 in self.grid:
            return
        for stage in self.kernel.stages:
            if any(reads_itself(stage)):  # a scan that looks at its own past: point by point
                interpret.run(self.kernel, self.params, self.buffers)
                return
        for stage in self.kernel.stages:
            self.run_stage(stage)

    def run_stage(self, stage: Stage) -> None:
        self.shape = self.grid + tuple(self.number(n) for n in stage.ranges)
        self.memo: dict[int, Any] = {}
        extra = (1,) * len(stage.ranges)
        local = {k: v.reshape(v.shape + extra) for k, v in self.refs.items()}
        for s in stage.body:
            if isinstance(s, Store):
                self.store(s, local)
            elif isinstance(s, Scatter):
                self.scatter(s, local)
            elif isinstance(s, Scan):
                rows = self.rows(s.value, local)
                self.refs[s.name] = rows[..., -1] if rows.shape[-1] else rows.sum(-1)
                local[s.name] = accumulate(s.op, rows).reshape(self.shape)
                self.memo.clear()
            elif isinstance(s, ArgReduce):
                rows, where = self.rows(s.value, local), self.rows(s.position, local)
                best = interpret._first_extreme(s.op, rows)[..., None]
                self.refs[s.name] = np.take_along_axis(where, best, -1)[..., 0]
                self.refs[s.name + "_value"] = np.take_along_axis(rows, best, -1)[..., 0]
            elif isinstance(s, Reduce):
                self.refs[s.name] = interpret.reduce_last(s.op, self.rows(s.value, local))

    def rows(self, e: Expr, refs: dict[str, np.ndarray]) -> np.ndarray:
        """A value with all ranges flattened into the last axis."""
        full = np.broadcast_to(self.value(e, refs), self.shape)
        return full.reshape((*self.grid, int(np.prod(self.shape[len(self.grid):], dtype=int))))

    def store(self, s: Store, refs: dict[str, np.ndarray]) -> None:
        value = self.value(s.value, refs)
        window = self.window(s.slot, s.index) if s.mask is None else None
        if window is not None:
            window[...] = value
            return
        index, value, keep = self.flat(s, refs)
        self.buffers[s.slot][index[keep]] = value[keep]

    def scatter(self, s: Scatter, refs: dict[str, np.ndarray]) -> None:
        index, value, keep = self.flat(s, refs)
        out, index, value = self.buffers[s.slot], index[keep], value[keep]
        if s.op == "set":
            out[index] = value
        elif out.dtype == bool:
            (np.logical_or if s.op in ("sum", "max", "or") else np.logical_and).at(
                out, index, value)
        else:
            {"sum": np.add, "prod": np.multiply, "max": np.maximum,
             "min": np.minimum}[s.op].at(out, index, value)

    def flat(self, s: Store | Scatter, refs: dict[str, np.ndarray]) -> Any:
        """(index, value, mask) as flat arrays over all points, in order."""
        parts = (self.value(s.index, refs), self.value(s.value, refs),
                 True if s.mask is None else self.value(s.mask, refs))
        return [np.broadcast_to(p, self.shape).ravel() for p in parts]

    # ---- expressions ----------------------------------------------------------------------------

    def number(self, e: Expr) -> int:
        """A size or stride: an expression of runtime parameters only."""
        return int(interpret.evaluate([e], {}, self.params)[0])

    def value(self, root: Expr, refs: dict[str, np.ndarray]) -> Any:
        """The value of a typed expression at every point."""
        for e in walk([root]):
            if id(e) not in self.memo:
                self.memo[id(e)] = self.one(e, refs)
        return self.memo[id(root)]

    def one(self, e: Expr, refs: dict[str, np.ndarray]) -> Any:
        assert e.dtype is not None
        if e.op == "const":
            return np.array(e.value).astype(e.dtype.np)
        if e.op == "param":
            return np.int64(self.params[e.value])
        if e.op == "scalar":
            return np.array(self.buffers[e.value]).astype(e.dtype.np)
        if e.op == "index":
            axis = e.value
            return np.arange(self.shape[axis], dtype=np.int64).reshape(
                [-1 if k == axis else 1 for k in range(len(self.shape))])
        if e.op == "ref":
            return refs[e.value]
        operands = [self.memo[id(a)] for a in e.args]
        if e.op == "load":
            window = self.window(e.value, e.args[0]) if len(e.args) == 1 else None
            if window is not None:
                return window
            return interpret._load(self.buffers[e.value], e.dtype, *operands)
        return interpret.intrinsic(e.op, operands, e.dtype, e.args[0].dtype)

    def window(self, slot: int, index: Expr) -> np.ndarray | None:
        """The elements at an affine index as a strided view of the buffer, over all points.

        None if the index is gathered from memory, or if a point would leave the buffer.
        """
        steps = [coefficient(index, k) for k in range(len(self.shape))]
        if any(c is None or has_index(c) for c in steps):
            return None
        strides = [self.number(c) for c in steps]  # type: ignore[arg-type]
        zeros = {k: np.int64(0) for k in range(len(self.shape))}
        try:
            start = int(interpret.evaluate([index], {}, self.params, zeros)[0])
        except (KeyError, IndexError):
            return None
        if 0 in self.shape:
            return None
        ends = [(n - 1) * s for n, s in zip(self.shape, strides)]
        low, high = start + sum(x for x in ends if x < 0), start + sum(x for x in ends if x > 0)
        buffer = self.buffers[slot]
        if low < 0 or high >= buffer.size:
            return None
        item = buffer.itemsize
        return as_strided(buffer[start:], self.shape, [s * item for s in strides])


def has_index(e: Expr) -> bool:
    """Whether an expression depends on a loop variable or on memory."""
    return any(x.op in ("index", "load", "ref", "scalar") for x in walk([e]))


def reads_itself(stage: Stage) -> list[bool]:
    """For every scan: whether its value reads a running value of the same stage."""
    names = {s.name for s in stage.body if isinstance(s, Scan)}
    return [any(e.op == "ref" and e.value in names for e in walk([s.value]))
            for s in stage.body if isinstance(s, (Scan, Reduce))]


def accumulate(op: str, rows: np.ndarray) -> np.ndarray:
    """Running reduction along the last axis, in the values' own type."""
    if rows.dtype == bool:
        f: Any = np.logical_or if op in ("sum", "max", "or") else np.logical_and
        return f.accumulate(rows, axis=-1)
    f = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum,
         "and": np.bitwise_and, "or": np.bitwise_or}[op]
    return f.accumulate(rows, axis=-1, dtype=rows.dtype)


# ---- a library kernel ---------------------------------------------------------------------------

def no_extras(call: OpCall) -> bool:
    """numpy.matmul multiplies two tensors; a bias or an activation is left to the lowering."""
    return len(call.inputs) == 2


def build_contract(call: OpCall) -> Launch | None:
    """The batched matrix product a[..., M, K] @ b[..., K, N]; 16-bit floats through float32."""
    a, b = call.inputs
    out = call.outputs[0]
    wide = dt.opmath(out.dtype).np

    def read(storage: Storage, m: Any) -> np.ndarray:
        flat = elements(storage, m.dtype)
        return as_strided(flat, m.shape, [s * m.dtype.itemsize for s in m.strides]).astype(wide)

    def into(result: Storage, x: Storage, y: Storage) -> None:
        target = as_strided(elements(result, out.dtype), out.shape,
                            [s * out.dtype.itemsize for s in out.strides])
        target[...] = np.matmul(read(x, a), read(y, b)).astype(out.dtype.np)

    def launch(x: Storage, y: Storage) -> Storage:
        result = Storage(np.empty(out.span, np.uint8), out.span, call.device)
        into(result, x, y)
        return result

    return Launch(launch, into, ["numpy.matmul"])
