"""Chunks
------

A chunk begins with the size of the one before it and its own, whose low bits are flags
("chunks of memory are maintained using a boundary tag method", malloc/malloc.c).  From the
first one, each leads to the next; the last one's end is known, so that a walk proves itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ..target.arenas import Area
from ..target.words import NotKnown, Words

__all__ = ["HEADER", "Chunks"]

#: Bytes between the start of a chunk and what malloc returned.
HEADER = 16
_MIN = 32
_PREV_INUSE, _MMAPPED = 1, 2


class Chunks:
    """All chunks of all heaps.

    :ivar starts: addresses, sorted.
    :ivar sizes: in bytes, header included.
    :ivar live: 1 for each that the program owns, 0 for a free one.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.live = bytearray()

    def add(self, words: Words, area: Area) -> None:
        """Walk an area that lies behind all earlier ones.

        :raises NotKnown: when the walk does not end where it must.
        """
        starts: list[int] = []
        heads: list[int] = []
        at, target = area.start, area.top
        while at != target:
            found = words.part(at)
            if found is None:
                raise NotKnown(f"the walk over the heap leaves what was captured at {at:#x}")
            base, view = found
            fence, at = _run(base, view, at, target, starts, heads)
            if fence:
                break
        # The last head is the top chunk's or the fence's; it tells of the chunk before.
        if (at != target) if target else not area.end <= at < area.end + 64:
            raise NotKnown(f"the walk over the heap at {area.start:#x} ends at {at:#x}, too early")
        heads.append(words.get(at + 8))
        if any(head & _MMAPPED for head in heads[:-1]):
            raise NotKnown(f"the heap at {area.start:#x} has a chunk that cannot be in one")
        self.starts += starts
        self.sizes += [head & ~7 for head in heads[:-1]]
        self.live += bytes(head & _PREV_INUSE for head in heads[1:])
        if target:
            # What borders on unused memory is free.
            self.starts.append(at)
            self.sizes.append(heads[-1] & ~7)
            self.live.append(0)

    def single(self, start: int, size: int) -> None:
        """Add a live chunk that is a mapping of its own, behind all earlier ones."""
        self.starts.append(start)
        self.sizes.append(size)
        self.live.append(1)

    def find(self, start: int) -> int:
        """Return the number of the chunk that starts at an address, -1 when none does."""
        i = bisect_left(self.starts, start)
        return i if i < len(self.starts) and self.starts[i] == start else -1

    def tops(self, areas: Sequence[Area]) -> set[int]:
        """Return the numbers of the chunks that border on unused memory."""
        return {self.find(area.top) for area in areas if area.top}


def _run(
    base: int, view: memoryview, at: int, target: int, starts: list[int], heads: list[int]
) -> tuple[bool, int]:
    """Walk within one part; return whether a fence ended it, and where it is."""
    i = (at - base) >> 3
    # An index is a fourth of the work of an address.
    last = len(view) - 1
    if base <= target < base + 8 * len(view):
        last = (target - base) >> 3
    found: list[int] = []
    add, note = found.append, heads.append
    fence = False
    while i < last:
        head = view[i + 1]
        size = head & ~7
        if size < _MIN or size & 8:
            fence = True
            break
        add(i)
        note(head)
        i += size >> 3
    starts += [base + 8 * i for i in found]
    return fence, base + 8 * i
