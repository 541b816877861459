"""`autocast`: regions in which ops choose the precision they compute in.

Floor 7; imports tensor, callpath and the lists of ops. Inside a region every call takes the
general call path, whose layer casts the operands; programs without regions pay nothing. The state
is per thread and per kind of device. Backward passes compute in the types of their forward.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

from ..autograd.node import AccumulateGrad
from ..autograd.state import mode as grad_mode
from ..base import dtype as dt
from ..base.device import device as device_type
from ..base.dtype import dtype
from ..callpath import NS, layers
from ..ops.autocast import action
from ..tensor import Tensor
from ..wholes import handlers

_LOWER_TYPES = (dt.float16, dt.bfloat16)


class _State(threading.local):
    """One thread's autocast: by kind of device whether it is on and its lower type."""

    def __init__(self) -> None:
        self.enabled: dict[str, bool] = {}
        self.dtypes: dict[str, dtype] = {}
        self.cache_enabled = True
        self.nesting = 0
        self.cache: dict[tuple[int, dtype], tuple[Tensor, int, Tensor]] = {}
        self.inside = False  # of an op whose operands are cast already


_state = _State()


def _key() -> tuple[Any, ...]:
    """What tells regions apart for who compiles: (number of layers, dtypes by kind of device)."""
    on = tuple([(name, get_autocast_dtype(name)) for name, on in _state.enabled.items() if on])
    return (len(on), on)


NS["autocast_key"] = _key
NS["autocast_clear"] = lambda: _state.cache.clear()


