"""CUDA graphs: work that is enqueued once, kept by the driver, and started again by one call.

While a graph is captured, the stream's memory comes from bins of the graph's own, which keep their
buffers until the graph is gone: a replay writes to the same addresses. Random draws are made with
offsets that occur nowhere else; after the capture they are found among the arguments of the graph's
kernels, and every replay puts the generator's next offsets there, so that replays draw on. Part of
the public face (`lampion.cuda`): may use the public `lampion`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lampion.random import generator_of
from lampion.runtime import capture

from .driver import check
from .streams import Stream, opened

if TYPE_CHECKING:
    from .memory import Bin

_lock = threading.RLock()
_PACKAGES = ("lampion", "lampion_cuda")


class GraphPool:
    """The memory of graphs: what `graph_pool_handle()` and `CUDAGraph.pool()` give. Graphs that
    share a pool must be replayed in the order of their capture, never at the same time."""

    def __init__(self) -> None:
        self.bins: dict[Stream, dict[int, Bin]] = {}
        self.users: set[Stream] = set()  # the streams that replays ran on

    def close(self) -> None:
        """Give the free buffers back once all replays are done. Those of tensors that live go to
        their stream's ordinary bins when they are freed."""
        for stream, bins in self.bins.items():
            pool = stream.gpu.pool
            side = side_stream(stream.gpu)
            for user in self.users:
                if user.capture is None:
                    side.wait_stream(user)
            with pool.lock:
                for b in bins.values():
                    free, b.free = b.free, pool.bin(stream, b.size).free
                    for buf in free:
                        check(pool.device.drv.cuMemFreeAsync(buf, side.cu), "freeing memory")
                    pool.reserved -= b.size * len(free)
        self.bins = {}

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:
            pass  # the driver is shutting down


def side_stream(gpu: Any) -> Stream:
    """A stream that is never captured, on which captures ask for memory."""
    found = gpu.libraries.get("side stream")
    if found is None:
        found = gpu.libraries["side stream"] = Stream.fresh(gpu)
    made: Stream = found
    return made


class _Draw(NamedTuple):
    """A draw during a capture: who drew, from where in its stream (relative), how much, and the
    seed then."""

    generator: Any
    first: int
    groups: int
    key: int


class _Patch(NamedTuple):
    """A kernel node with random numbers: its parameters, the values of its arguments, and which
    of them are offsets: (argument of the offset, argument of the seed, draw, what is added)."""

    node: Any
    params: Any
    values: Any
    places: list[tuple[int, int, _Draw, int]]
    keep: Any


