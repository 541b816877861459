"""Inputs for every entry of PyTorch's op database, at two sizes.

The database's own samples are made for correctness: a few elements, or shapes that no program
uses. Here each op has a recipe that serves both sizes: `Sizes` holds what "small" (about 4
elements) and "large" (about a million, or what is natural for the family: matrices of 512,
images of 56 x 56, sequences of 128) mean. A recipe gives (arguments, keyword arguments) made of
torch tensors; the benchmark converts them for lampion.
"""

from __future__ import annotations

import torch
from opdb_recipes import RECIPES
from opdb_tensors import LARGE, SMALL, Call, Sizes, b, call, f, i, p, table, z

# What the function of an entry is called where the database's name is not it.
FUNCTION = {
    "cauchy": "cauchy_",
    "exponential": "exponential_",
    "geometric": "geometric_",
    "log_normal": "log_normal_",
    "uniform": "uniform_",
    "normal/in_place": "normal_",
    "__rdiv__": "__rtruediv__",
    "torch.ops.aten._safe_softmax.default": "_safe_softmax",
}
# Entries whose results are random or not initialised: values are not compared.
RANDOM = (
    "empty",
    "rand",
    "dropout",
    "bernoulli",
    "multinomial",
    "normal",
    "rrelu",
    "cauchy",
    "exponential",
    "geometric",
    "uniform",
    "resize",
    "fractional",
    "lowrank",
    "new_empty",
    "mode",
    "svd",
    "eig",
    "qr",
    "householder",
    "ldl",
    "lstsq",
)
# Not timed: private, sparse or compiled by torch itself, or a factory of another library.
SKIPPED = ("jiterator", "sparse", "torch._scaled", "torch.ops.aten", "triton")


def skipped(name: str) -> bool:
    """Whether an entry is outside the comparison."""
    own = name.startswith("_") and not name.startswith("__")
    return own or any(word in name for word in SKIPPED)


_UNIT = ("acos", "asin", "atanh", "erfinv", "logit", "special.ndtri")
_ABOVE_ONE = ("acosh",)
_POSITIVE = (
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "rsqrt",
    "lgamma",
    "digamma",
    "special.entr",
    "special.bessel_y0",
    "special.bessel_y1",
    "special.modified_bessel_k0",
    "special.modified_bessel_k1",
    "special.scaled_modified_bessel_k0",
    "special.scaled_modified_bessel_k1",
    "special.spherical_bessel_j0",
    "reciprocal",
)
_INTEGER = (
    "bitwise_not",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "gcd",
    "lcm",
    "__rand__",
    "__ror__",
    "__rxor__",
)
_SHIFTS = ("bitwise_left_shift", "bitwise_right_shift")
_POLYNOMIALS = "polynomial_"


def unary(name: str, s: Sizes) -> Call:
    """One tensor in the function's domain."""
    if name in _INTEGER:
        return call(i(s.n))
    if name in _UNIT:
        return call(p(s.n))
    if name == "byte":
        return call(f(s.n, low=0, high=200))
    if name in _ABOVE_ONE:
        return call(f(s.n, low=1.1, high=4))
    if name in _POSITIVE:
        return call(f(s.n, low=0.1, high=4))
    return call(f(s.n))


def binary(name: str, s: Sizes) -> Call:
    """Two tensors of one shape."""
    if name in _INTEGER:
        return call(i(s.n, high=1000, low=1), i(s.n, high=1000, low=1))
    if name in _SHIFTS:
        return call(i(s.n, high=1000), i(s.n))
    if _POLYNOMIALS in name:
        return call(f(s.n, low=-1, high=1), i(s.n, high=6).float())
    return call(f(s.n), f(s.n, low=0.2, high=2))


def reduction(name: str, s: Sizes) -> Call:
    """Along the rows of a table."""
    if name in ("all", "any"):
        return call(b(s.r, s.c), 1)
    if name == "linalg.vector_norm":
        return call(f(s.r, s.c), 2, 1)
    if name == "masked.norm":
        return call(f(s.r, s.c), 2, 1, mask=b(s.r, s.c))
    if name.startswith("masked."):
        return call(f(s.r, s.c), 1, mask=b(s.r, s.c))
    return call(f(s.r, s.c), 1)


def spectral(name: str, s: Sizes) -> Call:
    """Transforms of lines (256) or of images (64 x 64), as many as make a million elements."""
    edge = 1 if s is SMALL else 64
    shape = (s.n // 256, 256) if s is LARGE else (1, 4)
    if name.endswith(("2", "n")):
        shape = (s.n // edge**2, edge, edge) if s is LARGE else (1, 2, 2)
    real = name.split(".")[1].startswith(("r", "ihf"))
    return call(f(*shape) if real else z(*shape))


_FAMILIES = {
    "UnaryUfuncInfo": "elementwise",
    "BinaryUfuncInfo": "elementwise",
    "ReductionOpInfo": "reductions and scans",
    "SpectralFuncInfo": "signals",
}


def family(name: str, kind: str) -> str:
    """The family an entry is counted in; `kind` is its class in the database."""
    if kind in _FAMILIES:
        return _FAMILIES[kind]
    for found, recipes in RECIPES.items():
        if name in recipes:
            return found
    return "layers" if name.startswith("nn.functional") else "views and copies"


def inputs(name: str, kind: str, s: Sizes) -> Call:
    """The arguments for an entry ("name" or "name/variant") of the database."""
    torch.manual_seed(0)
    bare = name.partition("/")[0]
    for key in (name, bare):
        for recipes in RECIPES.values():
            if key in recipes:
                return recipes[key](s)
    rules = {
        "BinaryUfuncInfo": binary,
        "ReductionOpInfo": reduction,
        "SpectralFuncInfo": spectral,
        "UnaryUfuncInfo": unary,
    }
    return rules[kind](bare, s) if kind in rules else call(table(s))
