"""oneDNN through its C interface: the library, its primitives, and one glue kernel.

Holds what every oneDNN-backed kernel needs: finding and loading ``libdnnl``, memory
descriptors with explicit strides, primitives cached by key, and ``run_step``, which
turns a primitive into a :class:`~lampion_cpu.program.Step` of the native runtime.
What to compute is decided in ``gemm.py`` and ``conv.py``.

Imports ``jit``, ``onednn_glue``, ``pool`` and ``program``; nothing of the core.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import NamedTuple

from . import jit, onednn_glue, pool
from .program import Step

DISTRIBUTION = "onednn-cpu-gomp"

# Argument numbers of primitive execution (dnnl_types.h).
SRC, DST, WEIGHTS, BIAS = 1, 17, 33, 41
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 129, 145, 161, 169
SCRATCHPAD = 80

FORWARD_TRAINING, FORWARD_INFERENCE = 64, 96
CONVOLUTION_DIRECT, DECONVOLUTION_DIRECT = 0x1, 0xA

DTYPES = {"float16": 1, "bfloat16": 2, "float32": 3}
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4}

# name -> (algorithm, alpha, beta) of an eltwise post-operation.
POST_OPS = {
    "relu": (0x20, 0.0, 0.0),
    "tanh": (0x21, 0.0, 0.0),
    "sigmoid": (0x29, 0.0, 0.0),
    "gelu_tanh": (0x2B, 0.0, 0.0),
    "silu": (0x2C, 1.0, 0.0),
    "gelu": (0x31, 0.0, 0.0),
}

# Queries of a primitive descriptor that give a memory descriptor.
_QUERY_MD = {
    SRC: 129, DIFF_SRC: 130, WEIGHTS: 131, DIFF_WEIGHTS: 132, DST: 133, DIFF_DST: 134,
    SCRATCHPAD: 136,
}  # fmt: skip
_QUERY_IMPLEMENTATION = 8
_UNIMPLEMENTED = 3
_STATUS = ("success", "out of memory", "invalid arguments", "unimplemented", "last impl reached",
           "runtime error", "not required")  # fmt: skip
_NO_HANDLE = c_void_p(None)

_KEPT: list[object] = []  # ctypes blocks that native code points into; never freed


class OneDNNError(RuntimeError):
    """oneDNN refused a call that should have worked."""


class Unsupported(Exception):
    """oneDNN has no implementation for the shape, type or layout asked for."""


# --- the library ---------------------------------------------------------------------------


def _candidates() -> list[str]:
    """Paths and names that may hold libdnnl, best first."""
    if path := os.environ.get("LAMPION_ONEDNN_LIBRARY"):
        return [path]
    found: list[str] = []
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.startswith("libdnnl.so"):
            found.append(str(pathlib.Path(str(file.locate())).resolve()))
    for prefix in {sys.prefix, sys.base_prefix}:
        found.extend(str(p) for p in sorted(pathlib.Path(prefix, "lib").glob("libdnnl.so.3*")))
    return list(dict.fromkeys([*found, "libdnnl.so.3"]))


def _load() -> tuple[ctypes.CDLL | None, str]:
    """Return (library, reason it is absent)."""
    if os.environ.get("LAMPION_ONEDNN", "1") == "0":
        return None, "disabled by LAMPION_ONEDNN=0"
    if not sys.platform.startswith("linux"):
        return None, f"the {DISTRIBUTION} wheel exists for Linux on x86-64 only"
    errors: list[str] = []
    pool.libgomp()  # first: it settles how long that library's idle threads spin
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            if os.path.exists(path) or not os.path.isabs(path):
                errors.append(str(error))
            continue
        if reason := _check_version(library):
            errors.append(f"{path}: {reason}")
            continue
        return library, ""
    hint = f"install {DISTRIBUTION}"
    if any("libgomp" in text for text in errors):
        hint = "install the system package that holds libgomp.so.1 (Debian: libgomp1)"
    return None, f"libdnnl cannot be loaded ({'; '.join(errors)}); {hint}"


class _Version(ctypes.Structure):
    _fields_ = [
        ("major", c_int), ("minor", c_int), ("patch", c_int), ("hash", c_char_p),
        ("cpu_runtime", ctypes.c_uint), ("gpu_runtime", ctypes.c_uint),
    ]  # fmt: skip


def _check_version(library: ctypes.CDLL) -> str:
    """Return why this build of the library cannot be used, or an empty string."""
    library.dnnl_version.restype = POINTER(_Version)
    version = library.dnnl_version().contents
    if version.major != 3:
        return f"version {version.major}.{version.minor}, but version 3 is needed"
    if version.cpu_runtime not in (1, 2):
        return "built for another threading runtime than OpenMP"
    return ""


class _Library:
    """The loaded library with its one engine and one stream."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        self.handle = handle
        handle.dnnl_primitive_desc_query_md.restype = c_void_p
        handle.dnnl_memory_desc_get_size.restype = c_size_t
        handle.dnnl_memory_desc_get_size.argtypes = [c_void_p]
        self.engine = c_void_p()
        self.stream = c_void_p()
        self.call("dnnl_engine_create", byref(self.engine), c_int(1), c_size_t(0))
        self.call("dnnl_stream_create", byref(self.stream), self.engine, c_int(1))
        self.version = handle.dnnl_version().contents
        self.run_address, self.series_address = onednn_glue.compile_glue(handle)

    def call(self, name: str, *args: object) -> None:
        """Call a function that returns a status; raise on anything but success."""
        status = getattr(self.handle, name)(*args)
        if status == _UNIMPLEMENTED or (status == 2 and name.endswith("_desc_create")):
            raise Unsupported(name)
        if status:
            text = _STATUS[status] if status < len(_STATUS) else str(status)
            raise OneDNNError(f"{name} failed: {text}")