class Capture:
    """A capture that is going on: its streams, their ordinary bins, and the draws."""

    # Draws take offsets of their own: the pattern is no address, no size and no likely number.
    SPACING = 1 << 40

    def __init__(self, stream: Stream, pool: GraphPool, public: bool = True) -> None:
        self.pool: GraphPool | None = pool  # None once it is over
        self.public = public  # whether anyone else may see that it goes on
        self.stream = stream
        self.gpu = stream.gpu
        self.side = side_stream(self.gpu)
        self.thread = threading.get_ident()
        self.ordinary: dict[Stream, dict[int, Bin]] = {}
        self.draws: list[_Draw] = []
        self.others: list[tuple[int, int]] = []  # (seed, offset) drawn for other devices
        self.totals: dict[Any, int] = {}
        self.base = (0x2A5C << 48) | (os.urandom(1)[0] | 1) << 40
        self.checks: list[Any] = []  # statuses of indices that replays leave
        self.lent: list[Any] = []  # buffers that several streams used and that were freed
        self.keep: list[Any] = []  # host memory that copies of the graph read or write

    def start(self) -> None:
        """Switch the stream to the graph's memory and begin."""
        self.join(self.stream)
        if self.public:
            self.offset = generator_of(self.gpu.where).offset
            self.gpu.captures.append(self)
            capture.captures.append(self)
        try:
            self.gpu.activate()
            mode = self.gpu.drv.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            check(self.gpu.drv.cuStreamBeginCapture(self.stream.cu, mode), "beginning a capture")
        except BaseException:
            self.leave()
            raise

    def join(self, stream: Stream) -> None:
        """Take in another stream, which has been made to wait for this capture's work."""
        if self.pool is None:
            return
        if stream.capture is not None and stream.capture is not self:
            raise RuntimeError("two captures cannot wait for each other")
        if stream not in self.ordinary:
            self.ordinary[stream] = stream.bins
            stream.bins = self.pool.bins.setdefault(stream, {})
            stream.capture = self

    def leave(self) -> None:
        """Switch back."""
        if self.public:
            capture.captures.remove(self)
            self.gpu.captures.remove(self)
        for stream, bins in self.ordinary.items():
            stream.bins, stream.capture = bins, None
        self.ordinary = {}
        self.pool = None
        for bin, buf in self.lent:
            bin.done(buf)

    def draw(self, generator: Any, groups: int) -> int | None:
        """A generator is asked for `groups` groups (see `lampion.runtime.capture`)."""
        if threading.get_ident() != self.thread:
            return None
        if generator.device.type != "cuda":
            self.others.append((generator.key, generator.offset))
            return None
        first = self.totals.get(generator, 0)
        self.totals[generator] = first + groups
        self.draws.append(_Draw(generator, first, groups, generator.key))
        return self.base + (len(self.draws) - 1) * self.SPACING

    def refuse(self, doing: str) -> None:
        """Raise the error for what cannot be captured, naming the call."""
        raise RuntimeError(f"{doing} is not possible while a CUDA graph is captured{_caller()}: "
                           "nothing runs before the replay, so there is no value yet. Do it "
                           "before or after the capture, or keep the value on the GPU.")

    def patches(self, graph: Any) -> list[_Patch]:
        """The graph's kernel nodes that draw. RuntimeError if a draw is not among them."""
        if generator_of(self.gpu.where).offset != self.offset:
            raise RuntimeError("random numbers were drawn without asking the capture of a CUDA "
                               "graph: they would be the same in every replay. Please report this")
        drv = self.gpu.drv
        doing = "reading a graph"
        if not (self.draws or self.others):
            return []
        count = check(drv.cuGraphGetNodes(graph, 0), doing)[1]
        nodes = check(drv.cuGraphGetNodes(graph, count), doing)[0] if count else []
        found, seen = [], set()
        for node in nodes:
            kind = check(drv.cuGraphNodeGetType(node), doing)
            if kind != drv.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL:
                continue
            params = check(drv.cuGraphKernelNodeGetParams(node), doing)
            if int(params.func):  # else a library's kernel of another kind, which draws nothing
                patch = self._patch(node, params)
                seen.update(place[2] for place in patch.places)
                if patch.places:
                    found.append(patch)
        if len(seen) != len(set(self.draws)):
            raise RuntimeError("random numbers that were drawn during the capture of a CUDA graph "
                               "are used in no kernel of it that can be told to draw on: draw "
                               "them before the capture")
        return found

    def _patch(self, node: Any, params: Any) -> _Patch:
        """Where a kernel node takes what `draw` gave; the places are empty if it does not."""
        sizes = []
        while True:
            code, _, size = self.gpu.drv.cuFuncGetParamInfo(params.func, len(sizes))
            if code:
                break
            sizes.append(int(size))
        count = max(len(sizes), 1)
        table = (ctypes.c_void_p * count).from_address(int(params.kernelParams))
        words = {k: ctypes.c_int64.from_address(table[k]).value
                 for k, size in enumerate(sizes) if size == 8}
        places = []
        for k, value in words.items():
            n, more = divmod(value - self.base, self.SPACING)
            if 0 <= n < len(self.draws) and more <= self.draws[n].groups:
                draw = self.draws[n]
                if words.get(k - 1) != draw.key:
                    raise RuntimeError("a kernel takes an offset of random numbers without the "
                                       "seed before it")
                places.append((k, k - 1, draw, more))
            elif (words.get(k - 1), value) in self.others:
                raise RuntimeError(
                    "a generator of another device was used while a CUDA graph was captured: its "
                    "numbers would be the same in every replay. Use lampion.Generator('cuda').")
        if not places:
            return _Patch(node, params, None, places, None)
        copies = [ctypes.create_string_buffer(ctypes.string_at(table[k], size), size)
                  for k, size in enumerate(sizes)]
        values = {k: ctypes.c_int64.from_buffer(copies[k]) for k in words}
        pointers = (ctypes.c_void_p * count)(*map(ctypes.addressof, copies))
        params.kernelParams = ctypes.addressof(pointers)
        return _Patch(node, params, values, places, (copies, pointers))


def _caller() -> str:
    """Which call of the program this is: the outermost function of ours, and its place."""
    frame, name = sys._getframe(2), ""
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _PACKAGES:
            return f" (in {name}(), {frame.f_code.co_filename}:{frame.f_lineno})"
        name = frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return f" (in {name}())"


