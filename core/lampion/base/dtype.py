"""Element types and PyTorch's promotion lattice.

Floor 0. Holds the `dtype` singletons (`float32`, `int64`, ...), `promote_types`,
`result_type` over tensors, 0-d tensors and Python scalars, and the default dtype.
May import only NumPy (and ml_dtypes for bfloat16, on first use).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_PREFIX = "lampion"


class dtype:
    """An element type. Instances are singletons; compare them with `is` or `==`.

    Attributes: `name` ("float32"), `itemsize` (bytes), `kind` ("b" bool, "u" unsigned,
    "i" signed, "f" floating, "c" complex), `is_floating_point`, `is_complex`, `is_signed`.
    """

    __slots__ = ("name", "itemsize", "kind", "_np", "is_floating_point", "is_complex",
                 "is_signed", "__weakref__")

    def __init__(self, name: str, itemsize: int, kind: str) -> None:
        self.name = name
        self.itemsize = itemsize
        self.kind = kind
        self.is_floating_point = kind == "f"
        self.is_complex = kind == "c"
        self.is_signed = kind in "ifc"
        self._np: Any = None

    @property
    def np(self) -> np.dtype[Any]:
        """The NumPy dtype with the same bytes (bfloat16 comes from ml_dtypes; complex32 is a pair
        of float16, see `encode` and `decode`)."""
        if self._np is None:
            if self.name == "bfloat16" or self.name in NAMED:
                import ml_dtypes

                self._np = np.dtype(getattr(ml_dtypes, self.name))
            elif self.name == "complex32":
                self._np = np.dtype([("real", np.float16), ("imag", np.float16)])
            else:
                self._np = np.dtype(self.name)
        found: np.dtype[Any] = self._np
        return found

    def encode(self, a: Any) -> Any:
        """An array of numbers as an array of `np`: what `astype` does, and complex32 besides."""
        if self.name != "complex32" or a.dtype == self.np:
            return a.astype(self.np, copy=False)
        pairs = np.empty(a.shape, self.np)
        pairs["real"], pairs["imag"] = a.real, a.imag
        return pairs

    def decode(self, a: Any) -> Any:
        """An array of `np` as one that NumPy computes with: complex32 becomes complex64."""
        if self.name != "complex32":
            return a
        wide = np.empty(a.shape, np.complex64)
        wide.real, wide.imag = a["real"], a["imag"]
        return wide

    def to_real(self) -> dtype:
        """The type of the parts of a complex type (complex64 -> float32), others unchanged."""
        return {"complex32": float16, "complex64": float32, "complex128": float64}.get(
            self.name, self)

    def to_complex(self) -> dtype:
        """The complex type whose parts hold this type's values."""
        if self.kind == "c":
            return self
        return {"float16": complex32, "float64": complex128}.get(self.name, complex64)

    def __repr__(self) -> str:
        return f"{_PREFIX}.{self.name}"

    def __reduce__(self) -> Any:
        return (by_name, (self.name,))

    def __copy__(self) -> dtype:
        return self

    def __deepcopy__(self, memo: Any) -> dtype:
        return self


bool_ = dtype("bool", 1, "b")
uint8 = dtype("uint8", 1, "u")
uint16 = dtype("uint16", 2, "u")
uint32 = dtype("uint32", 4, "u")
uint64 = dtype("uint64", 8, "u")
int8 = dtype("int8", 1, "i")
int16 = dtype("int16", 2, "i")
int32 = dtype("int32", 4, "i")
int64 = dtype("int64", 8, "i")
float16 = dtype("float16", 2, "f")
bfloat16 = dtype("bfloat16", 2, "f")
float32 = dtype("float32", 4, "f")
float64 = dtype("float64", 8, "f")
complex32 = dtype("complex32", 4, "c")
complex64 = dtype("complex64", 8, "c")
complex128 = dtype("complex128", 16, "c")

# Types that programs name, compare with and ask the limits of; no tensor has them.
NAMED = {name: dtype(name, size, kind) for kind, size, names in (
    ("f", 1, "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
             "float4_e2m1fn_x2"),
    ("u", 1, "quint8 quint4x2 quint2x4 bits8 bits1x8 bits2x4 bits4x2"),
    ("u", 2, "bits16"), ("u", 1, "uint1 uint2 uint3 uint4 uint5 uint6 uint7"),
    ("i", 1, "qint8 int1 int2 int3 int4 int5 int6 int7"), ("i", 4, "qint32"),
) for name in names.split()}
NAMED["float8_e8m0fnu"].is_signed = False
globals().update(NAMED)

ALL = (bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64,
       float16, bfloat16, float32, float64, complex32, complex64, complex128)
PYTHON_TYPES: Any = {bool: bool_, int: int64, float: float64, complex: complex128}


def of_type(given: Any) -> Any:
    """The dtype that was given, or that of a Python type: `int` means int64, `float` float64.

    TypeError for another class.

    >>> of_type(float), of_type(float32)
    (lampion.float64, lampion.float32)
    """
    if type(given) is not type:
        return given
    if given not in PYTHON_TYPES:
        raise TypeError(f"argument 'dtype' must be lampion.dtype, not {given.__name__}")
    return PYTHON_TYPES[given]


