"""The verdict on one unplug
-------------------------

Three snapshots make a case: before the plug, with the device, and after the
unplug.  What came with the device and is still alive without being reachable from a
root has leaked, and the references that remain on it say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..audit.cause import Cause
from ..audit.graph import TRANSIENT, alive
from ..audit.outcome import Outcome, is_of_a_view, outcome_of
from ..audit.stale import outside_of, stale_text
from ..ledger import Book, Edge
from ..snapshot import Stale

__all__ = [
    "Judgement",
    "Left",
    "came_with",
    "judge",
    "memory_of",
    "rows_left",
    "same",
    "with_stale",
]

_STALE_SHOWN = 4


class Left(NamedTuple):
    """An object that came with the device and remained.

    :param address: of it, and ``type`` its QOM type.
    :param was: its path while the device was plugged.
    :param undropped: of what nothing known holds: the references of before, whose holder is gone
        and did not drop them.
    """

    address: int
    type: str
    was: str
    observed: int
    expected: int
    references: Sequence[Edge]
    undropped: Sequence[Edge] = ()


class Judgement(NamedTuple):
    """Outcome and cause in the contract's words, None for none; ``text`` is one sentence.

    :param causes: all of them, with the references that make the case; ``left`` are the objects.
    :param candidates: what looks like a stale callback, and is in no known structure.
    """

    outcome: Outcome
    cause: str | None
    causes: Sequence[Cause]
    left: Sequence[Left]
    text: str
    stale: Sequence[Stale] = ()
    candidates: Sequence[Stale] = ()


def judge(
    before: Book, plugged: Book, after: Book, device: int | None, name: str | None = None
) -> Judgement:
    """Judge an unplug that QEMU survived.

    :param device: address of the device while it was plugged; None for what is no object.
    :param name: what to call it; the device's type by default.
    """
    came = came_with(before, plugged)
    left = [a for a in sorted(came) if same(plugged, after, a)]
    if name is None:
        assert device is not None
        name = plugged.index.snapshot.objects[device].type
    if device is not None and device in left and after.index.in_tree(device):
        text = f"{name} is still plugged: nobody acknowledged the unplug"
        return Judgement(Outcome.NOT_ACKED, None, (), rows_left(plugged, after, [device]), text)
    reached = alive(after)
    lost = [a for a in left if a not in reached and not is_of_a_view(after, a)]
    rows = rows_left(plugged, after, lost)
    found = outcome_of(after, device, lost, name)
    return Judgement(found.outcome, found.cause, found.causes, rows, found.text)


def memory_of(before: Book, plugged: Book) -> list[tuple[int, int]]:
    """Return the memory of what came: sorted (start, end) ranges that do not overlap."""
    return outside_of(plugged, list(came_with(before, plugged)))


def with_stale(judgement: Judgement, plugged: Book, stale: Sequence[Stale]) -> Judgement:
    """Add the callbacks that outlive what came; they make an unplug that left nothing stale."""
    if not stale:
        return judgement
    texts = [stale_text(row, plugged.index.home(row.target)) for row in stale[:_STALE_SHOWN]]
    text = "; ".join(texts)
    if judgement.outcome == Outcome.CLEAN:
        outcome = judgement._replace(outcome=Outcome.STALE, cause=stale[0].kind, text=text)
    else:
        outcome = judgement._replace(text=f"{judgement.text}; {text}")
    return outcome._replace(stale=tuple(stale))


def came_with(before: Book, plugged: Book) -> set[int]:
    """Objects that were not there before, or are others now at the same address.

    What comes has a reference; a freed object of before may look like an object
    without one, when their memory is used again.
    """
    objects = plugged.index.snapshot.objects
    return {a for a, obj in objects.items() if obj.ref and not same(before, plugged, a)}


def same(one: Book, two: Book, address: int) -> bool:
    """Whether the same object is alive in both, not another one at its address."""
    first = one.index.snapshot.objects.get(address)
    second = two.index.snapshot.objects.get(address)
    if first is None or second is None or first.type != second.type:
        return False
    names = [book.index.name_of.get(address) for book in (one, two)]
    if names[0] is not None and names[1] is not None and names[0].name != names[1].name:
        return False
    ids = [book.index.snapshot.devices.get(address) for book in (one, two)]
    return ids[0] is None or ids[1] is None or ids[0].id == ids[1].id


def rows_left(plugged: Book, after: Book, addresses: Sequence[int]) -> tuple[Left, ...]:
    """Return what is left, with the paths that it had in ``plugged``."""
    objects = after.index.snapshot.objects
    return tuple(
        Left(
            address,
            objects[address].type,
            plugged.index.path(address) or plugged.index.label(address),
            objects[address].ref,
            after.expected(address),
            tuple(after.on.get(address, ())),
            _undropped(plugged, after, address),
        )
        for address in addresses
    )


def _undropped(plugged: Book, after: Book, address: int) -> tuple[Edge, ...]:
    held = after.on.get(address, ())
    if after.residual(address) <= 0 and not any(edge.rule for edge in held):
        return ()
    now = {(edge.kind, edge.holder, edge.field) for edge in held}
    # A parent that goes drops its children.
    then = [e for e in plugged.on.get(address, ()) if not e.rule and e.kind != "child"]
    return tuple(e for e in then if (e.kind, e.holder, e.field) not in now)


def waits(judgement: Judgement) -> bool:
    """Whether another reading may see something else: all that is left is transient."""
    return judgement.outcome == Outcome.DELAYED or any(
        edge.kind in TRANSIENT for row in judgement.left for edge in row.references
    )
