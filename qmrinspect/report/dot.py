"""Pictures in DOT
---------------

The one writer of DOT; Graphviz lays the pictures out.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..audit.graph import TRANSIENT, components, source
from ..errors import TargetError, UsageError
from ..ledger import Book, Edge
from ..outfile import write
from ..text import printable
from . import words

__all__ = ["Arrow", "Node", "digraph", "draw", "laid_out", "reference_dot"]

# A picture is drawn in an instant, or is too large to be seen.
_LAYOUT_S = 20

_LOOKS = {
    "child": 'color="#1f6fb4"',
    "link": 'color="#b4501f" style=bold',
    "bus-child": 'color="#3f8f3f"',
    "parent-bus": 'color="#3f8f3f" style=dashed',
    "subregion": 'color="#7a3fb0"',
    "address-space-root": 'color="#b03f8a"',
    "initial": 'color="#555555" style=bold',
}
_FIELDS_SHOWN = 6
# Of the names in one field so many are told, and so many in a line.
_NAMES_SHOWN, _NAMES_A_LINE = 24, 3
_TRANSIENT_LOOK = 'color="#999999" style=dotted'
_IN_RING = 'color="#d00000" penwidth=2'


class Node(NamedTuple):
    """A node of a picture.

    :param label: may have several lines.
    :param look: more attributes of DOT.
    """

    name: str
    label: str
    look: str | None = None


class Arrow(NamedTuple):
    """An arrow from one node to another, named as :class:`Node` is."""

    start: str
    end: str
    label: str
    look: str | None = None


def digraph(
    nodes: Iterable[Node], arrows: Iterable[Arrow], font: str = "sans-serif", size: int = 10
) -> Iterator[str]:
    """Yield the lines of a picture, in DOT.

    :param size: of the nodes' font, in points.
    """
    yield "digraph references {"
    yield '  rankdir=LR; bgcolor="transparent";'
    yield f'  node [shape=box fontname="{font}" fontsize={size}];'
    yield f'  edge [fontname="{font}" fontsize={size - 1}];'
    for node in nodes:
        yield f"  {node.name} [{_attributes(node.label, node.look)}];"
    for arrow in arrows:
        yield f"  {arrow.start} -> {arrow.end} [{_attributes(arrow.label, arrow.look)}];"
    yield "}"


def _attributes(label: str, look: str | None) -> str:
    return " ".join(filter(None, (f"label={_quoted(label)}", look)))


def reference_dot(book: Book, address: int, edges: Sequence[Edge]) -> Iterator[str]:
    """Yield the lines of a picture of references, in DOT, with one object in its middle.

    A cycle that the object is in is red.
    """
    index = book.index
    ring = _ring(book, address, edges)
    merged: dict[tuple[str, str, str], list[Edge]] = {}
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
        merged.setdefault(key, []).append(edge)
        if start in ring and edge.target in ring:
            inside.add(key)
    shown = {address, *(e.target for e in edges), *(source(book, e) for e in edges)} - {0}
    nodes = []
    for node in sorted(shown):
        obj = index.snapshot.objects[node]
        label = f"{words.short(index, node)}\n{printable(obj.type)}\n{obj.ref} / "
        look = ['style="filled" fillcolor="#ffe9a8"'] if node == address else []
        look += [_IN_RING] if node in ring else []
        nodes.append(Node(_node(node), label + str(book.expected(node)), " ".join(look) or None))
    for node_name, label in sorted(names.items()):
        nodes.append(Node(node_name, printable(label), "shape=ellipse"))
    arrows = []
    for key, same in merged.items():
        first, target, kind = key
        known = _LOOKS.get(kind, _TRANSIENT_LOOK if kind in TRANSIENT else None)
        look = [known] if known is not None else []
        look += [_IN_RING] if key in inside else []
        label = _edge_label(book, kind, same)
        arrows.append(Arrow(first, target, label, " ".join(look) or None))
    yield from digraph(nodes, arrows)


def _edge_label(book: Book, kind: str, edges: Sequence[Edge]) -> str:
    """Return the kind, and the fields: of subregions, the container and the regions in it."""
    lines = [kind + (f" x{len(edges)}" if len(edges) > 1 else "")]
    groups = words.grouped(book, edges, _NAMES_SHOWN)
    for group in groups[:_FIELDS_SHOWN]:
        container = book.index.snapshot.regions.get(group.address)
        field = group.field
        if kind == "subregion" and container is not None:
            regions = field.partition(" ")[2]
            field = f'container "{printable(container.name)}" has {regions}'
        lines += _in_lines(field)
    if len(groups) > _FIELDS_SHOWN:
        lines.append(f"and {len(groups) - _FIELDS_SHOWN} more")
    return "\n".join(lines)


def _in_lines(field: str) -> Iterator[str]:
    """Break a field with many names behind some of them."""
    names = field.split('", "')
    for at in range(0, len(names), _NAMES_A_LINE):
        lead, end = '"' if at else "", '",' if at + _NAMES_A_LINE < len(names) else ""
        yield lead + '", "'.join(names[at : at + _NAMES_A_LINE]) + end


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


def laid_out(dot: str) -> str | None:
    """Return a picture as SVG, None where Graphviz is not installed or gives up."""
    program = shutil.which("dot")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-Tsvg"], input=dot.encode(), capture_output=True, timeout=_LAYOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if not done.returncode else None


def draw(dot: str, path: str) -> None:
    """Have Graphviz draw a picture into an SVG file.

    :raises UsageError: Graphviz is not installed.
    :raises TargetError: the file cannot be written.
    """
    program = shutil.which("dot")
    if program is None:
        raise UsageError(
            "graphviz is not installed, so no SVG can be made",
            "install it (Debian: apt-get install graphviz), or give a name in .dot for DOT text",
        )
    done = subprocess.run([program, "-Tsvg"], input=dot.encode(), capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise TargetError(f"{path} cannot be drawn: {said or 'dot failed'}")
    write(path, done.stdout)
