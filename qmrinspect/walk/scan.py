"""Scanning memory
---------------

Finding every word of the captured memory that has one of many values.  A plain
loop over the words of a QEMU takes a second; here each byte lane of all words is
looked up at once by :meth:`bytes.translate`, and only the words that pass in
every lane are looked at one by one.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence

from ..target.image import PAGE, Image

__all__ = ["Found", "find_beside", "find_into", "find_words"]

_PIECE = 1 << 16
_NEAR = 7
# So many are remembered, as parts of the image itself.
_PIECES_MAX = 1 << 16
# So many times what is wanted may be searched for.
_WANTED_MORE = 3


class Found:
    """What searches found in each piece of an image, for pieces that the next one has as well."""

    def __init__(self) -> None:
        self.wanted: frozenset[int] = frozenset()
        self.image: Image | None = None  # of which these are the pieces
        self.pieces: dict[int, tuple[memoryview, Sequence[tuple[int, int]]]] = {}


def find_words(
    image: Image, values: Collection[int], before: Found | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for every aligned word of the image that is in ``values``.

    :param before: what earlier searches of the kind found; it is brought up to date.
    """
    wanted = frozenset(values)
    if not wanted:
        return
    searched, known = wanted, {}
    if before is not None:
        # What goes may come again: what was searched for stays so, within bounds.
        if wanted <= before.wanted:
            searched, known = before.wanted, before.pieces
        elif len(before.wanted) <= _WANTED_MORE * len(wanted):
            searched = wanted | before.wanted
    packed = [value.to_bytes(8, "little") for value in searched]
    # The middle lanes first: they tell a few values from all other pointers into the heap.
    lanes = []
    for lane in (2, 1, 0, 5, 4, 3):
        seen = {word[lane] for word in packed}
        lanes.append((lane, bytes(b in seen for b in range(256))))
    pieces: dict[int, tuple[memoryview, Sequence[tuple[int, int]]]] = {}
    zero = bytes(_PIECE)
    since = before is not None and before.image is not None and before.image is image.since
    changed = {page * PAGE // _PIECE for page in image.changed}
    for start, segment in image.segments():
        at = 0
        while at < len(segment) - 7:
            # The borders stay where they are when a segment begins elsewhere.
            end = at + _PIECE - (start + at) % _PIECE
            view, address = segment[at:end], start + at
            last = known.get(address)
            at = end
            same = since and address // _PIECE not in changed
            if same and last is not None and len(last[0]) == len(view):
                pieces[address] = view, last[1]
                yield from _given(image, last[1], wanted)
                continue
            piece = bytes(view)
            # Half of a heap is pages of zeros.
            if piece == zero[: len(piece)]:
                continue
            if last is None or bytes(last[0]) != piece:
                last = view, _matches(piece, address, lanes, searched)
            if before is not None and len(pieces) < _PIECES_MAX:
                pieces[address] = view, last[1]
            yield from _given(image, last[1], wanted)
    if before is not None:
        before.wanted, before.pieces, before.image = searched, pieces, image


def _given(
    image: Image, hits: Sequence[tuple[int, int]], wanted: Collection[int]
) -> Iterator[tuple[int, int]]:
    for hit in hits:
        if hit[1] in wanted and (image.scope is None or hit[0] // PAGE in image.scope):
            image.give(hit[0])
            yield hit


def find_into(image: Image, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for every aligned word that points into a range.

    :param ranges: (start, end), sorted; they do not overlap.
    """
    starts = [start for start, _ in ranges]
    lanes = _into_lanes(ranges)
    zero = bytes(_PIECE)
    for base, segment in image.segments():
        for at in range(0, len(segment) - 7, _PIECE):
            piece = bytes(segment[at : at + _PIECE])
            if piece == zero[: len(piece)]:
                continue
            for i, word in _candidates(piece, lanes):
                k = bisect_right(starts, word) - 1
                if k >= 0 and word < ranges[k][1]:
                    yield base + at + 8 * i, word


def find_beside(
    image: Image, ranges: Sequence[tuple[int, int]], beside: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for words into a range that have one into ``beside`` near them.

    Near is up to seven words before, or one behind.

    :param ranges: (start, end), sorted; they do not overlap, nor do those of ``beside``.
    """
    first, second = _into_lanes(ranges), _into_lanes(beside)
    starts = [start for start, _ in ranges]
    zero = bytes(_PIECE)
    for base, segment in image.segments():
        for at in range(0, len(segment) - 7, _PIECE):
            # With what lies around the border, so that no pair is cut.
            low = max(0, at - _NEAR * 8)
            piece = bytes(segment[low : at + _PIECE + 8])
            if piece == zero[: len(piece)]:
                continue
            wanted, near = _mask(piece, first), _mask(piece, second)
            if not wanted or not near:
                continue
            around = near >> 8
            for k in range(1, _NEAR + 1):
                around |= near << 8 * k
            for i, word in _marked(piece, wanted & around):
                address = base + low + 8 * i
                k = bisect_right(starts, word) - 1
                if k >= 0 and word < ranges[k][1] and base + at <= address < base + at + _PIECE:
                    yield address, word


def _into_lanes(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Return the bytes that an address in one of the ranges may have, by lane."""
    lanes = []
    for lane in (2, 3, 4, 5, 6, 7):
        seen: set[int] = set()
        for start, end in ranges:
            low, high = start >> 8 * lane, (end - 1) >> 8 * lane
            seen.update(byte & 255 for byte in range(low, min(high, low + 255) + 1))
        lanes.append((lane, bytes(b in seen for b in range(256))))
    return lanes


def _matches(
    piece: bytes, address: int, lanes: Sequence[tuple[int, bytes]], wanted: Collection[int]
) -> list[tuple[int, int]]:
    return [(address + 8 * i, word) for i, word in _candidates(piece, lanes) if word in wanted]


def _candidates(piece: bytes, lanes: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    """Yield (number, word) for each word that passes in every lane."""
    yield from _marked(piece, _mask(piece, lanes))


def _mask(piece: bytes, lanes: Sequence[tuple[int, bytes]]) -> int:
    """Return a number with a byte for each word: 1 for each that passes in every lane."""
    mask = -1
    for lane, table in lanes:
        mask &= int.from_bytes(piece[lane : len(piece) // 8 * 8 : 8].translate(table), "little")
        if not mask:
            break
    return mask


def _marked(piece: bytes, mask: int) -> Iterator[tuple[int, int]]:
    if not mask:
        return
    count = len(piece) // 8
    find = mask.to_bytes(count, "little").find
    words = array("Q", piece[: count * 8])
    if sys.byteorder == "big":
        words.byteswap()
    at = find(1)
    while at >= 0:
        yield at, words[at]
        at = find(1, at + 1)
