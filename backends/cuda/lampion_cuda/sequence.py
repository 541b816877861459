"""Compiled programs on the GPU: a stretch of launches is one CUDA graph, started by one call.

The launches are captured as they are, so that vendor libraries, copies and kernels of every kind
are alike in it. A captured launch has its addresses baked in, but memory of a program changes from
call to call: new inputs, results that the last call's owner still holds. Two things follow.

- A graph belongs to the addresses that *functions of libraries* were captured with: nobody knows
  where in their nodes those are. There is one graph for each such set of addresses, of which few
  come up, since `Pool.recurring` gives a program its buffers again.
- What only our own kernels take is put into their nodes when it differs from the last call: the
  words are known, and to set a node's parameters costs less than to launch it. Offsets of random
  numbers are such words.

A set of addresses that was seen once runs launch by launch, and is captured when it comes again.
Imports this package and lampion's floors 0-2.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lampion import config
from lampion.logging import get_logger
from lampion.runtime.arguments import whole
from lampion.runtime.backend import Launch

from . import launch as L
from .driver import check
from .errors import INVALID_CONTEXT, INVALID_HANDLE
from .graphs import Capture, GraphPool
from .streams import Stream

if TYPE_CHECKING:
    from .driver import Device

FEWEST = 3       # launches that a graph is worth
MOST = 8         # graphs that a stretch keeps
SEEN = 256       # sets of addresses that are remembered

Part = tuple[Launch, Sequence[tuple[int, int]]]

_log = get_logger("compile")


def sequence(gpu: Device, parts: Sequence[Part], kinds: str,
             constants: dict[int, Any]) -> Callable[..., None]:
    """See `Backend.sequence`."""
    runs: list[Callable[..., None]] = []
    graphs = config.get("backend.cuda.graphs") and not L.SYNC
    for captured, group in itertools.groupby(parts, lambda p: type(p[0].keep) is L.Made):
        found = list(group)
        run = one_by_one(found, kinds, constants)
        if captured and graphs and len(found) >= FEWEST:
            run = _Stretch(gpu, found, kinds, constants, run).function(kinds)
        elif not captured:
            _log.debug("not in a CUDA graph", launches=[p[0].kernels for p in found])
        runs.append(run)
    if len(runs) == 1:
        return runs[0]

    def several(*slots: Any) -> None:
        for run in runs:
            run(*slots)

    return several


def one_by_one(parts: Sequence[Part], kinds: str,
               constants: dict[int, Any]) -> Callable[..., None]:
    """A function that calls `into` of each launch."""
    space: dict[str, Any] = {}
    lines: list[str] = []
    names: dict[tuple[int, int], str] = {}

    def name(k: int, at: int) -> str:
        if (k, at) not in names:
            names[k, at] = made = f"s{k}_{at}" if at or k in constants else f"s{k}"
            if k in constants:
                space[made] = constants[k].view(at) if at else constants[k]
            elif at:
                lines.append(f"    {made} = s{k}.view({at})")
        return names[k, at]

    for n, (launch, where) in enumerate(parts):
        space[f"into{n}"] = launch.into
        arguments = ", ".join([name(k, at) for k, at in where])
        lines.append(f"    into{n}({arguments})")
    slots = ", ".join(f"s{k}" for k in range(len(kinds)) if k not in constants)
    exec(compile("\n".join([f"def run({slots}):", *lines]), "<lampion cuda sequence>", "exec"),
         space)
    made: Callable[..., None] = space.pop("run")  # else it would be in a cycle
    return made


class _Word:
    """A word of a kernel's arguments that is put in anew: how it is packed, at which byte, from
    which of the function's arguments, how many bytes from there."""

    __slots__ = ("pack", "number", "at", "slot", "what", "more")

    def __init__(self, letter: str, at: int, slot: int, what: str, more: int) -> None:
        self.pack = struct.Struct("=" + letter).pack_into
        self.number: Callable[[Any], Any] = float if letter[0] in "df" else whole
        self.at, self.slot, self.what, self.more = at, slot, what, more

    def value(self, x: Any) -> Any:
        """Its value, `x` being the argument."""
        if self.what == "buffer":
            return x.buf
        if self.what == "offset":
            return x.offset + self.more
        if self.what == "address":
            return x.buf + x.offset + self.more
        return self.number(x)


class _Node:
    """A kernel node whose words change."""

    __slots__ = ("node", "params", "block", "words")

    def __init__(self, gpu: Device, node: Any, letters: Sequence[str],
                 words: Sequence[_Word]) -> None:
        self.node, self.words = node, words
        self.params = check(gpu.drv.cuGraphKernelNodeGetParams(node), "reading a graph")
        layout, offsets = L.argument_layout(letters)
        self.block = L.Block(layout, offsets)
        captured = (ctypes.c_void_p * len(letters)).from_address(int(self.params.kernelParams))
        for letter, at, value in zip(letters, offsets, captured):
            size = struct.calcsize("=" + letter.rstrip("x0123456789")[:1])
            ctypes.memmove(ctypes.addressof(self.block.values) + at, value, size)
        self.params.kernelParams = self.block.table

    def pack(self, slots: Sequence[Any]) -> None:
        """Put the words in."""
        for word in self.words:
            word.pack(self.block.values, word.at, word.value(slots[word.slot]))


