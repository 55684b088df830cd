"""Words of an image
-----------------

Captured memory as 64-bit words.  What was not captured is not there: nothing is read from
the process later, when it may have changed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from .image import PAGE, Image

__all__ = ["NotKnown", "Words"]


class NotKnown(Exception):
    """The allocator cannot be read; the text says why."""


class Words:
    """The words of an image, by address.

    :ivar parts: (address, words), lowest first; they do not overlap.
    :ivar asked: numbers of the pages that were asked for, one by one, there or not.
    """

    def __init__(self, image: Image) -> None:
        self.parts: list[tuple[int, memoryview]] = []
        self.asked: set[int] = set()
        for start, data in image.segments():
            skip = -start % 8
            size = (len(data) - skip) // 8 * 8
            if size > 0:
                self.parts.append((start + skip, data[skip : skip + size].cast("B").cast("Q")))
        self._starts = [start for start, _ in self.parts]

    def part(self, address: int) -> tuple[int, memoryview] | None:
        """Return the part that has an address, None where nothing was captured."""
        self.asked.add(address // PAGE)
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        start, view = self.parts[i]
        return (start, view) if address < start + 8 * len(view) else None

    def get(self, address: int) -> int:
        """Return the word at an address that is a multiple of 8.

        :raises NotKnown: when it was not captured.
        """
        found = self.part(address)
        if found is None:
            raise NotKnown(f"{address:#x} was not captured")
        return int(found[1][(address - found[0]) >> 3])

    def row(self, address: int, count: int) -> list[int]:
        """Return ``count`` words; raises as :meth:`get` does."""
        out: list[int] = []
        while len(out) < count:
            found = self.part(address + 8 * len(out))
            if found is None:
                raise NotKnown(f"{address + 8 * len(out):#x} was not captured")
            first = (address + 8 * len(out) - found[0]) >> 3
            out += found[1][first : first + count - len(out)].tolist()
        return out

    def cut(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Yield the parts of what was captured between two addresses."""
        i = max(0, bisect_right(self._starts, start) - 1)
        for base, view in self.parts[i:]:
            if base >= end:
                return
            first = max(0, (start - base) >> 3)
            last = min(len(view), (end - base + 7) >> 3)
            if first < last:
                yield base + 8 * first, view[first:last]
