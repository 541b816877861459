"""Compile LLVM IR text to machine code and keep the objects on disk.

`compile_ir` is the one door: text in, addresses out. It runs LLVM's code generator only (no
optimisation pipeline: the kernels are written with explicit vectors and gain nothing from it),
links the object into this process and remembers it on disk, so that a second process pays
0.3 ms instead of 5-20 ms. Code stays mapped until the process ends.

llvmlite is imported on first use. May import: the standard library, llvmlite.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "CACHE_FORMAT",
    "cache_dir",
    "compile_ir",
    "host_cpu",
    "host_features",
    "host_vector_bits",
    "parameters",
    "pin",
    "statistics",
]

CACHE_FORMAT = 1
_MAGIC = b"LMPO" + CACHE_FORMAT.to_bytes(4, "little")
_PRUNE_AFTER_WRITES = 64
_PRUNE_BYTES = 512 << 20

_log = logging.getLogger("lampion.cpu.jit")
_lock = threading.RLock()
_loaded: dict[tuple[str, tuple[str, ...], tuple[tuple[str, int], ...]], dict[str, int]] = {}
_counter = itertools.count()
_counts = {"compiled": 0, "from_disk": 0, "from_memory": 0, "written": 0, "corrupt": 0}
_host: _Host | None = None


def pin(obj: Any) -> Any:
    """Make `obj` live until the process ends, interpreter shutdown included.

    Worker threads may still run in JIT code while Python tears its modules down, so the code,
    and tables the code reads, must never be freed.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(obj))
    return obj


class _Host:
    """LLVM set up for this machine: target machine, linker and cache identity."""

    def __init__(self) -> None:
        import llvmlite
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.llvm = llvm
        self.cpu: str = llvm.get_host_cpu_name()
        self.features: dict[str, bool] = dict(llvm.get_host_cpu_features())
        flat = ",".join(("+" if on else "-") + name for name, on in sorted(self.features.items()))
        self.machine = pin(
            llvm.Target.from_default_triple().create_target_machine(
                cpu=self.cpu, features=flat, opt=2, reloc="pic", codemodel="default", jit=True
            )
        )
        self.triple: str = self.machine.triple
        self.layout = str(self.machine.target_data)
        # JITLink maps an object as one block; the older linker may scatter its sections further
        # apart than a 32-bit displacement reaches.
        self.linker = pin(llvm.create_lljit_compiler(self.machine, use_jit_link=True))
        identity = (CACHE_FORMAT, llvm.llvm_version_info, llvmlite.__version__)
        self.identity = repr((*identity, self.triple, self.cpu, flat))

    def emit(self, text: str) -> bytes:
        """Machine code object of `text`; RuntimeError with the parser's message if it is bad."""
        module = self.llvm.parse_assembly(text, context=self.llvm.create_context())
        module.triple = self.triple
        module.data_layout = self.layout
        module.verify()
        return bytes(self.machine.emit_object(module))

    def link(
        self, code: bytes, exports: Sequence[str], symbols: Mapping[str, int]
    ) -> dict[str, int]:
        """Map `code` into the process and return the addresses of `exports`."""
        builder = self.llvm.JITLibraryBuilder().add_object_img(code)
        # The code generator may call memcpy, fmodf and their like on its own account.
        builder.add_current_process()
        for name, address in symbols.items():
            builder.import_symbol(name, address)
        for name in exports:
            builder.export_symbol(name)
        library = pin(builder.link(self.linker, f"lampion{next(_counter)}"))
        return {name: library[name] for name in exports}


def _get_host() -> _Host:
    global _host
    if _host is None:
        with _lock:
            if _host is None:
                _host = _Host()
    return _host


def host_cpu() -> str:
    """LLVM's name of this machine's processor, for example ``"znver4"``."""
    return _get_host().cpu


def host_features() -> frozenset[str]:
    """Names of the instruction set features this machine has, in LLVM's spelling."""
    return frozenset(name for name, on in _get_host().features.items() if on)


