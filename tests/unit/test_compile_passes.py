"""The compiler's passes one by one, on graphs of small functions; the memory plan; sequences."""

from __future__ import annotations

import gc
import weakref

import pytest

import lampion
from lampion.base import dtype as dt
from lampion.base.meta import meta
from lampion.compiler import fusion, joining, memory, passes, program, recompute
from lampion.compiler.graph import Buffer, Call, Ref
from lampion.compiler.trace import Trace
from lampion.ops.registry import REGISTRY
from lampion.runtime.devices import resolve
from lampion.tensor import make_tensor


def traced(fn, *args):
    """The graph of one run, unchanged."""
    trace = Trace("test", args)
    with trace:
        out = fn(*args)
        trace.finish()
    assert not trace.reason, trace.reason
    outs = out if isinstance(out, tuple) else (out,)
    return trace.graph([trace.ref(t.data_, t.meta) for t in outs])


def ops(graph):
    return [c.op for c in graph.calls]


def results(graph, *args):
    """What the graph computes."""
    storages = program.build(graph).run([t.data_ for t in args])
    return [make_tensor(s, r.meta, None) for s, r in zip(storages, graph.outputs)]


X = lampion.arange(6.0).reshape(2, 3)
Y = lampion.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]])


def agree(graph, fn, *args):
    want = fn(*[a.clone() for a in args])
    want = want if isinstance(want, tuple) else (want,)
    for got, w in zip(results(graph, *[a.clone() for a in args]), want):
        assert lampion.allclose(got, w)


def test_a_trace_is_every_launch_and_no_view():
    graph = traced(lambda x: (x.t()[1:] * 2).sum(), X)
    assert ops(graph) == ["mul", "sum"]
    assert graph.calls[0].reads[0].offset == 4 and "arg0+4" in str(graph)
    agree(graph, lambda x: (x.t()[1:] * 2).sum(), X)


def test_functionalize_renames_writes_to_the_whole():
    def fn(x):
        y = x * 2
        y.add_(1)
        z = y + 0
        y.mul_(3)
        return y, z

    graph = traced(fn, X)
    passes.drop_dead(graph)  # the copies that layers are shown
    before = {w.buffer for c in graph.calls for w in c.writes}
    passes.functionalize(graph)
    after = [w.buffer for c in graph.calls for w in c.writes]
    assert len(before) == 2 and len(after) == len(set(after)) == 4
    agree(graph, fn, X)


def test_functionalize_leaves_views_and_arguments():
    def fn(x):
        y = x * 2
        y[0].add_(1)
        x.add_(1)
        return y

    graph = traced(fn, X.clone())
    passes.drop_dead(graph)
    passes.functionalize(graph)
    kinds = [w.buffer.kind for c in graph.calls for w in c.writes]
    assert kinds == ["made", "made", "input"]
    assert graph.calls[0].writes[0].buffer is graph.calls[1].writes[0].buffer
    agree(graph, fn, X)


def test_share_common_runs_equal_calls_once():
    def fn(x, y):
        return (x.exp() + y) * (x.exp() + y) + x.exp()[0]

    graph = traced(fn, X, Y)
    passes.share_common(graph)
    assert ops(graph) == ["exp", "add", "mul", "add"]
    agree(graph, fn, X, Y)


def test_share_common_sees_writes_in_between():
    def fn(x):
        y = x * 2
        a = y.exp()
        y[0] = 7
        return a + y.exp()

    graph = traced(fn, X)
    passes.share_common(graph)
    assert ops(graph).count("exp") == 2
    agree(graph, fn, X)


def test_share_common_keeps_random_numbers_apart():
    graph = traced(lambda x: lampion.rand(3) + lampion.rand(3), X)
    passes.share_common(graph)
    assert len(graph.calls) == 3


def test_drop_dead_keeps_what_is_seen_outside():
    kept = lampion.zeros(2, 3)

    def fn(x):
        x.sin()
        x.exp().cos()
        kept.add_(x)
        return x * 2

    graph = traced(fn, X)
    passes.drop_dead(graph)
    assert ops(graph) == ["add", "mul"]


