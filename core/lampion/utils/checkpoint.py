"""Trading time for memory: recompute a part of the forward during the backward. Floor 7.

With `use_reentrant=False` the tensors saved inside are replaced by numbers; the first that the
backward asks for runs the function again and fills all of them. With `use_reentrant=True` the
function is one graph node whose backward runs it again with a graph of its own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import random
from ..autograd.api import backward
from ..autograd.function import Function
from ..autograd.graph import saved_tensors_hooks
from ..autograd.modes import enable_grad, no_grad
from ..autograd.state import mode
from ..runtime import devices, tracing
from ..tensor import Tensor
from ._pytree import tree_leaves


class CheckpointError(RuntimeError):
    """The recomputation did not do what the first run did."""


class _Done(Exception):
    """Everything needed has been recomputed."""


_options: dict[str, Any] = {"early_stop": True}


@contextlib.contextmanager
def set_checkpoint_debug_enabled(enabled: bool | None) -> Any:
    """Context manager: what `checkpoint(..., debug=True)` asks for, of all checkpoints inside, or
    of none; None leaves it to them. Errors name what differs in any case."""
    previous, _options["debug"] = _options.get("debug"), enabled
    try:
        yield
    finally:
        _options["debug"] = previous


def detach_variable(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs without their history; those that require gradients require theirs."""
    if not isinstance(inputs, tuple):
        raise RuntimeError("Only tuple of tensors is supported. Got Unsupported input type: "
                           f"{type(inputs).__name__}")
    return tuple(t.detach().requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t
                 for t in inputs)


@contextlib.contextmanager
def set_checkpoint_early_stop(enable: bool) -> Any:
    """Context manager: whether recomputations stop once the last saved tensor is known."""
    previous, _options["early_stop"] = _options["early_stop"], enable
    try:
        yield
    finally:
        _options["early_stop"] = previous


def noop_context_fn() -> tuple[Any, Any]:
    """Contexts that change nothing."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None,
               context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
               determinism_check: str = "default", debug: bool = False, early_stop: bool = True,
               preserve_rng_state: bool = True, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, keeping its inputs instead of its intermediate tensors.

    The backward runs the function again. `preserve_rng_state` makes random ops draw the same
    numbers then; `determinism_check="none"` leaves out the check that the same tensors come out.
    CheckpointError if they do not; ValueError for options that the reentrant form lacks.

    >>> import lampion
    >>> from lampion.utils.checkpoint import checkpoint
    >>> x = lampion.ones(2, requires_grad=True)
    >>> checkpoint(lampion.exp, x, use_reentrant=False).sum().backward()
    """
    if use_reentrant is None:
        warnings.warn("utils.checkpoint: the use_reentrant parameter should be passed "
                      "explicitly. use_reentrant=False is recommended; the default is True.",
                      stacklevel=2)
        use_reentrant = True
    if determinism_check not in ("default", "none"):
        raise ValueError("determinism_check should be one of ['default', 'none'] but got "
                         f"{determinism_check}")
    if use_reentrant:
        if kwargs:
            raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
        if context_fn is not noop_context_fn or debug:
            raise ValueError("Passing `context_fn` or `debug` is only supported when "
                             "use_reentrant=False.")
        return _Reentrant.apply(function, preserve_rng_state, *args)
    if not mode.enabled:
        return function(*args, **kwargs)
    forward_context, recompute_context = context_fn()
    frame = _Frame(function, args, kwargs, preserve_rng_state, recompute_context,
                   determinism_check == "default", early_stop and _options["early_stop"])
    with saved_tensors_hooks(frame.pack, frame.unpack), forward_context:
        return function(*args, **kwargs)


class _Frame:
    """One checkpointed call: what the first run saved, by number, and how to run it again."""

    def __init__(self, function: Any, args: Any, kwargs: Any, preserve: bool, context: Any,
                 check: bool, early_stop: bool) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.context, self.check, self.early_stop = context, check, early_stop
        self.random = _Random((*args, *kwargs.values())) if preserve else None
        self.metas: list[Any] = []
        self.values: dict[int, Any] = {}

    def pack(self, t: Any) -> int:
        """Remember the meta of a saved tensor, not its values."""
        self.metas.append(t.meta.plain)
        return len(self.metas) - 1

    def unpack(self, k: int) -> Any:
        """The values of saved tensor `k`, recomputed if they are not there."""
        if k not in self.values:
            self.recompute()
        return self.values.pop(k)

    def recompute(self) -> None:
        """Run the function again and collect what it saves."""
        self.values.clear()
        tracing.part()
        count = [0]

        def keep(t: Any) -> Any:
            k = count[0]
            count[0] += 1
            if k >= len(self.metas):
                self.fail_count(count[0])
            if self.check and t.meta.plain is not self.metas[k]:
                raise CheckpointError(
                    "utils.checkpoint: Recomputed values for the following tensors have different "
                    "metadata than during the forward pass.\n"
                    f"tensor at position {k}:\nsaved metadata: {self.metas[k]}\n"
                    f"recomputed metadata: {t.meta.plain}")
            self.values[k] = t
            if self.early_stop and count[0] == len(self.metas):
                raise _Done
            return t

        with contextlib.ExitStack() as stack:
            if self.random is not None:
                stack.enter_context(self.random)
            stack.enter_context(enable_grad())
            stack.enter_context(self.context)
            stack.enter_context(saved_tensors_hooks(keep, lambda t: t))
            try:
                self.function(*self.args, **self.kwargs)
            except _Done:
                pass
        if count[0] != len(self.metas):
            self.fail_count(count[0])

    def fail_count(self, got: int) -> None:
        if self.check or got < len(self.metas):
            raise CheckpointError(
                "utils.checkpoint: A different number of tensors was saved during the original "
                "forward and recomputation.\nNumber of tensors saved during forward: "
                f"{len(self.metas)}\nNumber of tensors saved during recomputation: {got}")
        raise _Done


