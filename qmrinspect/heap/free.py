"""Free chunks
-----------

A chunk is free when the one behind it says so, when it is in a fast bin, or when it is in
the cache of a thread.  The three are told apart here, and each is checked against what
malloc keeps of it elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Callable

from ..target.arenas import Area, Arenas
from ..target.words import NotKnown, Words
from ..tuples import NamedTuple
from .chunks import HEADER, Chunks

__all__ = ["mark_free"]

# Of one list; tcache_count is 16 bits wide.
_LIST_MAX = 1 << 20
_WORD = 1 << 64


class _Cache(NamedTuple):
    """How ``tcache_perthread_struct`` is laid out: chunk size, bins, offset of the lists."""

    chunk: int
    bins: int
    lists: int
    counted: bool


# Since 2.42 it has large bins as well, and counts the places that are left instead.
_CACHES = (_Cache(0x290, 64, 128, True), _Cache(0x300, 76, 152, False))
_SMALL = 64

Reveal = Callable[[int, int], int]


def _mangled(at: int, value: int) -> int:
    """PROTECT_PTR of 2.32 and later: a link is mixed with its own address."""
    return at >> 12 ^ value


def _plain(at: int, value: int) -> int:
    return value


_WAYS = [(shape, reveal) for shape in _CACHES for reveal in (_mangled, _plain)]


def mark_free(words: Words, arenas: Arenas, chunks: Chunks, areas: list[Area]) -> None:
    """Mark the chunks that no flag calls free and that are.

    :raises NotKnown: when malloc's own books do not agree.
    """
    _check_bins(words, arenas, chunks, areas)
    cached = _all_cached(words, chunks)
    fast = _fast(words, arenas, chunks)
    for i in (*cached, *fast):
        if not chunks.live[i]:
            raise NotKnown(f"the chunk at {chunks.starts[i]:#x} is free in two ways")
        chunks.live[i] = 0


def _check_bins(words: Words, arenas: Arenas, chunks: Chunks, areas: list[Area]) -> None:
    """What the bins hold is what the flags call free."""
    binned: set[int] = set()
    for arena in arenas.all:
        for head in arenas.heads(arena):
            at = words.get(head + 16)
            while at != head:
                if at in binned:
                    raise NotKnown(f"the list of free chunks at {head:#x} does not close")
                binned.add(at)
                at = words.get(at + 16)
    tops = chunks.tops(areas)
    flagged = {chunks.starts[i] for i in chunks.freed() if i not in tops}
    if binned != flagged:
        wrong = len(binned ^ flagged)
        raise NotKnown(f"{wrong} chunks are free by a list or by a flag and not by the other")


def _all_cached(words: Words, chunks: Chunks) -> set[int]:
    """Return the chunks in the caches of all threads, under the layout that explains most."""
    best: tuple[int, set[int], list[list[int]], set[int]] = (0, set(), [], set())
    # A process has one glibc: what explained its caches before does so again.
    known = chunks.walked.way
    structs: dict[_Cache, list[int]] = {}
    for way in sorted(range(len(_WAYS)), key=lambda way: way != known):
        shape, reveal = _WAYS[way]
        # What is left of a chunk that fits nearly is too small for one of its own.
        if shape not in structs:
            structs[shape] = chunks.of_sizes((shape.chunk, shape.chunk + 16))
        found = _caches(words, chunks, shape, structs[shape], reveal)
        if len(found[0]) > best[0]:
            best, chunks.walked.way = (len(found[0]), *found), way
            if way == known:
                break
    _, cached, refused, keys = best
    _check_refused(words, chunks, refused, keys)
    return cached


def _caches(
    words: Words, chunks: Chunks, shape: _Cache, structs: list[int], reveal: Reveal
) -> tuple[set[int], list[list[int]], set[int]]:
    """Return the chunks in caches, the lists of what is no cache, and the keys.

    The key is a number of the process since 2.34, and the address of the cache before.
    """
    rows = [(i, *_cached(words, chunks, shape, i, reveal)) for i in structs]
    often = Counter(key for i, _, found in rows for key in found.values())
    key = max(often, key=often.__getitem__, default=0)
    cached: set[int] = set()
    refused: list[list[int]] = []
    keys: set[int] = set()
    for i, heads, found in rows:
        own = set(found.values())
        if own and (own == {key} or own == {chunks.starts[i] + HEADER}):
            cached.update(found)
            keys |= own
        elif any(heads):
            refused.append(heads)
    return cached, refused, keys


def _cached(
    words: Words, chunks: Chunks, shape: _Cache, number: int, reveal: Reveal
) -> tuple[list[int], dict[int, int]]:
    """Return the lists of what may be a thread's cache, and each chunk in it with its key.

    When it is no cache, or is being changed at the instant, there are no chunks.
    """
    at = chunks.starts[number] + HEADER
    rows = words.row(at, (shape.lists + 8 * shape.bins) // 8)
    first = shape.lists // 8
    heads = rows[first:]
    counts = [rows[b >> 2] >> 16 * (b & 3) & 0xFFFF for b in range(shape.bins)]
    out: dict[int, int] = {}
    for b, head in enumerate(heads):
        before = len(out)
        if head:
            for i in _chain(words, chunks, head, reveal):
                # One that comes twice is of a list of the program's, which may be a ring.
                if i < 0 or i in out or (b < _SMALL and chunks.sizes[i] != _cached_size(b)):
                    return heads, {}
                out[i] = words.get(chunks.starts[i] + HEADER + 8)
        if shape.counted and len(out) - before != counts[b]:
            return heads, {}
    return heads, out


def _cached_size(number: int) -> int:
    return 32 + 16 * number


def _chain(words: Words, chunks: Chunks, at: int, reveal: Reveal) -> Iterator[int]:
    """Yield the chunks of a list through what malloc returns; -1 ends one that makes no sense."""
    for _ in range(_LIST_MAX):
        i = chunks.find(at - HEADER)
        yield i
        if i < 0:
            return
        at = reveal(at, words.get(at))
        if not at:
            return


def _fast(words: Words, arenas: Arenas, chunks: Chunks) -> set[int]:
    heads = [
        words.get(arena + arenas.at_fast + 8 * i)
        for arena in arenas.all
        for i in range(arenas.fastbins)
    ]
    for reveal in (_mangled, _plain):
        out: set[int] = set()
        if all(_fast_list(words, chunks, head, reveal, out) for head in heads if head):
            return out
    raise NotKnown("a fast bin leads to what is no chunk")


def _fast_list(words: Words, chunks: Chunks, at: int, reveal: Reveal, out: set[int]) -> bool:
    # These lists go through the chunks themselves.
    while at:
        i = chunks.find(at)
        if i < 0 or i in out:
            return False
        out.add(i)
        at = reveal(at + HEADER, words.get(at + HEADER))
    return True


def _check_refused(words: Words, chunks: Chunks, refused: list[list[int]], keys: set[int]) -> None:
    """What was refused is none that is being changed: few of its lists lead to a chunk with a key.

    That a chunk has the key is no proof of being in a cache: it stays when a thread ends, and so
    may the thread's cache in a block that was not cleared.  Of a cache all lists lead to such.
    """
    for heads in refused:
        lead = 0
        for b, head in enumerate(heads):
            i = chunks.find(head - HEADER) if head else -1
            if i < 0 or not chunks.live[i] or (b < _SMALL and chunks.sizes[i] != _cached_size(b)):
                continue
            lead += words.get(head + 8) in keys
        if 2 * lead > sum(map(bool, heads)):
            raise NotKnown("the cache of a thread is being changed")
