"""Prediction
----------

A field lies between two anchors.  Where both moved by the same number of bytes from one
QEMU to another, so did what is between them; where they did not, there are two candidates.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .anchors import Anchors

__all__ = ["Anchor", "Guess", "anchors_between", "named", "predict"]

# An anchor so near behind a field says more than a far one before it, in bytes.
_NEAR = 16
# Between firm anchors that lie so close, nothing comes or goes unseen, in bytes.
_CLOSE = 32
# What is certain outvotes all names at an offset.
_CERTAIN = 1000


class Anchor(NamedTuple):
    """An offset in both QEMUs; a ``firm`` one is more than the end of a parent structure."""

    there: int
    here: int
    firm: bool


class Guess(NamedTuple):
    """Where a field is: candidates, best first, and what speaks for the first.

    :param evidence: ``named``, ``both`` or, with several candidates, empty.
    :param close: whether what is on both sides is firm and near.
    """

    offsets: Sequence[int]
    evidence: str
    close: bool = False


def anchors_between(
    there: Anchors,
    here: Anchors,
    name: str,
    below: Mapping[str, Sequence[str]],
    more: Iterable[tuple[int, int]] = (),
) -> list[Anchor]:
    """Return the anchors of a QOM type that two QEMUs share, in order in both.

    :param there: of a QEMU whose layout is known.
    :param here: of the one that is looked at.
    :param name: a type of both.
    :param below: the descendants of each type there; they name fields of their ancestors too.
    :param more: pairs of offsets, there and here, that are certain.
    """
    size, own = there.size(name), here.size(name)
    chain = [part for part in there.chain(name) if part in here.types]
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    firm: set[tuple[int, int]] = set()
    for first_offset, second_offset in more:
        votes[first_offset][second_offset] += _CERTAIN
        firm.add((first_offset, second_offset))
    for part in (*chain, *(other for other in below.get(name, ()) if other in here.types)):
        first, second = there.types[part].offsets, here.types[part].offsets
        for anchor in first.keys() & second.keys():
            if first[anchor] < size and second[anchor] < own:
                votes[first[anchor]][second[anchor]] += 1
                firm.add((first[anchor], second[anchor]))
    for part in chain:
        if there.size(part) and here.size(part):
            votes[there.size(part)][here.size(part)] += 1
    rows = [Anchor(0, 0, False)]
    for offset, found in sorted(votes.items()):
        best, count = found.most_common(1)[0]
        if count * 2 > sum(found.values()):
            rows.append(Anchor(offset, best, (offset, best) in firm))
    return _in_order(rows)


def _in_order(rows: Sequence[Anchor]) -> list[Anchor]:
    """Return the longest part of the anchors whose order is the same in both QEMUs."""
    length, before = [1] * len(rows), [-1] * len(rows)
    for i, row in enumerate(rows):
        for j in range(i):
            if rows[j].here <= row.here and length[j] >= length[i]:
                length[i], before[i] = length[j] + 1, j
    out = []
    i = max(range(len(rows)), key=length.__getitem__)
    while i >= 0:
        out.append(rows[i])
        i = before[i]
    return out[::-1]


def named(there: Anchors, here: Anchors, name: str, field: str, offset: int) -> int | None:
    """Return the offset that a type's own tables give to a field by the same name in both.

    :param offset: of the field there; where several names share it, this one is the field's.
    """
    if name not in here.types:
        return None
    first, second = there.types[name].offsets, here.types[name].offsets
    found = {
        second[anchor]
        for anchor in first.keys() & second.keys()
        if first[anchor] == offset and re.split(r"[.:]", anchor)[-1] == field
    }
    return found.pop() if len(found) == 1 else None


def predict(anchors: Sequence[Anchor], offset: int) -> Guess:
    """Say where the field at an offset of the known QEMU is in the other one."""
    i = bisect_right(anchors, (offset, 1 << 62, True)) - 1
    left = anchors[i]
    shifted = offset + left.here - left.there
    if left.there == offset and left.firm:
        return Guess((left.here,), "named")
    if i + 1 == len(anchors):
        return Guess((shifted,), "")
    right = anchors[i + 1]
    other = offset + right.here - right.there
    if shifted == other:
        close = left.firm and right.firm and right.there - left.there <= _CLOSE
        return Guess((shifted,), "both", close)
    near = right.firm and right.there - offset <= _NEAR
    if near and offset - left.there > 4 * (right.there - offset):
        return Guess((other, shifted), "")
    return Guess((shifted, other), "")
