"""What became of a compiled function: its graphs, kernels, memory and times, as text or HTML.

Floor 6; imports program and function. `explain(f)(*args)` compiles a function afresh for these
arguments, runs it, times its calls one by one and gives a `Report`.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ops import plans as P
from ..tensor import empty_meta
from .arguments import take_apart
from .graph import Call, Ref, escaping
from .guards import is_module
from .memory import rounded
from .program import Program, build


class Report:
    """The programs of one call of a compiled function.

    `str(report)` is a text for a terminal; `report.html(path)` writes a page with the graph, the
    fused groups, memory over time and the time of every call.
    """

    def __init__(self, name: str, reason: str, programs: list[Program],
                 traced: list[list[str]]) -> None:
        self.name, self.reason, self.programs, self.traced = name, reason, programs, traced
        self.times: list[dict[int, float]] = [{} for _ in programs]

    @property
    def graph_break_count(self) -> int:
        """1 if the function runs eagerly, else 0."""
        return int(bool(self.reason))

    @property
    def graph_count(self) -> int:
        """How many programs there are: one, or a forward and a backward one."""
        return len(self.programs)

    @property
    def op_count(self) -> int:
        """How many launches the trace saw."""
        return sum(map(len, self.traced))

    @property
    def kernel_count(self) -> int:
        """How many launches are left."""
        return sum(len(p.graph.calls) for p in self.programs)

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name} runs eagerly: {self.reason}"
        lines = [f"{self.name}: {self.op_count} launches traced, {self.kernel_count} are run, in "
                 f"{self.graph_count} program{'s' * (self.graph_count > 1)}"]
        for p, times in zip(self.programs, self.times):
            total = sum(times.values())
            lines.append(f"\n{p.graph.name}: {len(p.graph.calls)} launches in {p.sequences} "
                         f"sequences, {_bytes(p.memory.size)} of memory for "
                         f"{_bytes(p.memory.total)} of temporaries"
                         + (f", {1e3 * total:.3f} ms" if times else ""))
            for k, x in enumerate(p.graph.items):
                time = f"{1e6 * times[k]:9.1f} us " if k in times else " " * 13 * bool(times)
                where = f"   # {x.where}" if type(x) is Call and x.where else ""
                lines.append(f"  {time}{x!r}{where}")
        return "\n".join(lines)

    def html(self, path: Any) -> None:
        """Write the report as one page without outside references."""
        Path(path).write_text(_page(self), encoding="utf-8")


def explain(fn: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """`explain(fn)(*args, **kwargs)`: compile `fn` for these arguments and report on it.

    >>> report = lampion.compiler.explain(lambda x: (x + 1).exp() * 2)(lampion.ones(3))
    >>> report.op_count, report.kernel_count
    (3, 1)
    """
    def run(*args: Any, **kwargs: Any) -> Report:
        from . import function

        known = fn if isinstance(fn, function.Compiled) else getattr(fn, "_compiled", None)
        if known is not None:
            target = None if known.target is known.fn else known.target
            fresh = function.Compiled(known.fn, options=known.options, target=target,
                                      dynamic=known.dynamic)
        elif is_module(fn):
            fresh = function.Compiled(lambda *a, **k: fn(*a, **k), target=fn)
        else:
            fresh = function.Compiled(fn)
        traced: list[list[str]] = []
        before = function.seen_graphs
        function.seen_graphs = lambda graph: traced.append([c.op for c in graph.calls])
        try:
            fresh(*args, **kwargs)
        finally:
            function.seen_graphs = before
        entries = [e for row in fresh.entries.values() for e in row]
        entry = entries[-1] if entries else function.Entry(None, "it cannot be traced")
        report = Report(fresh.name, entry.reason, list(entry.programs), traced)
        if not entry.reason:
            _measure(report, entry, args, kwargs)
        return report

    return run(*given, **options) if given or options else run


def _measure(report: Report, entry: Any, args: Any, kwargs: Any, runs: int = 5) -> None:
    """Times of the calls, medians over a few runs; memory outside that they write to is put back
    afterwards."""
    tensors: list[Any] = []
    take_apart((args, kwargs), [], tensors, [])
    storages = [t.data_ for t in tensors]
    if any(b.kind == "grad" and b.owner.grad is None for p in report.programs
           for c in p.graph.calls for b in (r.buffer for r in c.refs)):
        return
    given: Any = (storages, ())
    for program, times in zip(report.programs, report.times):
        found: dict[int, list[float]] = {}
        timed = build(program.graph, lambda k, s, f=found: f.setdefault(k, []).append(s))
        before = [(s, copy(s, n)) for s, n, copy in _outside(program, given[0])]
        for _ in range(runs):
            result = timed.run(*given)
        for s, (raw, put) in before:
            put(raw, s)
        times.update({k: sorted(row)[len(row) // 2] for k, row in found.items()})
        back = getattr(entry, "backward", None)
        if back is not None and program is not back.program:
            grads = []
            for m in back.metas:
                g = empty_meta(m)
                g.fill_(1)
                grads.append(g.data_)
            given = ([*grads, *[storages[k] for k in back.args], *[result[k] for k in back.saved]],
                     result[len(result) - 2 * len(back.program.graph.given):])


def _outside(program: Program, inputs: Any) -> list[Any]:
    """(storage, bytes, how to copy it) of the memory outside that a program writes to."""
    out = {}
    for c in program.graph.calls:
        for w in c.writes:
            b = w.buffer
            if b.kind != "made":
                backend = P.backend_of(c.call.device)
                s = inputs[b.index].base if b.kind == "input" else (
                    b.owner.grad.data_.base if b.kind == "grad" else b.storage.base)

                def copy(s: Any, n: int, backend: Any = backend) -> Any:
                    return bytes(backend.copy_to_host(s, n)), backend.copy_from_host

                out[id(s)] = (s, b.nbytes, copy)
    return list(out.values())


def _bytes(n: int) -> str:
    for word, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {word}"
    return f"{n} bytes"


def live_bytes(program: Program) -> list[int]:
    """Bytes of the arena that are alive during each item of the graph."""
    items, out = program.graph.items, escaping(program.graph)
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for k, x in enumerate(items):
        for r in (x.refs if type(x) is Call else ()):
            if r.buffer.kind == "made" and r.buffer not in out:
                first.setdefault(r.buffer, k)
                last[r.buffer] = k
    row = [0] * len(items)
    for b, k in first.items():
        for at in range(k, last[b] + 1):
            row[at] += rounded(b.nbytes)
    return row


_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;
color:#1c2430;background:#fbfbfa}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .5rem;text-align:left;
vertical-align:top;border-bottom:1px solid #e4e4e0}td.n{text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}code{font:12.5px ui-monospace,monospace;overflow-wrap:anywhere}
.bar{background:#c8643c;height:.6rem;border-radius:2px}.host{background:#f3efe4}
.small{color:#667}.fused{color:#7a3a1c}svg{width:100%;height:10rem;background:#fff;
border:1px solid #e4e4e0}
"""


