"""Work that is being recorded by a device in order to run it again, and who must know of it.

A backend that records (a capture) puts an object into `captures` meanwhile. What is decided or
computed on the host during a capture is the same in every later run: draws of random numbers ask
the capture for their offsets, and optimizers refuse to bake step counts in. To run it again
belongs to no op, so that a profile has its timer here. Floor 2; imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Capture(Protocol):
    """What is asked of a capture that is going on."""

    def draw(self, generator: Any, groups: int) -> int | None:
        """The offset to use instead of the next `groups` groups of a generator of random numbers;
        None to draw as usual. Called in every thread."""


captures: list[Capture] = []
# A profile's: timer(launch, name, device) calls launch() and takes the time of what it enqueues.
timers: list[Callable[[Callable[[], Any], str, Any], Any]] = []