_BY_NAME = {d.name: d for d in ALL}
_ALIASES = {"half": float16, "float": float32, "double": float64, "short": int16,
            "int": int32, "long": int64, "chalf": complex32,
            "cfloat": complex64, "cdouble": complex128}
FLOATS = (float16, bfloat16, float32, float64)
INTEGERS = (uint8, int8, int16, int32, int64)


def by_name(name: str) -> dtype:
    """The dtype called `name` ("float32", or an alias such as "long"). KeyError if none."""
    found = _BY_NAME.get(name) or _ALIASES.get(name) or NAMED.get(name)
    if found is None:
        raise KeyError(f"no dtype is called {name!r}; known: {', '.join(_BY_NAME)}")
    return found


def from_numpy(nd: Any) -> dtype:
    """The dtype with the bytes of a NumPy dtype. TypeError if there is none."""
    found = _BY_NAME.get(np.dtype(nd).name)
    if found is None and np.dtype(nd) == complex32.np:
        found = complex32
    if found is None:
        raise TypeError(
            f"can't convert np.ndarray of type {np.dtype(nd)}. The only supported types are: "
            f"{', '.join(_BY_NAME)}.")
    return found


_default = float32


def get_default_dtype() -> dtype:
    """The floating type that Python floats and factory functions get (float32 at start)."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Set the default floating type. Raises TypeError unless `d` is a floating dtype."""
    global _default
    if not isinstance(d, dtype) or d.kind != "f":
        raise TypeError(f"only floating-point types are supported as the default type, not {d!r}")
    _default = d


_SIGNED_BY_SIZE = {1: int8, 2: int16, 4: int32, 8: int64}


def _promote(a: dtype, b: dtype) -> dtype:
    if a is b:
        return a
    order = "buifc"
    if order.index(a.kind) > order.index(b.kind):
        a, b = b, a
    if a.kind == "b":
        return b
    if b.kind == "c":
        if a.kind == "c":
            return a if a.itemsize > b.itemsize else b
        return b if a.kind != "f" else _promote(a.to_complex(), b)
    if b.kind == "f":
        if a.kind != "f":
            return b
        if a.itemsize == b.itemsize:  # float16 with bfloat16
            return float32
        return a if a.itemsize > b.itemsize else b
    if a.kind == b.kind:
        return a if a.itemsize > b.itemsize else b
    # unsigned a with signed b: the least signed type that holds both, as far as there is one
    if a.itemsize < b.itemsize:
        return b
    return _SIGNED_BY_SIZE[min(8, a.itemsize * 2)]


_PROMOTE = {(a, b): _promote(a, b) for a in ALL for b in ALL}


def promote_types(a: dtype, b: dtype) -> dtype:
    """The smallest type both convert to, by PyTorch's lattice.

    >>> promote_types(int64, float16)
    lampion.float16
    """
    return _PROMOTE[a, b]


def scalar_dtype(value: Any) -> dtype:
    """The type a Python scalar has in promotion (float -> default dtype)."""
    if isinstance(value, (bool, np.bool_)):
        return bool_
    if isinstance(value, (int, np.integer)):
        return int64
    if isinstance(value, (float, np.floating)):
        return _default
    if isinstance(value, (complex, np.complexfloating)):
        return _default.to_complex()
    raise TypeError(f"expected a Python number, got {type(value).__name__}")


def combine_categories(higher: dtype | None, lower: dtype | None) -> dtype | None:
    """Join two priority classes: `lower` only counts if its kind is higher than `higher`'s.

    The rule is PyTorch's: dimensioned tensors outrank 0-d tensors, which outrank numbers.
    """
    if higher is None or lower is None:
        return higher or lower
    if higher.kind == "c":
        return higher
    if higher.kind == "f":
        return higher.to_complex() if lower.kind == "c" else higher
    if higher.kind == "b" or lower.kind in "fc":
        return _PROMOTE[higher, lower]
    return higher


def result_dtype(dims: Any = (), zeros: Any = (), scalars: Any = ()) -> dtype:
    """PyTorch's result type of tensors with dims, 0-d tensors (dtypes) and Python scalars."""
    def fold(items: Any) -> dtype | None:
        out: dtype | None = None
        for d in items:
            out = d if out is None else _PROMOTE[out, d]
        return out

    result = combine_categories(
        fold(dims), combine_categories(fold(zeros), fold(map(scalar_dtype, scalars))))
    if result is None:
        raise ValueError("result_dtype needs at least one operand")
    return result


def can_cast(src: dtype, dst: dtype) -> bool:
    """Whether PyTorch allows writing `src` values into a `dst` tensor (kinds may not drop)."""
    if src.kind == "c":
        return dst.kind == "c"
    if src.kind == "f":
        return dst.kind in "fc"
    if src.kind in "ui":
        return dst.kind != "b"
    return True


def opmath(d: dtype) -> dtype:
    """The type in which values of `d` are computed: float32 for the 16-bit floats, complex64 for
    pairs of them."""
    if d is complex32:
        return complex64
    return float32 if d is float16 or d is bfloat16 else d
