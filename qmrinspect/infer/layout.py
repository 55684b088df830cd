"""From a process to a layout
--------------------------
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..errors import LayoutError, ReadingError
from ..layout import Layout, find
from ..layout.model import load
from ..layout.schema import REQUIRED
from ..records.context import Context, Statics
from ..references import HOLDERS, Around
from ..references.record import fields_of
from ..snapshot import Snapshot, TargetInfo
from ..strict import Relation, doubted, relations
from ..target.image import Capture, Image, Target
from ..walk import capture, decode, version_of
from ..walk.validate import Check, fits, validate
from . import anchors, blocks, regions
from .core import Core, open_core
from .draft import CONFIRMED, Draft, Reference, draft, nearest
from .homes import outermost, types_of
from .search import search
from .shapes import choose
from .tables import read_anchors
from .unknown import discover

__all__ = ["infer", "open_questions", "references"]

# Each round takes out what contradicts itself, and looks again at what is left.
_ROUNDS = 4
# What the relations of a trusted reading show, where there is something to show them.
_SHOWN = {
    "a device's bus is a bus": "DeviceState.parent_bus",
    "a bus's child is a device that sits on it": "BusState.children BusChild.child "
    "BusChild.sibling",
    "a region's owner is an object": "MemoryRegion.owner",
    "a region's container has it as a subregion": "MemoryRegion.container MemoryRegion.subregions "
    "MemoryRegion.subregions_link",
    "a region's alias is a region": "MemoryRegion.alias",
    "an address space's root is a region": "AddressSpace.root AddressSpace.address_spaces_link",
    "an address space has a flat view": "AddressSpace.current_map",
    "a flat view in use is counted and made from a region": "FlatView.ref FlatView.root",
    "a flat view's ranges are regions, in order": "FlatView.ranges FlatView.nr FlatRange.mr "
    "FlatRange.addr",
    "a view's dispatch sections are regions": "FlatView.dispatch AddressSpaceDispatch.map "
    "PhysPageMap.sections_nb PhysPageMap.sections MemoryRegionSection.mr",
}


def references() -> list[Reference]:
    """Return the shipped profiles that have anchors."""
    out = []
    for path in find.profiles():
        beside = path.with_suffix(".anchors.gz")
        if beside.exists():
            out.append(Reference(load(path, f"profile:{path.stem}"), anchors.load(beside)))
    return out


def infer(
    target: Target, statics: Statics, known: Sequence[Reference], before: Layout | None = None
) -> Layout:
    """Work out the layout of a process's program.

    :param known: QEMUs whose layouts are known.
    :param before: what was inferred for the same build at another time.
    :raises LayoutError: when something is missing without which nothing can be read.
    :raises TargetError: when the process cannot be read.
    """
    if not known:
        raise LayoutError("no profile has anchors to start from")
    image, cost, core = _open(target, statics, known)
    here = read_anchors(core, target.elf())
    near = nearest(here, known)
    rough = draft(here, near)
    if before is not None:
        _recall(rough, before)
    choose(core, rough)
    regions.solve(core, rough)
    search(core, rough)
    blocks.solve(core, rough, near)
    discover(core, rough)
    info = TargetInfo(target.kind, target.pid, target.exe, "", "", "", "inferred")
    for _ in range(_ROUNDS):
        snapshot, context = _decode(image, cost, rough.layout(), statics, info)
        shown = relations(context, snapshot)
        if not _take_out(rough, shown):
            break
    broken = sorted(doubted(shown))
    if broken:
        raise LayoutError(f"live structures contradict {', '.join(broken)}")
    checks = validate(snapshot, context.layout)
    if not fits(checks):
        wrong = "; ".join(f"{c.name}: {c.detail}" for c in checks if c.total and not c.ok)
        raise LayoutError(
            f"what was worked out contradicts itself: {wrong or 'too little is seen'}"
        )
    _confirm(rough, shown, checks, snapshot)
    rough.confirm_outer()
    _leave_out(rough, core)
    layout = rough.layout(confirmed=True)
    missing = layout.missing()
    if missing:
        raise LayoutError(f"nothing speaks for {', '.join(missing)}")
    elf = target.elf()
    return layout._replace(build_id=elf.build_id(), version=version_of(elf))


def open_questions(layout: Layout, chains: Iterable[Sequence[str]]) -> bool:
    """Say whether fields are unconfirmed that objects of some types could show.

    :param chains: each type with its ancestors.
    """
    names = {name for chain in chains for name in chain}
    return any(
        word in ("both", "unconfirmed") and not names.isdisjoint(types_of(outermost(field)))
        for field, word in layout.evidence.items()
    )


def _open(
    target: Target, statics: Statics, known: Sequence[Reference]
) -> tuple[Image, Capture, Core]:
    """Capture under the first layout whose RAM blocks make sense, and read QOM's core."""
    reasons = []
    for reference in known:
        try:
            image, cost = capture(target, reference.layout, statics)
            return image, cost, open_core(image, statics, reference.layout, target.mappings())
        except (LayoutError, ReadingError) as error:
            if error.text not in reasons:
                reasons.append(error.text)
    raise LayoutError("; ".join(reasons))


