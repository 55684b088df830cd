"""Comparing two instants
----------------------

Object by object and reference by reference, by identity: the same address, type
and path.  An address that was used again for something else is two objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..ledger import Book, Edge
from .graph import TRANSIENT

__all__ = ["Change", "Difference", "diff"]


class Change(NamedTuple):
    """An object that is in both, with the references that came and went."""

    address: int
    before: int
    after: int
    gained: Sequence[Edge]
    lost: Sequence[Edge]
    unparented: bool


class Difference(NamedTuple):
    """What lies between two snapshots.

    :param appeared: objects that only the later one has.
    :param gone: objects that only the earlier one has.
    """

    appeared: Sequence[int]
    gone: Sequence[int]
    changed: Sequence[Change]


def diff(before: Book, after: Book) -> Difference:
    """Compare two snapshots of the same QEMU."""
    old, new = before.index.snapshot.objects, after.index.snapshot.objects
    same = {
        address
        for address in old.keys() & new.keys()
        if old[address].type == new[address].type and _same_place(before, after, address)
    }
    changed = []
    for address in sorted(same):
        gained, lost = _edges(before, after, address)
        unparented = bool(old[address].parent) and not new[address].parent
        if old[address].ref != new[address].ref or gained or lost or unparented:
            changed.append(
                Change(address, old[address].ref, new[address].ref, gained, lost, unparented)
            )
    return Difference(
        tuple(sorted(new.keys() - same)), tuple(sorted(old.keys() - same)), tuple(changed)
    )


def _same_place(before: Book, after: Book, address: int) -> bool:
    """An object keeps its path, or loses it by being unparented; it never gets another."""
    old, new = before.index, after.index
    if not new.snapshot.objects[address].parent or not old.snapshot.objects[address].parent:
        return True
    one, two = old.name_of.get(address), new.name_of.get(address)
    return one is not None and two is not None and one.name == two.name


def _edges(before: Book, after: Book, address: int) -> tuple[list[Edge], list[Edge]]:
    old, new = (Counter(map(_key, book.on.get(address, ()))) for book in (before, after))
    gained = _pick(after.on.get(address, ()), new - old)
    lost = _pick(before.on.get(address, ()), old - new)
    return gained, lost


def _key(edge: Edge) -> tuple[str, int, str]:
    # Flat views are made anew at every change of the topology, and event sources with
    # every message: their address says nothing.
    anew = edge.kind in TRANSIENT or edge.kind == "watch"
    return (edge.kind, 0 if anew else edge.holder, "" if anew else edge.field)


def _pick(edges: Sequence[Edge], wanted: Counter[tuple[str, int, str]]) -> list[Edge]:
    out = []
    left = Counter(wanted)
    for edge in edges:
        if left[_key(edge)] > 0:
            left[_key(edge)] -= 1
            out.append(edge)
    return out
