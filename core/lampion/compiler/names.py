"""`compile` and the names of PyTorch's `torch.compiler`.

Floor 6; the machinery (`function.py`) is imported when the first function is compiled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..runtime import tracing

_made: weakref.WeakSet[Any] = weakref.WeakSet()
_BACKENDS = ("lampion", "inductor", "eager", "aot_eager", "")
_MODES = ("default", "reduce-overhead", "max-autotune")
_stance = ["default"]
_registered: dict[str, Callable[..., Any]] = {}


def compile(model: Any = None, *, fullgraph: bool = False, dynamic: bool | None = None,
            backend: Any = "lampion", mode: str | None = None,
            options: dict[str, Any] | None = None, disable: bool = False) -> Any:
    """A function or module that runs as compiled programs, or a decorator.

    The first call with arguments of a kind (shapes, dtypes, numbers) runs as always and is
    watched; later ones run what was seen as one fused program: forward, and backward if the results
    need gradients. A function may hold a whole training step, with `backward()`, an optimizer's
    `step()` and `zero_grad()`. Random numbers are those of the uncompiled function.

    Args:
        model: a function, a method or a module; the latter is returned as a module.
        fullgraph: raise where something cannot be compiled, instead of running it eagerly.
        dynamic: None: programs of three sizes become one for all sizes, if nothing else differs
            and the function's own code does not read the sizes. True: also if it reads them; it
            must then use them in arithmetic, comparisons and calls of tensors alone, and not, say,
            look them up in a list. False: every combination of shapes has a program of its own.
        backend: "lampion" ("inductor" means the same); "eager" and "aot_eager" run the function as
            it is; a function `backend(graph_module, example_inputs)`, or the name under which one
            was registered, is given an `fx.GraphModule` and gives what is called instead.
        mode: accepted, one of PyTorch's.
        options: {"cache_size": n}: after n (32) kinds of calls of which none came twice, new ones
            run eagerly.
        disable: give `model` back as it is.

    Raises:
        RuntimeError: for both a mode and options, an unknown mode or backend, or something that
            cannot be called.

    >>> f = lampion.compile(lambda x: (x + 1) * 2)
    >>> f(lampion.ones(2)), f(lampion.zeros(2))
    (tensor([4., 4.]), tensor([2., 2.]))
    """
    if mode is not None and options is not None:
        raise RuntimeError("Either mode or options can be specified, but both can't be specified "
                           "at the same time.")
    if mode is not None and not mode.startswith(_MODES):
        raise RuntimeError(f"Unrecognized mode={mode}, should be one of: {', '.join(_MODES)}")
    if model is None:
        return lambda m: compile(m, fullgraph=fullgraph, dynamic=dynamic, backend=backend,
                                 mode=mode, options=options, disable=disable)
    if not callable(model):
        raise RuntimeError(f"compile expects a function or a module, not {type(model).__name__}")
    if isinstance(backend, str):
        backend = _registered.get(backend, backend)
    if not callable(backend) and backend not in _BACKENDS:
        raise RuntimeError(f"Invalid backend: {backend!r}, should be one of: {list_backends()}")
    if disable or backend in ("eager", "aot_eager"):
        return model
    from .function import Compiled
    from .guards import is_module

    if is_module(model):
        made = model._optimized(fullgraph=fullgraph, dynamic=dynamic, options=options,
                                backend=backend if callable(backend) else None)
        _made.add(made._compiled)
        return made
    if callable(backend):
        from .handed import Handed

        compiled: Any = Handed(model, backend)
    else:
        compiled = Compiled(model, fullgraph=fullgraph, dynamic=dynamic, options=options)
    _made.add(compiled)
    return compiled


def is_compiling() -> bool:
    """Whether a function is being traced in order to compile it."""
    return bool(tracing.active)


is_dynamo_compiling = is_exporting = is_compiling


def _same(fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
    """A function as it is; used with arguments, a decorator."""
    if fn is None or not callable(fn):
        return lambda f: f
    return fn


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """The function, which runs eagerly: a compiled function that calls it does, too."""
    if fn is None or not callable(fn):
        return lambda f: disable(f, recursive, reason=reason)
    import functools

    @functools.wraps(fn)
    def eager(*args: Any, **kwargs: Any) -> Any:
        tracing.fail(f"it calls {getattr(fn, '__qualname__', fn)}, whose compilation is disabled")
        return fn(*args, **kwargs)

    return eager


def allow_in_graph(fn: Any) -> Any:
    """The function as it is."""
    return fn


def assume_constant_result(fn: Any) -> Any:
    """The function as it is."""
    return fn


def substitute_in_graph(original_fn: Any, **options: Any) -> Any:
    """A decorator that gives its function back."""
    return lambda fn: fn


def wrap_numpy(fn: Any) -> Any:
    """The function as it is."""
    return fn


def reset() -> None:
    """Forget all compiled programs; functions are traced anew."""
    for compiled in list(_made):
        compiled.reset()


def explain(fn: Any, *args: Any, **kwargs: Any) -> Any:
    """`explain(fn)(*args, **kwargs)`: what compiling `fn` for these arguments gives, as a report
    with the graphs, what was fused, memory and times; `report.html(path)` writes a page.

    >>> report = lampion.compiler.explain(lambda x: (x + 1).exp() * 2)(lampion.ones(3))
    >>> report.op_count, report.kernel_count
    (3, 1)
    """
    from .report import explain

    return explain(fn, *args, **kwargs)


def list_backends(exclude_tags: Any = ("debug", "experimental")) -> list[str]:
    """The names for `compile(backend=...)`."""
    names = ["lampion", "inductor", *_registered]
    return names if "debug" in (exclude_tags or ()) else [*names, "eager", "aot_eager"]


def register_backend(compiler_fn: Any = None, name: str | None = None,
                     tags: Any = ()) -> Any:
    """Give a function `backend(graph_module, example_inputs)` a name for `compile(backend=name)`;
    a decorator without the function."""
    if compiler_fn is None:
        return lambda f: register_backend(f, name, tags)
    _registered[name or compiler_fn.__name__] = compiler_fn
    return compiler_fn


class set_stance:
    """What compiled functions do from now on, or in a block: "default"; "force_eager": run
    eagerly; "eager_on_recompile": run the programs there are, and eagerly where there is none;
    "fail_on_recompile": raise RuntimeError there.

    >>> f = lampion.compile(lambda x: x + 1)
    >>> with lampion.compiler.set_stance("force_eager"):
    ...     f(lampion.ones(1))
    tensor([2.])
    """

    def __init__(self, stance: str = "default", *, skip_guard_eval_unsafe: bool = False,
                 force_backend: Any = None) -> None:
        if stance not in ("default", "force_eager", "eager_on_recompile", "fail_on_recompile"):
            raise RuntimeError(f"invalid torch.compiler stance {stance!r}")
        self.stance, self.before = stance, _stance[0]
        _put(stance)

    def __enter__(self) -> None:
        _put(self.stance)

    def __exit__(self, *error: Any) -> None:
        _put(self.before)

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function in a block of this stance."""
        import functools

        _put(self.before)

        @functools.wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            with set_stance(self.stance):
                return fn(*args, **kwargs)

        return run


def _put(stance: str) -> None:
    _stance[0] = stance
    for compiled in list(_made):  # calls that went straight to their program look at the stance
        getattr(compiled, "quick", {}).clear()


def __getattr__(name: str) -> Any:
    if name.endswith("_mark_step_begin"):  # no recorded step is replayed
        return lambda: None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["allow_in_graph", "assume_constant_result", "compile", "disable", "explain",
           "is_compiling", "is_dynamo_compiling", "is_exporting", "list_backends",
           "register_backend", "reset", "set_stance", "substitute_in_graph", "wrap_numpy"]
