"""Convolutions and attention by cuDNN, where it is installed.

Builders for the core's convolution kernels and `fused_attention`: each takes an OpCall and gives a
Launch, or None where the library has nothing for it; then `conv` and `attention` are asked, whose
kernels are generated. A plan is made once for shapes, strides, dtypes and flags; its workspace
comes from the GPU's pool. Kernels whose results may differ from run to run are left out unless
`dnn_deterministic` is off. Importing this loads no library. Imports nvidia-cudnn-frontend (the
module `cudnn`), this package, lampion's floors 0-2 and its flags.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lampion import config
from lampion.base import dtype as dt
from lampion.base.meta import Meta, meta
from lampion.ir.kernel import Program
from lampion.logging import get_logger
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest, channel_sums, convert

from . import attention, conv
from .copies import between
from .cudnn_graphs import (
    TYPES,
    Attention,
    Operand,
    Work,
    channels_last,
    dense,
    describe,
    finish,
    geometry,
    heads,
    lies,
    shares_neighbours,
    widened,
)
from .driver import check
from .launch import program_launch
from .steps import Array, Steps
from .verify import verified

if TYPE_CHECKING:
    from .driver import Device

_log = get_logger("cuda")

NO_LIBRARY = (
    "cuDNN cannot be loaded ({why}). Install it with `pip install \"lampion-cuda[cudnn]\"`, or "
    "leave `dnn` in [backend.cuda] at \"auto\": generated kernels do its work then.")
PLANS = 1024            # kept per GPU
WORKSPACE = 1 << 30     # bytes that a plan may ask for
ALIGNMENT = 16          # of every address, as the library is told
_INT = 2**31


class Library:
    """cuDNN on one GPU: its handle, the stream that it has, and the plans made so far."""

    def __init__(self, device: Device) -> None:
        import cudnn

        self.fe, self.device = cudnn, device
        self.version = int(cudnn.backend_version())
        device.activate()
        self.handle = cudnn.create_handle()
        self.stream: int | None = None
        self.plans: OrderedDict[Any, Plan | None] = OrderedDict()
        self.lock = threading.RLock()

    def use(self, stream: int) -> None:
        """Have what follows run on a stream."""
        if stream != self.stream:
            self.fe.set_stream(handle=self.handle, stream=stream)
            self.stream = stream

    def plan(self, work: Work) -> Plan | None:
        """The plan of a computation, None if the library has none; the least recently used one is
        forgotten when there are many (calls that are planned keep theirs)."""
        many = int(config.get("backend.cuda.dnn_benchmark_limit")) \
            if config.get("backend.cuda.dnn_benchmark") else 1
        key = work, many
        with self.lock:
            if key in self.plans:
                self.plans.move_to_end(key)
                return self.plans[key]
            try:
                made: Plan | None = Plan(self, work, many)
            except Exception as error:  # the frontend has several kinds of them
                if self.device.current.stream.capture is not None:
                    return None  # a capture may be why: the next call tries again
                said = isinstance(error, self.fe.cudnnGraphNotSupportedError)
                tell = _log.debug if said else _log.warning
                tell("cuDNN has no plan: a generated kernel is used", work=str(work),
                     why=str(error))
                made = None
            self.plans[key] = made
            if len(self.plans) > PLANS:
                self.plans.popitem(last=False)
        return made


def library(device: Device) -> Library | str:
    """The library on a GPU, or why there is none."""
    found: Library | str = device.library(
        "cudnn", Library, "no cuDNN: its work is done by generated kernels")
    return found


class Plan:
    """A graph with the kernel that runs it. With several `candidates`, the first run times them,
    on operands whose results it writes, and keeps the fastest."""

    def __init__(self, lib: Library, work: Work, many: int) -> None:
        self.lib, self.work = lib, work
        self.graph = describe(lib.fe, work, lib.handle)
        finish(lib.fe, self.graph, work, WORKSPACE)
        self.candidates: list[int] = []
        self._build(many)
        self.uids = range(1, len(work.operands) + 1)

    def _build(self, many: int) -> None:
        """Build the first plans, in the order of the library's heuristics, that can be built."""
        g, sizes = self.graph, []
        for k in range(g.get_execution_plan_count()):
            try:
                g.build_plan_at_index(k)
            except Exception as error:  # left out by a note, or not built
                _log.debug("cuDNN leaves out a plan", work=str(self.work), why=str(error))
                continue
            sizes.append(int(g.get_workspace_size_plan_at_index(k)))
            self.candidates.append(k)
            if len(sizes) == many:
                break
        if not sizes:
            raise self.lib.fe.cudnnGraphNotSupportedError("no plan can be built")
        self.index, self.workspace = self.candidates[0], max(sizes)

    def run(self, stream: Any, pointers: Sequence[int], workspace: int) -> None:
        """Enqueue it. RuntimeError that names the plan if the library refuses."""
        lib = self.lib
        pack = dict(zip(self.uids, pointers))
        with lib.lock:
            lib.device.activate()
            try:
                lib.use(int(stream.handle))
                if len(self.candidates) > 1 and stream.capture is None:
                    self._time(stream, pack, workspace)
                self._execute(self.index, pack, workspace)
            except Exception as error:
                raise RuntimeError(f"cuDNN failed to run {self.name()} on {lib.device.where}: "
                                   f"{error}") from error

    def _execute(self, index: int, pack: dict[int, int], workspace: int) -> None:
        self.graph.execute_plan_at_index(pack, workspace, index, self.lib.handle)

    def _time(self, stream: Any, pack: dict[int, int], workspace: int) -> None:
        drv, doing = self.lib.device.drv, "timing cuDNN's plans"
        start, end = (check(drv.cuEventCreate(0), doing) for _ in range(2))
        times = []
        for index in self.candidates:
            self._execute(index, pack, workspace)
            check(drv.cuEventRecord(start, stream.cu), doing)
            for _ in range(3):
                self._execute(index, pack, workspace)
            check(drv.cuEventRecord(end, stream.cu), doing)
            check(drv.cuEventSynchronize(end), doing)
            times.append(float(check(drv.cuEventElapsedTime(start, end), doing)))
        for event in (start, end):
            check(drv.cuEventDestroy(event), doing)
        self.index = self.candidates[min(range(len(times)), key=times.__getitem__)]
        _log.debug("timed cuDNN's plans", work=str(self.work), best=self.index,
                   times=[round(t, 4) for t in times])
        self.candidates = [self.index]

    def name(self) -> str:
        """What runs what, in words."""
        try:
            kernel = self.graph.get_plan_name_at_index(self.index)
        except Exception:  # not of every graph
            kernel = "unnamed"
        return f"{self.work} by plan {kernel!r}"


