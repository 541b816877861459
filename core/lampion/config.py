"""Settings in layers, each value with where it came from.

Holds the schema of the core's options, the readers of every layer and the functions `get`, `set`,
`override`, `section`, `explain` and `watch`. From the highest layer to the lowest:

    config.override(...)        a context, for this thread of control only
    config.set(...)             for the process
    LAMPION_* environment       LAMPION_FALLBACK_POLICY=warn is fallback.policy
    lampion.toml                the nearest one, from the working directory upwards
    pyproject.toml              the nearest one with a [tool.lampion] table
    user settings               lampion.toml in the user's configuration directory
    defaults

An unknown key is an error that names the nearest known one. Tables `[backend.NAME]` are checked
against the schema of that plug-in, when it loads. Floor 2: imports the standard library and, when
a file has to be read, a TOML parser.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ConfigError",
    "Option",
    "Setting",
    "cache_dir",
    "explain",
    "get",
    "override",
    "register_schema",
    "reload",
    "section",
    "set",
    "unset",
    "watch",
]


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or in a file that cannot be read."""


class Option(NamedTuple):
    """What one option accepts: a type, a default, a line of help, choices, environment names.

    `type` is bool, int, float, str, list (of str) or dict (of str to str; choices are of its
    values).
    """

    type: type
    default: Any
    doc: str
    choices: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


class Setting(NamedTuple):
    """One effective value: its dotted name, the value, its source, and what it hides below it."""

    name: str
    value: Any
    source: str
    doc: str
    shadowed: tuple[tuple[str, Any], ...]


class _Layer(NamedTuple):
    """The raw values of one source: dotted name -> (value, source)."""

    label: str
    values: dict[str, tuple[Any, str]]


POLICIES = ("error", "warn", "allow")

CORE_SCHEMA: dict[str, Option] = {
    "device.default": Option(
        list,
        ["cpu"],
        "devices to try in order; the first that works is used",
        (),
        ("LAMPION_DEVICE",),
    ),
    "fallback.policy": Option(
        str,
        "error",
        "what happens when a device lacks a kernel: an error, a warned or a counted fallback",
        POLICIES,
        ("LAMPION_FALLBACK",),
    ),
    "fallback.policies": Option(
        dict,
        {},
        "policies of single ops ('op', 'op@device') and devices ('@device'), above the general one",
        POLICIES,
    ),
    "fallback.device": Option(
        str, "", "where a fallback runs; empty: the first other device with host memory"
    ),
    "kernels": Option(dict, {}, "'op@device' to the provider that is tried first, or 'generated'"),
    "float32_matmul_precision": Option(
        str,
        "highest",
        "how exact products of float32 matrices are on devices with faster inexact units",
        ("highest", "high", "medium"),
    ),
    "compat": Option(
        dict, {}, "device names that PyTorch programs write to the devices that are meant"
    ),
    "plugins.disable": Option(list, [], "plug-ins (or their distributions) that are not loaded"),
    "plugins.prefer": Option(
        dict, {}, "plug-in name to the distribution that provides it, when several do"
    ),
    "log.level": Option(
        str,
        "warning",
        "a level (debug, info, warning, error), components, or component=level pairs",
        (),
        ("LAMPION_LOG",),
    ),
    "log.format": Option(str, "console", "how log lines look", ("console", "json")),
    "compile.cache_dir": Option(
        str,
        "",
        "where compiled kernels are kept; empty: the user's cache directory",
        (),
        ("LAMPION_CACHE_DIR",),
    ),
    "threads.count": Option(
        int,
        0,
        "threads of a device that runs on the host; 0: its cores",
        (),
        ("LAMPION_NUM_THREADS",),
    ),
}

_BACKEND = "backend."

# Everything below is guarded by _lock; readers see whole dictionaries, swapped in one assignment.
_lock = threading.RLock()
_plugin_schema: dict[str, Option] = {}
_set_values: dict[str, tuple[Any, str]] = {}
_layers: list[_Layer] | None = None
_effective: dict[str, Any] = {}
_overrides: ContextVar[dict[str, Any] | None] = ContextVar("lampion_config", default=None)

generation = 0
"""Counts every change of the settings: cache what you derive from them under this number."""


# --- reading -------------------------------------------------------------------------------------


