"""Verbs about references
----------------------

Who holds an object, why it is alive, and a picture of it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from ..audit import choose, why
from ..audit.cause import unheld
from ..audit.graph import PASSING, adjacency, components, source
from ..audit.why import Why
from ..errors import TargetError, UsageError
from ..index import Index, printable
from ..ledger import Book, Edge
from ..report import render, words
from ..report.render import Row
from ..snapshot import Pointer
from .verb import Argument, Outcome, Session, Verb

__all__ = ["OBJECT", "VERBS"]

OBJECT = Argument(
    ("object",),
    {"metavar": "OBJ", "help": "a QOM path, a device id, the end of a path, or an address"},
    "object",
)

# A picture of more objects than this is none.
_NODES_MAX = 200


def _open(session: Session, text: str) -> tuple[Book, int]:
    index = Index(session.snapshot())
    address = session.resolve(index, text).address
    return choose(index)[1], address


# refs ------------------------------------------------------------------------------


def _refs(session: Session, args: argparse.Namespace) -> Outcome:
    book, address = _open(session, args.object)
    index = book.index
    pointers = candidates(book, address, session.pointers(index.snapshot, {address}))
    edges = book.on.get(address, ())
    ruled = sum(1 for edge in edges if edge.rule)
    data = {
        **words.head_json("qmr-refs/1", index.snapshot),
        "policy": book.policy.name,
        "object": words.object_json(index, address),
        "observed": index.snapshot.objects[address].ref,
        "explained": book.expected(address) - ruled,
        "by_rule": ruled,
        "unexplained": book.residual(address),
        "references": words.references(book.index, edges),
        "candidates": [
            {
                "address": hex(pointer.address),
                "place": pointer.place,
                "container": hex(pointer.container),
                "container_path": index.label(pointer.container) if pointer.container else "",
                "field": pointer.field,
                "offset": pointer.offset,
            }
            for pointer in pointers
        ],
    }
    return Outcome(data, _refs_lines(book, address, pointers, args.all))


def _refs_lines(
    book: Book, address: int, pointers: Sequence[Pointer], every: bool
) -> Iterator[str]:
    yield f"{words.name(book.index, address)} has {words.state(book, address)}"
    yield from words.reference_table(book, book.on.get(address, ()))
    left = book.residual(address)
    if left > 0:
        count = render.plural(left, "reference")
        yield render.paint(f"  {count} that nothing known to qmr holds", "warning")
    # Where the books balance, other pointers say nothing; there are many.
    if pointers and (left > 0 or every):
        yield ""
        yield f"{render.plural(len(pointers), 'other word')} in memory point there, not counted:"
        rows = [
            Row(
                (
                    pointer.place,
                    book.index.label(pointer.container) if pointer.container else "",
                    printable(pointer.field) or (f"+{pointer.offset:#x}" if pointer.offset else ""),
                    f"{pointer.address:#x}",
                )
            )
            for pointer in pointers[: None if every else _CANDIDATES]
        ]
        yield from render.table(("place", "in", "field", "address"), rows)
        if len(rows) < len(pointers):
            yield render.paint(f"  {len(pointers) - len(rows)} more: --all", "dim")


# Fields that point to an object and never hold a reference on it.
_WEAK = frozenset(
    (
        "Object.parent MemoryRegion.owner MemoryRegion.opaque MemoryRegion.dev "
        "MemoryRegion.container MemoryRegion.alias BusState.parent"
    ).split()
)
_CANDIDATES = 20


def candidates(book: Book, address: int, pointers: Sequence[Pointer]) -> list[Pointer]:
    """Return the pointers that may hold a reference, the likeliest first.

    What lies in fields that never do, and what the object says of itself, is left out.
    """
    return [
        pointer
        for pointer in pointers
        if pointer.field not in _WEAK and pointer.container != address
    ]


# why -------------------------------------------------------------------------------


def _why(session: Session, args: argparse.Namespace) -> Outcome:
    book, address = _open(session, args.object)
    found = why(book, address)
    index = book.index
    data = {
        **words.head_json("qmr-why/1", index.snapshot),
        "object": words.object_json(index, address),
        "root": words.object_json(index, found.root) if found.root else None,
        "chain": words.references(book.index, found.chain),
        "cycle": [words.object_json(index, member) for member in found.cycle],
    }
    return Outcome(data, _why_lines(book, address, found))


def _why_lines(book: Book, address: int, found: Why) -> Iterator[str]:
    index = book.index
    label = words.name(index, address)
    steps = render.plural(len(found.chain), "reference")
    if found.cycle:
        if address in found.cycle:
            yield f"{label} is alive because it is in a cycle of references that nothing breaks:"
        else:
            yield f"{label} is alive because a cycle of references holds it:"
    elif not found.root and found.chain:
        yield f"{label} is held only by what ends by itself:"
    elif not found.root:
        yield (
            unheld(book, address)
            if book.residual(address) > 0
            else (
                f"nothing that qmr knows holds {label}, and yet it has {words.state(book, address)}"
            )
        )
        return
    elif not found.chain:
        yield f"{label} is alive by right: it is the root of a tree"
        return
    else:
        yield f"{label} is alive by right, {steps} from a root:"
    for number, edge in enumerate(found.chain, 1):
        kind = render.paint(f"[{edge.kind}]", "dim")
        yield f"  {number}. {words.sentence(book, edge)} {kind}"
    last = found.chain[-1].target
    others = len(book.on.get(address, ())) - 1
    if last == address and others > 0:
        verb = "holds" if others == 1 else "hold"
        yield render.paint(
            f"  {render.plural(others, 'other reference')} {verb} it too: "
            f"qmr refs {words.short(index, address)}",
            "dim",
        )


# graph -----------------------------------------------------------------------------

_LOOKS = {
    "child": 'color="#1f6fb4"',
    "link": 'color="#b4501f" style=bold',
    "bus-child": 'color="#3f8f3f"',
    "parent-bus": 'color="#3f8f3f" style=dashed',
    "subregion": 'color="#7a3fb0"',
    "address-space-root": 'color="#b03f8a"',
    "initial": 'color="#555555" style=bold',
}
_PASSING_LOOK = 'color="#999999" style=dotted'


def _graph(session: Session, args: argparse.Namespace) -> Outcome:
    book, address = _open(session, args.object)
    edges = _around(book, address, args.depth)
    dot = "\n".join(_dot(book, address, edges)) + "\n"
    index = book.index
    nodes = sorted({address, *(e.target for e in edges), *(source(book, e) for e in edges)} - {0})
    data: dict[str, Any] = {
        **words.head_json("qmr-graph/1", index.snapshot),
        "object": words.object_json(index, address),
        "nodes": [words.object_json(index, node) for node in nodes],
        "edges": [
            {**words.edge_json(book.index, edge), "source": words.hex_text(source(book, edge))}
            for edge in edges
        ],
        "dot": dot,
    }
    if args.svg:
        _draw(dot, args.svg)
        count = render.plural(len(nodes), "object")
        return Outcome(
            {**data, "svg": args.svg},
            [f"{args.svg} shows {count} around {words.name(index, address)}"],
        )
    return Outcome(data, dot.splitlines())


def _around(book: Book, address: int, depth: int) -> list[Edge]:
    """Return what holds an object, what holds that, and the object's own references."""
    graph = adjacency(book)
    edges: dict[Edge, None] = {}
    level = {address: 0}
    todo = deque([address])
    while todo and len(level) < _NODES_MAX:
        at = todo.popleft()
        if level[at] >= depth:
            continue
        for edge in book.on.get(at, ()):
            if level[at] and edge.kind == "parent-bus":
                continue  # what else sits on the bus is another picture
            edges[edge] = None
            holder = source(book, edge)
            if holder and holder not in level:
                level[holder] = level[at] + 1
                todo.append(holder)
    # Of what the object holds itself, only what leads back belongs to the picture.
    for edge in why(book, address).chain:
        edges[edge] = None
    for node in list(level):
        for edge in graph.get(node, ()):
            if edge.target in level:
                edges[edge] = None
    return list(edges)


