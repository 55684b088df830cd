"""Memory regions by what they hold
---------------------------------

Every machine has hundreds of regions, and what QEMU puts into each says which field is which:
the name is that of the child property, the owner is the parent, one list of regions closes
through another (system/memory.c memory_region_do_init, memory_region_update_container_subregions).
No profile is needed for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from typing import Callable, NamedTuple

from ..target.image import Unreadable
from .core import Core
from .draft import CONFIRMED, Draft

__all__ = ["solve"]

_TYPE, _STRUCT = "memory-region", "MemoryRegion"
_LEAST = 32  # regions, and of them so many that show a field
_SHOWN = 8
_MOST = 512
_STRAYS = 32
_NUMBERED = re.compile(r"\[\d+\]$")

#: Given a region's number and the word at an offset: whether the field is there; None where
#: nothing shows.
Test = Callable[[int, int], "bool | None"]


class _Regions(NamedTuple):
    """The words of each region, by offset / 8, and what QOM knows of it."""

    core: Core
    addresses: Sequence[int]
    rows: Sequence[tuple[int, ...]]
    names: Sequence[str]

    def columns(self) -> range:
        """The offsets of words behind the object that a region begins with."""
        first = self.core.context.layout.size("Object") // 8
        return range(first, len(self.rows[0]) - 1)

    def find(self, test: Test, wrong: int = 0, least: int = _SHOWN) -> list[tuple[int, int]]:
        """Return (instances, offset) of each word for which all that show something agree.

        :param wrong: how many may not.
        :param least: how many must show something.
        """
        out = []
        for i in self.columns():
            shown, left = 0, wrong
            for k in range(len(self.rows)):
                try:
                    found = test(k, i)
                except Unreadable:
                    found = False
                left -= found is False
                if left < 0:
                    break
                shown += found is True
            else:
                out += [(shown, 8 * i)] if shown >= least else []
        return sorted(out, reverse=True)


def solve(core: Core, draft: Draft) -> None:
    """Find the fields of regions; what nothing confirmed before goes where one place alone is."""
    if _STRUCT not in draft.places or _TYPE not in core.context.types:
        return
    regions = _read(core)
    if regions is None:
        return
    before = {name: place.offset for name, place in draft.places[_STRUCT].items()}
    wanted = {n for n, place in draft.places[_STRUCT].items() if place.evidence not in CONFIRMED}
    for name, offset in _solved(regions, draft, wanted):
        if name in wanted:
            word = "seen" if before[name] == offset else "solved"
            draft.set(_STRUCT, name, offset, word)
    _between(draft, before)


def _read(core: Core) -> _Regions | None:
    size = core.context.types[_TYPE].size
    names = {p.target: p.name for p in core.props if p.role == "child"}
    addresses, rows, labels = [], [], []
    for address in core.of_type(_TYPE)[:_MOST]:
        try:
            row = core.image.words(address, size // 8)
        except Unreadable:
            continue
        addresses.append(address)
        rows.append(row)
        labels.append(_NUMBERED.sub("", names.get(address, "")))
    return _Regions(core, addresses, rows, labels) if len(rows) >= _LEAST else None


def _solved(regions: _Regions, draft: Draft, wanted: Set[str]) -> Iterator[tuple[str, int]]:
    """Yield each field of which one place alone is possible, and where that is.

    :param wanted: the others are looked for only where these need them.
    """
    image, rows, addresses = regions.core.image, regions.rows, regions.addresses
    objects = regions.core.objects
    parents = [objects[address].parent for address in addresses]
    known = set(regions.core.of_type(_TYPE))

    def name(k: int, i: int) -> bool | None:
        # What a property's name may not have is escaped there.
        label = regions.names[k]
        if not label or "\\" in label:
            return None
        return image.string(rows[k][i], 4096) == label

    def owner(k: int, i: int) -> bool | None:
        return rows[k][i] == parents[k] if rows[k][i] else None

    def size(k: int, i: int) -> bool | None:
        # An Int128: 2^64 is the size of what has all addresses.
        low, high = rows[k][i : i + 2]
        return high == 0 or (high == 1 and low == 0)

    def region(k: int, i: int) -> bool | None:
        return rows[k][i] in known if rows[k][i] else None

    def head(k: int, i: int) -> bool | None:
        first, last = rows[k][i : i + 2]
        if not first:
            return None if last == addresses[k] + 8 * i else False
        return first in known and image.u64(last) == 0

    def link(k: int, i: int) -> bool | None:
        following, before = rows[k][i : i + 2]
        if not before:
            return None if not following else False
        return image.u64(before) == addresses[k] and (not following or following in known)

    block = draft.places.get("RAMBlock", {}).get("mr")

    def ram_block(k: int, i: int) -> bool | None:
        if block is None or not rows[k][i]:
            return None
        return image.u64(rows[k][i] + block.offset) == addresses[k]

    # A RAM block points back to its region, and there are few.
    for field, test, least in (("name", name, _SHOWN), ("ram_block", ram_block, 2)):
        found = regions.find(test, least=least) if field in wanted else []
        if len(found) == 1:
            yield field, found[0][1]
    if not wanted.isdisjoint(("owner", "dev")):
        # The ranges of a list of ports have another parent (11.1, system/ioport.c).
        yield from _owners(regions, regions.find(owner, len(rows) // _STRAYS))
    if "size" in wanted:
        whole = [at for _, at in regions.find(size) if _is_size(regions, at // 8)]
        if len(whole) == 1:
            yield "size", whole[0]
    if wanted.isdisjoint(("subregions", "subregions_link", "container", "alias")):
        return
    heads, links = regions.find(head), regions.find(link)
    if len(heads) == len(links) == 1:
        at_head, at_link = heads[0][1], links[0][1]
        yield "subregions", at_head
        yield "subregions_link", at_link
        pointers = [at for _, at in regions.find(region) if at not in (at_head, at_link)]
        yield from _containers(regions, pointers, at_link // 8 + 1)


def _containers(
    regions: _Regions, pointers: Sequence[int], inside: int
) -> Iterator[tuple[str, int]]:
    """A region has a container while it is on a list; the other pointer is its alias."""
    rows = regions.rows
    containers = [
        at for at in pointers if all(bool(row[at // 8]) == bool(row[inside]) for row in rows)
    ]
    if len(containers) == 1:
        yield "container", containers[0]
        others = [at for at in pointers if at != containers[0]]
        if len(others) == 1:
            yield "alias", others[0]


def _owners(regions: _Regions, found: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """The owner, some of which are no devices, and since 7.2 the owner where it is one."""
    objects, is_a = regions.core.objects, regions.core.context.is_a
    devices = {a for a, obj in objects.items() if is_a(obj.type, "device")}

    def values(at: int) -> list[int]:
        return [row[at // 8] for row in regions.rows]

    owners = [at for _, at in found if not devices.issuperset({*values(at)} - {0})]
    if len(owners) != 1:
        return
    yield "owner", owners[0]
    owned = [value if value in devices else 0 for value in values(owners[0])]
    yield from (("dev", at) for _, at in found if values(at) == owned)


def _is_size(regions: _Regions, i: int) -> bool:
    """Whether words may be sizes: there is one of 2^64, and most are some."""
    pairs = [row[i : i + 2] for row in regions.rows]
    return (0, 1) in pairs and sum(pair != (0, 0) for pair in pairs) * 2 > len(pairs)


def _between(draft: Draft, before: dict[str, int]) -> None:
    """Move what lies between two fields that were found and that went the same way."""
    places = draft.places[_STRUCT]
    firm = sorted(
        (before[name], places[name].offset) for name in places if places[name].evidence in CONFIRMED
    )
    for name, place in list(places.items()):
        if place.evidence in CONFIRMED:
            continue
        below = [row for row in firm if row[0] < before[name]]
        above = [row for row in firm if row[0] > before[name]]
        if below and above and below[-1][1] - below[-1][0] == above[0][1] - above[0][0]:
            offset = before[name] + below[-1][1] - below[-1][0]
            if offset != place.offset:
                places[name] = place._replace(offset=offset, evidence="both", close=True)