def get(name: str) -> Any:
    """The effective value of option `name`, for example `get("fallback.policy")`.

    Raises ConfigError for an unknown name, an unreadable file or a bad value in any layer.

    >>> get("fallback.policy") in ("error", "warn", "allow")
    True
    """
    local = _overrides.get()
    if local is not None and name in local:
        return local[name]
    if _layers is None:
        _load()
    try:
        value = _effective[name]
    except KeyError:
        raise _unknown(name, "config.get") from None
    return value.copy() if type(value) in (list, dict) else value


def section(prefix: str) -> dict[str, Any]:
    """All options under a table as a new dictionary without the prefix.

    >>> sorted(section("log"))
    ['format', 'level']
    """
    names = [n for n in _schema() if n.startswith(prefix + ".")]
    if not names:
        raise ConfigError(f"config has no table [{prefix}]{_nearest(prefix, _tables())}")
    return {n[len(prefix) + 1 :]: get(n) for n in names}


def explain() -> list[Setting]:
    """Every effective value with its source and the values that it hides, sorted by name.

    >>> [s.source for s in explain() if s.name == "kernels"]
    ['default']
    """
    layers = _all_layers()
    settings = []
    for name, option in sorted(_schema().items()):
        found = [layer.values[name] for layer in layers if name in layer.values]
        found.append((option.default, "default"))
        raw, where = found[0]
        hidden = tuple((where, value) for value, where in found[1:])
        settings.append(
            Setting(name, _convert(name, option, raw, where), where, option.doc, hidden)
        )
    return settings


def source(name: str) -> str:
    """Where the effective value of `name` comes from, in words."""
    for setting in explain():
        if setting.name == name:
            return setting.source
    raise _unknown(name, "config.source")


def files() -> list[Path]:
    """The configuration files that are in effect, highest first."""
    return [path for path, _ in _config_files()]


def notes() -> list[str]:
    """Remarks for `lampion doctor`: tables of absent backends and unknown LAMPION_* variables."""
    remarks = []
    known = {n.split(".")[1] for n in _schema() if n.startswith(_BACKEND)}
    for layer in _all_layers():
        for name, (_, where) in layer.values.items():
            if name.startswith(_BACKEND) and name.split(".")[1] not in known:
                remarks.append(f"{where}: '{name}' belongs to a backend that is not loaded")
    names = _env_names(_schema())
    for variable in sorted(os.environ):
        if variable.startswith("LAMPION_") and variable not in names and variable not in _OTHER_ENV:
            remarks.append(f"env {variable}: not an option{_nearest(variable, names)}")
    return remarks


def cache_dir() -> Path:
    """The directory for things that can be made again: option compile.cache_dir or the user's."""
    from pathlib import Path

    chosen = get("compile.cache_dir")
    return Path(chosen).expanduser() if chosen else user_dir("cache")


# --- changing ------------------------------------------------------------------------------------


def set(name: str, value: Any, source: str = "config.set") -> None:
    """Set option `name` for the process, above files and environment.

    Raises ConfigError for an unknown name or a value of the wrong type; nothing changes then.

    >>> set("fallback.policy", "warn"); get("fallback.policy")
    'warn'
    >>> unset("fallback.policy")
    """
    with _lock:
        if _layers is None:
            _load()
        if not _belongs_to_absent_backend(name):  # those are checked when the backend loads
            value = _convert(name, _option(name, source), value, source)
        with _watched([name]):
            _set_values[name] = (value, source)
            _rebuild()


def unset(name: str) -> None:
    """Take back what `set` did to option `name`; without a value that is no error."""
    with _lock:
        if not _belongs_to_absent_backend(name):
            _option(name, "config.unset")
        with _watched([name]):
            _set_values.pop(name, None)
            if _layers is not None:
                _rebuild()


@contextmanager
def override(values: Mapping[str, Any] | None = None, /, **tables: Any) -> Iterator[None]:
    """Use other values within a `with` block, for this thread or task only.

    >>> with override({"fallback.policy": "allow"}):
    ...     get("fallback.policy")
    'allow'
    >>> with override(fallback={"policy": "warn"}):
    ...     get("fallback.policy")
    'warn'
    """
    global generation
    flat = dict(values or {})
    flat.update({n: v for n, (v, _) in _flatten(tables, "config.override").items()})
    if _layers is None:
        _load()
    checked = dict(_overrides.get() or {})
    for name, value in flat.items():
        checked[name] = _convert(name, _option(name, "config.override"), value, "config.override")
    with _watched(flat):
        token = _overrides.set(checked)
        generation += 1
    try:
        yield
    finally:
        with _watched(flat):
            _overrides.reset(token)
            generation += 1


