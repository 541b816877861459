"""Log lines: quiet by default, by component, as text or JSON."""

from __future__ import annotations

import json

import pytest

from lampion import config
from lampion.logging import get_logger, levels


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_quiet_unless_something_needs_attention(capsys):
    log = get_logger("test-quiet")
    with config.override({"log.level": "warning"}):
        log.debug("detail", a=1)
        log.info("decision", a=1)
        assert lines(capsys) == []
        log.warning("change this", why="old")
        (line,) = lines(capsys)
    assert "change this" in line and "why=old" in line and "component=test-quiet" in line


def test_components_have_levels_of_their_own(capsys):
    one, two = get_logger("one"), get_logger("two")
    with config.override({"log.level": "one"}):
        one.debug("seen")
        two.info("unseen")
        assert [word in "".join(lines(capsys)) for word in ("seen", "unseen")] == [True, False]
    with config.override({"log.level": "info,two=error"}):
        one.info("seen")
        two.warning("hidden")
        assert "hidden" not in "".join(lines(capsys))
        assert levels() == ("info", {"two": "error"})


def test_json_lines_can_be_read_back(capsys):
    with config.override({"log.level": "debug", "log.format": "json"}):
        get_logger("json").info("event", number=3, thing=object)
        (line,) = lines(capsys)
    data = json.loads(line)
    assert (data["event"], data["number"], data["component"]) == ("event", 3, "json")
    assert data["level"] == "info" and data["thing"] == "<class 'object'>"


@pytest.mark.parametrize("bad", ["debgu", "one=loud", "warnin"])
def test_a_misspelt_level_is_an_error(bad):
    with config.override({"log.level": bad}), pytest.raises(config.ConfigError, match="level"):
        get_logger("test-bad").debug("x")


def test_the_programs_own_structlog_is_left_alone(capsys):
    structlog = pytest.importorskip("structlog")
    before = structlog.get_config()
    with config.override({"log.level": "debug"}):
        get_logger("polite").debug("x")
    assert structlog.get_config() == before
