"""What only programs that think they run on PyTorch ask for: its version, its build, switches of
libraries that are not used here.

`EXTRA` maps the name of a module to a function that gives names and values. Imports lampion.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from . import surface, torch_internals
from .absent import make


class TorchVersion(str):
    """A version that compares with version texts and tuples by its numbers.

    >>> TorchVersion("2.13.0") >= "2.2", TorchVersion("2.13.0") < (3, 0)
    (True, True)
    """

    def _numbers(self, other: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        def of(v: Any) -> tuple[int, ...]:
            parts = v if isinstance(v, tuple) else str(v).partition("+")[0].split(".")
            return tuple(int("".join(c for c in str(p) if c.isdigit()) or 0) for p in parts)

        a, b = of(str(self)), of(other)
        width = max(len(a), len(b))
        return a + (0,) * (width - len(a)), b + (0,) * (width - len(b))

    def __lt__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a < b

    def __le__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a <= b

    def __gt__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a > b

    def __ge__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a >= b

    def __eq__(self, other: Any) -> bool:
        a, b = self._numbers(other)
        return a == b

    def __ne__(self, other: Any) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _torch() -> dict[str, Any]:
    def check(condition: Any, message: Any = "") -> None:
        """AssertionError if the condition does not hold."""
        assert condition, message

    def cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
        """`true_fn(*operands)` where the condition holds, else `false_fn(*operands)`."""
        return (true_fn if bool(pred) else false_fn)(*operands)

    def while_loop(cond_fn: Any, body_fn: Any, carried_inputs: Any) -> Any:
        """`carried = body_fn(*carried)` as long as `cond_fn(*carried)` holds."""
        carried = tuple(carried_inputs)
        while bool(cond_fn(*carried)):
            made = body_fn(*carried)
            carried = tuple(made) if isinstance(made, (tuple, list)) else (made,)
        return carried

    return {"__version__": TorchVersion(surface.VERSION), "_assert": check, "cond": cond,
            "while_loop": while_loop, "to_dlpack": lambda tensor: tensor.__dlpack__(),
            **dict.fromkeys(surface.switches("top"), torch_internals._never),
            "has_lapack": True, "has_spectral": True, "has_mkl": False, "has_openmp": False,
            **torch_internals._checks(), **_autocast()}


def _autocast() -> dict[str, Any]:
    """Older names for autocast's questions, one per kind of device."""
    import lampion

    found: dict[str, Any] = {}
    for word, kind in (("cpu", "cpu"), ("gpu", surface.devices()[0])):
        found[f"get_autocast_{word}_dtype"] = partial(lampion.get_autocast_dtype, kind)
        found[f"set_autocast_{word}_dtype"] = partial(lampion.set_autocast_dtype, kind)
    found["is_autocast_cpu_enabled"] = partial(lampion.is_autocast_enabled, "cpu")
    found["set_autocast_cpu_enabled"] = partial(lampion.set_autocast_enabled, "cpu")
    return found


def _version() -> dict[str, Any]:
    """No device library is built in, so all their versions are None."""
    known = dict.fromkeys(surface.names("torch.version"))
    return {**known, "__version__": TorchVersion(surface.VERSION), "debug": False,
            "git_version": "lampion"}


def _torch_version() -> dict[str, Any]:
    return {"TorchVersion": TorchVersion, "__version__": TorchVersion(surface.VERSION)}


def _config() -> dict[str, Any]:
    def show() -> str:
        import lampion

        return f"lampion {lampion.__version__}, Python {sys.version.split()[0]}\n"

    return {"show": show, "parallel_info": lambda: f"threads: {_threads()}\n"}


def _threads() -> int:
    import lampion

    return int(lampion.get_num_threads())


def _dynamo() -> dict[str, Any]:
    """Names of PyTorch's tracer; what tunes it changes nothing."""
    from lampion import compiler
    from lampion.runtime import tracing

    def graph_break(msg: str = "") -> None:
        """End the graph here: the function runs eagerly."""
        tracing.fail(f"graph_break({msg!r}) is called")

    same = {n: getattr(compiler, n) for n in (
        "allow_in_graph", "assume_constant_result", "disable", "explain", "is_compiling",
        "list_backends", "reset", "substitute_in_graph")}
    def optimize(backend: Any = "inductor", *, nopython: bool = False,
                 dynamic: bool | None = None, disable: bool = False, **kwargs: Any) -> Any:
        """A decorator that compiles."""
        return lambda fn: compiler.compile(fn, fullgraph=nopython, dynamic=dynamic,
                                           backend=backend, disable=disable)

    nothing = dict.fromkeys(("mark_dynamic", "maybe_mark_dynamic", "mark_static",
                             "mark_static_address", "set_recursion_limit"),
                            lambda *args, **kwargs: None)
    passed_on = dict.fromkeys(("disallow_in_graph", "forbid_in_graph", "run",
                               "disable_nested_graph_breaks", "nonstrict_trace",
                               "dont_skip_tracing"), compiler._same)
    return {**same, **nothing, **passed_on, "config": module("torch._dynamo.config"),
            "optimize": optimize, "register_backend": compiler.register_backend,
            "optimize_assert": lambda backend, **kwargs: optimize(backend, nopython=True),
            "set_stance": compiler.set_stance, "graph_break": graph_break, **_eval_frame()}


