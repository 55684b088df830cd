"""Which policy a QEMU follows
---------------------------

Found by which one balances the books of the running machine, never by version:
distributions carry patches back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from ..index import Index
from ..ledger import POLICIES, Book, Policy, open_books
from ..snapshot import Snapshot
from ..tuples import NamedTuple

__all__ = ["Verdict", "book_of", "choose"]

# The policies that take the same references, by the first of them, which counts for all.
_ALIKE = {
    policy.name: tuple(other for other in POLICIES if other.counts_like(policy))
    for policy in POLICIES
    if policy is next(other for other in POLICIES if other.counts_like(policy))
}


class Verdict(NamedTuple):
    """The policy that fits best, and what speaks for and against each.

    :param policy: by whose rule the references are counted.
    :param candidates: the policies that this QEMU may follow, as far as its counts tell: all
        that take the same references, or all that there are where no region tells.
    :param votes: by policy name, (regions for, regions against).  A region
        votes when it sits in a container of its own owner, the one case in which
        the policies differ, and only one way of counting balances its books.
    :param undecided: regions of that sort whose books fit none, or several.
    :param mixed: whether regions speak for more than one rule: a backport.
    """

    policy: Policy
    candidates: tuple[Policy, ...]
    votes: Mapping[str, tuple[int, int]]
    undecided: int
    mixed: bool

    @property
    def supporting(self) -> int:
        """Regions that speak for the policy."""
        return self.votes[self.policy.name][0]

    @property
    def opposing(self) -> int:
        """Regions that speak against it."""
        return self.votes[self.policy.name][1]

    @property
    def decided(self) -> bool:
        """Whether the counts leave no policy that counts otherwise."""
        return all(policy.counts_like(self.policy) for policy in self.candidates)


def book_of(snapshot: Snapshot) -> Book:
    """Open the book of a snapshot, under the policy that :func:`choose` finds."""
    return choose(Index(snapshot))[1]


def choose(index: Index) -> tuple[Verdict, Book]:
    """Calibrate on all regions and return the verdict with the books under that policy."""
    books = dict(zip(_ALIKE, open_books(index, (alike[0] for alike in _ALIKE.values()))))
    says = _evidence(index, books)
    decided = [name for name in books if says[name]]
    votes = {
        policy.name: (says[name], sum(says[other] for other in decided if other != name))
        for name, alike in _ALIKE.items()
        for policy in alike
    }
    wrong = {name: _imbalance(book) for name, book in books.items()}
    best = max(books, key=lambda name: (votes[name][0] - votes[name][1], -wrong[name]))
    # Without a vote all are left whose books are no worse than the best.
    left = (best,) if decided else tuple(name for name in books if wrong[name] <= wrong[best])
    candidates = tuple(policy for policy in POLICIES if any(policy in _ALIKE[n] for n in left))
    mixed = len(decided) > 1
    return Verdict(_ALIKE[best][0], candidates, votes, says["undecided"], mixed), books[best]


def _imbalance(book: Book) -> int:
    # Of each book and object: this is as much as the rest of a verdict.
    on, objects = book.on, book.index.snapshot.objects
    return sum(abs(obj.ref - len(on.get(address, ()))) for address, obj in objects.items())


def _evidence(index: Index, books: Mapping[str, Book]) -> Counter[str]:
    """Let the same-owner regions of each owner say which way of counting fits them.

    The references of all regions of an owner are on one count, so they are
    judged together: by the rule under which the owner and all these regions
    balance.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    regions = index.snapshot.regions
    for region in regions.values():
        container = regions.get(region.container)
        if container is not None and region.owner and region.owner == container.owner:
            groups[region.owner].append(region.address)
    says: Counter[str] = Counter()
    for owner, members in groups.items():
        fits = [
            name
            for name, book in books.items()
            if owner in index.snapshot.objects
            and all(book.residual(address) == 0 for address in (owner, *members))
        ]
        says[fits[0] if len(fits) == 1 else "undecided"] += len(members)
    return says
