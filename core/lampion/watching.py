"""Seeing the calls of public functions, whole: what symbolic tracing and profiles are made of.

Floor 6; imports tensor, registry. A watcher is a function `watcher(fn, call, args, kwargs)` that is
given every call of a public function or method before anything of it runs: `call` is what the
function does. While there is no watcher, the functions are untouched and nothing is paid. The
first watcher exchanges the code of every function (`fn.__code__`) for code that asks the watchers,
so that whoever holds a function already is seen as well; the last one puts the code back.

Composites are Python over other ops: seen from the call path only these would be seen. Functions
that are generated later, while somebody watches, are watched from the start.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from .autograd import trace
from .base.device import device
from .base.dtype import dtype
from .callpath import NS
from .ops import registry as R
from .ops.families import Awaited
from .tensor import Tensor

Watcher = Callable[[FunctionType, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

watchers: list[Watcher] = []
trace.between.add(__file__)
_lock = threading.RLock()
_watched: dict[FunctionType, "_Passage"] = {}
_HERE = "the passage of the function"
_templates: dict[int, CodeType] = {}
_PLANS = frozenset(("plans", "iplans"))

# Modules whose functions are public but no ops; those of the top level name theirs.
_MODULES = ("lampion.creation", "lampion.sampling", "lampion.choices", "lampion.native_functions",
            "lampion.nn.functional")
_HELPERS = frozenset(("find", "ops"))  # of nn.functional
# Methods of Tensor that are no ops: they are called on tensors only, or make what they return.
_OWN = frozenset(("__new__", "__init__", "__torch_function__", "__repr__", "__hash__", "__format__",
                  "__reduce_ex__", "__deepcopy__", "__array__", "__array_wrap__", "__len__",
                  "__iter__", "__bool__", "__int__", "__float__", "__complex__", "__index__",
                  "_make_subclass", "as_subclass", "item", "tolist", "host", "numpy", "size",
                  "stride", "dim", "ndimension", "numel", "nelement", "data_ptr", "detach"))


class _Passage:
    """What a watched function does instead: it asks the watchers, the last one first."""

    __slots__ = ("fn", "original", "call")

    def __init__(self, fn: FunctionType) -> None:
        self.fn, self.original, self.call = fn, fn.__code__, twin(fn)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(watchers) == 1:
            return watchers[0](self.fn, self.call, args, kwargs)
        call: Any = self.call
        for watcher in watchers:
            call = _Through(watcher, self.fn, call)
        return call(*args, **kwargs)


class _Through:
    """A call as it looks to the watcher that came later: one that an earlier watcher sees."""

    __slots__ = ("watcher", "fn", "call")

    def __init__(self, watcher: Watcher, fn: FunctionType, call: Callable[..., Any]) -> None:
        self.watcher, self.fn, self.call = watcher, fn, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.watcher(self.fn, self.call, args, kwargs)


def twin(fn: FunctionType) -> FunctionType:
    """A function that does what `fn` does, with code of its own."""
    made = FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    for part in ("__kwdefaults__", "__annotations__", "__qualname__", "__module__"):
        setattr(made, part, getattr(fn, part))
    return made


def reroute(fn: FunctionType, through: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Let calls of `fn` be `through(args, kwargs)`, for whoever holds the function. It is undone by
    setting its `__code__` to what it was."""
    code = _template(len(fn.__code__.co_freevars))
    consts = tuple([through if c == _HERE else c for c in code.co_consts])
    fn.__code__ = code.replace(co_consts=consts, co_name=fn.__code__.co_name)


def _template(free: int) -> CodeType:
    """Code that calls its constant with its arguments; it names as many free variables as the
    function that it is given to has, which is what Python asks for."""
    code = _templates.get(free)
    if code is None:
        names = [f"_{k}" for k in range(free)]
        scope: dict[str, Any] = {}
        source = (f"def make({', '.join(names)}):\n    def passage(*args, **kwargs):\n"
                  f"        if 0: ({', '.join(names)})\n        through = {_HERE!r}\n"
                  "        return through(args, kwargs)\n    return passage")
        exec(compile(source, "<lampion op>", "exec"), scope)
        code = scope["make"](*names).__code__
        _templates[free] = code
    return code


def _watch(fn: Any) -> None:
    """Exchange the code of a function."""
    if type(fn) is not FunctionType or fn in _watched:
        return
    passage = _Passage(fn)
    _watched[fn] = passage
    if not hasattr(fn, "__wrapped__"):
        fn.__wrapped__ = passage.call  # type: ignore[attr-defined]  # the signature is asked of it
    reroute(fn, passage)