def _eval_frame() -> dict[str, Any]:
    from lampion.nn.modules.compiled import OptimizedModule

    return {"OptimizedModule": OptimizedModule}


def _utils() -> dict[str, Any]:
    def try_import(name: str) -> Any:
        """The module, or None if there is none."""
        import importlib

        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            return None

    class classproperty:
        """A property of a class."""

        def __init__(self, fget: Any) -> None:
            self.fget = fget

        def __get__(self, instance: Any, owner: Any) -> Any:
            return self.fget(owner)

    return {"is_compiling": lambda: False, "try_import": try_import,
            "classproperty": classproperty, "cpu_count": os.cpu_count,
            "_flatten_dense_tensors": _flatten, "_unflatten_dense_tensors": _unflatten}


def _flatten(tensors: Any) -> Any:
    """All elements of some tensors, as one tensor."""
    import lampion

    return lampion.cat([t.reshape(-1) for t in tensors])


def _unflatten(flat: Any, tensors: Any) -> Any:
    """Parts of one tensor in the shapes of others."""
    parts = flat.split([t.numel() for t in tensors])
    return tuple(p.view(t.shape) for p, t in zip(parts, tensors, strict=True))


class Overloads:
    """An op of `torch.ops.aten`: the function of that name, under every name of an overload."""

    def __init__(self, name: str, fn: Any, overload: str = "") -> None:
        self.__name__, self._fn, self._overload = name, fn, overload

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._fn(*args, **kwargs)

    def __getattr__(self, overload: str) -> Any:
        if overload.startswith("_") or self._overload:
            raise AttributeError(overload)
        made = Overloads(self.__name__, self._fn, overload)
        setattr(self, overload, made)
        return made

    def __repr__(self) -> str:
        return f"aten.{self.__name__}" + (f".{self._overload}" if self._overload else "")


class Aten(ModuleType):
    """`torch.ops.aten`: the functions of the top level, of nn.functional and tensors' methods."""

    def __getattr__(self, name: str) -> Any:
        import lampion

        for owner in (lampion, lampion.nn.functional, lampion.Tensor):
            fn = getattr(owner, name, None)
            if callable(fn):
                made = Overloads(name, fn)
                break
        else:
            if name.startswith("__"):
                raise AttributeError(name)
            made = Overloads(name, make(f"torch.ops.aten.{name}"))
        setattr(self, name, made)
        return made


def _ops() -> dict[str, Any]:
    def load_library(path: Any) -> None:
        """OSError: compiled ops of PyTorch cannot be loaded."""
        raise OSError(f"{path}: lampion loads no libraries that are compiled for PyTorch")

    return {"aten": Aten("torch.ops.aten"), "load_library": load_library,
            "loaded_libraries": set()}


def _jit() -> dict[str, Any]:
    from lampion import jit

    def overload(fn: Any) -> Any:
        """The function as it is: Python needs no signatures."""
        return fn

    return {"_script_if_tracing": jit.script_if_tracing, "isinstance": jit.isinstance_,
            "_overload": overload, "_overload_method": overload}


def _library() -> dict[str, Any]:
    from lampion import custom_ops

    return {n: getattr(custom_ops, n) for n in custom_ops.__all__}


EXTRA: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch, "torch.version": _version, "torch.torch_version": _torch_version,
    "torch.__config__": _config, "torch._dynamo": _dynamo,
    "torch._dynamo.eval_frame": _eval_frame, "torch._utils": _utils,
    "torch.ops": _ops, "torch.jit": _jit, "torch.library": _library, **torch_internals.EXTRA,
}


def module(name: str, **values: Any) -> ModuleType:
    """A module made of values."""
    made = ModuleType(name)
    made.__dict__.update(values)
    return made
