"""Free memory of malloc
---------------------

A QEMU that built a machine leaves hundreds of megabytes of free blocks behind, touched and
worth nothing.  The large ones hang in the bins of glibc's arenas (malloc/malloc.c), or are
an arena's ``top``.  Nothing is believed that does not close: a block is free when the block
behind it says so as well.

Every bin is a list head, a pair of pointers that lies in the arena as the ``fd`` and ``bk``
of a block would, 16 bytes into it.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator, Sequence

from .image import PAGE, Mapping, Peek, Ranges

__all__ = ["Malloc"]

_LIBRARY = re.compile(r"/libc(-[0-9.]+)?\.so")
_BINS = 127
# Sorted blocks of one size or a narrow range of sizes; the first bin has what was freed last.
_SMALL_BINS = 63
# mutex, flags, have_fastchunks, then ten fast bins until glibc 2.42; top, last_remainder; bins.
_BEFORE_BINS = (112, 32)
_TOP = -16
# binmap is four words of 32 bits.
_NEXT = _BINS * 16 + 16
_ARENAS_MAX = 256
_BLOCKS_MAX = 1 << 16
_LIBRARY_MAX = 1 << 20
# Smaller ones are not worth a hole in a copy.
_FREE_MIN = 16 * PAGE
_HEAD = 48  # of a free block: its sizes and its four links
_IN_USE = 1  # PREV_INUSE: of the block before


class Malloc:
    """The allocator of one process.  Its arena is found once."""

    def __init__(self) -> None:
        self._main = 0  # address of the first bin of main_arena
        self._base = 0  # and how far behind the arena's start that is
        self._library = 0

    def free(self, peek: Peek, mappings: Sequence[Mapping]) -> Ranges:
        """Return (address, size) of whole pages in large free blocks, lowest first.

        Without a stop it may be out of date at once.
        """
        library = next(
            (m for m in mappings if "w" in m.perms and _LIBRARY.search(m.path)),
            None,
        )
        if library is None:
            return []
        if library.start != self._library:
            self._library, self._main = library.start, 0
        if not self._main:
            self._find(peek, library, mappings)
        out = []
        for bins in self._arenas(peek) if self._main else ():
            for start, size in _blocks(peek, bins):
                low, high = -(-(start + _HEAD) // PAGE) * PAGE, (start + size) // PAGE * PAGE
                if high > low:
                    out.append((low, high - low))
        return _disjoint(sorted(out))

    def _find(self, peek: Peek, library: Mapping, mappings: Sequence[Mapping]) -> None:
        end = library.end
        # Its zero-initialised data follows without a name.
        for m in mappings:
            if m.start == end and m.perms == "rw-p" and (not m.path or m.path == library.path):
                end = m.end
        raw = peek(library.start, min(end - library.start, _LIBRARY_MAX))
        if raw is None:
            return
        words = array("Q", raw[: len(raw) // 8 * 8])
        for i in range(len(words) - 1):
            # An empty bin leads to itself.
            head = library.start + i * 8 - 16
            if words[i] == head and words[i + 1] == head:
                first = self._first(peek, words, library.start, i)
                for base in _BEFORE_BINS if first else ():
                    self._main, self._base = first, base
                    if list(self._arenas(peek)):
                        return
                self._main = 0

    @staticmethod
    def _first(peek: Peek, words: Sequence[int], start: int, i: int) -> int:
        """Return the address of the first of all bins, of which one is at word ``i``."""

        def linked(i: int) -> bool:
            head = start + i * 8 - 16
            fd, bk = words[i], words[i + 1]
            if fd == head or bk == head:
                return fd == bk
            return _words(peek, fd + 24, 1) == (head,) == _words(peek, bk + 16, 1)

        low = high = i
        while low >= 2 and linked(low - 2) and (high - low) // 2 < _BINS:
            low -= 2
        while high + 3 < len(words) and linked(high + 2) and (high - low) // 2 < _BINS:
            high += 2
        return start + low * 8 if (high - low) // 2 + 1 == _BINS else 0

    def _arenas(self, peek: Peek) -> Iterator[int]:
        """Yield the address of the first bin of each arena; none unless the ring closes."""
        main = at = self._main - self._base
        out: list[int] = []
        while len(out) < _ARENAS_MAX:
            out.append(at + self._base)
            at = (_words(peek, at + self._base + _NEXT, 1) or (0,))[0]
            if at == main:
                yield from out
                return
            if not at:
                return


def _words(peek: Peek, address: int, count: int) -> tuple[int, ...]:
    raw = peek(address, 8 * count) if 0 < address < 1 << 47 else None
    return struct.unpack(f"<{count}Q", raw) if raw is not None else ()


def _blocks(peek: Peek, bins: int) -> Iterator[tuple[int, int]]:
    """Yield (address, size) of the large free blocks of an arena."""
    heads = _words(peek, bins, 2 * _BINS)
    top = _words(peek, bins + _TOP, 1)
    size = _words(peek, top[0] + 8, 1) if top else ()
    if top and size and _FREE_MIN <= size[0] & ~7 < 1 << 47 and size[0] & _IN_USE:
        yield top[0], size[0] & ~7
    for number in range(_BINS if heads else 0):
        if 0 < number < _SMALL_BINS:
            continue
        head, at = bins + number * 16 - 16, heads[2 * number]
        for _ in range(_BLOCKS_MAX):
            block = _words(peek, at, 4) if at != head else ()
            if not block:
                break
            size_here, following = block[1] & ~7, block[2]
            if size_here >= _FREE_MIN:
                behind = _words(peek, at + size_here, 2)
                if behind and behind[0] == size_here and not behind[1] & _IN_USE:
                    yield at, size_here
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
