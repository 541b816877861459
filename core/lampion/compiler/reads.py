"""Numbers that a function reads only to return them: `return loss.item()`.

Floor 6; imports nothing of lampion. What a function does after a value was read on the host may
depend on it, so a trace that goes past it cannot be repeated. But where the code after the read
does nothing but build the result, later runs can read and return the new value.
"""

from __future__ import annotations

import dis
from typing import Any

_PLAIN = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CONST", "LOAD_SMALL_INT", "STORE_FAST", "PUSH_NULL",
          "CACHE", "NOP", "PRECALL", "EXTENDED_ARG", "BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP",
          "BUILD_CONST_KEY_MAP", "COPY_FREE_VARS")
_METHODS = ("item", "detach", "mean", "sum", "float")  # of tensors, called without arguments


def returned(frame: Any) -> bool:
    """Whether a frame goes on, after the call it is in, to return that call's value, alone or in a
    tuple, list or dict, and does nothing else but read other tensors."""
    method = inside = False
    for i in dis.get_instructions(frame.f_code):
        name = i.opname
        if i.offset <= frame.f_lasti:
            inside = i.offset == frame.f_lasti and name == "PRECALL"
            continue
        if inside and name == "CALL":  # a specialized PRECALL does the work of the CALL behind it
            inside = False
            continue
        if name == "RETURN_VALUE":
            return True
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            method = str(i.argval) in _METHODS
            if not method:
                return False
        elif name in ("CALL", "CALL_METHOD", "CALL_FUNCTION"):
            if i.arg or not method:
                return False
            method = False
        elif not name.startswith(_PLAIN):
            return False
    return False


__all__ = ["returned"]