def _found(device: Device) -> Library | None:
    """The library if calls are to use it. RuntimeError if it is asked for and cannot be loaded."""
    chosen = config.get("backend.cuda.dnn")
    if chosen == "generated":
        return None
    found = library(device)
    if isinstance(found, str):
        if chosen == "cudnn":
            raise RuntimeError(NO_LIBRARY.format(why=found))
        return None
    return found


def _same() -> bool:
    """Whether results have to be the same every time."""
    from lampion.flags import are_deterministic_algorithms_enabled

    return bool(config.get("backend.cuda.dnn_deterministic")) \
        or are_deterministic_algorithms_enabled()


def _by_blas(device: Device, call: OpCall, turned: bool) -> bool:
    """Whether a convolution is left to cuBLASLt, which is faster where it is a product of matrices
    as its operands lie."""
    if config.get("backend.cuda.dnn") != "auto":
        return False
    return conv.product(device, call, turned) is not None


class _Step:
    """A plan as a step of a call: from slots to addresses, which are aligned as the library was
    told, by copies if need be."""

    def __init__(self, plan: Plan, slots: Sequence[int], results: int, workspace: int | None,
                 ) -> None:
        self.plan, self.slots, self.results, self.workspace = plan, tuple(slots), results, workspace
        self.sizes = [plan.work.nbytes(k) for k in range(len(slots))]

    def __call__(self, stream: Any, storages: Sequence[Any]) -> None:
        used = [storages[k] for k in self.slots]
        pointers = [s.buf + s.offset for s in used]
        odd = [k for k, p in enumerate(pointers) if p % ALIGNMENT]
        for k in odd:
            used[k] = self.plan.lib.device.pool.allocate(self.sizes[k])
            pointers[k] = used[k].buf + used[k].offset
            # of a result too: what lies between its elements stays as it is
            between(storages[self.slots[k]], used[k], self.sizes[k])
        w = None if self.workspace is None else storages[self.workspace]
        self.plan.run(stream, pointers, 0 if w is None else w.buf + w.offset)
        for k in odd:
            if k < self.results:
                between(used[k], storages[self.slots[k]], self.sizes[k])


def _add(s: Steps, plan: Plan, slots: Sequence[int], results: int) -> None:
    """Add a plan to the steps of a call."""
    workspace = s.buffer(plan.workspace) if plan.workspace else None
    s.steps.append(_Step(plan, slots, results, workspace))


