"""Autograd graph nodes.

Floor 4; imports base and ops (plans). A `Node` records one call: the plan, the nodes of its
inputs (`edges`), what it saved, and the write clock at that time. `AccumulateGrad` is the node
of a leaf and holds its gradient, so that a graph never points back at tensors and no reference
cycle arises. `Select` stands for one output of a node with several.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..base.meta import Meta
from ..ops import registry as R
from ..ops.pieces import Pieces
from ..ops.shapes import sum_to_shape
from .state import clock, mode

FREED = ("freed",)
make_tensor: Callable[..., Any] = None  # type: ignore[assignment]  # set by floor 5
zeros: Callable[[Meta], Any] = None  # type: ignore[assignment]
viewed: Callable[[Any, Meta], Any] = None  # type: ignore[assignment]
calls: dict[str, Any] = {"modes": 0}  # the namespace of the call path, set by floor 5


class Extra:
    """What few nodes have: hooks, retained gradients, a label, the forward traceback."""

    __slots__ = ("pre_hooks", "post_hooks", "tensor_hooks", "retain", "metadata", "trace",
                 "unpack")

    def __init__(self) -> None:
        self.pre_hooks: dict[int, Any] = {}
        self.post_hooks: dict[int, Any] = {}
        self.tensor_hooks: dict[int, Any] = {}
        self.retain: Any = None
        self.metadata: dict[str, Any] = {}
        self.trace: Any = None
        self.unpack: Any = None


class Node:
    """One recorded call. `apply(grads)` gives one gradient (or None) per edge."""

    __slots__ = ("plan", "edges", "saved", "epoch", "extra", "needs", "__weakref__")
    plan: Any
    edges: tuple[Any, ...]
    saved: Any
    epoch: int
    extra: Extra | None

    @property
    def noutputs(self) -> int:
        return len(self.plan.metas)

    def more(self) -> Extra:
        """The Extra of this node, made on first use."""
        if self.extra is None:
            self.extra = Extra()
        return self.extra

    def name(self) -> str:
        """Name as PyTorch writes it: "MulBackward0"."""
        return "".join(w.capitalize() for w in self.plan.op.name.split("_")) + "Backward0"

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """(node, output number) of every input."""
        return tuple((e.parent, e.index) if isinstance(e, Select) else (e, 0)
                     for e in self.edges)

    @property
    def metadata(self) -> dict[str, Any]:
        """A dict for the user's own use."""
        return self.more().metadata

    def register_hook(self, fn: Callable[..., Any]) -> "Handle":
        """Call fn(grad_inputs, grad_outputs) after this node ran; a result replaces the
        gradients."""
        return Handle(self.more().post_hooks, fn)

    def register_prehook(self, fn: Callable[..., Any]) -> "Handle":
        """Call fn(grad_outputs) before this node runs; a result replaces them."""
        return Handle(self.more().pre_hooks, fn)

    def out_meta(self, k: int) -> Meta:
        """Meta of output `k`."""
        return self.plan.metas[k]

    def value(self, k: int) -> Any:
        """Saved item `k` as a tensor or number, checked against later writes."""
        item = self.saved[k]
        if self.extra is not None and self.extra.unpack is not None:
            return self.extra.unpack(item)
        return item

    def unpack(self) -> list[Any]:
        """All saved items. RuntimeError if they were freed or a tensor was overwritten."""
        saved = self.saved
        if saved is FREED:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved "
                f"tensors after they have already been freed), at {self.name()}. Saved "
                "intermediate values of the graph are freed when you call .backward() or "
                "autograd.grad(). Specify retain_graph=True if you need to backward through the "
                "graph a second time or if you need to access saved tensors after calling "
                "backward.")
        if self.extra is not None and self.extra.unpack is not None:
            return self.extra.unpack(saved)
        out = []
        epoch = self.epoch
        for item in saved:
            data = getattr(item, "data_", None)
            if data is not None:  # a tensor operand
                if data.base.epoch > epoch and reads(self, item):
                    modified(self, item.meta, data.base)
            elif hasattr(item, "base"):  # the storage of an output
                if item.base.epoch > epoch:
                    modified(self, self.plan.metas[0], item.base)
            elif type(item) in (list, tuple):  # a list of tensors
                for t in item:
                    if hasattr(t, "data_") and t.data_.base.epoch > epoch:
                        modified(self, t.meta, t.data_.base)
            out.append(item)
        return out

    def apply(self, grads: list[Any]) -> Any:
        """Gradients for the edges, given the gradients of the outputs (None where absent)."""
        return self.plan.op.run_vjp(self, grads)

    def release(self) -> None:
        """Drop what was saved."""
        if self.saved:
            self.saved = FREED