class _Graph:
    """A captured graph, and what its nodes hold at present: `words`, of the arguments that are
    put in anew; None if that is not known. `ended`: what the end of the capture gave."""

    def __init__(self, gpu: Device, ended: Sequence[Any], pool: GraphPool) -> None:
        self.gpu, self.pool = gpu, pool
        self.graph = None if ended[0] else ended[1]
        self.exec: Any = None
        self.words: tuple[Any, ...] | None = None
        self.nodes: Sequence[_Node] = ()
        self.users: dict[int, list[_Node]] = {}
        self.ended = ended

    def prepare(self, nodes: Sequence[tuple[Any, list[str], list[_Word]]]) -> None:
        """Make it ready to run."""
        check(self.ended, "ending a capture")
        self.nodes = [_Node(self.gpu, *node) for node in nodes]
        for node in self.nodes:
            for slot in dict.fromkeys(word.slot for word in node.words):
                self.users.setdefault(slot, []).append(node)
        self.exec = check(self.gpu.drv.cuGraphInstantiate(self.graph, 0), "instantiating a graph")

    def update(self, words: tuple[Any, ...], order: Sequence[int], slots: Sequence[Any]) -> None:
        """Put words in that differ; `order` says whose they are."""
        before, self.words = self.words, None
        if before is None:
            nodes = self.nodes
        else:
            nodes = list(dict.fromkeys(
                node for slot, a, b in zip(order, before, words) if a != b
                for node in self.users.get(slot, ())))
        set_params = self.gpu.drv.cuGraphExecKernelNodeSetParams
        for node in nodes:
            node.pack(slots)
            check(set_params(self.exec, node.node, node.params), "moving a graph's memory")
        self.words = words

    def __del__(self) -> None:
        try:
            self.gpu.activate()
            if self.exec is not None:
                self.gpu.drv.cuGraphExecDestroy(self.exec)
            if self.graph is not None:
                self.gpu.drv.cuGraphDestroy(self.graph)
        except Exception:
            pass  # the driver is shutting down


