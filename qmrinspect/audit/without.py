"""Before the plug
---------------
"""

from __future__ import annotations

from ..index import Index
from ..ledger import Book
from .cause import descends
from .graph import source

__all__ = ["without"]


def without(book: Book, device: int) -> Book:
    """Return the books as if a device and all that came with it had not been there.

    What never has a parent came with it when the device alone holds it.
    """
    snapshot = book.index.snapshot
    gone = {a for a in snapshot.objects if descends(book, a, device)}
    for address in snapshot.objects.keys() - gone:
        holders = {source(book, edge) for edge in book.on.get(address, ())}
        if holders and holders <= gone:
            gone.add(address)
    kept = {a: obj for a, obj in snapshot.objects.items() if a not in gone}
    return Book(Index(snapshot._replace(objects=kept)), book.policy, book.edges, book.on)
