"""Exported programs as files.

A file is a zip archive: `program.json`, the graph with arguments by kind, and `weights/N.npy`, the
tensors. Reading one runs nothing: ops are found in the registry by their names, every argument is
of a kind listed here, and what does not fit is a RuntimeError that says so. Floor 7; imports nn and
this package.
"""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
import zlib
from dataclasses import is_dataclass
from fractions import Fraction
from typing import Any

import numpy as np

import lampion

from ..base import dtype as dt
from ..interop import host_array
from ..nn import Parameter
from ..ops import registry as R
from .graph import (
    DEVICE,
    Call,
    Dims,
    Drawn,
    Graph,
    Input,
    Ref,
    Size,
    Weight,
    is_record,
    map_leaves,
    parts_of,
)
from .program import ExportedProgram

FORMAT, VERSION = "lampion.export", 1
_PROGRAM = "program.json"


# ---------------------------------------------------------------- arguments as JSON

def encode(v: Any) -> Any:
    """An argument: JSON's own values as they are, all else as {kind: ...}. TypeError if it is of no
    kind that a file can hold."""
    if v is None or isinstance(v, (bool, str)):
        return v
    if type(v) is int:
        return v
    if type(v) is float:
        return v if math.isfinite(v) else {"float": repr(v)}
    if isinstance(v, Ref):
        return {"ref": v.number}
    if isinstance(v, Size):
        terms = [[str(f), list(names)] for f, names in v.terms]
        return {"size": terms, "inverse": v.inverse, "scale": v.scale}
    if isinstance(v, Drawn):
        return {"drawn": v.what, "groups": encode(v.groups)}
    if v is DEVICE:
        return {"device": "the program's"}
    if v is Ellipsis:
        return {"ellipsis": True}
    if isinstance(v, complex):
        return {"complex": [encode(v.real), encode(v.imag)]}
    if isinstance(v, dt.dtype):
        return {"dtype": v.name}
    if isinstance(v, slice):
        return {"slice": [encode(v.start), encode(v.stop), encode(v.step)]}
    if isinstance(v, dict):
        return {"dict": [[encode(k), encode(x)] for k, x in v.items()]}
    if is_record(v):
        return {"record": f"{type(v).__module__}.{type(v).__qualname__}",
                "of": [encode(x) for x in parts_of(v)[0]]}  # type: ignore[index]
    if isinstance(v, tuple):
        return {"tuple": [encode(x) for x in v]}
    if isinstance(v, list):
        return [encode(x) for x in v]
    if type(v).__module__.startswith("lampion.base") and hasattr(v, "name"):
        return {"named": f"{type(v).__name__}.{v.name}"}
    raise TypeError(f"an argument of type {type(v).__name__} cannot be written to a file")


class Corrupt(Exception):
    """What is wrong with a file."""


def decode(v: Any) -> Any:
    """The argument that `encode` wrote. Corrupt for anything else."""
    if v is None or isinstance(v, (bool, str, int, float)):
        return v
    if isinstance(v, list):
        return [decode(x) for x in v]
    if not isinstance(v, dict) or not v:
        raise Corrupt(f"an argument is {v!r}")
    kind = next(iter(v))
    read = _DECODERS.get(kind)
    if read is None:
        raise Corrupt(f"an argument is of the kind {kind!r}, which is not known")
    try:
        return read(v)
    except Corrupt:
        raise
    except Exception as error:
        raise Corrupt(f"an argument of the kind {kind!r} is malformed: {v!r}") from error


def _record(v: dict[str, Any]) -> Any:
    """A data class of an op's own, for example the axes of a resampling."""
    module, _, name = v["record"].rpartition(".")
    family = module.removeprefix("lampion.ops.")
    if family not in R.families.FAMILIES:
        raise Corrupt(f"{v['record']!r} is no record of an op")
    getattr(lampion.ops, family)  # its family is imported
    found = vars(sys.modules[module]).get(name)
    if not isinstance(found, type) or not is_dataclass(found):
        raise Corrupt(f"{v['record']!r} is no record of an op")
    return found(*map(decode, v["of"]))


def _integer(n: Any) -> int:
    if type(n) is not int:
        raise Corrupt(f"{n!r} is no integer")
    return n


