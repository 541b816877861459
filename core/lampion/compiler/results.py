"""Putting the results of a compiled call together.

Floor 6; imports linking, autograd. `maker` turns the description of a result into one function of
the program's storages, so that a call pays for the tensors it makes and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .. import linking
from ..autograd import node as N
from ..autograd.node import Node, Select
from ..base.meta import Meta
from ..callpath import NS
from . import arguments

Maker = Callable[[Sequence[Any], Sequence[Any], Any], Any]


class Same(NamedTuple):
    """A tensor of the outside, or a constant: handed out as it is."""

    value: Any


class Argument(NamedTuple):
    """An argument itself."""

    number: int


class Number(NamedTuple):
    """The number in a tensor: at a place among the program's results, or one of the outside."""

    place: Any
    meta: Meta


class New(NamedTuple):
    """A fresh tensor: its storage's place among the program's results and its meta; of which
    argument (by number) or tensor it is a view, if of any; which output of the node it is (-1: it
    has no history), and whether it has one that is used up."""

    place: int
    meta: Meta
    source: Any
    output: int
    done: bool


class FreedNode(Node):
    """The history of a result whose graph the function itself went back through."""

    __slots__ = ("out",)

    def __init__(self, m: Meta) -> None:
        self.out, self.edges, self.saved, self.extra, self.epoch = m, (), N.FREED, None, 0

    @property
    def noutputs(self) -> int:
        return 1

    def name(self) -> str:
        return "CompiledFunctionBackward"

    def out_meta(self, k: int) -> Meta:
        return self.out

    def apply(self, grads: list[Any]) -> Any:
        raise RuntimeError(
            "Trying to backward through the graph a second time: the compiled function that made "
            "this tensor called backward() itself, which freed the graph.")


def maker(result: Any, made: Sequence[Same | Argument | Number | New]) -> Maker:
    """The function (storages, arguments, node) -> result. `result` shows the structure; `made`
    describes its tensors, in order."""
    rest = iter(made)
    t = type(result)
    if isinstance(result, (NS["BaseTensor"], arguments.Read)):
        return _tensor(next(rest))
    if t in (tuple, list) and all(isinstance(x, NS["BaseTensor"]) for x in result):
        makers = [_tensor(how) for how in made]
        if t is list:
            return lambda storages, tensors, node: [f(storages, tensors, node) for f in makers]
        return lambda storages, tensors, node: tuple([f(storages, tensors, node) for f in makers])
    makers = [_tensor(how) for how in made]

    def general(storages: Sequence[Any], tensors: Sequence[Any], node: Any) -> Any:
        fresh = iter([f(storages, tensors, node) for f in makers])
        return arguments.rebuild(result, lambda t: next(fresh))

    return general


def _tensor(how: Same | Argument | Number | New) -> Maker:
    if type(how) is Same:
        value = how.value
        return lambda storages, tensors, node: value
    if type(how) is Number:
        at = how.place
        if type(at) is not int:
            return lambda storages, tensors, node: at.item()
        return lambda storages, tensors, node: NS["make_tensor"](
            storages[at], how.meta, None).item()
    if type(how) is Argument:
        number = how.number
        return lambda storages, tensors, node: tensors[number]
    place, m, source, output, done = how  # type: ignore[misc]
    new, Tensor = object.__new__, NS["Tensor"]

    def plain(storages: Sequence[Any], tensors: Sequence[Any], node: Any) -> Any:
        r = new(Tensor)
        r.data_, r.meta = storages[place], m
        r.node = r.root = r.kids = None
        return r

    if source is None and not done:
        if output < 0:
            return plain

        def recorded(storages: Sequence[Any], tensors: Sequence[Any], node: Any) -> Any:
            r = new(Tensor)
            r.data_, r.meta = storages[place], m
            r.node = node if node.noutputs == 1 else Select(node, output)
            r.root = r.kids = None
            return r

        return recorded

    def general(storages: Sequence[Any], tensors: Sequence[Any], node: Any) -> Any:
        r = plain(storages, tensors, node)
        if output >= 0:
            r.node = node if node.noutputs == 1 else Select(node, output)
        elif done:
            r.node = FreedNode(m)
        if source is not None:
            linking.link(r, tensors[source] if type(source) is int else source)
        return r

    return general


__all__ = ["Same", "Argument", "Number", "New", "FreedNode", "maker"]
