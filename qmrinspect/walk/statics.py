"""The program's own variables
---------------------------

What is static in QEMU has no name in a stripped program.  The few tables that
are needed are recognised by what is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..target.image import Unreadable
from .context import Context
from .glib import HashTable

__all__ = ["static_tables", "static_words"]


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


def static_tables(context: Context) -> list[HashTable]:
    """Return the hash tables that zero-initialised variables point to."""
    if context.tables is not None:
        return context.tables
    out: dict[int, HashTable] = {}
    for _, value in static_words(context, context.statics.bss):
        if value & 7 or not 0x1000 < value < 1 << 47 or value in out:
            continue
        table = context.table(value)
        if table is not None:
            out[value] = table
    context.tables = list(out.values())
    return context.tables
