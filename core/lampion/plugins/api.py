"""The plug-in contract as a list: every hook and class that plug-ins may rely on, and since when.

`python -m lampion.plugins.api > docs/plugin-api.md` writes the page; a test holds it up to date,
and another that every method of `Backend` is listed. `DEPRECATED` names what goes away: a plug-in
that has it is warned about for at least one version of the contract, then the entry and the code go
together. Floor 2; imports this package, and runtime and ops when the page is written.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

from lampion.plugins.versions import CURRENT, OLDEST, ApiVersion

__all__ = ["DEPRECATED", "SINCE", "Deprecation", "PluginDeprecationWarning", "deprecated", "page"]


class PluginDeprecationWarning(DeprecationWarning):
    """A plug-in uses a part of the contract that will go away."""


class Deprecation(NamedTuple):
    """A part that goes away: deprecated `since` a version, `gone` in another, and what to write
    `instead`."""

    since: ApiVersion
    gone: ApiVersion
    instead: str


# By name: a hook, or "Backend.method".
DEPRECATED: dict[str, Deprecation] = {}

_FIRST = """
Backend.name Backend.devices Backend.capabilities Backend.allocate Backend.copy_from_host
Backend.copy_to_host Backend.compile Backend.program Backend.kernels Backend.copy Backend.host_view
Backend.wrap_host Backend.synchronize Backend.set_num_threads Backend.get_num_threads
Backend.memory_stats Backend.empty_cache Storage OpCall Launch Capabilities KernelImpl DeviceInfo
"""
_SECOND = """
Backend.current Backend.using Backend.check_later Backend.pinned Backend.is_pinned Backend.send
Backend.fetch Backend.dlpack Backend.wrap_device Backend.share Backend.stream_number Backend.adopt
Backend.report
"""
_THIRD = ("Backend.languages Backend.text_program TextKernel Backend.sequence "
          "Backend.allocator Backend.mark Backend.mark_times")

# What `lampion.runtime.backend` has for plug-ins, and since which version of the contract.
SINCE: dict[str, ApiVersion] = {
    name: ApiVersion(0, minor) for minor, names in ((1, _FIRST), (2, _SECOND), (3, _THIRD))
    for name in names.split()}


def deprecated(hooks: Any, backend: Any = None) -> list[str]:
    """What of these hooks (names), and of a backend's own methods, is deprecated: a sentence
    each."""
    used = [name for name in hooks if name in DEPRECATED]
    for name in DEPRECATED:
        kind, _, method = name.partition(".")
        if kind == "Backend" and backend is not None and _own(type(backend), method):
            used.append(name)
    return [f"{name} is deprecated since plug-in API {d.since} and gone in {d.gone}: {d.instead}"
            for name in used for d in (DEPRECATED[name],)]


def _own(kind: type, method: str) -> bool:
    """Whether a class, or one between it and the contract's, defines a method."""
    from lampion.runtime.backend import Backend

    return any(method in vars(c) for c in kind.__mro__ if not issubclass(Backend, c))


# ---------------------------------------------------------------- the page

_HEAD = """# The plug-in API

This page is generated (`python -m lampion.plugins.api > docs/plugin-api.md`); a test keeps it true.

The contract between the core and plug-ins has a version of its own: now **{current}**. This core
serves wheels that were written for **{oldest}** and newer. A wheel says in its metadata which it
was written for ([how](plugins.md#the-contracts-version)); a part may be relied on from the
version in its row on. A new part raises the minor number. What goes away is listed at the end: a
plug-in that still has it gets a `PluginDeprecationWarning`, shown by `lampion doctor`, for at
least one minor version. A plug-in that uses no more than the oldest version had is built and run
by the tests.
"""


def hooks() -> list[tuple[str, ApiVersion, str, str]]:
    """(signature, since, group, first sentence) of each hook, in the order of a life."""
    from lampion.plugins import hookspecs

    rows = []
    for name, spec in vars(hookspecs).items():
        if name.startswith("lampion_") and callable(spec):
            text = inspect.getdoc(spec) or ""
            found = re.search(r"Groups?: ([\w., ]+)\. Since (\d+)\.(\d+)\.", text)
            if found is None:
                raise ValueError(f"{name} does not say its group and since when it exists")
            groups = ", ".join(f"`{g.strip()}`" for g in found[1].split(","))
            arguments = ", ".join(inspect.signature(spec).parameters)
            rows.append((f"{name}({arguments})", ApiVersion(int(found[2]), int(found[3])), groups,
                         _sentence(text)))
    return rows


def page() -> str:
    """The text of docs/plugin-api.md."""
    from lampion.runtime import backend

    lines = [_HEAD.format(current=CURRENT, oldest=OLDEST), "## Hooks\n",
             "Functions of a plug-in's module, described in `lampion.plugins.hookspecs`.\n",
             "| hook | since | groups | what it gives |", "|---|---|---|---|"]
    lines += [f"| `{s}` | {v} | {g} | {t} |" for s, v, g, t in hooks()]
    lines += ["\n## Backend\n", "Methods and attributes of `lampion.runtime.backend.Backend`; what "
              "is marked * has no default.\n", "| name | since | what it is |", "|---|---|---|"]
    required = backend.Backend.__abstractmethods__
    for name, version in SINCE.items():
        method = name.partition(".")[2]
        if method:
            found = inspect.getattr_static(backend.Backend, method)
            shown = f"{method}{_arguments(found)}{'*' if method in required else ''}"
            lines.append(f"| `{shown}` | {version} | {_about(method, found)} |")
    lines += ["\n## Classes of `lampion.runtime.backend`\n", "| name | since | what it is |",
              "|---|---|---|"]
    for name, version in SINCE.items():
        if "." not in name:
            about = _sentence(inspect.getdoc(getattr(backend, name)) or "")
            lines.append(f"| `{name}` | {version} | {about} |")
    lines += ["\n## Deprecated\n"]
    if not DEPRECATED:
        lines.append("Nothing at present.")
    else:
        lines += ["| name | since | gone in | instead |", "|---|---|---|---|"]
        lines += [f"| `{n}` | {d.since} | {d.gone} | {d.instead} |" for n, d in DEPRECATED.items()]
    return "\n".join(lines) + "\n"


# Attributes that are no functions, which have no docstring.
_ATTRIBUTES = {
    "name": "The device's name; left empty, it is that of the entry point.",
    "current": "The index that the name without one means, where a program can choose it.",
    "dlpack": "DLPack's number of the device type, if memory is shared with other libraries.",
}


def _about(name: str, found: Any) -> str:
    return _ATTRIBUTES[name] if name in _ATTRIBUTES else _sentence(inspect.getdoc(found) or "")


def _arguments(found: Any) -> str:
    if not callable(found):
        return ""
    return f"({', '.join(n for n in inspect.signature(found).parameters if n != 'self')})"


def _sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    line = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", line)[0].replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
