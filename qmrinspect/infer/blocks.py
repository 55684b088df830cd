"""Structures in blocks of their own
---------------------------------

What holds channels, listeners and credentials lives on no object: it is found by the
pointers to them.  A structure is believed under the layout of a reference when its list
closes there; else its link and its other pointers are looked for in the allocator's block
that begins where the structure does, and believed when they are the only ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..layout import Struct
from ..records.scan import find_words
from ..references import HOLDERS, Around
from ..references.record import parse
from ..target.image import Unreadable
from .core import Core
from .draft import Draft, Reference

__all__ = ["block_size", "solve"]

# A structure grows or shrinks by no more than this factor from one QEMU to another.
_FACTOR = 4
# Pointers that far in front do not move when an array behind them grows, in bytes.
_FRONT = 512
_STARTS_MAX = 256
_NETDEV_MAX = 1 << 20
_NETDEVS = ("netdev", "netdev-head")
# glibc's malloc: sizes are multiples of 16, of a block of its own mapping of pages.
_MAPPED, _FLAGS = 2, 7


class _Shape(NamedTuple):
    """A structure with a link, and the QOM type that each of its pointers leads to."""

    struct: str
    link: str
    keys: Mapping[str, str]


def _shapes() -> Iterator[_Shape]:
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for holder in HOLDERS:
        if isinstance(holder.start, Around) and holder.start.shape == "linked":
            (step,) = parse(holder.way)
            owner, _, link = holder.start.link.partition(".")
            if owner == step.struct:
                found[owner, link][step.names[0]] = holder.target
    for (struct, link), keys in found.items():
        yield _Shape(struct, link, keys)


def _size_netdevs(core: Core, draft: Draft, words: Sequence[tuple[int, int]]) -> None:
    """Take the sizes of netdevs' structures from their descriptions (net/net.c).

    Of several structures that a netdev may be, it is the one of which it has most.
    """
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    heads: set[str] = set()
    for holder in HOLDERS:
        if isinstance(holder.start, Around) and holder.start.shape in _NETDEVS:
            (step,) = parse(holder.way)
            if step.names[0] in draft.places.get(step.struct, {}):
                heads |= {step.struct} if holder.start.shape == "netdev-head" else set()
                keys[step.struct][step.names[0]] = holder.target
    sizes: dict[int, int] = {}
    votes: dict[int, Counter[str]] = defaultdict(Counter)
    for word, target in words:
        for struct, fields in keys.items():
            for field, kind in fields.items():
                start = word - draft.places[struct][field].offset
                size = _netdev_size(core, draft, start)
                if size and _right(core, target, kind):
                    sizes[start] = size
                    votes[start][struct] += 1
    believed = {rows.most_common(1)[0][0]: sizes[start] for start, rows in votes.items()}
    for struct in keys if believed else ():
        if struct not in believed:
            draft.places[struct].clear()
        elif struct not in heads:
            draft.sizes[struct] = believed[struct]


def _netdev_size(core: Core, draft: Draft, start: int) -> int:
    """Return how large the structure of a netdev is by its description, 0 where there is none."""
    base, row = draft.places.get("NetClientState", {}), draft.places.get("NetClientInfo", {})
    if not {"info", "next"} <= base.keys() or "size" not in row:
        return 0
    try:
        before = core.image.u64(start + base["next"].offset + 8)
        info = core.image.u64(start + base["info"].offset)
        if before & 7 or info not in core.pages or core.image.u64(before) != start:
            return 0
        size = core.image.u64(info + row["size"].offset)
    except Unreadable:
        return 0
    return size if base["next"].offset < size < _NETDEV_MAX else 0


def solve(core: Core, draft: Draft, references: Sequence[Reference]) -> None:
    """Settle the structures of which one lives at the instant."""
    shapes = [shape for shape in _shapes() if shape.struct in draft.places]
    targets = {
        address
        for holder in HOLDERS
        if isinstance(holder.start, Around) and holder.start.shape in ("linked", *_NETDEVS)
        for address in core.of_type(holder.target)
    }
    words = list(find_words(core.image, targets, core.context.known.words)) if targets else []
    _size_netdevs(core, draft, words)
    for shape in shapes:
        variants = [
            reference.layout.structs[shape.struct]
            for reference in references
            if shape.struct in reference.layout.structs
        ]
        starts = _starts(core, shape, variants, words)
        found = next(
            (v for v in variants if any(_closes(core, shape, v, start) for start in starts)), None
        )
        if found is not None:
            _believe(draft, shape, found)
        else:
            for start in starts:
                if _search(core, draft, shape, variants, start):
                    break


def _starts(
    core: Core, shape: _Shape, variants: Sequence[Struct], words: Sequence[tuple[int, int]]
) -> list[int]:
    """Return where a structure may begin, by the pointers that it may have."""
    is_a, objects = core.context.is_a, core.objects
    offsets = {
        (field, variant.fields[field][0])
        for variant in variants
        for field in shape.keys
        if field in variant.fields
    }
    out: dict[int, None] = {}
    for word, target in words:
        for field, offset in offsets:
            if is_a(objects[target].type, shape.keys[field]) and (word - offset) % 16 == 0:
                out[word - offset] = None
    return list(out)[:_STARTS_MAX]


def _right(core: Core, address: int, target: str) -> bool:
    obj = core.objects.get(address)
    return obj is not None and core.context.is_a(obj.type, target)


def _closes(core: Core, shape: _Shape, variant: Struct, start: int) -> bool:
    """Whether a structure is linked, and has nothing but the right pointers, under a layout."""
    try:
        before = core.image.u64(start + variant.fields[shape.link][0] + 8)
        if not before or before & 7 or core.image.u64(before) != start:
            return False
        values = {
            field: core.image.u64(start + variant.fields[field][0])
            for field in shape.keys
            if field in variant.fields
        }
    except (Unreadable, KeyError):
        return False
    return any(values.values()) and all(
        not value or _right(core, value, shape.keys[field]) for field, value in values.items()
    )


def _believe(draft: Draft, shape: _Shape, found: Struct) -> None:
    draft.sizes[shape.struct] = found.size
    for field in draft.places[shape.struct]:
        if field in found.fields:
            draft.set(shape.struct, field, found.fields[field][0], "seen")


def block_size(core: Core, start: int) -> int:
    """Return how many bytes the block that begins at an address has, 0 when none does."""
    try:
        header = core.image.u64(start - 8)
    except Unreadable:
        return 0
    size = header & ~_FLAGS
    if start % 16 or size % 16 or size < 32:
        return 0
    return size - 16 if header & _MAPPED else size - 8


def _search(
    core: Core, draft: Draft, shape: _Shape, variants: Sequence[Struct], start: int
) -> bool:
    """Look for the link and the pointers of one structure; say whether they were found."""
    size = block_size(core, start)
    if not any(v.size // _FACTOR <= size <= v.size * _FACTOR for v in variants):
        return False
    try:
        words = core.image.words(start, size // 8)
    except Unreadable:
        return False
    links = [i - 1 for i, word in enumerate(words) if i and _leads(core, word, start)]
    front = {
        field: offset
        for variant in variants
        for field, (offset, _) in variant.fields.items()
        if field in shape.keys and offset < min(_FRONT, size)
    }
    values = {field: words[offset // 8] for field, offset in front.items()}
    if len(links) != 1 or any(
        value and not _right(core, value, shape.keys[field]) for field, value in values.items()
    ):
        return False
    draft.sizes[shape.struct] = size
    for field in draft.places[shape.struct]:
        if field == shape.link:
            draft.set(shape.struct, field, 8 * links[0], "solved")
        elif field in front:
            word = "seen" if values[field] else "both"
            draft.set(shape.struct, field, front[field], word)
        elif field in shape.keys:
            taken = {8 * links[0], *front.values()}
            at = [
                8 * i
                for i, value in enumerate(words)
                if 8 * i not in taken and _right(core, value, shape.keys[field])
            ]
            if len(at) == 1:
                draft.set(shape.struct, field, at[0], "solved")
    return True


def _leads(core: Core, pointer: int, start: int) -> bool:
    """Whether there is a pointer to a structure's start at an address."""
    if not 0x1000 < pointer < 1 << 47 or pointer & 7:
        return False
    try:
        return core.image.u64(pointer) == start
    except Unreadable:
        return False
