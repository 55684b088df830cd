"""Chunks
------

A chunk begins with the size of the one before it and its own, whose low bits are flags
("chunks of memory are maintained using a boundary tag method", malloc/malloc.c).  From the
first one, each leads to the next; the last one's end is known, so that a walk proves itself.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

from ..target.arenas import Area
from ..target.image import PAGE, Image
from ..target.words import NotKnown, Words
from ..tuples import NamedTuple

__all__ = ["HEADER", "Chunks", "Walked"]

#: Bytes between the start of a chunk and what malloc returned.
HEADER = 16
_STEP_MIN = 4  # words
_LINKS = 31  # of a free chunk, up to its last byte
_PREV_INUSE, _MMAPPED = 1, 2
_IN_USE = bytes(byte & _PREV_INUSE for byte in range(256))
_MAPPED = bytes(byte & _MMAPPED for byte in range(256))
_PIECE = 1 << 16  # bytes that are walked at once


class _Piece(NamedTuple):
    """What a walk of some memory found: where chunks start, their heads, and their low bits."""

    entry: int
    data: memoryview
    starts: list[int]
    sizes: list[int]
    in_use: bytes
    mapped: bool
    fence: bool
    end: int


# Where chunks start, their sizes, and which are live.
_Found = tuple[list[int], list[int], bytearray]


class Walked:
    """What the last walk found in each piece of memory; what the next image has as well, it keeps.

    A heap of which a hundredth changed is walked again in a tenth of the time.
    """

    def __init__(self) -> None:
        self._image: Image | None = None
        self._before: dict[int, _Piece] = {}
        self._now: dict[int, _Piece] = {}
        self._same = False
        self._changed: set[int] = set()
        self._pages: dict[int, tuple[list[int], set[int]]] = {}
        # Without what leads here: memory waits long for the collector of circles.
        self._before_all: tuple[object, _Found, set[int]] | None = None
        self._now_all: tuple[object, _Found, set[int]] | None = None
        self._changed_pages: set[int] = set()
        #: Which way of keeping free chunks was told, -1 for none so far.
        self.way = -1
        #: Where the main heap was found to begin, 0 for nowhere so far.
        self.heap = 0

    def begin(self, image: Image) -> None:
        """Begin the walk of an image."""
        last, self._image = self._image, image
        self._same = last is not None and (last is image.since or last is image)
        self._changed_pages = image.changed if last is not image else set()
        self._changed = {page * PAGE // _PIECE for page in self._changed_pages}
        self._before, self._now = self._now, {}
        self._before_all, self._now_all = self._now_all, None

    def keep(self, given: object, chunks: Chunks, asked: set[int]) -> None:
        """Keep what a walk came to.

        :param given: what it was given, but for the image.
        :param asked: the numbers of the pages that were asked for one by one.
        """
        self._now_all = given, (chunks.starts, chunks.sizes, chunks.live), set(asked)

    def again(self, given: object, words: Words) -> Chunks | None:
        """Return what the last walk came to, None where this one may come to something else."""
        if not self._same or self._before_all is None:
            return None
        before, found, asked = self._before_all
        pieces = {start // _PIECE for start in self._before}
        if before != given or pieces & self._changed or asked & self._changed_pages:
            return None
        for start, piece in self._before.items():
            data = next((view for _, view in words.cut(start, start + 8 * len(piece.data))), None)
            if data is None or len(data) != len(piece.data):
                self._now = {}
                return None
            self._now[start] = piece._replace(data=data)
        words.asked.update(asked)
        chunks = Chunks(self)
        chunks.starts, chunks.sizes, chunks.live = found
        return chunks

    def pages(self) -> set[int]:
        """Return the numbers of the pages with what a chunk begins with.

        Where a walk did not come to its end, the rest is from the one before.
        """
        before, self._pages = self._pages, {}
        for start, piece in {**self._before, **self._now}.items():
            last = before.get(start)
            if last is None or last[0] is not piece.starts:
                ends = {at + size for at in piece.starts for size in (0, _LINKS)}
                last = piece.starts, {at // PAGE for at in ends}
            self._pages[start] = last
        return set().union(*(pages for _, pages in self._pages.values()))

    def piece(self, start: int, data: memoryview, entry: int) -> _Piece:
        """Walk the chunks of some memory.

        :param start: address of ``data``, which lies between two multiples of 64 KiB.
        :param entry: address of the first chunk.
        """
        known = self._before.get(start)
        if known is None or known.entry != entry or len(known.data) != len(data):
            known = _walk(start, data, entry)
        elif not self._same or start // _PIECE in self._changed:
            same = known.data.tobytes() == data.tobytes()
            known = known._replace(data=data) if same else _walk(start, data, entry)
        else:
            known = known._replace(data=data)
        self._now[start] = known
        return known


class Chunks:
    """All chunks of all heaps.

    :param walked: what is known of an earlier image; it is brought up to date.
    :ivar starts: addresses, sorted.
    :ivar sizes: in bytes, header included.
    :ivar live: 1 for each that the program owns, 0 for a free one.
    """

    def __init__(self, walked: Walked | None = None) -> None:
        self.walked = walked or Walked()
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.live = bytearray()

    def add(self, words: Words, area: Area) -> None:
        """Walk an area that lies behind all earlier ones.

        :raises NotKnown: when the walk does not end where it must.
        """
        first = len(self.starts)
        in_use: list[bytes] = []
        at, target = area.start, area.top
        mapped = False
        while not target or at < target:
            found = words.part(at)
            if found is None:
                raise NotKnown(f"the walk over the heap leaves what was captured at {at:#x}")
            fence = False
            for piece in self._pieces(*found, at, target):
                self.starts += piece.starts
                self.sizes += piece.sizes
                in_use.append(piece.in_use)
                mapped = mapped or piece.mapped
                fence, at = piece.fence, piece.end
            if fence:
                break
        # The last head is the top chunk's or the fence's; it tells of the chunk before.
        if (at != target) if target else not area.end <= at < area.end + 64:
            where = "too early" if at < (target or area.end) else "behind its end"
            raise NotKnown(f"the walk over the heap at {area.start:#x} ends at {at:#x}, {where}")
        head = words.get(at + 8)
        if mapped:
            raise NotKnown(f"the heap at {area.start:#x} has a chunk that cannot be in one")
        if len(self.starts) > first:
            self.live += b"".join(in_use)[1:]
            self.live.append(head & _PREV_INUSE)
        if target:
            # What borders on unused memory is free.
            self.starts.append(at)
            self.sizes.append(head & ~7)
            self.live.append(0)

    def _pieces(self, base: int, view: memoryview, at: int, target: int) -> Iterator[_Piece]:
        """Walk within one part up to its end, to ``target`` or to a fence."""
        limit = base + 8 * len(view)
        if base <= target <= limit:
            limit = target
        fence = False
        while at < limit and not fence:
            start = max(base, at // _PIECE * _PIECE)
            end = min(limit, (at // _PIECE + 1) * _PIECE)
            data = view[(start - base) >> 3 : (end - base) >> 3]
            piece = self.walked.piece(start, data, at)
            yield piece
            if piece.end == at and not piece.fence:
                raise NotKnown(f"the walk over the heap is cut short at {at:#x}")
            fence, at = piece.fence, piece.end

    def single(self, start: int, size: int) -> None:
        """Add a live chunk that is a mapping of its own, behind all earlier ones."""
        self.starts.append(start)
        self.sizes.append(size)
        self.live.append(1)

    def find(self, start: int) -> int:
        """Return the number of the chunk that starts at an address, -1 when none does."""
        i = bisect_left(self.starts, start)
        return i if i < len(self.starts) and self.starts[i] == start else -1

    def of_sizes(self, sizes: Collection[int]) -> list[int]:
        """Return the numbers of the live chunks of some sizes, sorted."""
        out = []
        for size in sizes:
            out += [i for i in _places(self.sizes, size) if self.live[i]]
        return sorted(out)

    def freed(self) -> list[int]:
        """Return the numbers of the free chunks."""
        return list(_places(self.live, 0))

    def tops(self, areas: Sequence[Area]) -> set[int]:
        """Return the numbers of the chunks that border on unused memory."""
        return {self.find(area.top) for area in areas if area.top}


def _walk(base: int, view: memoryview, entry: int) -> _Piece:
    """Walk up to the last word but one, or to what ends a heap."""
    # An index is a fourth of the work of an address; it is of a chunk's size.
    i, end = ((entry - base) >> 3) + 1, len(view)
    heads: list[int] = []
    note = heads.append
    fence = False
    while i < end:
        head = view[i]
        step = head >> 3
        if step < _STEP_MIN or step & 1:
            fence = True
            break
        note(head)
        i += step
    sizes = [head & ~7 for head in heads]
    *starts, behind = accumulate(sizes, initial=entry)
    # The lowest bytes alone, all at once.
    flags = array("Q", heads)
    if sys.byteorder == "big":
        flags.byteswap()
    low = flags.tobytes()[::8]
    return _Piece(
        entry,
        view,
        starts,
        sizes,
        low.translate(_IN_USE),
        any(low.translate(_MAPPED)),
        fence,
        behind,
    )


def _places(values: list[int] | bytearray, wanted: int) -> Iterator[int]:
    """Yield where a value is; found at the speed of C."""
    at = -1
    try:
        while True:
            at = values.index(wanted, at + 1)
            yield at
    except ValueError:
        return
