"""Text for people
---------------

Tables, colours and numbers.  Colour and cutting are for terminals only: what is
piped is whole and plain.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Row", "Style", "duration", "paint", "plural", "safe", "style", "table", "use_style"]

_CODES = {
    "bold": "1",
    "dim": "2",
    "error": "1;31",
    "warning": "33",
    "note": "36",
    "good": "32",
}
# Narrower than this no column is made, so that something can be read in each.
_COLUMN_MIN = 8


class Style(NamedTuple):
    """How text is shown: in colour or not, and how wide; 0 is as wide as it takes."""

    color: bool
    width: int


_chosen: Style | None = None


def use_style(style: Style | None) -> None:
    """Choose how text is shown, for a front that is no ordinary terminal; None goes back."""
    global _chosen
    _chosen = style


def style() -> Style:
    """Return how text is shown now: see ``NO_COLOR`` and ``CLICOLOR_FORCE``."""
    if _chosen is not None:
        return _chosen
    terminal = _is_terminal()
    color = terminal and os.environ.get("TERM") != "dumb"
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        color = True
    if os.environ.get("NO_COLOR"):
        color = False
    return Style(color, shutil.get_terminal_size().columns if terminal else 0)


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False


def paint(text: str, look: str) -> str:
    """Return text in the colour of ``look``: bold, dim, error, warning, note, good."""
    if not look or not text or not style().color:
        return text
    return f"\033[{_CODES[look]}m{text}\033[0m"


_LOOK = re.compile(r"(\033\[[0-9;]*m)")


def safe(line: str) -> str:
    """Return a line that changes nothing on a terminal but its colours.

    It is the last guard before a front prints: whatever control character, escape
    sequence or line break is left in a name comes out as a backslash escape.
    """
    if line.isprintable():
        return line
    parts = _LOOK.split(line) if style().color else [line]
    return "".join(part if at % 2 else _escaped(part) for at, part in enumerate(parts))


def _escaped(text: str) -> str:
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text
    )


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return ``1 object``, ``2 objects``."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def duration(microseconds: int) -> str:
    """Return a time in the unit that suits it."""
    if microseconds < 1000:
        return f"{microseconds} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1_000_000:.2f} s"


class Row(NamedTuple):
    """One row of a table; ``look`` colours it as a whole."""

    cells: Sequence[str]
    look: str = ""


def table(
    head: Sequence[str], rows: Sequence[Row], right: Sequence[int] = (), indent: int = 2
) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal.

    :param head: titles of the columns; empty for none.
    :param right: the columns, by number, that are numbers.
    """
    if not rows:
        return
    count = max(len(row.cells) for row in rows)
    every = [list(head)] if head else []
    every += [list(row.cells) for row in rows]
    widths = [max((len(r[i]) for r in every if i < len(r)), default=0) for i in range(count)]
    limit = style().width
    if limit:
        _shrink(widths, limit - indent - 2 * (count - 1), right)
    if head:
        yield paint(_line(head, widths, right, indent), "dim")
    for row in rows:
        yield paint(_line(row.cells, widths, right, indent), row.look)


def _shrink(widths: list[int], limit: int, right: Sequence[int]) -> None:
    """Take from the widest columns until the table fits; numbers stay whole."""
    text = [i for i in range(len(widths)) if i not in right]
    while sum(widths) > limit:
        widest = max(text, key=lambda i: widths[i], default=-1)
        if widest < 0 or widths[widest] <= _COLUMN_MIN:
            return
        widths[widest] -= 1


def _line(cells: Sequence[str], widths: list[int], right: Sequence[int], indent: int) -> str:
    out = []
    for i, cell in enumerate(cells):
        text = _cut(cell, widths[i])
        out.append(text.rjust(widths[i]) if i in right else text.ljust(widths[i]))
    return (" " * indent + "  ".join(out)).rstrip()


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    if text.lstrip().startswith("/"):
        # The end of a path says more than its beginning.
        return "…" + text[len(text) - width + 1 :]
    return text[: width - 1] + "…"