class _Random:
    """The generators' states at creation; as a context manager, brings them back for a while."""

    def __init__(self, values: Iterable[Any]) -> None:
        where = {devices.resolve("cpu")} | {t.device for t in values if isinstance(t, Tensor)}
        generators = {random.generator_of(d) for d in where}
        self.states = [(g, g._seed, g.offset) for g in generators]

    def __enter__(self) -> None:
        self.outer = [(g, g._seed, g.offset) for g, _, _ in self.states]
        for g, seed, offset in self.states:
            g._set(seed, offset)

    def __exit__(self, *exc: Any) -> None:
        for g, seed, offset in self.outer:
            g._set(seed, offset)


class _Reentrant(Function):
    """The function as one node."""

    @staticmethod
    def forward(ctx: Any, function: Any, preserve: bool, *args: Any) -> Any:
        check_backward_validity(args)
        ctx.function = function
        ctx.random = _Random(args) if preserve else None
        ctx.places = [k for k, a in enumerate(args) if isinstance(a, Tensor)]
        ctx.rest = [None if isinstance(a, Tensor) else a for a in args]
        ctx.save_for_backward(*[args[k] for k in ctx.places])
        with no_grad():
            return function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if mode.partial:
            raise RuntimeError(
                "When use_reentrant=True, utils.checkpoint is incompatible with .grad() or "
                "passing an `inputs` parameter to .backward(). To resolve this error, you can "
                "either set use_reentrant=False, or call .backward() without passing the `inputs` "
                "argument.")
        args = list(ctx.rest)
        for k, t in zip(ctx.places, ctx.saved_tensors):
            args[k] = t.detach().requires_grad_(t.requires_grad)
        tracing.part()
        with ctx.random or contextlib.nullcontext(), enable_grad():
            outputs = ctx.function(*args)
        many = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(o, g) for o, g in zip(many, grads)
                 if isinstance(o, Tensor) and o.requires_grad]
        if not pairs:
            raise RuntimeError("none of output has requires_grad=True, this checkpoint() is not "
                               "necessary")
        backward([o for o, _ in pairs], [g for _, g in pairs])
        return (None, None, *[a.grad if isinstance(a, Tensor) else None for a in args])


def check_backward_validity(inputs: Iterable[Any]) -> None:
    """Warn if no input requires gradients: then nothing in the function gets one."""
    if not any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
        warnings.warn("None of the inputs have requires_grad=True. Gradients will be None",
                      stacklevel=5)


def checkpoint_sequential(functions: Any, segments: int, input: Any,
                          use_reentrant: bool | None = None, **kwargs: Any) -> Any:
    """Run a sequence of functions (or a Sequential) in `segments` parts, of which all but the
    last are checkpointed."""
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    size = len(steps) // segments

    def part(start: int, stop: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for step in steps[start:stop]:
                x = step(x)
            return x

        return run

    bounds: Sequence[int] = range(0, size * (segments - 1), size) if size else ()
    start = 0
    for start in bounds:
        input = checkpoint(part(start, start + size), input, use_reentrant=use_reentrant, **kwargs)
    return part(start + size if len(bounds) else 0, len(steps))(input)


__all__ = ["checkpoint", "checkpoint_sequential", "CheckpointError", "noop_context_fn",
           "set_checkpoint_early_stop", "check_backward_validity"]


def get_device_states(*args: Any) -> tuple[list[Any], list[Any]]:
    """The devices other than the processor that hold any of the tensors, and the states of their
    generators."""
    found = {t.device for t in tree_leaves(args) if isinstance(t, Tensor) and not t.is_cpu}
    devices = sorted(found, key=str)
    return devices, [random.get_rng_state(d) for d in devices]


def set_device_states(devices: Any, states: Any, *, device_type: str | None = None) -> None:
    """Put generators back into states from `get_device_states`."""
    for device, state in zip(devices, states):
        random.set_rng_state(state, device)