def reads(node: Node, item: Any) -> bool:
    """Whether the gradients that are asked for read a saved argument. Where an op is linear in
    some arguments, their gradients read the others alone."""
    op, at = node.plan.op, 0
    name = op.save[next(k for k, held in enumerate(node.saved) if held is item)] \
        if op.kind == "kernel" else ""
    own = next((names for group in getattr(op, "linear", ()) if name in (names := group.split())),
               None)
    if own is None:
        return True
    for p in op.tensors:
        v = node.plan.call.args[p.name]
        count = len(v) if p.kind == R.LIST else int(isinstance(v, Meta))
        if p.name not in own and any(e is not None for e in node.edges[at:at + count]):
            return True
        at += count
    return False


def modified(node: Node, m: Meta, base: Any) -> None:
    """Raise the in-place error: what was saved, by whom, and which line wrote to it."""
    from .trace import describe_writer

    raise RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace "
        f"operation: [{m.dtype!r} {list(m.shape)}], which {node.name()} saved for its backward, "
        f"is at version {base.version}. {describe_writer(base.writer)} Hint: use the "
        "out-of-place form of that call, or clone() the tensor before it is used.")


class Handle:
    """Removes a hook; usable as a context manager."""

    _next = 0

    def __init__(self, hooks: dict[int, Any], fn: Any) -> None:
        Handle._next += 1
        self.id = Handle._next
        self.hooks_ref = weakref.ref(hooks) if not isinstance(hooks, dict) else (lambda: hooks)
        hooks[self.id] = fn

    def remove(self) -> None:
        """Forget the hook. Harmless to call twice."""
        hooks = self.hooks_ref()
        if hooks is not None:
            hooks.pop(self.id, None)

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()


class AccumulateGrad(Node):
    """The node of a leaf that requires gradients: adds what arrives to `grad`."""

    __slots__ = ("grad", "meta", "owner", "accumulated")

    def __init__(self, owner: Any) -> None:
        self.edges = ()
        self.saved = ()
        self.extra = None
        self.epoch = 0
        self.grad: Any = None
        self.meta: Meta = owner.meta
        self.owner = weakref.ref(owner)
        self.accumulated: dict[int, Any] | None = None  # post-accumulate hooks

    @property
    def noutputs(self) -> int:
        return 1

    @property
    def variable(self) -> Any:
        """The leaf tensor, if it is still alive."""
        return self.owner()

    def name(self) -> str:
        return "lampion::autograd::AccumulateGrad"

    def out_meta(self, k: int) -> Meta:
        owner = self.owner()
        return self.meta if owner is None else owner.meta


class Select(Node):
    """Output `index` of a node with several outputs."""

    __slots__ = ("parent", "index")

    def __init__(self, parent: Node, index: int) -> None:
        self.parent, self.index = parent, index
        self.edges = (parent,)
        self.saved = ()
        self.extra = None
        self.epoch = 0

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return self.parent.name()

    def out_meta(self, k: int) -> Meta:
        return self.parent.out_meta(self.index)


_new = object.__new__


def bare(t: Any) -> Any:
    """A tensor without its history; `detach` of a tensor of a function transform also cuts those
    of the tensors below it."""
    return make_tensor(t.data_, t.meta.plain, None)


def record(plan: Any, edges: tuple[Any, ...], args: tuple[Any, ...], outs: tuple[Any, ...],
           needs: Any = True) -> Node:
    """Make the node of a call. `outs` are its result tensors, `needs` the key of its pack."""
    n = _new(Node)
    n.plan = plan
    n.edges = edges
    n.saved = plan.packs[needs](args, outs)
    n.epoch = clock[0]
    n.extra = None
    n.needs = needs
    return n


class Context:
    """What a kernel op's vjp sees: saved values and attributes by name, `needs(name)`,
    `meta(name)` of any tensor argument, `out_metas`."""

    def __init__(self, node: Node) -> None:
        plan = node.plan
        op = plan.op
        self.node, self.plan, self.op = node, plan, op
        self.args = plan.call.args
        if op.save:
            values = node.unpack()
            for k, number in op.saved_outs:
                if not hasattr(values[k], "data_"):
                    values[k] = saved_output(node, values[k], number)
            self.__dict__.update(zip(op.save, values))

    def __getattr__(self, name: str) -> Any:
        args = self.__dict__["args"]
        if name in args and not isinstance(args[name], Meta):
            return args[name]
        raise AttributeError(f"{self.op.name}'s vjp asks for {name!r}, which is not saved")

    def meta(self, name: str) -> Meta:
        """Meta of a tensor argument."""
        return self.args[name]

    @property
    def out_metas(self) -> tuple[Meta, ...]:
        return self.plan.metas

    def needs(self, name: str) -> bool:
        """Whether the gradient of this tensor argument is asked for."""
        cache = self.plan.cache
        where = cache.get(name)
        if where is None:
            where = cache[name] = self._edges(name)
        first, last = where
        if last - first == 1:
            return self.node.edges[first] is not None
        return any(e is not None for e in self.node.edges[first:last])

    def _edges(self, name: str) -> tuple[int, int]:
        """Where the edges of a tensor argument begin and end. KeyError if there is none."""
        at = 0
        for p in self.op.tensors:
            v = self.args[p.name]
            count = len(v) if p.kind == R.LIST else int(isinstance(v, Meta))
            if p.name == name:
                return at, at + count
            at += count
        raise KeyError(name)


