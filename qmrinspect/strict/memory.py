"""Regions, blocks, views and spaces
---------------------------------
"""

from __future__ import annotations

import re
from collections import Counter

from ..snapshot import Snapshot, View
from ..target.image import Unreadable
from .tally import Tally

__all__ = ["relate"]

_FLAGS = ("enabled", "ram", "rom_device", "readonly", "subpage", "terminates")
_OFFSET_MAX = 1 << 40  # bytes; an address in QEMU's memory is larger
_PRIORITY_MAX = 1 << 20
_PAGE = 4096
# The pages of guests and hosts that QEMU rounds up to, whichever is larger.
_PAGES = (_PAGE, 8192, 16384, 65536)
_VIEW_REF_MAX = 1 << 16
_SECTIONS = 64
# A view of fewer regions says little about its dispatch table.
_MAPPED_MIN = 8
_PORT_RANGE = "memory-region-portio-list"


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count what holds between the structures of the memory API."""
    _regions(tally, snapshot)
    _flags(tally, snapshot)
    _blocks(tally, snapshot)
    _orders(tally, snapshot)
    _views(tally, snapshot)
    _spaces(tally, snapshot)


def plain_name(text: str) -> str:
    """Return the name of a child without its number."""
    return re.sub(r"\[\d+\]$", "", text)


def _escaped(text: str) -> str:
    """Return a region's name as a property has it (system/memory.c memory_region_escape_name)."""
    return "".join(f"\\x{ord(c):02x}" if c in "/[]\\" else c for c in text)


def _regions(tally: Tally, snapshot: Snapshot) -> None:
    regions, objects = snapshot.regions, snapshot.objects
    name = tally.asks("a region has the name of the child that it is", "MemoryRegion.name")
    owner = tally.asks("a region's owner is its parent", "MemoryRegion.owner")
    dev = tally.asks("a region's device is its owner", "MemoryRegion.dev MemoryRegion.owner")
    alias = tally.asks(
        "an alias leads to a region, at an offset",
        "MemoryRegion.alias MemoryRegion.alias_offset",
    )
    offset = tally.asks("only an alias has an alias offset", "MemoryRegion.alias_offset", False)
    priority = tally.asks("priorities are small", "MemoryRegion.priority", False)
    mapped = tally.asks("a region counts its mapped aliases", "MemoryRegion.mapped_via_alias")
    names = {p.target: p.name for p in snapshot.props if p.role == "child" and p.target in regions}
    aliased: Counter[int] = Counter()
    for region in regions.values():
        at, depth = region, 0
        while region.container and at.alias in regions and depth < 32:
            at, depth = regions[at.alias], depth + 1
            aliased[at.address] += 1
    for address, region in regions.items():
        child = names.get(address)
        if name and child is not None:
            name(plain_name(child) in (region.name, _escaped(region.name)))
        # A range of I/O ports owns its region, which stays its device's child.
        holder = objects.get(region.owner)
        if owner and objects[address].parent and holder and holder.type != _PORT_RANGE:
            owner(objects[address].parent == region.owner)
        record = tally.record("MemoryRegion", address) if dev else None
        if dev and record is not None and record["dev"]:
            dev(record["dev"] == region.owner)
        if region.alias:
            target = regions.get(region.alias)
            if alias:
                # A board's may end behind it (hw/arm/fsl-imx6.c) or lie there (hw/char/escc.c).
                alias(target is not None and region.alias_offset < max(target.size, _OFFSET_MAX))
        elif offset:
            offset(region.alias_offset == 0)
        if priority:
            priority(abs(region.priority) < _PRIORITY_MAX)
        if mapped and (region.mapped_via_alias or aliased[address]):
            mapped(region.mapped_via_alias == aliased[address])


def _flags(tally: Tally, snapshot: Snapshot) -> None:
    """Every ``bool`` of a region is one; what the guest can reach is enabled and terminates."""
    visible = {r.mr for v in snapshot.views.values() if v.found == "space" for r in v.ranges}
    layout = tally.context.layout
    records = [(address, tally.record("MemoryRegion", address)) for address in snapshot.regions]
    for flag in _FLAGS:
        field = f"MemoryRegion.{flag}"
        bits = tally.asks(f"a region's {flag} is a bool", field, False)
        shown = tally.asks(f"what a view shows is {flag}", field)
        if not bits or layout.structs["MemoryRegion"].fields[flag][1] != 1:
            continue
        for address, record in records:
            if record is None:
                continue
            bits(record[flag] < 2)
            if shown and flag in ("enabled", "terminates") and address in visible:
                shown(record[flag] == 1)


