"""What GDB knows of structures
----------------------------

This file stands for itself: a GDB that reads debug information for qmr is given its
text, and may have no right to read the package (see :mod:`qmrinspect.layout.gdbchild`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import gdb

__all__ = ["answer", "layout_structs", "lines", "type_structs"]

# How deep a field of a field is named, and a chain of first members followed.
_NESTED = 4
_DEPTH = 16


def answer(request: str, out: int) -> None:
    """Answer one request about the program that this GDB has open.

    :param request: JSON: a function of this module by name, with its argument.
    :param out: descriptor that the answer is written to, as JSON.
    """
    name, argument = json.loads(request)
    questions: dict[str, Callable[[Any], dict[str, object]]] = {
        "layout": layout_structs,
        "types": type_structs,
        "lines": lines,
    }
    found = questions[name](argument)
    with os.fdopen(out, "w", encoding="utf-8") as file:
        json.dump(found, file)


def layout_structs(schema: Mapping[str, str]) -> dict[str, object]:
    """Return the structures of a schema as DWARF describes them."""
    out: dict[str, object] = {}
    for struct, wanted in schema.items():
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


def type_structs(functions: Mapping[str, Sequence[int]]) -> dict[str, object]:
    """Return the structures that the sources of QOM types see, if they begin with an ``Object``.

    The file that has a type's functions has the whole structure of its instances, and
    of those of its ancestors, which it contains.

    :param functions: link-time addresses of functions, by type.
    :return: by type and structure: ``size``, ``first`` (the structure at its start) and
        ``fields`` as [offset, size, name, stride] in bytes; the stride is that of an
        array's elements, 0 for anything else.
    """
    out: dict[str, object] = {}
    seen: dict[str, dict[str, object]] = {}
    for name, places in functions.items():
        found: dict[str, object] = {}
        for place in places:
            table = gdb.find_pc_line(place).symtab
            if table is None:
                continue
            if table.filename not in seen:
                seen[table.filename] = dict(_instances(table))
            found.update(seen[table.filename])
        out[name] = found
    return out


def _instances(table: gdb.Symtab) -> Iterator[tuple[str, dict[str, object]]]:
    for symbol in table.static_block():
        kind = symbol.type.strip_typedefs() if symbol.type is not None else None
        if kind is None or kind.code != gdb.TYPE_CODE_STRUCT or not kind.tag:
            continue
        first = _first(kind)
        base, depth = first, 0
        while base is not None and base.tag != "Object" and depth < _DEPTH:
            base, depth = _first(base), depth + 1
        if first is None or base is None or base.tag != "Object":
            continue
        rows: list[tuple[int, int, str, int]] = []
        _leaves(kind, 0, "", rows, _NESTED)
        yield kind.tag, {"size": kind.sizeof, "first": first.tag or "", "fields": rows}


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


def lines(addresses: Sequence[int]) -> dict[str, object]:
    """Return function, file and line by link-time address; what is not known is left out."""
    out: dict[str, object] = {}
    for address in addresses:
        block = gdb.block_for_pc(address)
        while block is not None and block.function is None:
            block = block.superblock
        found = gdb.find_pc_line(address)
        if block is not None and block.function is not None:
            file = found.symtab.fullname() if found.symtab is not None else ""
            out[str(address)] = (block.function.name, file, found.line)
    return out
