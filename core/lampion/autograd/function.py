"""Operations with a hand-written backward: `Function`.

Floor 4; imports node, inplace, state (and, inside calls, callpath). The node of a call holds the
context that `forward` and `backward` see and shows its attributes, so that
`y.grad_fn.saved_tensors` works; the context's own names are the user's. Saved outputs are kept as
storages, without their tensors, so that a graph never refers to itself.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from ..base.meta import Meta
from . import engine
from . import node as N
from .inplace import rebase_view, refresh_views
from .node import FREED, Node, Select, modified
from .state import clock, mode


class FunctionCtx:
    """The `ctx` of a custom Function's methods: what to save, what was written; any other
    attribute is the user's. `needs_input_grad` has a bool for every argument of `forward`."""

    _node: Any = None
    needs_input_grad: tuple[bool, ...] = ()
    to_save: tuple[Any, ...] = ()
    dirty_tensors: tuple[Any, ...] = ()
    non_differentiable: tuple[Any, ...] = ()
    materialize_grads = True

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept. RuntimeError if it was freed or overwritten."""
        return self._node().saved_tensors if self._node is not None else tuple(self.to_save)

    saved_variables = saved_tensors

    def name(self) -> str:
        """Name of the node."""
        return self._node().name()

    @property
    def next_functions(self) -> Any:
        """(node, output number) of every input."""
        return self._node().next_functions

    @property
    def metadata(self) -> dict[str, Any]:
        """A dict for the user's own use."""
        return self._node().metadata

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors (or None) for `backward`. Later in-place changes to them are noticed."""
        self.to_save = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Keep tensors for `jvp`."""
        self.saved_for_forward = tensors

    def mark_dirty(self, *args: Any) -> None:
        """Say that `forward` wrote to these inputs; they must be returned as well."""
        self.dirty_tensors = args

    def mark_non_differentiable(self, *args: Any) -> None:
        """Say that these outputs have no gradient."""
        self.non_differentiable = args

    def set_materialize_grads(self, value: bool) -> None:
        """Whether `backward` sees zeros (True, the default) or None for absent gradients."""
        self.materialize_grads = value


class _Saved:
    """A saved tensor: itself if it is an input, else its memory and which output it is."""

    __slots__ = ("tensor", "data", "meta", "output", "packed", "owner", "unpack")

    def __init__(self, t: Any, output: int | None, hooks: Any) -> None:
        self.output, self.meta, self.unpack = output, t.meta, None
        self.tensor = self.data = self.packed = self.owner = None
        if hooks is not None:
            self.packed, self.unpack = hooks[0](t.detach()), hooks[1]
            self.owner = t.node if output is None else None
        elif output is None:
            self.tensor = t
        else:
            self.data = t.data_

    def get(self, node: "BackwardNode") -> Any:
        """The tensor again. RuntimeError if it was written since."""
        if self.unpack is not None:
            t = self.unpack(self.packed)
            data, m = t.data_, t.meta
        else:
            if self.tensor is not None:
                data, m = self.tensor.data_, self.tensor.meta
            else:
                data, m = self.data, self.meta
            if data.base.epoch > node.epoch:
                modified(node, m, data.base)
            if self.tensor is not None:
                return self.tensor
        owner = self.owner if self.output is None else node.output_node(self.output)
        return N.make_tensor(data, m, owner)


