"""What cannot be judged
---------------------

A QEMU may lack, or hide, fields that some kinds of references rest on: what such a field
would hold is then neither explained nor a finding.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..index import Index
from ..references import KINDS
from ..snapshot import Unsearched
from ..tuples import NamedTuple

__all__ = ["NotJudged", "Unseen"]

_ON = {kind.name: kind.on for kind in KINDS}
_RAM = ("ram", "rom", "romd")


class NotJudged(NamedTuple):
    """An object with more references than were found, which unseen holders may have.

    :param kinds: the kinds of references that this QEMU was not searched for.
    """

    address: int
    observed: int
    expected: int
    kinds: Sequence[str]


class Unseen:
    """The holders that may be there, and were not searched for."""

    def __init__(self, index: Index) -> None:
        self._index = index
        snapshot = index.snapshot
        live = {obj.type for obj in snapshot.objects.values()}
        there = frozenset().union(*(index.chain(name) for name in live)) if live else frozenset()
        # What has no structure in the program's own debug information is not there.
        self._rows: list[Unsearched] = [
            row
            for row in snapshot.unsearched
            if not row.absent and (not row.start or row.start in there)
        ]
        self._owners = {r.owner for r in snapshot.regions.values() if r.kind in _RAM}

    def kinds_on(self, address: int) -> list[str]:
        """Return the kinds of references that may be on an object and were not searched for."""
        return sorted({row.kind for row in self._rows if self._may_hold(row, address)})

    def _may_hold(self, row: Unsearched, address: int) -> bool:
        on = _ON.get(row.kind, "object")
        if on == "owner":
            return address in self._owners
        return on == "object" and self._index.is_a(address, row.target)
