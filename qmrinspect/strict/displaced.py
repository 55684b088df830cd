"""Fields beside the place where they are believed
------------------------------------------------

An object with a reference that nothing is known to hold may be held by a field that lies a
word before or behind the place that the layout gives.  Then the layout is wrong, not QEMU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..layout import Layout
from ..layout.model import resolve
from ..records.context import Context
from ..records.scan import find_words
from ..references import HOLDERS, Around, Holder, Variable
from ..references.record import fields_of
from ..snapshot import Obj, Snapshot
from ..target.image import Unreadable
from ..walk.declared import missing, read_declared, structure_around

__all__ = ["displaced"]

_STEPS = (8, -8)
_ALIGNED = 16


def displaced(context: Context, snapshot: Snapshot, targets: Collection[int]) -> set[str]:
    """Return the fields, as ``Struct.field``, that would hold an object if they lay beside.

    :param targets: objects with references that nothing is known to hold.
    """
    objects = snapshot.objects
    wanted = {address: objects[address] for address in targets if address in objects}
    kinds = {name for obj in wanted.values() for name in context.chain(obj.type)}
    owned = {r.address: r.owner for r in snapshot.regions.values() if r.owner in wanted}
    around = [holder for holder in HOLDERS if isinstance(holder.start, Around)]
    before = {(row.kind, row.holder, row.field) for row in snapshot.fields}
    # A word that is known to hold one reference is no other's.
    taken = {
        row.holder + context.layout.offset(*row.field.split("."))
        for row in snapshot.fields
        if row.field in {holder.way for holder in around}
    }
    found_words = find_words(context.image, wanted) if wanted else ()
    words = [(word, target) for word, target in found_words if word not in taken]
    out: set[str] = set()
    for holder in HOLDERS:
        regions = holder.target in ("ram", "memory-region")
        possible = holder.target in kinds or holder.target == "object" or (regions and owned)
        if not possible or isinstance(holder.start, Variable) or missing(context, holder):
            continue
        # A structure is believed as a whole, so that any of its fields may be the wrong one.
        whole = [other for other in around if _struct(other) == _struct(holder)]
        for field, layout in _moved(context.layout, whole or [holder]):
            if field in out:
                continue
            moved = context.under(layout)
            if isinstance(holder.start, Around):
                found = any(_starts(moved, objects, holder, around, words))
            else:
                found = _is_held(moved, snapshot, holder, wanted.keys() | owned.keys(), before)
            if found:
                out.add(field)
    return out


def _struct(holder: Holder) -> str:
    """Return the structure that is around a pointer."""
    return holder.way.partition(".")[0] if isinstance(holder.start, Around) else ""


def _moved(layout: Layout, holders: Sequence[Holder]) -> Iterator[tuple[str, Layout]]:
    """Yield each field that holders rest on, and the layouts that have it beside."""
    for struct, names, _ in dict.fromkeys(row for holder in holders for row in fields_of(holder)):
        if struct not in layout.structs or not any(layout.has(struct, name) for name in names):
            continue
        field = resolve(layout, struct, names)
        row = layout.structs[struct]
        offset, size = row.fields[field]
        for step in _STEPS:
            at = offset + step
            beside = (span for name, span in row.fields.items() if name != field)
            free = all(at + size <= start or start + length <= at for start, length in beside)
            if free and 0 <= at <= row.size - size:
                fields = {**row.fields, field: (at, size)}
                structs = {**layout.structs, struct: row._replace(fields=fields)}
                yield f"{struct}.{field}", layout._replace(structs=structs)


def _starts(
    context: Context,
    objects: Mapping[int, Obj],
    holder: Holder,
    around: Sequence[Holder],
    words: Sequence[tuple[int, int]],
) -> Iterator[int]:
    """Yield the structures around pointers that are whole."""
    usable = [other for other in around if not missing(context, other)]
    for word, target in words:
        if context.is_a(objects[target].type, holder.target):
            try:
                start = structure_around(context, objects, holder, usable, word)
            except Unreadable:
                continue
            # Where malloc puts nothing there is no event source.
            if start and not (holder.start == Around("source") and start % _ALIGNED):
                yield start


def _is_held(
    context: Context,
    snapshot: Snapshot,
    holder: Holder,
    wanted: Collection[int],
    before: Collection[tuple[str, int, str]],
) -> bool:
    """Whether a holder that held nothing there holds something that is wanted."""
    rows = read_declared(context, snapshot.objects, snapshot.spaces, snapshot.listeners, (holder,))
    try:
        return any(
            row.target in wanted and (row.kind, row.holder, row.field) not in before for row in rows
        )
    except Unreadable:
        return False
