"""The pairs of regions of a machine as it runs
--------------------------------------------

Before commit 2e2b8eb70fdb7dfb (2.5) a region had to be empty, and in no container, when it was
finalized.  Here are the pairs of a container and a region that break this ideal when the
container's owner goes and nobody calls ``memory_region_del_subregion``: those of one owner,
and those in which a container of device A holds a region of a device B below A, with what
each policy makes of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..ledger import Book, Policy
from .cause import descends
from .forecast import Forecast, Forecaster
from .unrealize import foretell_without

__all__ = ["CHILD_REGION", "FOREIGN", "SAME_OWNER", "Pairs", "mapped", "pairs_of"]

SAME_OWNER = "same-owner"
CHILD_REGION = "child-region"
FOREIGN = "foreign"


class Pair(NamedTuple):
    """A region and the container that it is in."""

    region: int
    container: int


class Pairs(NamedTuple):
    """The pairs of one owner of containers, of one sort.

    :param owner: of the containers: A, who goes.
    :param sort: ``same-owner``, ``child-region`` (the region is of a device below the owner: A,
        C_A, B and R_B) or ``foreign`` (of another one).
    :param forecasts: what each policy makes of it when the owner goes, has undone everything
        else, and left these pairs; none for ``foreign``, where nothing goes with the owner.
    """

    owner: int
    sort: str
    pairs: Sequence[Pair]
    forecasts: Sequence[Forecast]


def pairs_of(forecaster: Forecaster, policies: Sequence[Policy]) -> Iterator[Pairs]:
    """Yield the pairs of a machine, owner by owner in the order of their paths.

    Containers and regions without an owner (system memory, say) are left out: they never go.
    """
    book = forecaster.book
    found: dict[tuple[int, str], list[Pair]] = defaultdict(list)
    regions = book.index.snapshot.regions
    for region in regions.values():
        container = regions.get(region.container)
        if container is None or not container.owner or not region.owner:
            continue
        sort = _sort(book, region.owner, container.owner)
        found[container.owner, sort].append(Pair(region.address, container.address))
    order = (SAME_OWNER, CHILD_REGION, FOREIGN)
    for owner, sort in sorted(
        found, key=lambda key: (book.index.label(key[0]), order.index(key[1]))
    ):
        pairs = found[owner, sort]
        forecasts: tuple[Forecast, ...] = ()
        if sort != FOREIGN:
            kept = {(pair.region, pair.container) for pair in pairs}
            forecasts = tuple(foretell_without(forecaster, policies, owner, kept))
        yield Pairs(owner, sort, tuple(pairs), forecasts)


def mapped(book: Book) -> Counter[int]:
    """Count the regions of devices in each container that has no owner, as system memory.

    Such a container never goes; under every policy it holds the region's owner until
    somebody takes the region out.
    """
    regions = book.index.snapshot.regions
    pairs = ((r, regions.get(r.container)) for r in regions.values() if r.owner)
    return Counter(c.address for _, c in pairs if c is not None and not c.owner)


def _sort(book: Book, inner: int, outer: int) -> str:
    if inner == outer:
        return SAME_OWNER
    return CHILD_REGION if descends(book, inner, outer) else FOREIGN