_watchers: list[tuple[tuple[str, ...], Callable[[], object]]] = []


def watch(names: tuple[str, ...], callback: Callable[[], object]) -> None:
    """Call `callback` whenever the value of one of these options changes in this process."""
    _watchers.append((names, callback))


@contextmanager
def _watched(changing: Iterable[str]) -> Iterator[None]:
    """Tell the watchers of what has another value after the block than before."""
    of_interest = [n for n in changing if any(n in names for names, _ in _watchers)]
    before = {n: get(n) for n in of_interest}
    yield
    changed = {n for n in of_interest if get(n) != before[n]}
    if changed:
        for names, callback in _watchers:
            if changed.intersection(names):
                callback()


def reload() -> None:
    """Forget what was read from files and environment; the next `get` reads them again."""
    global _layers
    with _lock:
        _layers = None


def register_schema(table: str, options: Mapping[str, Any]) -> None:
    """Declare the options of `[backend.NAME]`; values already read are checked against them now.

    Each option is an `Option` or a tuple (type, default, doc). Raises ConfigError for a bad
    declaration and for settings that do not fit; the schema is not kept then.
    """
    declared = {f"{table}.{key}": _as_option(table, key, o) for key, o in options.items()}
    with _lock:
        if _layers is None:
            _load()
        before = dict(_plugin_schema)
        _plugin_schema.update(declared)
        try:
            _check_table(table)
            _rebuild(reread_environment=True)
        except ConfigError:
            _plugin_schema.clear()
            _plugin_schema.update(before)
            _rebuild(reread_environment=True)
            raise


# --- schema --------------------------------------------------------------------------------------


def _schema() -> dict[str, Option]:
    return {**CORE_SCHEMA, **_plugin_schema}


def _tables() -> list[str]:
    return sorted({name.rpartition(".")[0] or name for name in _schema()})


def _as_option(table: str, key: str, declared: Any) -> Option:
    if isinstance(declared, Option):
        return declared
    if not isinstance(declared, tuple) or not 3 <= len(declared) <= 5:
        raise ConfigError(
            f"the schema of [{table}] declares '{key}' as {declared!r}: "
            "use (type, default, doc) or lampion.config.Option"
        )
    kind, *rest = declared
    if isinstance(kind, tuple):  # a tuple of words is a choice
        return Option(str, rest[0], rest[1], kind)
    if kind not in (bool, int, float, str, list, dict):
        raise ConfigError(f"the schema of [{table}] gives '{key}' the type {kind!r}")
    return Option(kind, *rest)


def _option(name: str, where: str) -> Option:
    option = CORE_SCHEMA.get(name) or _plugin_schema.get(name)
    if option is None:
        raise _unknown(name, where)
    return option


def _belongs_to_absent_backend(name: str) -> bool:
    """Whether `name` is backend.NAME.key and no schema of backend NAME is known (yet)."""
    if not name.startswith(_BACKEND) or name.count(".") < 2:
        return False
    table = ".".join(name.split(".")[:2])
    return not any(known.startswith(table + ".") for known in _plugin_schema)


def _unknown(name: str, where: str) -> ConfigError:
    if _belongs_to_absent_backend(name):
        backend = name.split(".")[1]
        return ConfigError(
            f"{where}: '{name}' belongs to backend '{backend}', which is not loaded "
            "or declares no options"
        )
    return ConfigError(f"{where}: unknown option '{name}'{_nearest(name, _schema())}")


def _nearest(name: str, known: Any) -> str:
    """' (did you mean ...?)' for the best match, or nothing."""
    import difflib

    best = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    if not best and "." in name:  # the last part may be right and the table wrong
        tail = name.rpartition(".")[2]
        tails = {k.rpartition(".")[2]: k for k in known}
        match = difflib.get_close_matches(tail, list(tails), n=1, cutoff=0.8)
        best = [tails[m] for m in match]
    return f" (did you mean '{best[0]}'?)" if best else ""