def _decode(
    image: Image, cost: Capture, layout: Layout, statics: Statics, info: TargetInfo
) -> tuple[Snapshot, Context]:
    try:
        return decode(image, cost, layout, statics, info)
    except ReadingError as error:
        raise LayoutError(f"what was worked out does not read: {error.text}") from None


def _recall(rough: Draft, before: Layout) -> None:
    """Take over what was confirmed earlier."""
    for name, struct in before.structs.items():
        where = rough.home(name)
        for field, (offset, _) in struct.fields.items():
            word = before.evidence.get(f"{name}.{field}", "")
            if word in CONFIRMED and field in rough.places.get(name, {}):
                rough.set(name, field, offset + (where.offset if where else 0), word)
        if name in rough.sizes:
            rough.sizes[name] = struct.size


def _take_out(rough: Draft, shown: Mapping[str, Relation]) -> bool:
    """Take back what a relation contradicts; say whether there was any."""
    out = False
    for field in doubted(shown):
        name, _, member = field.partition(".")
        if member not in REQUIRED.get(name, "").split():
            out = rough.places[name].pop(member, None) is not None or out
    return out


def _confirm(
    rough: Draft, shown: Mapping[str, Relation], checks: Sequence[Check], snapshot: Snapshot
) -> None:
    """Enter what live structures proved: the relations, and the references that were found."""
    seen = {field for row in shown.values() if row.seen for field in row.fields}
    for row in checks:
        if row.total:
            seen.update(_SHOWN.get(row.name, "").split())
    seen |= set(_used(snapshot))
    for field in seen:
        name, _, member = field.partition(".")
        place = rough.places.get(name, {}).get(member)
        if place is not None and place.evidence not in CONFIRMED:
            rough.set(name, member, place.offset, "seen")


def _leave_out(rough: Draft, core: Core) -> None:
    """Leave out what could hold a reference at the instant and was not seen to be right.

    What has no instance does no harm, and is looked at again when it gets one.
    """
    alive = {name for obj in core.objects.values() for name in core.context.chain(obj.type)}
    for holder in HOLDERS:
        for name, names, needed in fields_of(holder):
            where = rough.home(name) if name in rough.places else None
            for field in names if needed and where is not None and where.type in alive else ():
                place = rough.places[name].get(field)
                if place is not None and place.evidence == "both" and not place.close:
                    rough.set(name, field, place.offset, "unconfirmed")


def _used(snapshot: Snapshot) -> Iterator[str]:
    """Yield the fields of structures that were believed around a pointer."""
    found = {(row.kind, row.field) for row in snapshot.fields}
    for holder in HOLDERS:
        if isinstance(holder.start, Around) and (holder.kind, holder.way) in found:
            for name, names, needed in fields_of(holder):
                if needed:
                    yield from (f"{name}.{field}" for field in names)
