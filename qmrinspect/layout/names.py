"""Names of fields
---------------

What a word inside a QOM object is called.  QOM keeps no record of which C structure
a type's instances are; it follows from their size and from the structure of the parent
type, which is the first member.  Only a program with debug information names fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LayoutError
from ..target.elf import ElfFile
from . import dwarf
from .find import cache_path

__all__ = ["FieldNames", "field_names"]


class FieldNames:
    """The structures of a program that begin with an ``Object``.

    :param structs: as :func:`~qmrinspect.layout.dwarf.instance_structs` returns them.
    """

    def __init__(self, structs: Mapping[str, Any]) -> None:
        self._structs = structs

    def struct_of(self, chain: Sequence[tuple[str, int]], known: Mapping[str, str]) -> str:
        """Return the structure of a type's instances, empty when it cannot be told.

        :param chain: names and instance sizes of the type's ancestors and the type, the
            root first.
        :param known: structures of the types that many derive from.
        """
        current = "Object"
        for type_name, size in chain:
            if type_name in known:
                current = known[type_name]
                continue
            if current in self._structs and self._structs[current]["size"] == size:
                continue
            fitting = [
                name
                for name, struct in self._structs.items()
                if struct["first"] == current and struct["size"] == size
            ]
            if len(fitting) != 1:
                return ""
            current = fitting[0]
        return current

    def name(self, struct: str, offset: int) -> str:
        """Return ``Struct.field`` at an offset in bytes, empty when there is none."""
        for start, size, name, stride in self._structs.get(struct, {}).get("fields", ()):
            if start <= offset < start + max(size, 1):
                index = f"[{(offset - start) // stride}]" if stride else ""
                return f"{struct}.{name}{index}"
        return ""


def field_names(elf: ElfFile, path: str) -> FieldNames:
    """Return the field names of a program; none where it has no debug information.

    Reading them takes GDB some seconds, once for a build.

    :param path: where the program can be opened.
    """
    cached = cache_path(elf.build_id() or "none").with_suffix(".names")
    try:
        return FieldNames(json.loads(cached.read_text()))
    except (OSError, ValueError):
        pass
    if not dwarf.has_debug_info(elf):
        return FieldNames({})
    try:
        structs = dwarf.instance_structs(path)
    except LayoutError:
        return FieldNames({})
    if elf.build_id():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_text(json.dumps(structs))
        except OSError:
            pass  # a cache that cannot be written is none
    return FieldNames(structs)