class CUDAGraph:
    """Work that was captured from a stream and is started again by `replay()`.

    Between `capture_begin()` and `capture_end()` on a stream that is not the default one, work is
    noted and not run. Replays read and write the same addresses: copy new inputs into the tensors
    that were used in the capture. `graph` is the easier way to capture.

    `keep_graph`: do not instantiate at the end of the capture; `instantiate()` or `replay()` does.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        self._keep_graph = keep_graph
        self._capture: Capture | None = None
        self._clear()

    def _clear(self) -> None:
        self._graph: Any = None
        self._exec: Any = None
        self._gpu: Any = None
        self._pool: GraphPool | None = None
        self._patches: list[_Patch] = []
        self._totals: dict[Any, int] = {}
        self._kept: list[Any] = []
        self._checks: list[Any] = []

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Begin to note the current stream's work. `pool`: memory that is shared with other
        graphs, from `graph_pool_handle()` or another graph's `pool()`.

        RuntimeError on the default stream, or if the stream is being captured.
        """
        if capture_error_mode not in ("global", "thread_local", "relaxed"):
            raise RuntimeError("Unknown capture error mode. Expected `global`, `thread_local`, or "
                               f"`relaxed`, got {capture_error_mode}")
        gpu = opened(None)
        stream = gpu.current.stream
        if stream is gpu.default_stream:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream. (However, "
                               "after capture, it's ok to replay them on the default stream.)")
        if stream.capture is not None:
            raise RuntimeError("this stream is already being captured")
        if self._graph is not None:
            raise RuntimeError("This CUDAGraph instance already owns a captured graph. To capture "
                               "a new graph, create a new instance or call reset().")
        if pool is not None and not isinstance(pool, GraphPool):
            raise TypeError(f"pool must come from graph_pool_handle() or CUDAGraph.pool(), not "
                            f"{type(pool).__name__}")
        self._pool = GraphPool() if pool is None else pool
        self._gpu = gpu
        self._capture = Capture(stream, self._pool)
        try:
            self._capture.start()
        except BaseException:
            self._capture = None
            self._clear()
            raise

    def capture_end(self) -> None:
        """End the capture, on the stream where it began."""
        capture, gpu = self._capture, self._gpu
        if capture is None:
            raise RuntimeError("capture_end() without capture_begin()")
        if gpu.current.stream is not capture.stream:
            raise RuntimeError("Capture must end on the same stream it began on.")
        self._capture = None
        try:
            gpu.activate()
            self._graph = check(gpu.drv.cuStreamEndCapture(capture.stream.cu), "ending a capture")
        finally:
            capture.leave()
        try:
            self._patches = capture.patches(self._graph)
            self._totals, self._kept = capture.totals, capture.keep
            self._checks = capture.checks
            if not self._keep_graph:
                self.instantiate()
        except BaseException:
            self.reset()
            raise

    def instantiate(self) -> None:
        """Make the captured graph ready to run."""
        if self._graph is None:
            raise RuntimeError("instantiate() before a graph was captured")
        drv = self._gpu.drv
        self._gpu.activate()
        if self._exec is not None:
            check(drv.cuGraphExecDestroy(self._exec), "dropping a graph")
        self._exec = check(drv.cuGraphInstantiate(self._graph, 0), "instantiating a graph")

    def replay(self) -> None:
        """Enqueue the whole graph on the current stream. RuntimeError without a captured graph."""
        if self._exec is None:
            if self._graph is None:
                raise RuntimeError("Called CUDAGraph::replay without a preceding successful "
                                   "capture.")
            self.instantiate()
        gpu = self._gpu
        gpu.activate()
        stream = gpu.current.stream
        if self._patches:
            self._draw_on()
        if self._checks:
            gpu.checks.again(self._checks)
        def launch() -> None:
            check(gpu.drv.cuGraphLaunch(self._exec, stream.cu), "replaying a graph")

        if capture.timers:
            capture.timers[-1](launch, "cuda.graph", gpu.where)
        else:
            launch()
        assert self._pool is not None
        self._pool.users.add(stream)

    def _draw_on(self) -> None:
        """Give the graph's kernels the generators' seeds and next offsets."""
        with _lock:
            starts = {g: g.advance(groups) for g, groups in self._totals.items()}
            set_params = self._gpu.drv.cuGraphExecKernelNodeSetParams
            for node, params, values, places, _ in self._patches:
                for offset, key, draw, more in places:
                    values[offset].value = starts[draw.generator] + draw.first + more
                    values[key].value = draw.generator.key
                check(set_params(self._exec, node, params), "moving a graph's random numbers")

    def reset(self) -> None:
        """Drop the graph and its memory; the object can capture anew."""
        if self._pool is not None:  # replays that are under way still use its host memory
            for block in {*self._kept, *(status.block for status in self._checks)}:
                for user in self._pool.users:
                    if user.capture is None:
                        block.used(user)
        if self._exec is not None or self._graph is not None:
            self._gpu.activate()
            if self._exec is not None:
                check(self._gpu.drv.cuGraphExecDestroy(self._exec), "dropping a graph")
            if self._graph is not None:
                check(self._gpu.drv.cuGraphDestroy(self._graph), "dropping a graph")
        self._clear()

    def pool(self) -> GraphPool:
        """The graph's memory, to share with other captures."""
        if self._pool is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self._pool

    def register_generator_state(self, generator: Any) -> None:
        """Kept for programs that call it: every generator that draws is found by itself."""

    def enable_debug_mode(self) -> None:
        """Kept for programs that call it: `debug_dump` needs no mode."""

    def debug_dump(self, debug_path: str) -> None:
        """Write the graph's nodes to a file in the language of Graphviz."""
        if self._graph is None:
            raise RuntimeError("debug_dump() before a graph was captured")
        drv = self._gpu.drv
        check(drv.cuGraphDebugDotPrint(self._graph, os.fsencode(debug_path), 0),
              "writing a graph")

    def __del__(self) -> None:
        try:
            self.reset()
        except Exception:
            pass  # the driver is shutting down