_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def _convert(name: str, option: Option, value: Any, where: str) -> Any:
    """The value in the option's type, or a ConfigError that names option, value and source."""
    kind = option.type
    text = isinstance(value, str)
    if kind is list and text:
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif kind is dict and text:
        value = _pairs(name, value, where)
    elif kind is bool and text and value.lower() in _TRUE | _FALSE:
        value = value.lower() in _TRUE
    elif kind in (int, float) and (text or type(value) is int):
        try:
            value = kind(value)
        except ValueError:
            raise _wrong(name, option, value, where) from None
    if type(value) is not kind and not (kind is list and isinstance(value, tuple)):
        raise _wrong(name, option, value, where)
    return _checked(name, option, value, where)


def _checked(name: str, option: Option, value: Any, where: str) -> Any:
    if option.type is list:
        if not all(isinstance(item, str) for item in value):
            raise _wrong(name, option, value, where)
        return list(value)
    if option.type is dict:
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            raise _wrong(name, option, value, where)
        for key, word in value.items():
            if option.choices and word not in option.choices:
                raise _no_choice(f"{name}.{key}", option, word, where)
        return dict(value)
    if option.choices and value not in option.choices:
        raise _no_choice(name, option, value, where)
    return value


def _no_choice(name: str, option: Option, value: Any, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: {name} = {value!r} is not one of {', '.join(option.choices)}"
        f"{_nearest(value, option.choices)}"
    )


