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
_METHODS = ("item", "detach", "mean", "sum", "float", "argmax", "max")  # of tensors


def returned(frame: Any) -> str:
    """Whether a frame goes on, after the call it is in, to return that call's value, alone or in a
    tuple, list or dict, and does nothing else but read other tensors and leave blocks: "" if not,
    "as it is", or "perhaps" where it might be compared before."""
    method = inside = block = False
    sure = "as it is"
    nothing = 0  # how many times None was pushed last
    for i in dis.get_instructions(frame.f_code):
        name = i.opname
        if i.offset <= frame.f_lasti:
            inside = i.offset == frame.f_lasti and name == "PRECALL"
            continue
        if inside and name == "CALL":  # a specialized PRECALL does the work of the CALL behind it
            inside = False
            continue
        if name == "RETURN_VALUE":
            return sure
        if name in ("LOAD_ATTR", "LOAD_METHOD"):
            method = str(i.argval) in _METHODS
            if not method:
                return ""
        elif name in ("CALL", "CALL_METHOD", "CALL_FUNCTION"):
            block = nothing == 3  # __exit__(None, None, None)
            if not (block or method):
                return ""
            method = False
        elif name == "COMPARE_OP":  # of tensors, or of numbers: then a bool may be returned
            sure = "perhaps"
        elif not (name.startswith(_PLAIN) or name in ("SWAP", "POP_BLOCK", "ROT_TWO")
                  or (block and name == "POP_TOP")):
            return ""
        if name not in ("PRECALL", "CACHE"):
            loads = name == "LOAD_CONST" and i.argval is None
            nothing = nothing + 1 if loads or (nothing and name == "DUP_TOP") else 0
    return ""


__all__ = ["returned"]
