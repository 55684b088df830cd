"""Structures that no known QEMU has
---------------------------------

A type that came after every QEMU whose layout is known has fields of which nothing is
known but what the declared references say: what they lead to.  Where one place in all
its instances leads there, and no other, that is the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import LayoutError
from ..layout import Struct
from ..records.ways import follow
from ..references import HOLDERS, OfType
from ..references.record import Step, parse, ways_of
from ..strict.holders import look, witnesses
from ..target.image import Unreadable
from .blocks import block_size
from .core import Core
from .draft import Draft, Place
from .homes import types_of

__all__ = ["discover"]

_POINTER, _LINK = 8, 16
_INSTANCES = 64
# No structure that is on a list is larger, in bytes.
_ELEMENT_MAX = 4096
_CONTEXTS = 3
_MANAGER, _MANAGED = "RamDiscardManager", "MemoryRegion.rdm"


def discover(core: Core, draft: Draft) -> None:
    """Add the structures that their instances show."""
    _first_steps(core, draft)
    _lists(core, draft)
    _managers(core, draft)
    _conditions(core, draft)


def _add(core: Core, draft: Draft, struct: str, field: str, offset: int, size: int) -> None:
    kind = next((kind for kind in types_of(struct) if kind in core.context.types), "")
    if kind:
        draft.sizes[struct] = core.context.types[kind].size
    draft.places.setdefault(struct, {})[field] = Place(offset, size, "solved")


def _known(draft: Draft, step: Step) -> bool:
    places = draft.places.get(step.struct, {})
    return not step.names or any(name in places for name in step.names)


# One field -------------------------------------------------------------------------


def _first_steps(core: Core, draft: Draft) -> None:
    """Find the field that a way begins with, where the rest of the way is known."""
    for holder in HOLDERS:
        start = holder.start
        if not isinstance(start, OfType) or holder.target in ("ram", "view") or holder.when:
            continue
        if start.type not in core.context.types:
            continue
        for way in ways_of(holder.way):
            first, *rest = parse(way)
            if first.struct in draft.places or not all(_known(draft, step) for step in rest):
                continue
            instances = core.of_type(start.type)[:_INSTANCES]
            size = _POINTER
            if way.startswith("&"):
                size = core.context.types[holder.target].size
            found = list(_leading(core, draft, start.type, way, instances, size))
            if len(found) == 1:
                _add(core, draft, first.struct, first.names[0], found[0], size)


def _leading(
    core: Core, draft: Draft, kind: str, way: str, instances: Sequence[int], size: int
) -> Iterator[int]:
    """Yield the places from which a way leads where it should, in every instance."""
    types = core.context.types
    step = parse(way)[0]
    base = draft.layout()
    begin = types[types[kind].parent].size if types[kind].parent in types else 0
    for offset in range(begin, types[kind].size - size + 1, 8) if instances else ():
        row = Struct(types[kind].size, {step.names[0]: (offset, size)})
        context = core.context.under(base._replace(structs={**base.structs, step.struct: row}))
        witness = next((w for w in witnesses(context) if (w.type, w.way) == (kind, way)), None)
        if witness is None:
            return
        rows = [look(context, witness, address, core.objects) for address in instances]
        if any(row.right for row in rows) and not any(row.wrong for row in rows):
            yield offset


# Lists -----------------------------------------------------------------------------


class _Element(NamedTuple):
    """The first element of a list: where its head is, where its link, and where it begins."""

    head: int
    link: int
    address: int
    size: int


def _lists(core: Core, draft: Draft) -> None:
    """Find lists whose elements point back to a type's instances, and lists on these.

    Lists that look alike have their names in the order of the alphabet: so QEMU has them.
    """
    ways = [
        (holder.start.type, holder.target, parse(way))
        for holder in HOLDERS
        if isinstance(holder.start, OfType)
        for way in ways_of(holder.way)
    ]
    plain = [row for row in ways if [step.how for step in row[2]] == ["+", "list", "+"]]
    for kind in {row[0] for row in plain}:
        mine = sorted((row for row in plain if row[0] == kind), key=lambda row: row[2][0].names)
        if kind not in core.context.types or any(_known(draft, row[2][0]) for row in mine):
            continue
        for address in core.of_type(kind)[:1]:
            size = core.context.types[kind].size
            found = [
                (element, at)
                for element in _elements(core, address, size)
                for at in [_pointer(core, element, mine[0][1])]
                if at is not None
            ]
            if len(found) > len(mine):
                continue
            for (element, at), (_, target, steps) in zip(found, mine):
                _add(core, draft, steps[0].struct, steps[0].names[0], element.head, _POINTER)
                _enter(draft, steps[1:], element, at)
                for _, _, longer in ways:
                    if longer[:2] == steps[:2] and len(longer) > len(steps):
                        _nested(core, draft, target, longer[2:], element)


def _nested(core: Core, draft: Draft, target: str, steps: Sequence[Step], outer: _Element) -> None:
    """Find the list that an element is the head of: ``+ S.head list T.link + T.f``."""
    if [step.how for step in steps] != ["+", "list", "+"]:
        return
    inside = [e for e in _elements(core, outer.address, outer.size) if e.head != outer.link]
    found = [(e, at) for e in inside for at in [_pointer(core, e, target)] if at is not None]
    if len(found) == 1:
        ((element, at),) = found
        place = Place(element.head, _POINTER, "solved")
        draft.places[steps[0].struct][steps[0].names[0]] = place
        _enter(draft, steps[1:], element, at)


def _enter(draft: Draft, steps: Sequence[Step], element: _Element, at: int) -> None:
    link, field = steps
    draft.sizes[link.struct] = element.size
    draft.places[link.struct] = {
        link.names[0]: Place(element.link, _LINK, "solved"),
        field.names[0]: Place(at, _POINTER, "solved"),
    }


def _elements(core: Core, start: int, size: int) -> Iterator[_Element]:
    """Yield what the heads of lists in a structure lead to: an element that names its head."""
    try:
        words = core.image.words(start, size // 8)
    except Unreadable:
        return
    for i, word in enumerate(words):
        length = block_size(core, word) if _is_pointer(word) else 0
        if not 0 < length <= _ELEMENT_MAX:
            continue
        try:
            inside = core.image.words(word, length // 8)
        except Unreadable:
            continue
        # A QLIST's link is {next, the address of what leads here}.
        links = [j - 1 for j, value in enumerate(inside) if j and value == start + 8 * i]
        if len(links) == 1:
            yield _Element(8 * i, 8 * links[0], word, length)


def _pointer(core: Core, element: _Element, target: str) -> int | None:
    """Return the only place in an element that points to an object of a type."""
    words = core.image.words(element.address, element.size // 8)
    objects, is_a = core.objects, core.context.is_a
    at = [i for i, word in enumerate(words) if word in objects and is_a(objects[word].type, target)]
    return 8 * at[0] if len(at) == 1 else None


# Two that name each other -----------------------------------------------------------


def _managers(core: Core, draft: Draft) -> None:
    """A region's manager of discarded memory is an object, and points back to the region."""
    struct, _, field = _MANAGED.partition(".")
    place = draft.places.get(struct, {}).get(field)
    kind = "ram-discard-manager"
    if place is None or kind not in core.context.types or _MANAGER in draft.places:
        return
    size = core.context.types[kind].size
    places: list[set[int]] = []
    for region in core.of_type("memory-region"):
        try:
            manager = core.image.u64(region + place.offset)
            if manager not in core.objects or core.objects[manager].type != kind:
                continue
            words = core.image.words(manager, size // 8)
        except Unreadable:
            continue
        places.append({8 * i for i, word in enumerate(words) if word == region})
    common = set.intersection(*places) if places else set()
    if len(common) == 1:
        _add(core, draft, _MANAGER, "mr", common.pop(), _POINTER)


# What must be set for a reference to be held ------------------------------------------


def _conditions(core: Core, draft: Draft) -> None:
    """Find the fields on which a reference depends: each leads to a context of the held object."""
    for holder in HOLDERS:
        start, way = holder.start, holder.way
        steps = parse(holder.when) if holder.when else ()
        if not isinstance(start, OfType) or len(steps) != 1 or start.type not in core.context.types:
            continue
        if _known(draft, steps[0]) or not all(_known(draft, step) for step in parse(way)):
            continue
        context = core.context.under(draft.layout())
        found: list[set[int]] = []
        for address in core.of_type(start.type)[:_INSTANCES]:
            try:
                held = [hit.value for hit in follow(context, address, way)]
                if held:
                    found.append(set(_contexts(core, address, start.type, held[0])))
            except (Unreadable, LayoutError):
                return
        common = set.intersection(*found) if found else set()
        if len(common) == 1:
            _add(core, draft, steps[0].struct, steps[0].names[0], common.pop(), _POINTER)


def _contexts(core: Core, address: int, kind: str, held: int) -> Iterator[int]:
    """Yield where an instance points to a pointer that the object it holds has as well."""
    types = core.context.types
    own = set(core.image.words(held, types[core.objects[held].type].size // 8))
    begin = types[types[kind].parent].size if types[kind].parent in types else 0
    for i, word in enumerate(core.image.words(address + begin, (types[kind].size - begin) // 8)):
        if not _is_pointer(word) or word in core.objects:
            continue
        try:
            # The first two queues of a SCSI host are not the iothread's.
            inside = core.image.words(word, _CONTEXTS)
        except Unreadable:
            continue
        if any(_is_pointer(value) and value in own for value in inside):
            yield begin + 8 * i


def _is_pointer(word: int) -> bool:
    return 0x1000 < word < 1 << 47 and word % 8 == 0