def _dot(book: Book, address: int, edges: Sequence[Edge]) -> Iterator[str]:
    index = book.index
    ring = _ring(book, address, edges)
    yield "digraph references {"
    yield "  rankdir=LR;"
    yield '  node [shape=box fontname="sans-serif" fontsize=10];'
    yield '  edge [fontname="sans-serif" fontsize=9];'
    merged: Counter[tuple[str, str, str]] = Counter()
    fields: dict[tuple[str, str, str], str] = {}
    names: dict[str, str] = {}
    inside: set[tuple[str, str, str]] = set()
    for edge in edges:
        start, target = source(book, edge), _node(edge.target)
        if start:
            first = _node(start)
        else:
            first = f"s{edge.holder:x}" if edge.holder else _quoted(f"v:{edge.rule or edge.field}")
            names[first] = words.holder_text(book, edge) if edge.holder else edge.field
        key = (first, target, edge.kind)
        merged[key] += 1
        fields[key] = edge.field
        if start in ring and edge.target in ring:
            inside.add(key)
    shown = {address, *(e.target for e in edges), *(source(book, e) for e in edges)} - {0}
    for node in sorted(shown):
        obj = index.snapshot.objects[node]
        label = f"{words.short(index, node)}\n{printable(obj.type)}\n{obj.ref} / "
        look = ' style="filled" fillcolor="#ffe9a8"' if node == address else ""
        if node in ring:
            look += ' color="#d00000" penwidth=2'
        yield f"  {_node(node)} [label={_quoted(label + str(book.expected(node)))}{look}];"
    for node_name, label in sorted(names.items()):
        yield f"  {node_name} [shape=ellipse label={_quoted(printable(label))}];"
    for key, count in merged.items():
        first, target, kind = key
        look = _LOOKS.get(kind, _PASSING_LOOK if kind in PASSING else "")
        if key in inside:
            look += ' color="#d00000" penwidth=2'
        field = f"\n{printable(fields[key])}" if count == 1 else f" x{count}"
        yield f"  {first} -> {target} [label={_quoted(kind + field)} {look}];"
    yield "}"


