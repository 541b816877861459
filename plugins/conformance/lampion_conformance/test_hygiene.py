"""L0: the plug-in as a guest: nothing happens before the device is used, and it says its versions.

Each test asks a fresh interpreter, since in this one everything is loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lampion import plugins

# Notes what a program does that reaches beyond Python: libraries and devices opened, programs run.
WATCH = """
import json, sys, threading
import ctypes, numpy, lampion, lampion.ir, lampion.ir.interpret, lampion.runtime.backend
reached = []
def hook(event, args):
    if event == "ctypes.dlopen" and args[0]:
        reached.append(f"opens {args[0]}")
    elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "socket.connect"):
        reached.append(f"{event}: {args[0]}")
    elif event == "open" and isinstance(args[0], str) and args[0].startswith("/dev/") \\
            and args[0] not in ("/dev/null", "/dev/urandom"):
        reached.append(f"opens {args[0]}")
threads = threading.active_count()
"""


def fresh(code: str) -> str:
    """What a program prints, in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def record(where):
    return plugins.record(where.type)


def test_importing_lampion_does_not_import_the_plugin(record):
    module = record.module
    said = fresh("import sys, lampion, lampion.plugins\nlampion.plugins.records()\n"
                 f"print({module!r} in sys.modules, {module.partition('.')[0]!r} in sys.modules)")
    assert said.split() == ["False", "False"]


def test_importing_the_plugin_reaches_for_nothing(record):
    """Drivers are opened when the device is first used: a machine without one can import it."""
    said = fresh(WATCH + f"sys.addaudithook(hook)\nimport {record.module}\n"
                 "found = list(reached)\n"
                 "if threading.active_count() > threads: found.append('starts threads')\n"
                 "print(json.dumps(found))")
    assert json.loads(said.splitlines()[-1]) == []


def test_importing_the_plugin_says_nothing(record):
    assert fresh(f"import {record.module}") == ""


def test_the_metadata_names_an_api_range(record):
    assert record.api is not None, "no entry point in the group lampion.api"
    assert record.usable and not record.reason


def test_nothing_deprecated_is_used(record, backend):
    assert record.deprecated == (), "it will stop working with a later lampion"


def test_one_backend_per_process(where, backend):
    assert plugins.backend(where.type) is backend and backend.name == where.type


def test_what_the_doctor_shows(backend):
    """`report` and `memory_stats` are tables, whatever state the device is in."""
    assert all(isinstance(k, str) for k in backend.report())
    for k in range(len(backend.devices())):
        stats = backend.memory_stats(plugins_device(backend, k))
        assert all(isinstance(v, int) for v in stats.values())


def plugins_device(backend, k):
    from lampion.runtime.devices import resolve

    return resolve(f"{backend.name}:{k}")
