"""Plug-ins as strangers ship them: real wheels, good and bad, in a fresh interpreter."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.wheels, pytest.mark.xdist_group("wheels")]

STATES = """
import json
from lampion import plugins
for r in plugins.records(): plugins.load(r)
print(json.dumps({r.name: [r.status, r.reason, r.remedy] for r in plugins.records()}))
"""

USE = """
from lampion import plugins
try:
    print("made", type(plugins.backend({name!r})).__name__)
except RuntimeError as error:
    print(error)
    print("CAUSE", repr(error.__cause__))
"""


def states(done) -> dict[str, list[str]]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_good_wheel_is_a_device_with_no_other_change(install, program):
    done = program(
        install("acme-good"),
        """
        import sys
        from lampion import config, plugins
        assert "acme" in plugins.backend_names()
        assert "acme_good_plugin" not in sys.modules and "pluggy" not in sys.modules
        backend = plugins.backend("acme")
        assert backend is plugins.backend("acme") and backend.name == "acme"
        assert config.get("backend.acme.speed") == 3
        info, = plugins.devices("acme")
        print(info.name, plugins.record("acme").status, plugins.record("acme").wheel)
        """,
    )
    assert done.stdout == "Acme One loaded acme-good 1.0\n", done.stderr


def test_without_the_wheel_the_device_is_unknown(program):
    done = program(None, USE.format(name="acme"))
    assert "no installed plug-in provides device 'acme'" in done.stdout


def test_importing_lampion_imports_no_plugin(install, program):
    site = install("acme-good", "acme-raises", "acme-exits")
    code = "import sys, lampion, lampion.plugins, lampion.config\nprint(sorted(sys.modules))"
    done = program(site, code)
    assert done.returncode == 0, done.stderr
    for name in ("acme", "pluggy", "structlog", "tomllib", "lampion_cpu"):
        assert f"'{name}" not in done.stdout


def test_importing_lampion_does_not_even_look_for_plugins(install, program):
    site = install("acme-ops", "acme-ops-bad")
    done = program(site, "import sys, lampion\nprint('importlib.metadata' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_wheel_installed_twice_is_one_plugin_and_the_first_on_the_path_counts(install, program):
    site, more = install("acme-good"), install("acme-good", "acme-raises", "acme-exits")
    done = program(
        site,
        f"""
        import sys
        sys.path.insert(1, {str(more)!r})
        from lampion import plugins
        print([(r.distribution, r.status) for r in plugins.records() if r.name == "acme"])
        print(plugins.record("acme").location)
        """,
    )
    assert done.stdout == f"[('acme-good', 'found')]\n{more}\n", done.stderr
    assert done.stderr == ""


def test_one_that_fails_on_import_keeps_its_cause_and_harms_nobody(install, program):
    site = install("acme-good", "acme-raises", "acme-exits")
    done = program(site, USE.format(name="raises"))
    assert "device 'raises' cannot be used: plug-in acme-raises 1.0 failed" in done.stdout
    assert "No module named 'acme_missing_sdk'" in done.stdout
    assert "try: pip install acme_missing_sdk" in done.stdout
    assert "CAUSE ModuleNotFoundError" in done.stdout
    done = program(site, USE.format(name="exits"))
    assert "SystemExit: no licence" in done.stdout
    assert program(site, USE.format(name="acme")).stdout == "made Acme\n"


def test_the_traceback_of_the_cause_names_the_plugin_file(install, program):
    done = program(
        install("acme-good", "acme-raises", "acme-exits"),
        "from lampion import plugins\nplugins.backend('raises')",
    )
    assert done.returncode == 1
    assert "acme_raises_plugin.py" in done.stderr and "import acme_missing_sdk" in done.stderr


def test_a_misspelt_hook_is_named_with_the_right_one(install, program):
    status, reason, remedy = states(program(install("acme-typo"), STATES))["typo"]
    assert status == "refused"
    assert "'lampion_backnd' (did you mean 'lampion_backend'?)" in reason
    assert "acme-typo" in remedy


def test_a_hook_with_an_argument_we_do_not_pass_is_refused(install, program):
    status, reason, _ = states(program(install("acme-argument"), STATES))["argument"]
    assert status == "refused"
    assert "device" in reason and "lampion_backend" in reason


def test_a_newer_api_is_refused_before_import(install, program):
    status, reason, remedy = states(program(install("acme-newer"), STATES))["newer"]
    assert status == "refused"
    assert "needs plug-in API 9.0 or newer, lampion-core has 0.3" in reason
    assert "pip install --upgrade lampion-core" in remedy


def test_a_wheel_without_api_range_is_refused_before_import(install, program):
    status, reason, remedy = states(program(install("acme-mute"), STATES))["mute"]
    assert status == "refused"
    assert "does not say which plug-in API" in reason
    assert '[project.entry-points."lampion.api"] mute = "v0_3"' in remedy


def test_two_wheels_of_one_name(install, program, tmp_path):
    site = install("acme-good", "acme-twin")
    show = """
    from lampion import plugins
    for r in plugins.records("lampion.backends"):
        if r.name == "acme": print(r.distribution, r.status, r.reason)
    print("used", plugins.record("acme").distribution, type(plugins.backend("acme")).__name__)
    """
    done = program(site, show)
    assert "acme-good found" in done.stdout and "used acme-good" in done.stdout
    assert "acme-twin refused acme-good 1.0 and acme-twin 1.0 both provide 'acme'" in done.stdout
    assert "two wheels provide one plug-in" in done.stderr

    (tmp_path / "lampion.toml").write_text('[plugins.prefer]\nacme = "acme-twin"\n')
    done = program(site, show)
    assert "used acme-twin" in done.stdout and "acme-good refused" in done.stdout
    assert done.stderr == ""

    (tmp_path / "lampion.toml").write_text('[plugins.prefer]\nacme = "acme-third"\n')
    done = program(site, USE.format(name="acme"))
    assert "asks for 'acme-third'" in done.stdout
    assert "lampion.toml:1)" in done.stdout


def test_a_disabled_plugin_is_not_used_and_settles_a_quarrel(install, program):
    site = install("acme-good", "acme-twin")
    done = program(site, USE.format(name="acme"), LAMPION_PLUGINS_DISABLE="acme_good")
    assert done.stdout == "made Acme\n" and done.stderr == ""
    done = program(site, USE.format(name="acme"), LAMPION_PLUGINS_DISABLE="acme")
    assert "disabled: [plugins] disable, set by env LAMPION_PLUGINS_DISABLE" in done.stdout


def test_a_plugin_is_switched_off_and_on_by_a_command(install, program, tmp_path):
    site = install("acme-good", "acme-twin")
    mine = tmp_path / "lampion" / "lampion.toml"  # XDG_CONFIG_HOME is tmp_path
    done = program(site, ["plugins", "disable", "acme-good"])
    assert (done.returncode, done.stdout) == (0, f"acme-good is switched off in {mine}\n")
    assert mine.read_text() == '[plugins]\ndisable = ["acme-good"]\n'
    assert "used acme-twin" in program(site, """
        from lampion import plugins
        print("used", plugins.record("acme").distribution)""").stdout
    mine.write_text("# mine\n[plugins] # all\ndisable = [\n  'acme-good', # ] slow\n]\n"
                    "prefer = { acme = 'acme-twin' }\n\n[log]\nlevel = 'info'\n")
    assert program(site, ["plugins", "disable", "acme"]).returncode == 0
    assert mine.read_text() == ("# mine\n[plugins] # all\ndisable = [\"acme-good\", \"acme\"]\n"
                                "prefer = { acme = 'acme-twin' }\n\n[log]\nlevel = 'info'\n")
    done = program(site, USE.format(name="acme"))
    assert "disabled: [plugins] disable, set by" in done.stdout
    assert program(site, ["plugins", "disable", "acme"]).stdout == "acme is off already\n"
    assert program(site, ["plugins", "enable", "acme"]).returncode == 0
    assert program(site, ["plugins", "enable", "acme-good"]).returncode == 0
    assert "disable = []" in mine.read_text()
    done = program(site, ["plugins", "disable", "acme-goood"])
    assert done.returncode == 2 and "did you mean 'acme-good'?" in done.stderr
    done = program(site, ["plugins", "disable", "acme"], LAMPION_PLUGINS_DISABLE="acme-twin")
    assert done.returncode == 2 and "set by env LAMPION_PLUGINS_DISABLE: change" in done.stderr
    (tmp_path / "lampion.toml").write_text('plugins = { disable = ["acme-twin"] }\n')
    done = program(site, ["plugins", "disable", "acme"])
    assert done.returncode == 2 and "write by hand, in the table [plugins]: disable = " \
        '["acme-twin", "acme"]' in done.stderr
    assert (tmp_path / "lampion.toml").read_text() == 'plugins = { disable = ["acme-twin"] }\n'


def test_a_backend_that_lacks_a_method_fails_when_made(install, program):
    done = program(install("acme-half"), USE.format(name="half"))
    assert "making its backend: TypeError" in done.stdout and "copy_to_host" in done.stdout


def test_options_of_a_plugin_are_checked_against_its_schema(install, program, tmp_path):
    site = install("acme-good")
    (tmp_path / "lampion.toml").write_text("[backend.acme]\nsped = 4\n")
    done = program(site, USE.format(name="acme"))
    assert "lampion.toml:2: unknown option 'backend.acme.sped'" in done.stdout
    assert "did you mean 'backend.acme.speed'" in done.stdout
    (tmp_path / "lampion.toml").write_text('[backend.acme]\nspeed = "fast"\n')
    assert "is not a value of type int" in program(site, USE.format(name="acme")).stdout
    (tmp_path / "lampion.toml").write_text('[backend.acme]\nspeed = 4\nmode = "fast"\n')
    done = program(site, ["config", "backend.acme"], LAMPION_BACKEND_ACME_SPEED="5")
    assert "backend.acme.speed = 5  # env LAMPION_BACKEND_ACME_SPEED" in done.stdout
    assert "lampion.toml:3" in done.stdout


def test_op_plugins_are_called_once_and_a_raising_one_hides_no_other(install, program):
    done = program(
        install("acme-ops", "acme-ops-bad"),
        """
        from lampion import plugins
        calls = []
        plugins.load_ops(calls); plugins.load_ops(calls)
        plugins.load_kernels(calls); plugins.load_kernels(calls)
        print(calls, [r.status for r in plugins.records("lampion.ops") if "acme" in r.name])
        try: raise plugins.record("acme-ops-bad", "lampion.ops").problem()
        except RuntimeError as error: print(error, repr(error.__cause__))
        """,
    )
    assert "['ops', 'kernels'] ['loaded', 'failed']" in done.stdout, done.stderr
    assert "in its hook lampion_ops: ZeroDivisionError" in done.stdout
    assert "ops are missing" in done.stderr


def test_a_command_from_a_wheel(install, program):
    site = install("acme-say")
    assert "acme-say" in program(site, ["--help"]).stdout
    done = program(site, ["acme-say", "hello"])
    assert (done.stdout, done.returncode) == ("acme says hello\n", 7)


def test_the_priority_list_takes_the_first_device_that_works(install, program):
    site = install("acme-good", "acme-raises", "acme-exits", "acme-driverless")
    code = "from lampion.plugins.select import default_device\nprint(default_device())"
    order = "nosuch,raises,driverless,acme:1,acme"
    done = program(site, code, LAMPION_DEVICE=order, LAMPION_LOG="device=info")
    assert done.stdout == "acme\n"
    for word in ("first of nosuch", "acme_missing_sdk", "libacme.so", "it has 1 device"):
        assert word in done.stderr
    done = program(site, code, LAMPION_DEVICE="raises,driverless")
    assert "no device of raises, driverless works" in done.stderr
    assert "libacme.so not found" in done.stderr


def test_doctor_says_what_is_wrong_and_what_repairs_it(install, program):
    site = install(*BROKEN_AND_GOOD)
    done = program(site, ["doctor"], LAMPION_DEVICE="acme")
    text = done.stdout
    assert done.returncode == 1, done.stderr
    for expected in (
        "Acme One  a machine of paper",
        "driver: acmedrv 7.1",
        "ModuleNotFoundError: No module named 'acme_missing_sdk'",
        "try: pip install acme_missing_sdk",
        "did you mean 'lampion_backend'?",
        "needs plug-in API 9.0",
        "try: pip install --upgrade lampion-core",
        "acme-good 1.0 and acme-twin 1.0 both provide 'acme'",
        "RuntimeError: libacme.so not found",
        "acme: first of acme that works (env LAMPION_DEVICE)",
        "problem(s) found",
    ):
        assert expected in text, text
    data = json.loads(program(site, ["doctor", "--json"], LAMPION_DEVICE="acme").stdout)
    by_wheel = {p["distribution"]: p for p in data["plugins"]}
    assert by_wheel["acme-good"]["status"] == "loaded"
    assert by_wheel["acme-raises"]["status"] == "failed"
    assert "import acme_missing_sdk" in by_wheel["acme-raises"]["traceback"]
    assert by_wheel["acme-newer"]["status"] == "refused"
    one = program(site, ["doctor", "raises"]).stdout
    assert "| ModuleNotFoundError" in one and "Acme One" not in one


BROKEN_AND_GOOD = (
    "acme-good",
    "acme-twin",
    "acme-raises",
    "acme-typo",
    "acme-newer",
    "acme-driverless",
)


def test_devices_lists_what_works_and_why_the_rest_does_not(install, program):
    site = install(*BROKEN_AND_GOOD)
    done = program(site, ["devices"], LAMPION_DEVICE="acme")
    assert "*  acme " in done.stdout and "(libacme.so not found)" in done.stdout
    data = json.loads(program(site, ["devices", "--json"], LAMPION_DEVICE="acme").stdout)
    assert data["default"] == "acme"


def test_refresh_sees_a_wheel_that_was_installed_meanwhile(install, program):
    site, more = install("acme-good"), install("acme-ops", "acme-ops-bad")
    done = program(
        site,
        f"""
        import sys
        from lampion import plugins
        made = plugins.backend("acme")
        sys.path.insert(0, {str(more)!r})
        before = len(plugins.records("lampion.ops"))
        plugins.refresh()
        print(len(plugins.records("lampion.ops")) - before, plugins.backend("acme") is made)
        """,
    )
    assert done.stdout == "2 True\n", done.stderr


NAMES = ["../evil", "Tensor", "a b", "cpu:0", "class", "is_cuda", "x" * 300, "Über", "nn", "add"]


@pytest.fixture
def strange(tmp_path):
    """A folder with a wheel of devices with strange names, slow to import, and slow ops."""
    site = tmp_path / "site"
    info = site / "strange-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    points = "".join(f"{name} = strange_plugin\n" for name in NAMES)
    (info / "entry_points.txt").write_text(
        f"[lampion.backends]\n{points}\n[lampion.ops]\nslow-ops = strange_ops\n"
        "\n[lampion.api]\nall = v0_1\n", encoding="utf-8")
    (site / "strange_plugin.py").write_text(
        "import time\ntime.sleep(1.2)\nfrom lampion_refdevice import RefBackend\n"
        "class Strange(RefBackend): name = ''\n"
        "def lampion_backend(): return Strange()\n")
    (site / "strange_ops.py").write_text(
        "import time\ntime.sleep(1.1)\ndef lampion_ops(registry): pass\n")
    return site


def test_strange_names_and_slow_imports_harm_nobody(strange, program):
    pytest.importorskip("lampion_refdevice")
    done = program(strange, """
        import sys, lampion
        from lampion import plugins
        before = {n: getattr(lampion, n) for n in ("nn", "add", "Tensor")}
        assert (lampion.ones(3) + 1).tolist() == [2.0] * 3
        assert "strange_plugin" not in sys.modules
        for name in ("nn", "add"):  # no names of devices to be proud of, but they can be told apart
            x = lampion.ones(2, device=name)
            assert x.device.type == name and (x + 1).cpu().tolist() == [2.0, 2.0]
        assert {n: getattr(lampion, n) for n in before} == before
        assert x.add(1).tolist() == [2.0, 2.0]
        assert not getattr(lampion.ones(1), "is_cuda", False)
        print(sorted(r.name[:7] for r in plugins.records("lampion.backends")
                     if r.status == "refused" and "cannot be the name" in r.reason))
        """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sorted(n[:7] for n in NAMES if n not in ('nn', 'add'))}\n"
    slow = [line for line in done.stderr.splitlines() if "slow to load" in line]
    assert len(slow) == 2 and "slow-ops" in slow[0] and "strange 1.0" in slow[1], done.stderr
    assert "problem(s) found" in program(strange, ["doctor"]).stdout