def _name(device: Any) -> str:
    if isinstance(device, str):
        return device_type(device).type
    raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device)}`")


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether autocast is on for a kind of device (default: for any)."""
    if device_type is None:
        return any(_state.enabled.values())
    return _state.enabled.get(_name(device_type), False)


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Turn autocast on or off in this thread; `autocast` regions do it for a block."""
    _switch(_name(device_type), bool(enabled))


def get_autocast_dtype(device_type: str) -> dtype:
    """The lower type of a kind of device: bfloat16 on the host, float16 elsewhere, unless set."""
    name = _name(device_type)
    return _state.dtypes.get(name) or (dt.bfloat16 if name == "cpu" else dt.float16)


def set_autocast_dtype(device_type: str, dtype: dtype) -> None:
    """Choose the lower type of a kind of device in this thread."""
    _state.dtypes[_name(device_type)] = dtype


def is_autocast_cache_enabled() -> bool:
    """Whether casts of parameters are kept until the outermost region ends."""
    return _state.cache_enabled


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Keep casts of parameters, or make them anew each time."""
    _state.cache_enabled = bool(enabled)


def clear_autocast_cache() -> None:
    """Forget the kept casts."""
    _state.cache.clear()


def autocast_increment_nesting() -> int:
    """Enter a region by hand; the depth."""
    _state.nesting += 1
    return _state.nesting


def autocast_decrement_nesting() -> int:
    """Leave a region by hand; the depth."""
    _state.nesting -= 1
    return _state.nesting


def is_autocast_available(device_type: str) -> bool:
    """Whether `autocast(device_type)` has an effect: on every kind of device it does."""
    return bool(_name(device_type))


# ---- the layer -----------------------------------------------------------------------------------

def _switch(name: str, on: bool) -> None:
    """Turn autocast for a kind of device on or off; the layer is there while any is on."""
    before = _state.enabled.get(name, False)
    if on == before:
        return
    _state.enabled[name] = on
    if on:
        layers.append(_handle)
        handlers.append(_handle_whole)
        NS["modes"] += 1
    else:
        layers.remove(_handle)
        handlers.remove(_handle_whole)
        NS["modes"] -= 1


def _handle(op: Any, values: Any) -> Any:
    """Cast the operands of a listed op and run it; NotImplemented leaves it to the layers below."""
    cast = _operands(op.name, values)
    if cast is NotImplemented:
        return cast
    with _Inside():
        return _below(op, cast)


def _handle_whole(body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same for an op that is Python over other ops, before it runs any of them."""
    values = [*args, *kwargs.values()]
    cast = _operands(body.__name__, values)
    if cast is NotImplemented:
        return cast
    with _Inside():
        return body(*cast[:len(args)], **dict(zip(kwargs, cast[len(args):])))


class _Inside:
    """While an op runs whose operands are cast, the ops in it are left alone."""

    def __enter__(self) -> None:
        _state.inside = True

    def __exit__(self, *exc: Any) -> None:
        _state.inside = False


def _operands(name: str, values: Any) -> Any:
    """The arguments of an op as autocast wants them; NotImplemented if they are so already."""
    state = _state
    if state.inside or not state.enabled or grad_mode.partial:
        return NotImplemented
    tensors = list(_tensors(values))
    where = next((t.meta.device.type for t in tensors if _casts(t, state.enabled)), None)
    if where is None:
        return NotImplemented
    what = action(name, where == "cpu")
    if not what:
        return NotImplemented
    lower = get_autocast_dtype(where)
    if what == "refuse":
        raise RuntimeError(
            f"{name} is unsafe to autocast: its input is a probability, which a 16-bit float "
            "cannot hold near 0 and 1. Use binary_cross_entropy_with_logits (or "
            "BCEWithLogitsLoss) on what comes before the sigmoid, or leave the autocast region.")
    if what == "float32" and not any(t.meta.dtype in _LOWER_TYPES for t in tensors):
        return NotImplemented
    target = {"lower": lower, "float32": dt.float32}.get(what) or _widest(tensors)
    cast = [_cast(v, target, where) for v in values]
    return NotImplemented if all(a is b for a, b in zip(cast, values)) else cast


def _below(op: Any, values: list[Any]) -> Any:
    """The call as the layers under this one see it."""
    from ..callpath import call

    for layer in reversed(layers):
        if layer is not _handle:
            result = layer(op, values)
            if result is not NotImplemented:
                return result
    return call(op, values)


def _tensors(values: Any) -> Any:
    for v in values:
        if isinstance(v, Tensor):
            yield v
        elif isinstance(v, (list, tuple)):
            yield from (t for t in v if isinstance(t, Tensor))


def _casts(t: Tensor, enabled: dict[str, bool]) -> bool:
    d = t.meta.dtype
    return d.kind == "f" and d is not dt.float64 and enabled.get(t.meta.device.type, False)


def _widest(tensors: list[Tensor]) -> dtype:
    found = dt.float16
    for t in tensors:
        if t.meta.dtype.kind == "f" and t.meta.dtype is not found:
            found = dt.promote_types(found, t.meta.dtype) if found is not dt.float16 or (
                t.meta.dtype is dt.float64) else t.meta.dtype
    return found


def _cast(v: Any, target: dtype, where: str) -> Any:
    if isinstance(v, Tensor):
        d = v.meta.dtype
        if d is target or d.kind != "f" or d is dt.float64 or v.meta.device.type != where:
            return v
        return _kept(v, target)
    if isinstance(v, (list, tuple)) and any(isinstance(t, Tensor) for t in v):
        return type(v)([_cast(t, target, where) for t in v])
    return v


def _kept(t: Tensor, target: dtype) -> Tensor:
    """`t.to(target)`; of a leaf that needs gradients it is made once in a region."""
    state = _state
    if not (state.cache_enabled and state.nesting and type(t.node) is AccumulateGrad
            and t.meta.dtype is dt.float32):
        return _plain(t, target)
    key = (id(t), target)
    found = state.cache.get(key)
    if found is not None and found[0] is t and found[1] == t.data_.base.version and (
            found[2].requires_grad or not grad_mode.enabled):
        return found[2]
    made = _plain(t, target)
    state.cache[key] = (t, t.data_.base.version, made)
    return made


def _plain(t: Tensor, target: dtype) -> Tensor:
    with _Inside():
        return t.to(target)


# ---- the region ----------------------------------------------------------------------------------

class autocast:
    """Context manager and decorator: ops on `device_type` choose their precision.

    Products and convolutions compute in `dtype` (bfloat16 on the host, float16 elsewhere), sums and
    losses in float32; what an op gets is cast as it needs. Parameters and data stay as they are.
    `enabled=False` makes a region without it. ValueError if `device_type` is no string.

    >>> a = lampion.ones(2, 2)
    >>> with lampion.autocast("cpu"):
    ...     (a @ a).dtype
    lampion.bfloat16
    """

    def __init__(self, device_type: str, dtype: dtype | None = None, enabled: bool = True,
                 cache_enabled: bool | None = None) -> None:
        self.device = _name(device_type)
        self.fast_dtype = get_autocast_dtype(self.device) if dtype is None else dtype
        self.enabled = bool(enabled)
        self.cache_enabled = is_autocast_cache_enabled() if cache_enabled is None else cache_enabled
        if self.enabled and self.fast_dtype not in (*_LOWER_TYPES, dt.float32):
            warnings.warn(f"In {self.device} autocast, but the target dtype {self.fast_dtype!r} is "
                          "not supported. Disabling autocast. autocast supports dtypes float16 "
                          "and bfloat16.", stacklevel=2)
            self.enabled = False
        self._before: list[tuple[bool, Any, bool]] = []

    def __enter__(self) -> autocast:
        s = _state
        self._before.append((s.enabled.get(self.device, False), s.dtypes.get(self.device),
                             s.cache_enabled))
        _switch(self.device, self.enabled)
        s.dtypes[self.device] = self.fast_dtype
        s.cache_enabled = self.cache_enabled
        s.nesting += 1
        return self

    def __exit__(self, *exc: Any) -> None:
        s = _state
        s.nesting -= 1
        if not s.nesting:
            s.cache.clear()
        on, kind, s.cache_enabled = self._before.pop()
        _switch(self.device, on)
        if kind is None:
            s.dtypes.pop(self.device, None)
        else:
            s.dtypes[self.device] = kind

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func(*args, **kwargs)

        return inside


def custom_fwd(fwd: Callable[..., Any] | None = None, *, device_type: str,
               cast_inputs: dtype | None = None) -> Any:
    """Decorator for `forward` of an `autograd.Function` that is called in autocast regions.

    With `cast_inputs`, floating point tensors on the device become that type and autocast is off
    inside; without, it stays as it is. The backward gets the same state from `custom_bwd`.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)
    name = _name(device_type)

    @functools.wraps(fwd)
    def forward(*args: Any, **kwargs: Any) -> Any:
        args[0]._dtype = get_autocast_dtype(name)
        if cast_inputs is None:
            args[0]._fwd_used_autocast = is_autocast_enabled(name)
            return fwd(*args, **kwargs)
        was = is_autocast_enabled(name)
        args[0]._fwd_used_autocast = False
        if not was:
            return fwd(*args, **kwargs)
        with autocast(name, enabled=False):
            return fwd(*(_cast_input(a, name, cast_inputs) for a in args),
                       **{k: _cast_input(a, name, cast_inputs) for k, a in kwargs.items()})

    return forward


def _cast_input(v: Any, where: str, target: dtype) -> Any:
    """Floating point tensors of the device as `target`, through lists, tuples and dicts."""
    if isinstance(v, Tensor):
        return _cast(v, target, where)
    if isinstance(v, dict):
        return {k: _cast_input(x, where, target) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return type(v)([_cast_input(x, where, target) for x in v])
    return v


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Any:
    """Decorator for `backward`: autocast as it was in the `forward` under `custom_fwd`."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)
    name = _name(device_type)

    @functools.wraps(bwd)
    def backward(*args: Any, **kwargs: Any) -> Any:
        with autocast(name, enabled=args[0]._fwd_used_autocast, dtype=args[0]._dtype):
            return bwd(*args, **kwargs)

    return backward


def of_device(name: str) -> Any:
    """The module `amp` of the device called `name`: the same, without the argument device_type.

    >>> of_device("cpu").autocast(dtype=lampion.float16).fast_dtype
    lampion.float16
    """
    from types import ModuleType

    from .grad_scaler import GradScaler

    class DeviceAutocast(autocast):
        __doc__ = autocast.__doc__

        def __init__(self, enabled: bool = True, dtype: dtype | None = None,
                     cache_enabled: bool | None = True) -> None:
            super().__init__(name, dtype, enabled, cache_enabled)

    DeviceAutocast.__name__ = DeviceAutocast.__qualname__ = "autocast"
    module = ModuleType(f"lampion.{name}.amp", f"Mixed precision on the device {name}.")
    module.__dict__.update(
        autocast=DeviceAutocast, GradScaler=functools.partial(GradScaler, name),
        custom_fwd=functools.partial(custom_fwd, device_type=name),
        custom_bwd=functools.partial(custom_bwd, device_type=name))
    return module
