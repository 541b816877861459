"""`lampion.requires`: which ops of a model a device lacks, before the first step runs there.

The model runs where it is, on its real inputs, so that shapes and branches are the real ones. Every
decision about a kernel is taken twice meanwhile: for the device that it runs on, and for the device
asked about, where nothing is run, and nothing built if that can be avoided. An op that the other
device would compose of others is composed here, too, so that those are seen. Floor 7; imports
explaining, ops and what is below.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from .autograd.modes import no_grad
from .base.device import device as Device
from .base.meta import Meta, meta
from .callpath import NS
from .explaining import deciding
from .ops import plans
from .ops import registry as R
from .runtime.backend import Launch, OpCall
from .runtime.devices import resolve
from .runtime.fallback import policy
from .utils import _pytree

__all__ = ["Need", "Requirements", "requires"]


class Need(NamedTuple):
    """An op that a model calls: in which `phase` ("forward", "backward"), whether the device `has`
    it, how it would run there or why it cannot, one call as text, and how many there are that
    differ in dtypes, shapes or attributes."""

    op: str
    phase: str
    has: bool
    how: str
    example: str
    calls: int


class Requirements:
    """What a model needs of a device. Printing it gives a table for people."""

    def __init__(self, device: str, needs: list[Need]) -> None:
        self.device, self.needs = device, needs

    @property
    def missing(self) -> list[Need]:
        """The needs that the device cannot meet."""
        return [n for n in self.needs if not n.has]

    @property
    def complete(self) -> bool:
        """Whether everything would run on the device."""
        return not self.missing

    def __str__(self) -> str:
        total, lacks = len(self.needs), self.missing
        ops = f"{total} op{'' if total == 1 else 's'}"
        if not lacks:
            lines = [f"{self.device} has all {ops} that are needed"]
        else:
            lines = [f"{self.device} lacks {len(lacks)} of {ops} that are needed"]
        if lacks:
            kind = self.device.partition(":")[0]
            lines += _table([("op", "phase", "calls", "policy", "why it cannot run"), *[
                (n.op, n.phase, n.calls, policy(n.op, kind), n.how) for n in lacks]])
            lines += [f"  for example {n.example}" for n in lacks]
            lines.append("where the [fallback] policy is \"error\" a call raises; otherwise it "
                         "runs elsewhere, with copies")
        there = [n for n in self.needs if n.has]
        lines += _table([("op", "phase", "calls", "runs by"),
                         *[(n.op, n.phase, n.calls, n.how) for n in there]]) if there else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (f"<Requirements of {self.device}: {len(self.needs)} ops, "
                f"{len(self.missing)} missing>")


def requires(model: Callable[..., Any], inputs: Any, *, device: Any, backward: bool = False,
             ) -> Requirements:
    """Say which ops that `model(*inputs)` calls the device has, without running them there.

    The model, a module or any function of tensors, runs once where its tensors are; parameters'
    gradients, buffers and random generators are afterwards as before. `inputs` is a tensor, a
    tuple or list of arguments, or a dict of arguments by name. `backward` takes gradients of all
    results, too. What the model does by numbers that it reads (`.item()`) is seen as it happens
    for these inputs.

    PluginError if the device cannot be used; otherwise what the model raises.

    >>> import lampion
    >>> found = lampion.requires(lampion.nn.Linear(3, 2), lampion.ones(1, 3), device="cpu")
    >>> found.complete, [need.op for need in found.needs]
    (True, ['contract'])
    """
    there = resolve(device)
    watch = _Watch(there)
    with _kept(model), deciding(watch.choose):
        args, named = _arguments(inputs)
        with no_grad() if not backward else _nothing():
            results = [t for t in _pytree.tree_leaves(model(*args, **named))
                       if hasattr(t, "requires_grad") and t.requires_grad]
        if backward and results:
            from .autograd import backward as run
            from .creation import ones_like

            with watch.unseen():
                seeds = [ones_like(t) for t in results]
            watch.phase = "backward"
            run(results, seeds)
    return Requirements(str(there), watch.needs())


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _kept(model: Any) -> Iterator[None]:
    """Gradients, buffers and random generators as they were, at the end."""
    from .random import fork_rng

    modules = list(model.modules()) if hasattr(model, "modules") else []
    gradients = [(p, p.grad) for m in modules for p in m._parameters.values() if p is not None]
    buffers = [(m, name, b, b.detach().clone()) for m in modules
               for name, b in m._buffers.items() if b is not None]
    for p, _ in gradients:
        p.grad = None
    try:
        with fork_rng():
            yield
    finally:
        for p, g in gradients:
            p.grad = g
        with no_grad():
            for m, name, b, values in buffers:
                b.copy_(values)
                m._buffers[name] = b


class _Watch:
    """Takes each decision about a kernel for another device, too, and writes it down."""

    def __init__(self, there: Any) -> None:
        self.there, self.phase = there, "forward"
        self.thread, self.quiet = threading.get_ident(), 0
        # Two stand-ins of the device: one whose backend builds nothing and has no kernels by name,
        # since most ops are compiled from the kernel IR anyway; one that has them.
        self.plain, self.named = _stand_in(there, ""), _stand_in(there, there.type)
        self.seen: dict[tuple[str, str, bool, str], list[str]] = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this decisions are not written down."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Within this ops are run that are not the model's on the device there. What was decided
        for them is forgotten: the model may call them, too."""
        with self.paused():
            yield
        R.forget_plans()

    def needs(self) -> list[Need]:
        """What was seen, in order."""
        return [Need(*key, calls[0], len(calls)) for key, calls in self.seen.items()]

    def choose(self, ordinary: Callable[..., Any], op: Any, call: OpCall, lower: Any,
               form: str = "") -> tuple[Launch | None, str]:
        """What `plans.choose` does here, after the same question for the device there."""
        if threading.get_ident() != self.thread or self.quiet:
            result: tuple[Launch | None, str] = ordinary(op, call, lower, form)
            return result
        with self.paused():  # an op may ask about another one that it is a case of
            has, how = self.decide(ordinary, op, call, lower, form)
        compose = getattr(op, "compose", None) if not form else None
        if not has and compose is not None:
            return None, how  # composed there, so composed here: its ops are what is needed
        name = f"{op.qualname}{form}"
        calls = self.seen.setdefault((name, self.phase, has, how), [])
        text = str(_elsewhere(call, self.there))
        if text not in calls:
            calls.append(text)
        with self.paused():
            launch, chosen = ordinary(op, call, lower, form)
        if launch is None and compose is not None:  # a kernel there, none here
            return self.composed(op, call), chosen
        return launch, chosen

    def decide(self, ordinary: Callable[..., Any], op: Any, call: OpCall, lower: Any, form: str,
               ) -> tuple[bool, str]:
        """(whether the device has a kernel for the call, which, or why not)."""
        there = _elsewhere(call, self.named)
        offers = self.offers(op, there, form)
        launch, how = ordinary(op, _elsewhere(call, self.plain), lower, form)
        if launch is not None:
            return True, ", or ".join(dict.fromkeys([*offers, how]))
        if offers:
            launch, chosen = ordinary(op, there, lower, form)
            if launch is not None:
                return True, chosen
            how = chosen
        return False, how.replace("backend ''", f"backend {self.there.type!r}")

    def offers(self, op: Any, call: OpCall, form: str = "") -> list[str]:
        """Who has registered a kernel that may fit, for the op or what it is a case of."""
        through = getattr(op, "through", None)
        other = None if through is None else through(call)
        more = [] if other is None else self.offers(R.REGISTRY[other.op], other)
        return [i.source or i.op for i in plans.offers(op, self.there.type, form)
                if i.constraint is None or i.constraint(call)] + more

    def composed(self, op: Any, call: OpCall) -> Launch:
        """A Launch that runs the composition of an op, whose parts then are not written down."""
        def launch(*inputs: Any) -> Any:
            rest = iter([NS["make_tensor"](x, m, None) if isinstance(m, Meta) else x
                         for x, m in zip(inputs, call.inputs)])
            args = [[next(rest) for _ in v] if p.kind == R.LIST else
                    next(rest) if p.kind != R.ATTR and isinstance(v, (Meta, type)) else v
                    for p, v in zip(op.params, call.args.values())]
            with self.unseen(), no_grad():
                got = op.compose(*args)
                made = [_laid_out(t, m).data_ for t, m in zip(
                    got if isinstance(got, tuple) else (got,), call.outputs)]
            return made[0] if len(made) == 1 else tuple(made)

        def into(*args: Any) -> None:
            raise RuntimeError(f"{op.qualname}: lampion.requires cannot write in place")

        return Launch(launch, into)