@functools.lru_cache(maxsize=1)
def _loaded() -> tuple[_Library | None, str]:
    handle, reason = _load()
    if handle is None:
        return None, reason
    try:
        return _Library(handle), ""
    except (OneDNNError, Unsupported, AttributeError) as error:
        return None, f"libdnnl was loaded but does not work: {error}"


def available() -> tuple[bool, str]:
    """Return whether oneDNN can be used, and if not, why.

    Example:
        >>> ok, reason = available()
        >>> ok or bool(reason)
        True
    """
    library, reason = _loaded()
    return library is not None, reason


def version() -> str:
    """Return the version of the loaded library, such as ``"3.2.0"``."""
    info = library().version
    return f"{info.major}.{info.minor}.{info.patch}"


def library() -> _Library:
    """Return the loaded library; raise OneDNNError with the reason when there is none."""
    loaded, reason = _loaded()
    if loaded is None:
        raise OneDNNError(reason)
    return loaded


def threads() -> int:
    """Threads a primitive may use: those of the shared pool, one when the pool is another.

    oneDNN runs on libgomp. With any other pool its threads would compete with ours.
    """
    return pool.get_num_threads() if pool.threading_kind() == "gomp" else 1


# --- memory descriptors --------------------------------------------------------------------


class Desc:
    """A memory descriptor: dtype, shape and layout. ``strides=None`` lets oneDNN choose."""

    __slots__ = ("_owned", "handle", "key")

    def __init__(self, handle: c_void_p, key: object, owned: bool) -> None:
        self.handle = handle
        self.key = key
        self._owned = owned

    def __del__(self) -> None:
        if self._owned and _loaded is not None and (lib := _loaded()[0]) is not None:
            lib.handle.dnnl_memory_desc_destroy(self.handle)

    @property
    def nbytes(self) -> int:
        """Bytes that a memory of this layout spans."""
        return library().handle.dnnl_memory_desc_get_size(self.handle)

    def same_layout(self, other: Desc) -> bool:
        """Whether both describe the same bytes."""
        return bool(library().handle.dnnl_memory_desc_equal(self.handle, other.handle))


