"""Settings: layers and their order, provenance, types, and errors that help."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lampion import config
from lampion.config import ConfigError


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty project folder, no user settings, no LAMPION_* variables."""
    import os

    for name in list(os.environ):
        if name.startswith("LAMPION_"):
            monkeypatch.delenv(name)
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "project" / "deep")
    config.reload()
    yield
    for name in list(config._set_values):
        del config._set_values[name]
    config.reload()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    config.reload()


def test_each_layer_hides_the_ones_below(tmp_path, monkeypatch):
    project = tmp_path / "project"
    policy = "fallback.policy"
    assert (config.get(policy), config.source(policy)) == ("error", "default")

    write(tmp_path / "home" / "lampion" / "lampion.toml", '[fallback]\npolicy = "allow"')
    assert config.get(policy) == "allow" and "home" in config.source(policy)

    write(
        project / "pyproject.toml",
        '[project]\nname = "x"\n[tool.lampion.fallback]\npolicy = "warn"',
    )
    assert config.get(policy) == "warn"
    assert config.source(policy) == f"{project / 'pyproject.toml'}:4"

    write(project / "lampion.toml", '[fallback]\npolicy = "allow"')
    assert config.get(policy) == "allow"
    assert config.source(policy) == f"{project / 'lampion.toml'}:2"

    monkeypatch.setenv("LAMPION_FALLBACK", "warn")
    config.reload()
    assert config.get(policy) == "warn" and config.source(policy) == "env LAMPION_FALLBACK"

    monkeypatch.setenv("LAMPION_FALLBACK_POLICY", "error")
    config.reload()
    assert config.get(policy) == "error"

    config.set(policy, "allow")
    assert config.get(policy) == "allow" and config.source(policy) == "config.set"

    with config.override({policy: "warn"}):
        assert config.get(policy) == "warn" and config.source(policy) == "config.override"
        with config.override(fallback={"policy": "error"}):
            assert config.get(policy) == "error"
        assert config.get(policy) == "warn"
    setting = next(s for s in config.explain() if s.name == policy)
    assert setting.value == "allow"
    assert [value for _, value in setting.shadowed] == ["error", "allow", "warn", "allow", "error"]

    config.unset(policy)
    assert config.get(policy) == "error"


def test_the_nearest_file_counts(tmp_path):
    write(tmp_path / "lampion.toml", "[threads]\ncount = 7")
    write(tmp_path / "project" / "lampion.toml", '[fallback]\npolicy = "warn"')
    assert config.get("threads.count") == 0
    assert [p.parent.name for p in config.files()] == ["project"]


def test_an_explicit_file_replaces_the_search(tmp_path, monkeypatch):
    write(tmp_path / "project" / "lampion.toml", "[threads]\ncount = 7")
    write(tmp_path / "other.toml", "[threads]\ncount = 3")
    monkeypatch.setenv("LAMPION_CONFIG", str(tmp_path / "other.toml"))
    config.reload()
    assert config.get("threads.count") == 3
    monkeypatch.setenv("LAMPION_CONFIG", str(tmp_path / "gone.toml"))
    config.reload()
    with pytest.raises(ConfigError, match="LAMPION_CONFIG: there is no file"):
        config.get("threads.count")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fallback]\npolcy = 'warn'", r"lampion.toml:2: unknown option 'fallback.polcy'.*policy"),
        ("[falback]\npolicy = 'warn'", r"unknown option 'falback.policy'.*'fallback.policy'"),
        ("[fallback]\npolicy = 'alow'", r"not one of error, warn, allow.*'allow'"),
        ("[threads]\ncount = 'many'", r"lampion.toml:2: threads.count = 'many'.*type int"),
        ("[threads]\ncount = 1.5", r"type int"),
        ("[threads]\ncount = true", r"type int"),
        ("[device]\ndefault = [1]", r"list of strings"),
        ("kernels = 3", r"table of strings"),
        ("[backend]\ncpu = 3", r"unknown option 'backend.cpu'"),
        ("device = 'cpu'", r"unknown option 'device'"),
        ("[fallback\n", r"lampion.toml: cannot be read"),
    ],
)
def test_a_bad_file_is_an_error_that_helps(tmp_path, text, message):
    write(tmp_path / "project" / "lampion.toml", text)
    for _ in range(2):  # the error stays; it does not leave half a configuration behind
        with pytest.raises(ConfigError, match=message):
            config.get("log.level")


