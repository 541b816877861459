"""A handle that removes a registered hook. Floor 7; imports nothing of lampion."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

_ids = itertools.count()


class RemovableHandle:
    """Returned by hook registration; `remove()` (or leaving a `with` block) unregisters it.

    Example:
        >>> hooks = __import__("collections").OrderedDict()
        >>> handle = RemovableHandle(hooks)
        >>> hooks[handle.id] = print
        >>> handle.remove(); len(hooks)
        0
    """

    def __init__(self, hooks: Any) -> None:
        self.id = next(_ids)
        self._hooks = weakref.ref(hooks)

    def remove(self) -> None:
        """Unregister the hook; harmless if it is gone already."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
