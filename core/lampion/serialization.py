"""save and load: checkpoints in PyTorch's format, read and written by either framework.

A checkpoint is a zip file with the pickled object structure and one raw record per piece of
memory, so that tensors which share memory share it again. `load` by default runs no code of the
file: only tensors, containers, numbers and what `add_safe_globals` allows can come out.

Floor 7; imports the checkpoint format in `utils._pt`.
"""

from __future__ import annotations

import enum
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from .runtime.devices import resolve
from .utils._pt import archive, legacy, unpickler
from .utils._pt.names import StorageClass
from .utils._pt.storages import StoredMemory, allocate, over_host, swap_bytes

__all__ = [
    "add_safe_globals",
    "clear_safe_globals",
    "get_safe_globals",
    "get_unsafe_globals_in_checkpoint",
    "load",
    "safe_globals",
    "save",
]

DEFAULT_PROTOCOL = 2
UnpicklingError = pickle.UnpicklingError


# -- saving ----------------------------------------------------------------------------------


def save(
    obj: Any,
    f: Any,
    pickle_module: Any = pickle,
    pickle_protocol: int = DEFAULT_PROTOCOL,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
) -> None:
    """Write `obj` (tensors, state dicts, modules, any picklable structure) to a checkpoint.

    Tensors that share memory are stored once and share it again after loading.

    Args:
        f: path, or binary file object open for writing.
        pickle_module: only the standard `pickle` module.
        pickle_protocol: 2 (the default) is what every reader understands.

    Raises PicklingError for things that do not pickle, RuntimeError if one piece of memory is
    viewed as two dtypes.

    Example:
        >>> import io, lampion
        >>> buffer = io.BytesIO()
        >>> lampion.save({"w": lampion.ones(2)}, buffer)
        >>> _ = buffer.seek(0)
        >>> lampion.load(buffer)
        {'w': tensor([1., 1.])}
    """
    if pickle_module is not pickle:
        raise ValueError(f"save() works with the standard pickle module, not {pickle_module!r}")
    if not _use_new_zipfile_serialization:
        raise ValueError("save() writes the zip format only; load() reads the older one too")
    if isinstance(f, (str, os.PathLike)):
        path = os.fspath(f)
        folder = os.path.splitext(os.path.basename(path))[0] or "archive"
        with open(path, "wb") as file:
            _write(obj, file, folder, pickle_protocol, not _disable_byteorder_record)
        return
    if not hasattr(f, "write"):
        raise AttributeError(
            "expected 'f' to be string, path, or a file-like object with a 'write' attribute, "
            f"got {type(f).__name__}"
        )
    if _can_seek(f):
        _write(obj, f, "archive", pickle_protocol, not _disable_byteorder_record)
    else:
        buffer = io.BytesIO()
        _write(obj, buffer, "archive", pickle_protocol, not _disable_byteorder_record)
        f.write(buffer.getbuffer())


def _can_seek(file: Any) -> bool:
    try:
        return bool(file.seekable()) and file.tell() == 0
    except (AttributeError, OSError):
        return False


def _write(obj: Any, file: BinaryIO, folder: str, protocol: int, byteorder: bool) -> None:
    from .utils._pt.pickler import CheckpointPickler

    # Pickle first: an object that does not pickle leaves no half-written container.
    structure = io.BytesIO()
    pickler = CheckpointPickler(structure, protocol)
    pickler.dump(obj)
    writer = archive.Writer(file, folder)
    writer.write("data.pkl", structure.getvalue())
    if byteorder:
        writer.write("byteorder", sys.byteorder.encode())
    for key, memory in enumerate(pickler.storages):
        writer.write(f"data/{key}", memory.host_bytes())
    writer.write("version", b"3\n")
    writer.close()


# -- loading ---------------------------------------------------------------------------------