class BackwardNode(Node):
    """The node of one `Function.apply`."""

    __slots__ = ("ctx", "metas", "input_metas", "without")
    function: Any = None  # the Function subclass

    def __init__(self) -> None:
        self.edges = ()
        self.saved = ()
        self.extra = None
        self.epoch = 0
        self.ctx = FunctionCtx()
        self.metas: tuple[Any, ...] = ()
        self.without: frozenset[int] = frozenset()  # outputs that have no gradient
        self.input_metas: tuple[Any, ...] = ()  # None for arguments that are no tensors

    def __getattr__(self, name: str) -> Any:
        if name in ("ctx", "plan", "needs"):
            raise AttributeError(name)
        return getattr(self.ctx, name)

    @property
    def noutputs(self) -> int:
        return len(self.metas)

    def name(self) -> str:
        return f"{self.function.__name__}Backward"

    def out_meta(self, k: int) -> Meta:
        return self.metas[k]

    def output_node(self, k: int) -> Any:
        """The node that stands for output `k` in the graph; None for one without a gradient."""
        m = self.metas[k]
        if m is None or k in self.without:
            return None
        return self if len(self.metas) == 1 else Select(self, k)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept. RuntimeError if it was freed or overwritten."""
        if self.saved is FREED:
            self.unpack()
        return tuple([None if s is None else s.get(self) for s in self.saved])

    def apply(self, grads: list[Any]) -> list[Any]:
        """Call the user's `backward` and check what it returns."""
        if self.saved is FREED:
            self.unpack()
        if self.ctx.materialize_grads:
            grads = [N.zeros(m) if g is None and m is not None else g
                     for g, m in zip(grads, self.metas)]
        got = _backward_of(self.function)(self.ctx, *grads)
        return self.check(got if isinstance(got, tuple) else (got,))

    def check(self, got: tuple[Any, ...]) -> list[Any]:
        """One gradient per tensor argument, in the shape and dtype of that argument."""
        n = len(self.input_metas)
        if len(got) > n and all(g is None for g in got[n:]):
            got = got[:n]
        if len(got) != n:
            raise RuntimeError(f"function {self.name()} returned an incorrect number of gradients "
                               f"(expected {n}, got {len(got)})")
        out = []
        for k, (g, m) in enumerate(zip(got, self.input_metas)):
            if m is None:
                if g is not None:
                    raise RuntimeError(
                        f"function {self.name()} returned a gradient different from None at "
                        f"position {k + 1}, but the corresponding forward input was not a "
                        "Variable")
                continue
            out.append(g if g is None or not self.ctx.needs_input_grad[k] else self.fit(g, m, k))
        return out

    def fit(self, g: Any, m: Meta, k: int) -> Any:
        """A gradient brought to the shape and dtype of argument `k`."""
        if not hasattr(g, "data_"):
            raise TypeError(f"function {self.name()} returned a {type(g).__name__} at position "
                            f"{k + 1}: expected Variable or None")
        if g.meta.shape != m.shape:
            if not _expands(m.shape, g.meta.shape):
                raise RuntimeError(
                    f"Function {self.name()} returned an invalid gradient at index {k} - got "
                    f"{list(g.meta.shape)} but expected shape compatible with {list(m.shape)}")
            g = N.sum_to_shape(g, m.shape)
        if g.meta.device is not m.device:
            raise RuntimeError(f"Function {self.name()} returned an invalid gradient at index "
                               f"{k} - expected device {m.device} but got {g.meta.device}")
        return g if g.meta.dtype is m.dtype else g.to(m.dtype)


