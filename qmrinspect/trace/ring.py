"""The rings that samples come in
------------------------------

One for each processor, shared with the kernel, as perf_event_open(2) says.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

__all__ = ["RING_MIN", "Ring", "RingTooLarge", "processors", "ring_size"]

_PAGE = mmap.PAGESIZE
#: A ring that is smaller is of no use; bytes.
RING_MIN = 128 << 10
# The largest ring, and all rings together.
_RING_MAX, _RINGS_MAX = 64 << 20, 256 << 20
_HEAD, _TAIL = 1024, 1032  # in the first page of a ring
_WORD = struct.Struct("<Q")
_PAIR = struct.Struct("<QQ")


class Ring:
    """One processor's ring of samples."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        self._map = mmap.mmap(fd, _PAGE + size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def drain(self) -> bytes:
        """Take what is there."""
        head, tail = _PAIR.unpack_from(self._map, _HEAD)
        length = head - tail
        if not 0 < length <= self._size:
            return b""
        first = _PAGE + tail % self._size
        last = first + length
        data = self._map[first : min(last, _PAGE + self._size)]
        if last > _PAGE + self._size:
            data += self._map[_PAGE : last - self._size]
        _WORD.pack_into(self._map, _TAIL, head)
        return data

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()


class RingTooLarge(Exception):
    """The kernel does not lock so much memory for the rings of all processors."""


def processors() -> list[int]:
    """Return the processors that are online."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text()
    except OSError:
        return list(range(os.cpu_count() or 1))
    out: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def ring_size(processors: int) -> int:
    """Return how large the ring of each processor is, in bytes."""
    size = _RING_MAX
    while size * processors > _RINGS_MAX and size > RING_MIN:
        size //= 2
    return size
