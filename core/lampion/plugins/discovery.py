"""Finding plug-ins: reads the metadata of installed wheels and imports nothing of theirs.

Every decision that needs no code of the plug-in is taken here: is it switched off, was it written
for a contract we serve, do two wheels claim one name. Imported when plug-ins are first asked for,
since reading metadata takes an eighth of the time of `import lampion`. Floor 2; imports config and
this package.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from lampion import config
from lampion.logging import get_logger
from lampion.plugins import versions
from lampion.plugins.plugin_record import BACKENDS, DISABLED, GROUPS, PluginRecord

_log = get_logger("plugins")


def discover() -> list[PluginRecord]:
    """A record for each plug-in of each installed wheel, sorted by group, name and wheel."""
    for typo in config.environment_typos():
        _log.warning("unknown setting in the environment", what=typo)
    records: list[PluginRecord] = []
    for distribution in _distributions():
        records += _records_of(distribution)
    records.sort(key=lambda r: (GROUPS.index(r.group), r.name, r.distribution))
    _apply_disable(records)
    _settle_duplicates(records)
    for record in records:
        _log.debug("found", plugin=record.name, wheel=record.wheel, status=record.status)
    return records


def offers(package: str = "lampion") -> frozenset[str]:
    """The names NAME for which `pip install "PACKAGE[NAME]"` brings a wheel PACKAGE-NAME."""
    try:
        required = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return frozenset()
    form = re.compile(rf"{package}-([\w-]+)\b.*;\s*extra\s*==\s*['\"]\1['\"]\s*$")
    return frozenset(m[1] for m in map(form.match, required) if m)


def same_name(a: str, b: str) -> bool:
    """Whether two names of distributions are one, by the rules of package indexes."""
    return _plain(a) == _plain(b)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions() -> Iterator[Any]:
    """The installed distributions that mention lampion in their entry points.

    Broken metadata of an unrelated distribution must not stop the search, so that each is read on
    its own. Of two installations of one distribution, the first on the path counts, as for import.
    """
    seen: set[str] = set()
    for distribution in metadata.distributions():  # in the order of the path
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or "lampion." not in text:
                continue
            name = _plain(distribution.metadata["Name"])
            if name not in seen:
                seen.add(name)
                yield distribution
        except Exception as error:
            _log.warning("unreadable metadata", distribution=str(distribution), error=repr(error))


def _records_of(distribution: Any) -> list[PluginRecord]:
    name, version = distribution.metadata["Name"], distribution.version
    points = list(distribution.entry_points)
    ranges = {p.name: p.value for p in points if p.group == versions.API_GROUP}
    records = []
    for point in points:
        if point.group not in GROUPS:
            continue
        where = str(distribution.locate_file(""))
        record = PluginRecord(point.name, point.group, point.value, name, version, where)
        _check_api(record, ranges.get(point.name) or ranges.get("all"))
        _check_name(record)
        records.append(record)
    return records


def _check_api(record: PluginRecord, declared: str | None) -> None:
    line = f'{record.name} = "v{versions.CURRENT.major}_{versions.CURRENT.minor}"'
    how = f'its author adds to pyproject.toml: [project.entry-points."lampion.api"] {line}'
    if declared is None:
        record.refuse("its wheel does not say which plug-in API it was written for", how)
        return
    try:
        record.api = versions.parse(declared)
    except ValueError as error:
        record.refuse(str(error), how, error)
        return
    refusal = versions.refusal(record.api, record.distribution)
    if refusal is not None:
        record.refuse(*refusal)


def _check_name(record: PluginRecord) -> None:
    """Devices are named in programs, settings and messages: what could be read as something else
    there is no name."""
    if record.usable and record.group == BACKENDS and not is_device_name(record.name):
        record.refuse(f"{record.name[:40]!r} cannot be the name of a device: lower-case letters, "
                      "digits and _ can, beginning with a letter, not with is_",
                      "its author chooses another name for the entry point")


def is_device_name(name: str) -> bool:
    """Whether a device may be called so.

    >>> [is_device_name(n) for n in ("acme", "acme_2", "Acme", "a:0", "../a", "class", "is_acme")]
    [True, True, False, False, False, False, False]
    """
    return re.fullmatch(r"(?!is_)[a-z][a-z0-9_]{0,39}", name) is not None \
        and not keyword.iskeyword(name)


def _apply_disable(records: list[PluginRecord]) -> None:
    off = config.get("plugins.disable")
    for record in records:
        if any(word == record.name or same_name(word, record.distribution) for word in off):
            record.status = DISABLED
            record.reason = f"[plugins] disable, set by {config.source('plugins.disable')}"
            record.remedy = f"take '{record.name}' out of [plugins] disable"
            record.error = None


def _settle_duplicates(records: list[PluginRecord]) -> None:
    """One wheel per name: the preferred one, else the first in alphabetical order."""
    prefer = config.get("plugins.prefer")
    claims: dict[tuple[str, str], list[PluginRecord]] = {}
    for record in records:
        if record.usable:
            claims.setdefault(record.key, []).append(record)
    for (_, name), rivals in claims.items():
        wanted = prefer.get(name)
        chosen = rivals[0]
        if wanted is not None:
            matching = [r for r in rivals if same_name(r.distribution, wanted)]
            if not matching:
                _refuse_all(rivals, wanted)
                continue
            chosen = matching[0]
        for record in rivals:
            if record is not chosen:
                _refuse_duplicate(record, chosen, wanted is not None)


def _refuse_all(rivals: list[PluginRecord], wanted: str) -> None:
    names = " and ".join(r.distribution for r in rivals)
    where = config.source("plugins.prefer")
    for record in rivals:
        record.refuse(
            f"[plugins] prefer ({where}) asks for '{wanted}', which does not provide "
            f"'{record.name}'; {names} would",
            f"pip install {wanted}, or change [plugins] prefer",
        )


def _refuse_duplicate(record: PluginRecord, chosen: PluginRecord, by_choice: bool) -> None:
    why = "[plugins] prefer" if by_choice else "first by name"
    record.refuse(
        f"{chosen.wheel} and {record.wheel} both provide '{record.name}'; "
        f"{chosen.distribution} is used ({why})",
        f"pip uninstall one of them, or set in lampion.toml: "
        f'[plugins.prefer] {record.name} = "{record.distribution}"',
    )
    if not by_choice:
        _log.warning(
            "two wheels provide one plug-in",
            plugin=record.name,
            used=chosen.wheel,
            refused=record.wheel,
            choose=f'[plugins.prefer] {record.name} = "..."',
        )
