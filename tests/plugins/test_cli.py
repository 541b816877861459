"""The `lampion` program: commands that answer, mistakes that are explained."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lampion_cpu")


@pytest.fixture
def lampion(program):
    """Run `python -m lampion` with these words on the CPU."""
    return lambda *words, **environment: program(
        None, list(words), **{"LAMPION_DEVICE": "cpu", **environment}
    )


def test_help_lists_the_commands(lampion):
    for words in ((), ("--help",)):
        done = lampion(*words)
        assert done.returncode == 0
        for command in (
            "devices",
            "doctor",
            "config",
            "plugins",
            "ops",
            "explain",
            "demo",
            "bench",
        ):
            assert f"  {command} " in done.stdout
    assert lampion("--version").stdout.startswith("lampion 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dctor",), "there is no command 'dctor'; did you mean 'doctor'?"),
        (("explain", "ad"), "there is no op 'ad'; did you mean"),
        (("explain", "add", "--dtype", "float31"), "there is no dtype 'float31'"),
        (("explain", "add", "4by4"), "'4by4' is no shape"),
        (("explain", "add", "--device", "nosuch"), "no installed plug-in provides device 'nosuch'"),
        (("config", "fallback.polizy"), "did you mean 'fallback.policy'"),
        (("doctor", "nosuch"), "no installed plug-in provides device 'nosuch'"),
        (("demo", "cats"), "invalid choice: 'cats'"),
    ],
)
def test_mistakes_are_explained(lampion, words, message):
    done = lampion(*words)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_ops_lists_the_registry(lampion):
    rows = json.loads(lampion("ops", "add", "--json").stdout)
    add = next(row for row in rows if row["name"] == "add")
    assert add["kind"] == "elementwise" and add["gradient"] == "yes"
    assert "inplace" in add["variants"]
    text = lampion("ops", "--kind", "view", "--device", "cpu").stdout
    assert "transpose" in text and " view: another look at the same memory" in text


def test_explain_tells_the_kernel(lampion):
    done = lampion("explain", "add", "3x4", "4", "--dtype", "float64", "--device", "cpu")
    assert done.stdout.startswith("add(float64[3, 4], float64[4]) on cpu\n  -> "), done.stderr
    data = json.loads(lampion("explain", "sum", "5x6", "dim=1", "--json").stdout)
    assert data[0]["op"] == "sum" and "dim=1" in data[0]["call"]


def test_bench_times_calls(lampion):
    done = lampion("bench", "add", "--shape", "4", "--seconds", "0.01", "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert row["op"] == "add" and 0 < row["call_us"] <= row["done_us"] + 1


def test_devices_names_the_default(lampion):
    data = json.loads(lampion("devices", "--json").stdout)
    assert data["default"] == "cpu"
    assert "cpu" in [row["device"] for row in data["devices"]]


def test_config_tells_where_values_come_from(lampion, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.lampion.fallback]\npolicy = "warn"\n')
    done = lampion("config", "fallback.policy", "--all")
    assert "fallback.policy = 'warn'" in done.stdout and "pyproject.toml:2" in done.stdout
    assert "hides 'error' from default" in done.stdout
    (tmp_path / "lampion.toml").write_text("[fallback]\npolcy = 'warn'\n")
    done = lampion("config")
    assert done.returncode == 2 and "lampion.toml:2" in done.stderr


def test_demo_help_shows_both_demos(lampion):
    text = lampion("demo", "--help").stdout
    assert "digits" in text and "text" in text


def test_a_pipe_that_closes_early_is_no_error(program, tmp_path):
    import subprocess
    import sys

    done = subprocess.run(
        f"{sys.executable} -m lampion ops | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("name") and done.stderr == ""
