"""cuDNN's frontend without cuDNN: the module `cudnn` of nvidia-cudnn-frontend, computed by NumPy.

`installed()` puts this module where `import cudnn` finds it. It has what the plug-in calls, with
the frontend's names, and is stricter: calls out of order, tensors that do not lie as cuDNN wants
them, addresses that are not aligned and missing workspaces are errors. Graphs run in the order of
the stream that the handle was given, on the simulated driver's memory. Each graph has several
plans, with notes as cuDNN's kernels have them: a plan in TF32 rounds as TF32 does, and one that is
not deterministic gives other results each time, so that using what was not allowed shows.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import NamedTuple

import numpy as np


class cudnnGraphNotSupportedError(RuntimeError):
    """What the frontend raises for a graph that the library has no kernel for."""


class data_type(Enum):
    NOT_SET = auto()
    HALF = auto()
    BFLOAT16 = auto()
    FLOAT = auto()


class numerical_note(Enum):
    TENSOR_CORE = auto()
    DOWN_CONVERT_INPUTS = auto()
    REDUCED_PRECISION_REDUCTION = auto()
    FFT = auto()
    NONDETERMINISTIC = auto()
    WINOGRAD = auto()
    WINOGRAD_TILE_4x4 = auto()
    WINOGRAD_TILE_6x6 = auto()
    WINOGRAD_TILE_13x13 = auto()


class heur_mode(Enum):
    A = auto()
    B = auto()
    FALLBACK = auto()


class diagonal_alignment(Enum):
    TOP_LEFT = auto()
    BOTTOM_RIGHT = auto()


class build_plan_policy(Enum):
    HEURISTICS_CHOICE = auto()
    ALL = auto()


class PlanOf(NamedTuple):
    """A plan: its name, its notes, its workspace, a factor that its results are off by."""

    name: str
    notes: frozenset
    workspace: int = 0


N = numerical_note
FLOAT_PLANS = (PlanOf("tf32", frozenset([N.TENSOR_CORE]), 256),
               PlanOf("winograd", frozenset([N.WINOGRAD_TILE_4x4]), 512),
               PlanOf("atomic", frozenset([N.NONDETERMINISTIC])),
               PlanOf("plain", frozenset(), 4096), PlanOf("slow", frozenset()))
HALF_PLANS = (PlanOf("half sums", frozenset([N.REDUCED_PRECISION_REDUCTION, N.TENSOR_CORE])),
              PlanOf("atomic", frozenset([N.TENSOR_CORE, N.NONDETERMINISTIC])),
              PlanOf("tensor core", frozenset([N.TENSOR_CORE]), 4096),
              PlanOf("slow", frozenset([N.TENSOR_CORE])))

ran: list[str] = []      # names of the plans that were executed
wrong = [1.0]            # what results are multiplied by, for tests of what checks them
broken = [""]            # the error of every execution, if not empty
_streams: dict[int, int] = {}
_callbacks: list = []    # of host functions, which graphs may call at any time
_errors: list[Exception] = []
_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def backend_version() -> int:
    return 92801


def create_handle() -> int:
    handle = len(_streams) + 1
    _streams[handle] = 0
    return handle


def set_stream(handle: int, stream: int) -> None:
    _streams[handle] = stream


def get_stream(handle: int) -> int:
    return _streams[handle]


class Tensor:
    """A tensor of a graph."""

    def __init__(self, dim=None, stride=None, data_type=data_type.NOT_SET, uid=None) -> None:
        self.dim, self.stride, self.type, self.uid, self.output = dim, stride, data_type, uid, False

    def set_output(self, value: bool) -> Tensor:
        self.output = value
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = stride
        return self

    def set_uid(self, uid: int) -> Tensor:
        self.uid = uid
        return self

    def set_data_type(self, kind: data_type) -> Tensor:
        self.type = kind
        return self

    def get_uid(self) -> int:
        return self.uid

    def array(self, pointer: int) -> np.ndarray:
        """The tensor's memory as an array, of bits for bfloat16."""
        kind = {data_type.HALF: np.float16, data_type.BFLOAT16: np.uint16,
                data_type.FLOAT: np.float32}[self.type]
        item = np.dtype(kind).itemsize
        span = sum((n - 1) * s for n, s in zip(self.dim, self.stride)) + 1
        memory = (ctypes.c_char * (span * item)).from_address(pointer)
        flat = np.frombuffer(memory, kind)
        return np.lib.stride_tricks.as_strided(flat, self.dim, [item * s for s in self.stride])

    def read(self, pointer: int) -> np.ndarray:
        """The values in float64."""
        a = self.array(pointer)
        if self.type is data_type.BFLOAT16:
            a = (a.astype(np.uint32) << 16).view(np.float32)
        return a.astype(np.float64)

    def write(self, pointer: int, values: np.ndarray) -> None:
        """Round values and store them."""
        if self.type is data_type.BFLOAT16:
            bits = values.astype(np.float32).view(np.uint32)
            values = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        a = self.array(pointer)
        a[...] = values.astype(a.dtype)


