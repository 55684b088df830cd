"""Reading the declared holders
----------------------------

Every holder of :data:`qmrinspect.references.HOLDERS`, where this QEMU has the fields that
it rests on.  What a QEMU lacks switches off the holders that need it and nothing else,
and is told as not searched for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from ..records.context import Context
from ..records.scan import find_words
from ..records.ways import Found, follow
from ..references import HOLDERS, Around, Holder, OfListener, OfType, Reader, Variable
from ..references.record import fields_of, parse, ways_of
from ..snapshot import FieldReference, Listener, Obj, Space, Unsearched
from ..target.image import Unreadable
from ..text import an
from .inuse import Pointed
from .qdev import CLOCK_FIELDS, GPIO_FIELDS
from .ram import RAM_FIELDS, RamMap
from .rcu import RCU_FIELDS
from .readers import READERS, WORDS
from .scene import Scene
from .shapes import SHAPES

__all__ = ["missing", "read_declared", "structure_around", "unsearched"]

# What other parts of the walk find: its kind, where, what it needs, and on what.
_WALKED = (
    ("initial", "NamedGPIOList.in", GPIO_FIELDS, "irq"),
    ("initial", "NamedClockList.clock", CLOCK_FIELDS, "clock"),
    ("rcu-bus-child", "BusChild.child", RCU_FIELDS, "device"),
    ("rcu-address-space", "AddressSpace.root", RCU_FIELDS, "device"),
)
# For an irq it matters whether anything in memory points to it at all.
_POINTED = "irq"


def read_declared(
    context: Context,
    objects: Mapping[int, Obj],
    spaces: Mapping[int, Space],
    listeners: Mapping[int, Listener],
    holders: tuple[Holder, ...] = HOLDERS,
) -> Iterator[FieldReference]:
    """Yield the references of all declared holders that this QEMU was searched for.

    :param holders: those that are wanted.
    """
    ram = RamMap(context)
    scene = Scene(objects, spaces, listeners, ram)
    usable = context.fact(
        ("usable", holders), lambda: [h for h in holders if not missing(context, h)]
    )
    of_type: dict[str, list[Holder]] = {}
    around = [holder for holder in usable if isinstance(holder.start, Around)]
    # Memory is gone through once for all of them.
    soon = set(_targets(context, objects, around))
    for name in {holder.start.name for holder in usable if isinstance(holder.start, Reader)}:
        if name in WORDS:
            soon.update(WORDS[name](context, scene))
    context.known.words.expect(soon)
    for holder in usable:
        start = holder.start
        if isinstance(start, OfType):
            of_type.setdefault(start.type, []).append(holder)
        elif isinstance(start, OfListener):
            yield from _of_listeners(context, objects, ram, holder, start, listeners)
        elif isinstance(start, Variable):
            yield from _variables(context, objects, holder, start)
        elif isinstance(start, Reader):
            found = READERS[start.name](context, scene)
            yield from _believed(context, objects, ram, holder, found)
    yield from _of_types(context, objects, ram, of_type)
    if around:
        yield from _around(context, objects, around)


def missing(context: Context, holder: Holder) -> str:
    """Say which field a holder rests on and this layout lacks, empty when it has all."""
    return context.fact(("missing", holder), lambda: _missing(context, holder))


def _missing(context: Context, holder: Holder) -> str:
    layout = context.layout
    for struct, names, needed in fields_of(holder):
        if not needed:
            continue
        if struct not in layout.structs:
            return struct
        if names and not any(layout.has(struct, name) for name in names):
            return f"{struct}.{names[0]}"
    if holder.target == "ram":
        lacking = _lacking(context, RAM_FIELDS)
        if lacking:
            return lacking
    if isinstance(holder.start, OfType):
        struct = parse(ways_of(holder.way)[0])[0].struct
        if not _fits(context, holder.start.type, struct):
            return f"{an(struct)} of the size of {an(holder.start.type)}"
    return ""


def _lacking(context: Context, fields: str) -> str:
    """Return the first of some ``Struct.field`` that this layout has not, empty for none."""
    return next((f for f in fields.split() if not context.layout.has(*f.split("."))), "")


def _fits(context: Context, type_name: str, struct: str) -> bool:
    """Whether the type, or one it derives from, has instances of the structure's size.

    A layout from another configuration of the same source may differ in this
    structure alone.
    """
    size = context.layout.size(struct)
    return any(context.types[name].size == size for name in context.chain(type_name))


def unsearched(context: Context, complete: bool) -> tuple[Unsearched, ...]:
    """Return what this QEMU was not searched for, and why.

    :param complete: whether the layout is this very program's own debug information, so
        that it has all structures that the program has.
    """
    return context.fact(("unsearched", complete), lambda: tuple(_unsearched(context, complete)))


def _unsearched(context: Context, complete: bool) -> Iterator[Unsearched]:
    there = {
        holder.either
        for holder in HOLDERS
        if holder.either and _possible(context, holder) and not missing(context, holder)
    }
    for holder in HOLDERS:
        # A variable without a name is a rule's matter.
        if holder.either in there or isinstance(holder.start, Variable):
            continue
        lacking = missing(context, holder)
        if not lacking or not _possible(context, holder) or _never(context, holder, lacking):
            continue
        struct, _, field = lacking.partition(".")
        absent = complete and not field and " " not in struct
        why = f"this QEMU has no {lacking}" if absent else f"the layout lacks {lacking}"
        start = holder.start.type if isinstance(holder.start, OfType) else ""
        what = ways_of(holder.way)[0] if holder.way else holder.needs.split()[-1].rstrip("?")
        yield Unsearched(holder.kind, what, start, holder.target, why, absent)
    for kind, what, fields, target in _WALKED:
        lacking = _lacking(context, fields)
        if lacking and target in context.types:
            why = f"the layout lacks {lacking}"
            yield Unsearched(kind, what, "device", target, why, False)


def _never(context: Context, holder: Holder, lacking: str) -> bool:
    """Whether what is lacking is the field of a condition, in a structure that is known whole."""
    struct, _, field = lacking.partition(".")
    layout = context.layout
    if not field or not holder.when or layout.source == "inferred":
        return False
    if layout.evidence.get(lacking) == "unconfirmed":
        return False
    steps = [step for way in ways_of(holder.when) for step in parse(way)]
    return any(step.struct == struct and field in step.names for step in steps)


def _possible(context: Context, holder: Holder) -> bool:
    """Whether this QEMU has the QOM types that a holder connects."""
    start = holder.start
    if isinstance(start, OfType) and start.type not in context.types:
        return False
    return holder.target in ("ram", "view", "object") or holder.target in context.types


def _of_types(
    context: Context, objects: Mapping[int, Obj], ram: RamMap, rows: Mapping[str, list[Holder]]
) -> Iterator[FieldReference]:
    all_rows = tuple(holder for row in rows.values() for holder in row)
    of_type: dict[str, Sequence[tuple[Holder, str, str]]] = context.fact(("ways", all_rows), dict)
    for address, obj in objects.items():
        if obj.type not in of_type:
            of_type[obj.type] = [
                (holder, way, holder.when)
                for name in rows
                if context.is_a(obj.type, name)
                for holder in rows[name]
                for way in ways_of(holder.way)
            ]
        ways = of_type[obj.type]
        if not ways:
            continue
        key = "declared", address
        found = context.recall(key, obj.type, partial(_all, context, address, ways))
        for holder, hits in found:
            yield from _believed(context, objects, ram, holder, iter(hits))


def _all(
    context: Context, address: int, ways: Sequence[tuple[Holder, str, str]]
) -> list[tuple[Holder, list[Found]]]:
    """Return what the ways that begin at an object lead to."""
    out = []
    for holder, way, when in ways:
        hits: list[Found] = []
        try:
            if when and not any(True for _ in follow(context, address, when)):
                continue
            hits.extend(follow(context, address, way))
        except Unreadable as error:
            context.note(address, f"{way} cannot be read at {error.args[0]:#x}")
        if hits:
            out.append((holder, hits))
    return out


def _of_listeners(
    context: Context,
    objects: Mapping[int, Obj],
    ram: RamMap,
    holder: Holder,
    start: OfListener,
    listeners: Mapping[int, Listener],
) -> Iterator[FieldReference]:
    struct, _, field = start.field.partition(".")
    for listener in listeners.values():
        if listener.name != start.name:
            continue
        address = listener.address - context.layout.offset(struct, field)
        for way in ways_of(holder.way):
            try:
                if holder.when and not any(True for _ in follow(context, address, holder.when)):
                    continue
                found = follow(context, address, way)
                yield from _believed(context, objects, ram, holder, found)
            except Unreadable as error:
                context.note(address, f"{way} cannot be read at {error.args[0]:#x}")


def _variables(
    context: Context, objects: Mapping[int, Obj], holder: Holder, start: Variable
) -> Iterator[FieldReference]:
    for variable in context.statics.symbols.get(start.name, ()):
        # The object is the variable itself, or the variable points to it.
        try:
            target = variable if variable in objects else context.image.u64(variable)
        except Unreadable:
            continue
        obj = objects.get(target)
        if obj is not None and context.is_a(obj.type, holder.target):
            yield FieldReference(holder.kind, 0, start.name, target)


def _believed(
    context: Context,
    objects: Mapping[int, Obj],
    ram: RamMap,
    holder: Holder,
    found: Iterator[Found],
) -> Iterator[FieldReference]:
    """Yield what points to what the holder says."""
    presumed = _presumed(context, holder)
    for hit in found:
        target = hit.value
        if holder.target == "ram":
            target = ram.region(target)
            if not target:
                continue
        elif holder.target != "view":
            obj = objects.get(target)
            if obj is None or not context.is_a(obj.type, holder.target):
                continue
        yield FieldReference(holder.kind, hit.holder, hit.field, target, holder.unsure, presumed)


def _presumed(context: Context, holder: Holder) -> str:
    """Answer a holder's question as long as there is no evidence: ``yes``, ``no`` or empty."""
    if not holder.mark:
        return ""
    struct, _, field = holder.mark.lstrip("!").partition(".")
    return "yes" if context.layout.has(struct, field) != holder.mark.startswith("!") else "no"


