"""The pairs of regions of a machine, in words
-------------------------------------------
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..audit.boot import CHILD_REGION, FOREIGN, SAME_OWNER, Pairs, mapped
from ..audit.forecast import all_policies
from ..hunt.rows import forecast_json
from ..index import Index
from ..ledger import Book
from ..text import printable
from . import render, words
from .forecasts import gist
from .render import Row

__all__ = ["pair_lines", "pairs_json"]

_PAIRS_SHOWN = 6

_SORTS = {
    SAME_OWNER: "its own",
    CHILD_REGION: "of a device below it",
    FOREIGN: "of another device",
}


def pairs_json(index: Index, pairs: Pairs) -> dict[str, object]:
    """Return the pairs of one owner for ``--json``."""
    regions = index.snapshot.regions
    return {
        "owner": words.object_json(index, pairs.owner),
        "sort": pairs.sort,
        "pairs": [
            {
                "region": words.hex_text(region),
                "region_name": regions[region].name,
                "region_owner": index.label(regions[region].owner),
                "container": words.hex_text(container),
                "container_name": regions[container].name,
                "references": {
                    policy.name: _referenced(
                        policy.referenced(regions[region], regions[container]), region
                    )
                    for policy in all_policies()
                },
            }
            for region, container in pairs.pairs
        ],
        "policies": [forecast_json(one) for one in pairs.forecasts],
    }


def _referenced(target: int, region: int) -> str:
    return "nothing" if not target else "region" if target == region else "owner"


def pair_lines(book: Book, found: Sequence[Pairs]) -> Iterator[str]:
    """Yield the pairs of a machine: a line an owner, then each with its reasons."""
    index = book.index
    counts = {sort: sum(len(p.pairs) for p in found if p.sort == sort) for sort in _SORTS}
    yield (
        f"{render.plural(sum(counts.values()), 'pair')} of a container and a region that both have "
        f"an owner: {counts[SAME_OWNER]} of one owner, {counts[CHILD_REGION]} of a device and one "
        f"below it, {counts[FOREIGN]} of two others"
    )
    everywhere = sum(mapped(book).values())
    if everywhere:
        yield (
            f"{render.plural(everywhere, 'region')} more in containers without an owner, such as "
            "system memory: under every policy these hold the device until it is taken out"
        )
    names = [policy.name for policy in all_policies()]
    rows = [
        Row(
            (
                words.name(index, pairs.owner),
                f"{len(pairs.pairs)} {_SORTS[pairs.sort]}",
                *(found.outcome.outcome for found in pairs.forecasts),
            )
        )
        for pairs in found
        if pairs.forecasts
    ]
    yield from render.table(("containers of", "regions", *names), rows)
    if rows:
        yield (
            "if the owner goes, its code ends everything else, and nobody calls "
            "memory_region_del_subregion for these"
        )
    for pairs in found:
        yield from _owner_lines(index, pairs)


def _owner_lines(index: Index, pairs: Pairs) -> Iterator[str]:
    regions = index.snapshot.regions
    yield f"{words.name(index, pairs.owner)}: regions {_SORTS[pairs.sort]} in its containers"
    for region, container in pairs.pairs[:_PAIRS_SHOWN]:
        whose = ""
        if pairs.sort != SAME_OWNER:
            whose = f" of {index.label(regions[region].owner)}"
        inner, outer = (printable(regions[a].name) for a in (region, container))
        yield f'    "{inner}"{whose} in "{outer}"'
    if len(pairs.pairs) > _PAIRS_SHOWN:
        yield f"    and {len(pairs.pairs) - _PAIRS_SHOWN} more"
    alike: dict[str, list[str]] = {}
    for one in pairs.forecasts:
        alike.setdefault(gist(forecast_json(one)), []).append(one.policy.name)
    for text, names in alike.items():
        yield f"    {', '.join(names)}: {text}"
