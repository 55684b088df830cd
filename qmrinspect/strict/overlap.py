"""What needs no instance
---------------------

Two fields of a structure never overlap, and the fields of a QOM type's structure lie behind
those of the parent type's.
"""

from __future__ import annotations

from ..snapshot import Snapshot
from ..walk.validate import SIZED_TYPES
from .tally import Tally

__all__ = ["relate"]


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count them."""
    layout, types = tally.context.layout, tally.context.types
    for struct, row in layout.structs.items():
        spans = sorted(
            (offset, offset + size, field) for field, (offset, size) in row.fields.items()
        )
        for (_, end, first), (start, _, second) in zip(spans, spans[1:]):
            if start < end:
                fields = f"{struct}.{first} {struct}.{second}"
                put = tally.asks(f"{struct}.{first} ends before {second}", fields, False)
                if put:
                    put(False)
    for name, struct in SIZED_TYPES.items():
        if name not in types or struct not in layout.structs or not types[name].parent:
            continue
        parent = types.get(types[name].parent)
        for field, (offset, _) in layout.structs[struct].fields.items():
            full = f"{struct}.{field}"
            put = tally.asks(f"{full} lies behind what the parent type has", full, False)
            if put and parent is not None:
                put(offset >= parent.size)
