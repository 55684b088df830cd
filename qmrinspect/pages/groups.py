"""Findings by cause
-----------------

A page shows a cause once, with what it means, and what ends alike once, with a list: 131 CPU
models that leak for one reason are one finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..documents import DrawnJson, EdgeJson
from ..hunt.rows import Row
from ..report import render
from ..text import printable
from .advice import Advice, advice_for

__all__ = ["Group", "Shown", "grouped", "hunt_findings"]

_ADDRESS = re.compile(r"<?0x[0-9a-f]+>?")
# What a hunt calls its devices, and what QEMU numbers: dut1, "cpu-smm-1".
_NUMBERED = re.compile(r"\b(?:dut|qmr\d+-\d+-)\d+\b|(?<=-)\d+(?=\")")


@dataclass
class Shown:
    """A finding of a page.

    :param word: the outcome, or the kind of a check's finding.
    :param names: of the devices or objects that it is about, the one that is shown first.
    :param sentences: what was found.
    :param shape: equal for what is shown once.
    :param case: what is drawn and listed: as ``case`` and ``objects_left`` of a row.
    :param row: of the hunt, for what only that has; None of a check.
    :param number: its place on the page, None before it has one.
    """

    word: str
    causes: Sequence[str]
    names: list[str]
    sentences: Sequence[str]
    shape: str
    look: str
    case: DrawnJson
    row: Row | None = None
    bundles: list[tuple[str, str]] = field(default_factory=list)
    number: int | None = None

    @property
    def title(self) -> str:
        """Return what the finding is about, in a few words."""
        if len(self.names) == 1:
            return self.names[0]
        sort = "CPU model" if all(name.endswith("-cpu") for name in self.names) else "device"
        if self.row is None:
            sort = "object"
        return render.plural(len(self.names), sort)

    @property
    def references(self) -> list[EdgeJson]:
        """Return the references that make the case."""
        parts = [one["references"] for one in self.case.get("case") or ()]
        parts = parts or [left["references"] for left in self.case.get("objects_left") or ()]
        return [edge for part in parts for edge in part]


@dataclass
class Group:
    """All findings of one cause."""

    title: str
    anchor: str
    look: str
    advice: Sequence[tuple[str, Advice]]
    findings: list[Shown]

    @property
    def count(self) -> int:
        """Return how many devices or objects it is about."""
        return sum(len(one.names) for one in self.findings)


def grouped(findings: Iterable[Shown]) -> list[Group]:
    """Put findings in groups by cause, the frequent first, and number them in that order."""
    groups: dict[tuple[str, ...], list[Shown]] = {}
    seen: dict[tuple[str, ...], Shown] = {}
    for one in findings:
        same = seen.setdefault((one.word, *one.causes, one.shape), one)
        if same is not one:
            same.names += one.names
            same.bundles += one.bundles
            continue
        groups.setdefault((one.word, *one.causes), []).append(one)
    out = [_group(found) for found in groups.values()]
    out.sort(key=lambda group: -group.count)
    numbers = iter(range(len(seen)))
    for group in out:
        group.findings.sort(key=lambda one: -len(one.names))
        for one in group.findings:
            one.number = next(numbers)
    return out


def _group(findings: list[Shown]) -> Group:
    one = findings[0]
    title = one.word + (f": {' with '.join(one.causes)}" if one.causes else "")
    words = list(one.causes) or [one.word]
    advice = [(word, found) for word in words if (found := advice_for(word)) is not None]
    return Group(title, "cause-" + re.sub(r"\W+", "-", title), one.look, advice, findings)


def shape_of(texts: Iterable[str], *names: str) -> str:
    """Return texts without what differs between devices of the same fault."""
    text = "\n".join(texts)
    for name in names:
        text = text.replace(name, "*")
    return _NUMBERED.sub("*", _ADDRESS.sub("*", text))


def hunt_findings(rows: Iterable[Row]) -> Iterable[Shown]:
    """Yield the findings of a hunt."""
    for row in rows:
        texts = [one["text"] for one in row.get("case") or ()] or [row["text"]]
        sentences = [printable(text, 2000) for text in texts]
        name = printable(row["device"])
        marks = [str(row.get(mark) or "") for mark in ("status", "expected", "note")]
        bundle = row.get("bundle")
        yield Shown(
            row["outcome"],
            tuple(row.get("causes") or _kinds(row)),
            [name],
            sentences,
            shape_of([*sentences, *marks], name),
            "bad",
            row,
            row,
            [(name, bundle)] if bundle else [],
        )


def _kinds(row: Row) -> Iterable[str]:
    """Return what leads to a device that is stale: each kind once."""
    if row["outcome"] != "stale":
        return ()
    return dict.fromkeys(one["kind"] for one in row.get("stale") or ())