class _Stretch:
    """Launches that are captured together."""

    def __init__(self, gpu: Device, parts: Sequence[Part], kinds: str, constants: dict[int, Any],
                 plain: Callable[..., None]) -> None:
        self.gpu, self.parts, self.plain = gpu, parts, plain
        self.given = [k for k in range(len(kinds)) if k not in constants]
        self.constants = constants
        self.graphs: dict[tuple[Any, ...], _Graph] = {}
        self.pools: dict[Stream, GraphPool] = {}
        self.seen: dict[tuple[Any, ...], int] = {}
        self.needed = 2  # times that addresses are seen until they are captured
        self.lock = threading.RLock()
        self.kernels = [self._kernels(launch) for launch, _ in parts]
        used = {k for _, where in parts for k, _ in where if k not in constants}
        self.fixed = {k for (_, where), own in zip(parts, self.kernels) if own is None
                      for k, _ in where if k in used}
        self.moved = sorted(used - self.fixed)  # the slots that only our own kernels take

    @staticmethod
    def _kernels(launch: Launch) -> list[Any] | None:
        made: L.Made = launch.keep
        if made.calls is None or made.into is not launch.into:
            return None
        return [call for call in made.calls if call[0].compiled is not None]

    def function(self, kinds: str) -> Callable[..., None]:
        """The function of the slots that are not constants: it looks which graph it is, brings it
        up to date, and launches it."""
        texts = {"s": "s{0}.buf + s{0}.offset", "i": "s{0}", "f": "s{0}.hex()"}

        def row(slots: Sequence[int]) -> str:
            return "".join(texts[kinds[k]].format(k) + ", " for k in slots)

        slots = "".join(f"s{k}, " for k in self.given)
        lines = [
            f"def run({slots}):",
            "    stream = local.stream",
            "    if stream.capture is not None:",  # it takes the launches into its own graph
            f"        return plain({slots})",
            f"    key = (stream.handle, {row(sorted(self.fixed))})",
            "    g = graphs.get(key)",
            "    if g is None:",
            f"        g = find(key, stream, ({slots}))",
            "        if g is None:",
            f"            return plain({slots})",
            f"    words = ({row(self.moved)})",
            "    with lock:",
            "        if words != g.words:",
            f"            g.update(words, moved, ({slots}))",
            "        e = cu_graph_launch(g.exec, stream.cu)[0]",
            "    if e:",
            "        failed(e, g, stream)"]
        # words know arguments of the function by their place among them
        place = {k: at for at, k in enumerate(self.given)}
        space = {"local": self.gpu.current, "plain": self.plain, "graphs": self.graphs,
                 "find": self.find, "lock": self.lock, "failed": self.failed,
                 "moved": [place[k] for k in self.moved],
                 "cu_graph_launch": self.gpu.drv.cuGraphLaunch}
        exec(compile("\n".join(lines), "<lampion cuda sequence>", "exec"), space)
        made: Callable[..., None] = space.pop("run")  # type: ignore[assignment]
        return made

    def failed(self, code: Any, graph: _Graph, stream: Stream) -> None:
        """After a launch that the driver refused: activate the GPU in this thread, as its first
        call needs, and try again, or raise."""
        number = int(code)
        if number in (INVALID_CONTEXT, INVALID_HANDLE):
            self.gpu.activate()
            number = int(self.gpu.drv.cuGraphLaunch(graph.exec, stream.cu)[0])
        check((number,), f"running a compiled program on {self.gpu.where}")

    def find(self, key: tuple[Any, ...], stream: Stream, slots: Sequence[Any]) -> _Graph | None:
        """The graph for addresses that have none, if they came often enough, or None."""
        with self.lock:
            if not self.needed:
                return None
            times = self.seen.pop(key, 0) + 1
            if times < self.needed:
                if len(self.seen) >= SEEN:
                    self.seen.clear()
                self.seen[key] = times
                return None
            try:
                made = self._record(stream, slots)
            except Exception as error:
                self.needed = 0  # what cannot be captured once never can
                _log.debug("not in a CUDA graph", why=str(error),
                           launches=[p[0].kernels for p in self.parts])
                return None
            if len(self.graphs) >= MOST:
                # more sets of addresses than graphs: what is captured must come more often
                self.needed = min(2 * self.needed, SEEN)
                del self.graphs[next(iter(self.graphs))]
            self.graphs[key] = made
            _log.debug("a CUDA graph", launches=len(self.parts), nodes_that_move=len(made.nodes),
                       graphs=len(self.graphs))
            return made

    def _record(self, stream: Stream, slots: Sequence[Any]) -> _Graph:
        """Capture the launches on these arguments, for runs on a stream."""
        gpu, drv = self.gpu, self.gpu.drv
        gpu.activate()
        with gpu.quiet:
            pool = self.pools.setdefault(stream, GraphPool())
            pool.users.add(stream)
            side = gpu.libraries.get("recording stream")
            if side is None:
                side = gpu.libraries["recording stream"] = Stream.fresh(gpu)
            capture = Capture(side, pool, public=False)
            before, gpu.current.stream = gpu.current.stream, side
            try:
                capture.start()
                try:
                    nodes = self._enqueue(side, slots)
                finally:
                    made = _Graph(gpu, drv.cuStreamEndCapture(side.cu), pool)
                    capture.leave()
            finally:
                gpu.current.stream = before
        if capture.checks or capture.keep:
            raise RuntimeError("a launch copies to the host")
        made.prepare(nodes)
        return made

    def _enqueue(self, side: Stream, slots: Sequence[Any],
                 ) -> list[tuple[Any, list[str], list[_Word]]]:
        """Enqueue the launches; the kernel nodes with words that move, and all their words."""
        values = {**dict(zip(self.given, slots)), **self.constants}
        place = {k: at for at, k in enumerate(self.given)}
        moved = set(self.moved)
        found = []
        for (launch, where), kernels in zip(self.parts, self.kernels):
            launch.into(*[values[k].view(at) if at else values[k] for k, at in where])
            if kernels is None or not any(k in moved for k, _ in where):
                continue
            for (bound, args, its), node in zip(kernels, self._last(side, len(kernels))):
                words = L.words(bound, args, its)
                puts = [_Word(letter, 8 * n, place[where[slot][0]], what, where[slot][1])
                        for n, (letter, what, slot) in enumerate(words)
                        if what != "fixed" and slot < len(where) and where[slot][0] in moved]
                if puts:
                    found.append((node, [letter for letter, _, _ in words], puts))
        return found

    def _last(self, side: Stream, count: int) -> list[Any]:
        """The last `count` nodes of the capture, in order."""
        drv, nodes = self.gpu.drv, []
        for n in range(count):
            if n:
                after = check(drv.cuGraphNodeGetDependencies(nodes[-1], 1), "reading a graph")[0]
            else:
                after = check(drv.cuStreamGetCaptureInfo(side.cu), "reading a capture")[3]
            if len(after) != 1:
                raise RuntimeError("a kernel that was captured has no place in a row")
            nodes.append(after[0])
        return nodes[::-1]


__all__ = ["sequence"]
