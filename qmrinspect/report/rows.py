"""Verdicts for people
-------------------
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ..audit.outcome import Outcome
from ..documents import CaseJson, EdgeJson, GrowthJson
from ..hunt.introspect import Total
from ..hunt.rows import Row
from ..text import printable
from . import render
from .forecasts import under_line

__all__ = ["growth_lines", "type_lines", "verdict_lines"]

_EDGES_SHOWN = 12
_FRAMES_SHOWN = 12
# Of a sentence; longer ones are no sentences.
_TEXT_MAX = 4000


def verdict_lines(row: Row) -> Iterator[str]:
    """Yield one row for people: the verdict, then the references that make the case."""
    cause = " with ".join(row.get("causes") or ())
    status = row.get("status", "")
    head = f"{row['device']:<28} {row['outcome']:<13} {cause}"
    yield (head.rstrip() + (f"  ({status})" if status else "")).rstrip()
    if row.get("expected"):
        yield f"    expected: {printable(row['expected'], _TEXT_MAX)}"
    if row.get("note"):
        yield f"    {printable(row['note'], _TEXT_MAX)}"
    if row["outcome"] != "clean":
        case = row.get("case") or ()
        if not case:
            yield f"    {printable(row['text'], _TEXT_MAX)}"
        for found in case:
            yield f"    {found['text']}"
            yield from _edges(found["references"])
            yield from _undropped(row, found)
        if case:
            for stale in row.get("stale") or ():
                yield f"    {printable(stale['text'], _TEXT_MAX)}"
        others = len(row["objects_left"]) - 1
        if others > 0:
            verb = "is" if others == 1 else "are"
            yield f"    {render.plural(others, 'more object')} that came with it {verb} still alive"
    elif row.get("kept"):
        yield f"    {printable(row['text'], _TEXT_MAX)}"
    for stale in row.get("candidates") or ():
        yield f"    not certain: {printable(stale['text'], _TEXT_MAX)}"
    under = under_line(row)
    if under is not None:
        yield f"    {printable(under, _TEXT_MAX)}"
    if row.get("backtrace"):
        for line in row["backtrace"][:_FRAMES_SHOWN]:
            yield f"        {printable(line, _TEXT_MAX)}"
    yield from growth_lines(row.get("growth"))
    if row.get("bundle"):
        yield f"    evidence: {printable(row['bundle'], _TEXT_MAX)}"


def _undropped(row: Row, found: CaseJson) -> Iterator[str]:
    for left in row["objects_left"]:
        if found["cause"] == "unbalanced" and left["address"] == found["object"]:
            for edge in left.get("undropped") or ():
                holder = edge.get("holder_label") or "a variable"
                yield f"        not dropped: {holder}  {printable(edge['field'])}"


def _edges(edges: list[EdgeJson]) -> Iterator[str]:
    for edge in edges[:_EDGES_SHOWN]:
        holder = edge.get("holder_label") or "a variable"
        yield f"        {edge['kind']}: {holder}  {printable(edge['field'])}"
    if len(edges) > _EDGES_SHOWN:
        yield f"        and {len(edges) - _EDGES_SHOWN} more"


def growth_lines(growth: GrowthJson | None) -> Iterator[str]:
    """Yield what grew from cycle to cycle."""
    if growth is None:
        return
    cycles = render.plural(growth["cycles"], "cycle")
    if not growth["types"] and not growth["references"]:
        yield f"    nothing grew in {cycles}"
        return
    yield f"    growth in {cycles}:"
    for counts in (growth["types"], growth["references"]):
        for name, grown in counts.items():
            parts = []
            if grown["per_cycle"]:
                about = "" if grown["exact"] else "about "
                parts.append(f"{about}{grown['per_cycle']:+} a cycle")
            if grown["once"]:
                parts.append(f"{grown['once']:+} once")
            yield f"        {printable(name)}: {', '.join(parts) or '0'}"


def type_lines(totals: Sequence[Total], failed: Sequence[str]) -> Iterator[str]:
    """Yield how the types of each emulator ended that were made and dropped."""
    for total in totals:
        words = [f"{total.outcomes[word]} {word}" for word in Outcome if total.outcomes.get(word)]
        name = printable(os.path.basename(total.emulator))
        yield f"{name}: {render.plural(total.types, 'type')}: {', '.join(words)}"
        for policy, found in total.under.items():
            yield f"    of these under {policy}: " + ", ".join(
                f"{count} {outcome}" for outcome, count in sorted(found.items())
            )
    for text in failed:
        yield f"not done: {printable(text, _TEXT_MAX)}"
