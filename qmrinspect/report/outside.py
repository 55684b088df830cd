"""Objects outside the QOM tree, in words
--------------------------------------
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..audit import orphan_groups
from ..ledger import Book
from ..text import printable
from . import render, words
from .render import Row

__all__ = ["lost_members", "outside_json", "outside_lines"]


def lost_members(book: Book) -> set[int]:
    """Return the objects that leaked, with all that came with them."""
    return {member for group in orphan_groups(book) for member in group.members}


def _found(book: Book, lost: Collection[int]) -> list[int]:
    index, objects = book.index, book.index.snapshot.objects
    return sorted(
        (address for address in objects if not index.in_tree(address)),
        key=lambda address: (address not in lost, objects[address].type, index.label(address)),
    )


def outside_json(book: Book, lost: Collection[int]) -> dict[str, object]:
    """Return the objects that the QOM tree does not have, those that leaked first."""
    index, objects = book.index, book.index.snapshot.objects
    return {
        **words.head_json("qmr-tree/1", index.snapshot),
        "root": None,
        "objects": [
            {
                **words.object_json(index, address),
                "depth": 0,
                "observed": objects[address].ref,
                "expected": book.expected(address),
                "leaked": address in lost,
                "references": words.references(index, book.on.get(address, ())),
            }
            for address in _found(book, lost)
        ],
    }


def outside_lines(book: Book, lost: Collection[int]) -> Iterator[str]:
    """Yield the same for people, each with its first holder."""
    index, objects = book.index, book.index.snapshot.objects
    rows = []
    found = _found(book, lost)
    for address in found:
        edges = book.on.get(address, ())
        holders = [f"{edge.kind}: {words.holder_text(book, edge)}" for edge in edges[:1]]
        holders += [f"and {len(edges) - 1} more"] * (len(edges) > 1)
        obj = objects[address]
        rows.append(
            Row(
                (
                    index.label(address),
                    printable(obj.type),
                    f"{obj.ref}/{book.expected(address)}",
                    "leaked" if address in lost else "",
                    ", ".join(holders) or "nothing that qmr knows",
                    words.hex_text(address),
                ),
                "error" if address in lost else None,
            )
        )
    yield from render.table(("object", "type", "refs", "", "held by", "address"), rows, right=(2,))
    kept = len(found) - len(lost)
    yield (
        f"{render.plural(len(found), 'object')} outside the tree: {len(lost)} leaked, "
        f"{kept} as QEMU keeps {'it' if kept == 1 else 'them'}"
    )
