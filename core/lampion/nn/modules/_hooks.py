"""Hooks of modules: their tables, handles, and the call path that runs them.

A process that registers no forward or backward hook never pays for them: `Module.__call__` is then
a C property that yields `module.forward` itself. The first entry in any table made of `HookTable`
arms the hooked call path (`arm_call_path`), for every module of the process. May import:
lampion.tensor, lampion.autograd. Imported by: nn.modules.module.
"""
from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from lampion.autograd.node import Node, Select
from lampion.autograd.state import clock, mode
from lampion.runtime.tracing import changes, fail
from lampion.tensor import Tensor

_handle_ids = itertools.count()
_arm: list[Callable[[], None]] = []


class HookTable(OrderedDict):
    """An ordered table id -> hook whose first entry arms the hooked call path."""

    def __setitem__(self, key: int, hook: Callable[..., Any]) -> None:
        changes["modules"] += 1
        if _arm:
            arm_call_path()
        super().__setitem__(key, hook)


class GlobalHookTable(HookTable):
    """A table of hooks of all modules: compiled programs hold as long as there is none."""

    def __setitem__(self, key: int, hook: Callable[..., Any]) -> None:
        changes["hooks"] += 1
        super().__setitem__(key, hook)

    def pop(self, *key: Any) -> Any:
        """Take a hook out."""
        changes["hooks"] += 1
        return super().pop(*key)


def arm_call_path() -> None:
    """Run every pending `_arm` action once: from here on module calls look at their hook tables."""
    while _arm:
        _arm.pop()()


def watch_calls(called: Callable[..., Any]) -> Callable[[], None]:
    """Let every call of a module be `called(module, call, args, kwargs)`, `call(*args, **kwargs)`
    being what it is otherwise, until the function that is returned is called.

    A hook that comes meanwhile arms the hooked call path then.
    """
    from lampion.nn.modules.module import Module

    pending, came = list(_arm), list[bool]()
    _arm[:] = [lambda: came.append(True)] if pending else []
    usual: Any = vars(Module)["__call__"]

    def watched(module: Any, *args: Any, **kwargs: Any) -> Any:
        call = module._call_impl if isinstance(usual, property) else partial(usual, module)
        return called(module, call, args, kwargs)

    Module.__call__ = watched  # type: ignore[method-assign]

    def release() -> None:
        Module.__call__ = usual  # type: ignore[method-assign]
        _arm[:] = pending
        if came:
            arm_call_path()

    return release


class RemovableHandle:
    """What a `register_*_hook` returns: `remove()` takes the hook away again.

    It is also a context manager that removes the hook on exit.

    >>> handle = nn.Linear(2, 2).register_forward_hook(print)
    >>> handle.remove()
    """

    def __init__(self, hooks_dict: dict, *, extra_dict: Any = None) -> None:
        self.hooks_dict_ref = weakref.ref(hooks_dict)
        self.id = next(_handle_ids)
        extra = [] if extra_dict is None else extra_dict
        extra = extra if isinstance(extra, list) else [extra]
        self.extra_dict_ref = tuple(weakref.ref(table) for table in extra)

    def remove(self) -> None:
        """Take the hook out of its table; a second call does nothing."""
        changes["modules"] += 1
        for ref in (self.hooks_dict_ref, *self.extra_dict_ref):
            table = ref()
            if table is not None:
                table.pop(self.id, None)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.hooks_dict_ref(), self.id, tuple(ref() for ref in self.extra_dict_ref)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        table, self.id, extra = state
        self.hooks_dict_ref = weakref.ref(HookTable() if table is None else table)
        self.extra_dict_ref = tuple(weakref.ref(HookTable() if d is None else d) for d in extra)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()