class pygraph:
    """A graph of one operation, or of a convolution and a bias."""

    def __init__(self, io_data_type=data_type.NOT_SET, intermediate_data_type=data_type.NOT_SET,
                 compute_data_type=data_type.NOT_SET, handle=None) -> None:
        assert intermediate_data_type is compute_data_type is data_type.FLOAT
        self.io, self.handle = io_data_type, handle
        self.tensors: list[Tensor] = []
        self.results: list[Tensor] = []
        self.run = None
        self.stage = 0
        self.barred: set[int] = set()
        self.built: set[int] = set()

    def _at(self, stage: int) -> None:
        if self.stage != stage:
            raise RuntimeError(f"called at stage {self.stage} of a graph instead of {stage}")

    # --- operations

    def tensor(self, dim, stride, data_type=data_type.NOT_SET, uid=-1) -> Tensor:
        made = Tensor(list(dim), list(stride), data_type, uid)
        self.tensors.append(made)
        return made

    def _made(self, run, count: int = 1):
        self.run = run
        self.results = [Tensor() for _ in range(count)]
        return self.results[0] if count == 1 else self.results

    def conv_fprop(self, image, weight, pre_padding, post_padding, stride, dilation) -> Tensor:
        self.how = pre_padding, post_padding, stride, dilation
        self.plain = [image, weight]
        return self._made(lambda v, at: [convolution(at(image), at(weight), self.how)])

    def bias(self, input, bias) -> Tensor:
        before = self.run
        return self._made(lambda v, at: [before(v, at)[0] + at(bias)])

    def conv_dgrad(self, loss, filter, pre_padding, post_padding, stride, dilation) -> Tensor:
        self.how = pre_padding, post_padding, stride, dilation
        self.plain = [loss, filter]
        return self._made(lambda v, at: [gradients(
            np.zeros(self.results[0].dim), at(filter), at(loss), self.how)[0]])

    def conv_wgrad(self, image, loss, pre_padding, post_padding, stride, dilation) -> Tensor:
        self.how = pre_padding, post_padding, stride, dilation
        self.plain = [image, loss]
        return self._made(lambda v, at: [gradients(
            at(image), np.zeros(self.results[0].dim), at(loss), self.how)[1]])

    def sdpa(self, q, k, v, attn_scale, generate_stats, diagonal_alignment=None,
             diagonal_band_right_bound=None) -> list[Tensor]:
        assert generate_stats
        causal = _causal(diagonal_alignment, diagonal_band_right_bound)
        self.how, self.plain = None, []
        return self._made(lambda _, at: attention(at(q), at(k), at(v), attn_scale, causal), 2)

    def sdpa_backward(self, q, k, v, o, dO, stats, attn_scale, use_deterministic_algorithm,
                      diagonal_alignment=None, diagonal_band_right_bound=None) -> list[Tensor]:
        causal = _causal(diagonal_alignment, diagonal_band_right_bound)
        self.how, self.plain = None, []
        return self._made(lambda _, at: attention_gradients(
            at(q), at(k), at(v), at(o), at(dO), at(stats), attn_scale, causal), 3)

    # --- planning

    def validate(self) -> None:
        self._at(0)
        for t in (*self.tensors, *self.results):
            if t.dim is None or t.stride is None or t.type is data_type.NOT_SET or t.uid is None:
                raise RuntimeError("a tensor lacks dims, strides, a type or a uid")
        if not all(t.output for t in self.results):
            raise RuntimeError("a result is not an output")
        self.stage = 1

    def build_operation_graph(self) -> None:
        self._at(1)
        self.stage = 2

    def create_execution_plans(self, modes) -> None:
        self._at(2)
        assert modes and all(isinstance(m, heur_mode) for m in modes)
        self._support()
        self.plans = FLOAT_PLANS if self.io is data_type.FLOAT else HALF_PLANS
        if self.how is None:
            self.plans = HALF_PLANS[1:]
        self.stage = 3

    def _support(self) -> None:
        both = [*self.tensors, *self.results]
        if self.how is None:
            depth = max(t.dim[3] for t in both if t.dim[3] > 1)
            if any(t.dim[3] % 8 and t.dim[3] > 1 for t in both) or depth > 128:
                raise cudnnGraphNotSupportedError("heads of this width")
            if any(t.stride[3] != 1 for t in both):
                raise cudnnGraphNotSupportedError("strided columns")
            return
        if self.how[0] != self.how[1]:
            raise cudnnGraphNotSupportedError("padding of two sizes")
        layouts = [_layouts(t) for t in (*self.plain, self.results[0])]
        last, first = (all(k in kinds for kinds in layouts) for k in ("last", "first"))
        if not (last or first):
            raise cudnnGraphNotSupportedError(f"layouts {layouts}")
        fused = len(self.tensors) > len(self.plain)
        if fused and (self.io is data_type.FLOAT or not last):
            raise cudnnGraphNotSupportedError("a bias here")

    def deselect_numeric_notes(self, notes) -> None:
        self._at(3)
        self.barred |= {k for k, p in enumerate(self.plans) if p.notes & set(notes)}

    def deselect_workspace_greater_than(self, size: int) -> None:
        self._at(3)
        self.barred |= {k for k, p in enumerate(self.plans) if p.workspace > size}

    def check_support(self) -> None:
        self._at(3)
        if len(self.barred) == len(self.plans):
            raise cudnnGraphNotSupportedError("no plan is left")
        self.stage = 4

    def build_plans(self, policy=build_plan_policy.HEURISTICS_CHOICE) -> None:
        self._at(4)
        self.chosen = min(set(range(len(self.plans))) - self.barred)
        self.built = {self.chosen}

    def get_execution_plan_count(self) -> int:
        return len(self.plans)

    def build_plan_at_index(self, index: int) -> None:
        self._at(4)
        if index in self.barred:
            raise RuntimeError("Deselecting execution plan")
        self.built.add(index)

    def get_workspace_size(self) -> int:
        return self.plans[self.chosen].workspace

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return self.plans[index].workspace

    def get_plan_name_at_index(self, index: int) -> str:
        return self.plans[index].name

    # --- execution

    def execute(self, pack, workspace, handle=None) -> None:
        self.execute_plan_at_index(pack, workspace, self.chosen, handle)

    def execute_plan_at_index(self, pack, workspace, index, handle=None) -> None:
        """Enqueue a plan."""
        from cuda.bindings import driver

        assert index in self.built, "a plan that was not built"
        plan, pack = self.plans[index], dict(pack)
        if broken[0]:
            raise RuntimeError(broken[0])
        for t in (*self.tensors, *self.results):
            if pack[t.uid] % 16 or not pack[t.uid]:
                raise RuntimeError(f"the address of tensor {t.uid} is not aligned")
        if plan.workspace and not workspace:
            raise RuntimeError("no workspace")

        def work(_) -> None:
            try:
                self._compute(plan, pack, workspace)
            except Exception as error:  # it would be lost in the driver
                _errors.append(error)

        call = _HostFunction(work)
        _callbacks.append(call)
        address = ctypes.cast(call, ctypes.c_void_p).value
        code = driver.cuLaunchHostFunc(driver.CUstream(_streams[handle]), driver.CUhostFn(address),
                                       0)[0]
        if code or _errors:
            raise _errors.pop() if _errors else RuntimeError(f"enqueueing: {code}")

    def _compute(self, plan: PlanOf, pack: dict[int, int], workspace: int) -> None:
        ran.append(plan.name)
        if plan.workspace:  # what is there is lost
            ctypes.memset(workspace, 0xFF, plan.workspace)

        def at(t: Tensor) -> np.ndarray:
            values = t.read(pack[t.uid])
            return tf32(values) if plan.name == "tf32" else values

        results = self.run(None, at)
        noise = 1 + len(ran) * 1e-3 if N.NONDETERMINISTIC in plan.notes else 1.0
        for t, values in zip(self.results, results):
            t.write(pack[t.uid], np.asarray(values).reshape(t.dim) * noise * wrong[0])


