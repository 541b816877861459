"""Matrix products through a BLAS that is already installed, usually NumPy's OpenBLAS.

It serves float64 and the complex dtypes, and float32 where oneDNN is absent. The library is
found in NumPy's or SciPy's wheel or among the libraries already loaded, and called through
its C symbols. One product is split into strips of rows that run on the shared thread pool,
while OpenBLAS itself is held to one thread: two pools at once halve the speed of both. The
user's own NumPy code keeps its threads, since the count is restored after each call.

Imports ``jit`` and NumPy.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

from . import jit

# dtype -> (BLAS letter, LLVM type of one real part, bytes of an element)
_TYPES = {
    "float32": ("s", "float", 4),
    "float64": ("d", "double", 8),
    "complex64": ("c", "float", 8),
    "complex128": ("z", "double", 16),
}
_NAMES = (("scipy_cblas_", "64_"), ("cblas_", "64_"), ("scipy_cblas_", ""), ("cblas_", ""))
_THREAD_NAMES = ("scipy_openblas_{}_num_threads{}", "openblas_{}_num_threads{}")


class _Found(NamedTuple):
    library: ctypes.CDLL
    path: str
    prefix: str
    suffix: str


def _wheel_libraries() -> Iterator[str]:
    """OpenBLAS files shipped inside the wheels of NumPy and SciPy."""
    import importlib.util

    for package in ("numpy", "scipy"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            continue
        root = pathlib.Path(spec.origin).parent
        for folder in (root.parent / f"{package}.libs", root / ".dylibs"):
            yield from (str(p) for p in sorted(folder.glob("*openblas*")))


def _loaded_libraries() -> Iterator[str]:
    """BLAS libraries that NumPy has already brought into this process."""
    import numpy.linalg  # noqa: F401  (its import loads the BLAS)

    try:
        lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        path = line.split(maxsplit=5)[-1]
        name = pathlib.PurePath(path).name
        if name.startswith(("libopenblas", "libmkl_rt", "libblis", "libcblas", "libblas")):
            yield path


def _system_libraries() -> Iterator[str]:
    for name in ("openblas", "blis", "cblas", "blas"):
        if path := ctypes.util.find_library(name):
            yield path


def limit_lapack(count: int) -> None:
    """Let SciPy's LAPACK, which linear algebra runs in, use `count` threads, if it is loaded."""
    if "scipy.linalg" not in sys.modules:
        return
    for path in _wheel_libraries():
        if "scipy" not in pathlib.Path(path).parts[-2]:
            continue
        library = ctypes.CDLL(path)
        for pattern in _THREAD_NAMES:
            for suffix in ("64_", ""):
                set_count = getattr(library, pattern.format("set", suffix), None)
                if set_count is not None:
                    set_count(count)


@functools.cache
def _find() -> _Found | None:
    """Return the first library that has the C interface, or None."""
    if os.environ.get("LAMPION_BLAS", "1") == "0":
        return None
    for source in (_wheel_libraries, _loaded_libraries, _system_libraries):
        for path in source():
            try:
                library = ctypes.CDLL(path)
            except OSError:
                continue
            for prefix, suffix in _NAMES:
                if hasattr(library, f"{prefix}dgemm{suffix}"):
                    return _Found(library, path, prefix, suffix)
    return None


def available() -> tuple[bool, str]:
    """Return whether a BLAS was found, and if not, why.

    Example:
        >>> ok, reason = available()
        >>> ok or bool(reason)
        True
    """
    if _find() is not None:
        return True, ""
    if os.environ.get("LAMPION_BLAS", "1") == "0":
        return False, "disabled by LAMPION_BLAS=0"
    return False, "no BLAS with a C interface in NumPy's or SciPy's wheel or on the system"


def path() -> str | None:
    """Return the file of the library in use."""
    found = _find()
    return found.path if found else None


# --- the glue kernel -----------------------------------------------------------------------
# Arguments: C, A, B (and bias). A unit is one strip of rows of one matrix of the batch.

PARAMETERS = (
    "m n k strip strips transa transb lda ldb ldc am cm inner c0 c1 a0 a1 b0 b1 bias_m bias_n"
)
NO_TRANSPOSE, TRANSPOSE = 111, 112

