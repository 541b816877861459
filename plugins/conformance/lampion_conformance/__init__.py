"""The tests that a lampion backend has to pass: `lampion conformance DEVICE`.

Every module `test_NAME` is a chapter. What a chapter is worth is in `CHAPTERS`; how a run becomes a
level and a report is in `report.py`. Imports nothing.
"""

from __future__ import annotations

# The level to which a chapter belongs, in the order in which they run. A device has a level if
# every test of the chapters of that level and of those below passes.
CHAPTERS = {
    "contract": 0, "hygiene": 0,
    "kernels": 1, "primitives": 1,
    "ops": 2, "gradients": 2, "random": 2, "training": 2, "fallback": 2, "numerics": 2,
}

LEVELS = {
    0: "memory, copies, fill",
    1: "every primitive, in every dtype and layout",
    2: "every op, gradients, random numbers, training",
}
