"""A layout for a debugger
-----------------------

What a layout knows, as an object file that holds nothing but DWARF: a debugger that
loads it can print the structures of a program that was stripped of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from .model import Layout, Struct

__all__ = ["type_file"]

# DWARF 4, section 7: tags, attributes, forms, encodings.
_UNIT, _STRUCT, _MEMBER, _BASE, _POINTER, _TYPEDEF, _ARRAY, _RANGE = range(1, 9)
_ABBREVIATIONS = {
    _UNIT: (0x11, True, ((0x03, 0x08), (0x13, 0x0B))),  # name, language
    _STRUCT: (0x13, True, ((0x03, 0x08), (0x0B, 0x0F))),  # name, size
    _MEMBER: (0x0D, False, ((0x03, 0x08), (0x49, 0x13), (0x38, 0x0F))),  # name, type, offset
    _BASE: (0x24, False, ((0x03, 0x08), (0x0B, 0x0F), (0x3E, 0x0B))),  # name, size, encoding
    _POINTER: (0x0F, False, ((0x0B, 0x0F), (0x49, 0x13))),  # size, type
    _TYPEDEF: (0x16, False, ((0x03, 0x08), (0x49, 0x13))),  # name, type
    _ARRAY: (0x01, True, ((0x49, 0x13),)),  # type
    _RANGE: (0x21, False, ((0x37, 0x0F),)),  # count
}
_STRING, _BYTE, _REFERENCE, _NUMBER = 0x08, 0x0B, 0x13, 0x0F
_C99, _SIGNED, _UNSIGNED, _CHARACTER = 0x0C, 0x05, 0x07, 0x06
_BASES = {
    "char": (1, _CHARACTER),
    "uint8_t": (1, _UNSIGNED),
    "uint16_t": (2, _UNSIGNED),
    "uint32_t": (4, _UNSIGNED),
    "uint64_t": (8, _UNSIGNED),
    "int32_t": (4, _SIGNED),
}
_BY_SIZE = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}

# What a layout does not say: which fields are pointers, and to what.
_POINTERS = {
    "ObjectClass": "Object.class TypeImpl.class",
    "Object": "Object.parent MemoryRegion.owner",
    "TypeImpl": "ObjectClass.type TypeImpl.parent_type",
    "DeviceState": "BusState.parent BusChild.child",
    "BusState": "DeviceState.parent_bus",
    "MemoryRegion": (
        "MemoryRegion.container MemoryRegion.alias AddressSpace.root FlatView.root FlatRange.mr "
        "MemoryRegionSection.mr RAMBlock.mr"
    ),
    "FlatView": "AddressSpace.current_map MemoryRegionSection.fv",
    "FlatRange": "FlatView.ranges",
    "AddressSpaceDispatch": "FlatView.dispatch",
    "AddressSpace": "MemoryListener.address_space",
    "RAMBlock": "MemoryRegion.ram_block",
    "char": (
        "TypeImpl.name TypeImpl.parent ObjectProperty.name ObjectProperty.type DeviceState.id "
        "BusState.name MemoryRegion.name AddressSpace.name NamedGPIOList.name MemoryListener.name "
        "NamedClockList.name"
    ),
}
_POINTS_TO = {field: name for name, fields in _POINTERS.items() for field in fields.split()}
_TYPES = {"MemoryRegion.priority": "int32_t"}
# Structures that begin with another one, and how that member is called.
_FIRST = {
    "DeviceState": ("parent_obj", "Object"),
    "BusState": ("obj", "Object"),
    "MemoryRegion": ("parent_obj", "Object"),
    "MachineState": ("parent_obj", "Object"),
    "VirtIODevice": ("parent_obj", "DeviceState"),
    "SCSIDevice": ("qdev", "DeviceState"),
    "PCIDevice": ("qdev", "DeviceState"),
}


def type_file(layout: Layout) -> bytes:
    """Return an ELF file with the structures of a layout as types of C."""
    structs = {name: row for name, row in layout.structs.items() if _is_name(name)}
    return _elf({".debug_abbrev": _abbreviations(), ".debug_info": _Unit(structs).content()})


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier()


class _Unit:
    """One compilation unit, written twice: where a type lies is known after the first time."""

    def __init__(self, structs: Mapping[str, Struct]) -> None:
        self._structs = structs
        self._places: dict[str, int] = {}

    def content(self) -> bytes:
        self._write()
        out = self._write()
        return struct.pack("<I", len(out) - 4) + out[4:]

    def _write(self) -> bytes:
        # Version 4, no offset into the abbreviations, addresses of 8 bytes.
        out = bytearray(struct.pack("<IHIB", 0, 4, 0, 8))
        out += self._entry(_UNIT, "qmr", _C99)
        for key, entry in self._entries():
            self._places[key] = len(out)
            out += entry
        return bytes(out + b"\0")

    def _entries(self) -> Iterator[tuple[str, bytes]]:
        for name, (size, encoding) in _BASES.items():
            yield name, self._entry(_BASE, name, size, encoding)
        sizes = {size for row in self._structs.values() for _, size in row.fields.values()}
        for size in sorted(sizes - _BY_SIZE.keys()):
            element = self._entry(_ARRAY, self._at("uint8_t"))
            yield f"[{size}]", element + self._entry(_RANGE, size) + b"\0"
        yield "*void", bytes((_POINTER, 8)) + struct.pack("<I", self._at("uint8_t"))
        for name in ("char", *self._structs):
            yield f"*{name}", bytes((_POINTER, 8)) + struct.pack("<I", self._at(name))
        for name, row in self._structs.items():
            yield f"struct {name}", self._structure(name, row)
            yield name, self._entry(_TYPEDEF, name, self._at(f"struct {name}"))

    def _structure(self, name: str, row: Struct) -> bytes:
        out = self._entry(_STRUCT, name, row.size)
        field, first = _FIRST.get(name, ("", ""))
        inside = self._structs[first].size if first in self._structs else 0
        if inside:
            out += self._entry(_MEMBER, field, self._at(first), 0)
        for field, (offset, size) in sorted(row.fields.items(), key=lambda item: item[1]):
            # A dotted field is one of a structure inside.
            if _is_name(field) and offset >= inside:
                kind = self._at(self._type(f"{name}.{field}", size))
                out += self._entry(_MEMBER, field, kind, offset)
        return out + b"\0"

    def _type(self, field: str, size: int) -> str:
        target = _POINTS_TO.get(field, "")
        if size == 8 and (target in self._structs or target == "char"):
            return f"*{target}"
        known = _TYPES.get(field, "")
        if known and _BASES[known][0] == size:
            return known
        return _BY_SIZE.get(size, f"[{size}]")

    def _at(self, key: str) -> int:
        return self._places.get(key, 0)

    @staticmethod
    def _entry(number: int, *values: str | int) -> bytes:
        out = bytearray((number,))
        for (_, form), value in zip(_ABBREVIATIONS[number][2], values):
            if isinstance(value, str):
                out += value.encode() + b"\0"
            elif form == _REFERENCE:
                out += struct.pack("<I", value)
            elif form == _BYTE:
                out.append(value)
            else:
                out += _leb128(value)
        return bytes(out)


def _abbreviations() -> bytes:
    out = bytearray()
    for number, (tag, children, attributes) in _ABBREVIATIONS.items():
        out += bytes((number, tag, children))
        for attribute, form in attributes:
            out += bytes((attribute, form))
        out += b"\0\0"
    return bytes(out + b"\0")


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _elf(sections: Mapping[str, bytes]) -> bytes:
    """Return an x86-64 relocatable file; the debugger does not look at its machine's code."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    body, rows = bytearray(), [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    for name, content in (*sections.items(), (".shstrtab", names)):
        place = names.index(name.encode() + b"\0")
        kind = 3 if name == ".shstrtab" else 1
        rows.append(
            struct.pack("<IIQQQQIIQQ", place, kind, 0, 0, 64 + len(body), len(content), 0, 0, 1, 0)
        )
        body += content
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1".ljust(16, b"\0"),
        1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(rows), len(rows) - 1,
    )  # fmt: skip
    return header + bytes(body) + b"".join(rows)
