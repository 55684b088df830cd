"""Pictures of references
----------------------

What holds the objects that a finding left behind, as inline SVG that needs nothing else to be
seen.  Graphviz lays it out; where that is not installed, :mod:`~qmrinspect.pages.svg` does, which
has no way around boxes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from markupsafe import Markup

from ..documents import DrawnJson, EdgeJson
from ..report.dot import Arrow, Node, digraph, laid_out
from ..text import printable
from .svg import Box, Line, hand_laid

__all__ = ["reference_graph"]

_DEPTH_MAX, _NODES_MAX = 4, 24
_FIELDS_SHOWN = 20
_LABEL_MAX = 90
# Widths of its letters are the same in every browser, so that a text stays in its box.
_FONT, _SIZE = "Courier", 12
_PART = "part of"

_ADDRESS = re.compile(r"<?0x[0-9a-f]+>?")


class _Edge(NamedTuple):
    """References of one kind from one holder to one object."""

    holder: str
    target: str
    kind: str


def reference_graph(row: DrawnJson) -> Markup | None:
    """Draw what holds the objects that a finding left behind; None when nothing is known.

    The first object is at the right, what holds it to its left, and so on; a reference that leads
    back closes a cycle, which is red.

    :param row: of ``qmr-hunt/1``, or what of it is needed: ``objects_left``, ``case``.
    """
    fields, labels, head = _edges(row)
    if head is None or not fields:
        return None
    near = _near(list(fields), head)
    edges = [edge for edge in fields if edge.holder in near and edge.target in near]
    ring = _ring(edges, head)
    names = {node: f"n{number}" for number, node in enumerate(near)}
    boxes = []
    for node in near:
        look = "head" if node == head else "ring" if node in ring else "node"
        more = len({e.holder for e in fields if e.target == node and e.holder not in near})
        boxes.append(Box(names[node], _lines(labels.get(node, node), more), look))
    lines = []
    for edge in edges:
        inside = edge.holder in ring and edge.target in ring
        look = "part" if edge.kind == _PART else "ring" if inside else "line"
        count = f" x{len(fields[edge])}" if len(fields[edge]) > 1 else ""
        tip = "\n".join(printable(field) for field in fields[edge][:_FIELDS_SHOWN])
        line = Line(names[edge.holder], names[edge.target], edge.kind + count, tip, look)
        lines.append(line)
    return _drawn(tuple(boxes), tuple(lines), f"References around {labels.get(head, head)}")


def _edges(row: DrawnJson) -> tuple[dict[_Edge, list[str]], dict[str, str], str | None]:
    """Return the fields of each arrow, the names of the nodes, and the object to begin with."""
    case = row.get("case") or ()
    left = row.get("objects_left") or ()
    labels = {item["address"]: f"{item['was']}\n{item['type']}" for item in left}
    head = case[0]["object"] if case else left[0]["address"] if left else None
    found: dict[_Edge, list[str]] = defaultdict(list)
    edges = [e for item in (*case, *left) for e in (*item["references"], *item.get("way_back", ()))]
    for edge in edges:
        holder = edge["holder"]
        if holder == "0x0":
            holder = f"variable {edge['field']}"
        labels.setdefault(holder, _holder(edge, holder))
        fields = found[_Edge(holder, edge["target"], edge["kind"])]
        if edge["field"] not in fields:
            fields.append(edge["field"])
    targets = {edge.target for edge in found}
    for edge in edges:
        holder, owner = edge["holder"], edge.get("owner", "0x0")
        if owner not in ("0x0", holder) and owner == edge["target"] and holder not in targets:
            # A structure inside the object: the way back of a cycle.
            found[_Edge(owner, holder, _PART)] = [_structure(edge)]
    return found, labels, head


def _structure(edge: EdgeJson) -> str:
    """Return what a field is in: ``AddressSpace "x".root`` is in that address space."""
    return edge["field"].rpartition(".")[0]


def _holder(edge: EdgeJson, holder: str) -> str:
    label = edge.get("holder_label") or edge["holder_path"] or holder
    return (_structure(edge) or label) if _ADDRESS.fullmatch(label) else label


def _near(edges: Sequence[_Edge], head: str) -> list[str]:
    """Return the nodes that are drawn: those that lead to the object, nearest first."""
    depth, todo = {head: 0}, [head]
    while todo:
        node = todo.pop(0)
        for edge in edges:
            if len(depth) == _NODES_MAX or depth[node] == _DEPTH_MAX:
                break
            if edge.target == node and edge.holder not in depth:
                depth[edge.holder] = depth[node] + 1
                todo.append(edge.holder)
    return list(depth)


def _ring(edges: Sequence[_Edge], head: str) -> set[str]:
    """Return the nodes of the cycles that the object is in."""

    def reached(step: Callable[[_Edge], tuple[str, str]]) -> set[str]:
        seen, todo = set[str](), [head]
        while todo:
            node = todo.pop()
            for edge in edges:
                start, end = step(edge)
                if start == node and end not in seen:
                    seen.add(end)
                    todo.append(end)
        return seen

    back = reached(lambda edge: (edge.holder, edge.target))
    return back & reached(lambda edge: (edge.target, edge.holder)) if head in back else set()


def _lines(label: str, more: int) -> tuple[str, ...]:
    """Return a node's text: path below its nearest address, type, and what is left out."""
    lines = [_short(line) for line in label.split("\n") if line][:2]
    if len(lines) == 2 and lines[1] in lines[0].split("/")[-1].split(" "):
        lines.pop()
    if more:
        lines.append(f"and {more} more hold it")
    return tuple(lines)


