"""Much memory is copied without what holds no structures."""

from __future__ import annotations

import random
import struct

import pytest

from qmrinspect.target.image import PAGE
from qmrinspect.target.thin import _runs

pytestmark = pytest.mark.unit

POINTER, SIZE = 0x555555557780, 0x1021


def test_pages_without_a_pointer_or_a_size_are_left_out() -> None:
    chance = random.Random(4)
    text = (b"no pointer is made of letters. " * 200)[:PAGE]
    high = b"".join(struct.pack("<Q", 1 << 48 | chance.getrandbits(60)) for _ in range(PAGE // 8))
    pages, kept = [], set()
    for number in range(256):
        page = bytearray(chance.choice((text, high, bytes(PAGE), b"\x5a" * PAGE)))
        if chance.random() < 0.3:
            struct.pack_into(
                "<Q", page, 8 * chance.randrange(PAGE // 8), chance.choice((POINTER, SIZE))
            )
            kept.add(number)
        pages.append(bytes(page))
    found = {
        first + i
        for first, count in _runs(memoryview(bytearray(b"".join(pages))))
        for i in range(count)
    }
    assert found == kept


def test_what_is_the_same_pointer_all_over_is_kept() -> None:
    page = struct.pack("<Q", POINTER) * (PAGE // 8)
    assert list(_runs(memoryview(bytearray(page)))) == [(0, 1)]