def saved_output(node: Node, data: Any, k: int) -> Any:
    """A saved output as a tensor again, attached to the graph if a graph is being built."""
    owner = None
    if mode.enabled and k < getattr(node.plan.op, "diff_outputs", 99):
        owner = node if node.noutputs == 1 else Select(node, k)
    return make_tensor(data, node.plan.metas[k], owner)


class Recipe:
    """How one elementwise plan computes its gradients for one set of needed operands.

    `kinds` says of every saved item whether it is a tensor ("t"), the storage of output k (k), or
    a number (""). `targets` are the operands that the derived op `fn` gives gradients for,
    `same` those that get an output's gradient itself, `zero` those whose gradient vanishes,
    `shapes` those to sum back after broadcasting. `only` is the one target of the common case
    in which nothing else is to be done.
    """

    __slots__ = ("fn", "kinds", "grads", "targets", "same", "zero", "shapes", "dtypes", "width",
                 "only")

    def __init__(self, op: R.ElementwiseOp, plan: Any, edges: tuple[Any, ...]) -> None:
        needs = tuple([e is not None for e in edges])
        is_complex = any(m.dtype.kind == "c" for m in (*plan.metas, *plan.call.inputs)
                         if isinstance(m, Meta))
        b = op.backward(plan.attrs, needs, is_complex)
        operands = [plan.call.args[p.name] for p in op.operands]
        names = [p.name for p in op.operands]
        self.fn = None if b.op is None else b.op.fn
        self.kinds = tuple(R.output_number(n) if n not in names else
                           "t" if isinstance(operands[names.index(n)], Meta) else ""
                           for n in b.saved)
        self.grads, self.targets = b.grads, b.targets
        self.same = tuple((k, j, operands[k].dtype) for k, j in b.same)
        self.zero = tuple((k, operands[k]) for k in b.zero)
        self.dtypes = tuple(operands[k].dtype for k in b.targets)
        shape = plan.metas[0].shape
        self.shapes = tuple((k, operands[k].shape) for k in (*b.targets, *[k for k, _ in b.same])
                            if operands[k].shape != shape)
        self.width = len(edges)
        simple = len(b.targets) == 1 and not (self.same or self.zero or self.shapes) \
            and b.grads == (0,) and op.noutputs == 1
        self.only = b.targets[0] if simple else -1


def elementwise_vjp(op: R.ElementwiseOp, node: Node, grads: list[Any]) -> list[Any]:
    """Run the derived gradient op of an elementwise call."""
    plan = node.plan
    recipe = plan.cache.get(node.needs)
    if recipe is None:
        recipe = plan.cache[node.needs] = Recipe(op, plan, node.edges)
    saved = node.saved
    if recipe.kinds:
        saved = _items(node, recipe.kinds)
    if recipe.only >= 0:
        g = recipe.fn(*saved, grads[0], recipe.dtypes)
        if recipe.width == 1:
            return [g]
        result: list[Any] = [None] * recipe.width
        result[recipe.only] = g
        return result
    result = [None] * recipe.width
    if len(grads) > 1:
        if all(g is None for g in grads):  # only integer outputs were used
            return result
        grads = [zeros(m) if g is None else g for g, m in zip(grads, plan.metas)]
    if recipe.fn is not None:
        got = recipe.fn(*saved, *[grads[k] for k in recipe.grads], recipe.dtypes)
        if len(recipe.targets) == 1:
            result[recipe.targets[0]] = got
        else:
            for k, g in zip(recipe.targets, got):
                result[k] = g
    for k, j, want in recipe.same:
        g = grads[j]
        result[k] = g if g.meta.dtype is want else g.to(want)
    for k, shape in recipe.shapes:
        result[k] = sum_to_shape(result[k], shape)
    for k, m in recipe.zero:
        result[k] = zeros(m)
    return result


