"""The thread's own rules
----------------------

"Keep a reference to a memory region if it is visible to the guest" is the one
principle that all sides of the thread accept.  A region that a flat view
in use shows, and whose owner has fewer references than the views alone need,
breaks it; so does a container that still lists a region which was finalized.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..ledger import Book, Edge
from ..text import printable
from .finding import Finding, Severity

__all__ = ["finalized_subregions", "visible_unreferenced"]

_OF_A_VIEW = frozenset(("flat-range", "dispatch-section"))


def visible_unreferenced(book: Book) -> Iterator[Finding]:
    """Yield the owners that do not carry the references for what the guest can reach."""
    snapshot = book.index.snapshot
    shown: dict[int, set[int]] = defaultdict(set)
    for space in snapshot.spaces.values():
        view = snapshot.views.get(space.view)
        for flat in view.ranges if view else ():
            region = snapshot.regions.get(flat.mr)
            if region is not None and region.owner:
                shown[region.owner].add(region.address)
    for owner, regions in sorted(shown.items()):
        obj = snapshot.objects.get(owner)
        edges = [edge for edge in book.on.get(owner, ()) if edge.kind in _OF_A_VIEW]
        observed = obj.ref if obj else 0
        needed = len(edges)
        if observed >= needed:
            continue
        names = ", ".join(sorted(printable(snapshot.regions[r].name) for r in regions)[:6])
        text = (
            f"the guest can reach {names} of {book.index.label(owner)}, which has {observed} "
            f"references where the flat views alone need {needed}"
        )
        yield Finding(
            "visible-unreferenced", Severity.ERROR, owner, observed, needed, tuple(edges), text
        )


def finalized_subregions(book: Book) -> Iterator[Finding]:
    """Yield the containers that list a region which is alive no more.

    A region that is finalized leaves its container under ``owner-shared``; under
    the other policies it must have left before.
    """
    regions = book.index.snapshot.regions
    rule = (
        "finalizing a region detaches it"
        if book.policy.finalizing.leaves
        else "a region in a container must not be finalized"
    )
    for region in regions.values():
        for gone in region.subregions:
            if gone in regions:
                continue
            label = book.index.label(region.address)
            edge = Edge("subregion", gone, region.address, region.owner, "MemoryRegion.subregions")
            text = (
                f"{label} lists a subregion at {gone:#x} that is no live region; under "
                f"{book.policy.name} {rule}"
            )
            yield Finding("dangling", Severity.ERROR, gone, 0, 1, (edge,), text)