global_forward_pre_hooks: HookTable = GlobalHookTable()
global_forward_hooks: HookTable = GlobalHookTable()
global_forward_hooks_with_kwargs: HookTable = HookTable()
global_forward_hooks_always_called: HookTable = HookTable()
global_backward_pre_hooks: HookTable = GlobalHookTable()
global_backward_hooks: HookTable = GlobalHookTable()
global_registration_hooks: dict[str, HookTable] = {
    "buffer": HookTable(), "module": HookTable(), "parameter": HookTable()}


def _add_hook(table: HookTable, hook: Callable[..., Any], *, prepend: bool = False,
              marks: tuple[dict, ...] = ()) -> RemovableHandle:
    """Put `hook` in `table`, its id in each of `marks`, and return the handle."""
    handle = RemovableHandle(table, extra_dict=list(marks))
    table[handle.id] = hook
    for mark in marks:
        mark[handle.id] = True
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, args)` before the forward of every module in the process."""
    return _add_hook(global_forward_pre_hooks, hook)


def register_module_forward_hook(hook: Callable[..., Any], *, with_kwargs: bool = False,
                                 always_call: bool = False) -> RemovableHandle:
    """Call `hook(module, args[, kwargs], output)` after the forward of every module in the
    process.
    """
    marks = [global_forward_hooks_with_kwargs] if with_kwargs else []
    if always_call:
        marks.append(global_forward_hooks_always_called)
    return _add_hook(global_forward_hooks, hook, marks=tuple(marks))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, grad_output)` before the backward of every module in the process."""
    return _add_hook(global_backward_pre_hooks, hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, grad_input, grad_output)` after the backward of every module in the
    process.
    """
    return _add_hook(global_backward_hooks, hook)


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, name, buffer)` at each `register_buffer`; a returned tensor replaces it.
    """
    return _add_hook(global_registration_hooks["buffer"], hook)


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, name, submodule)` at each `add_module`; a returned module replaces it."""
    return _add_hook(global_registration_hooks["module"], hook)


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, name, param)` at each `register_parameter`; a returned one replaces it."""
    return _add_hook(global_registration_hooks["parameter"], hook)


def run_registration_hooks(kind: str, module: Any, name: str, value: Any) -> Any:
    """Pass `value` through the registration hooks of `kind` and return what to register."""
    for hook in global_registration_hooks[kind].values():
        replaced = hook(module, name, value)
        if replaced is not None:
            value = replaced
    return value


# ---- backward hooks -----------------------------------------------------------------------------

class ModuleTap(Node):
    """An identity over several tensors whose backward goes through a callback.

    `callback(grads)` gets a gradient or None per tensor and returns as many.
    """

    __slots__ = ("callback", "metas")

    @property
    def noutputs(self) -> int:
        return len(self.metas)

    def name(self) -> str:
        return "ModuleTapBackward"

    def out_meta(self, k: int) -> Any:
        return self.metas[k]

    def apply(self, grads: list[Any]) -> list[Any]:
        return list(self.callback(tuple(grads)))