def test_elide_copies_only_where_the_source_ends():
    graph = traced(lambda x: (x * 2).clone().exp(), X)
    passes.elide_copies(graph)
    assert ops(graph) == ["mul", "exp"]
    agree(graph, lambda x: (x * 2).clone().exp(), X)

    def read_later(x):
        y = x * 2
        z = y.clone()
        z.add_(1)
        return z + y

    graph = traced(read_later, X)
    passes.elide_copies(graph)
    assert "duplicate" in ops(graph)
    agree(graph, read_later, X)


@pytest.mark.parametrize("fn, want", [
    (lambda x, y: (x + y).relu() * 2, ["fused(add, relu, mul)"]),
    (lambda x, y: (x.exp(), x.sin()), ["fused(exp, sin)"]),
    (lambda x, y: (x.exp().sum(), (y * 2).t().exp()), ["exp", "sum", "mul", "exp"]),
    (lambda x, y: x.exp() + x.exp().sum(), ["exp", "exp", "sum", "add"]),
], ids=["vertical", "horizontal", "layout", "reduction"])
def test_fusion(fn, want):
    graph = traced(fn, X, Y)
    fusion.fuse(graph)
    if want[0].startswith("fused"):
        assert ops(graph) == want
    else:
        assert sum(op.count(",") + 1 for op in ops(graph)) == len(want)
    agree(graph, fn, X, Y)


def test_fusion_makes_no_cycle():
    def fn(x):
        a = x.exp()
        s = a.sum(1, True)
        b = a / s  # needs the sum of what it would be fused with
        return b.log(), a

    graph = traced(fn, X)
    fusion.fuse(graph)
    assert ops(graph) == ["exp", "sum", "fused(div, log)"]
    agree(graph, fn, X)


def test_fused_values_are_rounded_as_the_tensors_were():
    def fn(x):
        return (x.to(lampion.bfloat16) * 1.01).float() - x

    x = lampion.randn(64)
    graph = traced(fn, x)
    fusion.fuse(graph)
    assert len(graph.calls) == 1
    assert lampion.equal(results(graph, x)[0], fn(x))


def test_join_in_place():
    graph = traced(lambda x, y: lampion.cat([x * 2, y + 1]).exp(), X, Y)
    joining.join_in_place(graph)
    assert ops(graph) == ["mul", "add", "exp"]
    assert graph.calls[1].writes[0].offset == X.numel() * 4
    agree(graph, lambda x, y: lampion.cat([x * 2, y + 1]).exp(), X, Y)
    for fn in (lambda x, y: lampion.cat([x * 2, y + 1], 1), lambda x, y: lampion.cat([x, y * 2])):
        graph = traced(fn, X, Y)
        joining.join_in_place(graph)
        assert "cat" in ops(graph)
        agree(graph, fn, X, Y)


def test_merge_products():
    def plain(x, y):
        total = None
        for k in range(6):
            g = REGISTRY["gemm"].fn(x + k, x * k, True, False)
            total = g if total is None else total + g
        return total

    graph = traced(plain, X, Y)
    joining.merge_products(graph)
    assert ops(graph).count("gemm") == 1 and "add" not in ops(graph)[-1:]
    agree(graph, plain, X, Y)


def test_the_memory_plan_never_shares_what_lives_together():
    def fn(x):
        a = x.exp()
        b = a.sum(0)
        c = x.sin().cumsum(0)
        d = (a @ x.t()).relu()
        return b + c.sum() + d.sum()

    graph = traced(fn, X)
    plan = memory.plan(graph)
    lives = {}
    for k, c in enumerate(graph.items):
        for r in c.refs if type(c) is Call else ():
            if r.buffer in plan.at:
                first, _ = lives.get(r.buffer, (k, k))
                lives[r.buffer] = (first, k)
    for b, (start, end) in lives.items():
        for o, (s, e) in lives.items():
            if b is not o and start < e and s < end:  # an operand may be written over at its end
                low, high = plan.at[b], plan.at[b] + b.nbytes
                assert plan.at[o] >= high or plan.at[o] + o.nbytes <= low
    assert plan.size <= plan.total
    agree(graph, fn, X)