def _items(node: Node, kinds: tuple[Any, ...]) -> Any:
    """The saved items, checked against later writes, with outputs as tensors."""
    saved = node.saved
    epoch, out = node.epoch, []
    if saved is FREED or node.extra is not None:
        saved = node.unpack()
        if node.extra is not None and node.extra.unpack is not None:
            epoch = clock[0]  # unpacked tensors are new: later writes did not reach them
    for kind, item in zip(kinds, saved):
        if kind == "t":
            if item.data_.base.epoch > epoch:
                modified(node, item.meta, item.data_.base)
        elif kind != "" and not hasattr(item, "data_"):
            if item.base.epoch > epoch:
                modified(node, node.plan.metas[kind], item.base)
            item = saved_output(node, item, kind)
        out.append(item)
    return out


def kernel_vjp(op: Any, node: Node, grads: list[Any]) -> Any:
    """Run a kernel op's or view's vjp and flatten its result to the edges."""
    if len(grads) == 1:
        if grads[0] is None:
            return [None] * len(node.edges)
        if not op.save and not mode.enabled and not calls["modes"]:
            return _shown(op, node, grads[0])
    else:
        grads = grads[:getattr(op, "diff_outputs", None)]
        if all(g is None for g in grads):
            return [None] * len(node.edges)
        if not getattr(op, "absent_grads", False):
            grads = [zeros(m) if g is None and m.dtype.kind in "fc" else g
                     for g, m in zip(grads, node.plan.metas)]
    if op.vjp is None:
        return composed_vjp(op, node, grads)
    got = op.vjp(Context(node), *grads)
    if type(got) is not tuple:
        got = (got,)
    return got if op.singles and len(got) == len(node.edges) else _flat(op, node, got)


def _shown(op: Any, node: Node, g: Any) -> Any:
    """The gradient of an op that saves nothing, from that of its result. For most views and sums
    it is the same memory under another meta: which one is remembered."""
    if op.vjp is None:
        return composed_vjp(op, node, [g])
    m = node.plan.cache.get(g.meta)
    if m is not None:
        if type(m) is Meta:
            return (g if m is g.meta else viewed(g, m),)
        whole, dim, start, m = m
        return (Pieces(whole, dim, [(start, g if m is g.meta else viewed(g, m))]),)
    got = op.vjp(Context(node), g)
    if type(got) is not tuple:
        got = (got,)
    if not op.singles or len(got) != len(node.edges):
        return _flat(op, node, got)
    if len(got) == 1 and got[0] is not None and g.meta.override is None:
        r, place = got[0], ()
        if type(r) is Pieces and len(r.parts) == 1:
            start, part = r.parts[0]
            place, r = (r.m, r.dim, start), part
        if getattr(r, "data_", None) is g.data_ and r.meta.override is None and r.node is None:
            node.plan.cache[g.meta] = (*place, r.meta) if place else r.meta
    return got


def _flat(op: Any, node: Node, many: tuple[Any, ...]) -> list[Any]:
    """The gradients of tensor arguments by edge: those of lists one by one, none for arguments
    that are not there."""
    flat: list[Any] = []
    for p, g in zip(op.tensors, many):
        v = node.plan.call.args[p.name]
        if p.kind == R.LIST:
            flat.extend(g if g is not None else [None] * len(v))
        elif isinstance(v, Meta):
            flat.append(g)
    return flat


def composed_vjp(op: Any, node: Node, grads: list[Any]) -> list[Any]:
    """Gradients of an op that has no vjp, through its composition in other ops.

    Under create_graph the composition runs on views of the saved tensors, so that the result
    hangs in the graph; otherwise on detached copies.
    """
    from .api import grad

    create = mode.enabled
    values = node.unpack()
    leaves: list[Any] = []
    wanted: list[Any] = []

    def attach(t: Any) -> Any:
        edge = node.edges[len(wanted)]
        fresh = R.REGISTRY["alias"].fn(t) if create and t.node is not None else bare(t)
        if edge is not None and fresh.node is None:
            fresh.requires_grad_()
        wanted.append(fresh if edge is not None else None)
        leaves.append(fresh)
        return fresh

    args = [([attach(t) for t in v] if isinstance(v, (list, tuple)) and p.kind == R.LIST else
             attach(v) if hasattr(v, "data_") else v) for p, v in zip(op.params, values)]
    mode.enabled = True
    try:
        outs = op.compose(*args)
    finally:
        mode.enabled = create
    outs = list(outs) if isinstance(outs, tuple) else [outs]
    pairs = [(o, g) for o, g in zip(outs, grads) if o.node is not None and g is not None]
    live = [t for t in wanted if t is not None]
    got = iter(grad([o for o, _ in pairs], live, [g for _, g in pairs], create_graph=create,
                    allow_unused=True) if pairs else [None] * len(live))
    return [None if t is None else next(got) for t in wanted]


R.ElementwiseOp.run_vjp = elementwise_vjp  # type: ignore[attr-defined]
R.KernelOp.run_vjp = kernel_vjp  # type: ignore[attr-defined]
R.ViewOp.run_vjp = kernel_vjp  # type: ignore[attr-defined]
