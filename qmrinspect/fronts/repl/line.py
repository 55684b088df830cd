"""Lines of the REPL
-----------------

What a line asks for beside its command: a file or a shell pipeline for the output,
an alias in front, JSON that goes on in the next line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ...errors import UsageError

__all__ = [
    "Command",
    "expand",
    "first_word",
    "logical_lines",
    "parse_command",
    "unfinished",
    "unquoted",
]

_ALIASES_MAX = 16


class Command(NamedTuple):
    """A line that was taken apart.

    :param text: the command itself.
    :param file: where its output goes, None for the terminal.
    :param append: whether it is put behind what the file has.
    :param pipe: the shell pipeline that its output goes through, None for none.
    """

    text: str
    file: str | None = None
    append: bool = False
    pipe: str | None = None


def parse_command(line: str) -> Command:
    """Find ``> FILE``, ``>> FILE`` and ``| PIPELINE`` outside of quotes.

    :raises UsageError: the file or the pipeline is missing.
    """
    at = _output_at(line)
    if at is None:
        return Command(line.strip())
    text, rest = line[:at].strip(), line[at:]
    if not text:
        raise UsageError(f"nothing stands before {rest[0]}", "write COMMAND > FILE")
    if rest[0] == "|":
        pipe = rest[1:].strip()
        if not pipe:
            raise UsageError("nothing stands behind |", "write COMMAND | grep WORD, say")
        return Command(text, pipe=pipe)
    append = rest.startswith(">>")
    file = rest[2 if append else 1 :].strip()
    if file[:1] in ("'", '"') and file[-1:] == file[:1]:
        file = file[1:-1]
    if not file:
        raise UsageError("nothing stands behind >", "write COMMAND > FILE")
    return Command(text, file=file, append=append)


def unquoted(line: str) -> Iterator[tuple[int, str]]:
    """Yield (place, character) of all that is in no quotes, the quotes left out."""
    quote = ""
    for at, char in enumerate(line):
        before = line[at - 1] if at else " "
        if quote:
            if char == quote and before != "\\":
                quote = ""
        elif char in "'\"" and (before.isspace() or before in "=([{,:;"):
            # An apostrophe inside a word is one: /machine/it's.
            quote = char
        else:
            yield at, char


def _output_at(line: str) -> int | None:
    """Return where the output's place begins, None when the line names none."""
    for at, char in unquoted(line):
        if char == "|" or (char == ">" and line[at - 1 : at] != "-"):
            return at
    return None


def first_word(line: str) -> tuple[str, str]:
    """Return the first word of a line, and what follows it."""
    match = re.match(r"\s*(\S*)\s*(.*)", line, re.S)
    return (match.group(1), match.group(2)) if match else ("", "")


def expand(line: str, aliases: Mapping[str, str]) -> str:
    """Replace an alias at the beginning of a line.

    :raises UsageError: the aliases lead in a circle.
    """
    seen: list[str] = []
    while True:
        word, rest = first_word(line)
        if word not in aliases or word in seen:
            return line
        seen.append(word)
        if len(seen) > _ALIASES_MAX:
            raise UsageError(f"the alias {seen[0]} leads too far", "see alias")
        line = f"{aliases[word]} {rest}".rstrip()


def unfinished(text: str) -> bool:
    """Whether a line is the beginning of JSON that goes on in the next one."""
    # Before it may stand a command, and qmp before that.
    command = re.sub(r"\A\s*(?:qmp\s+)?(?:(?:plug\s+)?[\w.-]+\s+)?(?=\{)", "", text)
    if not command.startswith("{"):
        return False
    try:
        json.JSONDecoder().raw_decode(command)
    except ValueError:
        return not _broken(command)
    return False


def logical_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers; JSON that spans several comes as one."""
    kept, begin = "", 0
    for number, line in enumerate(lines, 1):
        kept = f"{kept}\n{line.rstrip()}" if kept else line.rstrip()
        begin = begin or number
        if not unfinished(kept):
            yield begin, kept
            kept, begin = "", 0
    if kept:
        yield begin, kept


def _broken(text: str) -> bool:
    """Whether no further line could make it JSON: all that was opened is closed."""
    depth, quoted, escaped = 0, False, False
    for char in text:
        if quoted:
            if char == "\n":
                return True
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
    return depth <= 0 and not quoted
