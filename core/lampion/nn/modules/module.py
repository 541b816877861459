"""`Module`: a tree of parameters, buffers and submodules with a forward.

The tables `_parameters`, `_buffers` and `_modules` hold what attributes name; `__setattr__` sorts
values into them and `__getattr__` finds them there. Hooks live in `_hooks`, state_dict in
`_state`. May import: lampion.tensor, nn.parameter, nn.modules._hooks, nn.modules._state.
"""
from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from operator import attrgetter
from types import FrameType, MethodType
from typing import Any, TypeVar

import lampion
from lampion.base import located
from lampion.base.errors import OutOfMemoryError
from lampion.device_namespaces import module_method
from lampion.nn.modules import _hooks
from lampion.nn.modules._hooks import (  # noqa: F401  (register_module_* are public here)
    HookRegistration,
    HookTable,
    RemovableHandle,
    global_backward_hooks,
    global_backward_pre_hooks,
    global_forward_hooks,
    global_forward_pre_hooks,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from lampion.nn.modules._state import EXTRA_STATE, StateDict, _IncompatibleKeys  # noqa: F401
from lampion.nn.parameter import Buffer, Parameter
from lampion.runtime.tracing import changes
from lampion.tensor import Tensor

_EXTRA_STATE_KEY_SUFFIX = EXTRA_STATE
T = TypeVar("T", bound="Module")


_TENSOR_KINDS = {
    "float16": "Half", "float32": "Float", "float64": "Double", "bfloat16": "BFloat16",
    "complex32": "ComplexHalf", "complex64": "ComplexFloat", "complex128": "ComplexDouble",
    "bool": "Bool", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
    "uint8": "Byte", "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64"}


def typename(value: Any) -> str:
    """The name used in messages: 'lampion.FloatTensor' for tensors, else the class's dotted name.
    """
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f"{value.device.type}."
        return f"lampion.{place}{_TENSOR_KINDS[str(value.dtype).rpartition('.')[2]]}Tensor"
    cls = value if isinstance(value, type) else type(value)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


class _DirectCall(property):
    """`Module.__call__` while no hook exists: a property whose getter returns `module.forward`.

    The interpreter reads `__call__` from the type and binds it, so a call of the module becomes a
    call of its forward with no Python frame in between. Called itself it takes the module first,
    as the plain function would.
    """

    def __call__(self, module: Module, *args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)


class Module(HookRegistration, StateDict):
    """Base class of layers and networks: give it submodules and parameters, and a `forward`.

    Attributes that are `Parameter`, `Buffer` or `Module` are found by `parameters()`,
    `state_dict()`, `to()` and the like. Calling the module runs `forward` between its hooks.

    >>> class Twice(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(3, 3)
    ...     def forward(self, x):
    ...         return self.layer(self.layer(x))
    >>> Twice()(lampion.ones(2, 3)).shape
    lampion.Size([2, 3])
    """

    dump_patches: bool = False
    call_super_init: bool = False
    training: bool
    T_destination = TypeVar("T_destination", bound=dict)
    _compiled_call_impl: Callable[..., Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not self.call_super_init:
            if kwargs:
                raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword "
                                f"argument '{next(iter(kwargs))}'")
            if args:
                raise TypeError(f"{type(self).__name__}.__init__() takes 1 positional argument but "
                                f"{len(args) + 1} were given")
        # Into __dict__, past __setattr__: this runs for every module of a model.
        self.__dict__.update(
            training=True, _parameters={}, _buffers={}, _non_persistent_buffers_set=set(),
            _backward_pre_hooks=HookTable(), _backward_hooks=HookTable(),
            _is_full_backward_hook=None, _forward_hooks=HookTable(),
            _forward_hooks_with_kwargs=HookTable(), _forward_hooks_always_called=HookTable(),
            _forward_pre_hooks=HookTable(), _forward_pre_hooks_with_kwargs=HookTable(),
            _state_dict_hooks=OrderedDict(), _state_dict_pre_hooks=OrderedDict(),
            _load_state_dict_pre_hooks=OrderedDict(), _load_state_dict_post_hooks=OrderedDict(),
            _modules={})
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # ---- calling --------------------------------------------------------------------------------

    def forward(self, *input: Any) -> Any:
        """Compute the output; every subclass overrides this."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function')

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        """Run forward between the hooks, if this module or the process has any."""
        if (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks
                or self._backward_pre_hooks or global_forward_pre_hooks or global_forward_hooks
                or global_backward_hooks or global_backward_pre_hooks):
            return _hooks.call_with_hooks(self, args, kwargs)
        return self.forward(*args, **kwargs)

    def _slow_forward(self, *input: Any, **kwargs: Any) -> Any:
        return self.forward(*input, **kwargs)

    _wrapped_call_impl = _call_impl
    __call__: Callable[..., Any] = _DirectCall(attrgetter("forward"))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Run this module's `forward` as compiled programs from now on; arguments as of
        `lampion.compile`."""
        compiled = lampion.compile(self.forward, *args, **kwargs)
        self.__dict__["_compiled_call_impl"] = self.__dict__["forward"] = compiled

    def _optimized(self, **options: Any) -> Any:
        """What `lampion.compile` makes of a module."""
        from lampion.nn.modules.compiled import OptimizedModule

        return OptimizedModule(self, **options)

    # ---- attributes -----------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        tables = self.__dict__
        if "_modules" in tables:  # not before __init__
            entries = tables["_modules"]
            if name in entries:
                return entries[name]
            entries = tables["_parameters"]
            if name in entries:
                return entries[name]
            entries = tables["_buffers"]
            if name in entries:
                return entries[name]
        method = module_method(name)  # model.NAME(): to the device called NAME
        if method is not None:
            return MethodType(method, self)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        changes["modules"] += 1
        if isinstance(value, Parameter):
            self._take(name, "_parameters", "parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._take(name, "_modules", "module")
            self._modules[name] = _hooks.run_registration_hooks("module", self, name, value)
        elif isinstance(value, Buffer):
            self._take(name, "_buffers", "buffer")
            self.register_buffer(name, value, getattr(value, "persistent", True))
        elif not self._replace_entry(name, value):
            object.__setattr__(self, name, value)

    def _take(self, name: str, table: str, what: str) -> None:
        """Make `name` free in every place but `table`, which is about to hold it."""
        tables = self.__dict__
        if table not in tables:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        for other in ("__dict__", "_parameters", "_buffers", "_modules"):
            if other == table:
                continue
            entries = tables if other == "__dict__" else tables[other]
            entries.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def _replace_entry(self, name: str, value: Any) -> bool:
        """Give the parameter, submodule or buffer `name` a value of no such kind; False if none."""
        tables = self.__dict__
        if name in tables.get("_parameters", ()):
            if value is not None:
                raise TypeError(f"cannot assign '{typename(value)}' as parameter '{name}' "
                                "(lampion.nn.Parameter or None expected)")
            self.register_parameter(name, None)
        elif name in tables.get("_modules", ()):
            if value is not None:
                raise TypeError(f"cannot assign '{typename(value)}' as child module '{name}' "
                                "(lampion.nn.Module or None expected)")
            self._modules[name] = _hooks.run_registration_hooks("module", self, name, None)
        elif name in tables.get("_buffers", ()):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign '{typename(value)}' as buffer '{name}' "
                                "(lampion.nn.Buffer, lampion.Tensor or None expected)")
            self._buffers[name] = _hooks.run_registration_hooks("buffer", self, name, value)
        else:
            return False
        return True

    def __delattr__(self, name: str) -> None:
        changes["modules"] += 1
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = {*dir(type(self)), *self.__dict__, *self._parameters, *self._modules,
                 *self._buffers}
        return sorted(n for n in names if not n[:1].isdigit())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        fresh = Module().__dict__
        for name, value in fresh.items():
            self.__dict__.setdefault(name, value)

    # ---- registration ---------------------------------------------------------------------------

    def _check_name(self, what: str, name: Any, table: dict[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {typename(name)}")
        if hasattr(self, name) and name not in table:
            raise KeyError(f"attribute '{name}' already exists")
        if "." in name:
            got = f", got: {name}" if what == "module" else ""
            raise KeyError(f'{what} name can\'t contain "."{got}')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that moves with the module but is no parameter; `persistent`: in
        state_dict.

        KeyError for a name that is taken, empty or dotted; TypeError for anything but a tensor or
        None.

        >>> nn.Module().register_buffer("mean", lampion.zeros(3))
        """
        if "_buffers" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"cannot assign '{typename(tensor)}' object to buffer '{name}' "
                            "(lampion Tensor or None required)")
        changes["modules"] += 1
        self._buffers[name] = _hooks.run_registration_hooks("buffer", self, name, tensor)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`, or None to hold its place.

        KeyError for a name that is taken, empty or dotted; TypeError for anything else than a
        Parameter; ValueError for one that is the result of an operation.
        """
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name("parameter", name, self._parameters)
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(f"cannot assign '{typename(param)}' object to parameter '{name}' "
                                "(lampion.nn.Parameter or None required)")
            if param.grad_fn is not None:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must "
                    f"be created explicitly. To express '{name}' as a function of another Tensor, "
                    "compute the value in the forward() method.")
        changes["modules"] += 1
        self._parameters[name] = _hooks.run_registration_hooks("parameter", self, name, param)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under `name` (KeyError if taken, empty or dotted; TypeError if no
        Module).
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{typename(module)} is not a Module subclass")
        self._check_name("module", name, self._modules)
        changes["modules"] += 1
        self._modules[name] = _hooks.run_registration_hooks("module", self, name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """Same as `add_module`."""
        self.add_module(name, module)

    # ---- lookup by dotted name ------------------------------------------------------------------

    def get_submodule(self, target: str) -> Module:
        """The submodule with the dotted name `target`; AttributeError if a step is missing."""
        module: Any = self
        for step in target.split(".") if target else ():
            if not hasattr(module, step):
                raise AttributeError(f"{module._get_name()} has no attribute `{step}`")
            module = getattr(module, step)
            if not isinstance(module, Module):
                raise AttributeError(f"`{step}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put `module` at the dotted name `target`; `strict` wants something there already."""
        if target == "":
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{parent._get_name()} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(parent, name, module)

    def _get_tensor(self, target: str) -> tuple[Module, str, Any]:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
        return module, name, getattr(module, name)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with the dotted name `target`; AttributeError if it is missing or another
        kind.
        """
        _, name, value = self._get_tensor(target)
        if not isinstance(value, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return value

    def get_buffer(self, target: str) -> Tensor:
        """The buffer with the dotted name `target`; AttributeError if it is missing or another
        kind.
        """
        module, name, value = self._get_tensor(target)
        if name not in module._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        return value

    # ---- traversal ------------------------------------------------------------------------------

    def _named_members(self, get_members_fn: Callable[[Any], Any], prefix: str = "",
                       recurse: bool = True, remove_duplicate: bool = True) -> Iterator[Any]:
        """(dotted name, member) over the tables that `get_members_fn(module)` yields."""
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse \
            else [(prefix, self)]
        for path, module in modules:
            for name, value in get_members_fn(module):
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and, with `recurse`, of all below, each once.

        >>> sum(p.numel() for p in nn.Linear(2, 3).parameters())
        9
        """
        for _, param in self.named_parameters(recurse=recurse):
            yield param

    def named_parameters(self, prefix: str = "", recurse: bool = True,
                         remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) pairs; a shared parameter comes once unless told otherwise."""
        yield from self._named_members(lambda m: m._parameters.items(), prefix, recurse,
                                       remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and, with `recurse`, of all below, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def named_buffers(self, prefix: str = "", recurse: bool = True,
                      remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer) pairs."""
        yield from self._named_members(lambda m: m._buffers.items(), prefix, recurse,
                                       remove_duplicate)

    def children(self) -> Iterator[Module]:
        """The immediate submodules, each once."""
        for _, module in self.named_children():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) pairs of the immediate submodules, each module once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it, parents first."""
        for _, module in self.named_modules(remove_duplicate=remove_duplicate):
            yield module

    def named_modules(self, memo: set[Module] | None = None, prefix: str = "",
                      remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) pairs, this one first under `prefix`; `memo` holds those already
        seen.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                path = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, path, remove_duplicate)

    def apply(self: T, fn: Callable[[Module], Any]) -> T:
        """Call `fn` on every module of the tree, children first; returns self."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # ---- modes, dtypes and devices --------------------------------------------------------------

    def train(self: T, mode: bool = True) -> T:
        """Switch the tree to training (or, with False, evaluation) behaviour; returns self."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: T) -> T:
        """Switch the tree to evaluation behaviour; returns self."""
        return self.train(False)

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Let all parameters require gradients, or none; returns self."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or zero them in place."""
        for param in self.parameters():
            if set_to_none:
                param.grad = None
            elif param.grad is None:
                continue
            elif param.grad.grad_fn is not None:
                param.grad = param.grad.detach().zero_()
            else:
                param.grad = param.grad.requires_grad_(False).zero_()

    def share_memory(self: T) -> T:
        """Move the tensors to memory that other processes can map; returns self."""
        return self._apply(lambda t: t.share_memory_())

    def _apply(self: T, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> T:
        """Replace each tensor of the tree by `fn(tensor)`; parameters stay the same objects."""
        if recurse:
            for module in self.children():
                module._apply(fn)
        for param in self._parameters.values():
            if param is None:
                continue
            with lampion.no_grad():
                moved = fn(param)
            param.data = moved
            if param.grad is not None:
                with lampion.no_grad():
                    param.grad.data = fn(param.grad)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    def _cast(self: T, dtype: Any) -> T:
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def float(self: T) -> T:
        """Cast floating-point tensors to float32; returns self."""
        return self._cast(lampion.float32)

    def double(self: T) -> T:
        """Cast floating-point tensors to float64; returns self."""
        return self._cast(lampion.float64)

    def half(self: T) -> T:
        """Cast floating-point tensors to float16; returns self."""
        return self._cast(lampion.float16)

    def bfloat16(self: T) -> T:
        """Cast floating-point tensors to bfloat16; returns self."""
        return self._cast(lampion.bfloat16)

    def type(self: T, dst_type: Any) -> T:
        """Cast every tensor to `dst_type`; returns self."""
        return self._apply(lambda t: t.type(dst_type))

    def cpu(self: T) -> T:
        """Move the tensors to the CPU; returns self."""
        return self._apply(lambda t: t.to("cpu"))

    def to_empty(self: T, *, device: Any, recurse: bool = True) -> T:
        """Move to `device` without copying the values: they are uninitialized; returns self."""
        return self._apply(lambda t: lampion.empty_like(t, device=device), recurse=recurse)

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """Move and cast in place: `to(device)`, `to(dtype)`, `to(device, dtype)` or `to(tensor)`.

        Only floating-point and complex tensors are cast. TypeError for an integer dtype.

        >>> nn.Linear(2, 2).to(lampion.float64).weight.dtype
        lampion.float64
        """
        device, dtype, non_blocking, memory_format = parse_to(args, kwargs)
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError("nn.Module.to only accepts floating point or complex dtypes, but got "
                            f"desired dtype={dtype}")

        def move(tensor: Tensor) -> Tensor:
            cast = dtype if tensor.is_floating_point() or tensor.is_complex() else None
            extra = {} if memory_format is None or tensor.dim() not in (4, 5) \
                else {"memory_format": memory_format}
            return tensor.to(device=device, dtype=cast, non_blocking=non_blocking, **extra)

        return self._apply(move)

    # ---- printing -------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return self.__class__.__name__

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed module; override to say more."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        extra_lines = extra.split("\n") if extra else []
        children = [f"({name}): {_addindent(repr(module))}"
                    for name, module in self._modules.items()]
        lines = extra_lines + children
        if not lines:
            return f"{self._get_name()}()"
        if len(extra_lines) == 1 and not children:
            return f"{self._get_name()}({extra})"
        return "{}(\n  {}\n)".format(self._get_name(), "\n  ".join(lines))


def _addindent(s_: str, numSpaces: int = 2) -> str:
    """`s_` with every line but the first moved right; torch's name, which programs import."""
    return s_.replace("\n", "\n" + " " * numSpaces)


def parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, bool, Any]:
    """(device, dtype, non_blocking, memory_format) of the arguments of a `to` call."""
    given = dict(kwargs)
    device, dtype = given.pop("device", None), given.pop("dtype", None)
    non_blocking, memory_format = given.pop("non_blocking", False), given.pop("memory_format", None)
    other, copy = given.pop("tensor", None), given.pop("copy", False)
    if given:
        raise TypeError(f"to() got an unexpected keyword argument '{next(iter(given))}'")
    flags = []
    for value in args:
        if isinstance(value, bool):
            flags.append(value)
        elif isinstance(value, Tensor):
            other = value
        elif isinstance(value, lampion.dtype):
            dtype = value
        elif isinstance(value, (str, int, lampion.device)):
            device = value
        elif value is not None:
            raise TypeError("to() received an invalid combination of arguments - got "
                            f"({', '.join(type(a).__name__ for a in args)})")
    if flags:
        non_blocking = flags[0]
    if len(flags) > 1:
        copy = flags[1]
    if copy:
        warnings.warn("Module.to ignores copy=True: it moves in place", stacklevel=3)
    if other is not None:
        device, dtype = other.device, other.dtype
    if device is not None:
        device = lampion.device(device)
    return device, dtype, non_blocking, memory_format


def _arm() -> None:
    """Switch to the call that looks at hooks, unless someone has put their own in place."""
    if isinstance(vars(Module)["__call__"], _DirectCall):
        Module.__call__ = Module._call_impl  # type: ignore[method-assign]


_hooks._arm.append(_arm)


def module_place(frame: FrameType | None) -> str:
    """'in encoder.layers.3: Linear(...)' for the innermost module that a function works for (it
    is its first argument), by its name in the outermost one that holds it; "" outside modules."""
    modules: list[Module] = []
    while frame is not None:
        code = frame.f_code
        if code.co_argcount:
            first = frame.f_locals.get(code.co_varnames[0])
            # Not before __init__, and not what `compile` wraps around a module.
            if isinstance(first, Module) and "_orig_mod" not in first.__dict__.get(
                    "_modules", ("_orig_mod",)):
                modules.append(first)
        frame = frame.f_back
    if not modules:
        return ""
    layer = modules[0]
    names = ((name, model) for model in reversed(modules) for name, module in model.named_modules()
             if module is layer)
    name, model = max(names, key=lambda found: len(found[0]))
    return f"in {name} of {type(model).__name__}: {_described(layer)}" if name \
        else f"in {_described(layer)}"


def _described(module: Module) -> str:
    """The first line of a module's repr, whatever its class may do in `extra_repr`."""
    try:
        return f"{type(module).__name__}({module.extra_repr()})"
    except Exception:
        return type(module).__name__


def _holders() -> str:
    from lampion.holders import holders

    return holders()


located.place[:] = [module_place]
OutOfMemoryError.holders[:] = [_holders]
