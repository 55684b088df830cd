"""Text for people
---------------

Tables, colours and numbers.  Colour and wrapping are for terminals only: what is
piped is whole and plain.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ..text import plural
from ..tuples import NamedTuple

__all__ = [
    "Row",
    "Style",
    "between_words",
    "duration",
    "fitted",
    "paint",
    "plural",
    "safe",
    "style",
    "table",
    "use_style",
]

_CODES = {
    "bold": "1",
    "dim": "2",
    "error": "1;31",
    "warning": "33",
    "note": "36",
    "good": "32",
}
# The title of the column that is missed least.
_ADDRESS = "address"


class Style(NamedTuple):
    """How text is shown: in colour or not, and how wide; None is as wide as it takes."""

    color: bool
    width: int | None


_chosen: Style | None = None


class _This(threading.local):
    """What a thread prints now: whether it wants all, and whether something was left out."""

    wide = False
    left_out = False


_this = _This()


def use_style(style: Style | None) -> None:
    """Choose how text is shown, for a front that is no ordinary terminal; None goes back."""
    global _chosen
    _chosen = style


def style() -> Style:
    """Return how text is shown now: see ``NO_COLOR`` and ``CLICOLOR_FORCE``."""
    if _chosen is not None:
        return _chosen._replace(width=None) if _this.wide else _chosen
    terminal = _is_terminal()
    color = terminal and os.environ.get("TERM") != "dumb"
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        color = True
    if os.environ.get("NO_COLOR"):
        color = False
    fits = terminal and not _this.wide
    return Style(color, _columns() if fits else None)


def _columns() -> int:
    import shutil  # only a terminal has a size

    return shutil.get_terminal_size().columns


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False


def paint(text: str, look: str | None) -> str:
    """Return text in a colour: ``look`` is bold, dim, error, warning, note, good or None."""
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


def duration(microseconds: int) -> str:
    """Return a time in the unit that suits it."""
    if microseconds < 1000:
        return f"{microseconds} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1_000_000:.2f} s"


class Row(NamedTuple):
    """One row of a table; ``look`` colours it as a whole, as of :func:`paint`."""

    cells: Sequence[str]
    look: str | None = None


def table(
    head: Sequence[str],
    rows: Sequence[Row],
    right: Sequence[int] = (),
    indent: int = 2,
    drop: Sequence[int] = (),
    whole: Sequence[int] = (),
    below: Sequence[int] = (),
) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal.

    Where there is no room, addresses are left out first; then cells are wrapped at the borders
    of words and paths.  No cell is ever cut.

    :param head: titles of the columns; empty for none.
    :param right: the columns, by number, that are numbers.
    :param drop: those that are addresses, where no title says so.
    :param whole: those that are not wrapped.
    :param below: those that get a line of their own where there is no room even for their words.
    """
    if not rows:
        return
    count = max(len(row.cells) for row in rows)
    every = [list(head)] if head else []
    every += [[*row.cells, *[""] * (count - len(row.cells))] for row in rows]
    columns = list(zip(*every))
    widths = [max(map(len, column)) for column in columns]
    kept = [i for i in range(count) if widths[i] or i < len(head)]
    width = style().width
    if width:
        for i in drop or [i for i, title in enumerate(head) if title == _ADDRESS]:
            if _total(widths, kept, indent) > width and widths[i]:
                kept.remove(i)
                _this.left_out = True
        fixed = {*right, *whole}
        if _total(_floors(widths, kept, columns, fixed), kept, indent) > width and below:
            kept = [i for i in kept if i not in below]
        else:
            below = ()
        if _total(widths, kept, indent) > width:
            room = width - indent - 2 * (len(kept) - 1)
            _shrink(widths, _floors(widths, kept, columns, fixed), columns, right, room)
    looks = [*(["dim"] if head else []), *(row.look for row in rows)]
    for cells, look in zip(every, looks):
        for line in _lines(cells, widths, kept, right, indent):
            yield paint(line, look)
        if width and below:
            lead = " " * (indent + len(cells[0]) - len(cells[0].lstrip()) + 4)
            text = lead + "  ".join(cells[i] for i in below)
            yield from (paint(line, look) for line in between_words(text, width))


def _floors(
    widths: Sequence[int],
    kept: Sequence[int],
    columns: Sequence[Sequence[str]],
    fixed: Collection[int],
) -> dict[int, int]:
    """Return the widths that no column can go below without a broken word."""
    return {
        i: widths[i] if i in fixed else max(len(p) for cell in columns[i] for p in _pieces(cell))
        for i in kept
    }


def _total(widths: Sequence[int] | Mapping[int, int], kept: Sequence[int], indent: int) -> int:
    return indent + sum(widths[i] for i in kept) + 2 * (len(kept) - 1)


