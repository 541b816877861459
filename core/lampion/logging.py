"""Structured log lines, quiet unless asked for.

`get_logger(component)` returns a small object whose methods cost one comparison while its level is
off; structlog is imported when the first line is really written. What is written, and how, comes
from `log.level` (LAMPION_LOG) and `log.format` (LAMPION_LOG_FORMAT):

    LAMPION_LOG=debug                      everything
    LAMPION_LOG=plugins,compile            these components from debug, the rest from warning
    LAMPION_LOG=info,plugins=debug         a level for all, another for one

Lines go to standard error through processors of our own; the structlog configuration of the host
program is left alone. Floor 2: imports config.
"""

from __future__ import annotations

from typing import Any

from lampion import config

__all__ = ["Logger", "get_logger", "levels"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_loggers: dict[str, Logger] = {}


class Logger:
    """Writes events of one component; keyword arguments become fields of the line.

    >>> get_logger("plugins").debug("looked", found=3)
    """

    __slots__ = ("_generation", "_level", "_sink", "component")

    def __init__(self, component: str) -> None:
        self.component = component
        self._generation = -1
        self._level = LEVELS["warning"]
        self._sink: Any = None

    def enabled(self, level: str) -> bool:
        """Whether a line of this level would be written."""
        return self._on(LEVELS[level])

    def debug(self, event: str, **fields: Any) -> None:
        """Details of a decision."""
        if self._on(10):
            self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What was decided."""
        if self._on(20):
            self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that its user should change."""
        if self._on(30):
            self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that did not work."""
        if self._on(40):
            self._write("error", event, fields)

    def _on(self, level: int) -> bool:
        if self._generation != config.generation or self._generation < 1:
            self._refresh()
        return level >= self._level

    def _refresh(self) -> None:
        default, by_component = levels()
        self._level = LEVELS[by_component.get(self.component, default)]
        self._sink = None
        self._generation = config.generation

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self._sink is None:
            self._sink = _sink(config.get("log.format")).bind(component=self.component)
        getattr(self._sink, level)(event, **fields)


def get_logger(component: str) -> Logger:
    """The logger of a component; the same object for the same name."""
    logger = _loggers.get(component)
    if logger is None:
        logger = _loggers[component] = Logger(component)
    return logger


def levels() -> tuple[str, dict[str, str]]:
    """The level for everything, and the components that have another.

    >>> with config.override({"log.level": "info,plugins=debug"}):
    ...     levels()
    ('info', {'plugins': 'debug'})
    """
    default, by_component = "warning", {}
    for part in filter(None, (p.strip() for p in config.get("log.level").split(","))):
        component, equals, level = part.partition("=")
        if equals:
            by_component[component] = _level(level, part)
        elif part.lower() in LEVELS:
            default = part.lower()
        else:
            by_component[_component(part)] = "debug"
    return default, by_component


def _level(word: str, part: str) -> str:
    if word.lower() not in LEVELS:
        raise config.ConfigError(f"log.level: {part!r} has no level of {', '.join(LEVELS)}")
    return word.lower()


def _component(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word.lower(), list(LEVELS), n=1, cutoff=0.75)
    if close:
        raise config.ConfigError(f"log.level: {word!r} is no level; did you mean '{close[0]}'?")
    return word


def _sink(style: str) -> Any:
    """A structlog logger of our own, bound to standard error as it is at each line."""
    import sys

    import structlog

    class _Stderr:
        """Looks standard error up at each line, so that redirection works."""

        def msg(self, line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        debug = info = warning = error = critical = msg

    renderer: Any
    if style == "json":
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    processors = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if style == "json" else "%H:%M:%S", utc=False),
        structlog.processors.format_exc_info,
        renderer,
    ]
    return structlog.wrap_logger(
        _Stderr(), processors=processors, wrapper_class=structlog.BoundLogger
    )
