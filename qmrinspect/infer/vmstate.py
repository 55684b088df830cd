"""Migration tables
----------------

``DeviceClass.vmsd`` leads to constant tables that name fields of a device's structure
with their offsets (include/migration/vmstate.h).  Both structures of these tables have
changed their own layout; which one a QEMU has is voted for by its tables.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..target.image import Image, Unreadable
from .core import FilePages

__all__ = ["Tables", "VmField"]

# (bytes from one VMStateField to the next, index of the word that has the offset): 104 and 2
# up to 10.2, 96 and 1 since 11.0 without err_hint.
_SHAPES = ((104, 2), (96, 1), (112, 2), (112, 3), (88, 1))
_DESCRIPTION_WORDS = 22
_FIELDS_MAX = 400
_SUBSECTIONS_MAX = 24
_OFFSET_MAX = 1 << 24
_NESTED_MAX = 5
_VOTERS = 120
_NAME_MAX = 128
# enum VMStateFlags
_VMS_POINTER, _VMS_STRUCT = 2, 8


class VmField(NamedTuple):
    """A field of a structure: its name, with those of what it is nested in, and its offset."""

    name: str
    offset: int


class _Row(NamedTuple):
    name: str
    words: tuple[int, ...]


class Tables:
    """The migration tables of a process.

    :param image: with the program's constants.
    :param pages: where constants can be.
    :param candidates: addresses of which some are a ``VMStateDescription``.
    """

    def __init__(self, image: Image, pages: FilePages, candidates: Iterable[int]) -> None:
        self._image, self._pages = image, pages
        self._names: dict[int, str] = {}
        self._arrays: dict[int, tuple[_Row, ...]] = {}
        self._stride, self._at_offset = _SHAPES[0]
        described = [address for address in sorted(set(candidates)) if self._described(address)]
        self._at_fields = self._calibrate(described)
        self._at_nested = self._nested_word(described) if self._at_fields else 0
        #: The addresses that are one.
        self.known = frozenset(a for a in described if self._at_fields and self._rows(a))

    def name(self, address: int) -> str:
        """Return the constant text at an address, empty where there is none."""
        if address not in self._names:
            text = ""
            if address in self._pages:
                try:
                    text = self._image.string(address, _NAME_MAX)
                except Unreadable:
                    text = ""
            self._names[address] = text if text.isprintable() and text.isascii() else ""
        return self._names[address]

    def fields(self, address: int, size: int) -> Iterator[VmField]:
        """Yield the fields that a ``VMStateDescription`` names.

        :param size: of the structure, bytes; what lies behind it is left out.
        """
        yield from self._flat(address, "", 0, size, 0)

    def _flat(
        self, address: int, prefix: str, base: int, size: int, depth: int
    ) -> Iterator[VmField]:
        for row in self._rows(address):
            offset = base + row.words[self._at_offset]
            if offset < size:
                yield VmField(prefix + row.name, offset)
            if depth < _NESTED_MAX and self._at_nested:
                flags = row.words[self._at_nested - 1]
                nested = row.words[self._at_nested]
                if flags & _VMS_STRUCT and not flags & _VMS_POINTER and nested in self._pages:
                    inner = f"{prefix}{row.name}."
                    yield from self._flat(nested, inner, offset, size, depth + 1)
        if depth < _NESTED_MAX:
            for section in self._subsections(address):
                yield from self._flat(section, prefix + "/", base, size, depth + 1)

    def _subsections(self, address: int) -> list[int]:
        out: list[int] = []
        try:
            (array,) = self._image.words(address + 8 * (self._at_fields + 1), 1)
            if array & 7 or array not in self._pages:
                return out
            for i in range(_SUBSECTIONS_MAX):
                section = self._image.u64(array + 8 * i)
                if section not in self._pages:
                    return out
                out.append(section)
        except Unreadable:
            pass
        return out

    def _described(self, address: int) -> bool:
        try:
            return bool(self.name(self._image.u64(address)))
        except Unreadable:
            return False

    def _rows(self, address: int) -> tuple[_Row, ...]:
        try:
            array = self._image.u64(address + 8 * self._at_fields)
        except Unreadable:
            return ()
        if array not in self._arrays:
            in_pages = array and not array & 7 and array in self._pages
            self._arrays[array] = (
                self._array(array, self._stride, self._at_offset) if in_pages else ()
            )
        return self._arrays[array]

    def _array(self, array: int, stride: int, at_offset: int) -> tuple[_Row, ...]:
        """Return the fields of an array, none when it is no such array."""
        out: list[_Row] = []
        unpack = struct.Struct(f"<{stride // 8}Q").unpack
        try:
            for i in range(_FIELDS_MAX):
                words = unpack(self._image.read(array + stride * i, stride))
                if not words[0]:
                    return tuple(out)
                name = self.name(words[0])
                if (
                    not name
                    or words[at_offset] >= _OFFSET_MAX
                    or words[at_offset + 1] >= _OFFSET_MAX
                ):
                    return ()
                out.append(_Row(name, words))
        except Unreadable:
            pass
        return ()

    def _calibrate(self, described: list[int]) -> int:
        """Let tables vote for the layout of both structures; return the index of ``fields``."""
        votes: Counter[tuple[int, int, int]] = Counter()
        step = max(1, len(described) // _VOTERS)
        for address in described[::step]:
            try:
                words = self._image.words(address, _DESCRIPTION_WORDS)
            except Unreadable:
                continue
            for i in range(2, _DESCRIPTION_WORDS):
                if words[i] & 7 or words[i] not in self._pages:
                    continue
                for stride, at_offset in _SHAPES:
                    rows = self._array(words[i], stride, at_offset)
                    offsets = [row.words[at_offset] for row in rows]
                    if len(rows) > 2 and len(set(offsets)) * 2 > len(rows):
                        votes[i, stride, at_offset] += 1
        if not votes:
            return 0
        (index, self._stride, self._at_offset), _ = votes.most_common(1)[0]
        return index

    def _nested_word(self, described: list[int]) -> int:
        """Return the index of ``VMStateField.vmsd``, the word behind the flags."""
        votes: Counter[int] = Counter()
        for address in described:
            for row in self._rows(address):
                for i in range(self._at_offset + 2, len(row.words)):
                    flags, nested = row.words[i - 1], row.words[i]
                    if flags & _VMS_STRUCT and flags < 1 << 20 and nested in self._pages:
                        votes[i] += self._described(nested)
        return votes.most_common(1)[0][0] if votes else 0


def descriptions(words: Mapping[str, tuple[int, ...]], pages: FilePages) -> set[int]:
    """Return which words of classes may point to a ``VMStateDescription``.

    :param words: the class of each type.
    """
    return {
        word for row in words.values() for word in row if word and not word & 7 and word in pages
    }
