"""The reference device with one fault, which LAMPION_FAULT names: what the conformance suite must
catch. Without a fault it is healthy.

`FAULTS` says for each what it is and which chapter has to notice. A fault is planted where real
backends have it: in the allocator, in copies, in a cache of kernels, in how a kernel is carried
out, at import.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

import lampion_refdevice as ref
from lampion.base import dtype as dt
from lampion.base.errors import OutOfMemoryError, UnsupportedError
from lampion.ir import interpret
from lampion.ir.kernel import ArgReduce, Reduce, Scatter, Store
from lampion.runtime.backend import Launch, Storage

FAULTS: dict[str, tuple[str, str]] = {  # name -> (chapter, what is wrong)
    "view-from-base": ("contract", "a view of a view is counted from the base"),
    "copy-out-offset": ("contract", "copies to the host begin at the start of the memory"),
    "leak": ("contract", "freed memory is never given back"),
    "freed-with-view": ("contract", "the memory is free when a view of it dies"),
    "freed-twice": ("contract", "a freed block has two owners later"),
    "oom-is-runtime-error": ("contract", "out of memory has no type of its own"),
    "oom-is-the-end": ("contract", "after an out of memory nothing works"),
    "zero-bytes": ("contract", "an allocation of no bytes fails"),
    "copy-in-aliases": ("contract", "a copy from the host keeps the host's memory"),
    "copy-in-rounds-up": ("contract", "a copy from the host writes whole lines of 64 bytes"),
    "versions-per-view": ("contract", "writes to a view are not counted on its base"),
    "missing-sync": ("contract", "a read does not wait for the last large kernel"),
    "shared-scratch": ("contract", "threads share a scratch buffer"),
    "claims-uint64": ("contract", "a claimed dtype has no kernels"),
    "partial-fill": ("contract", "a fill stops after 4096 elements"),
    "one-element": ("contract", "kernels of one point do nothing"),
    "driver-at-import": ("hygiene", "importing the plug-in opens a library"),
    "noise-at-import": ("hygiene", "importing the plug-in prints"),
    "wrong-stride": ("kernels", "strides other than 0 and 1 are taken for contiguous ones"),
    "stride-0-as-1": ("kernels", "a broadcast operand is walked along"),
    "kernel-offset": ("kernels", "kernels ignore where a view starts"),
    "cache-without-dtype": ("kernels", "compiled kernels are cached by name and size"),
    "cache-without-params": ("kernels", "compiled kernels keep their first sizes"),
    "nan-swallowed": ("kernels", "max and min ignore NaN"),
    "tail": ("kernels", "the last element is left out if one is left over"),
    "double-as-float": ("kernels", "float64 is computed in float32"),
    "wrong-promotion": ("kernels", "integers become floats by way of float32"),
    "cast-wraps": ("kernels", "floats out of range wrap instead of saturating"),
    "division-by-zero": ("kernels", "an integer divided by 0 gives -1"),
    "wrong-identity": ("kernels", "a max starts from 0"),
    "empty-reduction": ("kernels", "the sum of nothing is 1"),
    "negative-zero": ("kernels", "-0 is lost"),
    "denormals": ("kernels", "small numbers are flushed to 0"),
    "last-of-ties": ("kernels", "argmax gives the last of equal values"),
    "scatter-order": ("kernels", "scatters run backwards"),
    "scatter-mask": ("kernels", "scatters ignore their mask"),
    "load-mask": ("kernels", "loads ignore their mask"),
    "nan-equals-nan": ("kernels", "NaN equals NaN"),
    "shift-amount": ("kernels", "shifts take their amount modulo the width"),
    "integers-saturate": ("kernels", "sums of integers saturate"),
    "bfloat16-truncates": ("kernels", "casts to bfloat16 cut the digits off"),
    "random-offset": ("random", "every draw starts at the beginning of the stream"),
    "host-in-silence": ("fallback", "everything runs on the host's backend"),
}

FAULT = os.environ.get("LAMPION_FAULT", "")
if FAULT and FAULT not in FAULTS:
    raise RuntimeError(f"LAMPION_FAULT={FAULT}: the faults are {', '.join(FAULTS)}")
if FAULT == "driver-at-import":
    import ctypes

    ctypes.CDLL("libm.so.6")
if FAULT == "noise-at-import":
    print("faulty device ready")


def lampion_backend() -> FaultyBackend:
    return FaultyBackend()


class FaultyStorage(Storage):
    __slots__ = ()

    @property
    def base(self) -> Storage:
        return self if self._base is None or FAULT == "versions-per-view" else self._base

    def view(self, byte_offset: int) -> Storage:
        view = super().view(byte_offset)
        if FAULT == "view-from-base":
            view.offset = byte_offset
        if FAULT == "freed-with-view":
            weakref.finalize(view, POOL.setdefault(self.handle.size, []).append, self.handle)
        return view


POOL: dict[int, list[np.ndarray]] = {}  # freed blocks by size
KEPT: list[np.ndarray] = []


class FaultyBackend(ref.RefBackend):
    name = "faulty"

    def __init__(self) -> None:
        self.dead = False
        self.late: Any = None  # a launch that has not run yet
        self.cache: dict[Any, Any] = {}
        self.scratch: dict[Any, np.ndarray] = {}

    # ---- memory and copies

    def allocate(self, nbytes: int, device: Any) -> Storage:
        if self.dead or (FAULT == "zero-bytes" and not nbytes):
            raise OutOfMemoryError(f"faulty: {nbytes} bytes cannot be allocated")
        free = POOL.get(nbytes)
        if free:
            return self.owned(FaultyStorage(free.pop(), nbytes, device))
        try:
            handle = super().allocate(nbytes, device).handle
        except OutOfMemoryError as error:
            self.dead = FAULT == "oom-is-the-end"
            if FAULT == "oom-is-runtime-error":
                raise RuntimeError(str(error)) from None
            raise
        if FAULT == "leak":
            KEPT.append(handle)
        return self.owned(FaultyStorage(handle, nbytes, device))

    def owned(self, storage: Storage) -> Storage:
        if FAULT == "freed-twice" and storage.nbytes:
            for _ in range(2):
                weakref.finalize(storage, POOL.setdefault(storage.nbytes, []).append,
                                 storage.handle)
        return storage

    def copy_from_host(self, data: Any, storage: Storage) -> None:
        if FAULT == "copy-in-aliases" and isinstance(data, np.ndarray) and not storage.offset \
                and data.nbytes == storage.nbytes:
            storage.handle = np.frombuffer(data, np.uint8)
            return
        super().copy_from_host(data, storage)
        if FAULT == "copy-in-rounds-up":
            end = storage.offset + len(memoryview(data).cast("B")) if len(data) else storage.offset
            storage.handle[end:-(-end // 64) * 64] = 0

    def copy_to_host(self, storage: Storage, nbytes: int) -> bytes:
        if FAULT == "copy-out-offset":
            return storage.handle[:nbytes].tobytes()
        return super().copy_to_host(storage, nbytes)

    def synchronize(self, device: Any) -> None:
        late, self.late = self.late, None
        if late is not None:
            late()

    # ---- kernels

    def program(self, program: Any, outputs: Sequence[int], device: Any) -> Launch:
        if FAULT == "host-in-silence":
            return self.on_the_host(program, outputs, device)
        return super().program(program, outputs, device)

    def on_the_host(self, program: Any, outputs: Sequence[int], device: Any) -> Launch:
        """The program of the host's backend, on copies."""
        from lampion import plugins
        from lampion.base.device import device as named

        host, there = plugins.backend("cpu"), named("cpu")
        made = host.program(program, outputs, there)

        def into(*args: Any) -> None:
            moved = []
            for a in args:
                if isinstance(a, Storage):
                    s = host.allocate(a.nbytes, there)
                    host.copy_from_host(self.copy_to_host(a, a.nbytes), s)
                    moved.append(s)
                else:
                    moved.append(a)
            made.into(*moved)
            for a, s in zip(args, moved):
                if isinstance(a, Storage):
                    self.copy_from_host(host.copy_to_host(s, a.nbytes), a)

        def launch(*inputs: Any) -> Any:
            outs = tuple(self.allocate(n, device) for n in outputs)
            into(*outs, *inputs)
            return outs[0] if len(outs) == 1 else outs

        return Launch(launch, into)

    def compile(self, kernel: Any) -> Any:
        if FAULT == "claims-uint64" and any(a.dtype is dt.uint64 for a in kernel.args):
            raise UnsupportedError(f"{kernel.name}: no uint64 here")
        if FAULT == "cache-without-dtype":
            key = kernel.name, kernel.nparams, len(kernel.args)
            return self.cache.setdefault(key, self.runner(kernel))
        return self.runner(kernel)

    def runner(self, kernel: Any) -> Any:
        def run(args: Sequence[Any], params: Sequence[int]) -> None:
            if FAULT == "cache-without-params":
                params = self.cache.setdefault(kernel.key, tuple(params))
            buffers = [self.elements(a, arg) if isinstance(a, Storage) else a
                       for a, arg in zip(args, kernel.args)]
            if FAULT == "shared-scratch":
                buffers = self.through_scratch(kernel, buffers)
            if FAULT == "random-offset" and "draw" in kernel.name:
                scalars = [k for k, a in enumerate(kernel.args) if a.kind == "scalar"]
                buffers[scalars[1]] = 0

            def work() -> None:
                with np.errstate(all="ignore"):
                    FaultyEvaluation(kernel, params, buffers).run()

            if FAULT == "missing-sync":
                self.synchronize(None)
                if max(b.size for b in buffers if isinstance(b, np.ndarray)) > 1 << 16:
                    self.late = work
                    return
            work()

        return run

    def elements(self, storage: Storage, arg: Any) -> np.ndarray:
        if FAULT == "kernel-offset":
            storage = Storage(storage.handle, storage.nbytes, storage.device)
        return ref.elements(storage, arg.dtype)

    def through_scratch(self, kernel: Any, buffers: list[Any]) -> list[Any]:
        moved = []
        for k, (b, arg) in enumerate(zip(buffers, kernel.args)):
            if arg.kind == "in" and b.size < 1 << 16:
                kept = self.scratch.setdefault((k, arg.dtype.name), np.empty(1 << 16, b.dtype))
                kept[:b.size] = b
                b = kept[:b.size]
            moved.append(b)
        time.sleep(2e-4)  # the others' turn
        return moved


