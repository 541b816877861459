"""The families of built-in ops, and how one is loaded when an op of it is first asked for.

Floor 3; imports nothing. A family is a module of this package that declares ops. Running them all
would be half of `import lampion`, so the registry starts with stand-ins (`Awaited`): each knows the
face of an op (its names, variants and public namespaces, which is what `dir(lampion)` and the
methods of Tensor need) and the module that declares it. Whatever else it is asked for, it imports
that module first.

The faces come from an index that is to declarations what a .pyc file is to source: it lies beside
the .pyc files, the first import that finds none writes it, and it is good as long as no file of
this package has another size or time. Where there is none (nothing can be written there, or Python
is told to write no byte code) all families are imported at once. So nobody maintains it: a block in
its family is all that an op needs.
"""

from __future__ import annotations

import importlib
import marshal
import os
import sys
from collections.abc import Mapping
from typing import Any

# In the order in which the registry lists their ops.
FAMILIES = ("memory", "arithmetic", "compare", "unary", "activation", "special", "facts",
            "reduce", "scan", "softmax", "statistics", "norm", "loss", "views", "movement",
            "region", "gather", "scatter", "masked", "nonzero", "join", "copies", "rearrange",
            "pad", "sort", "search", "create", "random", "contract", "conv", "windows", "pool",
            "attention", "linalg_solve", "linalg_lstsq", "linalg_factor", "linalg_eigen",
            "linalg_norms", "linalg_functions", "products", "einsum", "fold", "resample",
            "masked_reduce", "segments", "native", "fourier", "stft", "distances")

FACE = ("name", "kind", "module", "namespace", "where", "aliases", "method", "inplace", "returns",
        "result_name")
_OPEN = frozenset((*FACE, "qualname", "__dict__"))


class Awaited:
    """What makes an op one whose family is not loaded yet, mixed into the class of its kind.

    The declaration becomes this very object (as `importlib.util.LazyLoader` makes a module of its
    stand-in), so that whoever holds it has the op, which then costs what any object costs.
    """

    # the parts of a face that say nothing else
    namespace = result_name = ""
    where = ("",)
    aliases = returns = ()
    method = inplace = False

    def __init__(self, face: dict[str, Any]) -> None:
        self.__dict__.update(face)

    def __getattribute__(self, name: str) -> Any:
        if name in _OPEN:
            return object.__getattribute__(self, name)
        return getattr(_loaded(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_loaded(self), name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _loaded(self).__reduce_ex__(protocol)


def _loaded(op: Any) -> Any:
    """The op after its family has been loaded."""
    name, module = op.name, op.module
    importlib.import_module(module)
    if isinstance(op, Awaited):
        raise RuntimeError(f"op {name!r} is asked for before {module} has declared it")
    return op


def become(known: Any, op: Any) -> None:
    """Make `known` the op. Whoever comes between the two steps waits for the import."""
    object.__setattr__(known, "__dict__", op.__dict__)
    object.__setattr__(known, "__class__", type(op))


# ---------------------------------------------------------------- the index

def _path() -> str | None:
    """Where the index is: beside this module's byte code. None if that has no place."""
    cached = __spec__.cached if __spec__ is not None else None
    return None if cached is None else os.path.splitext(cached)[0] + ".index"


def _stamp() -> list[Any]:
    """What the index depends on: every module of this package, by name, size and time."""
    with os.scandir(os.path.dirname(__file__)) as entries:
        files = [(e.name, e.stat()) for e in entries if e.name.endswith((".py", ".pyc"))]
    return [FACE, sorted((name, s.st_size, s.st_mtime_ns) for name, s in files)]


def read() -> list[dict[str, Any]]:
    """The faces of the built-in ops; none if there is no index, or not one that is good."""
    path = _path()
    if path is None:
        return []
    try:
        with open(path, "rb") as file:
            stamp, faces = marshal.loads(file.read())
        return faces if stamp == _stamp() else []
    except (OSError, ValueError, EOFError, TypeError):
        return []


def load(registry: Mapping[str, Any]) -> None:
    """Import every family, and write the index for the next time."""
    path = None if sys.dont_write_bytecode else _path()
    stamp = None if path is None else _stamp()
    for family in FAMILIES:
        importlib.import_module(f"{__package__}.{family}")
    if path is None:
        return
    faces = [{part: getattr(op, part) for part in FACE
              if getattr(op, part) != getattr(Awaited, part, None)}
             for op in registry.values() if op.module.startswith(f"{__package__}.")]
    own = f"{path}.{os.getpid()}"
    try:
        with open(own, "wb") as file:
            file.write(marshal.dumps((stamp, faces)))
        os.replace(own, path)  # another process sees the whole file or none
    except OSError:
        pass
