"""What GDB knows of structures
----------------------------
"""

from __future__ import annotations

import json
import re

import gdb

from ...errors import LayoutError
from ...layout import Layout
from ...layout.model import FORMAT, from_json
from ...layout.schema import SCHEMA

__all__ = [
    "dump_instance_structs",
    "dump_layout",
    "dump_lines",
    "dwarf_layout",
    "dwarf_structs",
    "instance_structs",
]

# How deep a field of a field is named, and a chain of first members followed.
_NESTED = 4
_DEPTH = 16
_TYPE_NAME = re.compile(r"^\d+:\t(?:typedef )?struct (?:\S+ )?(\w+);", re.MULTILINE)


def _lookup(name: str) -> gdb.Type | None:
    for text in (f"struct {name}", name):
        try:
            return gdb.lookup_type(text).strip_typedefs()
        except gdb.error:
            continue
    return None


def _fields(kind: gdb.Type, base: int, out: dict[str, tuple[int, int]]) -> None:
    """Collect the fields of a structure, those of nameless unions inside it included."""
    for field in kind.fields():
        bits = getattr(field, "bitpos", None)
        if bits is None or field.type is None:
            continue
        offset = base + bits // 8
        if field.name:
            out.setdefault(field.name, (offset, field.type.sizeof))
        else:
            _fields(field.type.strip_typedefs(), offset, out)


def dwarf_structs() -> dict[str, dict[str, object]]:
    """Return the structures of the schema as DWARF describes them."""
    out: dict[str, dict[str, object]] = {}
    for struct, wanted in SCHEMA.items():
        kind = _lookup(struct)
        if kind is None or not kind.sizeof:
            continue
        found: dict[str, tuple[int, int]] = {}
        _fields(kind, 0, found)
        out[struct] = {
            "size": kind.sizeof,
            "fields": {name: found[name] for name in wanted.split() if name in found},
        }
    return out


def instance_structs() -> dict[str, dict[str, object]]:
    """Return every structure that begins with an ``Object``, all of its fields named.

    A field is [offset, size, name, stride] in bytes; the stride is that of an array's
    elements, 0 for anything else.
    """
    out: dict[str, dict[str, object]] = {}
    listing = str(gdb.execute("info types -q .", to_string=True))
    for name in sorted(set(_TYPE_NAME.findall(listing))):
        kind = _lookup(name)
        if kind is None or kind.code != gdb.TYPE_CODE_STRUCT or not kind.fields():
            continue
        first = _first(kind)
        base, depth = first, 0
        while base is not None and base.tag != "Object" and depth < _DEPTH:
            base, depth = _first(base), depth + 1
        if first is None or base is None or base.tag != "Object":
            continue
        rows: list[tuple[int, int, str, int]] = []
        _leaves(kind, 0, "", rows, _NESTED)
        out[name] = {"size": kind.sizeof, "first": first.tag or "", "fields": rows}
    return out


def _first(kind: gdb.Type) -> gdb.Type | None:
    """Return the structure that is the first member of another, None when none is."""
    members = kind.fields() if kind.code == gdb.TYPE_CODE_STRUCT else []
    inner = members[0].type if members else None
    return inner.strip_typedefs() if inner is not None else None


def _leaves(
    kind: gdb.Type, base: int, prefix: str, out: list[tuple[int, int, str, int]], depth: int
) -> None:
    for field in kind.fields():
        if getattr(field, "bitpos", None) is None or field.type is None:
            continue
        offset, inner = base + int(field.bitpos or 0) // 8, field.type.strip_typedefs()
        name = f"{prefix}{field.name}" if field.name else prefix.rstrip(".")
        nested = inner.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and depth > 0
        if nested and (inner.tag != "Object"):
            _leaves(inner, offset, f"{name}." if field.name else prefix, out, depth - 1)
        else:
            array = inner.code == gdb.TYPE_CODE_ARRAY
            stride = inner.target().sizeof if array else 0
            out.append((offset, inner.sizeof, name, stride or 0))


def dump_instance_structs(path: str) -> None:
    """Write what :func:`instance_structs` finds in the program that this GDB has open."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(instance_structs(), file)


def dump_lines(path: str, addresses: list[int]) -> None:
    """Write function, file and line of addresses in the program that this GDB has open."""
    out: dict[str, tuple[str, str, int]] = {}
    for address in addresses:
        block = gdb.block_for_pc(address)
        while block is not None and block.function is None:
            block = block.superblock
        found = gdb.find_pc_line(address)
        if block is not None and block.function is not None:
            file = found.symtab.fullname() if found.symtab is not None else ""
            out[str(address)] = (block.function.name, file, found.line)
    with open(path, "w", encoding="utf-8") as file_out:
        json.dump(out, file_out)


def dump_layout(path: str) -> None:
    """Write the layout of the program that this GDB has open."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "structs": dwarf_structs()}, file)


def dwarf_layout() -> Layout | None:
    """Return the layout that GDB knows from debug information, None when it knows none."""
    if _lookup("Object") is None or _lookup("MemoryRegion") is None:
        return None
    try:
        layout = from_json({"format": FORMAT, "structs": dwarf_structs()}, "dwarf")
    except LayoutError:
        return None
    return None if layout.missing() else layout