def _watch_composed(fn: Any) -> None:
    if type(fn) is FunctionType and not _plans(fn.__code__):
        _watch(fn)


def _plans(code: CodeType) -> bool:
    """Whether it is the generated code of an op that has kernels: it looks for a plan."""
    return not _PLANS.isdisjoint(code.co_freevars)


def _unwatch(fn: FunctionType, passage: _Passage) -> None:
    fn.__code__ = passage.original
    if getattr(fn, "__wrapped__", None) is passage.call:
        del fn.__wrapped__  # type: ignore[attr-defined]


def functions() -> Iterator[Any]:
    """The public functions and methods that exist so far."""
    for op in list(R.REGISTRY.values()):
        if not isinstance(op, Awaited) and "fn" in op.__dict__:
            yield op.fn
    for name, fn in list(vars(Tensor).items()):
        if name not in _OWN:
            yield fn
    for name in _MODULES:
        module = importlib.import_module(name)
        for n in getattr(module, "__all__", None) or [
                n for n in vars(module) if not n.startswith("_")]:
            fn = vars(module).get(n)
            if getattr(fn, "__module__", "").startswith("lampion") and n not in _HELPERS:
                yield fn


class Watch:
    """While entered, `watcher(fn, call, args, kwargs)` sees the calls of public functions of every
    thread and answers them, for example with `call(*args, **kwargs)`. With `composed` it need not
    see ops that have kernels, which ask their arguments themselves: they stay as fast."""

    def __init__(self, watcher: Watcher, composed: bool = False) -> None:
        self.watcher, self.composed = watcher, composed

    def __enter__(self) -> Watch:
        with _lock:
            watchers.append(self.watcher)
            _entered.append(self)
            self._exchange()
        return self

    def __exit__(self, *exc: Any) -> None:
        with _lock:
            watchers.remove(self.watcher)
            _entered.remove(self)
            self._exchange()

    def _exchange(self) -> None:
        """Watch the functions that have to be, and no others."""
        watch = None if not _entered else _watch_composed if all(
            w.composed for w in _entered) else _watch
        if watch is NS["built"]:
            return
        for fn, passage in list(_watched.items()):
            if watch is None or (watch is _watch_composed and _plans(passage.original)):
                _unwatch(fn, _watched.pop(fn))
        NS["built"] = watch
        if watch is not None:
            for fn in functions():
                watch(fn)


_entered: list[Watch] = []


def unwatched(fn: Any) -> Any:
    """The function that runs without the watchers' knowledge."""
    passage = _watched.get(fn) if type(fn) is FunctionType else None
    return fn if passage is None else passage.call


# ---------------------------------------------------------------- classes that override functions

_ORDINARY = frozenset((Tensor, bool, int, float, str, type(None), dtype, device, slice))


def hand_over(fn: FunctionType, call: Callable[..., Any], args: tuple[Any, ...],
              kwargs: dict[str, Any]) -> Any:
    """The watcher that gives a call to an argument which has `__torch_function__` and is no tensor,
    or one of a class that sees whole calls."""
    for a in (*args, *kwargs.values()) if kwargs else args:
        if type(a) not in _ORDINARY and takes_part(a):
            break
    else:
        return call(*args, **kwargs)
    if NS["no_override"].depth:
        return call(*args, **kwargs)
    from .overrides import handle_torch_function

    found: list[Any] = []
    for a in (*args, *kwargs.values()):
        found += a if isinstance(a, (list, tuple)) else (a,)
    return handle_torch_function(fn, found, *args, **kwargs)


def takes_part(a: Any) -> bool:
    """Whether an argument, or an element of a list or tuple, overrides functions as a whole: what
    is no tensor, which ops cannot know by its meta, and tensors whose class says so."""
    t = type(a)
    if t is list or t is tuple or isinstance(a, (list, tuple)):
        return any(map(takes_part, a))
    return hasattr(t, "__torch_function__") and (
        not isinstance(a, Tensor) or getattr(t, "_sees_whole_calls", False))


_followed: list[Watch] = []


def follow_classes() -> None:
    """From now on functions that are Python over ops ask arguments that are no tensors for
    `__torch_function__`, too, not only the ops that they are made of."""
    if not _followed:
        _followed.append(Watch(hand_over, composed=True).__enter__())


__all__ = ["Watch", "Watcher", "watchers", "twin", "reroute", "functions", "unwatched", "hand_over",
           "takes_part", "follow_classes"]
