"""Forecasts on a page
-------------------
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from ..documents import ForecastJson, LeftJson
from ..report.forecasts import REASON_MAX, gist, listed
from ..text import printable
from .pictures import reference_graph

__all__ = ["Section", "forecast_section"]


class Section(NamedTuple):
    """What each policy would make of one object, for a page.

    :param rows: a row a policy.
    :param pictures: of what would remain, as SVG, each with the policies that leave it.
    """

    rows: Sequence[Mapping[str, str]]
    pictures: Sequence[tuple[str, Markup]]


def forecast_section(found: Sequence[ForecastJson]) -> Section:
    """Return the part of a page for the forecasts of one object, by policy."""
    pictures: dict[Markup, list[str]] = {}
    for one in found:
        picture = reference_graph({"objects_left": _head_first(one["left"])})
        if picture is not None:
            pictures.setdefault(picture, []).append(one["policy"])
    rows = [
        {
            "policy": str(one["policy"]),
            "look": "good" if one["outcome"] == "clean" else "bad",
            "gist": gist(one),
            "text": printable(one["text"], REASON_MAX),
        }
        for one in found
    ]
    return Section(rows, [(listed(names), picture) for picture, names in pictures.items()])


def _head_first(left: Sequence[LeftJson]) -> list[LeftJson]:
    # The object with the shortest path is the device; the others are below it.
    return sorted(left, key=lambda item: (item["was"].count("/"), item["was"]))
