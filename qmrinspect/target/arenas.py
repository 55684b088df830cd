"""Arenas
------

glibc keeps free chunks in arenas (``struct malloc_state``, malloc/malloc.c).  The main one
is a static variable of libc; it is recognised by its 127 bins, each of which is a circular
list through itself, and by the ring of arenas that it is in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..tuples import NamedTuple
from .image import Mapping
from .words import NotKnown, Words

__all__ = ["BINS", "Area", "Arenas", "Readable", "areas", "find_arenas", "libc_data", "ring"]

#: NBINS - 1: how many bins an arena has.
BINS = 127
_ARENAS_MAX = 4096
#: NFASTBINS; glibc 2.43 has none any more.
_FASTBINS = (10, 0)
# mutex, flags and have_fastchunks in front of the fast bins, padded.
_HEAD = (16, 8)
# Behind the bins: binmap, then next, next_free, attached_threads, system_mem, max_system_mem.
_BINMAP = 16
_TAIL = 40
_SYSTEM_MEM = 24
# HEAP_MAX_SIZE (malloc/arena.c): where the heap of a thread begins is a multiple of it.
_HEAP_MAX = 64 << 20
_HEAPS_MAX = 1 << 16
# The last chunks of a heap that is not an arena's last, each of 16 bytes, say that it ends.
_FENCE = 64

_LIBC = re.compile(r"(?:^|/)libc(?:-2\.\d+)?\.so(?:\.6)?(?: \(deleted\))?$")


class Readable(Protocol):
    """Memory by words; :class:`~qmrinspect.target.words.Words` is one."""

    def get(self, address: int) -> int:
        """Return a word.  Raises :class:`~qmrinspect.target.words.NotKnown` without one."""

    def cut(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Yield (address, words) of what is there between two addresses."""


class Arenas(NamedTuple):
    """Where each arena is, and how this glibc lays one out; offsets in bytes.

    :param all: addresses, the main arena first.
    :param fastbins: how many of them an arena has.
    :param at_fast: offset of the fast bins.
    :param at_bins: offset of the bins.
    :param size: of an arena.
    """

    all: tuple[int, ...]
    fastbins: int
    at_fast: int
    at_bins: int
    size: int

    @property
    def at_top(self) -> int:
        """Offset of the pointer to the chunk that borders on unused memory."""
        return self.at_bins - 16

    def heads(self, arena: int) -> Iterator[int]:
        """Yield the address of each bin as if it were a chunk."""
        for i in range(BINS):
            yield arena + self.at_bins + 16 * i - 16


class Area(NamedTuple):
    """A run of chunks: from the first chunk to ``top``, 0 where a fence ends it before ``end``."""

    start: int
    top: int
    end: int


def libc_data(mappings: Sequence[Mapping]) -> list[tuple[int, int]]:
    """Return (start, end) of the writable data of the C library that is mapped.

    A program that needs no library (``-static-pie``) has its variables in its own data.

    :raises NotKnown: when it is none of glibc's.
    """
    out: list[tuple[int, int]] = []
    for mapping in mappings:
        bss = not mapping.path and out and mapping.start == out[-1][1]
        if mapping.perms.startswith("rw") and (bss or _LIBC.search(mapping.path)):
            if out and mapping.start == out[-1][1]:
                out[-1] = (out[-1][0], mapping.end)
            else:
                out.append((mapping.start, mapping.end))
    # What is shared is memory of the guest, or of code that QEMU itself makes.
    programs = {m.path for m in mappings if m.perms[2:] == "xp" and m.path.startswith("/")}
    if not out and len(programs) == 1:
        # All have values from the start, so that they are in what is of the file.
        data = (m for m in mappings if m.perms.startswith("rw-p") and m.path in programs)
        out = [(mapping.start, mapping.end) for mapping in data]
    if not out:
        raise NotKnown("no C library of GNU is mapped, so that its allocator is another one")
    return out


