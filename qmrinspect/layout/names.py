"""Names of fields
---------------

What a word inside a QOM object is called.  QOM keeps no record of which C structure
a type's instances are; it follows from their size and from the structure of the parent
type, which is the first member, among those that the source file of the type's own
functions has.  Only a program with debug information names fields.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from .dwarf import DebugInfo
from .find import cache_path
from .model import write_json

__all__ = ["FieldNames", "field_names"]

# A file of names that is larger is damaged.
_CACHE_MAX = 64 << 20


class FieldNames:
    """The structures that instances of some types may be.

    :param seen: structures, by type and name: ``size``, ``first`` (the structure at its
        start) and ``fields`` as [offset, size, name, stride] in bytes.
    """

    def __init__(self, seen: Mapping[str, Mapping[str, Any]]) -> None:
        self._seen = seen

    def field(self, chain: Sequence[tuple[str, int]], known: Mapping[str, str], offset: int) -> str:
        """Return ``Struct.field`` at an offset in bytes, empty when it is not known.

        :param chain: names and instance sizes of the type's ancestors and the type, the
            root first.
        :param known: structures of the types that many derive from.
        """
        structs = self._seen.get(chain[-1][0], {}) if chain else {}
        struct = _struct_of(structs, chain, known)
        for start, size, name, stride in structs.get(struct, {}).get("fields", ()):
            if start <= offset < start + max(size, 1):
                index = f"[{(offset - start) // stride}]" if stride else ""
                return f"{struct}.{name}{index}"
        return ""


def _struct_of(
    structs: Mapping[str, Any], chain: Sequence[tuple[str, int]], known: Mapping[str, str]
) -> str:
    current = "Object"
    for type_name, size in chain:
        if type_name in known:
            current = known[type_name]
            continue
        if current in structs and structs[current]["size"] == size:
            continue
        fitting = [
            name
            for name, struct in structs.items()
            if struct["first"] == current and struct["size"] == size
        ]
        if len(fitting) != 1:
            return ""
        current = fitting[0]
    return current


def field_names(debug: DebugInfo, functions: Mapping[str, Collection[int]]) -> FieldNames:
    """Return the field names of types; none where the program has no debug information.

    Reading them takes GDB a second or two, once for a type of a build.

    :param functions: link-time addresses of the types' functions, or of their ancestors'.
    """
    build_id = debug.elf.build_id()
    path = cache_path(build_id, debug.user).with_suffix(".names") if build_id else None
    seen = _cached(path) if path is not None else {}
    wanted = {name: list(places) for name, places in functions.items() if name not in seen}
    if wanted:
        found = _valid(debug.ask("types", wanted, lambda line: None))
        seen.update(found)
        if path is not None and found:
            # A cache that cannot be written is none.
            with contextlib.suppress(OSError):
                write_json(path, seen)
    return FieldNames(seen)


def _cached(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size < _CACHE_MAX:
            return _valid(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError):
        pass  # nothing is cached, or it is damaged
    return {}


def _valid(seen: Any) -> dict[str, Any]:
    """Return what has the form of :class:`FieldNames`, nothing when it has not."""
    try:
        return {
            str(name): {
                str(struct): {
                    "size": int(row["size"]),
                    "first": str(row["first"]),
                    "fields": [
                        (int(start), int(size), str(field), int(stride))
                        for start, size, field, stride in row["fields"]
                    ],
                }
                for struct, row in structs.items()
            }
            for name, structs in (seen or {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
