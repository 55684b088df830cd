"""The program's own variables
---------------------------

What is static in QEMU has no name in a stripped program.  The few tables that
are needed are recognised by what is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Callable

from ..records.context import Context
from ..records.glib import HashTable
from ..target.image import Unreadable

__all__ = ["static_table", "static_words"]


def static_words(context: Context, span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield (address, value) of the non-zero words in a range of the program's data."""
    start, end = span
    start = (start + 7) & ~7
    try:
        raw = context.image.read(start, (end - start) & ~7)
    except Unreadable:
        return
    for index, (value,) in enumerate(struct.iter_unpack("<Q", raw)):
        if value:
            yield start + index * 8, value


def static_table(
    context: Context, name: str, fits: Callable[[HashTable], bool]
) -> HashTable | None:
    """Return the first table that fits of those that zero-initialised variables point to.

    :param name: what it is for; where an earlier reading found it is tried first.
    """
    variable = context.known.variables.get(name, 0)
    try:
        table = context.table(context.image.u64(variable)) if variable else None
    except Unreadable:
        table = None
    if table is not None and fits(table):
        return table
    seen = set()
    for variable, value in static_words(context, context.statics.bss):
        if value & 7 or not 0x1000 < value < 1 << 47 or value in seen:
            continue
        seen.add(value)
        table = context.table(value)
        if table is not None and fits(table):
            context.known.variables[name] = variable
            return table
    return None