def _tapped(tensors: list[Tensor], callback: Callable[[Any], Any]) -> list[Tensor]:
    """Copies of `tensors`, which require gradients, behind one tap.

    Copies, because a write into an alias would be history that the original does not know of.
    """
    copies = [tensor.clone() for tensor in tensors]
    tap = object.__new__(ModuleTap)
    tap.edges = tuple(copy.node for copy in copies)
    tap.metas = tuple(copy.meta for copy in copies)
    tap.callback = callback
    tap.saved, tap.extra, tap.epoch = (), None, clock[0]
    for k, copy in enumerate(copies):
        copy.node = tap if len(copies) == 1 else Select(tap, k)
    return copies


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _replaced(kind: str, what: str, new: Any, old: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients a hook answered with, checked against those it was given."""
    if new is None:
        return old
    new = _as_tuple(new)
    if len(new) != len(old):
        raise RuntimeError(f"{kind} returned an invalid number of {what}, got {len(new)}, "
                           f"but expected {len(old)}")
    return new


class BackwardTaps:
    """Identity nodes around one call of a module that run its backward hooks.

    The output tap runs the pre-hooks and remembers grad_output; the input tap runs the hooks. With
    no input that needs a gradient the hooks run from the output tap, with grad_input all None.
    """

    def __init__(self, module: Any, hooks: list[Any], pre_hooks: list[Any]) -> None:
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_output: tuple[Any, ...] | None = None
        self.n_inputs, self.input_at, self.output_at = 0, None, []
        self.n_outputs = 0

    def _tap(self, values: tuple[Any, ...],
             callback: Any) -> tuple[tuple[Any, ...], list[int]] | None:
        at = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
        if not (at and mode.enabled):
            return None
        out = list(values)
        for i, tensor in zip(at, _tapped([values[i] for i in at], callback)):
            out[i] = tensor
        return tuple(out), at

    def wrap_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The positional arguments, their tensors behind the input tap."""
        self.n_inputs = len(args)
        if not self.hooks:
            return args
        tapped = self._tap(args, self._on_grad_input)
        if tapped is None:
            return args
        args, self.input_at = tapped
        return args

    def wrap_output(self, result: Any) -> Any:
        """The module's result, its tensors behind the output tap."""
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn("For backward hooks to be called, module output should be a Tensor or a "
                          f"tuple of Tensors but received {type(result)}", stacklevel=4)
            return result
        outputs = _as_tuple(result)
        self.n_outputs = len(outputs)
        tapped = self._tap(outputs, self._on_grad_output)
        if tapped is None:
            return result
        outputs, self.output_at = tapped
        if isinstance(result, Tensor):
            return outputs[0]
        return type(result)(*outputs) if hasattr(result, "_fields") else type(result)(outputs)

    def _on_grad_output(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        full = [None] * self.n_outputs
        for i, grad in zip(self.output_at, grads):
            full[i] = grad
        grad_output = tuple(full)
        for hook in self.pre_hooks:
            grad_output = _replaced("Backward pre hook", "grad_output",
                                    hook(self.module, grad_output), grad_output)
        self.grad_output = grad_output
        if self.hooks and self.input_at is None:
            warnings.warn("Full backward hook is firing when gradients are computed with respect "
                          "to module outputs since no inputs require gradients.", stacklevel=5)
            nothing = (None,) * self.n_inputs
            for hook in self.hooks:
                answer = hook(self.module, nothing, grad_output)
                if answer is not None and any(g is not None for g in _as_tuple(answer)):
                    raise RuntimeError("Backward hook for Modules where no input requires gradient "
                                       "should always return None or None for all gradients.")
            self.grad_output = None
        return tuple(grad_output[i] for i in self.output_at)

    def _on_grad_input(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.grad_output is None:
            raise RuntimeError("Module backward hook for grad_input is called before the "
                               "grad_output one. This happens because the gradient in your "
                               "nn.Module flows to the Module's input without passing through the "
                               "Module's output. Make sure that the output depends on the input "
                               "and that the loss is computed based on the output.")
        full = [None] * self.n_inputs
        for i, grad in zip(self.input_at or [], grads):
            full[i] = grad
        grad_input = tuple(full)
        for hook in self.hooks:
            grad_input = _replaced("Backward hook", "grad_input",
                                   hook(self.module, grad_input, self.grad_output), grad_input)
        self.grad_output = None
        return tuple(grad_input[i] for i in self.input_at or [])


# ---- the hooked call ----------------------------------------------------------------------------

def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `module.forward` between its hooks, the process-wide ones first."""
    called: set[tuple[bool, int]] = set()
    if (global_forward_pre_hooks or global_forward_hooks or global_backward_hooks
            or global_backward_pre_hooks):
        fail("a hook of all modules runs")
    try:
        return _hooked_forward(module, args, kwargs, called)
    except Exception:
        _run_always_called(module, args, kwargs, called)
        raise


def _hooked_forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
                    called: set[tuple[bool, int]]) -> Any:
    args, kwargs = _run_pre_hooks(module, args, kwargs)
    hooks, old_style = backward_hooks_of(module)
    pre_hooks = [*global_backward_pre_hooks.values(), *module._backward_pre_hooks.values()]
    taps = BackwardTaps(module, hooks, pre_hooks) if hooks or pre_hooks else None
    if taps is not None:
        args = taps.wrap_inputs(args)
    result = module.forward(*args, **kwargs)
    for is_global, key, hook, with_kwargs in _forward_hooks_of(module):
        called.add((is_global, key))
        answer = hook(module, args, kwargs, result) if with_kwargs else hook(module, args, result)
        if answer is not None:
            result = answer
    if taps is not None:
        result = taps.wrap_output(result)
    if old_style:
        _attach_old_style(module, old_style, args, result)
    return result


def _run_pre_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    for hook in tuple(global_forward_pre_hooks.values()):
        answer = hook(module, args)
        if answer is not None:
            args = _as_tuple(answer)
    for key, hook in tuple(module._forward_pre_hooks.items()):
        if key not in module._forward_pre_hooks_with_kwargs:
            answer = hook(module, args)
            if answer is not None:
                args = _as_tuple(answer)
            continue
        answer = hook(module, args, kwargs)
        if answer is None:
            continue
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise RuntimeError("forward pre-hook must return None or a tuple of (new_args, "
                               f"new_kwargs), but got {answer}.")
        args, kwargs = answer
    return args, kwargs


def _forward_hooks_of(module: Any) -> list[tuple[bool, int, Any, bool]]:
    """The forward hooks in order of call: (global?, id, hook, takes kwargs?)."""
    found = [(True, key, hook, key in global_forward_hooks_with_kwargs)
             for key, hook in global_forward_hooks.items()]
    with_kwargs = module._forward_hooks_with_kwargs
    found += [(False, key, hook, key in with_kwargs) for key, hook in module._forward_hooks.items()]
    return found


def _run_always_called(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
                       called: set[tuple[bool, int]]) -> None:
    """After an error: the hooks registered with `always_call` that have not run yet."""
    for is_global, key, hook, with_kwargs in _forward_hooks_of(module):
        always = global_forward_hooks_always_called if is_global \
            else module._forward_hooks_always_called
        if key not in always or (is_global, key) in called:
            continue
        try:
            hook(module, args, kwargs, None) if with_kwargs else hook(module, args, None)
        except Exception as error:
            scope = "global module" if is_global else "module"
            warnings.warn(f"{scope} forward hook with ``always_call=True`` raised an exception "
                          "that was silenced as another error was raised in forward: "
                          f"{error}", stacklevel=2)


def backward_hooks_of(module: Any) -> tuple[list[Any], list[Any]]:
    """(full, old-style) backward hooks of `module`, the process-wide ones first."""
    own = list(module._backward_hooks.values())
    full = list(global_backward_hooks.values())
    if module._is_full_backward_hook is False:
        return full, own
    return full + own, []


def _attach_old_style(module: Any, hooks: list[Any], args: tuple[Any, ...], result: Any) -> None:
    """Hang the hooks of `register_backward_hook` on the autograd node of the first output."""
    first = result
    while not isinstance(first, Tensor):
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    node = first.grad_fn
    if node is None:
        return
    warnings.warn("Using a non-full backward hook on a Module sees the gradients of its last "
                  "operation only. Use register_full_backward_hook "
                  "instead.", FutureWarning, stacklevel=4)
    for hook in hooks:
        node.register_hook(functools.partial(hook, module))


class HookRegistration:
    """The `register_*_hook` methods of `Module`."""

    _is_full_backward_hook: bool | None
    _forward_hooks: HookTable
    _forward_hooks_with_kwargs: HookTable
    _forward_hooks_always_called: HookTable
    _forward_pre_hooks: HookTable
    _forward_pre_hooks_with_kwargs: HookTable
    _backward_hooks: HookTable
    _backward_pre_hooks: HookTable
    _state_dict_hooks: OrderedDict
    _state_dict_pre_hooks: OrderedDict
    _load_state_dict_pre_hooks: OrderedDict
    _load_state_dict_post_hooks: OrderedDict

    def register_forward_pre_hook(self, hook: Callable[..., Any], *, prepend: bool = False,
                                  with_kwargs: bool = False) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns replaces the arguments.

        With `with_kwargs` it is `hook(module, args, kwargs) -> None | (args, kwargs)`.

        >>> layer = nn.Identity()
        >>> handle = layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        >>> layer(lampion.zeros(1))
        tensor([1.])
        """
        marks = (self._forward_pre_hooks_with_kwargs,) if with_kwargs else ()
        return _add_hook(self._forward_pre_hooks, hook, prepend=prepend, marks=marks)

    def register_forward_hook(self, hook: Callable[..., Any], *, prepend: bool = False,
                              with_kwargs: bool = False,
                              always_call: bool = False) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; a result other than None replaces the
        output.

        `with_kwargs` inserts kwargs before output; `always_call` runs the hook after an error too.
        """
        marks = [self._forward_hooks_with_kwargs] if with_kwargs else []
        if always_call:
            marks.append(self._forward_hooks_always_called)
        return _add_hook(self._forward_hooks, hook, prepend=prepend, marks=tuple(marks))

    def register_full_backward_pre_hook(self, hook: Callable[..., Any],
                                        prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_output)` before the module's backward; it may return new
        gradients.
        """
        return _add_hook(self._backward_pre_hooks, hook, prepend=prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any],
                                    prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` after backward; it may return new
        grad_input.
        """
        self._choose_backward_kind(full=True)
        return _add_hook(self._backward_hooks, hook, prepend=prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Old form of `register_full_backward_hook`: sees the gradients of the last operation
        only.
        """
        self._choose_backward_kind(full=False)
        return _add_hook(self._backward_hooks, hook)

    def _choose_backward_kind(self, full: bool) -> None:
        if self._is_full_backward_hook is (not full):
            raise RuntimeError("Cannot use both regular backward hooks and full backward hooks on "
                               "a single Module. Please use only one of them.")
        self._is_full_backward_hook = full

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, prefix, keep_vars)` at the start of `state_dict`."""
        return _add_hook(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata)` at the end of `state_dict`, in
        place.
        """
        return _add_hook(self._state_dict_hooks, _PublicHook(hook))

    def _register_state_dict_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """As the public post hook, and the hook may return another dictionary."""
        if isinstance(hook, _PublicHook):
            raise RuntimeError(f"Cannot register a public hook {hook} as a private one.")
        return _add_hook(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys,
        unexpected_keys, error_msgs)` before the module's own entries are loaded.
        """
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(self, hook: Callable[..., Any],
                                           with_module: bool = False) -> RemovableHandle:
        bound = BoundHook(hook, self if with_module else None)
        return _add_hook(self._load_state_dict_pre_hooks, bound)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, incompatible_keys)` after loading; it may edit the two lists of keys.
        """
        return _add_hook(self._load_state_dict_post_hooks, hook)


class _PublicHook:
    """A state-dict post hook registered through the public method: it must return None."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any) -> None:
        if self.hook(*args) is not None:
            raise RuntimeError("state_dict post-hook must return None")


class BoundHook:
    """A load hook that gets its module as first argument, held weakly."""

    def __init__(self, hook: Callable[..., Any], module: Any = None) -> None:
        functools.update_wrapper(self, hook, updated=())
        self.hook = hook
        self.module = None if module is None else weakref.ref(module)

    def __call__(self, *args: Any) -> Any:
        if self.module is None:
            return self.hook(*args)
        module = self.module()
        if module is None:
            raise RuntimeError("You are trying to call the hook of a dead Module!")
        return self.hook(module, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {"hook": self.hook, "module": None if self.module is None else self.module()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.hook = state["hook"]
        self.module = None if state["module"] is None else weakref.ref(state["module"])