def graph_pool_handle() -> GraphPool:
    """Memory that several graphs share: `graph(g, pool=handle)`."""
    return GraphPool()


def is_current_stream_capturing() -> bool:
    """Whether work of the current stream is noted for a graph and not run."""
    from .driver import _devices

    return bool(_devices) and opened(None).current.stream.capture is not None


class graph:
    """Context manager that captures the block's work into a `CUDAGraph`.

    `pool`: memory shared with other graphs. `stream`: where it is captured, a stream of the
    class's own by default.

        g = lampion.cuda.CUDAGraph()
        with lampion.cuda.graph(g):
            y = model(x)
        x.copy_(new); g.replay()        # y has the result
    """

    def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None,
                 capture_error_mode: str = "global") -> None:
        from .namespace import StreamContext

        gpu = opened(None)
        if stream is None:
            stream = gpu.libraries.get("capture stream")
            if stream is None:
                stream = gpu.libraries["capture stream"] = Stream.fresh(gpu)
        self.cuda_graph, self.pool, self.mode = cuda_graph, pool, capture_error_mode
        self.capture_stream = stream
        self._context = StreamContext(stream)

    def __enter__(self) -> None:
        gpu = self.capture_stream.gpu
        gpu.finish()
        gc.collect()
        gpu.pool.empty_cache()
        self._context.__enter__()
        try:
            self.cuda_graph.capture_begin(self.pool, self.mode)
        except BaseException:
            self._context.__exit__()
            raise

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.cuda_graph.capture_end()
        except Exception:
            if kind is None:  # else the block's own exception says more
                raise
        finally:
            self._context.__exit__()
            if kind is not None:
                self.cuda_graph.reset()


# ---- graphed callables -------------------------------------------------------------------------

def make_graphed_callables(callables: Any, sample_args: Any, num_warmup_iters: int = 3,
                           allow_unused_input: bool = False, pool: Any = None) -> Any:
    """Functions or modules whose forward and backward passes are replayed graphs.

    `callables`: one or a tuple; `sample_args`: a tuple of tensors for one, a tuple of tuples for
    several, of the shapes, dtypes and `requires_grad` of all later calls. A module is changed in
    place and returned; in another mode (train, eval) than at capture it runs as before. Results are
    overwritten by the next call. RuntimeError for modules with hooks or with buffers that require
    gradients.
    """
    single = not isinstance(callables, tuple)
    if single:
        callables, sample_args = (callables,), (sample_args,)
    handle = graph_pool_handle() if pool is None else pool
    parts = [_Part(f, tuple(a), allow_unused_input) for f, a in zip(callables, sample_args)]
    side = Stream()
    from .namespace import current_stream, stream

    side.wait_stream(current_stream())
    with stream(side):
        for part in parts:
            part.warm_up(num_warmup_iters)
    current_stream().wait_stream(side)
    for part in parts:
        part.capture_forward(handle)
    for part in reversed(parts):  # memory is shared in the order of the replays
        part.capture_backward(handle)
    made = tuple(part.callable() for part in parts)
    return made[0] if single else made