def _laid_out(t: Any, m: Meta) -> Any:
    """A tensor with the strides that a result is to have."""
    if t.meta.strides == m.strides:
        return t
    from .creation import empty_strided

    return empty_strided(m.shape, m.strides, dtype=m.dtype, device=m.device).copy_(t)


def _stand_in(there: Any, name: str) -> Any:
    """A device like `there` whose backend shares the real one's state and builds nothing."""
    real = there.backend

    def program(self: Any, program: Any, outputs: Any, device: Any) -> Launch:
        return Launch(_never, _never, [c.kernel.name for c in program.calls])

    def text_program(self: Any, text: Any, outputs: Any, device: Any) -> Launch:
        return Launch(_never, _never, [text.entry])

    kind = type(type(real).__name__, (type(real),), {
        "name": property(lambda self: name), "program": program, "text_program": text_program})
    backend = object.__new__(kind)
    backend.__dict__ = real.__dict__
    made = object.__new__(Device)
    made.type, made.index, made.backend = there.type, there.index, backend
    return made


def _never(*args: Any) -> Any:
    raise RuntimeError("a stand-in of lampion.requires runs nothing")


def _elsewhere(call: OpCall, where: Any) -> OpCall:
    """The same call on another device."""
    def moved(v: Any) -> Any:
        if isinstance(v, Meta):
            return meta(v.dtype, v.shape, v.strides, where)
        if isinstance(v, (list, tuple)) and any(isinstance(x, Meta) for x in v):
            return [moved(x) for x in v]
        return where if isinstance(v, Device) else v

    return OpCall(call.op, tuple(map(moved, call.inputs)),
                  {k: moved(v) for k, v in call.args.items()}, tuple(map(moved, call.outputs)),
                  where)


def _table(rows: list[tuple[Any, ...]]) -> list[str]:
    """Lines of columns under a header."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]