def _expands(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether `small` broadcasts to `large`."""
    if len(small) > len(large):
        return False
    return all(a in (1, b) for a, b in zip(small[::-1], large[::-1]))


class _Dirty(Node):
    """A BackwardNode whose written input is not its first: the in-place history wants the edge of
    the written tensor in front."""

    __slots__ = ("inner", "at")

    def __init__(self, inner: BackwardNode, at: int) -> None:
        self.inner, self.at, self.saved, self.extra = inner, at, (), None
        self.epoch = inner.epoch
        e = inner.edges
        self.edges = (e[at], *e[:at], *e[at + 1:])

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return self.inner.name()

    def out_meta(self, k: int) -> Meta:
        return self.inner.out_meta(k)

    def apply(self, grads: list[Any]) -> Any:
        got = self.inner.apply(grads)
        return [got[self.at], *got[:self.at], *got[self.at + 1:]]

    def release(self) -> None:
        self.inner.release()


def _backward_of(function: Any) -> Callable[..., Any]:
    """The user's `backward` or `vjp`."""
    if function.backward is not Function.backward:
        if function.vjp is not Function.vjp:
            raise RuntimeError(
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You "
                "should only implement one of them.")
        return function.backward
    return function.vjp


_MISSING = ("You must implement either the backward or vjp method for your custom "
            "autograd.Function to use it with backward mode AD.")


class Function:
    """Base of operations with a hand-written backward.

    Subclasses have static methods `forward(ctx, *args)` and `backward(ctx, *grads)`, or
    `forward(*args)` with `setup_context(ctx, inputs, output)`, and are called by `apply`.

    >>> import lampion
    >>> class Double(lampion.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return x * 2
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         return g * 2
    >>> x = lampion.tensor(3.0, requires_grad=True)
    >>> Double.apply(x).backward()
    >>> x.grad
    tensor(2.)
    """

    generate_vmap_rule = False
    _backward_cls: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"{type(self).__name__} should not be instantiated. Methods on "
                           "autograd functions are all static, so you should invoke them on the "
                           "class itself: use apply().")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._backward_cls = type(f"{cls.__name__}Backward", (BackwardNode,),
                                 {"function": cls, "__slots__": ()})

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The operation itself; runs without recording."""
        raise NotImplementedError("You must implement the forward function for custom "
                                  "autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Save what `backward` needs, if `forward` takes no ctx."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """One gradient (or None) per argument of `forward`."""
        raise NotImplementedError(_MISSING)

    @staticmethod
    def vjp(ctx: Any, *grad_outputs: Any) -> Any:
        """Another name of `backward`."""
        raise NotImplementedError(_MISSING)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The forward derivative."""
        raise NotImplementedError("You must implement the jvp function for custom "
                                  "autograd.Function to use it with forward mode AD.")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """The operation on a batch: (outputs, their batch dims). `info` has `batch_size` and
        `randomness`, `in_dims` the batch dim of every argument (None: the same for all)."""
        raise NotImplementedError("To use autograd.Function with vmap, you must either override "
                                  "the vmap staticmethod or set generate_vmap_rule=True.")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward` and record the call. Returns what `forward` returns."""
        if any([hasattr(a, "data_") and a.meta.virtual for a in args]):  # noqa: C419 (faster)
            from ..transforms.custom import apply

            return apply(cls, args)
        return cls._run(args)[0]

    @classmethod
    def _run(cls, args: tuple[Any, ...]) -> tuple[Any, FunctionCtx, tuple[Any, ...]]:
        """(result of `apply`, its ctx, what `save_for_backward` was given)."""
        node = cls._backward_cls()
        ctx = node.ctx
        tensors = [a if hasattr(a, "data_") else None for a in args]
        ctx.needs_input_grad = tuple([t is not None and t.node is not None for t in tensors])
        recording = mode.enabled and any(ctx.needs_input_grad)
        previous, mode.enabled = mode.enabled, False
        try:
            if cls.setup_context is not Function.setup_context:
                output = cls.forward(*args)
                cls.setup_context(ctx, args, output)
            else:
                output = cls.forward(ctx, *args)
        finally:
            mode.enabled = previous
        outs = output if isinstance(output, tuple) else (output,)
        saved = tuple(ctx.to_save)
        done = _finish(node, tensors, outs, recording)
        return tuple(done) if isinstance(output, tuple) else done[0], ctx, saved


def _finish(node: BackwardNode, tensors: list[Any], outs: tuple[Any, ...],
            recording: bool) -> list[Any]:
    """Give the results their history."""
    inputs = {id(t): k for k, t in enumerate(tensors) if t is not None}
    dirty = {id(t) for t in node.ctx.dirty_tensors}
    plain = {id(t) for t in node.ctx.non_differentiable}
    _check_dirty(node, outs, inputs, recording)
    node.metas = tuple([o.meta.plain if hasattr(o, "data_") else None for o in outs])
    node.without = frozenset(k for k, o in enumerate(outs) if hasattr(o, "data_") and (
        id(o) in plain or o.meta.dtype.kind not in "fc"))
    node.epoch = clock[0]
    if recording:
        if engine.anomaly[0]:
            from .anomaly import remember

            remember(node)
        node.input_metas = tuple([None if t is None else t.meta.plain for t in tensors])
        node.edges = tuple([t.node for t in tensors if t is not None])
        _save(node, outs, inputs, dirty)
    done = []
    for k, o in enumerate(outs):
        if not hasattr(o, "data_"):
            done.append(o)
        elif id(o) in dirty and id(o) in inputs:
            done.append(_written(node, o, k, inputs, tensors) if recording else o)
        else:
            done.append(_result(node, o, k, id(o) in inputs, recording))
    ctx = node.ctx
    ctx.to_save, ctx.dirty_tensors, ctx.non_differentiable = (), (), ()
    if recording:
        ctx._node = weakref.ref(node)
    return done


def _check_dirty(node: BackwardNode, outs: tuple[Any, ...], inputs: dict[int, int],
                 recording: bool) -> None:
    from ..callpath import check_leaf, wrote

    name = type(node).function.__name__
    returned = {id(o) for o in outs}
    for t in node.ctx.dirty_tensors:
        if id(t) not in inputs:
            continue
        if recording:
            check_leaf(t, name)
            if id(t) not in returned:
                raise RuntimeError("Some elements marked as dirty during the forward method were "
                                   "not returned as output. The inputs that are modified inplace "
                                   "must all be outputs of the Function.")
        wrote(t, name, 4)


def _save(node: BackwardNode, outs: tuple[Any, ...], inputs: dict[int, int],
          dirty: set[int]) -> None:
    hooks = getattr(mode, "saved_hooks", None)
    hooks = hooks[-1] if hooks else None
    position = {id(o): k for k, o in enumerate(outs)
                if id(o) not in inputs or id(o) in dirty}
    saved = []
    for t in node.ctx.to_save:
        if t is None:
            saved.append(None)
        elif not hasattr(t, "data_"):
            raise TypeError("save_for_backward can only save variables, but argument "
                            f"{len(saved)} is of type {type(t).__name__}")
        else:
            saved.append(_Saved(t, position.get(id(t)), hooks))
    node.saved = tuple(saved)


def _result(node: BackwardNode, o: Any, k: int, is_input: bool, recording: bool) -> Any:
    """An output that is no written input. An input returned as it is becomes a new tensor."""
    if not recording and not is_input:
        return o
    if is_input:
        source, o = o, N.make_tensor(o.data_, o.meta, None)
        if type(source) is not type(o):
            o = o.as_subclass(type(source))
        o.root = source if source.root is None else source.root
        if o.root.kids is None:
            o.root.kids = []
        o.root.kids.append(weakref.ref(o))
    o.node = node.output_node(k) if recording else None
    return o


def _written(node: BackwardNode, o: Any, k: int, inputs: dict[int, int],
             tensors: list[Any]) -> Any:
    """An input that `forward` wrote: its history, and that of what shares its memory, changes."""
    own = node.output_node(k)
    if own is None:
        o.node = None
        return o
    root = o.root
    if root is None:
        o.node = own
        if o.kids:
            refresh_views(o, o.kids, None)
        return o
    if len(node.metas) > 1:
        raise RuntimeError("If your Function modifies views in-place it must return a single "
                           "output, not several: the history of the base would be ambiguous.")
    at = [t is not None for t in tensors[:inputs[id(o)]]].count(True)
    rebase_view(root, o, node if at == 0 else _Dirty(node, at))
    refresh_views(root, root.kids or [], o)
    return o


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a `backward` that must not be differentiated itself.

    It runs without recording; under create_graph its results raise a RuntimeError when their
    gradient is asked for.
    """
    @functools.wraps(fn)
    def wrapper(ctx: Any, *args: Any) -> Any:
        recording = mode.enabled
        mode.enabled = False
        try:
            outputs = fn(ctx, *args)
        finally:
            mode.enabled = recording
        edges = tuple([a.node for a in args if getattr(a, "node", None) is not None])
        if not (recording and edges):
            return outputs
        many = outputs if isinstance(outputs, tuple) else (outputs,)
        wrapped = tuple([o if o is None else N.make_tensor(o.data_, o.meta.plain, _Once(edges, o))
                         for o in many])
        return wrapped if isinstance(outputs, tuple) else wrapped[0]

    return wrapper


class _Once(Node):
    """Raises when a gradient arrives."""

    __slots__ = ("meta",)

    def __init__(self, edges: tuple[Any, ...], t: Any) -> None:
        self.edges, self.saved, self.extra, self.epoch = edges, (), None, clock[0]
        self.meta = t.meta.plain

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "lampion::autograd::Error"

    def out_meta(self, k: int) -> Meta:
        return self.meta

    def apply(self, grads: list[Any]) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with "
                           "@once_differentiable")


__all__ = ["Function", "FunctionCtx", "BackwardNode", "once_differentiable"]