def test_unknown_names_name_the_nearest(monkeypatch):
    with pytest.raises(ConfigError, match=r"'fallback.polizy' \(did you mean 'fallback.policy'"):
        config.get("fallback.polizy")
    with pytest.raises(ConfigError, match="did you mean"):
        config.set("log.levl", "info")
    with pytest.raises(ConfigError, match="did you mean"), config.override(log={"levl": "info"}):
        pass
    with pytest.raises(ConfigError, match=r"no table \[threds\] \(did you mean 'threads'"):
        config.section("threds")
    with pytest.raises(ConfigError, match="not one of"):
        config.set("fallback.policy", "sometimes")
    assert config.get("fallback.policy") == "error"


def test_values_from_the_environment_get_their_types(monkeypatch):
    monkeypatch.setenv("LAMPION_DEVICE", "one:1, two")
    monkeypatch.setenv("LAMPION_NUM_THREADS", "4")
    monkeypatch.setenv("LAMPION_KERNELS", "softmax@one=acme,add@two=own")
    monkeypatch.setenv("LAMPION_LOG_FORMAT", "")  # empty is unset
    config.reload()
    assert config.get("device.default") == ["one:1", "two"]
    assert config.get("threads.count") == 4
    assert config.get("kernels") == {"softmax@one": "acme", "add@two": "own"}
    assert config.get("log.format") == "console"
    monkeypatch.setenv("LAMPION_NUM_THREADS", "four")
    config.reload()
    with pytest.raises(ConfigError, match="env LAMPION_NUM_THREADS: threads.count = 'four'"):
        config.get("threads.count")


def test_misspelt_variables_are_noticed(monkeypatch):
    monkeypatch.setenv("LAMPION_FALLBAK_POLICY", "allow")
    monkeypatch.setenv("LAMPION_SOMETHING_ELSE", "1")
    assert config.environment_typos() == [
        "LAMPION_FALLBAK_POLICY is not an option; did you mean LAMPION_FALLBACK_POLICY?"
    ]
    notes = "\n".join(config.notes())
    assert "LAMPION_FALLBAK_POLICY" in notes and "LAMPION_SOMETHING_ELSE" in notes


def test_a_plugin_schema_checks_what_was_read_before(tmp_path, monkeypatch):
    write(tmp_path / "project" / "lampion.toml", "[backend.paper]\nspeed = 4\nextra = {a = 'b'}")
    assert config.get("threads.count") == 0  # an absent backend's table is no error
    assert any("backend that is not loaded" in note for note in config.notes())
    with pytest.raises(ConfigError, match="belongs to backend 'paper', which is not loaded"):
        config.get("backend.paper.speed")
    with pytest.raises(ConfigError, match=r"lampion.toml:3: unknown option 'backend.paper.extra'"):
        config.register_schema("backend.paper", {"speed": (int, 1, "")})
    assert "backend.paper.speed" not in config._schema()
    schema = {"speed": (int, 1, ""), "extra": (dict, {}, ""), "way": (("up", "down"), "up", "")}
    try:
        config.set("backend.stone.weight", 5)
        config.register_schema("backend.paper", schema)
        assert config.section("backend.paper") == {"speed": 4, "extra": {"a": "b"}, "way": "up"}
        with pytest.raises(ConfigError, match="not one of up, down"):
            config.set("backend.paper.way", "left")
        config.register_schema("backend.stone", {"weight": (float, 0.0, "")})
        assert config.get("backend.stone.weight") == 5.0
        with pytest.raises(ConfigError, match="declares 'x' as 3"):
            config.register_schema("backend.bad", {"x": 3})
    finally:
        config._plugin_schema.clear()


def test_override_is_local_to_its_thread():
    seen = []
    with config.override({"threads.count": 3}):
        thread = threading.Thread(target=lambda: seen.append(config.get("threads.count")))
        thread.start()
        thread.join()
        assert config.get("threads.count") == 3
    assert seen == [0]


def test_every_change_raises_the_generation():
    config.get("threads.count")
    before = config.generation
    config.set("threads.count", 2)
    assert config.generation > before
    before = config.generation
    with config.override({"threads.count": 3}):
        assert config.generation > before
    assert config.generation > before + 1


def test_directories_follow_settings(tmp_path, monkeypatch):
    assert config.cache_dir().name == "lampion"
    monkeypatch.setenv("LAMPION_CACHE_DIR", str(tmp_path / "c"))
    config.reload()
    assert config.cache_dir() == tmp_path / "c"


def test_returned_containers_are_not_the_stored_ones():
    config.get("device.default").append("oops")
    assert config.get("device.default") == ["cpu"]