def _causal(alignment, bound) -> bool:
    assert (alignment, bound) in ((None, None), (diagonal_alignment.TOP_LEFT, 0))
    return bound == 0


def _layouts(t: Tensor) -> list[str]:
    """Which orders of dims a tensor's strides are, without gaps."""
    found = []
    rank = len(t.dim)
    for name, order in (("first", range(rank)), ("last", (0, *range(2, rank), 1))):
        step, good = 1, True
        for d in reversed(order):
            good &= t.stride[d] == step
            step *= t.dim[d]
        if good:
            found.append(name)
    return found


def tf32(x: np.ndarray) -> np.ndarray:
    """Values rounded to 10 bits after the point."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def _taps(x, w, y, how):
    """For each place in the kernel: it, and the part of the padded input that meets it."""
    before, after, stride, dilation = how
    for k in itertools.product(*map(range, w.shape[2:])):
        yield k, (..., *(slice(a * d, a * d + (n - 1) * s + 1, s) for a, d, n, s in zip(
            k, dilation, y, stride)))


def convolution(x, w, how):
    """The convolution of x and w."""
    before, after, stride, dilation = how
    wide = np.pad(x, [(0, 0), (0, 0), *zip(before, after)])
    y = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(
        wide.shape[2:], w.shape[2:], stride, dilation)]
    groups = x.shape[1] // w.shape[1]
    out = np.zeros((x.shape[0], groups, w.shape[0] // groups, int(np.prod(y))))
    for k, where in _taps(wide, w, y, how):
        part = wide[where].reshape(x.shape[0], groups, w.shape[1], -1)
        out += np.einsum("ngcp,goc->ngop", part, w[(..., *k)].reshape(groups, -1, w.shape[1]))
    return out.reshape(x.shape[0], w.shape[0], *y)


def gradients(x, w, g, how):
    """The gradients of x and w."""
    before, after = how[:2]
    wide = np.pad(x, [(0, 0), (0, 0), *zip(before, after)])
    gx, gw = np.zeros_like(wide), np.zeros_like(w)
    groups, c = x.shape[1] // w.shape[1], w.shape[1]
    grad = g.reshape(x.shape[0], groups, w.shape[0] // groups, -1)
    for k, where in _taps(wide, w, g.shape[2:], how):
        part = wide[where].reshape(x.shape[0], groups, c, -1)
        tap = w[(..., *k)].reshape(groups, -1, c)
        gx[where] += np.einsum("ngop,goc->ngcp", grad, tap).reshape(gx[where].shape)
        gw[(..., *k)] = np.einsum("ngop,ngcp->goc", grad, part).reshape(-1, c)
    return gx[(..., *(slice(b, b + n) for b, n in zip(before, x.shape[2:])))], gw


def _scores(q, k, scale, causal):
    s = q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(-1, -2) * scale
    return np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf) if causal else s


def attention(q, k, v, scale, causal):
    """(result, logarithm of the sum of the exponentials)."""
    s = _scores(q, k, scale, causal)
    top = s.max(-1, keepdims=True)
    known = top + np.log(np.exp(s - top).sum(-1, keepdims=True))
    return np.exp(s - known) @ np.repeat(v, q.shape[1] // v.shape[1], 1), known


def attention_gradients(q, k, v, o, g, known, scale, causal):
    """The gradients of q, k and v."""
    n = q.shape[1] // k.shape[1]
    p = np.exp(_scores(q, k, scale, causal) - known)
    gp = g @ np.repeat(v, n, 1).swapaxes(-1, -2)
    gs = p * (gp - (g * o).sum(-1, keepdims=True)) * scale

    def shared(x):
        return x.reshape(x.shape[0], k.shape[1], n, *x.shape[2:]).sum(2)

    return (gs @ np.repeat(k, n, 1), shared(gs.swapaxes(-1, -2) @ q),
            shared(p.swapaxes(-1, -2) @ g))


@contextmanager
def installed() -> Iterator[object]:
    """Have `import cudnn` find this module, and GPUs that are open forget what they found."""
    from lampion_cuda import driver

    def forget() -> None:
        from lampion.ops.registry import forget_plans

        forget_plans()
        for d in driver._devices:
            d.libraries.pop("cudnn", None)

    before = sys.modules["cudnn"]  # not to be found, by `simulator.install`
    sys.modules["cudnn"] = sys.modules[__name__]
    forget()
    ran.clear()
    try:
        yield sys.modules[__name__]
    finally:
        wrong[:], broken[:] = [1.0], [""]
        sys.modules["cudnn"] = before
        forget()
