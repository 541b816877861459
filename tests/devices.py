"""The devices that tests run on (see conftest.py)."""

from __future__ import annotations

import os


def wanted_devices() -> list[str]:
    """Those named in LAMPION_TEST_DEVICES, or one of every installed backend."""
    named = [d.strip() for d in os.environ.get("LAMPION_TEST_DEVICES", "").split(",") if d.strip()]
    if named:
        return named
    from lampion import plugins

    return plugins.backend_names()


def thorough(device: str) -> bool:
    """Whether a device gets every case: the host, the reference device, and any that was named.
    The others compile each kernel for seconds, and run the same kernels as these."""
    return device in ("cpu", "ref") or bool(os.environ.get("LAMPION_TEST_DEVICES"))