def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Read a checkpoint of lampion or PyTorch.

    Args:
        f: path, or binary file object open for reading.
        map_location: where memory goes: a device, a dict from saved device names to devices, or
            `fn(memory, name) -> memory or None`. By default, the device it was saved from.
        pickle_module: only the standard `pickle` module.
        weights_only: True (the default) lets only tensors, containers, numbers and allowed names
            out of the file. False runs whatever the file says: for files you trust.
        mmap: map the file (a path) instead of reading it; pages load when they are touched, and
            writes to the tensors do not reach the file.

    Raises:
        UnpicklingError: for a name that is not allowed (the message says how to allow it), and
            for files that are no checkpoints.
        RuntimeError: for damaged files, and when a device of the file does not exist here.
    """
    if pickle_module is not None and pickle_module is not pickle:
        raise RuntimeError(f"load() works with the standard pickle module, not {pickle_module!r}")
    trusted = weights_only is False
    place = _placer(map_location)
    arguments = _unpickler_arguments(pickle_load_args)
    if isinstance(f, (str, os.PathLike)):
        path = os.fspath(f)
        with open(path, "rb") as file:
            mapping = archive.map_file(path) if mmap and os.path.getsize(path) else None
            return _load(file, path, trusted, place, mapping, arguments)
    if mmap:
        raise ValueError("f must be a file path in order to use the mmap argument")
    if not hasattr(f, "read"):
        raise AttributeError(
            "expected 'f' to be string, path, or a file-like object with a 'read' attribute, "
            f"got {type(f).__name__}"
        )
    return _load(archive.seekable(f), "the checkpoint", trusted, place, None, arguments)


def _unpickler_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for the unpickler: `encoding` and `errors`, for strings of Python 2."""
    unknown = set(given) - {"encoding", "errors"}
    if unknown:
        raise TypeError(f"load() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    return given


def _load(
    file: Any, label: Any, trusted: bool, place: Any, mapping: Any, arguments: dict[str, Any]
) -> Any:
    start = file.tell()
    head = file.read(64)
    file.seek(start)
    if head[:4] == b"PK\x03\x04":
        if start:
            file = io.BytesIO(file.read())
        reader = archive.Reader(file, str(label))
        if reader.has("constants.pkl"):
            raise RuntimeError(
                f"{label} is a TorchScript archive: it holds a compiled program, not a checkpoint"
            )
        return _load_archive(reader, trusted, place, mapping, arguments)
    if legacy.is_legacy(head):
        if mapping is not None:
            raise RuntimeError("mmap can only be used with files in the zip format")
        return legacy.load(file.read(), not trusted, place)
    if not head:
        raise EOFError(f"{label} is empty")
    raise UnpicklingError(
        f"{label} is no checkpoint of lampion or PyTorch: it starts with {bytes(head[:16])!r}, "
        "which is neither a zip container nor the older format"
    )


def _load_archive(
    reader: archive.Reader, trusted: bool, place: Any, mapping: Any, arguments: dict[str, Any]
) -> Any:
    structure = reader.read("data.pkl")
    order = reader.read("byteorder") if reader.has("byteorder") else b"little"
    if order not in (b"little", b"big"):
        raise RuntimeError(f"unknown byte order {order!r} in the checkpoint")
    swap = order.decode() != sys.byteorder
    loaded: dict[str, StoredMemory] = {}

    def persistent(pid: Any) -> StoredMemory:
        kind, key, location, count = _check_persistent_id(pid)
        if key not in loaded:
            nbytes = count * (kind.dtype.itemsize if kind.dtype else 1)
            memory = _read_storage(reader, key, kind, nbytes, mapping, swap)
            loaded[key] = place(memory, location)
        return loaded[key]

    if not trusted:
        return unpickler.restricted(structure, persistent)[0]
    machine = unpickler.Trusting(io.BytesIO(structure), **arguments)
    machine.persistent = persistent
    return machine.load()


def _check_persistent_id(pid: Any) -> tuple[StorageClass, str, str, int]:
    well_formed = (
        isinstance(pid, tuple)
        and len(pid) == 5
        and pid[0] == "storage"
        and isinstance(pid[1], StorageClass)
        and isinstance(pid[2], str)
        and isinstance(pid[3], str)
        and type(pid[4]) is int
        and pid[4] >= 0
    )
    if not well_formed:
        raise UnpicklingError(f"the checkpoint refers to a storage in an unknown way: {pid!r}")
    return pid[1], pid[2], pid[3], pid[4]


def _read_storage(
    reader: archive.Reader, key: str, kind: StorageClass, nbytes: int, mapping: Any, swap: bool
) -> StoredMemory:
    """One record as host memory."""
    name = f"data/{key}"
    size = reader.size(name)
    if size < nbytes:
        raise RuntimeError(
            f"the record {name!r} has {size} bytes, but its storage should have {nbytes}"
        )
    if mapping is not None and reader.is_stored(name) and not swap:
        start = reader.offset(name)
        return over_host(mapping[start : start + size], kind.dtype)
    memory = allocate(size, kind.dtype, "cpu")
    if size:
        space = memory.host_bytes()
        if space.readonly:  # a host backend that keeps its memory to itself
            space = memoryview(bytearray(size))
            reader.read_into(name, space)
            memory.fill(space)
        else:
            reader.read_into(name, space)
    if swap:
        swap_bytes(memory)
    return memory


def _placer(map_location: Any) -> Callable[[StoredMemory, str], StoredMemory]:
    """`(host memory, saved device) -> memory where it belongs`."""

    def by_name(memory: StoredMemory, name: str) -> StoredMemory:
        try:
            device = resolve(name)
        except Exception as error:
            raise RuntimeError(
                f"the checkpoint has tensors of the device {name!r}, which cannot be used here: "
                f"{error}. Load them elsewhere, for example with map_location='cpu'."
            ) from error
        return memory.to(device)

    if map_location is None:
        return by_name
    if isinstance(map_location, dict):
        table = {str(k): v for k, v in map_location.items()}
        return lambda memory, name: by_name(memory, str(table.get(name, name)))
    if callable(map_location) and not hasattr(map_location, "type"):
        return lambda memory, name: _placed(map_location(memory, name), memory, name, by_name)
    return lambda memory, name: by_name(memory, str(map_location))


def _placed(given: Any, memory: StoredMemory, name: str, by_name: Any) -> StoredMemory:
    if given is None:
        return by_name(memory, name)  # type: ignore[no-any-return]
    if not isinstance(given, StoredMemory):
        raise TypeError(
            f"map_location must return the memory it was given, moved with .to(device), or None; "
            f"not {type(given).__name__}"
        )
    return given


# -- what restricted loading allows ------------------------------------------------------------


def add_safe_globals(safe_globals: list[Any]) -> None:
    """Allow classes and functions in `load(weights_only=True)`.

    Args:
        safe_globals: classes or functions, or pairs `(object, "module.name")` for things that
            files call by another name.

    Only allow what is harmless to call with any arguments: a file may do so.
    """
    unpickler.allow(list(safe_globals))


def get_safe_globals() -> list[Any]:
    """What `add_safe_globals` has allowed."""
    return unpickler.safe_objects()


def clear_safe_globals() -> None:
    """Forget everything that `add_safe_globals` has allowed."""
    unpickler.replace_allowed()


class safe_globals:
    """`with safe_globals([...]):` allows classes and functions inside the block."""

    def __init__(self, safe_globals: list[Any]) -> None:
        self._objects = safe_globals

    def __enter__(self) -> None:
        self._before = unpickler.replace_allowed()
        unpickler.replace_allowed(self._before)
        unpickler.allow(list(self._objects))

    def __exit__(self, *exc: object) -> None:
        unpickler.replace_allowed(self._before)


def get_unsafe_globals_in_checkpoint(f: Any) -> list[str]:
    """Names a checkpoint refers to that `load(weights_only=True)` would refuse, sorted."""
    with _opened(f) as file:
        reader = archive.Reader(file, str(f))
        return unpickler.referenced_names(reader.read("data.pkl"))


# ---- settings that programs ask for

class LoadEndianness(enum.Enum):
    """The order of bytes in files without a record of it."""

    NATIVE = 1
    LITTLE = 2
    BIG = 3


class SourceChangeWarning(Warning):
    """A class has changed since a file was written; such files are of PyTorch 0.x."""


_settings: dict[str, Any] = {"endianness": None, "crc32": True, "mmap": 0}


def get_default_load_endianness() -> LoadEndianness | None:
    """The order of bytes for files without a record of it; None is that of the machine."""
    found: LoadEndianness | None = _settings["endianness"]
    return found


def set_default_load_endianness(endianness: LoadEndianness | None) -> None:
    """Choose it: TypeError for what is none, NotImplementedError for another than the machine's."""
    if endianness is not None and not isinstance(endianness, LoadEndianness):
        raise TypeError("Invalid argument type in function set_default_load_endianness")
    if endianness is LoadEndianness[{"little": "BIG", "big": "LITTLE"}[sys.byteorder]]:
        raise NotImplementedError(f"set_default_load_endianness: this machine is "
                                  f"{sys.byteorder}-endian; other files are not converted")
    _settings["endianness"] = endianness


def get_crc32_options() -> bool:
    """Whether `save` is asked to write checksums."""
    return bool(_settings["crc32"])


def set_crc32_options(compute_crc32: bool) -> None:
    """Ask `save` for checksums; a zip file has them in any case."""
    _settings["crc32"] = compute_crc32


def get_default_mmap_options() -> int:
    """The flags of `mmap` that were asked for."""
    return int(_settings["mmap"])


def set_default_mmap_options(flags: int) -> None:
    """Ask for flags of `mmap`; files are read into memory of their own."""
    _settings["mmap"] = flags


def check_module_version_greater_or_equal(module: Any, req_version_tuple: tuple[int, ...],
                                          error_if_malformed: bool = True) -> bool:
    """Whether a module's `__version__` is at least this."""
    try:
        found = tuple(int(part) for part in module.__version__.split("."))
    except ValueError as error:
        if error_if_malformed:
            raise RuntimeError(f"'{module.__name__}' module version is malformed: "
                               f"{module.__version__!r}") from error
        return True
    return found >= req_version_tuple


@contextmanager
def _opened(f: Any) -> Iterator[Any]:
    if isinstance(f, (str, os.PathLike)):
        with open(os.fspath(f), "rb") as file:
            yield file
    else:
        yield archive.seekable(f)