def test_elementwise_results_take_over_their_operands():
    graph = traced(lambda x: ((x @ x.t()).relu() @ x).sum(), X)
    plan = memory.plan(graph)
    product, relu = graph.calls[0].writes[0].buffer, graph.calls[1].writes[0].buffer
    assert plan.at[product] == plan.at[relu]


def test_blocks_are_reused_and_joined():
    plan = memory.Plan()
    a, b, c = plan.take(128), plan.take(64), plan.take(64)
    plan.give(b, 64)
    plan.give(a, 128)
    assert plan.take(192) == a and plan.size == 256
    plan.give(c, 64)
    assert plan.take(128) == c and plan.size == c + 128  # the end grows


def test_refs():
    cpu = resolve("cpu")
    b = Buffer("made", 3, 24, cpu)
    whole = Ref(b, 0, meta(dt.float32, (2, 3), None, cpu))
    assert whole.whole and repr(whole) == "%3:float32[2x3]"
    assert not Ref(b, 4, meta(dt.float32, (5,), None, cpu)).whole
    assert "strides" in repr(Ref(b, 0, meta(dt.float32, (3, 2), (1, 3), cpu)))


def waiting(x, w):
    """gelu(x) is read at once and, after a long chain, again beside a product of x."""
    y = lampion.nn.functional.gelu(x)
    z = y @ w
    for _ in range(recompute.LEAST_CALLS):
        z = (z @ w).sin()
    return x * z, y @ z


def test_recompute_makes_values_again_beside_who_reads_their_operands(monkeypatch):
    monkeypatch.setattr(recompute, "LEAST_BYTES", 0)
    args = (lampion.randn(4, 4), lampion.randn(4, 4))
    graph = traced(waiting, *args)
    before = ops(graph).count("gelu")
    recompute.recompute(graph)
    assert ops(graph).count("gelu") == before + 1
    kept, again = (c for c in graph.calls if c.op == "gelu")
    assert kept.reads == again.reads and kept.writes[0].buffer is not again.writes[0].buffer
    assert graph.items.index(again) - graph.items.index(kept) > recompute.LEAST_CALLS
    agree(graph, waiting, *args)
    fusion.fuse(graph)
    assert any(c.op.startswith("fused(") and {"gelu", "mul"} <= set(c.op[6:-1].split(", "))
               for c in graph.calls)
    assert ops(graph).count("gelu") == 1  # the first one; the second is in the kernel
    agree(graph, waiting, *args)


@pytest.mark.parametrize("change", ["bytes", "operand gone", "operand written", "no partner"])
def test_recompute_leaves_alone_what_would_cost(monkeypatch, change):
    monkeypatch.setattr(recompute, "LEAST_BYTES", 1 << 20 if change == "bytes" else 0)

    def fn(x, w):
        x = x + 1 if change == "operand gone" else x
        y = lampion.nn.functional.gelu(x)
        z = y @ w
        if change == "operand written":
            x.mul_(2)
        for _ in range(recompute.LEAST_CALLS):
            z = (z @ w).sin()
        partner = z if change in ("operand gone", "no partner") else x * z
        return (y * z).sum(), partner

    args = (lampion.randn(4, 4), lampion.randn(4, 4))
    graph = traced(fn, *args)
    before = ops(graph)
    recompute.recompute(graph)
    assert ops(graph) == before
    agree(graph, fn, *args)


def test_a_trace_lets_go_of_what_it_saw_without_the_garbage_collector():
    gc.disable()
    try:
        trace = Trace("test", (X,))
        with trace:
            (X * 2).sum()
            trace.finish()
        seen = weakref.ref(trace)
        del trace
        assert seen() is None
    finally:
        gc.enable()