# The thread count of OpenBLAS is global: the first of our calls sets it to one, the last
# restores it. The lock is held for a few nanoseconds.
_GUARD = """
@lock = internal global i32 0
@users = internal global i32 0
@saved = internal global i32 0

define internal void @acquire() {
  br label %try
try:
  %pair = cmpxchg ptr @lock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %done, label %try
done:
  ret void
}

define void @enter() {
  call void @acquire()
  %n = load i32, ptr @users
  %more = add i32 %n, 1
  store i32 %more, ptr @users
  %first = icmp eq i32 %n, 0
  br i1 %first, label %set, label %done
set:
  %count = call i32 @get_num_threads()
  store i32 %count, ptr @saved
  call void @set_num_threads(i32 1)
  br label %done
done:
  store atomic i32 0, ptr @lock release, align 4
  ret void
}

define void @leave() {
  call void @acquire()
  %n = load i32, ptr @users
  %less = sub i32 %n, 1
  store i32 %less, ptr @users
  %last = icmp eq i32 %less, 0
  br i1 %last, label %restore, label %done
restore:
  %count = load i32, ptr @saved
  call void @set_num_threads(i32 %count)
  br label %done
done:
  store atomic i32 0, ptr @lock release, align 4
  ret void
}
"""

_STRIP = """
define void @gemm(ptr %args, ptr %params, i64 %lo, i64 %hi) {{
{loads}
  call void @enter()
  br label %unit
unit:
  %u = phi i64 [ %lo, %0 ], [ %u.next, %next ]
  %batch = udiv i64 %u, %strips
  %part = urem i64 %u, %strips
  %outer = udiv i64 %batch, %inner
  %in = urem i64 %batch, %inner
  %first = mul i64 %part, %strip
  %rest = sub i64 %m, %first
  %short = icmp slt i64 %rest, %strip
  %rows = select i1 %short, i64 %rest, i64 %strip
{pointers}
  %a.skip = mul i64 %first, %am
  %a.at = getelementptr i8, ptr %a.batch, i64 %a.skip
  %c.skip = mul i64 %first, %cm
  %c.at = getelementptr i8, ptr %c.batch, i64 %c.skip
{before}
{narrow}
  call void @cblas(i32 101, i32 %transa.i, i32 %transb.i, {int} %rows.i, {int} %n.i, {int} %k.i, \
{scalar} {alpha}, ptr %a.at, {int} %lda.i, ptr %b.batch, {int} %ldb.i, {scalar} {beta}, \
ptr %c.at, {int} %ldc.i)
{after}
  br label %next
next:
  %u.next = add i64 %u, 1
  %more = icmp slt i64 %u.next, %hi
  br i1 %more, label %unit, label %done
done:
  call void @leave()
  ret void
}}
declare void @enter()
declare void @leave()
declare void @cblas(i32, i32, i32, {int}, {int}, {int}, {scalar}, ptr, {int}, ptr, {int}, \
{scalar}, ptr, {int})
@one = private constant [2 x {real}] [{real} 1.0, {real} 0.0]
@zero = private constant [2 x {real}] [{real} 0.0, {real} 0.0]
"""

# for r in rows: for c in columns: <body of %r, %c>
_ELEMENTS = """
  br label %{tag}.rows
{tag}.rows:
  %{tag}.r = phi i64 [ 0, %{before} ], [ %{tag}.r.next, %{tag}.row.end ]
  %{tag}.skip = mul i64 %{tag}.r, %cm
  %{tag}.row = getelementptr i8, ptr %c.at, i64 %{tag}.skip
  br label %{tag}.columns
{tag}.columns:
  %{tag}.c = phi i64 [ 0, %{tag}.rows ], [ %{tag}.c.next, %{tag}.columns ]
  %{tag}.to = getelementptr {element}, ptr %{tag}.row, i64 %{tag}.c
{body}
  %{tag}.c.next = add i64 %{tag}.c, 1
  %{tag}.c.more = icmp slt i64 %{tag}.c.next, %n
  br i1 %{tag}.c.more, label %{tag}.columns, label %{tag}.row.end
{tag}.row.end:
  %{tag}.r.next = add i64 %{tag}.r, 1
  %{tag}.r.more = icmp slt i64 %{tag}.r.next, %rows
  br i1 %{tag}.r.more, label %{tag}.rows, label %{tag}.end
{tag}.end:
"""


@functools.cache
def _guard() -> dict[str, int]:
    """Addresses of ``enter`` and ``leave`` around calls of the library."""
    found = _find()
    assert found is not None
    for pattern in _THREAD_NAMES:
        names = [pattern.format(verb, found.suffix) for verb in ("get", "set")]
        if all(hasattr(found.library, name) for name in names):
            symbols = {
                f"{verb}_num_threads": _address(found.library, name)
                for verb, name in zip(("get", "set"), names, strict=True)
            }
            declared = "declare i32 @get_num_threads()\ndeclare void @set_num_threads(i32)\n"
            return jit.compile_ir(_GUARD + declared, ["enter", "leave"], symbols)
    empty = "define void @enter() {\n  ret void\n}\ndefine void @leave() {\n  ret void\n}\n"
    return jit.compile_ir(empty, ["enter", "leave"])


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


