"""Exception types. Floor 0; imports nothing.

Where PyTorch raises a built-in type for a kind of mistake, these derive from it, so that
programs which catch the built-in go on working.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

_HELD = re.compile(r"^Memory is held by:$", re.MULTILINE)


class LampionError(Exception):
    """Base of errors that are lampion's own."""


class OutOfMemoryError(RuntimeError):
    """A device has no memory left for an allocation. The text says who holds what there is, by
    what the floors above know of the tensors that are alive: a backend need not."""

    holders: ClassVar[list[Callable[[], str]]] = []

    def __init__(self, text: str = "") -> None:
        if not _HELD.search(text):  # not when it is copied
            text = "\n".join(filter(None, (text, *[told() for told in self.holders])))
        super().__init__(text)


class AcceleratorError(RuntimeError):
    """A device other than the host failed."""


class FatalError(Exception):
    """A device failed so that nothing more can be done with it."""


class UnsupportedError(RuntimeError):
    """No kernel of the device can run this call, and fallback is not allowed."""


class CastError(RuntimeError, TypeError):
    """A result cannot be cast to the dtype of its out= tensor. PyTorch raises RuntimeError for it
    from most functions, and TypeError from those that join tensors."""


class DtypeError(NotImplementedError):
    """An op is not defined for this element type."""


class LinAlgError(RuntimeError):
    """A matrix without the property that an algorithm needs: singular, not positive-definite,
    or one on which an iteration does not converge."""


class PluginError(RuntimeError):
    """A plug-in could not be found, loaded or used; `__cause__` holds its own exception."""