def desc(shape: Sequence[int], strides: Sequence[int] | None, dtype: str) -> Desc:
    """Describe a tensor; strides count elements, None means the layout is oneDNN's choice.

    Example:
        >>> desc((2, 3), (3, 1), "float32").nbytes  # doctest: +SKIP
        24
    """
    lib = library()
    handle = c_void_p()
    n = len(shape)
    dims = (c_int64 * n)(*shape)
    if strides is None:
        lib.call("dnnl_memory_desc_create_with_tag", byref(handle), n, dims, DTYPES[dtype], 1)
    else:
        steps = (c_int64 * n)(*strides)
        lib.call(
            "dnnl_memory_desc_create_with_strides", byref(handle), n, dims, DTYPES[dtype], steps
        )
    key = (tuple(shape), None if strides is None else tuple(strides), dtype)
    return Desc(handle, key, owned=True)


def channel_block() -> int:
    """Channels in one block of :func:`blocked_desc`."""
    return 16 if "avx512f" in jit.host_features() else 8


def blocked_desc(shape: Sequence[int], dtype: str) -> Desc:
    """Describe activations (batch, channels, *space) with channels in blocks of a vector.

    The reorder from and to PyTorch's order is three to five times faster than that of the
    channels-last layout.
    """
    lib = library()
    handle = c_void_p()
    n = len(shape)
    tag = "aBcde"[:n] + f"{channel_block()}b"
    lib.call(
        "dnnl_memory_desc_create_with_string_tag",
        byref(handle),
        n,
        (c_int64 * n)(*shape),
        DTYPES[dtype],
        tag.encode(),
    )
    return Desc(handle, (tuple(shape), tag, dtype), owned=True)


# --- primitives ----------------------------------------------------------------------------


class Primitive:
    """A created primitive, kept for the life of the process."""

    __slots__ = ("desc_handle", "handle", "implementation", "scratchpad", "threads")

    def __init__(self, desc_handle: c_void_p) -> None:
        lib = library()
        self.desc_handle = desc_handle
        self.handle = c_void_p()
        lib.call("dnnl_primitive_create", byref(self.handle), desc_handle)
        name = c_char_p()
        lib.call("dnnl_primitive_desc_query", desc_handle, _QUERY_IMPLEMENTATION, 0, byref(name))
        self.implementation = (name.value or b"").decode()
        self.scratchpad = self.desc(SCRATCHPAD).nbytes
        self.threads = threads()

    def desc(self, argument: int) -> Desc:
        """Return the layout that the primitive uses for an argument."""
        handle = library().handle.dnnl_primitive_desc_query_md(
            self.desc_handle, _QUERY_MD[argument], 0
        )
        return Desc(c_void_p(handle), (self.handle.value, argument), owned=False)


_PRIMITIVES: dict[object, Primitive | None] = {}


def _cached(key: tuple, build) -> Primitive | None:
    """Build a primitive once per key and thread count; None when oneDNN has none."""
    key = (*key, threads())
    try:
        return _PRIMITIVES[key]
    except KeyError:
        pass
    omp = library().handle
    before = omp.omp_get_max_threads()
    # The partitioning of the work is fixed when a primitive is made.
    omp.omp_set_num_threads(c_int(threads()))
    try:
        primitive = Primitive(build())
    except Unsupported:
        primitive = None
    finally:
        omp.omp_set_num_threads(c_int(before))
    _PRIMITIVES[key] = primitive
    return primitive


@functools.cache
def _attributes(post: tuple[str, ...]) -> c_void_p:
    """Attributes with caller-owned scratch memory and the named post-operations in order."""
    lib = library()
    attr = c_void_p()
    lib.call("dnnl_primitive_attr_create", byref(attr))
    # The library's own scratchpad is per thread of creation: unusable from other threads.
    lib.call("dnnl_primitive_attr_set_scratchpad_mode", attr, c_int(1))
    if post:
        ops = c_void_p()
        lib.call("dnnl_post_ops_create", byref(ops))
        for name in post:
            if name == "sum":
                lib.call("dnnl_post_ops_append_sum", ops, c_float(1.0), c_int(0), c_int(0))
            else:
                kind, alpha, beta = POST_OPS[name]
                lib.call("dnnl_post_ops_append_eltwise", ops, kind, c_float(alpha), c_float(beta))
        lib.call("dnnl_primitive_attr_set_post_ops", attr, ops)
    return attr


