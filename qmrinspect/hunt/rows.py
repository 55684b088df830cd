"""Rows
-----

What came of a cycle as plain data, ``qmr-hunt/1``: what is printed, kept, sent from
one process to another, and reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import __version__
from ..audit.forecast import Forecast
from ..audit.outcome import BAD, Outcome
from ..audit.stale import stale_json
from ..documents import (
    EdgeJson,
    ForecastJson,
    ForetoldJson,
    HuntRow,
    LeftJson,
    ReadJson,
    RegionJson,
)
from ..hotplug.unplug import Step
from ..index import Index
from ..ledger import Book, Edge
from ..ledger.documents import edge_json
from .foretell import Foretold
from .hunted import Hunted
from .judge import Left

__all__ = [
    "FORMAT",
    "Row",
    "forecast_json",
    "is_bad",
    "is_new",
    "key",
    "left_json",
    "row_of",
]

FORMAT = "qmr-hunt/1"

Row = HuntRow


def _missing(hunted: Hunted) -> str | None:
    if hunted.outcome != Outcome.REFUSED:
        return None
    return hunted.cycle.refused if hunted.cycle.step == Step.PREPARE else hunted.recipe.missing


def is_bad(row: Row) -> bool:
    """Whether a row is a finding."""
    return row.get("outcome") in BAD


def is_new(row: Row) -> bool:
    """Whether a row is a finding that is neither expected nor in the baseline."""
    return is_bad(row) and not row.get("expected") and row.get("status") != "known"


def key(row: Row) -> tuple[str, str, str]:
    """Return what makes two rows of two campaigns the same finding."""
    way = row.get("error_path")
    causes = sorted(row.get("causes") or ())
    return row["device"], row["outcome"], " ".join([*causes, *([way["property"]] if way else ())])


def _edges(index: Index | None, edges: Sequence[Edge]) -> list[EdgeJson]:
    return [edge_json(index, edge, label=True) for edge in edges] if index else []


def left_json(left: Left, after: Index | None, with_it: Index | None) -> LeftJson:
    """Return an object that remained.

    :param after: of the snapshot after the unplug, and ``with_it`` of the one with the device.
    """
    return {
        "address": hex(left.address),
        "type": left.type,
        "was": left.was,
        "observed": left.observed,
        "expected": left.expected,
        "references": _edges(after, left.references),
        "undropped": _edges(with_it, left.undropped),
    }


def row_of(hunted: Hunted) -> HuntRow:
    """Return one line of ``qmr-hunt/1``."""
    judgement, cycle = hunted.judgement, hunted.cycle
    index = hunted.after.index if hunted.after else None
    target = hunted.books[0].index.snapshot.target if hunted.books else None
    with_it = hunted.books[1].index if hunted.books[1:] else None
    row: HuntRow = {
        "format": FORMAT,
        "device": hunted.recipe.driver,
        "bus": hunted.recipe.bus or "",
        "machine": hunted.machine,
        "outcome": str(hunted.outcome),
        "cause": judgement.cause or "",
        "causes": list(dict.fromkeys(cause.name for cause in judgement.causes)),
        "cycle": hunted.number,
        "objects_left": [left_json(left, index, with_it) for left in judgement.left],
        "case": [
            {
                "cause": cause.name,
                "object": hex(cause.object),
                "text": cause.text,
                "references": _edges(index, cause.edges),
                "way_back": _edges(index, cause.way_back),
            }
            for cause in judgement.causes
        ],
        "stale": [stale_json(row, hunted.books[1].index) for row in judgement.stale],
        "candidates": [stale_json(row, hunted.books[1].index) for row in judgement.candidates],
        "event": cycle.event,
        "acknowledged_by": cycle.acknowledge or "",
        "states": {
            "requested_us": cycle.request_us or 0,
            "acknowledged_us": cycle.acknowledge_us or 0,
            "unparented_us": cycle.unparented_us or 0,
            "finalized_us": hunted.finalized_us or 0,
        },
        "plug_us": hunted.plug_us or 0,
        "unplug_us": hunted.unplug_us or 0,
        "judge_us": hunted.judge_us or 0,
        "step": str(cycle.step or ""),
        "hotpluggable": hunted.pluggable,
        "outside": _missing(hunted) or "",
        "kept": list(cycle.not_released),
        "used_by_guest": list(hunted.used),
        "qemu_version": target.qemu_version if target else "",
        "build_id": target.build_id if target else "",
        "policy": hunted.after.policy.name if hunted.after else "",
        "read": _read_json(hunted),
        "under": dict(hunted.under),
        "forecast": _foretold_json(hunted.foretold, hunted.books[1:2]),
        "text": hunted.text,
    }
    if hunted.trace is not None and hunted.after is not None:
        from ..trace.report import balance_json, recording_json

        found = hunted.trace.balances.values()
        row["trace"] = {
            **recording_json(hunted.trace.recording),
            "objects": [balance_json(hunted.after, one) for one in found],
        }
    if hunted.stays is not None:
        row["causes"] = [hunted.stays]
    if hunted.tried is not None:
        row["error_path"], row["tried"] = hunted.error_path, hunted.tried
    if hunted.frames is not None:
        row["backtrace"] = list(hunted.frames)
    if hunted.guilty is not None:
        row["after"] = list(hunted.guilty)
    if hunted.note is not None:
        row["note"] = hunted.note
    elif cycle.refused and hunted.outcome in BAD:
        row["note"] = f"{cycle.step} was refused, and not all was taken back: {cycle.refused}"
    if hunted.growth is not None:
        row["growth"] = hunted.growth
    if hunted.memory is not None:
        row["memory"] = hunted.memory.json()
    return row


def _read_json(hunted: Hunted) -> ReadJson:
    """Return what was read, where and when, and by which qmr."""
    if not hunted.books:
        return {"qmr": __version__}
    snapshot = hunted.books[0].index.snapshot
    target = snapshot.target
    return {
        "qmr": __version__,
        "host": target.host,
        "pid": target.pid,
        "exe": target.exe,
        "command": target.command,
        "at_us": snapshot.capture.at_us,
    }


def _foretold_json(foretold: Foretold | None, with_it: Sequence[Book]) -> ForetoldJson | None:
    if foretold is None:
        return None
    was = with_it[0].index if with_it else None
    return {
        "source": foretold.source,
        "policies": [forecast_json(found, was) for found in foretold.forecasts],
        "left": [forecast_json(found, was) for found in foretold.left],
        "outlived": [list(key) for key in foretold.outlived],
        "plugged": [
            {
                "policy": prospect.policy.name,
                "certainty": prospect.certainty,
                "outcome": str(prospect.forecast.outcome.outcome) if prospect.forecast else None,
            }
            for prospect in foretold.plugged
        ],
    }


def forecast_json(forecast: Forecast, was: Index | None = None) -> ForecastJson:
    """Return what one policy makes of an unplug.

    :param was: of the snapshot with the device, which knows the paths.
    """
    outcome, abort, index = forecast.outcome, forecast.abort, forecast.book.index
    objects = index.snapshot.objects
    return {
        "policy": forecast.policy.name,
        "source": forecast.source,
        "outcome": str(outcome.outcome),
        "cause": outcome.cause or "",
        "text": outcome.text,
        "assertion": None
        if abort is None
        else {
            "function": abort.function,
            "expression": abort.expression,
            "region": _region_json(index, abort.object),
            "others": [_region_json(index, other) for other in abort.others],
        },
        "left": [
            {
                "address": hex(address),
                "type": objects[address].type,
                "was": (was or index).path(address) or (was or index).label(address),
                "observed": objects[address].ref,
                "references": _edges(index, forecast.book.on.get(address, ())),
            }
            for address in forecast.left
        ],
    }


def _region_json(index: Index, address: int) -> RegionJson:
    region = index.snapshot.regions.get(address)
    return {
        "address": hex(address),
        "name": region.name if region else "",
        "owner": index.label(region.owner) if region and region.owner else "",
    }
