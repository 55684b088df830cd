"""One object
----------

Everything known of it: what it is, who holds it, what it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit import Report
from ..audit.graph import adjacency
from ..audit.unplugging import unplugging_json, unplugging_of, unplugging_text
from ..index import Index
from ..text import natural, printable
from . import render, words
from .render import Row

__all__ = ["show_json", "show_lines"]

_ANCESTORS_MAX = 256
_LISTED_MAX = 20


def show_json(report: Report, address: int) -> dict[str, object]:
    """Return all that is known of an object, as ``qmr-show/1``."""
    book = report.book
    index, snapshot = book.index, book.index.snapshot
    obj = snapshot.objects[address]
    out: dict[str, object] = {
        **words.head_json("qmr-show/1", snapshot),
        "object": words.object_json(index, address),
        "ancestors": _ancestors(index, address),
        "size": snapshot.types[obj.type].size if obj.type in snapshot.types else 0,
        "heap": obj.heap,
        "parent": words.object_json(index, obj.parent) if obj.parent else None,
        "observed": obj.ref,
        "expected": book.expected(address),
        "references": words.references(book.index, book.on.get(address, ())),
        "holds": words.references(index, adjacency(book).get(address, ())),
        "children": [
            {**words.object_json(index, prop.target), "name": prop.name}
            for prop in index.children.get(address, ())
        ],
        "links": [
            {
                "name": prop.name,
                "role": prop.role,
                "level": prop.level,
                "target": words.object_json(index, prop.target),
            }
            for prop in snapshot.props
            if prop.holder == address and prop.role != "child"
        ],
        "findings": [f.text for f in report.findings if f.address == address],
    }
    device = snapshot.devices.get(address)
    if device is not None:
        out["device"] = {
            "id": device.id,
            "realized": device.realized,
            "hotplugged": device.hotplugged,
            "pending_deleted": device.pending_deleted,
            "unplugging": unplugging_json(index, address),
            "parent_bus": words.hex_text(device.parent_bus),
        }
    bus = snapshot.buses.get(address)
    if bus is not None:
        out["bus"] = {
            "name": bus.name,
            "parent": words.hex_text(bus.parent),
            "children": [words.object_json(index, child.child) for child in bus.children],
        }
    region = snapshot.regions.get(address)
    if region is not None:
        out["region"] = {
            "name": region.name,
            "owner": words.hex_text(region.owner),
            "container": words.hex_text(region.container),
            "alias": words.hex_text(region.alias),
            "alias_offset": hex(region.alias_offset),
            "addr": hex(region.addr),
            "size": hex(region.size),
            "priority": region.priority,
            "enabled": region.enabled,
            "type": region.kind,
            "subregions": [words.hex_text(sub) for sub in region.subregions],
            "mapped_via_alias": region.mapped_via_alias,
        }
    return out


def _ancestors(index: Index, address: int) -> list[str]:
    types = index.snapshot.types
    out: list[str] = []
    info = types.get(index.snapshot.objects[address].type)
    while info is not None and info.parent and len(out) < _ANCESTORS_MAX:
        out.append(info.parent)
        info = types.get(info.parent)
    return out


def show_lines(report: Report, address: int) -> Iterator[str]:
    """Yield all that is known of an object, as text."""
    book = report.book
    index, snapshot = book.index, book.index.snapshot
    obj = snapshot.objects[address]
    yield f"{words.name(index, address)} has {words.state(book, address)}"
    yield from words.namesake(index, address)
    facts = [
        ("type", " < ".join(map(printable, [obj.type, *_ancestors(index, address)]))),
        ("path", printable(index.path(address)) or "none: it is not in the QOM tree"),
        ("parent", index.label(obj.parent) if obj.parent else "none"),
        ("storage", _storage(index, address)),
        *_device_facts(index, address),
        *_bus_facts(index, address),
        *_region_facts(index, address),
        ("address", words.hex_text(address)),
    ]
    yield from render.table((), [Row((key, value)) for key, value in facts if value])
    yield "held by"
    yield from words.reference_table(book, book.on.get(address, ()))
    held = adjacency(book).get(address, ())
    if held:
        total = len(held)
        yield f"holds {render.plural(total, 'reference')}"
        counts = Counter((edge.kind, edge.target) for edge in held)
        rows = [
            Row((kind, str(n), words.name(index, target), words.hex_text(target)))
            for (kind, target), n in sorted(
                counts.items(),
                # Children come last: they are many, and the tree shows them as well.
                key=lambda row: (row[0][0] == "child", natural(index.label(row[0][1]))),
            )
        ]
        yield from _limited(("kind", "count", "on", "address"), rows, (1,))
    weak = [p for p in snapshot.props if p.holder == address and p.role == "weak" and p.target]
    if weak:
        yield "points to, without a reference"
        rows = [Row((printable(prop.name), index.label(prop.target))) for prop in weak]
        rows.sort(key=lambda row: natural(row.cells[0]))
        yield from _limited(("link", "to"), rows, ())
    for finding in report.findings:
        if finding.address == address:
            tag = render.paint(f"{finding.severity}: {finding.kind}:", finding.severity)
            yield f"{tag} {printable(finding.text, 2000)}"


def _limited(head: Sequence[str], rows: Sequence[Row], right: Sequence[int]) -> Iterator[str]:
    yield from render.table(head, rows[:_LISTED_MAX], right=right)
    if len(rows) > _LISTED_MAX:
        yield f"  and {len(rows) - _LISTED_MAX} more (--json lists all)"


def _storage(index: Index, address: int) -> str:
    obj = index.snapshot.objects[address]
    info = index.snapshot.types.get(obj.type)
    size = f"{info.size} bytes" if info else "unknown size"
    if obj.heap:
        return f"{size}, its own allocation"
    around = index.containing(address - 1)
    inside = f", inside {index.label(around)}" if around and around != address else ""
    return f"{size}, part of a larger structure{inside}"


def _device_facts(index: Index, address: int) -> list[tuple[str, str]]:
    device = index.snapshot.devices.get(address)
    if device is None:
        return []
    flags = [
        "realized" if device.realized else "not realized",
        "hotplugged" if device.hotplugged else "",
    ]
    waiting = unplugging_of(index, address)
    return [
        ("id", printable(device.id)),
        ("device", ", ".join(flag for flag in flags if flag)),
        ("unplug", unplugging_text(index, waiting) if waiting is not None else ""),
        ("bus", index.label(device.parent_bus) if device.parent_bus else ""),
    ]


def _bus_facts(index: Index, address: int) -> list[tuple[str, str]]:
    bus = index.snapshot.buses.get(address)
    if bus is None:
        return []
    children = [words.name(index, child.child) for child in bus.children]
    more = f" and {len(children) - _LISTED_MAX} more" if len(children) > _LISTED_MAX else ""
    return [
        ("bus name", printable(bus.name)),
        ("of device", index.label(bus.parent) if bus.parent else "none"),
        ("on it", ", ".join(children[:_LISTED_MAX]) + more if children else "nothing"),
    ]


def _region_facts(index: Index, address: int) -> list[tuple[str, str]]:
    region = index.snapshot.regions.get(address)
    if region is None:
        return []
    place = f"{region.size:#x} bytes, priority {region.priority}"
    if region.container:
        place = f"at {region.addr:#x} in {index.label(region.container)}, {place}"
    alias = f"{index.label(region.alias)} from {region.alias_offset:#x}" if region.alias else ""
    return [
        ("region", f"{printable(region.name) or '(no name)'}, {printable(region.kind)}"),
        ("owner", index.label(region.owner) if region.owner else "none"),
        ("place", place + ("" if region.enabled else ", disabled")),
        ("alias of", alias),
        ("subregions", str(len(region.subregions)) if region.subregions else ""),
    ]
