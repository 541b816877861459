"""The conformance suite as a program: exit status, reports, the xfail file, levels."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "plugins" / "conformance"
if not any((Path(p) / "lampion_conformance").is_dir() for p in sys.path if p):
    sys.path.append(str(ROOT))

from lampion_conformance import CHAPTERS, matrix  # noqa: E402
from lampion_conformance.plugin import name_of, read_known  # noqa: E402
from lampion_conformance.report import Report, as_html, as_json, as_markdown, badge  # noqa: E402

RUN = """
import argparse, sys
from lampion_conformance import command
parser = argparse.ArgumentParser()
command.arguments(parser)
sys.exit(command.run(parser.parse_args()))
"""


def conformance(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """`lampion conformance` in a process of its own, from the wheel or from source."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    return subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True,
                          cwd=cwd, env={**os.environ, "PYTHONPATH": path}, timeout=240)


def results(outcome="passed", **other):
    """A report of a whole run in which each chapter has one test."""
    r = Report("acme", False)
    r.whole = True
    for chapter in CHAPTERS:
        r.add(f"{chapter}::test_x", other.get(chapter, outcome), 0.1, "E   wrong", {})
    return r


def test_a_run_writes_its_reports_and_ends_with_0(tmp_path):
    done = conformance("ref", "--quick", "-k", "hygiene or views_of_views", "--json", "r.json",
                       "--html", "r.html", "--markdown", "r.md", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ref: part of the suite, 100.0% of 8 tests (--quick)" in done.stdout
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["level"] is None and data["label"] == "part of the suite"
    assert (data["quick"], data["whole"], data["percentage"]) == (True, False, 100.0)
    assert data["chapters"]["hygiene"]["passed"] == 7
    assert data["device"]["description"] == "NumPy reference device"
    assert "contract::test_views_of_views_start_where_they_say" in [
        t["name"] for t in data["tests"]]
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert "| contract | L0 | 1 |" in (tmp_path / "r.md").read_text()


def test_a_known_failure_that_passes_is_an_error(tmp_path):
    (tmp_path / "known").write_text("contract::test_descriptions  it is shy\n")
    done = conformance("ref", "-k", "test_descriptions", "--xfail", "known", "--json", "r.json",
                       cwd=tmp_path)
    assert done.returncode == 1
    assert "XPASS(strict)" in done.stdout
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["chapters"]["contract"]["failed"] == 1


def test_a_run_that_stopped_has_no_level(tmp_path):
    (tmp_path / "known").write_text("contract::test_descriptions  it is shy\n")
    done = conformance("ref", "--quick", "-x", "--xfail", "known", "--json", "r.json",
                       cwd=tmp_path)
    assert done.returncode == 1 and "XPASS(strict)" in done.stdout
    data = json.loads((tmp_path / "r.json").read_text())
    assert (data["whole"], data["level"], data["label"]) == (False, None, "part of the suite")


def test_what_cannot_be_run_says_why(tmp_path):
    done = conformance("nosuch", cwd=tmp_path)
    assert done.returncode == 1 and "'nosuch'" in done.stderr and not done.stdout
    done = conformance("ref", "-k", "nosuchtest", cwd=tmp_path)
    assert done.returncode == 1 and "no test matches" in done.stderr


def test_pytest_runs_it_by_name(tmp_path):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    words = ["-p", "lampion_conformance.plugin", "--pyargs", "lampion_conformance", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--lampion-device=ref", "-k", "test_descriptions"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ref: part of the suite, 100.0% of 1 tests" in done.stdout


@pytest.mark.parametrize("changed, level", [
    ({}, 2), ({"numerics": "failed"}, 1), ({"random": "known"}, 1), ({"kernels": "failed"}, 0),
    ({"kernels": "skipped"}, 2), ({"hygiene": "failed", "ops": "failed"}, -1),
    ({"primitives": "skipped"}, 0)])
def test_levels(changed, level):
    assert results(**changed).level == level


def test_a_level_needs_all_tests_and_the_second_no_other_device():
    r = results()
    r.whole = False
    assert r.level is None
    r = results()
    r.results["ops::test_x"].properties["elsewhere"] = ["linalg_eigh"]
    assert (r.level, r.elsewhere) == (1, ["linalg_eigh"])


def test_percentages_count_what_applies():
    r = results(ops="failed", random="known", training="skipped")
    assert r.percentage() == pytest.approx(100 * 7 / 9)
    assert r.percentage("ops") == 0 and r.percentage("contract") == 100


def test_reports_escape_and_show_failures():
    r = results(ops="failed")
    r.results["ops::test_x"].text = "E   AssertionError: 1 < 2 & 3"
    assert "1 &lt; 2 &amp; 3" in as_html(r) and "1 < 2 & 3" not in as_html(r)
    assert "- `ops::test_x`: AssertionError: 1 < 2 & 3" in as_markdown(r)
    assert json.loads(as_json(r))["level"] == 1
    assert "L1 90%" in badge(r)


@pytest.mark.parametrize("text, words", [
    ("ops::test_x\n", "a line is"), ("reason only\n", "a line is"),
    ("ops::test_x  a\nops::test_x  b\n", "named twice")])
def test_a_wrong_xfail_file_is_refused(tmp_path, text, words):
    (tmp_path / "known").write_text(text)
    with pytest.raises(pytest.UsageError, match=words):
        read_known(str(tmp_path / "known"))


def test_an_xfail_file_has_comments(tmp_path):
    (tmp_path / "known").write_text("# acme 2\n\nops::test_x[a-b]   its #1 fault\n")
    assert read_known(str(tmp_path / "known")) == {"ops::test_x[a-b]": "its #1 fault"}


def test_other_tests_are_left_alone():
    assert name_of("tests/ops/test_random.py::test_x") is None
    assert name_of("lib/lampion_conformance/test_ops.py::test_x[a]") == "ops::test_x[a]"


# ---------------------------------------------------------------- the support matrix

def reported(device, quick=False, **outcomes):
    """A report of tests with outcomes; "refused" is a dtype that the op refuses."""
    r = Report(device, quick)
    for name, outcome in outcomes.items():
        name = name.replace("__", "::", 1).replace("_OF_", "[").replace("_AND_", "-") + "]"
        refused = outcome == "refused"
        r.add(name, "passed" if refused else outcome, 0.1, "",
              {"computed": not refused} if "test_dtypes" in name else {})
    return json.loads(as_json(r))


def test_the_matrix_says_what_was_tested():
    one = reported("one", primitives__test_dtypes_OF_exp_AND_float64="passed",
                   primitives__test_dtypes_OF_exp_AND_bool="refused",
                   primitives__test_dtypes_OF_exp_AND_float16="passed",
                   ops__test_values_OF_exp="passed", ops__test_forms_OF_exp="passed",
                   gradients__test_gradients_OF_exp="passed",
                   ops__test_values_OF_norm="passed", ops__test_values_OF_sort="skipped")
    two = reported("two", True, primitives__test_dtypes_OF_exp_AND_float64="failed",
                   primitives__test_dtypes_OF_exp_AND_float16="skipped",
                   ops__test_values_OF_exp="failed", ops__test_forms_OF_exp="passed",
                   gradients__test_gradients_OF_norm="known")
    text = matrix.page([one, two])
    assert "| `exp` | f2 f4 f8 | vog all | o ~~v~~ ~~f8~~ |" in text
    assert "| `norm` | v | ~~g~~ |" in text and "`sort`" not in text
    assert "a quick run tests a sample" in text
    assert "a quick run" not in matrix.page([one])
    assert matrix.defined({"uint8", "uint16", "uint32", "uint64", "float64", "bool"}) == "b u f4 f8"
    assert matrix.defined({"float16", "bfloat16", "float64", "int8"}) == "i1 f"


def test_what_was_run_again_counts():
    first = reported("one", ops__test_values_OF_exp="failed", ops__test_values_OF_log="passed")
    again = reported("one", ops__test_values_OF_exp="passed")
    text = matrix.page([first, again])
    assert "| `exp` | v |" in text and "| `log` | v |" in text and "100.0%" in text
    first["whole"] = True
    r = results(ops="failed")
    r.results["ops::test_x"].properties["elsewhere"] = ["eigh"]
    whole = json.loads(as_json(r))
    assert Report.of(whole).level == 1 and Report.of(whole).elsewhere == ["eigh"]
    whole_again = json.loads(as_json(results()))
    assert Report.of(whole, whole_again).level == 2


def test_the_matrix_command(tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(reported("one", ops__test_values_OF_exp="passed")))
    (tmp_path / "x.json").write_text("[]")
    parser = argparse.ArgumentParser()
    matrix.arguments(parser)
    words = [str(tmp_path / "r.json"), "--write", str(tmp_path / "m.md")]
    assert matrix.run(parser.parse_args(words)) == 0
    assert "| `exp` | v |" in (tmp_path / "m.md").read_text() and not capsys.readouterr().out
    assert matrix.run(parser.parse_args(words[:1])) == 0
    assert "# Support, op by op" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no report of lampion conformance"):
        matrix.run(parser.parse_args([str(tmp_path / "x.json")]))
    with pytest.raises(ValueError, match="nosuch"):
        matrix.run(parser.parse_args([str(tmp_path / "nosuch.json")]))
