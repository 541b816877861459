"""Events as a table of text. Floor 7; imports the standard library."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_OTHER = re.compile(r"(self_)?(?!cpu_|device_)[a-z0-9]+_(time|memory)(_.*)?")


def time_text(us: float, unit: str | None = None) -> str:
    """Microseconds as people read them.

    >>> time_text(12.5), time_text(2500), time_text(3e6)
    ('12.500us', '2.500ms', '3.000s')
    """
    if unit is None:
        unit = "s" if abs(us) >= 1e6 else "ms" if abs(us) >= 1e3 else "us"
    scale = {"s": 1e6, "ms": 1e3, "us": 1.0}[unit]
    return f"{us / scale:.3f}{unit}"


def memory_text(nbytes: float) -> str:
    """Bytes as people read them.

    >>> memory_text(512), memory_text(-2048)
    ('512 B', '-2.00 KB')
    """
    for word, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.2f} {word}"
    return f"{int(nbytes)} B"


def share_text(part: float, whole: float) -> str:
    """A part in percent; "NaN" of nothing."""
    return f"{100 * part / whole:.2f}%" if whole else "NaN"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width or width <= 3 else text[:width - 3] + "..."


def _sort_key(events: Any, sort_by: str) -> str:
    """The attribute to sort by: names that say another device mean the device."""
    found = _OTHER.fullmatch(sort_by)
    name = f"{found[1] or ''}device_{found[2]}{found[3] or ''}" if found is not None else sort_by
    if events and (name.startswith("_") or not isinstance(
            getattr(events[0], name, None), int | float)):
        raise ValueError(f"cannot sort by {sort_by!r}: it is no number of the events")
    return name


def table(events: Any, sort_by: str | None, row_limit: int, source_width: int, name_width: int,
          shapes_width: int, header: str | None, top_level_only: bool, use_device: str | None,
          memory: bool, flops: bool, time_unit: str | None) -> str:
    """See `EventList.table`."""
    if not events:
        return ""
    rows = list(events)
    if sort_by is not None:
        name = _sort_key(rows, sort_by)
        rows.sort(key=lambda e: getattr(e, name), reverse=True)
    host = sum(e.self_cpu_time_total for e in events)
    device = sum(e.self_device_time_total for e in events if e.device_type.name == "CPU")
    shapes = any(e.input_shapes for e in events)
    stacks = any(e.stack for e in events)

    def t(us: float) -> str:
        return time_text(us, time_unit)

    columns: list[tuple[str, Callable[[Any], str]]] = [
        ("Name", lambda e: _cut(str(e.key), name_width)),
        ("Self CPU %", lambda e: share_text(e.self_cpu_time_total, host)),
        ("Self CPU", lambda e: t(e.self_cpu_time_total)),
        ("CPU total %", lambda e: share_text(e.cpu_time_total, host)),
        ("CPU total", lambda e: t(e.cpu_time_total)), ("CPU time avg", lambda e: t(e.cpu_time))]
    if use_device is not None:
        word = use_device.upper()
        columns += [(f"Self {word}", lambda e: t(e.self_device_time_total)),
                    (f"Self {word} %", lambda e: share_text(e.self_device_time_total, device)),
                    (f"{word} total", lambda e: t(e.device_time_total)),
                    (f"{word} time avg", lambda e: t(e.device_time))]
    if memory:
        columns += [("CPU Mem", lambda e: memory_text(e.cpu_memory_usage)),
                    ("Self CPU Mem", lambda e: memory_text(e.self_cpu_memory_usage))]
        if use_device is not None:
            word = use_device.upper()
            columns += [(f"{word} Mem", lambda e: memory_text(e.device_memory_usage)),
                        (f"Self {word} Mem", lambda e: memory_text(e.self_device_memory_usage))]
    columns.append(("# of Calls", lambda e: str(e.count)))
    if shapes:
        columns.append(("Input Shapes", lambda e: _cut(str(e.input_shapes or "[]"), shapes_width)))
    if stacks:
        columns.append(("Source Location", lambda e: _cut(
            e.stack[0] if e.stack else "", source_width)))
    if flops:
        scale, word = _flops_scale(rows)
        columns.append((f"Total {word}FLOPs", lambda e: f"{e.flops / scale:.3f}" if e.flops
                        else "--"))
    if top_level_only:
        rows = [e for e in rows if e.cpu_parent is None]
    cells = [[title for title, _ in columns]]
    cells += [[show(e) for _, show in columns] for e in rows[:max(row_limit, 0) if row_limit != -1
                                                               else None]]
    text = _drawn(cells, header)
    text += f"Self CPU time total: {t(host)}\n"
    if use_device is not None:
        text += f"Self {use_device.upper()} time total: {t(device)}\n"
    return text


def _flops_scale(rows: list[Any]) -> tuple[float, str]:
    most = max((e.flops for e in rows), default=0)
    for scale, word in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if most >= scale:
            return scale, word
    return 1.0, ""


def _drawn(cells: list[list[str]], header: str | None) -> str:
    """The cells, right-aligned, between lines."""
    widths = [max(len(row[k]) for row in cells) + 2 for k in range(len(cells[0]))]
    rule = "  ".join("-" * w for w in widths) + "  \n"
    lines = [("  ".join(c.rjust(w) for c, w in zip(row, widths)) + "  \n") for row in cells]
    top = "" if header is None else "=" * (len(rule) - 1) + "\n" + header + "\n"
    return top + rule + lines[0] + rule + "".join(lines[1:]) + rule
