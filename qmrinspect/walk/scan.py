"""Scanning memory
---------------

Finding every word of the captured memory that has one of many values.  A plain
loop over the words of a QEMU takes a second; here each byte lane of all words is
looked up at once by :meth:`bytes.translate`, and only the words that pass in
every lane are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..target.image import Image

__all__ = ["find_pointer", "find_words"]

_CHUNK = 1 << 16


def find_words(image: Image, values: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for every aligned word of the image that is in ``values``."""
    wanted = frozenset(values)
    if not wanted:
        return
    packed = [value.to_bytes(8, "little") for value in wanted]
    # High lanes first: they tell a pointer into the heap from everything else.
    tables = []
    for lane in (5, 4, 3, 2, 1, 0):
        seen = {word[lane] for word in packed}
        tables.append((lane, bytes(1 if b in seen else 0 for b in range(256))))
    zero = bytes(_CHUNK)
    for start, segment in image.segments():
        for offset in range(0, len(segment) - 7, _CHUNK):
            chunk = bytes(segment[offset : offset + _CHUNK])
            # Half of a heap is pages of zeros.
            if chunk == zero[: len(chunk)]:
                continue
            count = len(chunk) // 8
            mask = -1
            for lane, table in tables:
                mask &= int.from_bytes(chunk[lane : count * 8 : 8].translate(table), "little")
                if not mask:
                    break
            if not mask:
                continue
            hits = mask.to_bytes(count, "little")
            at = hits.find(1)
            while at >= 0:
                word = int.from_bytes(chunk[at * 8 : at * 8 + 8], "little")
                if word in wanted:
                    yield start + offset + at * 8, word
                at = hits.find(1, at + 1)


def find_pointer(image: Image, target: int) -> Iterator[int]:
    """Yield the address of every aligned word that holds ``target``."""
    needle = target.to_bytes(8, "little")
    for start, segment in image.segments():
        data = bytes(segment)
        at = data.find(needle)
        while at >= 0:
            if (start + at) % 8 == 0:
                yield start + at
            at = data.find(needle, at + 1)