# ---------------------------------------------------------------- convolutions


class _Operands:
    """The tensors of a convolution with their channels where all have them, copied if need be."""

    def __init__(self, s: Steps, last: bool) -> None:
        self.s, self.last = s, last
        self.operands: list[Operand] = []
        self.slots: list[int] = []
        self.after: list[tuple[Array, Array]] = []

    def add(self, array: Array, result: bool = False) -> None:
        """Take a tensor."""
        m = array.meta
        shape, strides = widened(m)
        wanted = dense(shape, self.last)
        slot = array.slot
        if not lies(shape, strides, wanted):
            packed = meta(m.dtype, m.shape, dense(m.shape, self.last), m.device)
            slot = self.s.buffer(packed.numel * m.dtype.itemsize)
            copy = Array(slot, packed)
            if result:
                self.after.append((array, copy))
            else:
                self.s.copy(copy, array)
        self.operands.append(Operand(shape, wanted))
        self.slots.append(slot)

    def finish(self) -> None:
        """Copy results to where they belong."""
        for to, of in self.after:
            self.s.copy(to, of)


def _convolve(device: Device, call: OpCall, x: Meta, w: Meta, y: Meta, inputs: Sequence[int],
              ) -> tuple[Library, Steps, _Operands, Work] | None:
    """What all three convolutions begin with, of the operands 0 and `inputs` of the call."""
    lib = _found(device)
    if lib is None or y.dtype not in TYPES or not x.dtype is w.dtype is y.dtype:
        return None
    sizes = [m.numel for m in (x, w, y)]
    if 0 in sizes or max(sizes) >= _INT or x.ndim > 5:
        return None
    s = Steps(device, call)
    o = _Operands(s, channels_last(x, w, y))
    o.add(s.outputs[0], True)
    for k in inputs:
        o.add(s.inputs[k])
    how = geometry(widened(x)[0], widened(w)[0], widened(y)[0], call.stride, call.padding,
                   call.dilation)
    work = Work(call.op, y.dtype, tuple(o.operands), how,
                exact=not config.get("backend.cuda.dnn_tf32"),
                same=_same())
    return lib, s, o, work


def forward(device: Device, call: OpCall) -> Launch | None:
    """y = x * w (+ bias), which is part of the library's kernel where it has such a one."""
    bias = call.bias
    if _by_blas(device, call, False):
        return None
    begun = _convolve(device, call, call.input, call.weight, call.outputs[0], (0, 1))
    if begun is None or (bias is not None and bias.dtype is not call.outputs[0].dtype):
        return None
    lib, s, o, work = begun
    work = work._replace(op="conv_forward")
    plan = None
    if bias is not None and bias.strides[0] == 1:
        shape = (1, bias.shape[0], *[1] * (len(work.operands[0].shape) - 2))
        wide = Operand(shape, dense(shape, o.last))
        plan = lib.plan(work._replace(operands=(*work.operands, wide), bias=True))
    if plan is not None:
        _add(s, plan, [*o.slots, s.inputs[2].slot], 1)
        o.finish()
        return _checked(device, call, s.launch("cudnn.conv_forward"), plan, conv.forward)
    plan = lib.plan(work)
    if plan is None:
        return None
    _add(s, plan, o.slots, 1)
    o.finish()
    if bias is not None:
        _add_bias(s, bias)
    return _checked(device, call, s.launch("cudnn.conv_forward"), plan, conv.forward)


def _add_bias(s: Steps, bias: Meta) -> None:
    y = s.outputs[0]
    n = Nest("conv_bias", y.meta.shape, compute=dt.opmath(y.meta.dtype))
    o, a = n.output(y.meta, y.meta.strides), n.input(y.meta)
    b = n.input(bias, tuple(bias.strides[0] * (d == 1) for d in range(y.meta.ndim)))
    n.start()
    n.store(o, convert(a(), n.compute) + convert(b(), n.compute))
    run = program_launch(s.device, n.program(), ()).into
    at = s.inputs[2].slot
    s.steps.append(lambda stream, slots: run(slots[y.slot], slots[y.slot], slots[at]))


def backward_data(device: Device, call: OpCall) -> Launch | None:
    """The gradient of x."""
    if _by_blas(device, call, True):
        return None
    begun = _convolve(device, call, call.outputs[0], call.weight, call.grad, (0, 1))
    if begun is None:
        return None
    lib, s, o, work = begun
    plan = lib.plan(work)
    if plan is None:
        return None
    _add(s, plan, o.slots, 1)
    o.finish()
    return _checked(device, call, s.launch("cudnn.conv_backward_data"), plan, conv.backward_data)