def _targets(
    context: Context, objects: Mapping[int, Obj], holders: Sequence[Holder]
) -> Collection[int]:
    """Return the objects that are searched for all over memory."""
    if not holders:
        return ()
    types = context.types_of(_POINTED, *(holder.target for holder in holders))
    return {address for address, obj in objects.items() if obj.type in types}


def _around(
    context: Context, objects: Mapping[int, Obj], holders: Sequence[Holder]
) -> Iterator[FieldReference]:
    """Yield what is found around pointers to its targets.

    For irqs, one word of live memory that points to each is a reference of the kind
    ``pointed``.
    """
    wanted = _targets(context, objects, holders)
    fitting: dict[str, list[Holder]] = {}
    pointed = Pointed(context, objects)
    for word, target in find_words(context.image, wanted, context.known.words):
        kind = objects[target].type
        if kind == _POINTED:
            pointed.see(word, target)
            continue
        if kind not in fitting:
            fitting[kind] = [holder for holder in holders if context.is_a(kind, holder.target)]
        for holder in fitting[kind]:
            try:
                start = structure_around(context, objects, holder, holders, word)
            except Unreadable:
                continue
            if start:
                question, presumed = holder.unsure, _presumed(context, holder)
                yield FieldReference(holder.kind, start, holder.way, target, question, presumed)
    for word, target in pointed.all():
        yield FieldReference("pointed", word, "", target)


def structure_around(
    context: Context,
    objects: Mapping[int, Obj],
    holder: Holder,
    holders: Sequence[Holder],
    word: int,
) -> int:
    """Return where the structure around a pointer begins, 0 when there is none."""
    shape = holder.start
    assert isinstance(shape, Around)
    layout = context.layout
    struct, _, field = holder.way.partition(".")
    start = word - layout.offset(struct, field)
    if not SHAPES[shape.shape](context, start, struct, shape.link):
        return 0
    # All its fields that point to objects do, or are NULL.
    for other in holders:
        name, _, member = other.way.partition(".")
        if name != struct:
            continue
        target = context.image.u64(start + layout.offset(struct, member))
        obj = objects.get(target)
        if target and (obj is None or not context.is_a(obj.type, other.target)):
            return 0
    return start
