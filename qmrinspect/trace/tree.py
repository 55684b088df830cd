"""Balance trees
-------------

The takes and drops of one object by call tree.  What balances is folded away: what is
left are the calls that took and did not drop, or dropped what others took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..documents import TreeJson
from ..text import printable
from .life import Step
from .story import path_of

__all__ = ["Node", "balance_tree", "folded", "tree_json", "tree_lines"]


@dataclass
class Node:
    """One function, called from the one above it.

    :param text: name, file and line.
    :param taken: references taken in it and below, and ``dropped`` so many.
    """

    name: str
    text: str
    taken: int = 0
    dropped: int = 0
    below: dict[str, Node] = field(default_factory=dict)

    @property
    def net(self) -> int:
        """Taken less dropped."""
        return self.taken - self.dropped


def balance_tree(steps: Iterable[Step], all: bool = False) -> Node:
    """Add up changes by call tree.

    :param all: every function of the stacks, event loops and property setters included.
    """
    root = Node("", "")
    for step in steps:
        node = root
        _count(node, step.event.by or 0)
        for frame in path_of(step.frames, all):
            text = frame.text()
            node = node.below.setdefault(text, Node(frame.name, text))
            _count(node, step.event.by or 0)
    return root


def _count(node: Node, by: int) -> None:
    node.taken += max(by, 0)
    node.dropped -= min(by, 0)


def tree_lines(root: Node, all: bool = False) -> Iterator[str]:
    """Yield a tree as text, callers above what they call.

    :param all: what balances as well.
    """
    yield from _lines(root, 0, all)
    hidden = sum(1 for node in _nodes(root) if not node.net and not node.below)
    if hidden and not all:
        yield f"  {hidden} places that balance are not shown"


def _lines(node: Node, depth: int, all: bool) -> Iterator[str]:
    for below in sorted(node.below.values(), key=lambda n: -abs(n.net)):
        if not all and not _worth(below):
            continue
        names, last = [below.text], below
        # A function that does nothing but call another shares its line.
        while len(last.below) == 1:
            only = next(iter(last.below.values()))
            if (only.taken, only.dropped) != (last.taken, last.dropped):
                break
            names.append(only.text)
            last = only
        both = f" ({below.taken} taken, {below.dropped} dropped)" if below.dropped else ""
        both = both if below.taken else ""
        yield f"  {'  ' * depth}{below.net:+d} {printable(' > '.join(names), 4000)}{both}"
        yield from _lines(last, depth + 1, all)


def _worth(node: Node) -> bool:
    """Whether a function does not balance, or something below it does not."""
    return bool(node.net) or any(_worth(below) for below in node.below.values())


def _nodes(node: Node) -> Iterator[Node]:
    for below in node.below.values():
        yield below
        yield from _nodes(below)


def tree_json(root: Node, all: bool = False) -> list[TreeJson]:
    """Return a tree as the ``tree`` of ``qmr-trace/1``."""
    return [
        {
            "function": node.name,
            "text": node.text,
            "taken": node.taken,
            "dropped": node.dropped,
            "below": tree_json(node, all),
        }
        for node in root.below.values()
        if all or _worth(node)
    ]


def folded(steps: Sequence[Step]) -> Iterator[str]:
    """Yield folded stacks, as flame graph tools read them: outermost first, then a number."""
    seen: Counter[str] = Counter()
    for step in steps:
        names = [_semicolons(f.name) for f in path_of(step.frames)]
        seen[";".join([*names, "take" if step.event.takes else "drop"])] += 1
    for stack, count in sorted(seen.items()):
        yield f"{stack} {count}"


def _semicolons(name: str) -> str:
    return printable(name).replace(";", ":").replace(" ", "_")