def find_arenas(words: Readable, spans: Sequence[tuple[int, int]]) -> Arenas:
    """Find the main arena in libc's data, and the others by it.

    :raises NotKnown: there is none, or another allocator serves the program.
    """
    for start, end in spans:
        for base, view in words.cut(start, end):
            for bins in _bins(words, base, view):
                found = _at_bins(words, bins)
                if found is not None:
                    _check_used(words, found)
                    return found
    raise NotKnown(
        "no arena of glibc's malloc closes: the allocator is another one, or was being changed"
    )


def _check_used(words: Readable, arenas: Arenas) -> None:
    main = arenas.all[0]
    if not words.get(main + arenas.size - _TAIL + _SYSTEM_MEM):
        raise NotKnown("glibc's malloc is not in use, so that the allocator is another one")


def _bins(words: Readable, base: int, view: memoryview) -> Iterator[int]:
    """Yield the addresses at which 127 lists in a row close.

    largebin_index() is at most 126, so that the last one is always empty; few words are such a
    list's, and a program's own data has many.
    """
    last = 2 * (BINS - 1)
    head = base - 16
    empty = [
        i for i, (first, end) in enumerate(zip(view, view[1:])) if first == end == head + 8 * i
    ]
    for i in (at - last for at in empty if at >= last):
        if all(
            _closes(words, base + 8 * (i + 2 * k), view[i + 2 * k], view[i + 2 * k + 1])
            for k in range(BINS)
        ):
            yield base + 8 * i


def _closes(words: Readable, at: int, first: int, last: int) -> bool:
    # A bin is used as if it were a chunk, whose links lie 16 bytes behind its start.
    head = at - 16
    if first == head and last == head:
        return True
    if not first or not last or first & 15 or last & 15:
        return False
    try:
        return words.get(first + 24) == head and words.get(last + 16) == head
    except NotKnown:
        return False


def _at_bins(words: Readable, bins: int) -> Arenas | None:
    at_next = bins + 2 * BINS * 8 + _BINMAP
    for fastbins in _FASTBINS:
        for head in _HEAD:
            main = bins - 16 - 8 * fastbins - head
            try:
                found = _follow(words, main, at_next - main)
            except NotKnown:
                continue
            return Arenas(found, fastbins, head, bins - main, at_next - main + _TAIL)
    return None


def ring(words: Readable, arenas: Arenas) -> Arenas:
    """Return the arenas as they are now: a thread may have made one.

    :raises NotKnown: the ring does not close, as while it is being changed.
    """
    return arenas._replace(all=_follow(words, arenas.all[0], arenas.size - _TAIL))


def _follow(words: Readable, main: int, at_next: int) -> tuple[int, ...]:
    out = [main]
    at = words.get(main + at_next)
    while at != main:
        if at & 7 or len(out) >= _ARENAS_MAX:
            raise NotKnown(f"the ring of arenas from {main:#x} on does not close")
        out.append(at)
        at = words.get(at + at_next)
    return tuple(out)


def areas(words: Words, arenas: Arenas, start: int) -> list[Area]:
    """Return where the chunks of all arenas are, lowest first.

    :param start: of the main heap.
    :raises NotKnown: when a heap does not belong to its arena.
    """
    main, *others = arenas.all
    top = words.get(main + arenas.at_top)
    out = [Area(start, top, top)]
    for arena in others:
        out += _heaps(words, arenas, arena)
    return sorted(out)


def _heaps(words: Words, arenas: Arenas, arena: int) -> Iterator[Area]:
    """The heaps of a thread's arena (``heap_info``): ar_ptr, prev, size, ..., from the last on."""
    top = words.get(arena + arenas.at_top)
    own = arena // _HEAP_MAX * _HEAP_MAX
    heap = top // _HEAP_MAX * _HEAP_MAX
    for _ in range(_HEAPS_MAX):
        owner, previous, size = words.row(heap, 3)
        if owner != arena or size > _HEAP_MAX:
            raise NotKnown(f"the heap at {heap:#x} does not belong to the arena at {arena:#x}")
        # An arena lies behind the description of its first heap, which gives that one's size.
        first = (arena + arenas.size + 15) & ~15 if heap == own else heap + arena - own
        end = heap + size
        yield Area(first, top if first <= top < end else 0, end - _FENCE)
        if heap == own:
            return
        heap = previous
    raise NotKnown(f"the heaps of the arena at {arena:#x} do not end")
