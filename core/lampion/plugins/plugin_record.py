"""What is known of one plug-in: a record that never lies about its state. Floor 2; imports base.

States, in the order of a life:

    found      named by an installed wheel, written for a contract we serve, not imported yet
    loaded     imported, its hooks checked
    refused    not used, for a reason that is ours: contract, duplicate name, misspelt hook...
    failed     an exception of its own, kept with its traceback
    disabled   switched off by `[plugins] disable`
"""

from __future__ import annotations

from typing import Any

from lampion.base.errors import PluginError
from lampion.plugins.versions import ApiRange

__all__ = [
    "BACKENDS",
    "CLI",
    "DISABLED",
    "FAILED",
    "FOUND",
    "GROUPS",
    "LOADED",
    "OPS",
    "REFUSED",
    "PluginRecord",
]

BACKENDS, OPS, CLI = GROUPS = ("lampion.backends", "lampion.ops", "lampion.cli")

FOUND, LOADED, REFUSED, FAILED, DISABLED = "found", "loaded", "refused", "failed", "disabled"


class PluginRecord:
    """One plug-in: where it comes from, its state, and, if it is not usable, why and what to do."""

    __slots__ = (
        "api",
        "called",
        "deprecated",
        "device_error",
        "distribution",
        "error",
        "group",
        "hooks",
        "location",
        "module",
        "name",
        "plugin",
        "reason",
        "remedy",
        "seconds",
        "source",
        "status",
        "version",
    )

    def __init__(
        self,
        name: str,
        group: str,
        module: str,
        distribution: str,
        version: str = "",
        location: str = "",
    ) -> None:
        self.name = name
        self.group = group
        self.module = module
        self.distribution = distribution
        self.version = version
        self.location = location
        self.api: ApiRange | None = None
        self.status = FOUND
        self.reason = ""
        self.remedy = ""
        self.error: BaseException | None = None
        self.device_error: BaseException | None = None
        self.hooks: tuple[str, ...] = ()
        self.called: set[str] = set()
        self.deprecated: tuple[str, ...] = ()
        self.seconds = 0.0
        self.plugin: Any = None  # what pluggy has
        self.source: Any = None  # the module or object that it stands for

    @property
    def key(self) -> tuple[str, str]:
        """Group and name: what must be unique among the plug-ins in use."""
        return (self.group, self.name)

    @property
    def wheel(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def usable(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return self.status in (FOUND, LOADED)

    @property
    def traceback(self) -> str:
        """The traceback of the stored exception, or an empty string."""
        import traceback

        if self.error is None:
            return ""
        return "".join(traceback.format_exception(self.error))

    def refuse(self, reason: str, remedy: str = "", error: BaseException | None = None) -> None:
        """It will not be used, by our decision."""
        self.status, self.reason, self.remedy, self.error = REFUSED, reason, remedy, error

    def fail(self, doing: str, error: BaseException) -> None:
        """It raised `error` while `doing` something; the remedy is guessed from the exception."""
        self.status, self.error = FAILED, error
        self.reason = f"{doing}: {type(error).__name__}: {error}"
        self.remedy = self._guess(error)

    def _guess(self, error: BaseException) -> str:
        if not self.version:
            return ""
        if isinstance(error, ModuleNotFoundError) and error.name:
            top = error.name.partition(".")[0]
            if top == self.module.partition(".")[0] or top == "lampion":
                return f"pip install --upgrade --force-reinstall {self.distribution}"
            return f"pip install {top}  (the module that {self.distribution} misses)"
        if isinstance(error, ImportError):
            return f"pip install --upgrade lampion-core {self.distribution}"
        return ""

    def problem(self) -> PluginError:
        """The error that using this plug-in raises; its cause is the plug-in's own exception."""
        what = f"device '{self.name}'" if self.group == BACKENDS else f"'{self.name}'"
        lines = [f"{what} cannot be used: plug-in {self.wheel} {self.status}: {self.reason}"]
        if self.remedy:
            lines.append(f"  try: {self.remedy}")
        lines.append("  more: lampion doctor")
        raised = PluginError("\n".join(lines))
        raised.__cause__ = self.error
        return raised

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "group": self.group,
            "status": self.status,
            "distribution": self.distribution,
            "version": self.version,
            "module": self.module,
            "location": self.location,
            "api": str(self.api) if self.api else None,
            "hooks": list(self.hooks),
            "deprecated": list(self.deprecated),
            "reason": self.reason,
            "remedy": self.remedy,
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
            "traceback": self.traceback,
            "load_seconds": round(self.seconds, 4),
        }

    def __repr__(self) -> str:
        return f"PluginRecord({self.name!r}, {self.group!r}, {self.wheel!r}, {self.status})"