def _pairs(name: str, text: str, where: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{where}: {name} takes key=value pairs, got {part!r}")
        pairs[key.strip()] = value.strip()
    return pairs


def _wrong(name: str, option: Option, value: Any, where: str) -> ConfigError:
    words: dict[type, str] = {list: "a list of strings", dict: "a table of strings"}
    wanted = words.get(option.type, f"a value of type {option.type.__name__}")
    return ConfigError(f"{where}: {name} = {value!r} is not {wanted}")


# --- layers --------------------------------------------------------------------------------------

# Read elsewhere, before there is any configuration.
_OTHER_ENV = {"LAMPION_CONFIG"}


def _load() -> None:
    """Read files and environment and check all of it; the state changes only if all is well."""
    global _layers
    with _lock:
        layers = [_environment()]
        for path, table in _config_files():
            text, content = _read_file(path, table)
            values = _flatten(content, str(path))
            lines = _line_numbers(text, table)
            for name, (value, where) in values.items():
                where = f"{where}:{lines[name]}" if name in lines else where
                values[name] = (value, where)
                if not _belongs_to_absent_backend(name):
                    _option(name, where)
            layers.append(_Layer(str(path), values))
        _layers = layers
        try:
            _rebuild()
        except ConfigError:
            _layers = None
            raise


def _check_table(table: str) -> None:
    for layer in _all_layers():
        for name, (_, where) in layer.values.items():
            if name.startswith(table + ".") and name not in _plugin_schema:
                known = [n for n in _plugin_schema if n.startswith(table + ".")]
                raise ConfigError(f"{where}: unknown option '{name}'{_nearest(name, known)}")


def _all_layers() -> list[_Layer]:
    if _layers is None:
        _load()
    local = {n: (v, "config.override") for n, v in (_overrides.get() or {}).items()}
    assert _layers is not None
    return [_Layer("override", local), _Layer("set", dict(_set_values)), *_layers]


def _rebuild(reread_environment: bool = False) -> None:
    """Resolve every option once, so that `get` is a dictionary look-up."""
    global _effective, generation
    assert _layers is not None
    if reread_environment:  # a plug-in's options bring environment names of their own
        _layers[0] = _environment()
    effective = {}
    for name, option in _schema().items():
        value, where = option.default, "default"
        for layer in (_Layer("set", _set_values), *_layers):
            if name in layer.values:
                value, where = layer.values[name]
                break
        effective[name] = _convert(name, option, value, where)
    _effective = effective
    generation += 1


def _env_names(schema: Mapping[str, Option]) -> dict[str, str]:
    """Environment variable -> option; the aliases come first, so that the long name wins."""
    names = {}
    for name, option in schema.items():
        names.update(dict.fromkeys(option.env, name))
    for name in schema:
        names["LAMPION_" + name.replace(".", "_").replace("-", "_").upper()] = name
    return names


def _environment() -> _Layer:
    names = _env_names(_schema())
    values = {}
    for variable, name in names.items():
        if os.environ.get(variable):
            values[name] = (os.environ[variable], f"env {variable}")
    return _Layer("env", values)


def environment_typos() -> list[str]:
    """LAMPION_* variables that look like a misspelt option; logged when plug-ins are discovered."""
    import difflib

    names = _env_names(_schema())
    typos = []
    for variable in sorted(os.environ):
        if not variable.startswith("LAMPION_") or variable in names or variable in _OTHER_ENV:
            continue
        close = difflib.get_close_matches(variable, list(names), n=1, cutoff=0.85)
        if close:
            typos.append(f"{variable} is not an option; did you mean {close[0]}?")
    return typos


def _config_files() -> list[tuple[Path, str]]:
    """(path, table) of each file in effect: lampion.toml, pyproject.toml, the user's."""
    from pathlib import Path  # of little use before there is a device, and slow to import

    found: list[tuple[Path, str]] = []
    explicit = os.environ.get("LAMPION_CONFIG")
    if explicit:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise ConfigError(f"env LAMPION_CONFIG: there is no file {path}")
        found.append((path, ""))
    here = Path.cwd()
    folders = [here, *here.parents]
    if not explicit:
        found += [(f / "lampion.toml", "") for f in folders if (f / "lampion.toml").is_file()][:1]
    for folder in folders:
        path = folder / "pyproject.toml"
        if path.is_file() and b"[tool.lampion" in path.read_bytes():
            found.append((path, "tool.lampion"))
            break
    user = user_dir("config") / "lampion.toml"
    if user.is_file() and all(user != path for path, _ in found):
        found.append((user, ""))
    return found


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """What a TOML text says. ConfigError that names `where` it stands, if it cannot be read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from error
    return content


def _read_file(path: Path, table: str) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file and what it says under `table`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    content = parse_toml(text, path)
    for part in filter(None, table.split(".")):
        content = content.get(part, {})
    return text, content


def _line_numbers(text: str, table: str) -> dict[str, int]:
    """Dotted name -> line, for messages; TOML parsers keep no positions."""
    lines: dict[str, int] = {}
    heading = ""
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line.startswith("[") and "=" not in line:
            heading = line.strip("[] \t")
            heading = heading.replace('"', "") + "."
            name = heading[:-1]
        elif "=" in line and not line.startswith("#"):
            name = heading + line.partition("=")[0].strip().replace('"', "")
        else:
            continue
        if not table or name.startswith(table + "."):
            lines.setdefault(name[len(table) + 1 :] if table else name, number)
    return lines


def _flatten(table: Mapping[str, Any], where: str) -> dict[str, tuple[Any, str]]:
    """Nested tables as dotted names; tables that are options themselves stay whole."""
    flat: dict[str, tuple[Any, str]] = {}

    def walk(prefix: str, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            name = f"{prefix}{key}"
            option = CORE_SCHEMA.get(name)
            whole = option is not None and option.type is dict
            whole = whole or (prefix.startswith(_BACKEND) and prefix != _BACKEND)
            if isinstance(value, Mapping) and not whole:
                walk(name + ".", value)
            else:
                flat[name] = (value, where)

    walk("", table)
    return flat


def user_dir(kind: str) -> Path:
    """The user's `config` or `cache` directory for lampion, by the platform's custom."""
    from pathlib import Path

    home = Path.home()
    if sys.platform == "win32":
        variable = "APPDATA" if kind == "config" else "LOCALAPPDATA"
        base = Path(os.environ.get(variable) or home / "AppData" / "Roaming")
        return base / "lampion" / ("" if kind == "config" else "cache")
    if sys.platform == "darwin":
        folder = "Application Support" if kind == "config" else "Caches"
        return home / "Library" / folder / "lampion"
    variable, default = {
        "config": ("XDG_CONFIG_HOME", ".config"),
        "cache": ("XDG_CACHE_HOME", ".cache"),
    }[kind]
    return Path(os.environ.get(variable) or home / default) / "lampion"
