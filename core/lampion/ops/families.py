"""The families of built-in ops, and how one is loaded when an op of it is first asked for.

Floor 3; imports config. A family is a module of this package that declares ops. Running them all
would be half of `import lampion`, so the registry starts with stand-ins (`Awaited`): each knows the
face of an op (its names, variants and public namespaces, which is what `dir(lampion)` and the
methods of Tensor need) and the module that declares it. Whatever else it is asked for, it imports
that module first.

The faces come from an index that is to declarations what a .pyc file is to source: the first
import that finds none imports all families and writes it, and it is good as long as no file of
this package has another size or time. It lies beside the .pyc files; where it may not (in somebody
else's folder, or if Python is told to write no byte code) it is in the cache directory. So nobody
maintains it: a block in its family is all that an op needs.
"""

from __future__ import annotations

import importlib
import marshal
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

# In the order in which the registry lists their ops.
FAMILIES = ("memory", "arithmetic", "compare", "unary", "activation", "special", "facts",
            "reduce", "scan", "softmax", "statistics", "norm", "loss", "views", "movement",
            "region", "gather", "scatter", "masked", "nonzero", "join", "copies", "rearrange",
            "pad", "sort", "search", "create", "random", "random_gamma", "contract", "conv",
            "windows", "pool", "attention", "linalg_solve", "linalg_lstsq", "linalg_factor",
            "linalg_eigen", "linalg_norms", "linalg_functions", "products", "einsum", "fold",
            "resample", "masked_reduce", "segments", "native", "fourier", "stft", "distances")

FACE = ("name", "kind", "module", "namespace", "where", "aliases", "method", "inplace", "returns",
        "result_name")
_OPEN = frozenset((*FACE, "qualname"))


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

    def __init_subclass__(cls) -> None:
        for name in dir(cls):  # the class of its kind must not answer for it
            if name not in _OPEN and not name.startswith("__"):
                setattr(cls, name, property(lambda self, name=name: getattr(_loaded(self), name)))

    def __init__(self, face: dict[str, Any]) -> None:
        object.__setattr__(self, "__dict__", face)

    def __getattr__(self, name: str) -> Any:
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

def _places() -> Iterator[tuple[str, bool]]:
    """Where the index may be, and whether that is the user's own: beside this module's byte code;
    if it cannot be written there, in the cache directory (LAMPION_CACHE_DIR="" means none). Nowhere
    for a zipped package."""
    cached = __spec__.cached if __spec__ is not None else None
    if cached is None:
        return
    yield os.path.splitext(cached)[0] + ".index", False
    if not sys.dont_write_bytecode and os.access(os.path.dirname(cached), os.W_OK):
        return
    folder = os.environ.get("LAMPION_CACHE_DIR")
    if folder is None:
        from .. import config

        try:
            folder = str(config.user_dir("cache"))
        except RuntimeError:  # a user without a home
            return
    if folder:
        name = f"ops-{zlib.crc32(__file__.encode()):08x}.{sys.implementation.cache_tag}.index"
        yield os.path.join(os.path.expanduser(folder), name), True


def _stamp() -> list[Any]:
    """What the index depends on: every module of this package, by name, size and time."""
    with os.scandir(os.path.dirname(__file__)) as entries:
        files = [(e.name, e.stat()) for e in entries if e.name.endswith((".py", ".pyc"))]
    return [FACE, sorted((name, s.st_size, s.st_mtime_ns) for name, s in files)]


def read() -> list[dict[str, Any]]:
    """The faces of the built-in ops; none if there is no index, or not one that is good."""
    for path, private in _places():
        try:
            with open(path, "rb") as file:
                if private and not _trusted(os.fstat(file.fileno())):
                    continue
                stamp, faces = marshal.loads(file.read())
            if stamp == _stamp():
                return faces  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError, TypeError):
            pass
    return []


def _trusted(s: os.stat_result) -> bool:
    """Whether a file is the user's, and nobody else may write it."""
    return not hasattr(os, "getuid") or (s.st_uid == os.getuid() and not s.st_mode & 0o022)


def load(registry: Mapping[str, Any]) -> None:
    """Import every family, and write the index for the next time."""
    stamp = _stamp() if any(_places()) else None
    for family in FAMILIES:
        importlib.import_module(f"{__package__}.{family}")
    faces = [{part: getattr(op, part) for part in FACE
              if getattr(op, part) != getattr(Awaited, part, None)}
             for op in registry.values() if op.module.startswith(f"{__package__}.")]
    for path, private in _places():
        if private or not sys.dont_write_bytecode:
            try:
                _write(path, marshal.dumps((stamp, faces)))
                return
            except OSError:
                pass


def _write(path: str, content: bytes) -> None:
    """Write a file that another process sees whole or not at all."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    own = f"{path}.{os.getpid()}"
    with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
        file.write(content)
    os.replace(own, path)
