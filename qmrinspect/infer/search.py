"""Fields found by their values
----------------------------

What a field holds in live objects tells whether it is where it is believed to be, and
where it is instead: a pointer to an object of one type, the head of a list that closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Callable, NamedTuple

from ..records.context import Context
from ..references import HOLDERS, OfType
from ..references.record import parse, ways_of
from ..strict.holders import Witness, look, witnesses
from ..target.image import Unreadable
from .core import Core
from .draft import Draft

__all__ = ["search"]

# How far from where it ought to be a field is looked for, in bytes.
_WINDOW = 96
_INSTANCES = 64

# Heads of a QTAILQ and links in one (include/qemu/queue.h).
_HEADS = (
    "BusState.children",
    "MemoryRegion.subregions",
    "SCSIDevice.requests",
    "VirtIOGPU.reslist",
)
_LINKS = ("MemoryRegion.subregions_link", "QemuConsole.next")

#: Given an object and an offset in it: whether the field is there; None where nothing shows.
Test = Callable[[int, int], "bool | None"]


class _Probe(NamedTuple):
    struct: str
    field: str
    type: str
    test: Test


def search(core: Core, draft: Draft) -> None:
    """Confirm the fields on objects that values show, and move those that they contradict."""
    for probe in _probes(core, draft):
        _settle(core, draft, probe)


def _settle(core: Core, draft: Draft, probe: _Probe) -> None:
    place = draft.places[probe.struct][probe.field]
    if place.evidence in ("code", "seen", "solved"):
        return
    instances = core.of_type(probe.type)[:_INSTANCES]
    size = core.context.types[probe.type].size
    first = _count(probe.test, instances, place.offset)
    if first == (0, 0):
        return
    if first.right and not first.wrong and place.evidence in ("named", "both"):
        draft.set(probe.struct, probe.field, place.offset, "seen")
        return
    listed = [place.offset, *place.others]
    near = [c + step for c in listed for step in range(-_WINDOW, _WINDOW + 1, 8)]
    best: list[int] = []
    most = 0
    for offset in dict.fromkeys(listed + near):
        if not 0 < offset <= size - 8:
            continue
        found = _count(probe.test, instances, offset)
        if found.wrong or not found.right or found.right < most:
            continue
        best = [*best, offset] if found.right == most else [offset]
        most = found.right
    if len(best) == 1:
        word = "seen" if best[0] == place.offset else "solved"
        draft.set(probe.struct, probe.field, best[0], word)
    elif first.wrong:
        draft.set(probe.struct, probe.field, place.offset, "unconfirmed")


class _Found(NamedTuple):
    right: int
    wrong: int


def _count(test: Test, instances: Sequence[int], offset: int) -> _Found:
    outcomes = []
    for address in instances:
        try:
            outcomes.append(test(address, offset))
        except Unreadable:
            outcomes.append(False)
    return _Found(outcomes.count(True), outcomes.count(False))


def _probes(core: Core, draft: Draft) -> Iterator[_Probe]:
    for field in _HEADS:
        yield from _on(draft, field, lambda address, offset: _is_head(core, address + offset))
    for field in _LINKS:
        yield from _on(
            draft, field, lambda address, offset: _is_link(core, address, address + offset)
        )
    yield from _pointers(core, draft)
    yield from _ways(core, draft)


def _on(draft: Draft, field: str, test: Test) -> Iterator[_Probe]:
    struct, _, name = field.partition(".")
    where = draft.home(struct)
    if where is not None and name in draft.places.get(struct, {}):
        yield _Probe(struct, name, where.type, test)


def _is_head(core: Core, head: int) -> bool | None:
    """An empty QTAILQ's tail points to its head, another's to a pointer that is NULL."""
    first, last = core.image.words(head, 2)
    if not last:
        return None if not first else False
    if not first:
        return last == head
    return last & 7 == 0 and core.image.u64(last) == 0 and core.image.u64(first) is not None


def _is_link(core: Core, address: int, link: int) -> bool | None:
    """The pointer before an element of a QTAILQ leads to it."""
    following, before = core.image.words(link, 2)
    if not before:
        return None if not following else False
    return before & 7 == 0 and core.image.u64(before) == address


def _pointers(core: Core, draft: Draft) -> Iterator[_Probe]:
    """Yield the declared fields, of objects themselves, that point to an object or are one."""
    objects, is_a = core.objects, core.context.is_a

    def right(address: int, target: str) -> bool:
        obj = objects.get(address)
        return obj is not None and (target == "object" or is_a(obj.type, target))

    for holder in HOLDERS:
        if not isinstance(holder.start, OfType) or holder.target in ("ram", "view"):
            continue
        for way in ways_of(holder.way):
            steps = parse(way)
            if any(step.how != "+" for step in steps) or not steps[-1].names:
                continue
            name = next(
                (n for n in steps[-1].names if n in draft.places.get(steps[-1].struct, {})), ""
            )
            where = draft.home(steps[-1].struct) if name else None
            if where is None or holder.start.type not in core.context.types:
                continue

            def test(
                address: int,
                offset: int,
                target: str = holder.target,
                embedded: bool = way.startswith("&"),
            ) -> bool | None:
                if embedded:
                    return right(address + offset, target)
                value = core.image.u64(address + offset)
                return right(value, target) if value else None

            yield _Probe(steps[-1].struct, name, holder.start.type, test)


def _ways(core: Core, draft: Draft) -> Iterator[_Probe]:
    """Yield the fields of objects that longer ways begin with; what these lead to tells."""
    for witness in witnesses(core.context.under(draft.layout())):
        steps = parse(witness.way)
        inside = list(takewhile(lambda step: step.how == "+" and step.names, steps))
        if len(inside) == len(steps):
            continue
        struct, names = inside[-1].struct, inside[-1].names
        field = next(name for name in names if name in draft.places[struct])
        if draft.home(struct) is not None:
            yield _Probe(struct, field, witness.type, _along(core, draft, witness, struct, field))


def _along(core: Core, draft: Draft, witness: Witness, struct: str, field: str) -> Test:
    """Return a test that follows a way from where the field would be."""
    moved: dict[int, Context] = {}

    def test(address: int, offset: int) -> bool | None:
        if offset not in moved:
            place = draft.places[struct][field]
            draft.set(struct, field, offset, place.evidence)
            moved[offset] = core.context.under(draft.layout())
            draft.places[struct][field] = place
        if not moved[offset].layout.has(struct, field):
            return False
        found = look(moved[offset], witness, address, core.objects)
        return False if found.wrong else True if found.right else None

    return test
