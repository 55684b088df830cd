"""The books of a machine
----------------------

All counted references of a snapshot under one policy, by the object they are on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..index import Index
from .edges import Edge
from .kinds import KINDS
from .policies import Policy

__all__ = ["Book", "open_book"]


@dataclass(frozen=True)
class Book:
    """The references that are explained, under one policy.

    :param on: the references on each object, by its address.
    """

    index: Index
    policy: Policy
    edges: Sequence[Edge]
    on: Mapping[int, Sequence[Edge]]

    def expected(self, address: int) -> int:
        """Return how many references on an object are accounted for."""
        return len(self.on.get(address, ()))

    def residual(self, address: int) -> int:
        """Return observed minus expected."""
        return self.index.snapshot.objects[address].ref - self.expected(address)


def open_book(index: Index, policy: Policy) -> Book:
    """Enter every reference of a snapshot."""
    edges: list[Edge] = []
    on: dict[int, list[Edge]] = defaultdict(list)
    for kind in KINDS:
        for edge in kind.edges(index, policy):
            edges.append(edge)
            on[edge.target].append(edge)
    return Book(index, policy, edges, on)
