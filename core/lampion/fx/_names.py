"""Names of functions and types in graphs: by which name a program may fetch them.

Floor 7; imports tensor, library. A function of lampion is defined in some private module; code that
is printed for it has to name it where it is public. `prefix()` is "lampion", or "torch" while
programs know the package by that name.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from ..library import FUNCTIONS, public
from ..tensor import Tensor

_PLACES = ("", "nn.functional", "linalg", "fft", "special", "signal.windows")
_RANDOM = frozenset((
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli",
    "multinomial", "normal", "poisson", "dropout", "dropout1d", "dropout2d", "dropout3d",
    "alpha_dropout", "feature_alpha_dropout", "feature_dropout", "rrelu", "gumbel_softmax",
    "binomial", "native_dropout"))


# Functions of nn.functional whose calls show their arguments by name, defaults included.
_BY_NAME = """
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid alpha_dropout batch_norm
    binary_cross_entropy binary_cross_entropy_with_logits celu cosine_embedding_loss cross_entropy
    ctc_loss dropout dropout1d dropout2d dropout3d elu embedding embedding_bag
    feature_alpha_dropout fold gaussian_nll_loss glu grid_sample group_norm gumbel_softmax
    hardsigmoid hardswish hardtanh hinge_embedding_loss huber_loss instance_norm interpolate kl_div
    l1_loss layer_norm leaky_relu local_response_norm log_softmax lp_pool1d lp_pool2d
    margin_ranking_loss max_pool1d max_pool2d max_pool3d mish mse_loss multi_margin_loss
    multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize pad poisson_nll_loss relu
    relu6 rms_norm rrelu selu silu smooth_l1_loss soft_margin_loss softmax softmin softsign
    tanhshrink threshold triplet_margin_loss unfold upsample"""
SPELLED = frozenset(_BY_NAME.split())


def prefix() -> str:
    """The name of the package in code: "lampion", or "torch" while programs import it as that."""
    return "torch" if getattr(sys.modules.get("torch"), "_is_lampion", False) else "lampion"


def root() -> ModuleType:
    """The package as code knows it."""
    return importlib.import_module(prefix())


def public_module(name: str) -> str:
    """The name of a module of lampion under the package's name in code."""
    if name == "lampion" or name.startswith("lampion."):
        return prefix() + name[len("lampion"):]
    return name


def draws(fn: Any) -> bool:
    """Whether a function of lampion draws random numbers."""
    return (getattr(fn, "__name__", "") in _RANDOM
            and getattr(fn, "__module__", "").partition(".")[0] == "lampion")


_WRITES = frozenset(("setitem", "delitem", *(f"i{n}" for n in (
    "add", "and", "concat", "floordiv", "lshift", "matmul", "mod", "mul", "or", "pow", "rshift",
    "sub", "truediv", "xor"))))


def writes(target: Any, kwargs: Any) -> bool:
    """Whether a call writes to its arguments: forms in place, `out=`, `inplace=True`."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if getattr(target, "__module__", None) == "_operator":
        return name in _WRITES
    own = isinstance(target, str) or getattr(target, "__module__", "").startswith("lampion")
    return own and (name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
                    or kwargs.get("out") is not None or kwargs.get("inplace") is True)


def torch_typename(value: Any) -> str:
    """The dotted name of the value's class."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else (
        f"{public_module(cls.__module__)}.{cls.__qualname__}")


def _module(place: str) -> ModuleType:
    return importlib.import_module(f"lampion.{place}" if place else "lampion")


def _tables(place: str) -> Any:
    """(name, function) of what a public namespace has, without making what was never used."""
    yield from list(vars(_module(place)).items())
    for name, op in public(place).items():
        if not isinstance(op, str):
            yield name, op.__dict__.get("fn")


def _lookup(fn: Any) -> str | None:
    """Where lampion's function is public. The name that it has itself is tried first."""
    name = getattr(fn, "__name__", "")
    functional = name in SPELLED or ".nn." in fn.__module__
    places = sorted(_PLACES, key=lambda p: p != "nn.functional") if functional else _PLACES
    found = [(place, key) for place in places for key, value in _tables(place) if value is fn
             and not (place and key.startswith(place + "_"))  # linalg.linalg_norm
             and getattr(_module(place), key, None) is fn]  # nothing of the module's own hides it
    if found:
        place, key = min(found, key=lambda at: at[1] != name)
        return ".".join(filter(None, (prefix(), place, key)))
    if name in FUNCTIONS and getattr(importlib.import_module("lampion"), name, None) is fn:
        return f"{prefix()}.{name}"
    if vars(Tensor).get(name) is fn:
        return f"{prefix()}.Tensor.{name}"
    return None


_known: dict[int, tuple[Any, str, str]] = {}


def qualified(fn: Any) -> str:
    """The dotted name by which code may fetch a function.

    >>> import lampion, operator
    >>> qualified(lampion.nn.functional.relu), qualified(operator.add), qualified(len)
    ('lampion.nn.functional.relu', '_operator.add', 'len')
    """
    kept = _known.get(id(fn))
    if kept is not None and kept[0] is fn and kept[1] == prefix():
        return kept[2]
    name = _qualified(fn)
    _known[id(fn)] = (fn, prefix(), name)
    return name


def _qualified(fn: Any) -> str:
    name = getattr(fn, "__name__", None) or type(fn).__name__
    module = getattr(fn, "__module__", None)
    if getattr(sys.modules.get("builtins"), name, None) is fn:
        return str(name)
    if type(fn).__name__ == "Overloads":  # an op of torch.ops.aten
        return f"{prefix()}.ops.{fn!r}"
    if isinstance(module, str) and module.partition(".")[0] == "lampion":
        found = _lookup(fn)
        if found is not None:
            return found
    owner = getattr(fn, "__objclass__", None)
    if module is None and owner is not None:  # a method of a builtin class
        return f"{owner.__module__}.{owner.__qualname__}.{name}"
    if name == "<lambda>":
        name = fn.__code__.co_qualname if hasattr(fn.__code__, "co_qualname") else name
    return f"{public_module(module or '__main__')}.{name}"
