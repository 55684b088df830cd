"""What holders of references point to
-----------------------------------

Each declared holder says what its field points to: nothing, or an object of a type.  A
field that points to anything else is not that field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ..layout.model import resolve
from ..records.context import Context
from ..records.ways import follow
from ..references import HOLDERS, Holder, OfListener, OfType
from ..references.record import parse, ways_of
from ..snapshot import Obj, Snapshot
from ..target.image import Unreadable
from ..tuples import NamedTuple
from ..walk.declared import missing
from .tally import Tally

__all__ = ["Outcome", "Witness", "look", "relate", "witnesses"]

# What is no object.
_PLACES = ("ram", "view")
# So much of a structure is looked at for a pointer back, in words.
_PART_WORDS, _HELD_WORDS, _PAGE = 8, 24, 4096
_SOURCE_FUNCS = 2  # of a GSource


class Witness(NamedTuple):
    """A way that begins at the instances of a QOM type, and what it must end at.

    :param fields: ``Struct.field`` of every step and every count.
    :param either: a name that alternatives share, of which the QEMU has one.
    :param bounded: whether arrays on the way have a count; others may be shorter.
    """

    type: str
    way: str
    fields: tuple[str, ...]
    target: str
    either: str
    bounded: bool
    when: str = ""


class Outcome(NamedTuple):
    """How many pointers of one instance lead to what they should, and how many do not."""

    right: int
    wrong: int


def witnesses(context: Context) -> Iterator[Witness]:
    """Yield the ways of which this QEMU has all fields, and whose ends can be told."""
    for holder in HOLDERS:
        start = holder.start
        if not isinstance(start, OfType) or holder.target in _PLACES:
            continue
        if start.type not in context.types or missing(context, holder):
            continue
        for way in ways_of(holder.way):
            yield _witness(context, holder, way, start.type)


def _witness(context: Context, holder: Holder, way: str, kind: str) -> Witness:
    steps = parse(way)
    # A list of one element says nothing of its link: see the lists.
    fields = [
        f"{step.struct}.{resolve(context.layout, step.struct, step.names)}"
        for step in steps
        if step.names and step.how != "list"
    ]
    counts = [step.length for step in steps if step.how.endswith("[]")]
    fields += [count for count in counts if "." in count]
    bounded = all("." in count for count in counts)
    return Witness(kind, way, tuple(fields), holder.target, holder.either, bounded, holder.when)


def look(context: Context, witness: Witness, start: int, objects: Mapping[int, Obj]) -> Outcome:
    """Follow a way from one instance."""
    right = wrong = 0
    notes = len(context.notes)
    try:
        for hit in follow(context, start, witness.way):
            obj = objects.get(hit.value)
            if obj is not None and (
                witness.target == "object" or context.is_a(obj.type, witness.target)
            ):
                right += 1
            elif right and not witness.bounded:
                break
            else:
                wrong += 1
    except Unreadable:
        wrong += 1
    if len(context.notes) > notes:
        del context.notes[notes:]
        wrong += 1
    return Outcome(right, wrong)


def relate(tally: Tally, snapshot: Snapshot, types: Collection[str] | None = None) -> None:
    """Count what the holders that live at the instant point to.

    :param types: of the holders, where not all are wanted.
    """
    context, objects = tally.context, snapshot.objects
    of: dict[str, list[int]] = {}
    for address, obj in objects.items():
        if types is not None and obj.type not in types:
            continue
        for name in context.chain(obj.type):
            of.setdefault(name, []).append(address)
    found = [
        (witness, [look(context, witness, start, objects) for start in of.get(witness.type, ())])
        for witness in witnesses(context)
        if witness.type in of
    ]
    _places(tally, of)
    if types is None:
        _listeners(tally, snapshot)
    # Of alternatives, the QEMU has one: where it is seen the others say nothing.
    settled = {w.either for w, rows in found if w.either and any(row.right for row in rows)}
    _conditions(tally, of, [witness for witness, _ in found if witness.when])
    for witness, rows in found:
        if witness.either in settled and not any(row.right for row in rows):
            continue
        put = tally.asks(f"{witness.way} leads to {witness.target}", " ".join(witness.fields))
        for row in rows:
            if put and (row.right or row.wrong):
                put(not row.wrong)


def _places(tally: Tally, of: Mapping[str, list[int]]) -> None:
    """What leads to a place in memory, and no object, can be followed that far."""
    context = tally.context
    for holder in HOLDERS:
        start = holder.start
        if not isinstance(start, OfType) or holder.target not in _PLACES:
            continue
        if start.type not in of or missing(context, holder):
            continue
        for way in ways_of(holder.way):
            fields = " ".join(_witness(context, holder, way, start.type).fields)
            put = tally.asks(f"{way} can be followed", fields, False)
            for address in of[start.type]:
                if put:
                    put(_can_be_followed(context, address, way))


def _can_be_followed(context: Context, start: int, way: str) -> bool:
    notes = len(context.notes)
    try:
        for _ in follow(context, start, way):
            pass
    except Unreadable:
        return False
    noted = len(context.notes) > notes
    del context.notes[notes:]
    return not noted


def _listeners(tally: Tally, snapshot: Snapshot) -> None:
    """Count what structures around a memory listener point to."""
    context = tally.context
    for holder in HOLDERS:
        start = holder.start
        if not isinstance(start, OfListener) or holder.target in _PLACES:
            continue
        if missing(context, holder):
            continue
        around = [
            listener.address - tally.offset(start.field)
            for listener in snapshot.listeners.values()
            if listener.name == start.name
        ]
        for way in ways_of(holder.way):
            witness = _witness(context, holder, way, "")
            fields = " ".join((start.field, *witness.fields))
            put = tally.asks(f"{way} leads to {holder.target}", fields)
            for address in around if put else ():
                row = look(context, witness, address, snapshot.objects)
                if put and (row.right or row.wrong):
                    put(not row.wrong)


def _conditions(tally: Tally, of: Mapping[str, list[int]], rows: list[Witness]) -> None:
    """Count the fields that must be set for a reference to be held.

    Each points to something of the device: what points back to it, or to what the
    held object points to as well (a context of an iothread, say).
    """
    context = tally.context
    for witness in rows:
        fields = " ".join(
            f"{step.struct}.{resolve(context.layout, step.struct, step.names)}"
            for step in parse(witness.when)
        )
        put = tally.asks(f"{witness.when} is a part of the device", fields)
        if put is None:
            continue
        for start in of.get(witness.type, ()):
            try:
                for hit in follow(context, start, witness.when):
                    held = [found.value for found in follow(context, start, witness.way)]
                    if held:
                        put(_is_part(context, hit.value, start, held))
            except Unreadable:
                put(False)


def _is_part(context: Context, address: int, device: int, held: list[int]) -> bool:
    try:
        words = context.image.words(address, _PART_WORDS)
    except Unreadable:
        return False
    if device in words:
        return True
    # A context itself is an event source: it begins with its functions, constants of QEMU.
    low, high = context.statics.program
    if low <= words[_SOURCE_FUNCS] < high:
        return False
    for holder in held:
        try:
            if any(
                word > _PAGE and word in words for word in context.image.words(holder, _HELD_WORDS)
            ):
                return True
        except Unreadable:
            continue
    return False
