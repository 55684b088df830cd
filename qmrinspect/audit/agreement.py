"""Forecast beside fact
--------------------

The same devices on several builds: what was foretold on one for the policy of another, and
what the other did.  A build's counts leave a pair of policies; what it does tells which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..documents import ForecastJson, HuntRow
from ..ledger.policies import POLICIES, by_name
from ..search.memory import GROWING, UNREACHABLE
from .growth import GROWS
from .outcome import ALL_FINALIZED, UNJUDGED, Outcome

__all__ = ["Agreement", "Cell", "agreement", "agrees"]

_MESSAGE = re.compile(r"(\w+): [Aa]ssertion (?:`(.*?)' failed|failed: \((.*?)\))")
_NO_OBJECTS = (GROWING, UNREACHABLE, GROWS)


class Cell(NamedTuple):
    """What was foretold on one build, or from one source, of another.

    :param wrong: the devices for which fact and forecast differ, with both.
    """

    right: int
    total: int
    wrong: Sequence[str]


class Agreement(NamedTuple):
    """Several builds, compared.

    :param builds: their names, in order.
    :param policies: by build, the policies that it may follow after all: those with the fewest
        facts against them.
    :param cells: by source, build that foretold, and build that did.
    :param sure: by build, what was sure before anything was unplugged.
    """

    builds: Sequence[str]
    policies: Mapping[str, Sequence[str]]
    cells: Mapping[tuple[str, str, str], Cell]
    sure: Mapping[str, Cell]


def agrees(foretold: ForecastJson, row: HuntRow) -> bool:
    """Whether a device did what was foretold: outcome, cause, and the assertion of a crash.

    :param foretold: one policy's entry of ``forecast.policies``.
    """
    assertion = foretold.get("assertion")
    if assertion or row["outcome"] == "crash":
        said = _MESSAGE.search(row["text"])
        if not assertion or said is None:
            return False
        return bool(
            said[1] == assertion["function"] and (said[2] or said[3]) == assertion["expression"]
        )
    if foretold["outcome"] == "clean":
        return _has_ended(row)
    return bool(foretold["outcome"] == row["outcome"] and foretold["cause"] == row["cause"])


def _has_ended(row: HuntRow) -> bool:
    """Whether the device and its objects went: no policy decides over what is none."""
    return row["outcome"] in ALL_FINALIZED or row["cause"] in _NO_OBJECTS


def agreement(rows: Iterable[HuntRow]) -> Agreement:
    """Compare the rows of several builds, each with its ``build``."""
    by: dict[str, dict[str, HuntRow]] = {}
    for row in rows:
        by.setdefault(row["build"], {})[row["device"]] = row
    builds = list(by)
    policies = {build: _distinguished(by, build) for build in builds}
    cells = {}
    for source in ("pinned", "after"):
        for foretold_on in builds:
            for done_on in builds:
                cell = _cell(by, source, foretold_on, done_on, policies[done_on][0])
                if cell.total:
                    cells[source, foretold_on, done_on] = cell
    sure = {build: _sure(by, build, policies[build][0]) for build in builds}
    return Agreement(builds, policies, cells, sure)


def _counts_like(rows: Mapping[str, HuntRow]) -> list[str]:
    """Return the policies that a build may follow, as far as its counts tell."""
    name = next((row["policy"] for row in rows.values() if row["policy"]), "")
    if not name:
        return [policy.name for policy in POLICIES]
    return [policy.name for policy in POLICIES if policy.counts_like(by_name(name))]


def _distinguished(by: Mapping[str, Mapping[str, HuntRow]], build: str) -> list[str]:
    candidates = _counts_like(by[build])
    against = {
        policy: sum(
            _cell(by, source, other, build, policy).total
            - _cell(by, source, other, build, policy).right
            for source in ("pinned", "after")
            for other in by
        )
        for policy in candidates
    }
    least = min(against.values())
    return [policy for policy in candidates if against[policy] == least]


def _cell(
    by: Mapping[str, Mapping[str, HuntRow]],
    source: str,
    foretold_on: str,
    done_on: str,
    policy: str,
) -> Cell:
    right = total = 0
    wrong = []
    for device, row in by[foretold_on].items():
        fact = by[done_on].get(device)
        found = next((one for one in _foretold(row, source) if one["policy"] == policy), None)
        if found is None or fact is None or not _is_fact(fact):
            continue
        total += 1
        if agrees(found, fact):
            right += 1
        else:
            wrong.append(
                f"{device}: foretold {_gist(found)}, did {fact['outcome']} {fact['cause']}"
            )
    return Cell(right, total, wrong)


def _foretold(row: HuntRow, source: str) -> Sequence[ForecastJson]:
    forecast = row.get("forecast")
    if forecast is None:
        return ()
    if forecast["source"] == source:
        return forecast["policies"]
    return forecast.get("left") or () if source == "after" else ()


def _is_fact(row: HuntRow) -> bool:
    """Whether a device was plugged and unplugged, and its end was seen."""
    if row["outcome"] in {*UNJUDGED, Outcome.HANG}:
        return False
    # One that dies before it was unparented, in its own code, tells nothing of policies.
    return not (row["outcome"] == "crash" and row.get("forecast") is None)


def _sure(by: Mapping[str, Mapping[str, HuntRow]], build: str, policy: str) -> Cell:
    """Compare what was sure on any build while a device was plugged with what this one did."""
    right = total = 0
    wrong = []
    for rows in by.values():
        for device, row in rows.items():
            fact = by[build].get(device)
            forecast = row.get("forecast")
            plugged = forecast.get("plugged") or () if forecast else ()
            found = [one for one in plugged if one["policy"] == policy]
            if not found or found[0]["certainty"] != "sure" or fact is None:
                continue
            if fact["outcome"] in UNJUDGED:
                continue
            total += 1
            did = "clean" if _has_ended(fact) else fact["outcome"]
            if found[0]["outcome"] == did:
                right += 1
            else:
                wrong.append(f"{device}: sure of {found[0]['outcome']}, did {fact['outcome']}")
    return Cell(right, total, wrong)


def _gist(found: ForecastJson) -> str:
    assertion = found.get("assertion")
    if assertion:
        return f"{assertion['function']}: {assertion['expression']}"
    return f"{found['outcome']} {found['cause']}".strip()
