"""The layout of one QEMU build
----------------------------
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import LayoutError
from .schema import REQUIRED

__all__ = ["FORMAT", "Layout", "Struct", "from_json", "load", "save"]

FORMAT = "qmr-layout/1"
# No structure of QEMU that qmr reads is larger; a file that says so is damaged.
_SIZE_MAX = 1 << 24


class Struct(NamedTuple):
    """One C structure: its size in bytes and, by field, (offset, size) in bytes."""

    size: int
    fields: Mapping[str, tuple[int, int]]


class Layout(NamedTuple):
    """Offsets of the fields of one QEMU build.

    :param source: ``dwarf``, ``cache``, ``profile:NAME`` or ``inferred``.
    :param build_id: of the program it was made from; empty for a profile.
    :param version: QEMU's own version text, for people only.
    """

    source: str
    build_id: str
    version: str
    structs: Mapping[str, Struct]

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

    def missing(self) -> list[str]:
        """Return what a walk needs and this layout lacks."""
        return [
            f"{struct}.{field}"
            for struct, fields in REQUIRED.items()
            for field in fields.split()
            if not self.has(struct, field)
        ]


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
        return Layout(source, str(data.get("build_id", "")), str(data.get("version", "")), structs)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise LayoutError(f"{source} is not a layout file ({error!r})") from None


def load(path: Path, source: str) -> Layout:
    """Read a layout file.

    :raises LayoutError: when it cannot be read or is none.
    """
    try:
        return from_json(json.loads(path.read_text()), source)
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path} cannot be read as a layout: {error}") from None


def save(layout: Layout, path: Path) -> None:
    """Write a layout file, replacing an older one in one step."""
    data = {
        "format": FORMAT,
        "build_id": layout.build_id,
        "version": layout.version,
        "structs": {
            name: {"size": s.size, "fields": {k: list(v) for k, v in s.fields.items()}}
            for name, s in layout.structs.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    part.replace(path)
