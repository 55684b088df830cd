"""Statements
----------

Several commands in a line, names for what they answer, and what the fingers of other prompts'
users type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ...errors import UsageError
from ...snapshot import Snapshot
from .line import first_word, unquoted

__all__ = ["LAST", "Result", "assigned", "habit", "object_of", "statements"]

#: What the last command answered.
LAST = "_"
#: Of an answer so many lines are kept.
LINES_MAX = 20_000

_OPEN, _CLOSE = "([{", ")]}"
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)\s*=\s*([^\s=].*)\Z", re.DOTALL)


class Result(NamedTuple):
    """What a command answered.

    :param lines: its text; the first :data:`LINES_MAX` of them.
    :param data: its JSON, None where it came as a stream.
    :param snapshot: the last reading then, None for none.
    """

    command: str
    lines: tuple[str, ...]
    data: object
    snapshot: Snapshot | None


def statements(line: str) -> list[str]:
    """Split a line at the semicolons that are in no quotes, brackets or comments."""
    if line.lstrip().startswith("#"):
        return [line]
    out, begin, depth = [], 0, 0
    for at, char in unquoted(line):
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth = max(0, depth - 1)
        elif char == ";" and not depth:
            out.append(line[begin:at])
            begin = at + 1
    out.append(line[begin:])
    return [part.strip() for part in out if part.strip()]


def assigned(text: str, verbs: Mapping[str, object]) -> tuple[str | None, str]:
    """Return the name that a statement gives to its answer, None for none, and the command."""
    match = _ASSIGNED.match(text)
    if match is None or match[1] in verbs:
        return None, text
    return match[1], match[2]


def object_of(data: object) -> str | None:
    """Return the object that an answer is about, as verbs take one; None for none."""
    if not isinstance(data, dict):
        return None
    if data.get("format") == "qmr-plug/1":
        return str(data["path"]) if data.get("path") else None
    if "address" in data:
        return str(data["address"])
    if isinstance(data.get("object"), dict):
        return object_of(data["object"])
    for name in ("findings", "orphans", "objects_left", "left", "appeared", "cycles", "objects"):
        rows = data.get(name)
        if isinstance(rows, list) and rows:
            return object_of(rows[0])
    return None


# What one types to ipython, drgn, gdb and shells, and what does it here.
_MEANT = {
    "?": "help",
    "??": "help",
    "help()": "help",
    "%quickref": "help",
    "exit()": "exit",
    "quit()": "exit",
    ":q": "exit",
    "q": "exit",
    "%hist": "history",
    "%history": "history",
    "%who": "marks",
    "who": "marks",
    "%alias": "alias",
    "ls": "tree",
}
_PYTHON = re.compile(
    r"(?:(?:print|len|for|import|from|def|del|sorted|list|dir|type|prog|objects)\b(?!-)(?! *$)"
    r"|[\w.]+\(.*\)\s*\Z|[\w.]+\[.*\]\s*\Z)",
    re.DOTALL,
)


def habit(text: str, verbs: Mapping[str, object]) -> str:
    """Return the command that a user of another prompt meant, or the text as it is.

    :raises UsageError: it is nothing here; the hint says what does it.
    """
    word, rest = first_word(text)
    if word in verbs or text.startswith(("!", "{")):
        return text
    if text in _MEANT:
        return _MEANT[text]
    if text.startswith("?") or (text.endswith("?") and not rest.strip("? ")):
        return f"help {text.strip('? ')}"
    if word == "ls":
        return f"tree {rest}"
    if word in ("%hist", "%history"):
        return f"history {rest}"
    driver = re.match(r"device_add\s+(?:driver=)?([\w.,-]+?)(?:,|\s+)(?:help|\?)\s*\Z", text)
    if driver:
        return f"plug {driver[1]} help"
    if word in ("clear", "cls"):
        raise UsageError("clear is no verb", "Ctrl-L clears the screen")
    if word.startswith("%") and word != "%time":
        raise UsageError(
            "there are no magics here but %time and %hist",
            "help lists what there is; !COMMAND runs one of the shell",
        )
    if _PYTHON.match(text):
        raise UsageError(
            "this prompt takes verbs and QMP commands, not Python",
            "qmr NAME repl --python has the reading as Python objects",
        )
    return text
