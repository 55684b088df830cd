"""Which policy a QEMU follows
---------------------------

Found by which one balances the books of the running machine, never by version:
distributions carry patches back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from ..index import Index
from ..ledger import POLICIES, Book, Policy, open_book

__all__ = ["Verdict", "choose"]

# What a region's own books say for, by the reference that was found for it.
_SAYS = {
    "owner": ("owner-ref", "strict"),
    "region": ("subregion-ref",),
    "nothing": ("owner-shared",),
}


class Verdict(NamedTuple):
    """The policy that fits best, and what speaks for and against each.

    :param votes: by policy name, (regions for, regions against).  A region
        votes when it sits in a container of its own owner, the one case in which
        the policies differ, and only one of them balances its books.
    :param undecided: regions of that sort whose books fit none, or several.
    :param mixed: whether regions speak for more than one rule: a backport.
    """

    policy: Policy
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


def choose(index: Index) -> tuple[Verdict, Book]:
    """Calibrate on all regions and return the verdict with the books under that policy.

    Two policies whose counts are the same (``strict`` and ``owner-ref`` differ in
    what finalizing does) go to the one that comes first in the list of policies.
    """
    books = {policy.name: open_book(index, policy) for policy in POLICIES}
    says = _evidence(index, books)
    votes = {
        name: (
            sum(n for rule, n in says.items() if name in _SAYS.get(rule, ())),
            sum(n for rule, n in says.items() if rule in _SAYS and name not in _SAYS[rule]),
        )
        for name in books
    }
    best = max(
        POLICIES,
        key=lambda policy: (
            votes[policy.name][0] - votes[policy.name][1],
            -_imbalance(books[policy.name]),
            -POLICIES.index(policy),
        ),
    )
    decided = [rule for rule in _SAYS if says[rule]]
    return Verdict(best, votes, says["undecided"], len(decided) > 1), books[best.name]


def _imbalance(book: Book) -> int:
    return sum(abs(book.residual(address)) for address in book.index.snapshot.objects)


def _evidence(index: Index, books: Mapping[str, Book]) -> Counter[str]:
    """Let the same-owner regions of each owner say which rule fits them.

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
            rule
            for rule, names in _SAYS.items()
            if owner in index.snapshot.objects
            and all(books[names[0]].residual(address) == 0 for address in (owner, *members))
        ]
        says[fits[0] if len(fits) == 1 else "undecided"] += len(members)
    return says