@functools.cache
def kernel(dtype: str, bias: bool, relu: bool, accumulate: bool) -> int | None:
    """Compile the glue of one dtype; return its address, None without a BLAS.

    Parameters: :data:`PARAMETERS`; ``lda``, ``ldb``, ``ldc`` count elements, other strides
    bytes. Each unit does ``strip`` rows of C = A @ B, plus bias and the old C, then relu
    (real dtypes only).
    """
    found = _find()
    if found is None or dtype not in _TYPES or (relu and dtype.startswith("complex")):
        return None
    letter, real, size = _TYPES[dtype]
    integer = "i64" if "64" in found.suffix else "i32"
    by_pointer = letter in "cz"
    add = bias or accumulate
    before, after = "", ""
    element = f"[{size} x i8]"
    if bias:
        kind = f"<2 x {real}>" if by_pointer else real
        body = (_BIAS_ADDED if accumulate else _BIAS_STORED).format(kind=kind)
        before = _ELEMENTS.format(tag="bias", before="unit", element=element, body=body)
    if relu:
        body = _RELU_BODY.format(real=real)
        origin = "bias.end" if bias else "unit"
        after = _ELEMENTS.format(tag="relu", before=origin, element=element, body=body)
    text = _STRIP.format(
        loads=_loads(bias), pointers=_pointers(), before=before, after=after, int=integer,
        narrow=_narrow(integer), scalar="ptr" if by_pointer else real, real=real,
        alpha="@one" if by_pointer else "1.0",
        beta=("@one" if add else "@zero") if by_pointer else ("1.0" if add else "0.0"),
    )  # fmt: skip
    symbols = dict(_guard())
    symbols["cblas"] = _address(found.library, f"{found.prefix}{letter}gemm{found.suffix}")
    return jit.compile_ir(text, ["gemm"], symbols)["gemm"]


_BIAS_LOADED = """
  %bias.row.skip = add i64 %first, %bias.r
  %bias.m = mul i64 %bias.row.skip, %bias_m
  %bias.n = mul i64 %bias.c, %bias_n
  %bias.skip.all = add i64 %bias.m, %bias.n
  %bias.from = getelementptr i8, ptr %bias, i64 %bias.skip.all
  %bias.value = load {kind}, ptr %bias.from, align 4
"""
_BIAS_STORED = _BIAS_LOADED + "  store {kind} %bias.value, ptr %bias.to, align 4"
_BIAS_ADDED = (
    _BIAS_LOADED
    + """  %bias.old = load {kind}, ptr %bias.to, align 4
  %bias.sum = fadd {kind} %bias.old, %bias.value
  store {kind} %bias.sum, ptr %bias.to, align 4"""
)

_RELU_BODY = """
  %relu.value = load {real}, ptr %relu.to
  %relu.below = fcmp olt {real} %relu.value, 0.0
  %relu.new = select i1 %relu.below, {real} 0.0, {real} %relu.value
  store {real} %relu.new, ptr %relu.to"""


def _loads(bias: bool) -> str:
    lines = []
    for i, name in enumerate(PARAMETERS.split()):
        lines.append(f"  %p.{name} = getelementptr i64, ptr %params, i64 {i}")
        lines.append(f"  %{name} = load i64, ptr %p.{name}")
    for i, name in enumerate(["c", "a", "b"] + ["bias"] * bias):
        lines.append(f"  %arg.{name} = getelementptr ptr, ptr %args, i64 {i}")
        lines.append(f"  %{name} = load ptr, ptr %arg.{name}")
    return "\n".join(lines)


def _pointers() -> str:
    lines = []
    for name in "cab":
        lines += [
            f"  %{name}.far = mul i64 %outer, %{name}0",
            f"  %{name}.near = mul i64 %in, %{name}1",
            f"  %{name}.offset = add i64 %{name}.far, %{name}.near",
            f"  %{name}.batch = getelementptr i8, ptr %{name}, i64 %{name}.offset",
        ]
    return "\n".join(lines)


def _narrow(integer: str) -> str:
    lines = [f"  %{name}.i = trunc i64 %{name} to i32" for name in ("transa", "transb")]
    for name in ("rows", "n", "k", "lda", "ldb", "ldc"):
        cast = "add i64 0," if integer == "i64" else "trunc i64"
        end = "" if integer == "i64" else " to i32"
        lines.append(f"  %{name}.i = {cast} %{name}{end}")
    return "\n".join(lines)
