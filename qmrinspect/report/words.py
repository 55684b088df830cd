"""Words and JSON for what verbs report
------------------------------------

One way to name an object, a holder and a reference, so that all verbs say the
same of the same thing, in text and in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..audit.graph import TRANSIENT
from ..audit.outcome import BAD, Outcome
from ..index import Index
from ..ledger import RULES, Book, Edge
from ..ledger.documents import edge_json
from ..snapshot import Snapshot
from ..text import printable
from ..tuples import NamedTuple
from . import render
from .render import Row

if TYPE_CHECKING:
    from ..documents import EdgeJson, ObjectJson

__all__ = [
    "Group",
    "edge_json",
    "edge_rows",
    "edge_table",
    "grouped",
    "head_json",
    "hex_text",
    "holder_text",
    "look_of",
    "name",
    "namesake",
    "object_json",
    "of_view",
    "reference_table",
    "references",
    "sentence",
    "short",
    "state",
]

# A name or number inside a field, which many references of one kind differ in.
_PART = re.compile(r'\[\d+\]|"(?:[^"]*)"')
_PARTS_SHOWN = 6
# However many are told, a field has no more characters.
_FIELD_MAX = 8000


def hex_text(address: int) -> str:
    """Return an address as the contract writes it."""
    return f"{address:#x}"


def look_of(outcome: str | None) -> str:
    """Return how an outcome looks, as of :func:`render.paint`; None is one that is open."""
    return "error" if outcome in BAD else "good" if outcome == Outcome.CLEAN else "warning"


def short(index: Index, address: int) -> str:
    """Return an object's id when it has one, else its path or what there is."""
    device = index.snapshot.devices.get(address)
    if device is not None and device.id and index.in_tree(address):
        return printable(device.id)
    return index.label(address)


def namesake(index: Index, address: int) -> Iterator[str]:
    """Yield a word on the devices that leaked and had the id of one that is there."""
    device = index.snapshot.devices.get(address)
    if device is None or not device.id or not index.in_tree(address):
        return
    leaked = index.leaked(device.id)
    if leaked:
        handles = ", ".join(index.handle(other) for other in leaked)
        who = "device that had this id has" if len(leaked) == 1 else "devices that had this id have"
        yield render.paint(f"  {len(leaked)} other {who} leaked: {printable(handles)}", "note")


def name(index: Index, address: int) -> str:
    """Return ``nic0 (virtio-net-pci)``."""
    obj = index.snapshot.objects.get(address)
    label = short(index, address)
    if obj is None or label == obj.type or label.startswith(f"{obj.type} "):
        return label
    return f"{label} ({printable(obj.type)})"


def of_view(index: Index, address: int) -> bool:
    """Whether an object belongs to a flat view, which is made anew at every change."""
    region = index.snapshot.regions.get(address)
    return region is not None and not region.owner and not region.name


def holder_text(book: Book, edge: Edge) -> str:
    """Return what holds a reference, for people."""
    index, snapshot = book.index, book.index.snapshot
    at = edge.holder
    if edge.rule:
        return "not visible here"
    if not at:
        return "a variable of QEMU"
    if at in snapshot.objects:
        return index.label(at)
    owner = index.label(edge.owner) if edge.owner in snapshot.objects else ""
    space = snapshot.spaces.get(at)
    if space is not None:
        return f"address space {printable(space.name)}" + (f" in {owner}" if owner else "")
    view = snapshot.views.get(at)
    if view is not None:
        users = [printable(s.name) for s in snapshot.spaces.values() if s.view == at]
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        return f"flat view of {users[0]}{more}" if users else "a flat view that nothing uses"
    if owner:
        return owner
    if any(pending.address == at for pending in snapshot.pending):
        return "the queue of RCU"
    return f"<{at:#x}>"


def sentence(book: Book, edge: Edge) -> str:
    """Return one reference as a sentence: who holds whom, and how."""
    index = book.index
    target = short(index, edge.target)
    if edge.rule:
        return f"{target} is granted a reference by rule {edge.rule}: {RULES[edge.rule].grants}"
    field = printable(edge.field)
    holder = holder_text(book, edge)
    part = _PART.search(field)
    quoted = part.group(0) if part else ""
    if edge.kind == "child":
        return f"{holder} has {target} as its child {quoted}"
    if edge.kind == "link":
        return f"{holder} points to {target} by its strong link {quoted}"
    if edge.kind == "bus-child":
        return f"the bus {short(index, edge.owner)} has {target} on it"
    if edge.kind == "parent-bus":
        return f"the device {short(index, edge.holder)} holds the bus {target} that it sits on"
    if edge.kind == "subregion":
        return f"the container {holder} has the subregion {quoted}, which counts on {target}"
    if edge.kind == "address-space-root":
        return f"{holder} has a root region that belongs to {target}"
    if edge.kind in ("flat-range", "dispatch-section", "flatview-root"):
        return f"{holder} shows a region of {target} until it is made anew"
    if not edge.holder:
        return f"QEMU's variable {field} holds {target}"
    return f"{holder} holds {target} in {field}"


