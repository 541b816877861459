"""Exception types. Floor 0; imports nothing.

Where PyTorch raises a built-in type for a kind of mistake, these derive from it, so that
programs which catch the built-in go on working.
"""


class LampionError(Exception):
    """Base of errors that are lampion's own."""


class OutOfMemoryError(RuntimeError):
    """A device has no memory left for an allocation."""


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