def _ring(book: Book, address: int, edges: Sequence[Edge]) -> set[int]:
    """Return the cycle that an object is in, when its own parts make it."""
    graph: dict[int, list[int]] = {}
    for edge in edges:
        start = source(book, edge)
        if start and edge.kind not in ("bus-child", "parent-bus"):
            graph.setdefault(start, []).append(edge.target)
    groups = components([address], graph)
    return next((set(group) for group in groups if address in group), set())


def _node(address: int) -> str:
    return f"o{address:x}"


def _quoted(text: str) -> str:
    # "\n" in a label is DOT's own line break.
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _draw(dot: str, path: str) -> None:
    program = shutil.which("dot")
    if program is None:
        raise UsageError(
            "graphviz is not installed, so no SVG can be made",
            "install it (Debian: apt-get install graphviz), or leave --svg out for DOT text",
        )
    done = subprocess.run(
        [program, "-Tsvg", "-o", path], input=dot.encode(), stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise TargetError(f"{path} cannot be drawn: {said or 'dot failed'}")


VERBS = (
    Verb(
        "refs",
        "every reference held on an object: kind, holder, field, and what is left unexplained",
        (
            OBJECT,
            Argument(
                ("--all",),
                {"action": "store_true", "help": "list every word that points to it as well"},
            ),
        ),
        _refs,
        example="example: qmr refs nic0",
    ),
    Verb(
        "why",
        "why an object is alive: the shortest chain of counted references from a root, or the "
        "cycle that keeps it",
        (OBJECT,),
        _why,
        example="example: qmr why nic0",
    ),
    Verb(
        "graph",
        "a picture of the references around an object, as DOT text or SVG",
        (
            OBJECT,
            Argument(
                ("--depth",),
                {"type": int, "default": 2, "metavar": "N", "help": "holders of holders (2)"},
            ),
            Argument(("--svg",), {"metavar": "FILE", "help": "draw it with graphviz"}, "file"),
        ),
        _graph,
        example="example: qmr graph nic0 | dot -Tpng > nic0.png",
    ),
)
