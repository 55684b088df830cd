"""The QOM tree
------------

With observed and expected counts, as text and as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit import Report
from ..audit.unplugging import unplugging_json, unplugging_of
from ..index import Index
from ..ledger import Book
from ..snapshot import Prop
from ..text import natural, printable
from . import render, words
from .render import Row

__all__ = ["Nodes", "nodes_below", "tree_json", "tree_lines"]

# Numerous, and seldom what one looks for: only counted, unless they do not balance.
_MINOR = {"memory-region": "region", "irq": "irq", "clock": "clock"}

#: Objects, parents first, each with its depth below the first.
Nodes = Sequence[tuple[int, int]]


def tree_json(book: Book, nodes: Nodes) -> dict[str, object]:
    """Return a part of the tree as ``qmr-tree/1``."""
    index = book.index
    return {
        **words.head_json("qmr-tree/1", index.snapshot),
        "root": words.object_json(index, nodes[0][0]),
        "objects": [
            {
                **words.object_json(index, address),
                "depth": level,
                "observed": index.snapshot.objects[address].ref,
                "expected": book.expected(address),
                "unplugging": unplugging_json(index, address),
            }
            for address, level in nodes
        ],
    }


def _children(index: Index, address: int) -> list[Prop]:
    objects = index.snapshot.objects
    found = [
        prop
        for prop in index.children.get(address, ())
        if prop.target in objects and objects[prop.target].parent == address
    ]
    return sorted(found, key=lambda prop: natural(prop.name))


def nodes_below(index: Index, top: int, depth: int) -> Iterator[tuple[int, int]]:
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


def tree_lines(report: Report, nodes: Nodes, depth: int, every: bool) -> Iterator[str]:
    """Yield a part of the tree as text.

    :param depth: where it ends.
    :param every: small objects, which are only counted otherwise, as well.
    """
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
