"""Changes one list of a settings file and leaves the rest of its text as it is. Floor 7.

The text is edited where the list is, and parsed again: if anything but the list would have changed,
nothing is written and the error says what to write by hand.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lampion.config import ConfigError, parse_toml

_HEADER = re.compile(r"^\s*\[+\s*([\w.\- ]+?)\s*\]+\s*(#.*)?$")
# A string, a comment, or a bracket: what decides where an array ends.
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#[^\n]*|[\[\]]')


def set_list(path: Path, table: str, key: str, items: list[str]) -> None:
    """Make `key` of `[table]` this list, in a file that may not exist yet.

    ConfigError if the file cannot be read, or is written in a way that this cannot edit.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before = parse_toml(text, path)
    value = "[" + ", ".join(f'"{item}"' for item in items) + "]"
    changed = _edited(text, table, key, value)
    wanted = {**before, table: {**before.get(table, {}), key: items}}
    try:
        right = parse_toml(changed, path) == wanted
    except ConfigError:
        right = False
    if not right:
        raise ConfigError(f"{path} is written in a way that cannot be edited here; write by hand, "
                          f"in the table [{table}]: {key} = {value}")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(changed, encoding="utf-8")
    os.replace(aside, path)


def _edited(text: str, table: str, key: str, value: str) -> str:
    lines = text.splitlines(keepends=True)
    start = next((k for k, line in enumerate(lines)
                  if (m := _HEADER.match(line)) and m[1] == table), None)
    if start is None:
        return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}" \
               f"{chr(10) * bool(text)}[{table}]\n{key} = {value}\n"
    end = next((k for k in range(start + 1, len(lines)) if _HEADER.match(lines[k])), len(lines))
    head, body, tail = ("".join(part) for part in (
        lines[:start + 1], lines[start + 1:end], lines[end:]))
    if not head.endswith("\n"):
        head += "\n"
    found = re.search(rf"^[ \t]*{re.escape(key)}[ \t]*=[ \t]*(?=\[)", body, re.MULTILINE)
    if found is None:
        return f"{head}{key} = {value}\n{body}{tail}"
    return head + body[:found.end()] + value + body[_array_end(body, found.end()):] + tail


def _array_end(text: str, at: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += (token[0] == "[") - (token[0] == "]")
        if not depth:
            return token.end()
    return len(text)

