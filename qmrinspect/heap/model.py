"""Heaps
-----

For any address its block, and whether that is live: exact, or not known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import compress

from ..target.arenas import Area, Arenas, areas, find_arenas, libc_data
from ..target.image import PAGE, Image, Mapping
from ..target.instant import numbers
from ..target.words import NotKnown, Words
from ..tuples import NamedTuple
from .chunks import HEADER, Chunks, Walked
from .free import mark_free
from .mapped import Mapped, find_mapped, find_parameters

__all__ = ["Block", "Heap"]

# Pages of each heap that malloc may use next.
_AHEAD = 64
LIVE, FREED, NOT_KNOWN = "live", "freed", "not known"


class Block(NamedTuple):
    """What malloc returned: ``start``, ``size`` in bytes that may be used.

    :param state: ``live``, ``freed``, or ``not known``; the other two are 0 then.
    """

    start: int
    size: int
    state: str


class Heap:
    """The blocks of a process, walked when they are first asked for.

    :param image: its writable memory.
    :param mappings: of the same instant.
    :param walked: what is known of an earlier image.
    """

    def __init__(
        self, image: Image, mappings: Sequence[Mapping], walked: Walked | None = None
    ) -> None:
        self._image = image
        self._walked = walked or Walked()
        self._mappings = mappings
        self._chunks: Chunks | None = None
        self._spans: list[tuple[int, int]] = []
        self._arenas: list[tuple[int, int]] = []
        self._reason = ""
        self._is_glibc = False
        self._asked: set[int] = set()

    @property
    def exact(self) -> bool:
        """Whether each block is known; where it is not, none is."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why nothing is known, empty when all is."""
        self._known()
        return self._reason

    @property
    def is_glibc(self) -> bool:
        """Whether glibc's malloc serves the program; its blocks may still not be known."""
        self._known()
        return self._is_glibc

    def at(self, address: int) -> Block | None:
        """Return the block that has an address, None where malloc has none.

        The size of a block, which lies in front of it, counts to the block.
        """
        chunks = self._known()
        if self._reason:
            return Block(0, 0, NOT_KNOWN)
        i = bisect_right(chunks.starts, address) - 1
        if i < 0 or address >= chunks.starts[i] + chunks.sizes[i]:
            return None
        # A chunk's first word belongs to the block before it.
        before = i and chunks.starts[i - 1] + chunks.sizes[i - 1] == chunks.starts[i]
        if before and address < chunks.starts[i] + 8 and not self._is_mapping(chunks.starts[i]):
            i -= 1
        return self._block(chunks, i)

    def freed(self, address: int) -> bool | None:
        """Whether an address is in a freed block; None where it is in none, or not known."""
        chunks = self._known()
        i = bisect_right(chunks.starts, address) - 1
        if i < 0 or address >= chunks.starts[i] + chunks.sizes[i]:
            return None
        return not chunks.live[i]

    def blocks(self) -> list[Block]:
        """Return all blocks, lowest first; none when they are not known."""
        chunks = self._known()
        return [self._block(chunks, i) for i in range(len(chunks.starts))]

    def tally(self) -> Counter[int]:
        """Return how many live blocks there are of each size; none when they are not known."""
        chunks = self._known()
        return Counter(compress(chunks.sizes, chunks.live))

    def sizes(self) -> dict[int, int]:
        """Return the size of each live block by where it begins; none when they are not known."""
        chunks = self._known()
        rows = zip(chunks.starts, chunks.sizes)
        return {start + HEADER: size - 8 for start, size in compress(rows, chunks.live)}

    def places(self) -> list[tuple[int, int]]:
        """Return (start, end) of the mappings that heaps are in, lowest first."""
        self._known()
        return [
            (m.start, m.end)
            for m in self._mappings
            if any(start < m.end and m.start < end for start, end in self._spans)
        ]

    def spans(self) -> list[tuple[int, int]]:
        """Return (start, end) of the heaps, lowest first; none when they are not known."""
        self._known()
        return list(self._spans)

    def in_arena(self, address: int) -> bool:
        """Whether an address is in what malloc itself knows its free chunks by."""
        self._known()
        return any(start <= address < end for start, end in self._arenas)

    def free(self) -> list[tuple[int, int]]:
        """Return (start, end) of the free memory of the heaps, lowest first, headers included.

        None when it is not known.
        """
        chunks = self._known()
        out: list[tuple[int, int]] = []
        for i in chunks.freed():
            start, end = chunks.starts[i], chunks.starts[i] + chunks.sizes[i]
            if out and out[-1][1] == start:
                out[-1] = (out[-1][0], end)
            else:
                out.append((start, end))
        return out

    def pages(self) -> set[int]:
        """Return the numbers of the pages by which blocks are known, as far as a walk came."""
        self._known()
        return self._asked | self._walked.pages()

    def ahead(self) -> set[int]:
        """Return the numbers of the pages in which malloc is going to begin blocks.

        It cuts them from the front of the smallest free block that has room.
        """
        chunks = self._known()
        free = sorted((chunks.sizes[i], chunks.starts[i]) for i in chunks.freed())
        left = dict.fromkeys(self._spans, _AHEAD)
        starts = [start for start, _ in self._spans]
        out: set[int] = set()
        for size, start in free[bisect_right(free, (PAGE,)) :]:
            span = self._spans[bisect_right(starts, start) - 1]
            first, count = start // PAGE, min(size // PAGE + 1, left[span])
            out.update(range(first, first + count))
            left[span] -= count
        return out

    def _block(self, chunks: Chunks, i: int) -> Block:
        # All but a mapping may use the field of the next chunk that says how large this is.
        size = chunks.sizes[i] - HEADER
        if not self._is_mapping(chunks.starts[i]):
            size += 8
        state = LIVE if chunks.live[i] else FREED
        return Block(chunks.starts[i] + HEADER, size, state)

    def _is_mapping(self, start: int) -> bool:
        i = bisect_right(self._spans, (start, 1 << 64)) - 1
        return i < 0 or start >= self._spans[i][1]

    def _known(self) -> Chunks:
        if self._chunks is None:
            try:
                self._chunks = self._walk()
            except NotKnown as error:
                self._chunks, self._reason = Chunks(), str(error)
        return self._chunks

    def _walk(self) -> Chunks:
        self._walked.begin(self._image)
        words = Words(self._image)
        self._asked = words.asked
        libc = libc_data(self._mappings)
        words.asked.update(numbers((start, end - start) for start, end in libc))
        arenas = find_arenas(words, libc)
        self._is_glibc = True
        top = words.get(arenas.all[0] + arenas.at_top)
        low = _lowest(self._mappings, top)
        refused = NotKnown("where the main heap begins was not found in libc's data")
        for parameters in find_parameters(words, libc, low, top):
            if self._walked.heap not in (0, parameters.heap):
                continue
            runs = areas(words, arenas, parameters.heap)
            try:
                mapped = find_mapped(words, self._mappings, runs, parameters)
                words.asked.update(block.start // PAGE for block in mapped)
                given = arenas, runs, mapped
                chunks = self._walked.again(given, words) or self._chunks_of(words, *given)
                self._walked.keep(given, chunks, words.asked)
            except NotKnown as error:
                refused = error
                continue
            self._arenas = [(at, at + arenas.size) for at in arenas.all]
            self._walked.heap = parameters.heap
            self._spans = [(a.start, max(a.top, a.end) + 1) for a in runs]
            return chunks
        raise refused

    def _chunks_of(
        self, words: Words, arenas: Arenas, runs: list[Area], mapped: list[Mapped]
    ) -> Chunks:
        chunks = Chunks(self._walked)
        rows = [*((a.start, a, None) for a in runs), *((m.start, None, m) for m in mapped)]
        for _, area, single in sorted(rows, key=lambda row: row[0]):
            if area is not None:
                chunks.add(words, area)
            elif single is not None:
                chunks.single(*single)
        mark_free(words, arenas, chunks, runs)
        return chunks


def _lowest(mappings: Sequence[Mapping], top: int) -> int:
    """Return where the memory that the main heap ends in begins.

    A process that was forked (``-daemonize``) has what brk gave it since in another mapping.
    """
    low = end = 0
    for mapping in mappings:
        if mapping.start != end or not mapping.perms.startswith("rw"):
            low = mapping.start
        if mapping.start <= top < mapping.end:
            return low
        end = mapping.end
    return top
