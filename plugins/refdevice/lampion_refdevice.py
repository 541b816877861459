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
from lampion.ir.kernel import Kernel, Scan, Scatter, Stage, Store, coefficient
from lampion.runtime import backend as contract
from lampion.runtime.backend import Capabilities, KernelImpl, Launch, OpCall, Storage

as_strided = np.lib.stride_tricks.as_strided


def lampion_backend() -> contract.Backend:
    """The hook that lampion calls, once, when the device is first used."""
    return RefBackend()


class RefBackend(contract.Backend):
    """A device whose memory is NumPy arrays and whose kernels are interpreted."""

    name = "ref"

    def devices(self) -> list[contract.DeviceInfo]:
        return [contract.DeviceInfo("ref", "NumPy reference device", {"numpy": np.__version__})]

    def capabilities(self, index: int) -> Capabilities:
        # "kernel-ir": compile() accepts every kernel. "host-functions": NumPy may do the rest.
        return Capabilities(frozenset(dt.ALL), frozenset({"kernel-ir", "host-functions"}))

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
        convs = ("conv_forward", "conv_backward_data", "conv_backward_weight")
        return [KernelImpl("contract", "ref", build_contract, priority=10, source="numpy"),
                *[KernelImpl(op, "ref", build_conv, priority=10, source="numpy") for op in convs]]


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

    The value of an expression is an array that broadcasts to grid + ranges.
    """

    def __init__(self, kernel: Kernel, params: Sequence[int], buffers: list[Any]) -> None:
        self.kernel, self.params, self.buffers = kernel, params, buffers
        self.grid = tuple(self.number(n) for n in kernel.grid)
        self.refs: dict[str, np.ndarray] = {}  # results of finished reductions, of shape grid

    def run(self) -> None:
        if 0 in self.grid:
            return
        if any(isinstance(s, Scan) for stage in self.kernel.stages for s in stage.body):
            # running values depend on their past: lampion's own interpreter goes point by point
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
            else:
                self.refs |= interpret.reduced(s, lambda e: self.rows(e, local))

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
        """A size or stride: runtime parameters only."""
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


# ---- library kernels: NumPy functions on the arrays of a call

def numpy_launch(call: OpCall, function: Callable[..., np.ndarray], name: str) -> Launch:
    """A Launch that calls `function` on the inputs as arrays (16-bit floats as float32)."""
    out, wide = call.outputs[0], dt.opmath(call.outputs[0].dtype).np

    def array(storage: Storage, m: Any) -> np.ndarray:
        strides = [s * m.dtype.itemsize for s in m.strides]
        return as_strided(elements(storage, m.dtype), m.shape, strides)

    def into(result: Storage, *inputs: Storage) -> None:
        arrays = [m.dtype.decode(array(x, m)).astype(wide, copy=False)
                  for x, m in zip(inputs, call.inputs)]
        array(result, out)[...] = out.dtype.encode(function(*arrays))

    def launch(*inputs: Storage) -> Storage:
        result = Storage(np.empty(out.span, np.uint8), out.span, call.device)
        into(result, *inputs)
        return result

    return Launch(launch, into, [name])


def build_contract(call: OpCall) -> Launch | None:
    """The batched matrix product a[..., M, K] @ b[..., K, N]; a bias is left to the lowering."""
    return numpy_launch(call, np.matmul, "numpy.matmul") if len(call.inputs) == 2 else None


def windows(x: np.ndarray, kernel: Any, out: Any, stride: Any, left: Any, dilation: Any) -> Any:
    """The patches [N, C, *out, *kernel] that a convolution's positions see, zero-padded."""
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation)]
    pads = [(at, max(r - n - at, 0)) for at, r, n in zip(left, reach, x.shape[2:])]
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    steps = [st * b for st, b in zip(stride, x.strides[2:])]
    return as_strided(x, (*x.shape[:2], *out, *kernel),
                      (*x.strides[:2], *steps, *[d * b for d, b in zip(dilation, x.strides[2:])]))


def build_conv(call: OpCall) -> Launch | None:
    """Convolution and its two gradients as products with patches (no groups)."""
    if call.groups != 1 or any(0 in m.shape for m in call.inputs):
        return None
    rank = len(call.stride)
    over, taps = tuple(range(2, 2 + rank)), tuple(range(2 + rank, 2 + 2 * rank))

    def forward(x: Any, w: Any, bias: Any = None) -> Any:
        seen = windows(x, w.shape[2:], call.outputs[0].shape[2:], call.stride, call.padding,
                       call.dilation)
        y = np.moveaxis(np.tensordot(seen, w, ((1, *taps), (1, *over))), -1, 1)
        return y if bias is None else y + bias.reshape(-1, *[1] * rank)

    def weight(x: Any, g: Any) -> Any:
        seen = windows(x, call.outputs[0].shape[2:], g.shape[2:], call.stride, call.padding,
                       call.dilation)
        return np.tensordot(g, seen, ((0, *over), (0, *over)))

    def data(g: Any, w: Any) -> Any:
        spread = np.zeros((*g.shape[:2], *[(n - 1) * s + 1 for n, s in zip(g.shape[2:],
                                                                        call.stride)]), g.dtype)
        spread[(..., *[slice(None, None, s) for s in call.stride])] = g
        left = [(k - 1) * d - p for k, d, p in zip(w.shape[2:], call.dilation, call.padding)]
        seen = windows(spread, w.shape[2:], call.outputs[0].shape[2:], (1,) * rank, left,
                       call.dilation)
        return np.moveaxis(np.tensordot(seen, np.flip(w, over), ((1, *taps), (0, *over))), -1, 1)

    if call.op == "conv_backward_data":
        w = call.inputs[1]
        if any((k - 1) * d < p for k, d, p in zip(w.shape[2:], call.dilation, call.padding)):
            return None  # padding beyond the kernel's reach: cropping, left to the lowering
    function = {"conv_forward": forward, "conv_backward_data": data,
                "conv_backward_weight": weight}[call.op]
    return numpy_launch(call, function, f"numpy.{call.op}")