_DECODERS = {
    "float": lambda v: float(v["float"]),
    "ref": lambda v: Ref(_integer(v["ref"])),
    "size": lambda v: Size(tuple([(Fraction(f), tuple(map(str, names))) for f, names in v["size"]]),
                           bool(v["inverse"]), float(v["scale"])),
    "drawn": lambda v: Drawn(str(v["drawn"]), decode(v["groups"])),
    "device": lambda v: DEVICE,
    "ellipsis": lambda v: Ellipsis,
    "complex": lambda v: complex(*map(decode, v["complex"])),
    "dtype": lambda v: dt.by_name(v["dtype"]),
    "slice": lambda v: slice(*map(decode, v["slice"])),
    "dict": lambda v: {decode(k): decode(x) for k, x in v["dict"]},
    "record": _record,
    "tuple": lambda v: tuple(map(decode, v["tuple"])),
    "named": lambda v: _named(v["named"]),
}


def _named(text: str) -> Any:
    """A memory format or layout by its name."""
    kind, _, name = text.partition(".")
    if kind in ("memory_format", "layout"):
        return getattr(lampion, name)
    raise Corrupt(f"{text!r} is not known")


# ---------------------------------------------------------------- writing

def save(ep: ExportedProgram, f: Any, *, extra_files: dict[str, Any] | None = None,
         opset_version: Any = None) -> None:
    """Write an exported program to a path or a binary file.

    `extra_files` are further texts or bytes by name. TypeError for arguments of ops that a file
    cannot hold.
    """
    if not isinstance(ep, ExportedProgram):
        raise TypeError(f"save() takes an ExportedProgram, not {type(ep).__name__}; "
                        "lampion.export.export() makes one")
    g = ep.graph
    weights = []
    for w, t in zip(g.weights, ep._tensors):
        weights.append({"name": w.name, "kind": w.kind, "fresh": w.fresh,
                        "persistent": w.persistent, "dtype": t.dtype.name,
                        "shape": list(t.shape), "requires_grad": t.requires_grad,
                        "strides": list(t.stride())})
    calls = []
    for c in g.calls:
        try:
            calls.append({"op": c.op, "args": [encode(a) for a in c.args],
                          "kwargs": {k: encode(v) for k, v in c.kwargs.items()},
                          "outputs": list(c.outputs), "several": c.several, "line": c.line})
        except TypeError as error:
            raise TypeError(f"{c.op} ({c.line}): {error}") from None
    text = {
        "format": FORMAT, "version": VERSION, "lampion": lampion.__version__,
        "inputs": [{"name": i.name, "dtype": i.dtype.name, "shape": list(i.shape)}
                   for i in g.inputs],
        "dims": {n: [d.low, d.high] for n, d in g.dims.items()},
        "weights": weights, "calls": calls, "arguments": encode(g.arguments),
        "results": encode(_plain(g.results)), "positional": ep._names}
    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_PROGRAM, json.dumps(text, indent=1))
        for k, t in enumerate(ep._tensors):
            archive.writestr(f"weights/{k}.npy", _npy(t))
        for name, data in (extra_files or {}).items():
            archive.writestr(f"extra/{name}", data)


def _plain(results: Any) -> Any:
    """Results without named tuples of people's own, which a file could not import."""
    if isinstance(results, tuple) and not isinstance(results, (Ref, Size)):
        return tuple(map(_plain, results))
    if isinstance(results, list):
        return [_plain(r) for r in results]
    if isinstance(results, dict):
        return {k: _plain(r) for k, r in results.items()}
    return results


def _npy(t: Any) -> bytes:
    array = np.ascontiguousarray(host_array(t.detach()))
    array = t.dtype.encode(array).view(t.dtype.np).reshape(tuple(t.shape) + array.shape[t.ndim:]) \
        if t.dtype.name in ("bfloat16", "complex32") else array
    if t.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


# ---------------------------------------------------------------- reading

def load(f: Any, *, extra_files: dict[str, Any] | None = None,
         expected_opset_version: Any = None, device: Any = None) -> ExportedProgram:
    """Read an exported program from a path or a binary file; nothing in it is run.

    `extra_files` is filled with the texts that were saved under its keys. `device` is where the
    weights go. RuntimeError for files that are no exported programs, are damaged, come from a newer
    version, or call ops that are not installed.
    """
    try:
        with zipfile.ZipFile(f) as archive:
            names = set(archive.namelist())
            if _PROGRAM not in names:
                raise Corrupt(f"it has no {_PROGRAM}")
            text = json.loads(archive.read(_PROGRAM).decode("utf-8"))
            program = _program(text, archive, device)
            extra = {} if extra_files is None else extra_files
            extra.update({n: archive.read(f"extra/{n}").decode("utf-8") for n in extra
                          if f"extra/{n}" in names})
            return program
    except Corrupt as error:
        raise RuntimeError(f"{_label(f)} is no exported program that can be read: {error}"
                           ) from error
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, LookupError, TypeError, ValueError,
            AttributeError) as error:
        raise RuntimeError(f"{_label(f)} is no exported program, or is damaged: {error}"
                           ) from error


