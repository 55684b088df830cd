"""The books of a machine
----------------------

All counted references of a snapshot under one policy, by the object they are on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..index import Index
from .edges import Edge
from .kinds import KINDS
from .policies import Policy
from .unseen import Unseen

__all__ = ["Book", "open_book", "open_books"]

_OVERRULING = 2


class Book:
    """The references that are explained, under one policy.

    :param on: the references on each object, by its address.
    """

    def __init__(
        self,
        index: Index,
        policy: Policy,
        edges: Sequence[Edge],
        on: Mapping[int, Sequence[Edge]],
    ) -> None:
        self.index, self.policy, self.edges, self.on = index, policy, edges, on

    def expected(self, address: int) -> int:
        """Return how many references on an object are accounted for."""
        return len(self.on.get(address, ()))

    def residual(self, address: int) -> int:
        """Return observed minus expected."""
        return self.index.snapshot.objects[address].ref - self.expected(address)


def open_book(index: Index, policy: Policy) -> Book:
    """Enter every reference of a snapshot."""
    return next(open_books(index, [policy]))


def open_books(index: Index, policies: Iterable[Policy]) -> Iterator[Book]:
    """Open a book under each policy; what they have in common is found once."""
    common: dict[str, Sequence[Edge]] = {}
    for policy in policies:
        rows = []
        for kind in KINDS:
            found = common.get(kind.name)
            if found is None:
                found = list(kind.edges(index, policy))
                if not kind.ruled:
                    common[kind.name] = found
            rows.append(found)
        yield _book(index, policy, [edge for row in rows for edge in row])


def _book(index: Index, policy: Policy, edges: Sequence[Edge]) -> Book:
    open_questions = {edge.question for edge in edges if edge.question}
    if open_questions:
        denied = {q for q in open_questions if not _counts(index, edges, q)}
        edges = [edge for edge in edges if edge.question not in denied]
    on: dict[int, list[Edge]] = defaultdict(list)
    for edge in edges:
        on[edge.target].append(edge)
    return Book(index, policy, edges, on)


def _counts(index: Index, edges: Sequence[Edge], question: str) -> bool:
    """Answer whether QEMU counts the references of a question, by what balances.

    Each object that has some of them votes.  One voice may be a leak's: where there is a
    presumption it takes two to overrule it, and what an object lacks on which there may be
    references that nobody searched for counts only where no other object says the opposite.
    """
    objects = index.snapshot.objects
    asked: Counter[int] = Counter()
    sure: Counter[int] = Counter()
    presumed = ""
    for edge in edges:
        if edge.question == question:
            asked[edge.target] += 1
            presumed = edge.presumed
    for edge in edges:
        if edge.target in asked and edge.question != question:
            sure[edge.target] += 1
    votes = against = doubtful = 0
    unseen = Unseen(index) if presumed else None
    for address, count in asked.items():
        if address in objects:
            without = objects[address].ref - sure[address]
            if abs(without - count) > abs(without):
                against += 1
            elif abs(without - count) < abs(without):
                if unseen is not None and unseen.kinds_on(address):
                    doubtful += 1
                else:
                    votes += 1
    votes += (0 if against else doubtful) - against
    if presumed and abs(votes) < _OVERRULING:
        return presumed == "yes"
    return votes > 0
