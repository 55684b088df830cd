"""Copying much memory
-------------------

A heap of gigabytes is mostly contents, not structures.  Pages of one and the same word all
over (zeros, a pattern), which is no pointer, hold nothing that a search would find, and
take no room in a copy; nor do pages that have no word below 2^48 (text, pictures, what is
compressed): pointers are, and the sizes of malloc's blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from .image import PAGE, Ranges
from .memory import BatchReader, Buffer, Buffers

__all__ = ["copied"]

Segments = list[tuple[int, memoryview]]

# Ranges as large as this are looked through, where there is more than a little in all.
_LARGE, _MUCH = 1 << 20, 64 << 20
_STEP = 1 << 20
# Beyond this much memory a copy of it would be a burden.
_COPY_MAX = 1 << 30
_WORDS = PAGE // 8


def copied(pid: int, ranges: Ranges, buffers: Buffers) -> tuple[Segments, int, int]:
    """Copy ranges of a process's memory.

    :param ranges: (address, size), lowest first.
    :param buffers: the copy is in one of them.
    :return: (address, bytes) of what is worth having, lowest first; how many reads it took; and
        how many bytes were too many.
    """
    many = sum(size for _, size in ranges) > _MUCH
    large = [row for row in ranges if many and row[1] >= _LARGE]
    small = [row for row in ranges if not (many and row[1] >= _LARGE)]
    held = sum(size for _, size in small)
    buffer = buffers.take(held)
    reader = BatchReader(pid, small, buffer)
    view = memoryview(buffer.memory)
    segments = [(start, view[at : at + size]) for start, at, size in reader.run()]
    calls, left_out = reader.calls, 0
    if large:
        thin = _Thin(pid)
        for start, size in sorted(large, key=lambda row: row[1]):
            for at in range(start, start + size, _STEP):
                part = min(_STEP, start + size - at)
                if held + thin.size + part > _COPY_MAX:
                    left_out += part
                else:
                    segments += thin.add(at, part)
        segments = _joined(sorted(segments, key=lambda row: row[0]))
        calls += thin.calls
    return segments, calls, left_out


class _Thin:
    """Copies without the pages that hold nothing that anybody looks for."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._step = Buffer(_STEP)
        self.size = self.calls = 0

    def add(self, start: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """Yield what is worth having of a range no larger than a step."""
        reader = BatchReader(self._pid, [(start, size)], self._step)
        for address, at, got in reader.run():
            data = memoryview(self._step.memory)[at : at + got]
            for first, count in _runs(data):
                kept = bytearray(data[first * PAGE : (first + count) * PAGE])
                self.size += len(kept)
                yield address + first * PAGE, memoryview(kept)
        self.calls += reader.calls


def _runs(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of the pages that may hold a pointer, or a block's size."""
    raw = bytes(data)
    high = int.from_bytes(raw[6::8], "little") | int.from_bytes(raw[7::8], "little")
    low = high.to_bytes(len(raw) // 8, "little")  # a zero for each word below 2^48
    words = data.cast("Q")
    ends = zip(words[::_WORDS].tolist(), words[_WORDS - 1 :: _WORDS].tolist())
    first = count = 0
    for page, (head, tail) in enumerate(ends):
        pointer = 0 < head >> 16 < 1 << 31
        alike = head == tail and not pointer
        if alike and raw[page * PAGE : (page + 1) * PAGE] == head.to_bytes(8, "little") * _WORDS:
            useless = True
        else:
            useless = 0 not in low[page * _WORDS : (page + 1) * _WORDS]
        if useless:
            if count:
                yield first, count
            count = 0
            continue
        first = first if count else page
        count += 1
    if count:
        yield first, count


def _joined(segments: Segments) -> Segments:
    """Join what touches, so that a structure lies in one segment."""
    out: Segments = []
    group: list[memoryview] = []
    start = end = 0
    for address, data in [*segments, (1 << 64, memoryview(b""))]:
        if group and (address != end or sum(map(len, group)) >= _STEP):
            out.append(
                (start, group[0] if len(group) == 1 else memoryview(bytearray().join(group)))
            )
            group = []
        if not group:
            start = address
        group.append(data)
        end = address + len(data)
    return out