def _label(f: Any) -> str:
    return repr(getattr(f, "name", "the file")) if hasattr(f, "read") else repr(str(f))


def _program(text: Any, archive: zipfile.ZipFile, device: Any) -> ExportedProgram:
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise Corrupt("it is of another format")
    if _integer(text.get("version")) > VERSION:
        raise Corrupt(f"it is of version {text['version']}, and this lampion reads {VERSION} and "
                      "older; install a newer one")
    dims = {str(n): Dims(_integer(low), None if high is None else _integer(high))
            for n, (low, high) in text["dims"].items()}
    inputs = [Input(str(i["name"]), dt.by_name(i["dtype"]), tuple(i["shape"]))
              for i in text["inputs"]]
    for i in inputs:
        for n in i.shape:
            if type(n) is not int and n not in dims:
                raise Corrupt(f"input {i.name!r} has a dim {n!r}, which nothing explains")
    weights = [Weight(str(w["name"]), str(w["kind"]), bool(w["fresh"]), bool(w["persistent"]))
               for w in text["weights"]]
    calls = [Call(str(c["op"]), tuple(decode(a) for a in c["args"]),
                  {str(k): decode(v) for k, v in c["kwargs"].items()},
                  tuple(map(_integer, c["outputs"])), bool(c["several"]), str(c["line"]))
             for c in text["calls"]]
    graph = Graph(inputs, weights, calls, decode(text["arguments"]), decode(text["results"]), dims)
    _check(graph)
    tensors = [_tensor(w, k, archive, device) for k, w in enumerate(text["weights"])]
    return ExportedProgram(graph, tensors, list(map(str, text["positional"])))


def _check(graph: Graph) -> None:
    """Corrupt unless all ops exist, and every value is made before it is used."""
    made = set(range(len(graph.inputs) + len(graph.weights)))

    def used(v: Any, by: str) -> None:
        if isinstance(v, Ref) and v.number not in made:
            raise Corrupt(f"{by} uses the value {v.number}, which nothing has made")
        if isinstance(v, Size) and not {d for _, names in v.terms for d in names} <= set(
                graph.dims):
            raise Corrupt(f"{by} uses a dim that no input has: {v}")

    for w in graph.weights:
        if w.kind not in ("parameter", "buffer", "constant"):
            raise Corrupt(f"weight {w.name!r} is a {w.kind!r}")
    for c in graph.calls:
        if c.op not in ("copy_", "fill_") and c.op not in R.REGISTRY:
            hint = f"; install the package that declares the ops of {c.op.partition('::')[0]!r}" \
                if "::" in c.op else ""
            raise Corrupt(f"it calls {c.op!r}, an op that is not installed{hint}")
        map_leaves(lambda v, by=c.op: used(v, by), (c.args, c.kwargs))
        for n in c.outputs:
            if n != len(made):
                raise Corrupt(f"{c.op} makes the value {n} where {len(made)} is the next")
            made.add(n)
    map_leaves(lambda v: used(v, "the result"), graph.results)
    numbers: list[int] = []
    map_leaves(lambda v: numbers.append(v.number) if isinstance(v, Ref) else None, graph.arguments)
    if sorted(numbers) != list(range(len(graph.inputs))) or not isinstance(graph.arguments, dict):
        raise Corrupt("its arguments are not those of its inputs")


def _tensor(w: Any, k: int, archive: zipfile.ZipFile, device: Any) -> Any:
    kind, shape = dt.by_name(w["dtype"]), tuple(map(_integer, w["shape"]))
    with archive.open(f"weights/{k}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.dtype.itemsize * array.size != kind.itemsize * math.prod(shape):
        raise Corrupt(f"weight {w['name']!r} is {array.dtype} {list(array.shape)}, not {kind!r} "
                      f"{list(shape)}")
    if kind.name == "bfloat16":
        array = array.view(kind.np)
    t = lampion.from_numpy(np.ascontiguousarray(array)) if kind.name != "bfloat16" else \
        lampion.from_numpy(array.view(np.int16)).view(kind)
    t = t.reshape(shape)
    if device is not None:
        t = t.to(device)
    strides = tuple(map(_integer, w["strides"]))
    if strides != tuple(t.stride()) and t.numel() and min(strides) > 0:
        laid = lampion.empty_strided(shape, strides, dtype=kind, device=t.device)
        t = laid.copy_(t)
    if w["kind"] == "parameter":
        return Parameter(t, requires_grad=bool(w["requires_grad"]))
    return t


__all__ = ["save", "load"]
