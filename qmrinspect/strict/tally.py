"""Counting
--------
"""

from __future__ import annotations

from typing import Callable

from ..records.context import Context, Record
from ..target.image import Unreadable
from ..tuples import NamedTuple

__all__ = ["Relation", "Tally"]

# Objects that are being made or finalized break a relation for an instant.
_TOLERANCE = 0.02

Put = Callable[[bool], None]


class Relation(NamedTuple):
    """One relation: in how many instances it holds, of those that show it.

    :param fields: ``Struct.field`` of each field that it rests on.
    :param proof: whether it proves them where it holds; what a row of zeros would keep as well
        can only be broken.
    """

    fields: tuple[str, ...]
    held: int
    total: int
    proof: bool

    @property
    def ok(self) -> bool:
        """Whether it holds; what nothing shows is not broken."""
        return self.total - self.held <= int(self.total * _TOLERANCE)

    @property
    def seen(self) -> bool:
        """Whether instances prove it."""
        return self.proof and self.held > 0 and self.ok


class Tally:
    """Collects relations.

    :param context: an image and the layout under which it is read.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        #: What was counted, by the name of the relation.
        self.relations: dict[str, Relation] = {}

    def asks(self, name: str, fields: str, proof: bool = True) -> Put | None:
        """Return what counts the instances of a relation; None where a field is absent.

        :param name: the relation in words.
        :param fields: those it rests on, separated by blanks.
        :param proof: as in :class:`Relation`.
        """
        names = tuple(fields.split())
        if not all(self.context.layout.has(*field.split(".")) for field in names):
            return None
        self.relations.setdefault(name, Relation(names, 0, 0, proof))

        def put(held: bool) -> None:
            old = self.relations[name]
            self.relations[name] = Relation(names, old.held + bool(held), old.total + 1, proof)

        return put

    def has(self, fields: str) -> bool:
        """Whether the layout has all fields, separated by blanks."""
        return all(self.context.layout.has(*field.split(".")) for field in fields.split())

    def word(self, address: int) -> int:
        """Return the word at an address, 0 when it is not there."""
        try:
            return self.context.image.u64(address)
        except Unreadable:
            return 0

    def record(self, struct: str, address: int) -> Record | None:
        """Read a structure, None when it is not there or unknown."""
        if struct not in self.context.layout.structs:
            return None
        try:
            return self.context.record(struct, address)
        except Unreadable:
            return None

    def text(self, address: int) -> str | None:
        """Return the C string at an address, None when there is none."""
        try:
            return self.context.image.string(address, 4096)
        except Unreadable:
            return None

    def offset(self, field: str) -> int:
        """Return the offset of ``Struct.field`` in bytes."""
        return self.context.layout.offset(*field.split("."))
