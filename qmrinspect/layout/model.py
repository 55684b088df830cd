"""The layout of one QEMU build
----------------------------
"""

from __future__ import annotations

import json
import os
import struct as codes
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable

from ..errors import LayoutError
from ..outfile import open_private
from ..tuples import NamedTuple
from .schema import ABI, REQUIRED

__all__ = [
    "EVIDENCE",
    "FORMAT",
    "Layout",
    "Struct",
    "Unpack",
    "from_json",
    "load",
    "resolve",
    "save",
    "to_json",
    "unpacker",
    "write_json",
]

FORMAT = "qmr-layout/1"
#: What can speak for a field: see :class:`Layout`.
EVIDENCE = ("named", "code", "seen", "solved", "both", "unconfirmed")
# No structure of QEMU that qmr reads is larger; a file that says so is damaged.
_SIZE_MAX = 1 << 24
_FILE_MAX = 16 << 20

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

#: Takes the bytes of a structure, and returns the unsigned values of some of its fields.
Unpack = Callable[[bytes], tuple[int, ...]]


@lru_cache
def unpacker(spans: tuple[tuple[int, int], ...]) -> Unpack:
    """Return what unpacks several fields at once, for structures of which there are many.

    :param spans: (offset, size) of each field in bytes, two of them at least.
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    text, at = "<", 0
    for offset, size in (spans[i] for i in order):
        if offset < at or size not in _CODES:
            return lambda raw: tuple(int.from_bytes(raw[o : o + s], "little") for o, s in spans)
        text += f"{offset - at}x{_CODES[size]}"
        at = offset + size
    unpack = codes.Struct(text).unpack_from
    if order == sorted(order):
        return unpack
    pick = itemgetter(*(order.index(i) for i in range(len(spans))))
    return lambda raw: pick(unpack(raw))


class Struct(NamedTuple):
    """One C structure: its size in bytes and, by field, (offset, size) in bytes."""

    size: int
    fields: Mapping[str, tuple[int, int]]


class Layout(NamedTuple):
    """Offsets of the fields of one QEMU build.

    :param source: ``dwarf``, ``cache``, ``file:NAME``, ``profile:NAME`` or ``inferred``.
    :param build_id: of the program it was made from; empty for a profile.
    :param version: QEMU's own version text, for people only.
    :param evidence: by ``Struct.field``, what speaks for its offset: ``named`` by a table of the
        process, read in its ``code``, ``seen`` in or ``solved`` from live structures, between
        ``both`` neighbours that moved alike, or ``unconfirmed`` and then in no structure.  What
        is not mentioned is certain.
    """

    source: str
    build_id: str
    version: str
    structs: Mapping[str, Struct]
    evidence: Mapping[str, str] = MappingProxyType({})

    def without(self, fields: Collection[str]) -> Layout:
        """Return this layout less some fields, given as ``Struct.field``: they are unconfirmed."""
        structs = {
            name: row._replace(
                fields={f: at for f, at in row.fields.items() if f"{name}.{f}" not in fields}
            )
            for name, row in self.structs.items()
        }
        evidence = {**self.evidence, **dict.fromkeys(fields, "unconfirmed")}
        return self._replace(structs=structs, evidence=evidence)

    def has(self, struct: str, field: str) -> bool:
        """Whether this QEMU has that field."""
        return struct in self.structs and field in self.structs[struct].fields

    def offset(self, struct: str, field: str) -> int:
        """Return the offset of a field in bytes.

        :raises LayoutError: when the layout does not know it.
        """
        try:
            return self.structs[struct].fields[field][0]
        except KeyError:
            raise LayoutError(f"the layout {self.source} has no {struct}.{field}") from None

    def size(self, struct: str) -> int:
        """Return the size of a structure in bytes.

        :raises LayoutError: when the layout does not know it.
        """
        try:
            return self.structs[struct].size
        except KeyError:
            raise LayoutError(f"the layout {self.source} has no {struct}") from None

    def unpacker(self, struct: str, *fields: str) -> Unpack:
        """Return what unpacks fields of a structure, as :func:`unpacker`.

        :raises LayoutError: when the layout does not know one of them.
        """
        for field in fields:
            self.offset(struct, field)
        return unpacker(tuple(self.structs[struct].fields[field] for field in fields))

    def missing(self) -> list[str]:
        """Return what a walk needs and this layout lacks."""
        return [
            f"{struct}.{field}"
            for struct, fields in REQUIRED.items()
            for field in fields.split()
            if not self.has(struct, field)
        ]


def resolve(layout: Layout, struct: str, names: Sequence[str]) -> str:
    """Return the name that this QEMU has for a field that has had several.

    :raises LayoutError: when it has none of them.
    """
    for name in names:
        if layout.has(struct, name):
            return name
    raise LayoutError(f"the layout {layout.source} has no {struct}.{names[0]}")


def from_json(data: Any, source: str) -> Layout:
    """Build a layout from parsed JSON, believing none of it.

    :raises LayoutError: when it is not one.
    """
    try:
        if data["format"] != FORMAT:
            raise LayoutError(f"{source}: the format is {data['format']!r}, not {FORMAT}")
        structs = {}
        for name, row in data["structs"].items():
            fields = {str(k): (int(v[0]), int(v[1])) for k, v in row["fields"].items()}
            size = int(row["size"])
            if not 0 < size < _SIZE_MAX or any(
                o < 0 or s < 0 or o + s > size for o, s in fields.values()
            ):
                raise LayoutError(f"{source}: {name} has impossible offsets")
            structs[str(name)] = Struct(size, fields)
        for name, (size, fields) in ABI.items():
            structs.setdefault(name, Struct(size, fields))
        evidence = {str(k): str(v) for k, v in data.get("evidence", {}).items()}
        if not set(evidence.values()) <= set(EVIDENCE):
            raise LayoutError(f"{source}: evidence of a kind that qmr does not know")
        build_id, version = str(data.get("build_id", "")), str(data.get("version", ""))
        return Layout(source, build_id, version, structs, evidence)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise LayoutError(f"{source} is not a layout file ({error!r})") from None


def load(path: Path, source: str) -> Layout:
    """Read a layout file.

    :raises LayoutError: when it cannot be read or is none.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_FILE_MAX)
        return from_json(json.loads(raw), source)
    except (OSError, ValueError, RecursionError) as error:
        raise LayoutError(f"{path} cannot be read as a layout: {error}") from None


def to_json(layout: Layout) -> dict[str, Any]:
    """Return what a layout file has, as :func:`from_json` takes it."""
    data: dict[str, Any] = {
        "format": FORMAT,
        "build_id": layout.build_id,
        "version": layout.version,
        "structs": {
            name: {"size": s.size, "fields": {k: list(v) for k, v in s.fields.items()}}
            for name, s in layout.structs.items()
        },
    }
    if layout.evidence:
        data["evidence"] = dict(layout.evidence)
    return data


def save(layout: Layout, path: Path) -> None:
    """Write a layout file, replacing an older one in one step.

    :raises OSError: it cannot be written.
    """
    write_json(path, to_json(layout), 1)


def write_json(path: Path, data: object, indent: int | None = None) -> None:
    """Write a JSON file with its directory, replacing an older one in one step.

    :raises OSError: it cannot be written.
    """
    text = json.dumps(data, indent=indent, sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_text(text)  # /dev/stdout is not to be replaced
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", opener=open_private) as file:
            file.write(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
