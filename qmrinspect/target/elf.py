"""ELF files
---------

The little that is needed of an ELF file: its build id, its loadable segments
and the addresses of a few symbols.  A stripped QEMU still exports about 20,000
dynamic symbols; one with debug information has all of them.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress

from ..errors import TargetError
from ..tuples import NamedTuple

__all__ = ["ElfFile", "ElfSegment"]

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")

PT_LOAD, PT_NOTE = 1, 4
ET_CORE = 4
EM_X86_64 = 62
_SHT_SYMTAB, _SHT_NOTE, _SHT_NOBITS, _SHT_DYNSYM = 2, 7, 8, 11
_NT_GNU_BUILD_ID = 3
_NUMBER = 32  # bits that the number of a symbol takes
# Linkers make 20 bytes of it at most; what is longer than a hash is none.
_BUILD_ID_MAX = 64
_STT_OBJECT, _STT_FUNC = 1, 2
_IS_FUNCTION = bytes(info & 15 == _STT_FUNC for info in range(256))


class ElfSegment(NamedTuple):
    """One program header: file ``offset`` and ``filesz``, virtual address and size in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


class _Section(NamedTuple):
    name: int
    type: int
    offset: int
    size: int
    link: int


class ElfFile:
    """A 64-bit little-endian ELF image held in a bytes-like object.

    :param data: the whole file (an ``mmap`` serves well).
    :param name: how to call it in messages.
    :raises TargetError: when it is no such file or is cut short.
    """

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self.data = data
        self.name = name
        if len(data) < _EHDR.size or bytes(data[:4]) != b"\x7fELF":
            raise TargetError(f"{name} is not an ELF file")
        if data[4] != 2 or data[5] != 1:
            raise TargetError(
                f"{name} is not a 64-bit little-endian program",
                "qmr reads QEMU on 64-bit little-endian hosts only",
            )
        header = _EHDR.unpack_from(data)
        self.type, self.machine, self.entry = header[1], header[2], header[4]
        phoff, shoff = header[5], header[6]
        phentsize, phnum, shentsize, shnum = header[9], header[10], header[11], header[12]
        if phnum == 0xFFFF and shoff + _SHDR.size <= len(data):  # PN_XNUM: the count is in sh_info
            phnum = _SHDR.unpack_from(data, shoff)[7]
        if phnum and phoff + phnum * phentsize > len(data):
            raise TargetError(f"{name} is truncated: its program headers are missing")
        self.segments = [
            ElfSegment(t, f, off, va, fs, ms)
            for t, f, off, va, _pa, fs, ms, _al in (
                _PHDR.unpack_from(data, phoff + i * phentsize) for i in range(phnum)
            )
        ]
        self._sections: list[_Section] = []
        # What was looked up: one program is read again in each process that runs it.
        self._found: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self._functions: list[tuple[int, int, str]] | None = None
        self._by_place: list[_Functions] | None = None
        self._names_index = header[13]
        for i in range(shnum):
            if shoff + i * shentsize + _SHDR.size > len(data):
                break  # a core or a stripped copy without section headers serves as well
            row = _SHDR.unpack_from(data, shoff + i * shentsize)
            self._sections.append(_Section(row[0], row[1], row[4], row[5], row[6]))

    def notes(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield every note as (name, type, content)."""
        spans = [(s.offset, s.filesz) for s in self.segments if s.type == PT_NOTE]
        return self._notes(spans or self._note_sections())

    def _note_sections(self) -> list[tuple[int, int]]:
        return [(s.offset, s.size) for s in self._sections if s.type == _SHT_NOTE]

    def _notes(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[str, int, bytes]]:
        for offset, size in spans:
            end = min(offset + size, len(self.data))
            while offset + 12 <= end:
                namesz, descsz, kind = struct.unpack_from("<III", self.data, offset)
                offset += 12
                name = bytes(self.data[offset : offset + namesz]).rstrip(b"\0")
                offset += (namesz + 3) & ~3
                if offset + descsz > end:
                    break
                yield (
                    name.decode("latin-1"),
                    kind,
                    bytes(self.data[offset : offset + descsz]),
                )
                offset += (descsz + 3) & ~3

    def build_id(self) -> str:
        """Return the GNU build id as hex digits, empty when there is none."""
        # The segments of a debug file are those of its program, and lie elsewhere in it.
        for notes in (self._notes(self._note_sections()), self.notes()):
            for name, kind, desc in notes:
                if name == "GNU" and kind == _NT_GNU_BUILD_ID and 2 <= len(desc) <= _BUILD_ID_MAX:
                    return desc.hex()
        return ""

    def load_base(self) -> int:
        """Return the lowest virtual address of a loadable segment, page aligned."""
        return min((s.vaddr & ~0xFFF for s in self.segments if s.type == PT_LOAD), default=0)

    def _tables(self, full: bool) -> Iterable[tuple[_Section, bytes]]:
        wanted = (_SHT_SYMTAB, _SHT_DYNSYM) if full else (_SHT_DYNSYM,)
        for section in self._sections:
            if section.type in wanted and section.link < len(self._sections):
                strings = self._sections[section.link]
                yield section, bytes(self.data[strings.offset : strings.offset + strings.size])

    def _raw(self, section: _Section) -> bytes:
        # As many whole symbols as are there: the file may be cut short.
        raw = bytes(self.data[section.offset : section.offset + section.size])
        return raw[: len(raw) // _SYM.size * _SYM.size]

    def _rows(self, section: _Section) -> Iterator[tuple[int, ...]]:
        return _SYM.iter_unpack(self._raw(section))

    def has_section(self, name: str) -> bool:
        """Whether there is a section of that name that has content in this file."""
        return bool(self.section(name))

    def section(self, name: str) -> bytes | memoryview:
        """Return the content of a section, empty when the file has none."""
        if self._names_index >= len(self._sections):
            return b""
        names = self._sections[self._names_index]
        wanted = name.encode() + b"\0"
        for s in self._sections:
            at = names.offset + s.name
            if bytes(self.data[at : at + len(wanted)]) == wanted and s.type != _SHT_NOBITS:
                return self.data[s.offset : s.offset + s.size]
        return b""

    def has_symtab(self) -> bool:
        """Whether the full symbol table is there, static symbols included."""
        return any(s.type == _SHT_SYMTAB for s in self._sections)

    def symbols(self, names: Iterable[str]) -> Mapping[str, list[int]]:
        """Look up symbols by name; static ones may have several values.

        A variable that is static to a function carries a number in the symbol
        table (``root.7``) and is found by its plain name as well.

        :return: name to the link-time addresses of its definitions.
        """
        wanted = tuple(sorted(set(names)))
        if wanted in self._found:
            return self._found[wanted]
        found: dict[str, list[int]] = {}
        for section, strings in self._tables(full=True):
            raw = self._raw(section)
            hashes = self.section(".gnu.hash") if section.type == _SHT_DYNSYM else b""
            try:
                rows = list(_hashed(raw, strings, wanted, hashes))
            except (IndexError, ValueError, ZeroDivisionError):
                rows = []  # there is no table, or a damaged one
            for number, name in rows or _named(raw, strings, wanted):
                *_, shndx, value, _size = _SYM.unpack_from(raw, number * _SYM.size)
                if shndx and value:
                    values = found.setdefault(name, [])
                    if value not in values:
                        values.append(value)
        self._found[wanted] = found
        return found

    def objects(self) -> list[tuple[int, int, str]]:
        """Return every data symbol as (link-time address, size in bytes, name), sorted."""
        return self._typed(_STT_OBJECT)

    def functions(self) -> list[tuple[int, int, str]]:
        """Return every function symbol as :meth:`objects` does."""
        if self._functions is None:
            self._functions = self._typed(_STT_FUNC)
        return self._functions

    def function_at(self, address: int) -> str:
        """Return the name of the function that has a link-time address, empty for none."""
        if self._by_place is None:
            tables = self._tables(full=True)
            self._by_place = [_Functions(self._raw(section), text) for section, text in tables]
        rows = (row for table in self._by_place for row in table.at(address))
        return max(rows, default=(0, 0, ""))[2]

    def _typed(self, kind: int) -> list[tuple[int, int, str]]:
        rows: set[tuple[int, int, str]] = set()
        for section, strings in self._tables(full=True):
            for st_name, info, _other, shndx, value, size in self._rows(section):
                if info & 15 == kind and shndx and size:
                    end = strings.find(b"\0", st_name)
                    rows.add((value, size, strings[st_name:end].decode("latin-1")))
        return sorted(rows)


class _Functions:
    """The functions of a symbol table by address; a name is read when it is asked for."""

    def __init__(self, raw: bytes, strings: bytes) -> None:
        self._raw, self._strings = raw, strings
        words = array("Q", raw)
        if sys.byteorder == "big":
            words.byteswap()
        functions = compress(enumerate(words[1::3]), raw[4 :: _SYM.size].translate(_IS_FUNCTION))
        self._places = sorted([at << _NUMBER | i for i, at in functions])

    def at(self, address: int) -> Iterator[tuple[int, int, str]]:
        """Yield (address, size, name) of those that begin last before an address and have it."""
        last = None
        for i in range(bisect_right(self._places, (address + 1) << _NUMBER) - 1, -1, -1):
            number = self._places[i] & (1 << _NUMBER) - 1
            name, _, _, section, start, size = _SYM.unpack_from(self._raw, number * _SYM.size)
            if last is not None and start < last:
                return
            if not section or not size:
                continue
            last = start
            if address < start + size:
                end = self._strings.find(b"\0", name)
                yield start, size, self._strings[name:end].decode("latin-1")


def _hashed(
    raw: bytes, strings: bytes, names: Iterable[str], hashes: bytes | memoryview
) -> Iterator[tuple[int, str]]:
    """Yield (number, name) of the dynamic symbols that have one of some names.

    :param hashes: what the dynamic linker finds them by: how many buckets, the number of the
        first symbol, the size of a filter, one word more, the filter, the first symbol of each
        bucket, and of each symbol its hash, of which the lowest bit says that a bucket ends.
    """
    table = memoryview(hashes)[: len(hashes) // 4 * 4].cast("B").cast("I")
    count, first, filtered, _ = table[:4]
    buckets = table[4 + 2 * filtered :]
    for name in names:
        sought = 5381
        for byte in name.encode():
            sought = (sought * 33 + byte) & 0xFFFFFFFF
        number = buckets[sought % count]
        while first <= number < len(raw) // _SYM.size:
            found = buckets[count + number - first]
            if (found ^ sought) >> 1 == 0:
                at = _SYM.unpack_from(raw, number * _SYM.size)[0]
                if strings.startswith(name.encode() + b"\0", at):
                    yield number, name
            if found & 1:
                break
            number += 1


def _named(raw: bytes, strings: bytes, names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The same of any symbols, by the names alone."""
    # The linker merges strings by suffix, so a name may start inside another.
    offsets: dict[int, str] = {}
    for name in names:
        offsets.update(dict.fromkeys(_ends_in(strings, name.encode()), name))
    # The name is the first field: one of a few is found faster than all are unpacked.
    starts = array("I", raw)[:: _SYM.size // 4]
    if sys.byteorder == "big":
        starts.byteswap()
    return ((i, offsets[start]) for i, start in enumerate(starts) if start in offsets)


def _ends_in(strings: bytes, name: bytes) -> Iterator[int]:
    """Yield where a string ends in a name, alone or with a dot and a number behind it."""
    at = strings.find(name)
    while at >= 0:
        end = at + len(name)
        if strings[end : end + 1] == b".":
            end = strings.find(b"\0", end)
            if not strings[at + len(name) + 1 : end].isdigit():
                end = -1
        if end >= 0 and strings[end : end + 1] == b"\0":
            yield at
        at = strings.find(name, at + 1)
