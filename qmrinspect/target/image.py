"""Images
------

The bytes of a process as they were at one instant.  An image never changes and
never touches the process again: a stop lasts as long as filling it, and all the
decoding that follows is free of races.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Callable, Protocol

from ..tuples import NamedTuple
from .elf import ElfFile

__all__ = [
    "PAGE",
    "Capture",
    "Image",
    "Mapping",
    "Peek",
    "Ranges",
    "Target",
    "Unreadable",
    "without",
]

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")

PAGE = 4096
_ZEROS = bytes(PAGE)
_PIECE = 1 << 16  # compared at once
_LACKING_MAX = 64  # pages of one read
_numbers = count(1)
#: (address, size) pairs.
Ranges = list[tuple[int, int]]
#: Reads memory of a target: address and size to exactly these bytes, None where there are none.
Peek = Callable[[int, int], "bytes | None"]

# A C string in QEMU that is longer than this is not a name.
_STRING_MAX = 64 * 1024


class Unreadable(Exception):
    """The image holds no bytes at an address.  ``args`` is (address, size)."""


class Mapping(NamedTuple):
    """One mapping of a process: ``start`` to ``end``, its rights, and the file behind it."""

    start: int
    end: int
    perms: str
    offset: int
    path: str


class Capture(NamedTuple):
    """What a reading cost.  Times in microseconds, sizes in bytes.

    :param stop_us: the longest time that the target stood still.
    :param retries: looks at moments that were not quiet.
    :param way: what was read while it stood: ``whole``, all its memory; ``pages``, those that
        the walk read; ``hot``, those of them that change.
    :param stops: how often it stood.
    :param pages: read in the last stop, 4096 bytes each.
    :param at_us: when it was read, since 1970; 0 in older files.
    """

    stop_us: int
    wall_us: int
    reads: int
    bytes: int
    retries: int
    quiescent: bool
    way: str = "whole"
    stops: int = 1
    pages: int = 0
    at_us: int = 0


class Image:
    """Segments of memory with typed access.

    :param segments: (address, bytes) pairs that do not overlap.
    :param static: reads memory that never changes (program text, constants) on
        demand; returns None where there is none.
    :param absent: (address, size), lowest first, of pages that were never touched: zeros.
    :param writable: (address, size), lowest first, of what may change and is therefore never
        read on demand.

    :ivar given: numbers of the captured pages of which something was read.
    :ivar missing: numbers of writable pages that were asked for and not captured.
    :ivar mappings: of the process at that instant, lowest first; empty where nobody asked.
    :ivar number: tells it from all other images.
    :ivar since: the image that it was compared with, ``since_number`` that one's number, and
        ``changed`` the numbers of the pages that differ.
    :ivar stacks: the stack pointers of its threads, 0 for one that is not known; None where
        none is.
    """

    def __init__(
        self,
        segments: Iterable[tuple[int, bytes | bytearray | memoryview]],
        static: Peek | None = None,
        absent: Ranges | None = None,
        writable: Ranges | None = None,
    ) -> None:
        # A list of mappings that changed while it was read may have one of them twice.
        rows = ((a, memoryview(d)) for a, d in segments if len(d))
        self._segments = sorted(rows, key=lambda row: row[0])
        self._starts = [a for a, _ in self._segments]
        self._static = static
        self._static_pages: dict[int, bytes | None] = {}
        self._absent, self._writable = absent or [], writable or []
        self._last = (0, 0, memoryview(b""))
        self.given: set[int] = set()
        self.empty: set[int] = set()
        self.missing: set[int] = set()
        self.left_out = 0
        self.scope: set[int] | None = None
        self.number = next(_numbers)
        self.since: Image | None = None
        self.since_number = 0
        self.changed: set[int] = set()
        self.mappings: list[Mapping] = []
        self.stacks: list[int] | None = None

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(len(d) for _, d in self._segments)

    def compare(self, since: Image) -> None:
        """Find out what has changed since another image of the same process."""
        self.since, self.since_number = since, since.number
        ranges = [(start, len(data)) for start, data in self._segments]
        before = [(start, len(data)) for start, data in since._segments]
        self.changed = self.differing(since, ranges)
        for start, size in without(before, ranges):
            self.changed.update(range(start // PAGE, (start + size) // PAGE))

    def differing(self, other: Image, ranges: Ranges) -> set[int]:
        """Return the numbers of the pages in some ranges that another image has otherwise.

        What only one of the two holds differs, what neither holds does not.
        """
        out: set[int] = set()
        for start, size in ranges:
            for at in range(start, start + size, _PIECE):
                part = min(_PIECE, start + size - at)
                mine = self.held(at, part)
                if mine is not None and mine == other.held(at, part):
                    continue
                for page in range(at // PAGE, (at + part) // PAGE):
                    if self.held(page * PAGE, PAGE) != other.held(page * PAGE, PAGE):
                        out.add(page)
        return out

    def held(self, address: int, size: int) -> bytes | None:
        """Return what one segment holds, and take no note of it."""
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        start, data = self._segments[i]
        if address + size > start + len(data):
            return None
        return bytes(data[address - start : address - start + size])

    def holds(self, page: int) -> bool:
        """Whether the page of that number was captured."""
        i = bisect_right(self._starts, page * PAGE) - 1
        return i >= 0 and page * PAGE < self._starts[i] + len(self._segments[i][1])

    def lacks(self, page: int) -> bool:
        """Whether the page of that number may change, and was neither captured nor untouched."""
        at = page * PAGE
        return (
            _within(self._writable, at) and not _within(self._absent, at) and not self.holds(page)
        )

    def segments(self) -> Iterator[tuple[int, memoryview]]:
        """Yield (address, bytes) of what was captured, in order."""
        yield from self._segments

    def _find(self, address: int, size: int) -> tuple[memoryview, int] | None:
        start, end, data = self._last
        if address < start or address + size > end:
            i = bisect_right(self._starts, address) - 1
            if i < 0:
                return None
            start, data = self._segments[i]
            end = start + len(data)
            if address + size > end:
                return None
            self._last = (start, end, data)
        self.given.add(address >> 12)
        if address & 0xFFF > PAGE - size:
            self.given.update(range((address >> 12) + 1, (address + size + 0xFFF) >> 12))
        return data, address - start

    def give(self, address: int) -> None:
        """Take note that what was found at an address, by a scan, is used."""
        self.given.add(address >> 12)

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes at ``address``.

        :raises Unreadable: when any of them is not there.
        """
        hit = self._find(address, size)
        if hit is not None:
            data, offset = hit
            return bytes(data[offset : offset + size])
        if not 0 < address < 1 << 47 or size < 0:
            raise Unreadable(address, size)
        return self._read_pages(address, size)

    def _read_pages(self, address: int, size: int) -> bytes:
        # Segments that touch each other, and constants, are put together by page.
        out = bytearray()
        at, end = address, address + size
        lacking = 0
        while at < end:
            part = min(end, (at // PAGE + 1) * PAGE) - at
            hit = self._find(at, part)
            page = None if hit is not None else self._static_page(at // PAGE * PAGE)
            if hit is not None:
                out += hit[0][hit[1] : hit[1] + part]
            elif page is not None:
                out += page[at % PAGE : at % PAGE + part]
            else:
                # What else is missing is to be known at once.
                lacking += 1
                if lacking == _LACKING_MAX:
                    break
            at += part
        if lacking:
            raise Unreadable(address, size)
        return bytes(out)

    def _static_page(self, page: int) -> bytes | None:
        if page not in self._static_pages:
            self._static_pages[page] = self._on_demand(page)
        return self._static_pages[page]

    def _on_demand(self, page: int) -> bytes | None:
        if _within(self._absent, page):
            self.empty.add(page >> 12)
            return _ZEROS
        if _within(self._writable, page):
            self.missing.add(page >> 12)
            return None
        data = self._static(page, PAGE) if self._static else None
        if data is None:
            self.empty.add(page >> 12)
        return data

    def u64(self, address: int) -> int:
        """Return the ``uint64_t`` or pointer at ``address``."""
        hit = self._find(address, 8)
        if hit is not None:
            return int(_U64.unpack_from(*hit)[0])
        return int(_U64.unpack(self.read(address, 8))[0])

    def u32(self, address: int) -> int:
        """Return the ``uint32_t`` at ``address``."""
        hit = self._find(address, 4)
        if hit is not None:
            return int(_U32.unpack_from(*hit)[0])
        return int(_U32.unpack(self.read(address, 4))[0])

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return ``count`` consecutive 64-bit words.

        :raises Unreadable: when one of them is not there, or the count is negative: it is
            often the difference of two words of the VM.
        """
        if count < 0:
            raise Unreadable(address, 8 * count)
        return struct.unpack(f"<{count}Q", self.read(address, 8 * count))

    def string(self, address: int, limit: int = _STRING_MAX) -> str:
        """Return the C string at ``address``, undecodable bytes escaped.

        :raises Unreadable: when no terminator comes within ``limit`` bytes.
        """
        out = bytearray()
        while len(out) < limit:
            at = address + len(out)
            part = min(PAGE - at % PAGE, 64 if not out else PAGE)
            chunk = self.read(at, part)
            end = chunk.find(b"\0")
            if end >= 0:
                out += chunk[:end]
                return out.decode("utf-8", "backslashreplace")
            out += chunk
        raise Unreadable(address, limit)


def _within(ranges: Ranges, address: int) -> bool:
    i = bisect_right(ranges, (address, 1 << 64)) - 1
    return i >= 0 and address < ranges[i][0] + ranges[i][1]


def without(ranges: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]) -> Ranges:
    """Return what of some ranges is in none of others.

    :param ranges: (address, size), lowest first, that do not overlap.
    :param holes: the same.
    """
    out: Ranges = []
    todo = iter(holes)
    hole = next(todo, None)
    for start, size in ranges:
        at, end = start, start + size
        while hole is not None and hole[0] + hole[1] <= at:
            hole = next(todo, None)
        while hole is not None and hole[0] < end:
            if hole[0] > at:
                out.append((at, hole[0] - at))
            at = max(at, hole[0] + hole[1])
            if at >= end:
                break
            hole = next(todo, None)
        if at < end:
            out.append((at, end - at))
    return out


class Target(Protocol):
    """A place that an image can be taken from.

    :ivar symbol_files: what a debugger has loaded symbols of the program from.
    """

    kind: str
    pid: int
    exe: str
    argv: list[str]
    symbol_files: tuple[str, ...]

    def elf(self) -> ElfFile:
        """Return the ELF file of the program."""

    def base(self) -> int:
        """Return the load address of the program."""

    def program(self) -> str:
        """Return a path under which the program's file can be opened."""

    def mappings(self) -> list[Mapping]:
        """Return the mappings, lowest first."""

    def peek(self, address: int, size: int) -> bytes | None:
        """Read memory without a stop; only what cannot change may be read so."""

    def capture(self, ranges: Ranges) -> tuple[Image, Capture]:
        """Read all (address, size) ranges at one instant.

        Ranges that cannot be read are left out.  The target runs on afterwards,
        whatever happens.
        """

    def close(self) -> None:
        """Release the target."""