def state(book: Book, address: int) -> str:
    """Return how far the references on an object are explained, as the end of a sentence."""
    ref = book.index.snapshot.objects[address].ref
    named = sum(1 for edge in book.on.get(address, ()) if not edge.rule)
    ruled = book.expected(address) - named
    left = ref - named - ruled
    count = render.plural(ref, "reference")
    if left < 0:
        holders = render.plural(named + ruled, "holder")
        return f"{count} but {holders}: when they release it it is used after it was freed"
    if not left and not ruled:
        return f"{count}, all explained" if ref != 1 else "1 reference, explained"
    parts = [f"{named} explained"]
    if ruled:
        parts.append(f"{ruled} by rule")
    if left:
        parts.append(f"{left} left unexplained")
    return f"{count}: {', '.join(parts)}"


class Group(NamedTuple):
    """References of one kind by one holder, whose fields differ in a name or number."""

    kind: str
    refs: int
    holder: str
    field: str
    address: int


def grouped(book: Book, edges: Iterable[Edge], most: int = _PARTS_SHOWN) -> list[Group]:
    """Put references together that people read as one.

    :param most: of the names or numbers that differ, so many are told; 0 tells all.
    """
    groups: dict[tuple[str, int, str], list[Edge]] = {}
    for edge in edges:
        pattern = _PART.sub("\0", edge.field, count=1)
        groups.setdefault((edge.kind, edge.holder, pattern), []).append(edge)
    return [
        Group(
            kind,
            len(same),
            holder_text(book, same[0]),
            _fields(pattern, same, most or len(same)),
            holder,
        )
        for (kind, holder, pattern), same in groups.items()
    ]


def _fields(pattern: str, edges: Sequence[Edge], most: int) -> str:
    parts = [m.group(0) for m in (_PART.search(edge.field) for edge in edges) if m]
    if not parts:
        return printable(pattern)
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    shown = parts[:most]
    if shown[0].startswith("["):
        text = "[" + ", ".join(part[1:-1] for part in shown) + more + "]"
    else:
        text = ", ".join(shown) + more
    return printable(pattern.replace("\0", text), _FIELD_MAX)


_EDGE_HEAD = ("kind", "count", "holder", "field", "address")


def edge_rows(book: Book, edges: Iterable[Edge], most: int = _PARTS_SHOWN) -> list[Row]:
    """Return the rows of a table of references; see :func:`grouped` for ``most``."""
    return [
        Row(
            (
                group.kind,
                str(group.refs),
                group.holder,
                group.field,
                hex_text(group.address) if group.address else "",
            ),
            "dim" if group.kind in TRANSIENT else None,
        )
        for group in grouped(book, edges, most)
    ]


def edge_table(rows: Sequence[Row], indent: int, head: Sequence[str] = ()) -> Iterator[str]:
    """Yield rows of :func:`edge_rows` as a table."""
    # A sign may stand before the kind.
    first = len(rows[0].cells) - len(_EDGE_HEAD) if rows else 0
    dropped = first + _EDGE_HEAD.index("address")
    yield from render.table(head, rows, right=(first + 1,), indent=indent, drop=(dropped,))


def reference_table(book: Book, edges: Sequence[Edge], indent: int = 2) -> Iterator[str]:
    """Yield references as a table; those granted by a rule come apart, with their reason."""
    named = [edge for edge in edges if not edge.rule]
    yield from edge_table(edge_rows(book, named, 0), indent, _EDGE_HEAD)
    for edge in edges:
        if edge.rule:
            rule = RULES[edge.rule]
            yield (f"{' ' * indent}granted by rule {rule.name}: {rule.grants} ({rule.source})")
    transient = sorted({edge.kind for edge in named if edge.kind in TRANSIENT})
    if transient:
        many = sum(1 for edge in named if edge.kind in TRANSIENT)
        verb = "is transient" if many == 1 else "are transient"
        yield render.paint(f"{' ' * indent}{many} of them {verb} ({', '.join(transient)})", "dim")


def object_json(index: Index, address: int) -> ObjectJson:
    """Return an object as the contract writes it."""
    obj = index.snapshot.objects.get(address)
    device = index.snapshot.devices.get(address)
    return {
        "address": hex_text(address),
        "type": obj.type if obj else "",
        "path": index.path(address) if obj else "",
        "id": device.id if device else "",
    }


def references(index: Index, edges: Iterable[Edge]) -> list[EdgeJson]:
    """Return references as the contract writes them."""
    return [edge_json(index, edge) for edge in edges]


def undropped_text(edges: Sequence[EdgeJson]) -> str | None:
    """Say which fields held an object that nothing known holds now; None when none is known."""
    held = [f"{edge['field']} of {edge['holder_path'] or 'QEMU'}" for edge in edges]
    return f"was held by {printable(', '.join(held))}, which did not drop it" if held else None


def head_json(form: str, snapshot: Snapshot) -> dict[str, object]:
    """Return the beginning of a document: format, target and capture."""
    return {
        "format": form,
        "target": snapshot.target._asdict(),
        "capture": snapshot.capture._asdict(),
    }
