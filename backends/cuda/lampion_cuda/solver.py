"""Factorizations of matrices by cuSOLVER, and what is solved with them; triangles by cuBLAS.

Where these are not installed, the ops run on the host's processor, as do those that have no
routine here (LDL, general eigenvalues, least squares, pseudo-inverses). Results are stored by
columns, so the library works in place in them: the input is copied there first. Batches of small
matrices go through the batched routines, others matrix by matrix. Codes of failure are read back
only where they become errors. Imports nvmath.bindings, this package and lampion's floors 0-2.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.base.meta import Meta, contiguous_strides, expand_strides, meta
from lampion.logging import get_logger
from lampion.runtime.backend import Launch, OpCall
from lampion.runtime.failures import fail

from .handwritten import bits_type
from .steps import Array, Steps

if TYPE_CHECKING:
    from .driver import Device

_log = get_logger("cuda")

_LETTER = {dt.float32: "s", dt.float64: "d", dt.complex64: "c", dt.complex128: "z"}
_KIND = {dt.float32: 0, dt.float64: 1, dt.complex64: 4, dt.complex128: 5}  # cudaDataType
_UNITARY = {"orgqr": "ungqr", "ormqr": "unmqr", "syevd": "heevd"}
SMALL_CHOLESKY, SMALL_LU, SMALL_SVD, SMALL_EIG = 256, 128, 32, 512  # sizes that are batched up to


class Library:
    """cuSOLVER and cuBLAS on one GPU: their modules and handles, used by one thread at a time."""

    def __init__(self, device: Device, dn: Any = None, blas: Any = None) -> None:
        if dn is None:
            from nvmath.bindings import cublas as blas
            from nvmath.bindings import cusolverDn as dn

        self.dn, self.blas, self.device = dn, blas, device
        device.activate()
        self.solver, self.products = dn.create(), blas.create()
        self.jacobi = dn.create_gesvdj_info()
        self.params = dn.create_params()
        self.one = {d: (ctypes.c_double * 2 if d.to_real() is dt.float64 else ctypes.c_float * 2)(1)
                    for d in _LETTER}
        self.lock = threading.Lock()

    def routine(self, name: str, d: dtype) -> Any:
        """A routine of cuSOLVER by its real name without the letter."""
        if d.kind == "c":
            for real, unitary in _UNITARY.items():
                if name.startswith(real):
                    name = unitary + name[len(real):]
        return getattr(self.dn, _LETTER[d] + name)

    def product(self, name: str, d: dtype) -> Any:
        """A routine of cuBLAS."""
        return getattr(self.blas, _LETTER[d] + name)

    def use(self, stream: Any) -> None:
        """Work on a stream from now on; the lock is held."""
        self.device.activate()
        self.dn.set_stream(self.solver, stream.handle)
        self.blas.set_stream(self.products, stream.handle)


def library(device: Device) -> Library | None:
    """The libraries on a GPU, or None if they are not installed."""
    found = device.library("cusolver", Library,
                           "no cuSOLVER: the host's processor factorizes matrices")
    return found if isinstance(found, Library) else None


# -- kernels --------------------------------------------------------------------------------------

_ELEMENT = """
#if $SIZE == 16
typedef struct { ulong re, im; } E;
#define LMP_ELEMENT(bits) E{bits, 0}
#else
typedef $BITS E;
#define LMP_ELEMENT(bits) (E)(bits)
#endif
"""
_TRIANGLE = _ELEMENT + """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(E *x, const long total, const long m,
    const long n) {  // zeros outside the upper or lower triangle of matrices by columns
  const long k = LMP_GLOBAL_0;
  if (k >= total) return;
  const long i = k % m, j = k / m % n;
  if ($UPPER ? i > j : i < j) x[k] = LMP_ELEMENT(0);
}
"""
_IDENTITY = _ELEMENT + """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(E *x, const long total, const long n) {
  const long k = LMP_GLOBAL_0;
  if (k < total) x[k] = k % n == k / n % n ? LMP_ELEMENT($ONE) : LMP_ELEMENT(0);
}
"""
_MIRROR = """
typedef $REAL R;
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(R *x, const long total, const long n) {
  // The other triangle of Hermitian matrices by columns.
  const long k = LMP_GLOBAL_0;
  if (k >= total) return;
  const long i = k % n, j = k / n % n, from = k - k % (n * n) + j + i * n;
  if ($UPPER ? i > j : i < j) {
    x[k * $PARTS] = x[from * $PARTS];
    if ($PARTS == 2) x[k * $PARTS + 1] = -x[from * $PARTS + 1];
  }
}
"""
_CONJUGATE = """
typedef $REAL R;
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(R *x, const long total) {
  const long k = LMP_GLOBAL_0;
  if (k < total) x[2 * k + 1] = -x[2 * k + 1];
}
"""
_POINTERS = """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(ulong *p, char *x, const long count,
    const long step) {
  const long k = LMP_GLOBAL_0;
  if (k < count) p[k] = (ulong)(x + k * step);
}
"""
_ROWS = """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(long *rows, const int *pivots, const long count,
    const long n, const long k) {  // exchanges as a permutation, or in reverse as its inverse
  const long m = LMP_GLOBAL_0;
  if (m >= count) return;
  rows += m * n; pivots += m * k;
  for (long i = 0; i < n; i++) rows[i] = i;
  for (long s = 0; s < k; s++) {
    const long i = $INVERSE ? k - 1 - s : s, j = pivots[i] - 1, t = rows[i];
    rows[i] = rows[j];
    rows[j] = t;
  }
}
"""
_DETERMINANT = """
typedef $REAL R;
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(const R *lu, const int *pivots, R *det, R *size,
    const long lanes, const long n) {  // 32 threads a matrix
  const long t = LMP_GLOBAL_0, m = t / 32;
  if (t >= lanes) return;
  double re = 1, im = 0, log_of = 0;
  int odd = 0;
  for (long k = t % 32; k < n; k += 32) {
    const R *d = lu + (m * n * n + k * (n + 1)) * $PARTS;
    double a = d[0], b = $PARTS == 2 ? d[$PARTS - 1] : 0;
    if ($LOG) {
      const double s = $PARTS == 2 ? hypot(a, b) : fabs(a);
      log_of += log(s);
      if (s != 0) { a /= s; b /= s; }
    }
    const double product = re * a - im * b;
    im = re * b + im * a;
    re = product;
    odd ^= pivots[m * n + k] != k + 1;
  }
  for (int h = 16; h; h >>= 1) {
    const double a = __shfl_xor_sync(0xffffffffu, re, h), b = __shfl_xor_sync(0xffffffffu, im, h);
    const double product = re * a - im * b;
    im = re * b + im * a;
    re = product;
    log_of += __shfl_xor_sync(0xffffffffu, log_of, h);
    odd ^= __shfl_xor_sync(0xffffffffu, odd, h);
  }
  if (t % 32) return;
  det[m * $PARTS] = (R)(odd ? -re : re);
  if ($PARTS == 2) det[m * $PARTS + $PARTS - 1] = (R)(odd ? -im : im);
  if ($LOG) size[m] = (R)log_of;
}
"""


# -- geometry -------------------------------------------------------------------------------------


def offsets(m: Meta, core: int, batch: Sequence[int]) -> list[int]:
    """Where each matrix (vector, number) of a batch begins, in bytes; batch dims broadcast."""
    rank = m.ndim - core
    strides = expand_strides(m.shape[:rank], m.strides[:rank], tuple(batch))
    size = m.dtype.itemsize
    return [sum(i * s for i, s in zip(at, strides)) * size
            for at in itertools.product(*map(range, batch))]


def leading(m: Meta) -> int | None:
    """The distance of neighbouring columns if a matrix is stored by columns, else None.

    A single row or column has no strides that matter along it.
    """
    rows, columns = m.shape[-2:]
    row, column = m.strides[-2:]
    if (row != 1 and rows > 1) or (columns > 1 and column < max(1, rows)):
        return None
    return max(1, column if columns > 1 else rows)


def by_columns(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of matrices stored by columns."""
    *outer, _, _ = contiguous_strides(shape)
    return (*outer, 1, max(1, shape[-2]))


