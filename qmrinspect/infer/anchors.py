"""Anchors
-------

Names that a process itself gives to offsets in its QOM types, and what a profile
remembers of those that its own QEMU gave.  An anchor that two QEMUs share tells how far
the fields around it moved from one to the other.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import LayoutError
from ..snapshot import lineage

__all__ = ["Anchors", "TypeAnchors", "load", "reduced", "save"]

FORMAT = "qmr-anchors/1"
# No type of QEMU is larger; a file that says so is damaged.
_SIZE_MAX = 1 << 26


class TypeAnchors(NamedTuple):
    """One QOM type: its parent, its instances' size in bytes, and offsets in them by name.

    A name begins with what gave it: ``property:``, ``link:``, ``vmstate:``, ``child:``,
    ``opaque:`` (of a property of an instance) or ``inside:`` (an object in the object).
    """

    parent: str
    size: int
    offsets: Mapping[str, int]


class Anchors(NamedTuple):
    """What one QEMU says of itself.

    :param types: by name.
    :param code: offsets that exported functions disclose, by ``Struct.field``.
    """

    types: Mapping[str, TypeAnchors]
    code: Mapping[str, int]

    def chain(self, name: str) -> tuple[str, ...]:
        """Return a type and its ancestors, the type first."""
        return lineage(self.types, name)

    def size(self, name: str) -> int:
        """Return the size of a type's instances in bytes, 0 for an unknown type."""
        return self.types[name].size if name in self.types else 0

    def descendants(self) -> dict[str, list[str]]:
        """Return the types that derive from each, at any depth."""
        out: dict[str, list[str]] = defaultdict(list)
        for name in self.types:
            for ancestor in self.chain(name)[1:]:
                out[ancestor].append(name)
        return out


# An ancestor's part is named by its descendants over and over.
_SAME_OFFSET_MAX = 3


def reduced(anchors: Anchors, wanted: Iterable[str]) -> Anchors:
    """Keep the types that layouts need, their ancestors, and what descendants say of them.

    :param wanted: QOM types.
    """
    kept: dict[str, dict[str, int]] = {}
    below = anchors.descendants()
    for name in wanted:
        for part in anchors.chain(name):
            kept.setdefault(part, dict(anchors.types[part].offsets))
    for name in list(kept):
        size = anchors.size(name)
        seen = defaultdict(int, {offset: 1 for offset in kept[name].values()})
        for other in sorted(below.get(name, ())):
            for anchor, offset in sorted(anchors.types[other].offsets.items()):
                if offset < size and seen[offset] < _SAME_OFFSET_MAX:
                    seen[offset] += 1
                    kept.setdefault(other, {})[anchor] = offset
    types = {
        part: TypeAnchors(anchors.types[part].parent, anchors.size(part), kept.get(part, {}))
        for name in kept
        for part in anchors.chain(name)
    }
    return Anchors(types, anchors.code)


def save(anchors: Anchors, path: Path) -> None:
    """Write a file of anchors, the same bytes for the same anchors."""
    data = {
        "format": FORMAT,
        "code": dict(sorted(anchors.code.items())),
        "types": {
            name: [row.parent, row.size, dict(sorted(row.offsets.items()))]
            for name, row in sorted(anchors.types.items())
        },
    }
    text = json.dumps(data, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(text, 9, mtime=0))


def load(path: Path) -> Anchors:
    """Read a file of anchors.

    :raises LayoutError: when it cannot be read or is none.
    """
    try:
        return _from_json(json.loads(gzip.decompress(path.read_bytes())))
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise LayoutError(f"{path} cannot be read as anchors: {error!r}") from None


def _from_json(data: Any) -> Anchors:
    if data["format"] != FORMAT:
        raise ValueError(f"the format is {data['format']!r}, not {FORMAT}")
    types = {}
    for name, (parent, size, offsets) in data["types"].items():
        if not 0 <= int(size) < _SIZE_MAX:
            raise ValueError(f"{name} has an impossible size")
        rows = {str(key): int(offset) for key, offset in offsets.items()}
        types[str(name)] = TypeAnchors(str(parent), int(size), rows)
    return Anchors(types, {str(field): int(offset) for field, offset in data["code"].items()})
