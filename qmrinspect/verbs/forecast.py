"""The forecast
------------

What unplugging would do under each policy: of an object, of all that was unplugged and is
still there, or of the pairs of regions of the machine as it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..audit import choose, orphan_groups
from ..audit.boot import CHILD_REGION, FOREIGN, SAME_OWNER, Pairs, mapped, pairs_of
from ..audit.forecast import Forecaster, all_policies
from ..audit.unrealize import Key, Prospect, Tie, prospects
from ..errors import TargetError, UsageError
from ..hunt.rows import forecast_json
from ..index import Index
from ..ledger import Book
from ..report import render, words
from ..report.forecasts import forecast_lines, gist
from ..report.render import Row
from ..text import printable
from .policy import policy_json
from .verb import Outcome, Session

__all__ = ["run_forecast"]

_PAIRS_SHOWN = 6
_LEARNED_MAX = 1 << 20


def run_forecast(session: Session, args: argparse.Namespace) -> Outcome:
    if args.boot and args.object:
        raise UsageError("forecast takes an object or --boot, not both")
    index = Index(session.snapshot())
    address = session.resolve(index, args.object).address if args.object else 0
    learned = _learned(args.learned) if args.learned else {}
    verdict, book = choose(index)
    head = {
        **words.head_json("qmr-forecast/1", index.snapshot),
        "policy": policy_json(verdict),
    }
    forecaster = Forecaster(book)
    if args.boot:
        found = list(pairs_of(forecaster, all_policies()))
        data = {
            **head,
            "pairs": [_pairs_json(index, pairs) for pairs in found],
            "mapped": [
                {"container": words.object_json(index, container), "regions": count}
                for container, count in sorted(mapped(book).items())
            ],
        }
        return Outcome(data, _boot_lines(book, found))
    if address:
        documents = [_of_object(forecaster, address, learned)]
    else:
        groups = orphan_groups(book)
        documents = [_after(forecaster, group.head, group.members) for group in groups]
    lines = _lines(documents) if documents else ["nothing was unplugged and is still there"]
    return Outcome({**head, "objects": documents}, lines)


# Of objects ------------------------------------------------------------------------


def _of_object(
    forecaster: Forecaster, address: int, learned: Mapping[str, Sequence[Key]]
) -> dict[str, Any]:
    book, index = forecaster.book, forecaster.book.index
    obj = index.snapshot.objects[address]
    for group in orphan_groups(book):
        if group.head == address:
            return _after(forecaster, address, group.members)
    parent = index.path(obj.parent) if obj.parent else ""
    if address not in index.snapshot.devices and parent not in ("/objects", "/chardevs"):
        raise UsageError(
            f"{words.name(index, address)} is no device, and nothing that QEMU unplugs",
            "name a device, an object or a chardev; qmr forecast --boot tells of all regions",
        )
    ties, found = prospects(forecaster, all_policies(), address, learned=learned.get(obj.type))
    return {
        "object": words.object_json(index, address),
        "source": "plugged",
        "policies": [_prospect_json(prospect) for prospect in found],
        "decides": [_tie_json(tie) for tie in ties],
    }


def _after(forecaster: Forecaster, head: int, members: Sequence[int]) -> dict[str, Any]:
    found = [forecaster.of(policy, head, members) for policy in all_policies()]
    return {
        "object": words.object_json(forecaster.book.index, head),
        "source": "after",
        "policies": [{**forecast_json(one), "certainty": "exact"} for one in found],
        "decides": [],
    }


def _prospect_json(prospect: Prospect) -> dict[str, Any]:
    answer = prospect.forecast
    blank = {"source": "plugged", "outcome": None, "cause": "", "text": "", "assertion": None}
    return {
        "policy": prospect.policy.name,
        "certainty": prospect.certainty,
        **(forecast_json(answer) if answer is not None else {**blank, "left": []}),
        "if_nothing": forecast_json(prospect.nothing),
        "if_everything": forecast_json(prospect.everything),
    }


def _tie_json(tie: Tie) -> dict[str, Any]:
    return {
        "kind": tie.key[0],
        "key": list(tie.key),
        "region": words.hex_text(tie.region),
        "container": words.hex_text(tie.container),
        "text": tie.text,
    }


_SOURCES = {
    "after": "was unplugged and is still there: what unrealize left is seen",
    "plugged": "is plugged: what its unrealize would end is not seen",
}


def _lines(documents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for document in documents:
        item = document["object"]
        name = printable(item["id"] or item["path"] or item["address"])
        yield f"{name} ({printable(item['type'])}) {_SOURCES[document['source']]}"
        yield from forecast_lines(document)


def _learned(path: str) -> dict[str, list[Key]]:
    """Read what outlived unrealize, by device type, from the output of a hunt.

    :raises TargetError: the file cannot be read, or is none.
    """
    out: dict[str, list[Key]] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line[:_LEARNED_MAX])
                foretold = row.get("forecast") if isinstance(row, dict) else None
                if foretold and foretold["source"] == "pinned":
                    keys = foretold["outlived"]
                    out[str(row["device"])] = [tuple(str(part) for part in key) for key in keys]
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TargetError(
            f"{path} is not the output of a hunt",
            "make it with: qmr hunt --forecast --json DRIVER > FILE",
        ) from None
    return out


# Of a machine as it runs -----------------------------------------------------------

_SORTS = {
    SAME_OWNER: "its own",
    CHILD_REGION: "of a device below it",
    FOREIGN: "of another device",
}


def _pairs_json(index: Index, pairs: Pairs) -> dict[str, Any]:
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


def _boot_lines(book: Book, found: Sequence[Pairs]) -> Iterator[str]:
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
        yield from _pairs_lines(index, pairs)


def _pairs_lines(index: Index, pairs: Pairs) -> Iterator[str]:
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
    told: dict[str, list[str]] = {}
    for one in pairs.forecasts:
        told.setdefault(gist(forecast_json(one)), []).append(one.policy.name)
    for text, names in told.items():
        yield f"    {', '.join(names)}: {text}"
