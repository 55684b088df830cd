"""Hints in the words of a front
-----------------------------

A verb hints at another one as ``qmr VERB ...``.  Here that becomes what can be typed where it
is read.
"""

from __future__ import annotations

import re

from ..errors import QmrError
from ..verbs.table import VERBS

__all__ = ["typed", "typed_error"]

# These need no target, or name what they work on themselves.
_ALONE = frozenset(("ps", "diff", "hunt", "demo", "report", "replay", "gdb-script"))
_HINT = re.compile(rf"\bqmr (?=(?:{'|'.join(VERBS)})(?:[\s,.;:)]|$))")


def typed(text: str, front: str, target: str | None = None) -> str:
    """Return a text with its hints as a front takes them.

    :param target: what names the target on the command line, None when nothing does.
    """
    if front == "gdb" or "qmr " not in text:
        return text

    def as_typed(found: re.Match[str]) -> str:
        if front == "repl":
            return ""
        verb = re.split(r"[\s,.;:)]", text[found.end() :], maxsplit=1)[0]
        return found[0] if verb in _ALONE or not target else f"{found[0]}{target} "

    return _HINT.sub(as_typed, text)


def typed_error(error: QmrError, front: str, target: str | None = None) -> QmrError:
    """The same for a failure, which is returned."""
    error.text = typed(error.text, front, target)
    error.hint = typed(error.hint, front, target) if error.hint is not None else None
    error.lines = tuple(typed(line, front, target) for line in error.lines)
    return error
