"""Which device is used when the program names none: the first of a list that works.

The list is option `device.default`; a call sets it by `with lampion.device(...)`,
`lampion.set_default_device`, the environment or a file (see `config`). Every choice is logged with
its reason, at level info. Floor 2; imports config, logging and this package.
"""

from __future__ import annotations

from typing import NamedTuple

from lampion import config
from lampion.base.errors import PluginError
from lampion.logging import get_logger
from lampion.plugins import devices

__all__ = ["Choice", "choose", "default_device"]

_log = get_logger("device")
_choices: dict[tuple[str, ...], Choice] = {}


class Choice(NamedTuple):
    """The device that was chosen, why, and what was passed over: (name, reason) each."""

    device: str
    reason: str
    rejected: tuple[tuple[str, str], ...]


def default_device() -> str:
    """The name of the default device, for example "cpu" or "name:1".

    Raises PluginError when no device of the list works, with the reason for each.
    """
    return choose(config.get("device.default")).device


def choose(candidates: list[str]) -> Choice:
    """The first of `candidates` ("name" or "name:index") that has a device, with the reasons.

    A choice that worked is remembered; one that did not is tried again.
    """
    key = tuple(candidates)
    known = _choices.get(key)
    if known is not None:
        return known
    rejected: list[tuple[str, str]] = []
    causes: list[PluginError] = []
    for name in candidates:
        try:
            problem = _problem(name)
        except PluginError as error:
            problem = str(error)
            causes.append(error)
        if problem is None:
            return _remember(key, name, rejected)
        rejected.append((name, problem))
    if not rejected:
        where = config.source("device.default")
        raise PluginError(f"device.default is empty ({where}); name at least one device")
    text = "\n".join(f"- {name}: {reason}" for name, reason in rejected)
    raised = PluginError(f"no device of {', '.join(candidates)} works:\n{text}")
    raise raised from (causes[0] if causes else None)


def _problem(name: str) -> str | None:
    """Why a candidate cannot be used, or None."""
    kind, _, index = name.partition(":")
    if index and not index.isdigit():
        return f"'{name}' is no device; write 'name' or 'name:0'"
    found = devices(kind)
    if len(found) <= int(index or 0):
        return f"it has {len(found)} device{'' if len(found) == 1 else 's'}"
    return None


def _remember(key: tuple[str, ...], name: str, rejected: list[tuple[str, str]]) -> Choice:
    where = config.source("device.default")
    reason = f"first of {', '.join(key)} that works ({where})"
    choice = _choices[key] = Choice(name, reason, tuple(rejected))
    passed = {passed_name: why.splitlines()[0] for passed_name, why in rejected}
    _log.info("default device", device=name, why=reason, passed_over=passed or None)
    return choice
