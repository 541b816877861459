"""Matrix products by cuBLASLt.

`contract` turns a product into one plan: descriptors, the algorithm that the library's heuristics
put first (or, with the option `autotune`, the one that ran fastest), and a generated Python
function with nothing left to decide. cuBLASLt thinks in columns: the row-major product D = A B is
computed as D^T = B^T A^T. Importing this loads no library. Imports nvmath.bindings, this package
and lampion's floors 0-2.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lampion import config
from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.base.meta import Meta, expand_strides, meta
from lampion.logging import get_logger
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.lowering import Nest
from lampion.runtime.products import Problem, problem

from .copies import between
from .driver import check
from .launch import make_native, program_launch
from .lt_layout import Matrix, Operands, additions, arrange, operand_shape, packed, prepare

if TYPE_CHECKING:
    from .driver import Device

_log = get_logger("cuda")

NO_LIBRARY = (
    "cuBLASLt cannot be loaded ({why}). Install it with `pip install \"lampion-cuda[blas]\"`, or "
    "leave `blas` in [backend.cuda] at \"auto\": generated kernels multiply matrices then.")
PLANS = 4096          # kept per GPU
CANDIDATES = 8        # algorithms that are timed, with `autotune`
WORTH_TUNING = 1e8    # multiplications: below, launching takes longer than any algorithm
ALIGNMENT = 256       # of every buffer of the pool

# cudaDataType, cublasComputeType_t and the type of the scaling factors
_F32, _F64, _C32, _C64 = 0, 1, 4, 5
_COMPUTE_32F, _COMPUTE_TF32, _COMPUTE_64F = 68, 77, 70
_TYPES: dict[dtype, tuple[int, int, int]] = {
    dt.float32: (_F32, _COMPUTE_32F, _F32), dt.float64: (_F64, _COMPUTE_64F, _F64),
    dt.float16: (2, _COMPUTE_32F, _F32), dt.bfloat16: (14, _COMPUTE_32F, _F32),
    dt.complex64: (_C32, _COMPUTE_32F, _C32), dt.complex128: (_C64, _COMPUTE_64F, _C64)}
# Sums of split products stay in the type of the arithmetic: in place or in the workspace.
_EXACT_SPLITS = 1 | 2


class Library:
    """cuBLASLt on one GPU: its handle and the launches made so far."""

    def __init__(self, device: Device) -> None:
        from nvmath.bindings import cublasLt

        self.lt = cublasLt
        self.device = device
        device.activate()
        self.handle = cublasLt.create()
        self.launches: OrderedDict[Any, Launch | None] = OrderedDict()
        self.lock = threading.Lock()
        # one and zero of each scaling type, where the library can read them
        self.numbers = {_F32: (ctypes.c_float * 4)(1, 0, 0, 0), _C32: (ctypes.c_float * 4)(1),
                        _F64: (ctypes.c_double * 4)(1), _C64: (ctypes.c_double * 4)(1)}
        # 32 MiB is what the kernels of compute capability 9.0 want at most
        self.workspace = (32 if device.capability >= (9, 0) else 8) << 20

    def factor(self, kind: int, one: bool) -> int:
        """The address of 1 or 0 as a scaling factor."""
        size = {_F32: 4, _F64: 8, _C32: 8, _C64: 16}[kind]
        return ctypes.addressof(self.numbers[kind]) + (0 if one else size)

    def launch(self, key: Any, make: Callable[[], Launch | None]) -> Launch | None:
        """The launch for `key`; the least recently planned one is forgotten when there are many
        (calls that are planned already keep theirs)."""
        with self.lock:
            if key in self.launches:
                self.launches.move_to_end(key)
                return self.launches[key]
        made = make()
        with self.lock:
            self.launches[key] = made
            if len(self.launches) > PLANS:
                self.launches.popitem(last=False)
        return made


def library(device: Device) -> Library | str:
    """The library on a GPU, or why there is none."""
    found: Library | str = device.library(
        "cublasLt", Library, "no cuBLASLt: generated kernels multiply matrices")
    return found


def contract(device: Device, call: OpCall) -> Launch | None:
    """Build the launch for `contract`, or None where cuBLASLt has nothing for it."""
    chosen = config.get("backend.cuda.blas")
    a, b, *rest = call.inputs
    c = call.outputs[0]
    if chosen == "generated" or not all(m.dtype is c.dtype for m in (a, b, *rest)) \
            or c.dtype not in _TYPES:
        return None
    found = library(device)
    if isinstance(found, str):
        if chosen == "cublas":
            raise RuntimeError(NO_LIBRARY.format(why=found))
        return None
    bias = expand_strides(rest[0].shape, rest[0].strides, c.shape) if rest else None
    p = problem(a, b, c, bias)
    if 0 in (*p.batch, p.m, p.n, p.k):
        return None
    fast = c.dtype in (dt.float32, dt.complex64) \
        and config.get("float32_matmul_precision") != "highest"
    tune = bool(config.get("backend.cuda.autotune"))
    key = (p, c.span, fast, tune)
    return found.launch(key, lambda: _build(found, p, c.span, fast, tune))


# -- plans ----------------------------------------------------------------------------------------


def _set(function: Callable[..., None], target: int, attribute: Any, value: Any) -> None:
    """Set an attribute of one of the library's descriptors to a ctypes number."""
    function(target, int(attribute), ctypes.addressof(value), ctypes.sizeof(value))