def backward_weight(device: Device, call: OpCall) -> Launch | None:
    """The gradient of w."""
    return _weight(device, call, False)


def backward_weight_bias(device: Device, call: OpCall) -> Launch | None:
    """The gradients of w and of the bias, the sums of grad."""
    return _weight(device, call, True)


def _weight(device: Device, call: OpCall, bias: bool) -> Launch | None:
    begun = _convolve(device, call, call.input, call.outputs[0], call.grad, (0, 1))
    if begun is None:
        return None
    lib, s, o, work = begun
    plan = lib.plan(work._replace(op="conv_backward_weight"))
    if plan is None:
        return None
    _add(s, plan, o.slots, 1)
    o.finish()
    if bias:
        total, grad = s.outputs[1], s.inputs[1]
        sums = Program((channel_sums(grad.meta, total.meta, (0, 1)),))
        run = program_launch(device, sums, ()).into
        s.steps.append(lambda stream, slots: run(slots[total.slot], slots[grad.slot]))
    other = conv.backward_weight_bias if bias else conv.backward_weight
    return _checked(device, call, s.launch(f"cudnn.{call.op}"), plan, other)


def _checked(device: Device, call: OpCall, made: Launch, plan: Plan, other: Any) -> Launch:
    """The launch, which compares its first results with those of a generated kernel if plans are
    to be checked."""
    if not config.get("backend.cuda.check_plans"):
        return made
    work = plan.work
    coarse = {dt.bfloat16: 2e-2, dt.float16: 4e-3, dt.float32: 1e-4 if work.exact else 4e-3}
    return verified(device, call, made, other(device, call), plan.name, coarse[work.dtype])


# ---------------------------------------------------------------- attention


def _attend(device: Device, call: OpCall, op: str, tensors: Sequence[tuple[Meta, int]],
            results: int) -> tuple[Steps, Plan] | None:
    """The steps of an attention call and its plan, of (tensor, slot) in the library's order."""
    lib = _found(device)
    q, k, v = call.query, call.key, call.value
    # With masks a row may have nothing allowed; it is 0 here, and not a number in the library.
    if lib is None or not config.get("backend.cuda.dnn_attention") or call.mask is not None \
            or q.dtype not in attention.HALVES or not call.scale > 0:
        return None
    if any(m.dtype is not q.dtype for m, _ in tensors if m.ndim == q.ndim) or 0 in (
            q.numel, k.numel, v.numel) or not shares_neighbours(q.shape[1:-2], k.shape[1:-2]):
        return None
    operands = []
    for m, _ in tensors:
        shape, strides = m.shape, m.strides
        if m.ndim < q.ndim:  # the logarithms of sums, dense
            shape, strides = (*shape, 1), (*strides, 1)
        seen = heads(shape, strides)
        if seen is None or (seen[0][-1] > 1 and seen[1][-1] != 1) or 0 in (
                s for n, s in zip(*seen) if n > 1):
            return None
        operands.append(Operand(*seen))
    examples = {o.shape[0] for o in operands}
    if len(examples) > 1:  # keys of all examples in common: not a form that the library has
        return None
    work = Work(op, q.dtype, tuple(operands), Attention(float(call.scale), bool(call.causal)),
                same=_same())
    plan = lib.plan(work)
    if plan is None:
        return None
    s = Steps(device, call)
    _add(s, plan, [slot for _, slot in tensors], results)
    return s, plan


def attend(device: Device, call: OpCall) -> Launch | None:
    """out, logsumexp of query, key and value."""
    out, known = call.outputs
    made = _attend(device, call, "attention", (
        (out, 0), (known, 1), (call.query, 2), (call.key, 3), (call.value, 4)), 2)
    if made is None:
        return None
    s, plan = made
    return _checked(device, call, s.launch("cudnn.attention"), plan, attention.forward)


def attend_backward(device: Device, call: OpCall) -> Launch | None:
    """The gradients of query, key and value. Inputs of the call are grad, query, key, value,
    output and logsumexp."""
    gq, gk, gv = call.outputs
    made = _attend(device, call, "attention_backward", (
        (gq, 0), (gk, 1), (gv, 2), (call.query, 4), (call.key, 5), (call.value, 6),
        (call.output, 7), (call.grad, 3), (call.logsumexp, 8)), 3)
    if made is None:
        return None
    s, plan = made
    return _checked(device, call, s.launch("cudnn.attention_backward"), plan, attention.backward)
