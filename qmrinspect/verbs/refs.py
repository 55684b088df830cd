"""Verbs about references
----------------------

Who holds an object, and a picture of it.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence

from ..audit import choose, why
from ..audit.graph import adjacency, source
from ..audit.unplugging import unplugging_json, unplugging_of, unplugging_text
from ..errors import UsageError
from ..index import Index
from ..ledger import Book, Edge
from ..outfile import probe, write
from ..report import dot, render, words
from ..report.render import Row
from ..snapshot import Pointer
from ..text import printable
from .verb import Answer, Session

__all__ = ["run_graph", "run_refs"]

# A picture of more objects than this is none.
_NODES_MAX = 200


def _open(session: Session, text: str) -> tuple[Book, int]:
    index = Index(session.snapshot())
    address = session.resolve(index, text).address
    return choose(index)[1], address


# refs ------------------------------------------------------------------------------


def run_refs(session: Session, args: argparse.Namespace) -> Answer:
    """List every reference on an object, and what is left unexplained (``qmr-refs/1``)."""
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
        "unplugging": unplugging_json(index, address),
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
    return Answer(data, _refs_lines(book, address, pointers, args.all))


def _refs_lines(
    book: Book, address: int, pointers: Sequence[Pointer], every: bool
) -> Iterator[str]:
    yield f"{words.name(book.index, address)} has {words.state(book, address)}"
    yield from words.namesake(book.index, address)
    waiting = unplugging_of(book.index, address)
    if waiting is not None:
        yield f"  {unplugging_text(book.index, waiting)}"
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


# graph -----------------------------------------------------------------------------


def run_graph(session: Session, args: argparse.Namespace) -> Answer:
    """Draw the references around an object: DOT, or SVG by Graphviz (``qmr-graph/1``)."""
    if args.svg and args.output:
        raise UsageError("--svg and --output both name a file", "give one of them")
    file = args.svg or args.output
    probe(file)
    book, address = _open(session, args.object)
    edges = _around(book, address, args.depth)
    text = "\n".join(dot.reference_dot(book, address, edges)) + "\n"
    index = book.index
    nodes = sorted({address, *(e.target for e in edges), *(source(book, e) for e in edges)} - {0})
    data: dict[str, object] = {
        **words.head_json("qmr-graph/1", index.snapshot),
        "object": words.object_json(index, address),
        "nodes": [words.object_json(index, node) for node in nodes],
        "edges": [
            {**words.edge_json(book.index, edge), "source": words.hex_text(source(book, edge))}
            for edge in edges
        ],
        "dot": text,
    }
    if file:
        svg = bool(args.svg) or file.endswith(".svg")
        if svg:
            dot.draw(text, file)
            data["svg"] = file
        else:
            write(file, text)
        count = render.plural(len(nodes), "object")
        return Answer(
            {**data, "file": file}, [f"{file} shows {count} around {words.name(index, address)}"]
        )
    return Answer(data, text.splitlines(), raw=True)


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