class _Part:
    """One callable with its static inputs and results and its two graphs."""

    def __init__(self, function: Any, args: tuple[Any, ...], unused: bool) -> None:
        from lampion import nn
        from lampion.utils import _pytree

        self.function, self.unused, self.tree = function, unused, _pytree
        self.module = isinstance(function, nn.Module)
        if self.module:
            if (function._backward_hooks or function._forward_hooks
                    or function._forward_pre_hooks):
                raise RuntimeError("Modules must not have hooks registered at the time they are "
                                   "passed. However, registering hooks on modules after passing "
                                   "them through make_graphed_callables is allowed.")
            if any(b.requires_grad for b in function.buffers()):
                raise RuntimeError("In any module passed to make_graphed_callables, only "
                                   "parameters may be trainable. All buffers must have "
                                   "``requires_grad=False``.")
        leaves, self.spec = _pytree.tree_flatten(args)
        if not all(hasattr(leaf, "meta") for leaf in leaves):
            raise TypeError("in make_graphed_callables, sample_args for each callable must "
                            "contain only Tensors; other types are not allowed")
        self.args, self.inputs = args, tuple(leaves)
        weights = tuple(function.parameters()) if self.module else ()
        self.surface = self.inputs + weights
        self.training = self.module and function.training

    def _differentiable(self) -> tuple[Any, ...]:
        return tuple(t for t in self.surface if t.requires_grad)

    def _gradients(self, outputs: Sequence[Any], seeds: Sequence[Any]) -> Sequence[Any]:
        from lampion import autograd

        made: Sequence[Any] = autograd.grad(outputs, self._differentiable(), seeds,
                                            allow_unused=self.unused)
        return made

    def warm_up(self, times: int) -> None:
        """Run it, so that kernels are compiled and libraries set up."""
        from lampion import ones_like

        for _ in range(times):
            outputs = [o for o in self.tree.tree_flatten(self.function(*self.args))[0]
                       if o.requires_grad]
            if outputs and self._differentiable():
                self._gradients(outputs, [ones_like(o) for o in outputs])

    def capture_forward(self, pool: Any) -> None:
        """Capture the forward pass."""
        self.forward = CUDAGraph()
        with graph(self.forward, pool=pool):
            results = self.function(*self.args)
        self.outputs, self.result_spec = self.tree.tree_flatten(results)

    def capture_backward(self, pool: Any) -> None:
        """Capture the backward pass for gradients that are copied in."""
        from lampion import empty_like

        self.backward = CUDAGraph()
        self.seeds = [empty_like(o) if o.requires_grad else None for o in self.outputs]
        outputs = [o for o in self.outputs if o.requires_grad]
        found: list[Any] = []
        if outputs and self._differentiable():
            with graph(self.backward, pool=pool):
                found = list(self._gradients(outputs, [s for s in self.seeds if s is not None]))
        grads = iter(found)
        self.grads = [next(grads, None) if t.requires_grad else None for t in self.surface]
        self.outputs = [o.detach() for o in self.outputs]

    def callable(self) -> Any:
        """The function to call instead, or the module with it as its forward."""
        from lampion.autograd.function import Function

        part = self

        class Graphed(Function):
            """Replays of the forward and the backward graph."""

            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                for static, given in zip(part.inputs, inputs):
                    if static.data_ptr() != given.data_ptr():
                        static.copy_(given)
                part.forward.replay()
                return tuple(o.detach() for o in part.outputs)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                for seed, grad in zip(part.seeds, grads):
                    if seed is not None and seed.data_ptr() != grad.data_ptr():
                        seed.copy_(grad)
                if part.backward._graph is not None:
                    part.backward.replay()
                return tuple(None if g is None else g.detach() for g in part.grads)

        weights = self.surface[len(self.inputs):]

        def graphed(*args: Any) -> Any:
            leaves = self.tree.tree_flatten(args)[0]
            outputs = Graphed.apply(*leaves, *weights)
            return self.tree.tree_unflatten(outputs, self.result_spec)

        if not self.module:
            return graphed
        module, plain = self.function, self.function.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            same = module.training == self.training
            return graphed(*args) if same and not kwargs else plain(*args, **kwargs)

        module.forward = forward
        return module
