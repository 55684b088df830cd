"""Plug and unplug in words
------------------------
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit.stale import stale_json
from ..hotplug.unplug import Cycle, Plugged
from ..hunt.judge import Judgement
from ..hunt.rows import left_json
from ..ledger import Book
from ..text import printable
from . import render, words

__all__ = ["plug_lines", "unplug_json", "unplug_lines"]

_TYPES_SHOWN = 8


def plug_lines(after: Book, plugged: Plugged, appeared: Sequence[int]) -> Iterator[str]:
    """Yield what was plugged, where, and what came with it."""
    objects = after.index.snapshot.objects
    bus = f" on {printable(plugged.bus)}" if plugged.bus else ""
    slot = f", slot {plugged.slot}" if plugged.slot is not None else ""
    yield (
        f"{plugged.id} ({plugged.recipe.driver}) is plugged{bus}{slot}: "
        f"{render.plural(len(appeared), 'object')} appeared"
    )
    if plugged.avoided:
        places = ", ".join(plugged.avoided)
        yield render.paint(
            f"  not at {places}: a device that leaked still owns the RAM blocks there, and QEMU "
            "would abort",
            "warning",
        )
    types = Counter(objects[address].type for address in appeared)
    rows = [render.Row((str(n), printable(kind))) for kind, n in types.most_common(_TYPES_SHOWN)]
    yield from render.table((), rows, right=(0,))
    if len(types) > _TYPES_SHOWN:
        yield f"  and {len(types) - _TYPES_SHOWN} more types"
    if plugged.backends:
        yield f"  behind it: {', '.join(plugged.backends)}"
    yield render.paint(f"  qmr refs {shlex.quote(plugged.id)} shows what holds it", "dim")


def unplug_json(
    with_it: Book, after: Book | None, plugged: Plugged, cycle: Cycle, verdict: Judgement
) -> dict[str, object]:
    """Return the verdict on an unplug as ``qmr-unplug/1``."""
    return {
        "format": "qmr-unplug/1",
        "device": plugged.recipe.driver,
        "id": plugged.id,
        "was": plugged.path or "",
        "outcome": str(verdict.outcome),
        "cause": verdict.cause or "",
        "causes": list(dict.fromkeys(cause.name for cause in verdict.causes)),
        "acknowledge": cycle.acknowledge or "",
        "event": cycle.event,
        "objects_left": [
            left_json(left, after.index if after else None, with_it.index) for left in verdict.left
        ],
        "stale": [stale_json(row, with_it.index) for row in verdict.stale],
        "candidates": [stale_json(row, with_it.index) for row in verdict.candidates],
        "text": verdict.text,
    }


def unplug_lines(
    with_it: Book, after: Book | None, plugged: Plugged, cycle: Cycle, verdict: Judgement
) -> Iterator[str]:
    """Yield the verdict on an unplug, with what stays."""
    look = words.look_of(verdict.outcome)
    name = f"{plugged.id} ({plugged.recipe.driver})"
    if not verdict.causes:
        yield f"{name}: {render.paint(verdict.outcome, look)}, {printable(verdict.text, 2000)}"
        yield from _candidate_lines(with_it, verdict)
        return
    stays = len(verdict.left)
    yield (
        f"{name}: {render.paint(verdict.outcome, look)}, "
        f"{render.plural(stays, 'object')} that came with it {'is' if stays == 1 else 'are'} "
        "still alive"
    )
    if not cycle.event:
        yield "  QEMU sent no DEVICE_DELETED for it"
    for cause in verdict.causes:
        yield f"  {cause.name}: {printable(cause.text, 2000)}"
        if after is not None:
            yield from words.edge_table(words.edge_rows(after, cause.edges), 4)
    for row in verdict.stale:
        yield f"  stale: {printable(stale_json(row, with_it.index)['text'], 2000)}"
    yield from _candidate_lines(with_it, verdict)
    for left in verdict.left[:_TYPES_SHOWN]:
        count = render.plural(left.observed, "reference")
        what = f"{printable(left.was)} ({printable(left.type)}): {count} {left.address:#x}"
        by = words.undropped_text(words.references(with_it.index, left.undropped))
        yield render.paint(f"  {what}" + (f", {by}" if by is not None else ""), "dim")
    if stays > _TYPES_SHOWN:
        yield render.paint(f"  and {stays - _TYPES_SHOWN} more", "dim")


def _candidate_lines(with_it: Book, verdict: Judgement) -> Iterator[str]:
    for row in verdict.candidates[:_TYPES_SHOWN]:
        text = printable(stale_json(row, with_it.index)["text"], 2000)
        yield render.paint(f"  not certain: {text}", "dim")
