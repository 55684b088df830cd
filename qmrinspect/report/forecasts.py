"""Forecasts for people
--------------------

One line a policy, then the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..audit.forecast import Forecast
from ..audit.unrealize import Prospect, Tie
from ..documents import ForecastDocument, ForecastJson, HuntRow, ProspectJson, TieJson
from ..hunt.rows import forecast_json
from ..text import printable
from . import render, words
from .render import Row

__all__ = [
    "REASON_MAX",
    "document_lines",
    "exact_json",
    "forecast_lines",
    "gist",
    "listed",
    "prospect_json",
    "tie_json",
    "under_line",
]

_TIES_SHOWN = 12
#: Characters of a reason that are shown.
REASON_MAX = 4000

# What is said of each way to an answer.
_CERTAINTY = {
    "exact": "",
    "sure": "sure",
    "learned": "as a device of the type did elsewhere",
    "either way": "whatever unrealize ends",
    "open": "open",
}


def gist(found: ForecastJson) -> str:
    """Return the outcome of a forecast in a few words: ``leak: same-owner-subregions``."""
    assertion = found.get("assertion")
    if assertion:
        return f"crash: {assertion['function']}: {assertion['expression']}"
    return f"{found['outcome']}: {found['cause']}" if found["cause"] else str(found["outcome"])


def forecast_lines(document: ForecastDocument) -> Iterator[str]:
    """Yield one object of ``qmr-forecast/1``."""
    yield from render.table((), [_row(found) for found in document["policies"]])
    said: set[str] = set()
    for found in document["policies"]:
        for text in _reasons(found):
            if text not in said:
                said.add(text)
                yield f"  {printable(text, REASON_MAX)}"
    ties = document.get("decides") or ()
    if ties:
        yield "  whether unrealize ends these decides:"
        for tie in ties[:_TIES_SHOWN]:
            yield f"    {printable(tie['text'], REASON_MAX)}"
        if len(ties) > _TIES_SHOWN:
            yield f"    and {len(ties) - _TIES_SHOWN} more"


def _row(found: ProspectJson) -> Row:
    outcome = found["outcome"]
    text = gist(found)
    if outcome is None:
        text = (
            f"{gist(found['if_everything'])} if unrealize ends all, "
            f"{gist(found['if_nothing'])} if it ends none"
        )
    return Row((found["policy"], text, _CERTAINTY[found["certainty"]]), words.look_of(outcome))


def _reasons(found: ProspectJson) -> Iterator[str]:
    parts = (found,) if found["outcome"] is not None else (found["if_nothing"],)
    for part in parts:
        if part["outcome"] != "clean":
            yield part["text"]


def prospect_json(prospect: Prospect) -> ProspectJson:
    """Return what one policy makes of a device that is plugged."""
    answer = prospect.forecast
    name = prospect.policy.name
    blank: ForecastJson = {
        "policy": name,
        "source": "plugged",
        "outcome": None,
        "cause": "",
        "text": "",
        "assertion": None,
        "left": [],
    }
    return {
        # Where these two come is kept.
        "policy": name,
        "certainty": prospect.certainty,
        **(blank if answer is None else forecast_json(answer)),
        "if_nothing": forecast_json(prospect.nothing),
        "if_everything": forecast_json(prospect.everything),
    }


def exact_json(forecast: Forecast) -> ProspectJson:
    """Return what one policy makes of a device that was unplugged: nothing is open."""
    out: ProspectJson = {**forecast_json(forecast)}  # type: ignore[typeddict-item]
    out["certainty"] = "exact"
    return out


def tie_json(tie: Tie) -> TieJson:
    """Return what decides."""
    return {
        "kind": tie.key[0],
        "key": list(tie.key),
        "region": hex(tie.region),
        "container": hex(tie.container),
        "text": tie.text,
    }


_SOURCES = {
    "after": "was unplugged and is still there: what unrealize left is seen",
    "plugged": "is plugged: what its unrealize would end is not seen",
}


def document_lines(documents: Iterable[ForecastDocument]) -> Iterator[str]:
    """Yield the objects of ``qmr-forecast/1``."""
    for document in documents:
        item = document["object"]
        name = printable(item["id"] or item["path"] or item["address"])
        yield f"{name} ({printable(item['type'])}) {_SOURCES[document['source']]}"
        yield from forecast_lines(document)


def under_line(row: HuntRow) -> str | None:
    """Return what a row of a hunt says of the other policies; None when nothing."""
    under = row.get("under") or {}
    words: dict[str, list[str]] = {}
    forecast = row.get("forecast")
    foretold = {found["policy"]: found for found in forecast["policies"]} if forecast else {}
    for policy, outcome in under.items():
        found = foretold.get(policy)
        words.setdefault(outcome if found is None else gist(found), []).append(policy)
    if len(words.keys() - {"unknown"}) < 2:
        return None
    return "; ".join(f"under {listed(names)}: {word}" for word, names in words.items())


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
