"""Free memory of malloc
---------------------

A QEMU that built a machine leaves hundreds of megabytes of free blocks behind, touched and
worth nothing.  The large ones hang in the bins of glibc's arenas (malloc/malloc.c), or are
an arena's ``top``.  Nothing is believed that does not close: a block is free when the block
behind it says so as well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from ..tuples import NamedTuple
from .arenas import BINS, Arenas, find_arenas, libc_data, ring
from .image import PAGE, Mapping, Peek, Ranges
from .words import NotKnown

__all__ = ["Free", "Malloc", "whole_pages"]

# Sorted blocks of one size or a narrow range of sizes; the first bin has what was freed last.
_SMALL_BINS = 63
_BLOCKS_MAX = 1 << 16
_LIBRARY_MAX = 16 << 20  # of the data of a library, or of a program without one
_ADDRESS_MAX = 1 << 47
# Smaller ones are not worth a hole in a copy.
_FREE_MIN = 16 * PAGE
_HEAD = 48  # of a free block: its sizes and its four links
_IN_USE = 1  # PREV_INUSE: of the block before


class Free(NamedTuple):
    """A large free block.

    :param signs: address and bytes that say so: where all are the same later, it is free then.
    """

    start: int
    size: int
    signs: tuple[tuple[int, bytes], ...]

    def stands(self, said: dict[int, bytes]) -> bool:
        """Whether all signs are the same in what was read since, by address."""
        return all(said.get(at) == data for at, data in self.signs)


class Malloc:
    """The allocator of one process.  Its main arena is found once."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self._arenas: Arenas | None = None

    def free(self, peek: Peek, mappings: Sequence[Mapping]) -> Ranges:
        """Return (address, size) of whole pages in large free blocks, lowest first.

        Without a stop it may be out of date at once.
        """
        return whole_pages(self.blocks(peek, mappings))

    def blocks(self, peek: Peek, mappings: Sequence[Mapping]) -> list[Free]:
        """Return the large free blocks."""
        words = _Peeked(peek)
        try:
            spans = libc_data(mappings)
            if spans != self._spans:
                self._spans, self._arenas = spans, None
            if self._arenas is None:
                self._arenas = find_arenas(words, spans)
            arenas = ring(words, self._arenas)
        except NotKnown:
            return []
        return [block for arena in arenas.all for block in _blocks(peek, arenas, arena)]


def whole_pages(blocks: Iterable[Free]) -> Ranges:
    """Return (address, size) of the whole pages in free blocks, lowest first."""
    out = []
    for start, size, _ in blocks:
        low, high = -(-(start + _HEAD) // PAGE) * PAGE, (start + size) // PAGE * PAGE
        if high > low:
            out.append((low, high - low))
    return _disjoint(sorted(out))


class _Peeked:
    """The memory of a process that may run, as :class:`~qmrinspect.target.arenas.Readable`."""

    def __init__(self, peek: Peek) -> None:
        self._peek = peek

    def get(self, address: int) -> int:
        found = _words(self._peek, address, 1)
        if not found:
            raise NotKnown(f"{address:#x} cannot be read")
        return found[0]

    def cut(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        raw = self._peek(start, min(end - start, _LIBRARY_MAX)) or b""
        yield start, memoryview(raw)[: len(raw) // 8 * 8].cast("Q")


def _words(peek: Peek, address: int, count: int) -> tuple[int, ...]:
    raw = peek(address, 8 * count) if 0 < address < _ADDRESS_MAX else None
    return struct.unpack(f"<{count}Q", raw) if raw is not None else ()


def _packed(words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


def _blocks(peek: Peek, arenas: Arenas, arena: int) -> Iterator[Free]:
    """Yield the large free blocks of an arena."""
    bins = arena + arenas.at_bins
    heads = _words(peek, bins, 2 * BINS)
    top = _words(peek, arena + arenas.at_top, 1)
    size = _words(peek, top[0] + 8, 1) if top else ()
    if top and size and _FREE_MIN <= size[0] & ~7 < _ADDRESS_MAX and size[0] & _IN_USE:
        signs = (arena + arenas.at_top, _packed(top)), (top[0] + 8, _packed(size))
        yield Free(top[0], size[0] & ~7, signs)
    for number in (0, *range(_SMALL_BINS, BINS)) if heads else ():
        head, at = bins + number * 16 - 16, heads[2 * number]
        for _ in range(_BLOCKS_MAX):
            block = _words(peek, at, 4) if at != head else ()
            if not block:
                break
            size_here, following = block[1] & ~7, block[2]
            if size_here >= _FREE_MIN:
                behind = _words(peek, at + size_here, 2)
                if behind and behind[0] == size_here and not behind[1] & _IN_USE:
                    signs = (at + 8, _packed(block[1:2])), (at + size_here, _packed(behind))
                    yield Free(at, size_here, signs)
            elif number:
                break  # the largest come first
            at = following


def _disjoint(ranges: Ranges) -> Ranges:
    """Leave out what overlaps the one before: one of the two is not true."""
    out: Ranges = []
    for start, size in ranges:
        if not out or start >= out[-1][0] + out[-1][1]:
            out.append((start, size))
    return out
