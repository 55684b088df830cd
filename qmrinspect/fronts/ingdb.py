"""Inside GDB
----------

The only module that imports ``gdb``.  It runs on the Python of any GDB from 3.9
on, with the standard library alone.
"""

from __future__ import annotations

import json

import gdb

from ..layout.model import FORMAT
from ..layout.schema import SCHEMA

__all__ = ["dump_layout", "dwarf_structs"]


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
        if not hasattr(field, "bitpos"):
            continue
        offset = base + field.bitpos // 8
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


def dump_layout(path: str) -> None:
    """Write the layout of the program that this GDB has open."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "structs": dwarf_structs()}, file)