def _shrink(
    widths: list[int],
    floors: dict[int, int],
    columns: Sequence[Sequence[str]],
    right: Sequence[int],
    room: int,
) -> None:
    """Take from the widest columns until the table fits; numbers stay whole."""
    kept = list(floors)
    if sum(floors.values()) > room:
        # Not even single words fit: the longest of them are broken, those of numbers never.
        numbers = sum(floors[i] for i in kept if i in right)
        cap = _cap({i: (0, floors[i]) for i in kept if i not in right}, room - numbers)
        for i in kept:
            floors[i] = floors[i] if i in right else min(floors[i], max(cap, 1))
    cap = _cap({i: (floors[i], widths[i]) for i in kept}, room)
    for i in kept:
        widths[i] = max(floors[i], min(widths[i], cap))
    spare = room - sum(widths[i] for i in kept)
    for i in kept:
        wanted = max(map(len, columns[i]))
        more = max(0, min(spare, wanted - widths[i]))
        widths[i] += more
        spare -= more


def _cap(spans: Mapping[int, tuple[int, int]], room: int) -> int:
    """Return the width above which columns are shrunk, so that all have room if they can."""
    for cap in range(max((most for _, most in spans.values()), default=0), 0, -1):
        if sum(max(least, min(most, cap)) for least, most in spans.values()) <= room:
            return cap
    return 0


# Where a line may be broken: before a space, behind the steps of a path and of a field.
# Compiled by whoever breaks lines.
_BORDER = (
    r"(?=(?<!\s)\s)|(?<=\S/)(?=\S)|(?<=,)(?=\S)|(?<=[0-9a-f]{16}-)|(?<=->)"
    r"|(?<=[A-Za-z\])]\.)(?=[A-Za-z_]{8})"
)


def _pieces(text: str) -> list[str]:
    lead = len(text) - len(text.lstrip())
    first, *others = [piece for piece in re.split(_BORDER, text[lead:]) if piece] or [""]
    return [" " * lead + first, *others]


def _wrapped(text: str, width: int) -> list[str]:
    """Break a cell into lines, each with the spaces that it began with."""
    if len(text) <= width:
        return [text]
    lead = " " * min(len(text) - len(text.lstrip()), max(width // 2, 0))
    lines = [""]
    for piece in _pieces(lead + text.lstrip()):
        if len(lines[-1]) + len(piece) > width and lines[-1].strip():
            lines.append("")
        part = piece if lines[-1].strip() or len(lines) == 1 else lead + piece.lstrip()
        while len(lines[-1]) + len(part) > width:
            at = width - len(lines[-1])
            dash = max(part.rfind("-", len(lead) + 1, at), part.rfind("_", len(lead) + 1, at)) + 1
            at = dash if dash > at // 4 else at
            lines[-1] += part[:at]
            lines.append("")
            part = lead + part[at:]
        lines[-1] += part
    return lines


def _lines(
    cells: Sequence[str],
    widths: Sequence[int],
    kept: Sequence[int],
    right: Sequence[int],
    indent: int,
) -> Iterator[str]:
    broken = {i: _wrapped(cells[i], widths[i]) for i in kept}
    for at in range(max(map(len, broken.values()))):
        out = []
        for i in kept:
            text = broken[i][at] if at < len(broken[i]) else ""
            out.append(text.rjust(widths[i]) if i in right else text.ljust(widths[i]))
        yield (" " * indent + "  ".join(out)).rstrip()


# As wide as the terminal ------------------------------------------------------------

_LEFT_OUT = "(addresses are left out, for want of room: --wide shows them)"


def fitted(lines: Iterable[str], wide: bool = False) -> Iterator[str]:
    """Yield what a verb says as wide as the terminal, and say when something was left out.

    Sentences are broken between words.

    :param wide: nothing is broken nor left out, however wide it is.
    """
    source = iter(lines)
    left_out = False
    while True:
        _this.wide, _this.left_out = wide, False
        try:
            line = next(source, None)
        finally:
            left_out |= _this.left_out
            width = style().width
            _this.wide = False
        if line is None:
            break
        yield from between_words(line, width)
    if left_out:
        yield from between_words(paint(_LEFT_OUT, "dim"), width)


def between_words(line: str, width: int | None) -> Iterator[str]:
    """Break a sentence between words into lines of a width; None is as wide as it takes."""
    plain = _LOOK.sub("", line)
    if not width or len(plain) <= width:
        yield line
        return
    lead = min(len(plain) - len(plain.lstrip()) + 2, width // 2)
    out, used = "", -1
    for word in line.split(" "):
        size = len(_LOOK.sub("", word))
        if size and used + 1 + size > width and out.strip():
            yield out.rstrip(" ")
            out, used = " " * lead + word, lead + size
        else:
            out, used = word if used < 0 else f"{out} {word}", used + 1 + size
    yield out
