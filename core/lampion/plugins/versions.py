"""The version of the plug-in contract, and the range a wheel says it was written for.

The contract has a version of its own, apart from the version of the wheels: it changes more
rarely. A wheel declares its range in an entry-point group, which can be read without importing
anything, survives every build tool and every installer, and needs no dependency:

    [project.entry-points."lampion.api"]
    acme = "v0_1"          # written for contract 0.1
    acme = "v0_1:v0_4"     # written for 0.1, known to work up to 0.4

The key is the name of the plug-in, or `all` for every plug-in of the wheel. The core serves the
contracts from OLDEST to CURRENT; a wheel is loaded when the two ranges meet. Floor 2: imports the
standard library only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["API_GROUP", "CURRENT", "OLDEST", "ApiRange", "ApiVersion", "parse", "refusal"]

API_GROUP = "lampion.api"


class ApiVersion(NamedTuple):
    """A version of the contract: (major, minor)."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class ApiRange(NamedTuple):
    """The contracts that a plug-in was written for, both ends included."""

    first: ApiVersion
    last: ApiVersion

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


CURRENT = ApiVersion(0, 3)
"""The contract this core implements; a new hook or a new argument raises the minor number."""

OLDEST = ApiVersion(0, 1)
"""The oldest contract that this core still serves."""

_FORM = re.compile(r"v(\d+)_(\d+)(?:\s*:\s*v(\d+)_(\d+))?")


def parse(text: str) -> ApiRange:
    """Read `v0_1` or `v0_1:v0_4`; raises ValueError for anything else.

    >>> str(parse("v0_1:v0_4"))
    '0.1 to 0.4'
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no API range; write 'v0_1' or 'v0_1:v0_4'")
    a, b, c, d = match.groups()
    first = ApiVersion(int(a), int(b))
    last = ApiVersion(int(c), int(d)) if c is not None else first
    if last < first:
        raise ValueError(f"API range {text!r} ends before it begins")
    return ApiRange(first, last)


def refusal(declared: ApiRange, distribution: str) -> tuple[str, str] | None:
    """Why a wheel of this range cannot be loaded, and the remedy; None when it can.

    >>> refusal(parse("v0_1"), "lampion-acme") is None
    True
    """
    if declared.first > CURRENT:
        return (
            f"needs plug-in API {declared.first} or newer, lampion-core has {CURRENT}",
            f"pip install --upgrade lampion-core  (or an older {distribution})",
        )
    if declared.last < OLDEST:
        return (
            f"was written for plug-in API {declared.last}, lampion-core serves {OLDEST} and newer",
            f"pip install --upgrade {distribution}",
        )
    return None
