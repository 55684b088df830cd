"""Blocks that are mappings
------------------------

malloc gives a large block a mapping of its own.  Its header is at the start of a page, or
behind it where the block had to be aligned; how many there are, and how large they are
together, is in libc's ``mp_`` (``struct malloc_par``, malloc/malloc.c).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..target.arenas import Area
from ..target.image import Mapping
from ..target.words import NotKnown, Words
from ..tuples import NamedTuple

__all__ = ["Mapped", "Parameters", "find_mapped", "find_parameters"]

_PAGE = 4096
_MMAPPED = 2
_FLAGS = 7
# Where the block of an aligned chunk begins in its page: at the alignment.
_ALIGNMENTS = (64, 128, 256, 512, 1024, 2048, 4096)
_HEADER = 16


class Parameters(NamedTuple):
    """Of ``mp_``: where the main heap begins, and the number and bytes of mapped blocks."""

    heap: int
    number: int
    bytes: int


class Mapped(NamedTuple):
    """A chunk: ``start`` of its header, ``size`` in bytes up to the end of its mapping."""

    start: int
    size: int


def find_parameters(
    words: Words, spans: Sequence[tuple[int, int]], low: int, top: int
) -> Iterator[Parameters]:
    """Yield what may be ``mp_``: its ``sbrk_base`` is where the main heap begins.

    :param low: start of the mapping that ``top``, the end of the main heap, is in.
    """
    for start, end in spans:
        for _, view in words.cut(start, end):
            for i in range(5, len(view)):
                if low <= view[i] < top and not view[i] & 15:
                    found = _parameters(view[i - 5 : i + 1].tolist())
                    if found is not None:
                        yield found


def _parameters(row: Sequence[int]) -> Parameters | None:
    """Decode the five words before ``sbrk_base``, and it.

    n_mmaps, n_mmaps_max, max_n_mmaps and no_dyn_threshold are 32 bits wide, and shifted by
    hp_flags since 2.35; then come mmapped_mem and max_mmapped_mem.
    """
    mapped, most = row[3], row[4]
    if mapped % _PAGE or most % _PAGE or mapped > most:
        return None
    half = [word >> shift & 0xFFFFFFFF for word in row[:3] for shift in (0, 32)]
    # Of the six, either the second to fifth count, and the sixth is padding, or the last four.
    for count, peak, dynamic, padding in (
        (half[1], half[3], half[4], half[5]),
        (half[2], half[4], half[5], 0),
    ):
        if dynamic <= 1 and not padding and count <= peak and (count > 0) == (mapped > 0):
            return Parameters(row[5], count, mapped)
    return None


def find_mapped(
    words: Words,
    mappings: Sequence[Mapping],
    areas: Sequence[Area],
    wanted: Parameters,
) -> list[Mapped]:
    """Return the chunks that are mappings, lowest first.

    :raises NotKnown: when they are not as many, and as large together, as ``mp_`` says.
    """
    spans = _private(mappings, areas)
    # Since 2.43 the size leaves the header out.
    for tail in (0, _HEADER):
        found = _outermost(_candidates(words, spans, tail))
        total = sum(end - begin for begin, end, _ in found)
        if (len(found), total) == (wanted.number, wanted.bytes):
            return [Mapped(start, end - start) for _, end, start in found]
    raise NotKnown(
        f"the {wanted.number} blocks of {wanted.bytes} bytes that are mappings were not all found"
    )


def _private(mappings: Sequence[Mapping], areas: Sequence[Area]) -> list[tuple[int, int]]:
    """Return the anonymous memory in which no heap lies; neighbours are joined.

    The kernel joins a new mapping with the heap of a thread that it borders on.
    """
    out: list[tuple[int, int]] = []
    for mapping in mappings:
        named = mapping.path and not mapping.path.startswith("[anon")
        if named or not mapping.perms.startswith("rw-p"):
            continue
        for start, end in _without(mapping.start, mapping.end, areas):
            if out and out[-1][1] == start:
                out[-1] = (out[-1][0], end)
            else:
                out.append((start, end))
    return out


def _without(start: int, end: int, areas: Sequence[Area]) -> Iterator[tuple[int, int]]:
    """Yield what the heaps leave of a mapping: each has whole pages."""
    for area in areas:
        if start < area.end and area.start < end:
            first = area.start // _PAGE * _PAGE
            if start < first:
                yield start, first
            start = -(-(area.end + 1) // _PAGE) * _PAGE
    if start < end:
        yield start, end


def _candidates(
    words: Words, spans: Sequence[tuple[int, int]], tail: int
) -> Iterator[tuple[int, int, int]]:
    """Yield where a chunk's mapping begins and ends, and where its header is."""
    for low, high in spans:
        for base, view in words.cut(low, high):
            page = -base % _PAGE // 8
            for at in (0, *(alignment - _HEADER for alignment in _ALIGNMENTS)):
                heads = view[page + at // 8 + 1 :: _PAGE // 8].tolist()
                for i, head in enumerate(heads):
                    if head & _FLAGS != _MMAPPED or head < _PAGE // 2:
                        continue
                    start = base + 8 * page + _PAGE * i + at
                    end = start + (head & ~_FLAGS) + tail
                    # In front lies the rest of the first page, or whole pages of it.
                    lead = int(view[(start - base) >> 3])
                    fits = lead % _PAGE == at and low <= start - lead and end <= high
                    if fits and end % _PAGE == 0:
                        yield start - lead, end, start


def _outermost(found: Iterator[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Leave out what lies inside another one: it is that one's content.

    An aligned chunk leaves the header that it was cut from where it was, and that one's size
    is not brought up to date when the block grows or shrinks.
    """
    out: list[tuple[int, int, int]] = []
    for row in sorted(found, key=lambda row: (row[0], -row[2])):
        if not out or row[0] >= out[-1][1]:
            out.append(row)
    return out
