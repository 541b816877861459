"""`torch.library`: programs' own ops, as functions of a namespace.

An op of a program is a Python function per device with, optionally, a formula for its gradient. It
runs as it is called: what traces would need (fake results, schemas) is kept and checked for its
name only. Ops declared once for all devices, with kernels, are in `ops.registry`. Floor 7; imports
autograd.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import ops
from .autograd.modes import is_grad_enabled, no_grad
from .tensor import Tensor

__all__ = ["CustomOpDef", "Library", "custom_op", "define", "impl", "impl_abstract",
           "register_autograd", "register_fake", "register_kernel", "register_vmap"]

_NAME = re.compile(r"^(\w+)::(\w+)(?:\.\w+)?$")


def _qualified(name: str) -> str:
    """namespace::name without the overload; ValueError for other texts."""
    found = _NAME.match(name)
    if found is None:
        raise ValueError(f"an op's name is 'namespace::name', not {name!r}")
    return f"{found[1]}::{found[2]}"


def _device_types(given: Any) -> list[str | None]:
    if given is None or given == "default":
        return [None]
    return [given] if isinstance(given, str) else list(given)


class CustomOpDef:
    """An op of a program; calling it runs the function of its tensors' device."""

    def __init__(self, name: str, mutates_args: Any = (), schema: str | None = None) -> None:
        self.qualname = _qualified(name)
        self._namespace, self._name = self.qualname.split("::")
        self.__name__ = self._name
        self.mutates_args, self.schema = mutates_args, schema
        self._kernels: dict[str | None, Callable[..., Any]] = {}
        self._fake: Callable[..., Any] | None = None
        self._vmap: Callable[..., Any] | None = None
        self._backward: Callable[..., Any] | None = None
        self._setup: Callable[..., Any] | None = None
        self._function: Any = None
        ops.PROGRAMS[self.qualname] = self

    def __repr__(self) -> str:
        return f"<CustomOpDef({self.qualname})>"

    @property
    def default(self) -> CustomOpDef:
        """The only overload: the op itself."""
        return self

    def register_kernel(self, device_types: str | Sequence[str] | None = None,
                        fn: Callable[..., Any] | None = None, /) -> Any:
        """Set the function for tensors of some devices (None: of all others); a decorator without
        `fn`."""
        def take(fn: Callable[..., Any]) -> Callable[..., Any]:
            self._kernels.update(dict.fromkeys(_device_types(device_types), fn))
            return fn

        return take if fn is None else take(fn)

    def register_fake(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Keep the function that tells shapes without computing; nothing here asks for it."""
        self._fake = fn
        return fn

    def register_vmap(self, func: Callable[..., Any] | None = None) -> Any:
        """Keep the rule for `vmap`."""
        def take(fn: Callable[..., Any]) -> Callable[..., Any]:
            self._vmap, self._function = fn, None
            return fn

        return take if func is None else take(func)

    def register_autograd(self, backward: Callable[..., Any], /, *,
                          setup_context: Callable[..., Any] | None = None) -> None:
        """Give the op a gradient: `backward(ctx, *grads)` after `setup_context(ctx, inputs,
        output)`, as of `autograd.Function`."""
        self._backward, self._setup, self._function = backward, setup_context, None

    def _kernel(self, args: Iterable[Any]) -> Callable[..., Any]:
        device = next((a.device.type for a in args if isinstance(a, Tensor)), None)
        fn = self._kernels.get(device) or self._kernels.get(None)
        if fn is None:
            raise NotImplementedError(f"{self.qualname}: there is no function for the device "
                                      f"'{device}'; it has {sorted(map(str, self._kernels))}")
        return fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        fn = self._kernel(given)
        recorded = is_grad_enabled() and any(
            isinstance(a, Tensor) and a.requires_grad for a in given)
        if self._backward is None or kwargs or not recorded:
            if recorded and self._backward is not None:
                raise RuntimeError(f"{self.qualname}: pass arguments that are recorded by place")
            return fn(*args, **kwargs)
        return self._recorded().apply(*args)

    def _recorded(self) -> Any:
        """The autograd.Function of the op."""
        if self._function is None:
            from .autograd.function import Function

            def forward(*args: Any) -> Any:
                with no_grad():
                    return self._kernel(args)(*args)

            body = {"forward": staticmethod(forward),
                    "setup_context": staticmethod(self._setup or (lambda *given: None)),
                    "backward": staticmethod(self._backward)}
            if self._vmap is not None:
                body["vmap"] = staticmethod(self._vmap)
            self._function = type(self._name, (Function,), body)
        return self._function


def custom_op(name: str, fn: Callable[..., Any] | None = None, /, *,
              mutates_args: str | Iterable[str], device_types: Any = None,
              schema: str | None = None, tags: Any = None) -> Any:
    """Make a function the op `namespace::name`; a decorator without `fn`.

    `device_types` limits the function to some devices, `register_kernel` adds others.

    >>> from lampion import custom_ops
    >>> @custom_ops.custom_op("docs::twice", mutates_args=())
    ... def twice(x: lampion.Tensor) -> lampion.Tensor:
    ...     return x * 2
    >>> twice(lampion.ones(2)), lampion.ops.docs.twice(lampion.ones(1))
    (tensor([2., 2.]), tensor([2.]))
    """
    def take(fn: Callable[..., Any]) -> CustomOpDef:
        made = CustomOpDef(name, mutates_args, schema)
        made.__doc__ = fn.__doc__
        made.register_kernel(device_types, fn)
        return made

    return take if fn is None else take(fn)


def _op(op: Any) -> CustomOpDef:
    """An op by itself or its name; a new one for a name that has none."""
    if isinstance(op, CustomOpDef):
        return op
    name = _qualified(str(op))
    return ops.PROGRAMS.get(name) or CustomOpDef(name)


def define(qualname: str, schema: str, *, lib: Any = None, tags: Any = ()) -> None:
    """Name an op, whose functions come by `impl`."""
    _op(qualname).schema = schema


def register_kernel(op: Any, device_types: Any, func: Callable[..., Any] | None = None, /, *,
                    lib: Any = None) -> Any:
    """`CustomOpDef.register_kernel` of an op or its name."""
    return _op(op).register_kernel(device_types, func)


impl = register_kernel


def register_fake(op: Any, func: Callable[..., Any] | None = None, /, *, lib: Any = None,
                  _stacklevel: int = 1, allow_override: bool = False) -> Any:
    """`CustomOpDef.register_fake` of an op or its name; a decorator without `func`."""
    return _op(op).register_fake if func is None else _op(op).register_fake(func)


impl_abstract = register_fake


def register_vmap(op: Any, func: Callable[..., Any] | None = None, /, *, lib: Any = None) -> Any:
    """`CustomOpDef.register_vmap` of an op or its name."""
    return _op(op).register_vmap(func)


def register_autograd(op: Any, backward: Callable[..., Any], /, *,
                      setup_context: Callable[..., Any] | None = None, lib: Any = None) -> None:
    """`CustomOpDef.register_autograd` of an op or its name."""
    _op(op).register_autograd(backward, setup_context=setup_context)


class Library:
    """Definitions and functions of the ops of one namespace."""

    # Keys of functions that are for every device, or that nothing here asks for.
    _ALL = ("", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
    _NEVER = ("Meta", "Autograd", "AutogradCPU", "FuncTorchBatched")

    def __init__(self, ns: str, kind: str, dispatch_key: str = "") -> None:
        if kind not in ("IMPL", "DEF", "FRAGMENT"):
            raise ValueError(f"Unsupported kind: {kind}")
        self.ns, self.kind, self.dispatch_key = ns, kind, dispatch_key

    def define(self, schema: str, alias_analysis: str = "", *, tags: Any = ()) -> str:
        """Name an op: "name(Tensor x) -> Tensor". Gives the name."""
        name = schema.partition("(")[0].strip()
        _op(f"{self.ns}::{name}").schema = schema
        return name

    def impl(self, op_name: Any, fn: Callable[..., Any], dispatch_key: str = "", *,
             with_keyset: bool = False, allow_override: bool = False) -> None:
        """Set the function of an op for a key: a device's name, or one for all devices."""
        name = getattr(op_name, "__name__", None) or str(op_name)
        op = _op(f"{self.ns}::{name.partition('::')[2] or name}")
        key = dispatch_key or self.dispatch_key
        if key in self._NEVER:
            if key == "Meta":
                op.register_fake(fn)
            elif key == "Autograd":  # it records by itself, and is called first
                op.register_kernel(None, fn)
            return
        op.register_kernel(None if key in self._ALL else key.lower(), fn)

    def _destroy(self) -> None:
        """The ops stay: programs may hold them."""