def _blocks(tally: Tally, snapshot: Snapshot) -> None:
    """A RAM region and its ``RAMBlock`` name each other (system/physmem.c)."""
    ram = "MemoryRegion.ram MemoryRegion.ram_block"
    back = tally.asks("a RAM block points back to its region", f"{ram} RAMBlock.mr")
    none = tally.asks("what is no RAM has no block", "MemoryRegion.ram_block", False)
    size = "RAMBlock.used_length MemoryRegion.size"
    used = tally.asks("a RAM block is as large as its region", size)
    most = tally.asks(
        "a RAM block can grow to its maximum", "RAMBlock.max_length RAMBlock.used_length"
    )
    host = tally.asks("a RAM block begins at a page", "RAMBlock.host")
    text = tally.asks("a RAM block is named after its region", "RAMBlock.idstr")
    if not back or not none:
        return
    for address, region in snapshot.regions.items():
        record = tally.record("MemoryRegion", address)
        if record is None or region.alias:
            continue
        if not record["ram"]:
            # A ROM device has a block as well, and is no RAM.
            none(record["ram_block"] == 0 or bool(record.get("rom_device")))
            continue
        block = tally.record("RAMBlock", record["ram_block"]) if record["ram_block"] else None
        back(block is not None and block["mr"] == address)
        if block is None:
            continue
        if used:
            # qemu_ram_alloc_internal rounds it up to a page.
            used(block["used_length"] in {-(-region.size // page) * page for page in _PAGES})
        if most:
            most(0 < block["used_length"] <= block["max_length"])
        if host:
            host(block["host"] > 0 and block["host"] % _PAGE == 0)
        if text:
            # It is, when it is registered for migration.
            said = tally.text(block.at("idstr"))
            text(said is not None and (not said or said.endswith(region.name)))


def _orders(tally: Tally, snapshot: Snapshot) -> None:
    """Subregions are sorted by priority (memory_region_update_container_subregions)."""
    regions = snapshot.regions
    put = tally.asks("subregions come by priority", "MemoryRegion.priority MemoryRegion.subregions")
    for region in regions.values():
        row = [regions[sub].priority for sub in region.subregions if sub in regions]
        if put and len(set(row)) > 1:
            put(all(a >= b for a, b in zip(row, row[1:])))


def _views(tally: Tally, snapshot: Snapshot) -> None:
    counts = tally.asks("a view's ranges fit its array", "FlatView.nr FlatView.nr_allocated")
    refs = tally.asks("a view in use is counted", "FlatView.ref")
    within = tally.asks(
        "a view's range lies in its region", "FlatRange.offset_in_region MemoryRegion.size"
    )
    back = tally.asks("a section names its view", "MemoryRegionSection.fv")
    shown = tally.asks(
        "what a large view shows has a section",
        "PhysPageMap.sections_nb PhysPageMap.sections MemoryRegionSection.mr",
    )
    size = tally.asks("a section is no larger than a space", "MemoryRegionSection.size", False)
    for view in snapshot.views.values():
        record = tally.record("FlatView", view.address)
        if record is None:
            continue
        if counts:
            counts(record["nr"] <= record["nr_allocated"])
        if refs and view.found == "space":
            refs(0 < record["ref"] < _VIEW_REF_MAX)
        mapped = {part.mr for part in view.ranges}
        if shown and len(mapped) >= _MAPPED_MIN:
            shown(mapped <= set(view.sections))
        for part in view.ranges:
            region = snapshot.regions.get(part.mr)
            if within and region is not None:
                within(part.offset + part.size <= region.size)
        if record["dispatch"] and back and size:
            for section in _sections(tally, view, record["dispatch"]):
                names = tally.record("MemoryRegionSection", section)
                if names is not None:
                    back(names["fv"] == view.address)
                    size(names["size"] <= 1 << 64)


def _sections(tally: Tally, view: View, dispatch: int) -> list[int]:
    table = tally.record("PhysPageMap", dispatch + tally.offset("AddressSpaceDispatch.map"))
    if table is None:
        return []
    stride = tally.context.layout.size("MemoryRegionSection")
    return [table["sections"] + i * stride for i in range(min(len(view.sections), _SECTIONS))]


def _spaces(tally: Tally, snapshot: Snapshot) -> None:
    name = tally.asks("an address space has a name", "AddressSpace.name")
    some = tally.asks("there are memory listeners", "AddressSpace.listeners MemoryListener.link_as")
    space = tally.asks(
        "a listener names its space",
        "MemoryListener.address_space AddressSpace.listeners MemoryListener.link_as",
    )
    text = tally.asks("a listener has a name or none", "MemoryListener.name")
    named = tally.asks("some listeners have a name", "MemoryListener.name", False)
    if named and snapshot.listeners:
        named(any(listener.name for listener in snapshot.listeners.values()))
    if some:
        some(bool(snapshot.listeners))
    for row in snapshot.spaces.values():
        if name:
            name(row.name != "" and row.name.isprintable())
        for address in row.listeners:
            try:
                listener = tally.context.record("MemoryListener", address)
            except (KeyError, Unreadable):
                continue
            if space:
                space(listener["address_space"] == row.address)
            if text:
                said = tally.text(listener["name"]) if listener["name"] else "-"
                text(said is not None and said != "" and said.isprintable())
