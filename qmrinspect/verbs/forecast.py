"""The forecast
------------

What unplugging would do under each policy: of an object, of all that was unplugged and is
still there, or of the pairs of regions of the machine as it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from ..audit import choose, orphan_groups
from ..audit.boot import mapped, pairs_of
from ..audit.forecast import Forecaster, all_policies
from ..audit.unrealize import Key, prospects
from ..documents import ForecastDocument
from ..errors import UsageError
from ..hunt.foretell import read_outlived
from ..index import Index
from ..report import words
from ..report.forecasts import document_lines, exact_json, prospect_json, tie_json
from ..report.pairs import pair_lines, pairs_json
from ..report.policies import policy_json
from .verb import Answer, Session

__all__ = ["run_forecast"]


def run_forecast(session: Session, args: argparse.Namespace) -> Answer:
    """Say what an unplug would do under each policy (``qmr-forecast/1``)."""
    if args.boot and args.object:
        raise UsageError("forecast takes an object or --boot, not both")
    index = Index(session.snapshot())
    address = session.resolve(index, args.object).address if args.object else None
    learned = read_outlived(args.learned) if args.learned else {}
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
            "pairs": [pairs_json(index, pairs) for pairs in found],
            "mapped": [
                {"container": words.object_json(index, container), "regions": count}
                for container, count in sorted(mapped(book).items())
            ],
        }
        return Answer(data, pair_lines(book, found))
    if address is not None:
        documents = [_of_object(forecaster, address, learned)]
    else:
        groups = orphan_groups(book)
        documents = [_after(forecaster, group.root, group.members) for group in groups]
    lines = document_lines(documents) if documents else ["nothing was unplugged and is still there"]
    return Answer({**head, "objects": documents}, lines)


# Of objects ------------------------------------------------------------------------


def _of_object(
    forecaster: Forecaster, address: int, learned: Mapping[str, Sequence[Key]]
) -> ForecastDocument:
    book, index = forecaster.book, forecaster.book.index
    obj = index.snapshot.objects[address]
    for group in orphan_groups(book):
        if group.root == address:
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
        "policies": [prospect_json(prospect) for prospect in found],
        "decides": [tie_json(tie) for tie in ties],
    }


def _after(forecaster: Forecaster, head: int, members: Sequence[int]) -> ForecastDocument:
    found = [forecaster.of(policy, head, members) for policy in all_policies()]
    return {
        "object": words.object_json(forecaster.book.index, head),
        "source": "after",
        "policies": [exact_json(one) for one in found],
        "decides": [],
    }
