"""Gradient modes and the global write counter. Floor 4; imports nothing of lampion.

Grad mode is per thread. It is only looked at when an operand needs gradients, so it costs
nothing elsewhere.
"""

from __future__ import annotations

import threading


class _Mode(threading.local):
    enabled = True
    inference = False
    partial = False  # within a backward that only computes the gradients of given tensors


mode = _Mode()
# Number of the latest in-place write in this process. A node remembers the number at its
# creation; a saved tensor whose storage was written later has been changed.
clock = [0]
# Locks gradient accumulation into leaves against other threads' backward passes.
lock = threading.Lock()
