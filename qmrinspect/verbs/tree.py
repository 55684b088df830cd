"""Verbs that show what is there
-----------------------------

The QOM tree, and everything known of one object.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit import Report, check
from ..audit.graph import adjacency
from ..audit.unplugging import unplugging_json, unplugging_of, unplugging_text
from ..documents import EdgeJson
from ..errors import UsageError
from ..index import Index
from ..ledger import Book
from ..report import render, words
from ..report.outside import lost_members, outside_json, outside_lines
from ..report.render import Row
from ..snapshot import Prop
from ..text import printable
from .place import address_of, show_address
from .verb import Outcome, Session

__all__ = ["run_show", "run_tree"]

# Numerous, and seldom what one looks for: only counted, unless they do not balance.
_MINOR = {"memory-region": "region", "irq": "irq", "clock": "clock"}
_DEPTH_MAX = 256
_LISTED_MAX = 20


# tree ------------------------------------------------------------------------------


def run_tree(session: Session, args: argparse.Namespace) -> Outcome:
    """Show the QOM tree with observed and expected counts (``qmr-tree/1``)."""
    report = check(session.snapshot())
    index = report.book.index
    if args.outside:
        if args.path or args.depth is not None:
            raise UsageError(
                "--outside lists what is in no part of the tree", "leave the others out"
            )
        lost = lost_members(report.book)
        return Outcome(outside_json(report.book, lost), outside_lines(report.book, lost))
    top = session.resolve(index, args.path).address if args.path else index.root
    depth = _DEPTH_MAX if args.depth is None else args.depth
    nodes = list(_walk(index, top, depth))
    data = {
        **words.head_json("qmr-tree/1", index.snapshot),
        "root": words.object_json(index, top),
        "objects": [
            {
                **words.object_json(index, address),
                "depth": level,
                "observed": index.snapshot.objects[address].ref,
                "expected": report.book.expected(address),
                "unplugging": unplugging_json(index, address),
            }
            for address, level in nodes
        ],
    }
    return Outcome(data, _tree_lines(report, nodes, depth, args.all))


def _children(index: Index, address: int) -> list[Prop]:
    objects = index.snapshot.objects
    found = [
        prop
        for prop in index.children.get(address, ())
        if prop.target in objects and objects[prop.target].parent == address
    ]
    return sorted(found, key=lambda prop: _natural(prop.name))


def _natural(text: str) -> list[tuple[int, str]]:
    # device[2] comes before device[10].
    out: list[tuple[int, str]] = []
    digits = ""
    for char in text + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            out.append((int(digits[:18]), ""))
            digits = ""
        out.append((-1, char))
    return out


def _walk(index: Index, top: int, depth: int) -> Iterator[tuple[int, int]]:
    """Yield (address, level) of an object and all below it, parents first."""
    todo = [(top, 0)]
    seen = set()
    while todo:
        address, level = todo.pop()
        if address in seen:
            continue
        seen.add(address)
        yield address, level
        if level < depth:
            below = _children(index, address)
            todo += [(prop.target, level + 1) for prop in reversed(below)]


def _minor(index: Index, address: int) -> str | None:
    """Return the word for an object that is only counted, None for any other."""
    if index.children.get(address):
        return None
    return next((word for kind, word in _MINOR.items() if index.is_a(address, kind)), None)


def _tree_lines(
    report: Report, nodes: Sequence[tuple[int, int]], depth: int, every: bool
) -> Iterator[str]:
    book = report.book
    index, objects = book.index, book.index.snapshot.objects
    rows = []
    wrong = 0
    for address, level in nodes:
        left = book.residual(address)
        wrong += bool(left)
        if not every and level and not left and _minor(index, address):
            continue
        prop = index.name_of.get(address)
        own = "/" if address == index.root else printable(prop.name) if prop else ""
        own = own if level else index.label(address)
        hidden = "" if every else _hidden(book, address, cut=level >= depth)
        waiting = unplugging_of(index, address)
        if waiting is not None:
            hidden = f"{hidden} waits for the guest to release it ({waiting.way})".strip()
        rows.append(
            Row(
                (
                    "  " * level + own,
                    printable(objects[address].type),
                    f"{objects[address].ref}/{book.expected(address)}",
                    "!" if left else "",
                    hidden,
                ),
                ("warning" if left > 0 else "error") if left else None,
            )
        )
    head = ("object", "type", "refs", "", "")
    yield from render.table(head, rows, right=(2,), indent=0)
    total = render.plural(len(nodes), "object")
    if wrong:
        verb = "does" if wrong == 1 else "do"
        text = f"{total}; {wrong} marked ! {verb} not balance: see qmr check"
        yield render.paint(text, "warning")
    else:
        yield f"{total}, observed and expected references agree for all"
    outside = sum(not index.in_tree(address) for address in objects)
    if outside and nodes and nodes[0][0] == index.root:
        lost = sum(finding.kind == "orphan" for finding in report.findings)
        tail = ", and qmr orphans those that leaked" if lost else ", as QEMU keeps them"
        verb = "lists it" if outside == 1 else "lists them"
        yield (
            f"{render.plural(outside, 'more object')} outside the tree: qmr tree --outside "
            f"{verb}{tail}"
        )


def _hidden(book: Book, address: int, cut: bool) -> str:
    """Return in words what lies below an object and is not shown."""
    counts: Counter[str] = Counter()
    for prop in _children(book.index, address):
        if cut:
            counts["child"] += 1
        elif not book.residual(prop.target):
            counts.update(filter(None, [_minor(book.index, prop.target)]))
    nouns = {"child": "children"}
    found = (render.plural(n, word, nouns.get(word)) for word, n in counts.items())
    return ", ".join(f"+{text}" for text in found)


# show ------------------------------------------------------------------------------


def run_show(session: Session, args: argparse.Namespace) -> Outcome:
    """Show all that is known of an object or an address (``qmr-show/1``)."""
    report = check(session.snapshot())
    index = report.book.index
    given = address_of(args.object)
    if given is not None and given not in index.snapshot.objects:
        return show_address(session, index, given)
    address = session.resolve(index, args.object).address
    return Outcome(_show_json(report, address), _show_lines(report, address))


def _held(book: Book, address: int) -> list[EdgeJson]:
    return words.references(book.index, adjacency(book).get(address, ()))


def _show_json(report: Report, address: int) -> dict[str, object]:
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
        "holds": _held(book, address),
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
    while info is not None and info.parent and len(out) < _DEPTH_MAX:
        out.append(info.parent)
        info = types.get(info.parent)
    return out


def _show_lines(report: Report, address: int) -> Iterator[str]:
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
                key=lambda row: (row[0][0] == "child", _natural(index.label(row[0][1]))),
            )
        ]
        yield from _limited(("kind", "count", "on", "address"), rows, (1,))
    weak = [p for p in snapshot.props if p.holder == address and p.role == "weak" and p.target]
    if weak:
        yield "points to, without a reference"
        rows = [Row((printable(prop.name), index.label(prop.target))) for prop in weak]
        rows.sort(key=lambda row: _natural(row.cells[0]))
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
