"""Layouts with one field moved, and what comes of an image under each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from qmrinspect.audit.check import Report, check
from qmrinspect.errors import QmrError
from qmrinspect.heap import Walked
from qmrinspect.layout import Layout
from qmrinspect.records.context import Known
from qmrinspect.records.scan import Beside, Found
from qmrinspect.strict import displaced, doubted, relations
from qmrinspect.target.image import Target
from qmrinspect.walk import capture, decode, program_of
from qmrinspect.walk.validate import fits, validate

__all__ = ["Bench", "Outcome", "findings", "moved", "mutants"]

STEPS = (8, -8)


def moved(layout: Layout, field: str, step: int) -> Layout | None:
    """Return a layout with one field elsewhere, None where it cannot be there."""
    struct, _, name = field.partition(".")
    row = layout.structs[struct]
    offset, size = row.fields[name]
    if not 0 <= offset + step <= row.size - size:
        return None
    fields = {**row.fields, name: (offset + step, size)}
    return layout._replace(structs={**layout.structs, struct: row._replace(fields=fields)})


def mutants(layout: Layout) -> Iterator[tuple[str, int]]:
    """Yield every field that can be moved, and by how many bytes."""
    for struct, row in layout.structs.items():
        for name in row.fields:
            for step in STEPS:
                if moved(layout, f"{struct}.{name}", step) is not None:
                    yield f"{struct}.{name}", step


class Outcome(NamedTuple):
    """What a reading under one layout came to.

    :param report: None where the layout was refused.
    :param off: fields that were left out of it.
    """

    report: Report | None
    off: frozenset[str]


class Bench:
    """One image, read under many layouts as :class:`qmrinspect.reading.Reader` does."""

    def __init__(self, target: Target, layout: Layout) -> None:
        self.statics, self.info = program_of(target)
        self.image, self.cost = capture(target, layout, self.statics)
        # Where words are, and blocks, is no question of the layout.
        self._found, self._beside, self._heap = Found(), Beside(), Walked()

    def read(self, layout: Layout, rounds: int = 4, off: frozenset[str] = frozenset()) -> Outcome:
        """Read under a layout, without what the image contradicts."""
        known = Known()
        known.words, known.beside, known.heap = self._found, self._beside, self._heap
        try:
            snapshot, context = decode(
                self.image, self.cost, layout, self.statics, self.info, known
            )
        except QmrError:
            return Outcome(None, off)
        if not fits(validate(snapshot, layout)):
            return Outcome(None, off)
        report = check(snapshot)
        lost = {f.address for f in report.findings if f.kind == "unexplained"}
        wrong = doubted(relations(context, snapshot)) or displaced(context, snapshot, lost)
        less = layout.without(wrong)
        if less.structs == layout.structs:
            return Outcome(report, off)
        if less.missing() or not rounds:
            return Outcome(None, off)
        return self.read(less, rounds - 1, off | frozenset(wrong))


def findings(report: Report) -> set[tuple[str, int, int]]:
    """Return what was found, so that two readings of one image can be compared."""
    return {(f.kind, f.address, f.observed - f.expected) for f in report.findings}
