"""In use
------

Who holds an object besides the QOM tree, and what was deleted while somebody used it.
"""

from __future__ import annotations

from ..ledger import Book, Edge
from .graph import TRANSIENT, source

__all__ = ["holders_of", "used_text"]

# What holds an object for being where it is, and not for using it.
_PLACES = frozenset(("child", "initial", "bus-child"))


def holders_of(book: Book, address: int) -> list[Edge]:
    """Return the counted references of others that use an object."""
    return [
        edge
        for edge in book.on.get(address, ())
        if edge.kind not in _PLACES
        and edge.kind not in TRANSIENT
        and source(book, edge) not in (0, address)
    ]


def used_text(book: Book, address: int) -> str:
    """Return the sentence on what was deleted and is used, in every verb."""
    index = book.index
    users = ", ".join(
        dict.fromkeys(
            f"{index.label(source(book, edge))} by {edge.field}"
            for edge in holders_of(book, address)
        )
    )
    return f"{index.label(address)} was deleted, and is still used by {users}: no leak"
