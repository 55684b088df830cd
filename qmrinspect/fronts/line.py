"""Lines of a debugger
-------------------

How a line typed at GDB's prompt becomes arguments.  A GDB expression may stand
where an object is wanted, with its spaces, quotes and parentheses as they are.
"""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple

from ..errors import UsageError
from ..verbs.verb import Verb, parser_for

__all__ = ["Line", "parse", "split"]

_OPEN, _CLOSE = "([{", ")]}"


class Line(NamedTuple):
    """A line that was read.

    :param args: what the verb takes.
    :param debug: whether ``--debug`` was given: failures come with their traceback.
    :param qmp: the monitor that ``--qmp`` names, None when it was left out.
    :param layout: the file that ``--layout`` names, None when it was left out.
    """

    args: argparse.Namespace
    debug: bool
    qmp: str | None = None
    layout: str | None = None


def split(text: str) -> list[str]:
    """Split a line at spaces that are in no quotes and no parentheses.

    Quotes around a whole word are taken off, those inside an expression stay.

    :raises UsageError: when a quote is left open.
    """
    words: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = _word_end(text, at)
        word = text[at:end]
        if word[0] in "'\"" and word[-1] == word[0] and word.find(word[0], 1) == len(word) - 1:
            word = word[1:-1]
        words.append(word)
        at = end
    return words


def _word_end(text: str, at: int) -> int:
    depth = 0
    begin = at
    while at < len(text):
        char = text[at]
        if char.isspace() and depth <= 0:
            break
        if char in "'\"":
            # An apostrophe inside a word is one: /machine/it's.
            close = text.find(char, at + 1)
            if close < 0:
                if at == begin or text[at - 1] in "(,= ":
                    raise UsageError(f"the quote in {text[at:]!r} is not closed")
                close = at
            at = close
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        at += 1
    return at


def parse(verb: Verb, text: str) -> Line:
    """Read the arguments of a verb.

    Where the verb takes one object, what is left over belongs to its expression:
    ``show (Object *) 0x55`` needs no quotes.

    :raises UsageError: when they make no sense.
    """
    words = split(text)
    outer = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    outer.add_argument("--debug", action="store_true")
    known = {name for argument in verb.arguments for name in argument.names}
    for name in ("--qmp", "--layout"):
        if name not in known:
            outer.add_argument(name)
    try:
        common, rest = outer.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(f"qmr {verb.name}: {error}") from None
    parser = parser_for(verb)
    args, extra = parser.parse_known_args(rest)
    if extra:
        slot = _object_slot(verb)
        first = getattr(args, slot) if slot else None
        options = [word for word in extra if re.match(r"--?[A-Za-z]", word)]
        if slot is None or options or not isinstance(first, str):
            shown = " ".join(options or extra)
            raise UsageError(
                f"qmr {verb.name}: unrecognized arguments: {shown}", f"see help qmr {verb.name}"
            )
        setattr(args, slot, " ".join([first, *extra]))
    qmp = getattr(common, "qmp", None) or getattr(args, "qmp", None)
    return Line(args, common.debug, qmp, getattr(common, "layout", None))


def _object_slot(verb: Verb) -> str | None:
    """Return the name of the verb's only positional argument if that is an object."""
    positional = [
        (argument.names[0], argument.completes)
        for argument in verb.arguments
        if not argument.names[0].startswith("-") and argument.options.get("nargs") in (None, "?")
    ]
    if len(positional) == 1 and positional[0][1] in ("object", "path", "space"):
        return positional[0][0]
    return None
