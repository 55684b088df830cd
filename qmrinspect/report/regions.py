"""Memory regions in words
-----------------------

Trees of regions and flat views, as ``info mtree`` orders them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..ledger import Book
from ..snapshot import Region, Snapshot, Space, View
from ..text import printable
from . import render, words
from .render import Row

__all__ = ["flat_json", "flat_lines", "region_json", "region_lines"]

_DEPTH_MAX = 64


def _subregions(snapshot: Snapshot, region: Region) -> list[Region]:
    """Return the subregions as ``info mtree`` orders them (mtree_print_mr)."""
    found = [snapshot.regions[sub] for sub in region.subregions if sub in snapshot.regions]
    return sorted(found, key=lambda sub: (sub.addr, -sub.priority))


def _walk(snapshot: Snapshot, root: int) -> Iterator[tuple[Region, int, int]]:
    """Yield (region, level, start) from a root down, each region once."""
    seen: set[int] = set()
    todo = [(root, 0, 0)]
    while todo:
        address, level, base = todo.pop()
        region = snapshot.regions.get(address)
        if region is None or address in seen or level > _DEPTH_MAX:
            continue
        seen.add(address)
        start = base + (region.addr if level else 0)
        yield region, level, start
        below = _subregions(snapshot, region)
        todo += [(sub.address, level + 1, start) for sub in reversed(below)]


def _by_root(spaces: Sequence[Space]) -> dict[int, list[Space]]:
    roots: dict[int, list[Space]] = {}
    for space in spaces:
        roots.setdefault(space.root, []).append(space)
    return roots


def _aliased(snapshot: Snapshot, roots: Sequence[int]) -> list[int]:
    """Return what aliases lead to and no address space shows, in order of discovery."""
    shown: set[int] = set()
    queue = list(roots)
    extra = []
    for root in queue:  # grows while it is walked
        for region, _, _ in _walk(snapshot, root):
            shown.add(region.address)
            if region.alias and region.alias in snapshot.regions:
                queue += [] if region.alias in queue else [region.alias]
        if root not in roots:
            extra.append(root)
    inner = {r.address for e in roots for r, _, _ in _walk(snapshot, e)}
    return [root for root in extra if root not in inner]


def _span(start: int, size: int) -> str:
    return f"{start:016x}-{start + max(size, 1) - 1:016x}"


def _refs(book: Book, address: int) -> str:
    obj = book.index.snapshot.objects.get(address)
    return f"{obj.ref}/{book.expected(address)}" if obj else "?"


def _region_rows(book: Book, root: int, disabled: bool) -> list[Row]:
    snapshot, index = book.index.snapshot, book.index
    rows = []
    for region, level, start in _walk(snapshot, root):
        if not region.enabled and not disabled:
            continue
        name = printable(region.name) or "(no name)"
        alias = snapshot.regions.get(region.alias)
        if alias is not None:
            span = _span(region.alias_offset, region.size)
            name += f" = alias of {printable(alias.name)} {span}"
        look = None if region.enabled else "dim"
        obj = snapshot.objects.get(region.address)
        if obj is not None and book.residual(region.address):
            look = "warning"
        kind = "alias" if region.alias else printable(region.kind)
        rows.append(
            Row(
                (
                    "  " * level + _span(start, region.size),
                    str(region.priority),
                    kind + ("" if region.enabled else " [disabled]"),
                    name,
                    words.short(index, region.owner) if region.owner else "-",
                    _refs(book, region.address),
                ),
                look,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> Iterator[str]:
    head = ("range", "prio", "type", "region", "owner", "refs")
    return render.table(head, rows, right=(1, 5), whole=(0,), below=(3, 4))


def region_lines(book: Book, spaces: Sequence[Space], disabled: bool) -> Iterator[str]:
    """Yield the regions of address spaces, then what only aliases show.

    :param disabled: those that are disabled as well.
    """
    snapshot = book.index.snapshot
    roots = _by_root(spaces)
    for root, users in roots.items():
        for space in users:
            yield f"address space {render.paint(printable(space.name), 'bold')}"
        yield from _table(_region_rows(book, root, disabled))
        yield ""
    for root in _aliased(snapshot, list(roots)):
        region = snapshot.regions[root]
        yield f"region {render.paint(printable(region.name), 'bold')}, seen through aliases"
        yield from _table(_region_rows(book, root, disabled))
        yield ""


def _one_region(book: Book, region: Region, level: int, start: int) -> dict[str, object]:
    snapshot = book.index.snapshot
    obj = snapshot.objects.get(region.address)
    return {
        "address": words.hex_text(region.address),
        "name": region.name,
        "level": level,
        "start": hex(start),
        "size": hex(region.size),
        "priority": region.priority,
        "type": region.kind,
        "enabled": region.enabled,
        "owner": words.hex_text(region.owner),
        "owner_path": book.index.path(region.owner) if region.owner in snapshot.objects else "",
        "container": words.hex_text(region.container),
        "alias": words.hex_text(region.alias),
        "alias_offset": hex(region.alias_offset),
        "observed": obj.ref if obj else 0,
        "expected": book.expected(region.address),
    }


def region_json(book: Book, spaces: Sequence[Space]) -> dict[str, object]:
    """Return the same as ``qmr-mtree/1``."""
    snapshot = book.index.snapshot
    roots = _by_root(spaces)

    def regions(root: int) -> list[dict[str, object]]:
        return [_one_region(book, *found) for found in _walk(snapshot, root)]

    return {
        **words.head_json("qmr-mtree/1", snapshot),
        "spaces": [
            {
                "address": words.hex_text(space.address),
                "name": space.name,
                "root": words.hex_text(space.root),
                "regions": regions(space.root),
            }
            for space in spaces
        ],
        "aliased": [
            {"root": words.hex_text(root), "regions": regions(root)}
            for root in _aliased(snapshot, list(roots))
        ],
    }


# Flat views ------------------------------------------------------------------------


def _views(snapshot: Snapshot, spaces: Sequence[Space]) -> list[tuple[View, list[Space]]]:
    """Return the views of the spaces, then, when all are asked for, those left over."""
    found: dict[int, list[Space]] = {}
    for space in spaces:
        if space.view in snapshot.views:
            found.setdefault(space.view, []).append(space)
    if len(spaces) == len(snapshot.spaces):
        for address in snapshot.views:
            found.setdefault(address, [])
    return [(snapshot.views[address], users) for address, users in found.items()]


def flat_lines(book: Book, spaces: Sequence[Space]) -> Iterator[str]:
    """Yield the flat views of address spaces; of all, those that none uses as well."""
    snapshot, index = book.index.snapshot, book.index
    for view, users in _views(snapshot, spaces):
        names = ", ".join(printable(space.name) for space in users)
        root = snapshot.regions.get(view.root)
        kept = {"rcu": "waiting for RCU", "table": "kept in the table of views"}
        title = f"of {names}" if names else f"of no address space, {kept.get(view.found, 'left')}"
        yield (
            f"flat view {render.paint(title, 'bold')}: root "
            f"{printable(root.name) if root else words.hex_text(view.root)}, "
            f"{render.plural(len(view.ranges), 'range')}, "
            f"{render.plural(len(view.sections), 'dispatch section')}, "
            f"{render.plural(view.ref, 'reference')}"
        )
        rows = []
        for flat in view.ranges:
            region = snapshot.regions.get(flat.mr)
            at = f" from {flat.offset:#x}" if flat.offset else ""
            owner = words.short(index, region.owner) if region and region.owner else "-"
            rows.append(
                Row(
                    (
                        _span(flat.start, flat.size),
                        str(region.priority) if region else "",
                        printable(region.kind) if region else "",
                        (printable(region.name) if region else words.hex_text(flat.mr)) + at,
                        owner,
                        _refs(book, flat.mr),
                    )
                )
            )
        yield from _table(rows)
        yield ""


def flat_json(book: Book, spaces: Sequence[Space]) -> dict[str, object]:
    """Return the same as ``qmr-mtree-flat/1``."""
    snapshot = book.index.snapshot
    return {
        **words.head_json("qmr-mtree-flat/1", snapshot),
        "views": [
            {
                "address": words.hex_text(view.address),
                "spaces": [space.name for space in users],
                "root": words.hex_text(view.root),
                "refs": view.ref,
                "found": view.found,
                "ranges": [
                    {
                        "start": hex(flat.start),
                        "size": hex(flat.size),
                        "offset": hex(flat.offset),
                        "region": words.hex_text(flat.mr),
                        "name": snapshot.regions[flat.mr].name
                        if flat.mr in snapshot.regions
                        else "",
                    }
                    for flat in view.ranges
                ],
                "sections": [words.hex_text(mr) for mr in view.sections],
            }
            for view, users in _views(snapshot, spaces)
        ],
    }
