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
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from ..target.image import PAGE, Image

__all__ = ["Beside", "Found", "aligned", "find_into", "find_words"]

_PIECE = 1 << 16
#: Sorted (start, end) that do not overlap.
Ranges = Sequence[tuple[int, int]]

_ZEROS = bytes(_PIECE)
# The bytes that tell words from each other, the most telling first: the fourth tells what is
# near from other pointers, the next below a few values from each other.
_LANES = (3, 2, 1, 5)
_LANE_FULL = 128
_NEAR = 7
# A word and its address as one number, which sorts fast.
_ADDRESS = 64
_MASK = (1 << _ADDRESS) - 1
# A word that was wanted in none of so many images is not searched for any more.
_AGE_MAX = 8


class Found:
    """Where words are in an image, for all who ask, and for what the next image has as well."""

    def __init__(self) -> None:
        self._image: Image | None = None
        self._number = 0  # of the image
        self._sought: dict[int, int] = {}  # word to the number of the image that it was wanted in
        self._soon: set[int] = set()
        self._pieces: dict[int, tuple[memoryview, Sequence[tuple[int, int]], bool]] = {}
        self._places: dict[int, set[int]] = {}

    def expect(self, values: Iterable[int]) -> None:
        """Search for some words as well when memory is gone through the next time."""
        self._soon.update(values)

    def find(self, image: Image, wanted: Collection[int]) -> list[tuple[int, int]]:
        """Return (address, word) of every word that is wanted, lowest first."""
        if image is not self._image:
            self._number += 1
            self._forget()
        new = {value for value in wanted if value not in self._sought}
        if new or image is not self._image:
            new.update(value for value in self._soon if value not in self._sought)
            self._soon = set()
            try:
                self._update(image, new)
            except BaseException:
                # Ctrl-C inside GDB, say: what is half up to date is worth nothing.
                self._image, self._sought = None, {}
                self._pieces, self._places = {}, {}
                raise
            self._image = image
        self._sought.update(dict.fromkeys(wanted, self._number))
        places = self._places
        return sorted((at, word) for word in wanted for at in places.get(word, ()))

    def _forget(self) -> None:
        """What goes may come again, but not forever."""
        oldest = self._number - _AGE_MAX
        for word in [word for word, number in self._sought.items() if number < oldest]:
            del self._sought[word]
            self._places.pop(word, None)

    def _update(self, image: Image, new: Collection[int]) -> None:
        """Search the pieces that changed for all words, and the others for the new ones."""
        every = {*self._sought, *new}
        of_all, of_new = (_lanes(every), every), (_lanes(new), new)
        kept = self._image is image
        since = kept or (self._image is not None and self._image is image.since)
        changed = set() if kept else {page * PAGE // _PIECE for page in image.changed}
        pieces = list(_pieces_of(image))
        same: dict[int, tuple[memoryview, Sequence[tuple[int, int]], bool]] = {}
        for address, view in pieces:
            last = self._pieces.get(address)
            if last is None or len(last[0]) != len(view):
                continue
            unchanged = since and address // _PIECE not in changed
            if unchanged or bytes(last[0]) == bytes(view):
                same[address] = last
        # What is no more goes first: a piece that is cut otherwise finds some of it again.
        for address in self._pieces.keys() - same.keys():
            for at, word in self._pieces[address][1]:
                if word in self._places:
                    self._places[word].discard(at)
        self._pieces = {}
        for address, view in pieces:
            _, hits, empty = same.get(address, (view, (), False))
            if address not in same or (new and not empty):
                piece = bytes(view)
                # Half of a heap is pages of zeros.
                empty = piece == _ZEROS[: len(piece)]
                lanes, words = of_new if address in same else of_all
                marked = [] if empty else _marked(piece, _mask(piece, lanes), words)
                found = [(address + 8 * i, word) for i, word in marked]
                for at, word in found:
                    self._places.setdefault(word, set()).add(at)
                hits = [*hits, *found] if hits else found
            self._pieces[address] = view, hits, empty
        self._sought.update(dict.fromkeys(new, self._number))


def _pieces_of(image: Image) -> Iterator[tuple[int, memoryview]]:
    """Yield (address, bytes); the borders stay where they are when a segment begins elsewhere."""
    for start, segment in image.segments():
        at = 0
        while at < len(segment) - 7:
            end = at + _PIECE - (start + at) % _PIECE
            yield start + at, segment[at:end]
            at = end


def find_words(
    image: Image,
    values: Collection[int],
    found: Found | None = None,
    useless: Ranges = (),
) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for every aligned word of the image that is in ``values``.

    :param found: what earlier searches found; it is brought up to date.
    :param useless: (start, end) of memory in which a word is nothing that is searched for.
    """
    wanted = frozenset(values)
    hits = (found or Found()).find(image, wanted) if wanted else []
    if useless:
        starts = [start for start, _ in useless]
        hits = [hit for hit in hits if not _is_in(useless, starts, hit[0])]
    if image.scope is not None:
        hits = [hit for hit in hits if hit[0] // PAGE in image.scope]
    for hit in hits:
        image.give(hit[0])
        yield hit


def find_into(
    image: Image, ranges: Ranges, within: tuple[int, int] = (0, 1 << _ADDRESS)
) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for every aligned word that points into a range.

    :param ranges: (start, end), sorted; they do not overlap.
    :param within: the addresses that are looked at, from and up to.
    """
    starts = [start for start, _ in ranges]
    lanes = _into_lanes(ranges)
    low, high = within[0] & ~7, within[1]
    for base, segment in image.segments():
        if low > base or high < base + len(segment):
            segment = segment[max(0, low - base) : max(0, high - base)]
            base = max(base, low)
        for at in range(0, len(segment) - 7, _PIECE):
            piece = bytes(segment[at : at + _PIECE])
            if piece == _ZEROS[: len(piece)]:
                continue
            for i, word in _marked(piece, _mask(piece, lanes)):
                if _is_in(ranges, starts, word):
                    yield base + at + 8 * i, word


def aligned(data: bytes, value: int) -> Iterator[int]:
    """Yield where in some bytes an aligned word has a value, which is not 0."""
    word = value.to_bytes(8, "little")
    # Without the zeros at its end, which are most of all memory, it is found fast.
    head = word.rstrip(b"\0")
    at = data.find(head)
    while at >= 0:
        if not at % 8 and data[at : at + 8] == word:
            yield at
        at = data.find(head, at + 1)


class Beside:
    """Words into some ranges that have one into others near them.

    Near is up to seven words before, or one behind.  What one image has is kept for the next.
    """

    def __init__(self) -> None:
        self._number = 0  # of the image
        self._sought: tuple[Ranges, Ranges] = ((), ())
        self._pieces: dict[int, tuple[memoryview, Sequence[int]]] = {}
        self._sorted: Sequence[int] | None = None

    def find(
        self, image: Image, ranges: Ranges, beside: Ranges, wanted: Ranges
    ) -> list[tuple[int, int]]:
        """Return (address, word), lowest first, of the words into what is wanted.

        :param ranges: (start, end), sorted, that all of ``wanted`` is in; what is found for them
            is kept.  They do not overlap, nor do those of ``beside`` and ``wanted``.
        """
        self._update(image, ranges, beside)
        if self._sorted is None:
            self._sorted = sorted(chain.from_iterable(hits for _, hits in self._pieces.values()))
        found = self._sorted
        hits = (hit for one in wanted for hit in found[_of(found, *one)])
        return sorted((hit & _MASK, hit >> _ADDRESS) for hit in hits)

    def _update(self, image: Image, ranges: Ranges, beside: Ranges) -> None:
        sought = tuple(ranges), tuple(beside)
        before = self._pieces if sought == self._sought else {}
        same = self._number == image.number
        since = same or self._number == image.since_number
        # With what lies around the border, so that no pair is cut.
        changed = set() if same else set(_touched(image.changed))
        self._number, self._sought, self._pieces = image.number, sought, {}
        unchanged = 0
        # Of two words one lane each is enough.
        lanes = _into_lanes(ranges, 1), _into_lanes(beside, 1)
        for base, segment in image.segments():
            for at in range(0, len(segment) - 7, _PIECE):
                address = base + at
                low = max(0, at - _NEAR * 8)
                view = segment[low : at + _PIECE + 8]
                last = before.get(address)
                kept = last is not None and len(last[0]) == len(view)
                numbers = range(address // _PIECE, (address + _PIECE - 1) // _PIECE + 1)
                if last is not None and kept and not (since and changed.isdisjoint(numbers)):
                    kept = bytes(last[0]) == bytes(view)
                if last is not None and kept:
                    hits = last[1]
                    unchanged += 1
                else:
                    pairs = _pairs(bytes(view), *lanes)
                    first, end = (at - low) // 8, (at - low + _PIECE) // 8
                    ours = slice(bisect_left(pairs, (first,)), bisect_left(pairs, (end,)))
                    start = base + low
                    hits = sorted([w << _ADDRESS | start + 8 * i for i, w in pairs[ours]])
                self._pieces[address] = view, hits
        if not unchanged == len(before) == len(self._pieces):
            self._sorted = None


def _of(found: Sequence[int], start: int, end: int) -> slice:
    """Return where in what was found, sorted, the words from ``start`` to ``end`` are."""
    return slice(bisect_left(found, start << _ADDRESS), bisect_left(found, end << _ADDRESS))


def _touched(pages: Iterable[int]) -> Iterator[int]:
    """Yield the numbers of the pieces that have, or border on, some pages."""
    for page in pages:
        for at in (page * PAGE - 8, page * PAGE, (page + 1) * PAGE + _NEAR * 8):
            yield at // _PIECE


def _is_in(ranges: Ranges, starts: Sequence[int], word: int) -> bool:
    k = bisect_right(starts, word) - 1
    return k >= 0 and word < ranges[k][1]


def _pairs(
    piece: bytes, lanes: Sequence[tuple[int, bytes]], beside: Sequence[tuple[int, bytes]]
) -> list[tuple[int, int]]:
    """Return (number, word) for each word that passes, and has one beside it that does."""
    if piece == _ZEROS[: len(piece)]:
        return []
    # Few pieces have addresses of code.
    near = _mask(piece, beside)
    wanted = _mask(piece, lanes) if near else 0
    # The seven words behind each, by doubling, and the one before.
    behind = near | near << 8
    behind |= behind << 16
    behind |= behind << 24
    return _marked(piece, wanted & (behind << 8 | near >> 8))


def _lanes(words: Collection[int]) -> list[tuple[int, bytes]]:
    """Return the bytes that one of the words may have, by lane."""
    packed = [word.to_bytes(8, "little") for word in words]
    return _telling({lane: {word[lane] for word in packed} for lane in _LANES})


def _into_lanes(ranges: Ranges, least: int = 2) -> list[tuple[int, bytes]]:
    """Return the bytes that an address in one of the ranges may have, by lane.

    :param least: so many lanes are enough.
    """
    lanes: dict[int, set[int]] = {lane: set() for lane in _LANES}
    for lane, seen in lanes.items():
        for start, end in ranges:
            low, high = start >> 8 * lane, (end - 1) >> 8 * lane
            first, end = low & 255, (low & 255) + min(high - low, 255) + 1
            seen.update(range(first, min(end, 256)), range(end - 256))
    return _telling(lanes, least)


def _telling(lanes: Mapping[int, Collection[int]], least: int = 2) -> list[tuple[int, bytes]]:
    """Leave out the lanes that tell little; each costs as much as a hundred words looked at.

    One in which most bytes may be tells nothing.  The last tells pointers from all else, where
    few others do, or none tells zeros.
    """
    *others, last = lanes
    kept = [lane for lane in others if len(lanes[lane]) < _LANE_FULL]
    if len(kept) < least or all(0 in lanes[lane] for lane in kept):
        kept.append(last)
    return [(lane, bytes(b in lanes[lane] for b in range(256))) for lane in kept]


def _mask(piece: bytes, lanes: Sequence[tuple[int, bytes]]) -> int:
    """Return a number with a byte for each word: 1 for each that passes in every lane."""
    mask = -1
    for lane, table in lanes:
        passed = piece[lane : len(piece) // 8 * 8 : 8].translate(table)
        # Most pieces end here; to make a number of them takes as long as all else.
        mask &= int.from_bytes(passed, "little") if 1 in passed else 0
        if not mask:
            break
    return mask


def _marked(piece: bytes, mask: int, wanted: Container[int] | None = None) -> list[tuple[int, int]]:
    """Return (number, word) for each word that a mask has, of those that are wanted."""
    out: list[tuple[int, int]] = []
    if not mask:
        return out
    count = len(piece) // 8
    find = mask.to_bytes(count, "little").find
    words = array("Q", piece[: count * 8])
    if sys.byteorder == "big":
        words.byteswap()
    at = find(1)
    while at >= 0:
        word = words[at]
        if wanted is None or word in wanted:
            out.append((at, word))
        at = find(1, at + 1)
    return out
