"""Memory regions, address spaces and flat views
---------------------------------------------
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from ..errors import ReadingError
from ..records.context import LIST_MAX, Context, Record
from ..records.glib import HashTable
from ..records.scan import find_words
from ..snapshot import Listener, Obj, Range, Region, Snapshot, Space, View
from ..target.image import Unreadable
from .statics import static_table

__all__ = ["lost_views", "read_regions", "read_spaces", "read_view", "table_views"]

# A flat view with more ranges or sections than this is no flat view.
_RANGES_MAX = 1 << 16
_SPACES_MAX = 1 << 14


def read_regions(context: Context, objects: Mapping[int, Obj]) -> dict[int, Region]:
    """Read the ``MemoryRegion`` part of every region, IOMMU regions included."""
    out = {}
    for address, obj in objects.items():
        if context.is_a(obj.type, "memory-region"):
            key = "region", address
            region = context.recall(key, obj, partial(_region, context, obj))
            if region is not None:
                out[address] = region
    return out


def _region(context: Context, obj: Obj) -> Region | None:
    address = obj.address
    link = context.layout.offset("MemoryRegion", "subregions_link")
    try:
        row = context.record("MemoryRegion", address)
    except Unreadable:
        context.note(address, "a memory region cannot be read")
        return None
    return Region(
        address=address,
        name=context.string(row["name"]),
        owner=row["owner"],
        container=row["container"],
        alias=row["alias"],
        alias_offset=row.get("alias_offset"),
        addr=row["addr"],
        size=row["size"],
        priority=row.signed("priority") if "priority" in row else 0,
        enabled=bool(row.get("enabled", 1)),
        kind=_kind(context, obj, row),
        subregions=tuple(context.queue(row.ptr("subregions"), link, f"subregions of {address:#x}")),
        mapped_via_alias=row.signed("mapped_via_alias") if "mapped_via_alias" in row else 0,
    )


def _kind(context: Context, obj: Obj, row: Record) -> str:
    if row.get("subpage"):
        return "subpage"
    if row["alias"]:
        return "alias"
    if context.is_a(obj.type, "iommu-memory-region"):
        return "iommu"
    if row.get("rom_device"):
        return "romd"
    if row.get("ram"):
        return "rom" if row.get("readonly") else "ram"
    return "i/o" if row.get("terminates") else "container"


def read_spaces(context: Context, first: int) -> tuple[dict[int, Space], dict[int, Listener]]:
    """Read the list of all address spaces and their listeners.

    :param first: ``AddressSpace *`` of ``address_space_memory``.  It is the first in
        the static list, so its back link is the list's head; where it is not,
        the back links lead there.
    :raises ReadingError: when there is no such list.
    """
    spaces: dict[int, Space] = {}
    listeners: dict[int, Listener] = {}
    link = context.layout.offset("AddressSpace", "address_spaces_link")
    # QTailQLink is {next, prev}, and prev points to the link of the element before.
    try:
        head = context.image.u64(_head(context, first, link))
    except Unreadable:
        head = 0
    for address in context.queue(head, link, "address spaces"):
        try:
            row = context.record("AddressSpace", address)
        except Unreadable:
            context.note(address, "an address space cannot be read")
            continue
        own = tuple(_listeners(context, row, listeners))
        spaces[address] = Space(
            address, context.string(row["name"]), row["root"], row["current_map"], own
        )
    if first not in spaces:
        raise ReadingError(
            "the list of address spaces does not lead back to address_space_memory",
            "the layout does not fit this QEMU; see qmr layout",
        )
    return spaces, listeners


def _head(context: Context, first: int, link: int) -> int:
    at, before = first, 0
    try:
        for _ in range(_SPACES_MAX):
            before = context.image.u64(at + link + 8)
            if context.image.u64(before) != at:
                break
            # An element's link is followed in memory by nothing that points back to it.
            space = before - link
            name = context.image.u64(space + context.layout.offset("AddressSpace", "name"))
            root = context.image.u64(space + context.layout.offset("AddressSpace", "root"))
            if not _is_name(context, name) or root & 7 or not root:
                return before
            at = space
    except Unreadable:
        return before
    raise ReadingError("the list of address spaces has no head", "see qmr layout")


def _is_name(context: Context, address: int) -> bool:
    try:
        return context.image.string(address, 256).isprintable()
    except Unreadable:
        return False


def _listeners(context: Context, space: Record, listeners: dict[int, Listener]) -> Iterator[int]:
    if "listeners" not in space or not context.layout.has("MemoryListener", "link_as"):
        return
    link = context.layout.offset("MemoryListener", "link_as")
    for address in context.queue(space.ptr("listeners"), link, "memory listeners"):
        try:
            row = context.record("MemoryListener", address)
        except Unreadable:
            context.note(address, "a memory listener cannot be read")
            continue
        name = context.string(row["name"]) if "name" in row else ""
        listeners[address] = Listener(address, name, space.address)
        yield address


def table_views(context: Context, current: Iterable[int]) -> list[int]:
    """Return the flat views that the static table ``flat_views`` caches.

    The table (system/memory.c) is recognised by a value that is in use by an
    address space; a view whose last address space is gone stays in it until the
    memory topology changes the next time.
    """
    wanted = set(current) - {0}

    def caches(table: HashTable) -> bool:
        if not 0 < table.nnodes <= 4096 or table.hash_func == context.handles.string_hash:
            return False
        return any(value in wanted for _, value in context.entries(table))

    found = static_table(context, "flat_views", caches)
    return [value for _, value in context.entries(found)] if found is not None else []


def lost_views(context: Context, snapshot: Snapshot) -> dict[int, View]:
    """Return the flat views that nothing known leads to, by the regions they were made of.

    Each is a live block of its own, and so are its ranges; none is found where that is not
    known.
    """
    if not context.live.heap.exact or not context.layout.has("FlatView", "root"):
        return {}
    roots = {view.root for view in snapshot.views.values()} - {0}
    roots |= {space.root for space in snapshot.spaces.values()} & snapshot.regions.keys()
    at_root = context.layout.offset("FlatView", "root")
    out = {}
    for word, _ in find_words(context.image, roots, context.known.words):
        start = word - at_root
        if start in snapshot.views or not _is_block(context, start):
            continue
        try:
            row = context.record("FlatView", start)
        except Unreadable:
            continue
        if not 0 < row["ref"] < LIST_MAX or not 0 < row["nr"] < LIST_MAX:
            continue
        # Every range is of a region that is still there: the view holds its owner.
        view = read_view(context, start, "lost") if _is_block(context, row["ranges"]) else None
        if view is not None and all(r.mr in snapshot.regions for r in view.ranges):
            out[start] = view
    return out


def _is_block(context: Context, start: int) -> bool:
    block = context.live.heap.at(start)
    return block is not None and block.start == start and block.state == "live"


def read_view(context: Context, address: int, found: str) -> View | None:
    """Read one ``FlatView`` with its ranges and its dispatch sections."""
    try:
        row = context.record("FlatView", address)
        ranges = _ranges(context, row)
        sections = _sections(context, row["dispatch"]) if row["dispatch"] else ()
    except Unreadable:
        context.note(address, "a flat view cannot be read")
        return None
    return View(address, row["ref"], row["root"], ranges, sections, found)


def _ranges(context: Context, view: Record) -> tuple[Range, ...]:
    count = view["nr"]
    if count > _RANGES_MAX:
        context.note(view.address, f"a flat view claims {count} ranges")
        return ()
    layout = context.layout
    stride = layout.size("FlatRange")
    at_mr, at_addr = layout.offset("FlatRange", "mr"), layout.offset("FlatRange", "addr")
    has_offset = layout.has("FlatRange", "offset_in_region")
    at_offset = layout.offset("FlatRange", "offset_in_region") if has_offset else None
    raw = context.image.read(view["ranges"], stride * count) if count else b""
    out = []
    for at in range(0, len(raw), stride):
        (mr,) = struct.unpack_from("<Q", raw, at + at_mr)
        offset = 0
        if at_offset is not None:
            (offset,) = struct.unpack_from("<Q", raw, at + at_offset)
        # AddrRange is two Int128; no guest address has more than 64 bits.
        start = int.from_bytes(raw[at + at_addr : at + at_addr + 16], "little")
        size = int.from_bytes(raw[at + at_addr + 16 : at + at_addr + 32], "little")
        out.append(Range(mr, start, size, offset))
    return tuple(out)


def _sections(context: Context, dispatch: int) -> tuple[int, ...]:
    layout = context.layout
    table = context.record("PhysPageMap", dispatch + layout.offset("AddressSpaceDispatch", "map"))
    count = table["sections_nb"]
    if count > _RANGES_MAX:
        context.note(dispatch, f"a dispatch table claims {count} sections")
        return ()
    stride = layout.size("MemoryRegionSection")
    at_mr = layout.offset("MemoryRegionSection", "mr")
    raw = context.image.read(table["sections"], stride * count) if count else b""
    return tuple(struct.unpack_from("<Q", raw, at + at_mr)[0] for at in range(0, len(raw), stride))