class FaultyEvaluation(ref.Evaluation):
    """Runs a kernel as the reference device does, but for the fault."""

    def run(self) -> None:
        if FAULT == "one-element" and all(n == 1 for n in self.grid):
            return
        super().run()

    def run_stage(self, stage: Any) -> None:
        self.reduction: Any = next((s for s in stage.body if isinstance(s, Reduce)), None)
        super().run_stage(stage)
        for s in stage.body:
            if isinstance(s, ArgReduce) and FAULT == "last-of-ties":
                self.last_of_ties(s, stage)
            elif isinstance(s, Reduce) and s.imag is None:
                self.spoil(s)

    def rows(self, e: Any, refs: Any) -> np.ndarray:
        full = super().rows(e, refs)
        if FAULT == "nan-swallowed" and self.reduction and self.reduction.op in ("max", "min") \
                and full.dtype in (np.float32, np.float64):
            least = -np.inf if self.reduction.op == "max" else np.inf
            return np.where(np.isnan(full), least, full).astype(full.dtype)
        self.width = full.shape[-1]
        return full

    def spoil(self, s: Reduce) -> None:
        v = self.refs[s.name]
        if FAULT == "wrong-identity" and s.op == "max":
            self.refs[s.name] = np.maximum(v, np.zeros((), v.dtype))
        if FAULT == "empty-reduction" and s.op == "sum" and not self.width:
            self.refs[s.name] = v + np.ones((), v.dtype)

    def last_of_ties(self, s: ArgReduce, stage: Any) -> None:
        extra = (1,) * len(stage.ranges)
        local = {k: v.reshape(v.shape + extra) for k, v in self.refs.items()
                 if not k.startswith(s.name)}
        values, at = self.rows(s.value, local), self.rows(s.position, local)
        best = values.shape[-1] - 1 - interpret._first_extreme(s.op, values[..., ::-1])
        self.refs[s.name] = np.take_along_axis(at, best[..., None], -1)[..., 0]

    def store(self, s: Store, refs: Any) -> None:
        out = self.buffers[s.slot]
        inputs = any(a.kind == "in" for a in self.kernel.args)
        n = self.grid[-1] if self.grid else 0
        kept = None
        if FAULT == "tail" and n > 8 and n % 8 == 1:
            kept = slice(int(np.prod(self.grid)) - 1, None)
        if FAULT == "partial-fill" and not inputs:
            kept = slice(4096, None)
        before = None if kept is None else out[kept].copy()
        super().store(s, refs)
        if before is not None:
            out[kept] = before

    def flat(self, s: Any, refs: Any) -> Any:
        index, value, keep = super().flat(s, refs)
        if isinstance(s, Scatter) and FAULT == "scatter-order":
            return index[::-1], value[::-1], keep[::-1]
        if isinstance(s, Scatter) and FAULT == "scatter-mask":
            return index, value, np.ones_like(keep)
        return index, value, keep

    def window(self, slot: int, index: Any) -> Any:
        found = super().window(slot, index)
        if found is None or found.ndim < 2 or not found.size:
            return found
        item = found.itemsize
        strides = [s // item for s in found.strides]
        if FAULT == "wrong-stride" and any(s not in (0, 1) for s in strides):
            start = (found.__array_interface__["data"][0]
                     - self.buffers[slot].__array_interface__["data"][0]) // item
            rest = self.buffers[slot][start:]
            if rest.size >= found.size:
                return rest[:found.size].reshape(found.shape)
        if FAULT == "stride-0-as-1" and self.kernel.args[slot].kind == "in" and any(
                s == 0 and n > 1 for s, n in zip(strides, found.shape)):
            at = sum(np.arange(n).reshape([-1 if j == k else 1 for j in range(found.ndim)])
                     * (s or 1) for k, (n, s) in enumerate(zip(found.shape, strides)))
            return self.buffers[slot][at % self.buffers[slot].size]
        return found

    def one(self, e: Any, refs: Any) -> Any:
        operands = [self.memo[id(a)] for a in e.args]
        source = e.args[0].dtype if e.args else None
        if e.op == "load" and FAULT == "load-mask" and len(operands) > 1:
            return self.buffers[e.value][operands[0] % self.buffers[e.value].size]
        changed = self.intrinsic(e.op, operands, e.dtype, source)
        if changed is not None:
            return np.asarray(changed)
        result = super().one(e, refs)
        if FAULT == "denormals" and e.op == "load" and e.dtype in (dt.float32, dt.float64):
            tiny = np.finfo(e.dtype.np).tiny
            return np.where(np.abs(result) < tiny, np.zeros((), e.dtype.np), result)
        if FAULT == "double-as-float" and e.dtype is dt.float64 and e.op in ("add", "mul", "div"):
            return np.asarray(result).astype(np.float32).astype(np.float64)
        return result

    def intrinsic(self, op: str, a: list[Any], d: Any, source: Any) -> Any:
        """What the fault makes of an intrinsic; None for what it leaves alone."""
        if op == "cast":
            return self.cast(a[0], source, d)
        if FAULT == "division-by-zero" and op == "idiv":
            right = interpret.intrinsic(op, a, d, source)
            return np.where(a[1] == 0, np.array(-1).astype(d.np), right)
        if FAULT == "negative-zero" and op == "neg" and d.kind == "f":
            return (0 - a[0]).astype(d.np)
        if FAULT == "nan-equals-nan" and op == "eq" and source.kind == "f":
            return (a[0] == a[1]) | ((a[0] != a[0]) & (a[1] != a[1]))
        if FAULT == "shift-amount" and op in ("shl", "shr"):
            return interpret.intrinsic(op, [a[0], a[1] & a[1].dtype.type(8 * d.itemsize - 1)], d,
                                       source)
        if FAULT == "integers-saturate" and op == "add" and d is dt.int64 and np.ndim(a[0]):
            total = np.asarray(a[0]).astype(np.float64) + a[1]
            return np.where(np.abs(total) > 2.0**63, np.where(total > 0, 2**63 - 1, -2**63),
                            a[0] + a[1])
        return None

    def cast(self, x: Any, source: Any, d: Any) -> Any:
        if FAULT == "wrong-promotion" and source.kind in "iu" and d.kind == "f":
            return np.asarray(x).astype(np.float32).astype(d.np)
        if FAULT == "cast-wraps" and source.kind == "f" and d.kind in "iu" and d.itemsize < 8:
            wide = np.nan_to_num(np.asarray(x).astype(np.float64), nan=0, posinf=0, neginf=0)
            return np.clip(wide, -2.0**62, 2.0**62).astype(np.int64).astype(d.np)
        if FAULT == "bfloat16-truncates" and source is dt.float32 and d is dt.bfloat16:
            word = np.ascontiguousarray(x).view(np.uint32) >> np.uint32(16)
            return word.astype(np.uint16).view(d.np).reshape(np.shape(x))
        return None
