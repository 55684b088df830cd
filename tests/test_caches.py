"""What is in the cache of a thread, and what only looks like one."""

from __future__ import annotations

import pytest

from qmrinspect.heap.chunks import HEADER, Chunks
from qmrinspect.heap.free import _CACHES, _cached, _check_refused, _plain
from qmrinspect.target.image import Image
from qmrinspect.target.words import NotKnown, Words

pytestmark = pytest.mark.unit


def test_a_ring_of_live_blocks_is_in_no_cache() -> None:
    start, one, two = 0x550000000000, 0x550000000310, 0x550000000330  # what malloc returned
    memory = bytearray(0x400)
    for at, word in ((start + HEADER + _CACHES[1].lists, one), (one, two), (two, one)):
        memory[at - start : at - start + 8] = word.to_bytes(8, "little")
    chunks = Chunks()
    chunks.starts, chunks.sizes = [start, one - HEADER, two - HEADER], [0x300, 0x20, 0x20]
    words = Words(Image([(start, bytes(memory))]))
    assert _cached(words, chunks, _CACHES[1], 0, _plain) == ([one, *[0] * 75], {})


@pytest.mark.parametrize(("keyed", "changing"), [(1, False), (2, True), (3, True)])
def test_what_a_thread_left_behind_is_no_cache_that_is_being_changed(
    keyed: int, changing: bool
) -> None:
    key, start = 0x1234567890ABCDEF, 0x550000000010
    memory = bytearray(0x100)
    chunks = Chunks()
    for number in range(3):
        chunks.starts.append(start - HEADER + 0x20 * number)
        chunks.sizes.append(0x20)
        chunks.live.append(1)
        if number < keyed:
            memory[0x20 * number + 24 : 0x20 * number + 32] = key.to_bytes(8, "little")
    # The other lists are of larger blocks, so that each is one of a cache alone.
    for number, size in enumerate(chunks.sizes):
        chunks.sizes[number] = size + 16 * number
    heads = [at + HEADER for at in chunks.starts]
    words = Words(Image([(start - HEADER, bytes(memory))]))
    if changing:
        with pytest.raises(NotKnown, match="is being changed"):
            _check_refused(words, chunks, [heads], {key})
    else:
        _check_refused(words, chunks, [heads], {key})


def test_memory_that_was_read_twice_is_there_once() -> None:
    """The kernel gives its list of mappings in pieces, and one may move between two."""
    start, data = 0x550000000000, bytes(range(16))
    image = Image([(start, data), (start, data)])
    assert image.read(start, 16) == data