def _handle(d: Desc | None) -> c_void_p:
    return _NO_HANDLE if d is None else d.handle


def matmul(
    src: Desc, weights: Desc, dst: Desc, bias: Desc | None = None, post: tuple[str, ...] = ()
) -> Primitive | None:
    """Create dst = post(src @ weights + bias) of equal ranks; None when not supported."""

    def build() -> c_void_p:
        pd = c_void_p()
        library().call(
            "dnnl_matmul_primitive_desc_create", byref(pd), library().engine, src.handle,
            weights.handle, _handle(bias), dst.handle, _attributes(post),
        )  # fmt: skip
        return pd

    key = ("matmul", src.key, weights.key, dst.key, bias and bias.key, post)
    return _cached(key, build)


def reorder(src: Desc, dst: Desc) -> Primitive | None:
    """Create a copy from one layout (or dtype) to another; None when not supported."""

    def build() -> c_void_p:
        pd = c_void_p()
        lib = library()
        lib.call(
            "dnnl_reorder_primitive_desc_create", byref(pd), src.handle, lib.engine, dst.handle,
            lib.engine, _attributes(()),
        )  # fmt: skip
        return pd

    return _cached(("reorder", src.key, dst.key), build)


class Geometry(NamedTuple):
    """Strides, dilations (1 = none) and paddings of a convolution, one per spatial axis."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding_left: tuple[int, ...]
    padding_right: tuple[int, ...]

    def c_arrays(self) -> list[ctypes.Array]:
        """The four arrays in the order and convention of the C interface."""
        n = len(self.strides)
        values = (
            self.strides,
            tuple(d - 1 for d in self.dilations),
            self.padding_left,
            self.padding_right,
        )
        return [(c_int64 * n)(*v) for v in values]


def convolution(
    src: Desc, weights: Desc, bias: Desc | None, dst: Desc, geometry: Geometry,
    post: tuple[str, ...] = (), *, training: bool = False,
) -> Primitive | None:  # fmt: skip
    """Create a forward convolution; grouped when weights have one more axis than src."""

    def build() -> c_void_p:
        pd = c_void_p()
        kind = FORWARD_TRAINING if training else FORWARD_INFERENCE
        library().call(
            "dnnl_convolution_forward_primitive_desc_create", byref(pd), library().engine, kind,
            CONVOLUTION_DIRECT, src.handle, weights.handle, _handle(bias), dst.handle,
            *geometry.c_arrays(), _attributes(post),
        )  # fmt: skip
        return pd

    key = ("conv", src.key, weights.key, bias and bias.key, dst.key, geometry, post, training)
    return _cached(key, build)


def convolution_backward_data(
    diff_src: Desc, weights: Desc, diff_dst: Desc, geometry: Geometry
) -> Primitive | None:
    """Create the gradient of a convolution with respect to its input."""
    hint = convolution(diff_src, weights, None, diff_dst, geometry, training=True)
    if hint is None:
        return None

    def build() -> c_void_p:
        pd = c_void_p()
        library().call(
            "dnnl_convolution_backward_data_primitive_desc_create", byref(pd),
            library().engine, CONVOLUTION_DIRECT, diff_src.handle, weights.handle,
            diff_dst.handle, *geometry.c_arrays(), hint.desc_handle, _attributes(()),
        )  # fmt: skip
        return pd

    key = ("conv_bwd_data", diff_src.key, weights.key, diff_dst.key, geometry)
    return _cached(key, build)


def convolution_backward_weights(
    src: Desc, diff_weights: Desc, diff_bias: Desc | None, diff_dst: Desc, geometry: Geometry
) -> Primitive | None:
    """Create the gradient of a convolution with respect to its weights (and bias)."""
    hint = convolution(src, diff_weights, diff_bias, diff_dst, geometry, training=True)
    if hint is None:
        return None

    def build() -> c_void_p:
        pd = c_void_p()
        library().call(
            "dnnl_convolution_backward_weights_primitive_desc_create", byref(pd),
            library().engine, CONVOLUTION_DIRECT, src.handle, diff_weights.handle,
            _handle(diff_bias), diff_dst.handle, *geometry.c_arrays(), hint.desc_handle,
            _attributes(()),
        )  # fmt: skip
        return pd

    key = (
        "conv_bwd_weights", src.key, diff_weights.key, diff_bias and diff_bias.key,
        diff_dst.key, geometry,
    )  # fmt: skip
    return _cached(key, build)


# --- steps ---------------------------------------------------------------------------------


class Bound(NamedTuple):
    """An execution argument: its number, its layout and the program slot that holds it."""

    argument: int
    desc: Desc
    slot: int


_RUNS: dict[object, tuple[int, ...]] = {}


def run_step(
    primitive: Primitive, bound: Sequence[Bound], scratch_slot: int, large: bool = False
) -> Step:
    """Return the Step that executes a primitive on the storages of the bound slots.

    ``scratch_slot`` is appended when the primitive needs scratch memory: check
    ``primitive.scratchpad`` and reserve that many bytes for the slot. ``large`` asks for the
    GIL to be released: such a step has more units than its grain, too few to be cut.
    """
    bound = _with_scratchpad(primitive, bound, scratch_slot)
    slots = tuple(b.slot for b in bound)
    units, grain = (3, 2) if large else (1, 1)
    return Step(library().run_address, _params(primitive, bound), slots, units, grain)


def series_step(
    primitives: tuple[Primitive, Primitive], bound: Sequence[Bound], strides: Sequence[int],
    count: int, scratch_slot: int,
) -> Step:  # fmt: skip
    """Return the Step that runs a primitive ``count`` times, each time further on in memory.

    The first run is of ``primitives[0]``, the others of ``primitives[1]`` (which adds to the
    result, say). Run i finds argument j ``i * strides[j]`` bytes after its slot's start. The
    scratch slot must fit both.
    """
    tables = []
    for primitive in primitives:
        items = list(bound)
        if max(p.scratchpad for p in primitives):
            items.append(Bound(SCRATCHPAD, primitive.desc(SCRATCHPAD), scratch_slot))
        params = _params(primitive, items)
        table = (c_int64 * len(params))(*params)
        _KEPT.append(table)
        tables.append(ctypes.addressof(table))
    slots = tuple(item.slot for item in items)
    strides = (*strides, *(0 for _ in range(len(slots) - len(strides))))
    return Step(library().series_address, (count, len(slots), *tables, *strides), slots, 3, 2)


def _with_scratchpad(
    primitive: Primitive, bound: Sequence[Bound], scratch_slot: int
) -> list[Bound]:
    if not primitive.scratchpad:
        return list(bound)
    return [*bound, Bound(SCRATCHPAD, primitive.desc(SCRATCHPAD), scratch_slot)]


def _params(primitive: Primitive, bound: Sequence[Bound]) -> tuple[int, ...]:
    """The parameters that run a primitive on these arguments, made once."""
    key = (primitive.handle.value, tuple((b.argument, b.desc.key) for b in bound))
    params = _RUNS.get(key)
    if params is None:
        params = _RUNS[key] = _run_params(primitive, bound)
    return params


class _ExecArg(ctypes.Structure):
    _fields_ = [("argument", c_int), ("memory", c_void_p)]


def _run_params(primitive: Primitive, bound: Sequence[Bound]) -> tuple[int, ...]:
    """Parameters of the glue kernel: see the layout in ``onednn_glue``."""
    lib = library()
    n = len(bound)
    memories = []
    for item in bound:
        memory = c_void_p()
        # A null handle is filled in before every execution.
        lib.call("dnnl_memory_create", byref(memory), item.desc.handle, lib.engine, _NO_HANDLE)
        memories.append(memory.value or 0)

    class Block(ctypes.Structure):
        _fields_ = [("lock", c_int64), ("args", _ExecArg * n)]

    block = Block(0, tuple((b.argument, m) for b, m in zip(bound, memories, strict=True)))
    _KEPT.append(block)
    return (
        primitive.handle.value or 0, lib.stream.value or 0, n, ctypes.addressof(block),
        lib.engine.value or 0, primitive.threads, *memories,
    )  # fmt: skip