def corner(a: Array, rows: int, columns: int) -> Array:
    """The first rows and columns of matrices."""
    m = a.meta
    return Array(a.slot, meta(m.dtype, (*m.shape[:-2], rows, columns), m.strides, m.device))


class Factors(Steps):
    """The steps of one call."""

    def __init__(self, lib: Library, call: OpCall) -> None:
        super().__init__(lib.device, call)
        self.lib, self.call = lib, call
        self.dtype: dtype = call.inputs[0].dtype
        self.names: list[str] = []

    def array(self, d: dtype, shape: Sequence[int], columns: bool = True) -> Array:
        """A scratch array, of matrices by columns unless told otherwise."""
        strides = by_columns(shape) if columns else None
        m = meta(d, tuple(shape), strides, self.call.device)
        return Array(self.buffer(m.nbytes), m)

    def columns(self, a: Array) -> tuple[Array, int]:
        """(an input whose matrices are stored by columns, a copy if need be, their distance)."""
        ld = leading(a.meta)
        if ld is None:
            fresh = self.array(a.meta.dtype, a.meta.shape)
            self.copy(fresh, a)
            return fresh, max(1, a.meta.shape[-2])
        return a, ld

    def each(self, name: str, run: Callable[..., None], arrays: Sequence[tuple[Array, int]],
             batch: Sequence[int]) -> None:
        """Call `run` for every matrix with the addresses of its part of each array; `arrays` come
        with the number of their core dims."""
        lib = self.lib
        parts = list(zip(*[offsets(a.meta, core, batch) for a, core in arrays]))
        slots = [a.slot for a, _ in arrays]
        self.names.append(name)

        def step(stream: Any, s: Sequence[Any]) -> None:
            bases = [s[k].ptr for k in slots]
            with lib.lock:
                lib.use(stream)
                for part in parts:
                    run(*[b + p for b, p in zip(bases, part)])

        self.steps.append(step)

    def solve_each(self, name: str, sizes: Sequence[Any], run: Callable[..., None],
                   arrays: Sequence[tuple[Array, int]], batch: Sequence[int]) -> None:
        """`each`, with a workspace that the routine's `..._buffer_size(*sizes)` asks for:
        run(routine, handle, address, length, *addresses)."""
        lib, routine = self.lib, self.lib.routine(name, self.dtype)
        lib.device.activate()
        length = int(self.lib.routine(f"{name}_buffer_size", self.dtype)(lib.solver, *sizes))
        work = self.array(self.dtype, (max(1, length),), columns=False)

        def call(at: int, *rest: int) -> None:
            run(routine, lib.solver, at, length, *rest)

        self.each(name, call, [(expand(work, batch), 1), *arrays], batch)

    def pointers(self, a: Array, count: int) -> Array:
        """Addresses of the matrices of a contiguous batch."""
        table = self.array(dt.int64, (count,), columns=False)
        self.kernel("k_pointers", _POINTERS, count, (table.slot, a.slot),
                    (count, a.meta.nbytes // count))
        return table

    def whole(self, name: str, run: Callable[..., None], *arrays: Array) -> None:
        """Call `run` once with the addresses of arrays."""
        self.each(name, run, [(a, a.meta.ndim) for a in arrays], ())

    def elements(self, name: str, text: str, a: Array, *integers: int, **holes: Any) -> None:
        """A kernel over all elements of a dense array."""
        m = a.meta
        total, size = m.numel, m.dtype.itemsize
        one = {dt.float32: "0x3f800000u", dt.float64: "0x3ff0000000000000ul",
               dt.complex64: "0x3f800000ul", dt.complex128: "0x3ff0000000000000ul"}[m.dtype]
        self.kernel(name, text, total, (a.slot,), (total, *integers), SIZE=size,
                    BITS="E" if size == 16 else bits_type(m.dtype), ONE=one,
                    REAL=_real(m.dtype), PARTS=2 if m.dtype.kind == "c" else 1, **holes)

    def triangle(self, a: Array, upper: bool) -> None:
        """Zeros outside a triangle of matrices by columns."""
        self.elements("k_triangle", _TRIANGLE, a, *a.meta.shape[-2:], UPPER=int(upper))

    def errors(self, kind: str, name: str, info: Array, values: Array | None = None) -> None:
        """Raise the LinAlgError of the first code that is not 0, or of NaN among `values`."""
        read = self.call.device.backend.copy_to_host
        batched = self.call.inputs[0].ndim > 2

        def step(stream: Any, s: Sequence[Any]) -> None:
            import numpy as np

            codes = np.frombuffer(read(s[info.slot], info.meta.nbytes), np.int32)
            if values is not None:
                m = values.meta
                wrong = np.isnan(np.frombuffer(read(s[values.slot], m.nbytes), m.dtype.np))
                wrong = wrong.reshape(codes.size, -1).any(-1)
                if wrong.any():
                    at = int(np.flatnonzero(wrong)[0])
                    fail("finite", name, int(codes[at]), at if batched else None)
            if codes.any():
                at = int(np.flatnonzero(codes)[0])
                fail(kind, name, int(codes[at]), at if batched else None)

        self.steps.append(step)

    def checked(self, kind: str, name: str, info: Array) -> None:
        """`errors`, if the call has check_errors (true, or the name that the error shows)."""
        wanted = self.call.check_errors
        if wanted:
            self.errors(kind, wanted if isinstance(wanted, str) else name, info)

    def done(self) -> Launch:
        """The Launch."""
        return self.launch("+".join(dict.fromkeys(f"cusolver.{n}" for n in self.names)))


def expand(a: Array, batch: Sequence[int]) -> Array:
    """One vector for every matrix of a batch."""
    m = a.meta
    return Array(a.slot, meta(m.dtype, (*batch, *m.shape), (*(0 for _ in batch), *m.strides),
                              m.device))


def _real(d: dtype) -> str:
    return "double" if d.to_real() is dt.float64 else "float"


def _begin(device: Device, call: OpCall) -> Factors | None:
    """The steps to be, or None without the library or without elements."""
    if any(isinstance(m, Meta) and not m.numel for m in (*call.inputs, *call.outputs)) \
            or call.inputs[0].dtype not in _LETTER:
        return None
    lib = library(device)
    return None if lib is None else Factors(lib, call)


def _batch(m: Meta, core: int = 2) -> tuple[int, ...]:
    return tuple(m.shape[:m.ndim - core])


# -- Cholesky -------------------------------------------------------------------------------------


def cholesky(device: Device, call: OpCall) -> Launch | None:
    """linalg_cholesky_ex: (factor, info) from (A)."""
    f = _begin(device, call)
    if f is None:
        return None
    (factor, info), (a,) = f.outputs, f.inputs
    n, upper, batch = a.meta.shape[-1], int(bool(call.upper)), _batch(a.meta)
    f.copy(factor, a)
    count = math.prod(batch)
    if count > 1 and n <= SMALL_CHOLESKY:
        routine, handle = f.lib.routine("potrf_batched", f.dtype), f.lib.solver
        f.whole("potrf_batched", lambda p, i: routine(handle, upper, n, p, n, i, count),
                f.pointers(factor, count), info)
    else:
        f.solve_each("potrf", (upper, n, 0, n),
                     lambda go, h, w, size, a, i: go(h, upper, n, a, n, w, size, i),
                     [(factor, 2), (info, 0)], batch)
    f.triangle(factor, bool(upper))
    f.checked("cholesky", "linalg.cholesky_ex", info)
    return f.done()


def cholesky_solve(device: Device, call: OpCall) -> Launch | None:
    """cholesky_solve: (X) from (B, factor of A)."""
    f = _begin(device, call)
    if f is None:
        return None
    (x,), (b, factor) = f.outputs, f.inputs
    (n, k), upper, batch = x.meta.shape[-2:], int(bool(call.upper)), _batch(x.meta)
    f.copy(x, b)
    packed, ld = f.columns(factor)
    routine, handle = f.lib.routine("potrs", f.dtype), f.lib.solver
    info = f.array(dt.int32, (1,), columns=False)
    f.each("potrs", lambda a, x, i: routine(handle, upper, n, k, a, ld, x, n, i),
           [(packed, 2), (x, 2), (expand(info, batch), 1)], batch)
    return f.done()


def cholesky_inverse(device: Device, call: OpCall) -> Launch | None:
    """cholesky_inverse: (inverse) from (factor)."""
    f = _begin(device, call)
    if f is None:
        return None
    (inverse,), (factor,) = f.outputs, f.inputs
    n, upper, batch = factor.meta.shape[-1], int(bool(call.upper)), _batch(factor.meta)
    info = f.array(dt.int32, batch or (1,), columns=False)
    f.copy(inverse, factor)
    f.solve_each("potri", (upper, n, 0, n),
                 lambda go, h, w, size, a, i: go(h, upper, n, a, n, w, size, i),
                 [(inverse, 2), (info, 0 if batch else 1)], batch)
    f.elements("k_mirror", _MIRROR, inverse, n, UPPER=upper)
    f.errors("inv", "cholesky_inverse", info)
    return f.done()


# -- LU -------------------------------------------------------------------------------------------


def _factorize(f: Factors, factors: Array, pivots: Array, info: Array, a: Array) -> None:
    """LU, pivots and codes from A."""
    (m, n), batch = a.meta.shape[-2:], _batch(a.meta)
    f.copy(factors, a)
    count = math.prod(batch)
    if count > 1 and m == n <= SMALL_LU:
        routine, handle = f.lib.product("getrf_batched", f.dtype), f.lib.products
        f.whole("getrf_batched", lambda p, at, i: routine(handle, n, p, n, at, i, count),
                f.pointers(factors, count), pivots, info)
        return
    f.solve_each("getrf", (m, n, 0, m),
                 lambda go, h, w, size, a, p, i: go(h, m, n, a, m, w, p, i),
                 [(factors, 2), (pivots, 1), (info, _core(info, batch))], batch)


def _core(info: Array, batch: Sequence[int]) -> int:
    return info.meta.ndim - len(batch)


def _substitute(f: Factors, x: Array, factors: Array, ld: int, pivots: Array, trans: int = 0,
                ) -> None:
    """X, which begins as B, from LU and pivots."""
    (n, k), batch = x.meta.shape[-2:], _batch(x.meta)
    count = math.prod(batch)
    if count > 1 and n <= SMALL_LU and _batch(factors.meta) == batch and ld == n \
            and factors.meta.strides == by_columns(factors.meta.shape):
        routine, handle = f.lib.product("getrs_batched", f.dtype), f.lib.products
        code = (ctypes.c_int * 1)()  # of wrong arguments, and on the host
        where = ctypes.addressof(code)

        def run(p: int, at: int, q: int, code: Any = code) -> None:
            routine(handle, trans, n, k, p, n, at, q, n, where, count)

        f.whole("getrs_batched", run, f.pointers(factors, count), pivots, f.pointers(x, count))
        return
    routine, handle = f.lib.routine("getrs", f.dtype), f.lib.solver
    info = f.array(dt.int32, (1,), columns=False)
    f.each("getrs", lambda a, p, x, i: routine(handle, trans, n, k, a, ld, p, x, n, i),
           [(factors, 2), (pivots, 1), (x, 2), (expand(info, batch), 1)], batch)


def lu(device: Device, call: OpCall) -> Launch | None:
    """linalg_lu_factor_ex: (LU, pivots, info) from (A)."""
    f = _begin(device, call)
    if f is None:
        return None
    _factorize(f, *f.outputs, *f.inputs)
    f.checked("lu_factor", "torch.linalg.lu_factor_ex", f.outputs[2])
    return f.done()


def lu_solve(device: Device, call: OpCall) -> Launch | None:
    """lu_substitute: (X) from (LU, pivots, B)."""
    f = _begin(device, call)
    if f is None:
        return None
    (x,), (packed, pivots, b) = f.outputs, f.inputs
    f.copy(x, b)
    factors, ld = f.columns(packed)
    if pivots.meta.ndim and pivots.meta.strides[-1] != 1:
        fresh = f.array(dt.int32, pivots.meta.shape, columns=False)
        f.copy(fresh, pivots)
        pivots = fresh
    _substitute(f, x, factors, ld, pivots, 2 if call.adjoint else 0)
    return f.done()


def solve(device: Device, call: OpCall) -> Launch | None:
    """solve_with_factors: (X, LU, pivots, info) from (A, B)."""
    f = _begin(device, call)
    if f is None:
        return None
    (x, factors, pivots, info), (a, b) = f.outputs, f.inputs
    _factorize(f, factors, pivots, info, a)
    f.copy(x, b)
    _substitute(f, x, factors, a.meta.shape[-1], pivots)
    f.checked("solve", "torch.linalg.solve_ex", info)
    return f.done()


def inverse(device: Device, call: OpCall) -> Launch | None:
    """linalg_inv_ex: (inverse, info) from (A)."""
    f = _begin(device, call)
    if f is None:
        return None
    (x, info), (a,) = f.outputs, f.inputs
    n = a.meta.shape[-1]
    factors = f.array(f.dtype, a.meta.shape)
    pivots = f.array(dt.int32, a.meta.shape[:-1], columns=False)
    _factorize(f, factors, pivots, info, a)
    f.elements("k_identity", _IDENTITY, x, n)
    _substitute(f, x, factors, n, pivots)
    f.checked("inv", "linalg.inv_ex", info)
    return f.done()


def determinant(device: Device, call: OpCall) -> Launch | None:
    """det_with_factors: (det, LU, pivots), slogdet_with_factors: (sign, logabsdet, LU, pivots)."""
    f = _begin(device, call)
    if f is None:
        return None
    *results, factors, pivots = f.outputs
    a, = f.inputs
    n, batch = a.meta.shape[-1], _batch(a.meta)
    info = f.array(dt.int32, batch or (1,), columns=False)
    _factorize(f, factors, pivots, info, a)
    lanes = 32 * math.prod(batch)
    f.kernel("k_determinant", _DETERMINANT, lanes,
             (factors.slot, pivots.slot, results[0].slot, results[-1].slot), (lanes, n),
             REAL=_real(f.dtype), PARTS=2 if f.dtype.kind == "c" else 1, LOG=int(len(results) == 2))
    return f.done()


def permutation(device: Device, call: OpCall) -> Launch | None:
    """lu_rows: (rows) from (pivots). Needs no library."""
    rows, pivots = call.outputs[0], call.inputs[0]
    if not rows.numel or not pivots.contiguous or pivots.dtype is not dt.int32:
        return None
    steps = Steps(device, call)
    count = rows.numel // rows.shape[-1]
    steps.kernel("k_lu_rows", _ROWS, count, (0, 1), (count, rows.shape[-1], pivots.shape[-1]),
                 INVERSE=int(bool(call.inverse)))
    return steps.launch("lu_rows")


# -- triangles ------------------------------------------------------------------------------------


def triangular(device: Device, call: OpCall) -> Launch | None:
    """linalg_solve_triangular: (X) from (A, B)."""
    f = _begin(device, call)
    if f is None:
        return None
    (x,), (a, b) = f.outputs, f.inputs
    (m, n), batch = x.meta.shape[-2:], _batch(x.meta)
    upper, trans, ld = bool(call.upper), 0, leading(a.meta)
    if ld is None:
        turned = Array(a.slot, meta(a.meta.dtype, a.meta.shape,
                                    (*a.meta.strides[:-2], *a.meta.strides[:-3:-1]),
                                    a.meta.device))
        ld = leading(turned.meta)  # by rows: the transpose of the transpose's other triangle
        if ld is not None:
            upper, trans = not upper, 1
        else:
            a, ld = f.columns(a)
    f.copy(x, b)
    routine, handle = f.lib.product("trsm", f.dtype), f.lib.products
    one = ctypes.addressof(f.lib.one[f.dtype])
    side, fill, unit, step = int(not call.left), int(upper), int(bool(call.unitriangular)), ld
    f.each("trsm", lambda a, x: routine(handle, side, fill, trans, unit, m, n, one, a, step, x, m),
           [(a, 2), (x, 2)], batch)
    return f.done()


# -- orthogonal factors ---------------------------------------------------------------------------


def _reflect(f: Factors, packed: Array, ld: int, tau: Array) -> None:
    (m, n), batch = packed.meta.shape[-2:], _batch(packed.meta)
    info = expand(f.array(dt.int32, (1,), columns=False), batch)
    f.solve_each("geqrf", (m, n, 0, ld),
                 lambda go, h, w, size, a, t, i: go(h, m, n, a, ld, t, w, size, i),
                 [(packed, 2), (tau, 1), (info, 1)], batch)


def _multiply(f: Factors, q: Array, tau: Array) -> None:
    """The columns of a product of reflectors, in place."""
    (m, n), k, batch = q.meta.shape[-2:], tau.meta.shape[-1], _batch(q.meta)
    info = expand(f.array(dt.int32, (1,), columns=False), batch)
    f.solve_each("orgqr", (m, n, k, 0, m, 0),
                 lambda go, h, w, size, a, t, i: go(h, m, n, k, a, m, t, w, size, i),
                 [(q, 2), (tau, 1), (info, 1)], batch)


def reflectors(device: Device, call: OpCall) -> Launch | None:
    """geqrf: (reflectors below R, tau) from (A)."""
    f = _begin(device, call)
    if f is None:
        return None
    (packed, tau), (a,) = f.outputs, f.inputs
    f.copy(packed, a)
    _reflect(f, packed, a.meta.shape[-2], tau)
    return f.done()


def _dense(f: Factors, tau: Array) -> Array:
    if tau.meta.ndim and tau.meta.strides[-1] != 1:
        fresh = f.array(tau.meta.dtype, tau.meta.shape, columns=False)
        f.copy(fresh, tau)
        return fresh
    return tau


def product_of_reflectors(device: Device, call: OpCall) -> Launch | None:
    """linalg_householder_product: (Q) from (reflectors, tau)."""
    f = _begin(device, call)
    if f is None:
        return None
    (q,), (packed, tau) = f.outputs, f.inputs
    f.copy(q, packed)
    _multiply(f, q, _dense(f, tau))
    return f.done()


def apply_reflectors(device: Device, call: OpCall) -> Launch | None:
    """ormqr: (product) from (reflectors, tau, other)."""
    f = _begin(device, call)
    if f is None:
        return None
    (out,), (packed, tau, other) = f.outputs, f.inputs
    (m, n), k, batch = out.meta.shape[-2:], tau.meta.shape[-1], _batch(out.meta)
    side, trans = int(not call.left), (2 if f.dtype.kind == "c" else 1) if call.transpose else 0
    f.copy(out, other)
    a, ld = f.columns(packed)
    info = expand(f.array(dt.int32, (1,), columns=False), batch)
    f.solve_each("ormqr", (side, trans, m, n, k, 0, ld, 0, 0, m),
                 lambda go, h, w, size, a, t, c, i: go(h, side, trans, m, n, k, a, ld, t, c, m, w,
                                                       size, i),
                 [(a, 2), (_dense(f, tau), 1), (out, 2), (info, 1)], batch)
    return f.done()


def qr(device: Device, call: OpCall) -> Launch | None:
    """qr_factors: (Q, R) from (A)."""
    a = call.inputs[0]
    lib = library(device) if a.numel and a.dtype in _LETTER else None
    if lib is None:
        return None
    f = Factors(lib, call)
    (q, r), (a,) = f.outputs, f.inputs
    (m, n), batch, wants_q = a.meta.shape[-2:], _batch(a.meta), call.form != "r"
    k = min(m, n)
    if wants_q and m > n:
        packed = corner(q, m, n)
    elif r.meta.shape == a.meta.shape:
        packed = r
    else:
        packed = f.array(f.dtype, a.meta.shape)
    tau = f.array(f.dtype, (*batch, k), columns=False)
    f.copy(packed, a)
    _reflect(f, packed, m, tau)
    if packed is not r:
        f.copy(corner(r, k, n), corner(packed, k, n))
    if wants_q:
        if packed is r:
            f.copy(q, corner(r, m, m))
        _multiply(f, q, tau)
    f.triangle(r, True)
    return f.done()


# -- eigenvalues and singular values --------------------------------------------------------------


def eigh(device: Device, call: OpCall) -> Launch | None:
    """linalg_eigh: (eigenvalues, eigenvectors); eigvalsh_only: (eigenvalues)."""
    f = _begin(device, call)
    if f is None:
        return None
    a, = f.inputs
    vectors, n, batch = len(f.outputs) == 2, a.meta.shape[-1], _batch(a.meta)
    values, v = f.outputs[0], f.outputs[1] if vectors else f.array(f.dtype, a.meta.shape)
    info = f.array(dt.int32, batch or (1,), columns=False)
    uplo, job, count = int(call.UPLO.upper() == "U"), int(vectors), math.prod(batch)
    f.copy(v, a)
    if count > 1 and n <= SMALL_EIG and hasattr(f.lib.dn, "xsyev_batched"):
        _eigh_batched(f, v, values, info, job, uplo, count)
    else:
        f.solve_each("syevd", (job, uplo, n, 0, n, 0),
                     lambda go, h, w, size, a, v, i: go(h, job, uplo, n, a, n, v, w, size, i),
                     [(v, 2), (values, 1), (info, _core(info, batch))], batch)
    f.errors("eig", "linalg.eigh" if vectors else "linalg.eigvalsh", info)
    return f.done()


def _eigh_batched(f: Factors, v: Array, values: Array, info: Array, job: int, uplo: int,
                  count: int) -> None:
    lib, n = f.lib, v.meta.shape[-1]
    kind, real = _KIND[f.dtype], _KIND[f.dtype.to_real()]
    lib.device.activate()
    there, here = lib.dn.xsyev_batched_buffer_size(lib.solver, lib.params, job, uplo, n, kind, 0, n,
                                                   real, 0, kind, count)
    work = f.array(dt.uint8, (max(1, int(there)),), columns=False)
    room = ctypes.create_string_buffer(max(1, int(here)))  # the host's part, one call at a time
    address = ctypes.addressof(room)

    def run(w: int, a: int, values: int, i: int, room: Any = room) -> None:
        lib.dn.xsyev_batched(lib.solver, lib.params, job, uplo, n, kind, a, n, real, values, kind,
                             w, int(there), address if here else 0, int(here), i, count)

    f.whole("xsyev_batched", run, work, v, values, info)


def svd(device: Device, call: OpCall) -> Launch | None:
    """linalg_svd: (U, S, Vh); svdvals_only: (S). Jacobi's method."""
    f = _begin(device, call)
    if f is None:
        return None
    a, = f.inputs
    (m, n), batch, vectors = a.meta.shape[-2:], _batch(a.meta), len(f.outputs) == 3
    k, count = min(m, n), math.prod(batch)
    s = f.outputs[1] if vectors else f.outputs[0]
    full = bool(vectors and call.full_matrices)
    packed = f.array(f.dtype, a.meta.shape)
    f.copy(packed, a)
    info = f.array(dt.int32, batch or (1,), columns=False)
    batched = count > 1 and max(m, n) <= SMALL_SVD
    wide = full or batched  # the batched routine gives square U and V
    if vectors and f.outputs[0].meta.shape[-1] == (m if wide else k):
        u = f.outputs[0]
    else:
        u = f.array(f.dtype, (*batch, m, m if wide else k))
    v = f.array(f.dtype, (*batch, n, n if wide else k))
    job, jacobi, lib = int(vectors), f.lib.jacobi, f.lib
    if batched:
        routine = lib.routine("gesvdj_batched", f.dtype)
        lib.device.activate()
        length = int(lib.routine("gesvdj_batched_buffer_size", f.dtype)(
            lib.solver, job, m, n, 0, m, 0, 0, m, 0, n, jacobi, count))
        work = f.array(f.dtype, (max(1, length),), columns=False)
        f.whole("gesvdj_batched", lambda w, a, s, u, v, i: routine(
            lib.solver, job, m, n, a, m, s, u, m, v, n, w, length, i, jacobi, count),
            work, packed, s, u, v, info)
    else:
        econ = int(not full)
        f.solve_each("gesvdj", (job, econ, m, n, 0, m, 0, 0, m, 0, n, jacobi),
                     lambda go, h, w, size, a, s, u, v, i: go(
                         h, job, econ, m, n, a, m, s, u, m, v, n, w, size, i, jacobi),
                     [(packed, 2), (s, 1), (u, 2), (v, 2), (info, _core(info, batch))], batch)
    if vectors:
        if u is not f.outputs[0]:
            f.copy(f.outputs[0], corner(u, m, k))
        vh = f.outputs[2]
        strides = (*v.meta.strides[:-2], *v.meta.strides[:-3:-1])
        f.copy(vh, Array(v.slot, meta(f.dtype, vh.meta.shape, strides, vh.meta.device)))
        if f.dtype.kind == "c":
            f.elements("k_conjugate", _CONJUGATE, vh)
    f.errors("svd", "linalg.svd" if vectors else "linalg.svdvals", info, s)
    return f.done()