class Plan:
    """Descriptors of one product, and the algorithms that the library offers for it."""

    def __init__(self, lib: Library, p: Problem, o: Operands, types: tuple[int, int, int],
                 added: str, source: Matrix | None) -> None:
        self.lt = lib.lt
        self.lib, self.types, self.o, self.added = lib, types, o, added
        self.itemsize = p.dtype.itemsize
        self._keep: list[Any] = []  # results of the heuristics: algorithms live in them
        # the largest batch dim goes to the library, the others are calls
        self.inner = max(range(len(p.batch)), key=lambda d: p.batch[d], default=-1)
        self.count = p.batch[self.inner] if p.batch else 1
        strides = [getattr(p, "ab"[o.x]), getattr(p, "ab"[o.y]), p.c,
                   p.bias if added == "matrix" else p.c]
        left, right, result, extra = (
            self.layout(m, s) for m, s in zip((o.left, o.right, o.result, source or o.result),
                                              strides))
        self.layouts = left, right, extra, result
        self.places = self._places(p, strides)
        self.desc = self.description()
        # every address that the library sees is a multiple of this if the buffers are aligned
        low = ALIGNMENT
        for at in itertools.chain(*self.places):
            low |= at
        self.alignment = low & -low

    def _places(self, p: Problem, strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Byte offsets of X, Y, D and C for each call."""
        outer = [d for d in range(len(p.batch)) if d != self.inner]
        return [tuple(p.dtype.itemsize * sum(k * s[d] for k, d in zip(at, outer))
                      for s in strides)
                for at in itertools.product(*[range(p.batch[d]) for d in outer])]

    def layout(self, m: Matrix, strides: Sequence[int]) -> int:
        lt = self.lt
        made = lt.matrix_layout_create(self.types[0], m.rows, m.columns, m.ld)
        weakref.finalize(self, lt.matrix_layout_destroy, made).atexit = False
        if self.count > 1:
            set_, names = lt.matrix_layout_set_attribute, lt.MatrixLayoutAttribute
            _set(set_, made, names.BATCH_COUNT, ctypes.c_int32(self.count))
            _set(set_, made, names.STRIDED_BATCH_OFFSET, ctypes.c_int64(strides[self.inner]))
        return int(made)

    def description(self) -> int:
        """A descriptor of the operation; with a bias vector one is needed per call in flight,
        because it holds the vector's address."""
        lt = self.lt
        made = lt.matmul_desc_create(self.types[1], self.types[2])
        weakref.finalize(self, lt.matmul_desc_destroy, made).atexit = False
        set_, names = lt.matmul_desc_set_attribute, lt.MatmulDescAttribute
        _set(set_, made, names.TRANSA, ctypes.c_int32(self.o.left.turned))
        _set(set_, made, names.TRANSB, ctypes.c_int32(self.o.right.turned))
        if self.added == "vector":
            _set(set_, made, names.EPILOGUE, ctypes.c_uint32(int(lt.Epilogue.BIAS)))
            _set(set_, made, names.BIAS_POINTER, ctypes.c_uint64(ALIGNMENT))
        return int(made)

    def algorithms(self, alignment: int, workspace: int, count: int) -> list[tuple[int, int]]:
        """(address, bytes of workspace) of the library's best algorithms, best first."""
        import numpy as np

        lt = self.lt
        found = np.zeros(count, lt.matmul_heuristic_result_dtype)
        number = ctypes.c_int32(0)
        preference = lt.matmul_preference_create()
        try:
            set_, names = lt.matmul_preference_set_attribute, lt.MatmulPreferenceAttribute
            _set(set_, preference, names.MAX_WORKSPACE_BYTES, ctypes.c_uint64(workspace))
            _set(set_, preference, names.REDUCTION_SCHEME_MASK, ctypes.c_uint32(_EXACT_SPLITS))
            for operand in "ABCD":
                _set(set_, preference, getattr(names, f"MIN_ALIGNMENT_{operand}_BYTES"),
                     ctypes.c_uint32(alignment))
            left, right, extra, result = self.layouts
            lt.matmul_algo_get_heuristic(
                self.lib.handle, self.desc, left, right, extra, result, preference, count,
                found.ctypes.data, ctypes.addressof(number))
        except lt.cuBLASLtError as error:
            _log.debug("cuBLASLt has no algorithm", why=str(error))
            return []
        finally:
            lt.matmul_preference_destroy(preference)
        self._keep.append(found)
        step = found.itemsize
        return [(found.ctypes.data + k * step, int(found[k]["workspace_size"]))
                for k in range(number.value) if not found[k]["state"]]


def _room(nbytes: int) -> int:
    """A workspace size, one of few so that buffers are used again."""
    return next((n for n in (0, 1 << 16, 1 << 20, 1 << 23) if nbytes <= n), nbytes)


def _build(lib: Library, p: Problem, span: int, fast: bool, tune: bool) -> Launch | None:
    """The launch of a product, or None if the library has no layout or algorithm for it."""
    ready = prepare(p)
    if ready is None:
        return None
    q, copied = ready
    o = arrange(q)
    assert o is not None
    kind, compute, scale = _TYPES[p.dtype]
    types = kind, _COMPUTE_TF32 if fast else compute, scale
    tune = tune and math.prod((*p.batch, p.m, p.n, p.k)) >= WORTH_TUNING
    for added, source in additions(q, o):
        plan = Plan(lib, q, o, types, added, source)
        # a sum in place cannot be repeated, so it is not timed
        count = CANDIDATES if tune and added != "copy" else 1
        found = plan.algorithms(plan.alignment, lib.workspace, count)
        if found:
            return _launch(lib, plan, p, copied, span, found)
    return None


def _copy(lib: Library, d: dtype, shape: Sequence[int], target: Sequence[int],
          source: Sequence[int]) -> Callable[..., None]:
    """A generated kernel that copies one strided array to another, as into(target, source)."""
    like: Meta = meta(d, tuple(shape), None, lib.device.where)
    n = Nest("pack", shape, compute=d)
    to, of = n.output(like, target), n.input(like, source)
    n.start()
    n.store(to, of())
    return program_launch(lib.device, n.program(), ()).into


def _launch(lib: Library, plan: Plan, p: Problem, copied: Sequence[str], span: int,
            found: list[tuple[int, int]]) -> Launch:
    """Generate the function that runs a plan."""
    workspace = _room(max(size for _, size in found))
    scratch = [workspace] if workspace else []
    slots = ["c", "a", "b", *(["e"] if p.bias is not None else []), *(["w"] if workspace else [])]
    inputs = ["a", "b"]
    space: dict[str, Any] = {
        "lt_matmul": lib.lt.matmul, "Failure": lib.lt.cuBLASLtError, "h": lib.handle,
        "one": lib.factor(plan.types[2], True), "places": plan.places, "desc": plan.desc,
        "beta": lib.factor(plan.types[2], plan.added in ("matrix", "copy"))}
    space["left"], space["right"], space["extra"], space["result"] = plan.layouts
    lines = []
    for name in copied:
        q = packed(p, name)
        source, target = getattr(p, name), getattr(q, name)
        shape = [1 if d < len(p.batch) and s == 0 else n
                 for d, (n, s) in enumerate(zip(operand_shape(p, name), source))]
        space[f"copy_{name}"] = _copy(lib, p.dtype, shape, target, source)
        scratch.append(math.prod(shape) * p.dtype.itemsize)
        slots.append(f"packed_{name}")
        inputs["ab".index(name)] = f"packed_{name}"
        lines.append(f"    copy_{name}(packed_{name}, {name})")
    if plan.added == "copy":
        assert p.bias is not None
        space["copy_e"] = _copy(lib, p.dtype, (*p.batch, p.m, p.n), p.c, p.bias)
        lines.append("    copy_e(c, e)")
    x, y = inputs[plan.o.x], inputs[plan.o.y]
    lines += [f"    x = {x}.buf + {x}.offset", f"    y = {y}.buf + {y}.offset",
              "    d = c.buf + c.offset"]
    look, extra = "x | y | d", "d"
    if plan.added in ("vector", "matrix"):
        lines.append("    z = e.buf + e.offset")
    if plan.added == "matrix":
        look, extra = look + " | z", "z"
    elif plan.added == "vector":
        # The library is not told how a vector is aligned: its kernels read 16 bytes at once.
        lines += ["    if z & 15:", "        e = aligned(e)", "        z = e.buf"]
    tail = f"{'w.buf' if workspace else '0'}, {workspace}, stream.handle"
    bias = "z" if plan.added == "vector" else "0"
    special = f"special((x, left, y, right, beta, {extra}, extra, d, result), {bias}, {look}, "
    lines.append(f"    algo = {special}{tail}) if ({look}) & mask else best")
    if plan.added == "vector":
        chooser = Descriptions(plan)
        space.update(take=chooser.take, give=chooser.free.append, aligned=chooser.aligned,
                     set_address=lib.lt.matmul_desc_set_attribute)
        lines += ["    use, address, at = taken = take()", "    address.value = z",
                  f"    set_address(use, {int(lib.lt.MatmulDescAttribute.BIAS_POINTER)}, at, 8)"]
    use = "use" if plan.added == "vector" else "desc"
    if len(plan.places) > 1:
        lines.append("    for ox, oy, od, oc in places:")
        indent, moved = "        ", (" + ox", " + oy", " + oc", " + od")
    else:
        indent, moved = "    ", ("", "", "", "")
    call = (f"h, {use}, one, x{moved[0]}, left, y{moved[1]}, right, beta, "
            f"{extra}{moved[2]}, extra, d{moved[3]}, result, algo, {tail}")
    lines += [indent + line for line in (
        "try:", f"    lt_matmul({call})", "except Failure as failure:",
        f"    again(failure, {call})")]
    if plan.added == "vector":
        lines.append("    give(taken)")
    text = "\n".join([f"def run(stream, {', '.join(slots)}):", *lines])
    space["again"] = _Again(lib, f"{p.dtype.name} [{p.m}, {p.k}] x [{p.k}, {p.n}]")
    space["special"] = Selection(plan, found, workspace, space).choose
    exec(compile(text, "<lampion cuda matmul>", "exec"), space)
    kinds = "s" * (2 if p.bias is None else 3)
    names = [f"cublasLt.{p.dtype.name}", *(["pack"] * len(copied))]
    return make_native(lib.device, space["run"], kinds, [span], scratch, names, plan)


class Descriptions:
    """Descriptors of one operation for calls that run at the same time: (descriptor, the bias
    vector's address, the address of that)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.free = [self._make(plan.desc)]

    def _make(self, desc: int) -> tuple[int, Any, int]:
        address = ctypes.c_uint64(0)
        return desc, address, ctypes.addressof(address)

    def aligned(self, vector: Any) -> Any:
        """A copy of a bias vector in a buffer of its own."""
        size = self.plan.o.result.rows * self.plan.itemsize
        made = self.plan.lib.device.pool.allocate(size)
        between(vector, made, size)
        return made

    def take(self) -> tuple[int, Any, int]:
        try:
            return self.free.pop()
        except IndexError:
            return self._make(self.plan.description())


class _Again:
    """After a call that the library refused: activate the GPU in this thread and try once more,
    as the first call of a thread needs, or raise."""

    def __init__(self, lib: Library, what: str) -> None:
        self.lib, self.what = lib, what

    def __call__(self, failure: Exception, *args: Any) -> None:
        lib = self.lib
        lib.device.activate()
        try:
            lib.lt.matmul(*args)
        except lib.lt.cuBLASLtError as error:
            raise RuntimeError(f"cuBLASLt failed to multiply {self.what} on {lib.device.where}: "
                               f"{error}") from failure


class Selection:
    """Which algorithm runs: the first, the fastest once timed, or one for addresses that are
    aligned to less than usual. `best` and `mask` in `space` are what the generated function
    reads; it comes here for addresses with bits of `mask`, at first for all if there is a
    choice."""

    def __init__(self, plan: Plan, found: list[tuple[int, int]], workspace: int,
                 space: dict[str, Any]) -> None:
        self.plan, self.found, self.workspace, self.space = plan, found, workspace, space
        self.by_alignment: dict[int, int] = {plan.alignment: found[0][0]}
        self.lock = threading.Lock()
        space["best"] = found[0][0]
        space["mask"] = -1 if len(found) > 1 else plan.alignment - 1

    def choose(self, operands: tuple[int, ...], bias: int, bits: int, buffer: int, size: int,
               stream: int) -> int:
        """The algorithm for these addresses."""
        plan = self.plan
        bits |= plan.alignment
        alignment = bits & -bits
        with self.lock:
            if alignment == plan.alignment and self.space["mask"] == -1:
                self._tune(operands, bias, buffer, size, stream)
            found = self.by_alignment.get(alignment)
            if found is None:
                offers = plan.algorithms(alignment, self.workspace, 1)
                if not offers:
                    raise RuntimeError(f"cuBLASLt has no algorithm for addresses that are "
                                       f"multiples of {alignment} only")
                found = self.by_alignment[alignment] = offers[0][0]
        return found

    def _tune(self, operands: tuple[int, ...], bias: int, buffer: int, size: int,
              stream: int) -> None:
        """Time the candidates on the call's own operands: D is written anew each time."""
        plan, lib = self.plan, self.plan.lib
        drv = lib.device.drv
        lib.device.activate()
        doing = "timing matrix products"
        if int(check(drv.cuStreamIsCapturing(stream), doing)):
            return  # nothing can be timed now; the next call will be
        if plan.added == "vector":
            _set(plan.lt.matmul_desc_set_attribute, plan.desc,
                 plan.lt.MatmulDescAttribute.BIAS_POINTER, ctypes.c_uint64(bias))
        factor = lib.factor(plan.types[2], True)
        start, end = (check(drv.cuEventCreate(0), doing) for _ in range(2))
        times = []
        for algo, _ in self.found:
            for repeat in range(4):
                if repeat == 1:
                    check(drv.cuEventRecord(start, stream), doing)
                plan.lt.matmul(lib.handle, plan.desc, factor, *operands, algo, buffer, size, stream)
            check(drv.cuEventRecord(end, stream), doing)
            check(drv.cuEventSynchronize(end), doing)
            times.append(float(check(drv.cuEventElapsedTime(start, end), doing)))
        for event in (start, end):
            check(drv.cuEventDestroy(event), doing)
        first = min(range(len(times)), key=times.__getitem__)
        _log.debug("timed matrix products", best=first, times=[round(t, 4) for t in times])
        self.space["best"] = self.by_alignment[plan.alignment] = self.found[first][0]
        self.space["mask"] = plan.alignment - 1


__all__ = ["contract", "library"]