def _short(line: str) -> str:
    line = printable(line, 400)
    # "<0x55..>/a/b": the address is in the references' table; where the line is long it goes.
    if len(line) > 40:
        line = re.sub(r"^.*<0x[0-9a-f]+>/", ".../", line)
    return line if len(line) <= _LABEL_MAX else "..." + line[3 - _LABEL_MAX :]


@lru_cache(maxsize=256)
def _drawn(boxes: tuple[Box, ...], lines: tuple[Line, ...], title: str) -> Markup:
    # The address of a graph's object differs from device to device, its shape mostly not.
    nodes = [
        Node(b.name, "\n".join(b.lines), f'class="{b.look}" margin="0.15,0.08"') for b in boxes
    ]
    arrows = [Arrow(a.start, a.end, f" {a.label} ", f'class="{a.look}"') for a in lines]
    drawn = laid_out("\n".join(digraph(nodes, arrows, _FONT, _SIZE)))
    if drawn is None:
        return hand_laid(boxes, lines, title)
    tips = {f"{a.start}->{a.end}": a.tip for a in lines}
    tips.update({b.name: " ".join(b.lines) for b in boxes})
    return _inlined(drawn, title, tips)


_HEAD = re.compile(r'\A.*?<svg width="([\d.]+)pt" height="([\d.]+)pt"', re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_GROUP = re.compile(r'<g id="[^"]*" class="(node|edge|graph) ?')
_CLASSES = {"node": "box ", "edge": "arrow ", "graph": "all"}
# The outline of a box.
_OUTLINE = re.compile(
    r'(<g class="box [^>]*>\s*<title>[^<]*</title>\s*)<polygon [^>]*points="([^"]*)"/>'
)
_TITLE = re.compile(r"<title>([^<]*)</title>")


def _inlined(drawn: str, title: str, tips: Mapping[str, str]) -> Markup:
    """Make of Graphviz's file a part of a page: no head, no ids, our own tips."""
    drawn = _COMMENT.sub("", drawn)
    drawn = _HEAD.sub(
        lambda m: f'<svg class="graph" role="img" width="{m[1]}" height="{m[2]}"', drawn, count=1
    )
    drawn = _GROUP.sub(lambda m: f'<g class="{_CLASSES[m[1]]}', drawn)

    def tip(match: re.Match[str]) -> str:
        name = match[1].replace("&#45;", "-").replace("&gt;", ">")
        return Markup("<title>{}</title>").format(tips.get(name, title))

    # The rest is Graphviz's, which escapes its texts.
    return Markup(_OUTLINE.sub(_rounded, _TITLE.sub(tip, drawn)))


def _rounded(match: re.Match[str]) -> str:
    points = [point.split(",") for point in match[2].split()]
    xs, ys = sorted(float(x) for x, _ in points), sorted(float(y) for _, y in points)
    return (
        f'{match[1]}<rect x="{xs[0]}" y="{ys[0]}" width="{xs[-1] - xs[0]:.2f}" '
        f'height="{ys[-1] - ys[0]:.2f}" rx="5"/>'
    )