def _page(report: Report) -> str:
    name = html.escape(report.name)
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'>"
             "<meta name='viewport' content='width=device-width'>"
             f"<title>{name}</title><style>{_STYLE}</style><h1>{name}</h1>"]
    if report.reason:
        return "".join([*parts, f"<p>Runs eagerly: {html.escape(report.reason)}</p></html>"])
    parts.append(f"<p>{report.op_count} launches traced, {report.kernel_count} are run, in "
                 f"{report.graph_count} program{'s' * (report.graph_count > 1)}.</p>")
    for program, times in zip(report.programs, report.times):
        parts += _program(program, times)
    return "".join([*parts, "</html>"])


def _program(program: Program, times: dict[int, float]) -> list[str]:
    graph = program.graph
    most = max(times.values(), default=0.0)
    total = f", {1e3 * sum(times.values()):.3f} ms" if times else ""
    parts = [f"<h2>{html.escape(graph.name)}</h2><p>{len(graph.calls)} launches in "
             f"{program.sequences} sequences{total}. Temporaries of "
             f"{_bytes(program.memory.total)} share {_bytes(program.memory.size)}.</p>"]
    parts.append(_chart(live_bytes(program), program.memory.size))
    parts.append("<table><tr><th>#<th>launch<th>reads<th>writes<th>line<th>time</tr>")
    for k, x in enumerate(graph.items):
        if type(x) is not Call:
            parts.append(f"<tr class='host'><td class='n'>{k}<td colspan='5'>"
                         f"<code>{html.escape(repr(x))}</code></tr>")
            continue
        bar = f"<div class='bar' style='width:{100 * times[k] / most:.1f}%'></div>" \
            f"{1e6 * times[k]:.1f} us" if k in times and most else ""
        fused = "" if x.kernel is None else " class='fused'"
        reads = "<br>".join(html.escape(repr(r)) for r in x.reads if type(r) is Ref)
        writes = "<br>".join(html.escape(repr(r)) for r in x.writes)
        parts.append(f"<tr><td class='n'>{k}<td{fused}><code>{html.escape(x.op)}</code>"
                     f"<td class='small'><code>{reads}</code><td class='small'><code>{writes}"
                     f"</code><td class='small'>{html.escape(x.where)}<td class='n'>{bar}</tr>")
    return [*parts, "</table>", _kernels(program)]


def _chart(row: list[int], size: int) -> str:
    """Memory over the launches, as steps."""
    if not row or not size:
        return ""
    width, top = 1000 / len(row), max(size, *row)
    points = " ".join(f"{k * width:.1f},{100 - 95 * n / top:.1f} "
                      f"{(k + 1) * width:.1f},{100 - 95 * n / top:.1f}" for k, n in enumerate(row))
    line = 100 - 95 * size / top
    return ("<svg viewBox='0 0 1000 100' preserveAspectRatio='none' role='img' "
            "aria-label='memory over time'><polyline fill='#eed6c8' stroke='#c8643c' "
            f"vector-effect='non-scaling-stroke' points='0,100 {points} 1000,100'/>"
            f"<line x1='0' x2='1000' y1='{line:.1f}' y2='{line:.1f}' stroke='#889' "
            "stroke-dasharray='4' vector-effect='non-scaling-stroke'/></svg>"
            f"<p class='small'>Live bytes over the launches, {_bytes(max(row))} at most; dashed: "
            f"the arena, {_bytes(size)}.</p>")


def _kernels(program: Program) -> str:
    """The fused kernels as pseudo-code."""
    parts = []
    for c in program.graph.calls:
        if c.kernel is not None:
            parts.append(f"<details><summary><code>{html.escape(c.op)}</code></summary>"
                         f"<pre><code>{html.escape(str(c.kernel))}</code></pre></details>")
    return "<h2>Fused kernels</h2>" + "".join(parts) if parts else ""


__all__ = ["Report", "explain", "live_bytes"]