def host_vector_bits() -> int:
    """Width in bits of the vectors kernels should use: 512, 256 or 128.

    ``LAMPION_VECTOR_BITS`` lowers it (tests use that to run the narrow code on a wide machine);
    a width the machine lacks raises ValueError.
    """
    have = host_features()
    if "avx512f" in have and "avx512vl" in have and "avx512dq" in have and "avx512bw" in have:
        bits = 512
    elif "avx2" in have:
        bits = 256
    else:
        bits = 128
    asked = os.environ.get("LAMPION_VECTOR_BITS")
    if asked:
        if asked not in ("128", "256", "512") or int(asked) > bits:
            raise ValueError(
                f"LAMPION_VECTOR_BITS={asked}: this machine offers 128 up to {bits} bits"
            )
        bits = int(asked)
    return bits


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that is not there any more may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def compile_ir(
    text: str, exports: Sequence[str], symbols: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Compile LLVM IR `text` and return ``{name: address}`` for each name in `exports`.

    `symbols` gives addresses for the external names the text declares (functions as well as
    ``external global`` data), so that the text itself holds no address and its object can be
    reused by other processes. Attributes such as ``"min-legal-vector-width"`` are the text's own
    business; triple and data layout are filled in here.

    Asking twice for the same text and symbols gives the same addresses. Raises RuntimeError with
    LLVM's message for text that does not parse, or a name that cannot be resolved.

    >>> ir = "define i64 @twice(i64 %x) { %y = add i64 %x, %x\\n ret i64 %y }"
    >>> address = compile_ir(ir, ["twice"])["twice"]
    >>> import ctypes
    >>> ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(21)
    42
    """
    symbols = symbols or {}
    host = _get_host()
    digest = hashlib.sha256(f"{host.identity}\n{text}".encode()).hexdigest()
    key = (digest, tuple(exports), tuple(sorted(symbols.items())))
    found = _loaded.get(key)
    if found is not None:
        _counts["from_memory"] += 1
        return dict(found)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _build(host, digest, text, exports, symbols)
        return dict(_loaded[key])


@functools.lru_cache(256)
def parameters(text: str, name: str) -> tuple[str, ...]:
    """The types of the parameters of a function that LLVM IR `text` defines.

    RuntimeError with LLVM's message for text that does not parse, or that lacks the function.

    >>> parameters("define i64 @twice(i64 %x) { ret i64 %x }", "twice")
    ('i64',)
    """
    llvm = _get_host().llvm
    module = llvm.parse_assembly(text, context=llvm.create_context())
    try:
        function = module.get_function(name)
    except NameError:
        function = None
    if function is None or function.is_declaration:
        raise RuntimeError(f"the text does not define a function @{name}")
    return tuple([str(a.type) for a in function.arguments])


def _build(
    host: _Host, digest: str, text: str, exports: Sequence[str], symbols: Mapping[str, int]
) -> dict[str, int]:
    code = _read_object(digest)
    if code is not None:
        try:
            addresses = host.link(code, exports, symbols)
        except RuntimeError as error:
            # The stored object is intact but will not link here: say so and compile afresh, which
            # raises the real error if the fault is the caller's.
            _log.warning("cached object %s does not link (%s); recompiling", digest[:12], error)
        else:
            _counts["from_disk"] += 1
            return addresses
    code = host.emit(text)
    try:
        addresses = host.link(code, exports, symbols)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; {_explain_link(text, exports, symbols)}") from None
    _counts["compiled"] += 1
    _write_object(digest, code)
    return addresses


def _explain_link(text: str, exports: Sequence[str], symbols: Mapping[str, int]) -> str:
    """What a failed link may lack: names declared but not given, exports not defined."""
    wanted = set(re.findall(r"^\s*declare [^@]*@([\w.$]+)", text, re.MULTILINE))
    wanted |= set(re.findall(r"^\s*@([\w.$]+) = external", text, re.MULTILINE))
    missing = sorted(name for name in wanted - set(symbols) if not name.startswith("llvm."))
    defined = set(re.findall(r"^\s*define [^@]*@([\w.$]+)", text, re.MULTILINE))
    absent = sorted(set(exports) - defined)
    return f"declared without an address: {missing or 'none'}; not defined: {absent or 'none'}"


def statistics() -> dict[str, int]:
    """How many texts were compiled, read from disk, found in memory; objects written, corrupt."""
    return dict(_counts)


# ---- the disk cache -----------------------------------------------------------------------------


def cache_dir() -> Path | None:
    """Folder of the object cache, or None when caching on disk is off or the folder is unsafe.

    ``LAMPION_CACHE_DIR`` chooses it (empty: no disk cache); else the user's cache directory.
    Objects are code that will run, so a folder owned by another user, or writable by everybody,
    is not used.
    """
    asked = os.environ.get("LAMPION_CACHE_DIR")
    if asked == "":
        return None
    base = Path(asked) if asked else _user_cache_dir()
    if base is None:
        return None
    folder = base / "cpu-objects"
    return folder if _prepare(folder) else None


def _user_cache_dir() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "lampion"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "lampion"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "lampion"


_prepared: dict[Path, bool] = {}


def _prepare(folder: Path) -> bool:
    known = _prepared.get(folder)
    if known is not None:
        return known
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = _distrust(folder)
    except OSError as error:
        reason = str(error)
    if reason:
        _log.warning("not caching compiled kernels in %s: %s", folder, reason)
    _prepared[folder] = not reason
    return not reason


def _distrust(folder: Path) -> str:
    if not hasattr(os, "geteuid"):
        return ""
    info = folder.stat()
    if info.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {info.st_uid}"
    if info.st_mode & stat.S_IWOTH:
        return "every user may write to it"
    return ""


def _read_object(digest: str) -> bytes | None:
    folder = cache_dir()
    if folder is None:
        return None
    path = folder / f"{digest}.o"
    try:
        blob = path.read_bytes()
    except OSError:
        return None
    body = blob[len(_MAGIC) + 32 :]
    if blob[: len(_MAGIC)] == _MAGIC and hashlib.sha256(body).digest() == blob[8:40]:
        return body
    _counts["corrupt"] += 1
    _log.warning("cached object %s is damaged; recompiling", path.name)
    return None


def _write_object(digest: str, code: bytes) -> None:
    folder = cache_dir()
    if folder is None:
        return
    target = folder / f"{digest}.o"
    temporary = folder / f".{digest}.{os.getpid()}.{next(_counter)}"
    try:
        # No fsync: a torn file after a power cut fails its checksum and is compiled again.
        temporary.write_bytes(_MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(temporary, target)
    except OSError as error:
        _log.debug("cannot cache %s: %s", target, error)
        try:
            temporary.unlink()
        except OSError:
            pass
        return
    _counts["written"] += 1
    if _counts["written"] % _PRUNE_AFTER_WRITES == 0:
        _prune(folder)


def _prune(folder: Path, limit: int = _PRUNE_BYTES) -> None:
    """Delete the oldest objects until the cache is half its limit, if it is over the limit."""
    entries = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                info = entry.stat()
                entries.append((info.st_mtime, info.st_size, entry.path))
    except OSError:
        return
    total = sum(size for _, size, _ in entries)
    if total <= limit:
        return
    for _, size, path in sorted(entries):
        if total <= limit // 2:
            break
        try:
            os.unlink(path)
        except OSError:
            continue
        total -= size
