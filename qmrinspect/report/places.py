"""What an address belongs to, in words
------------------------------------
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..index import Index
from ..text import printable
from . import render, words
from .render import Row

if TYPE_CHECKING:
    from ..search.place import Place, Word

__all__ = ["place_json", "place_lines", "structure_at"]

_WORDS_MAX = 20


def place_json(index: Index, place: Place) -> dict[str, object]:
    """Return what an address belongs to, and who points there, as ``qmr-show/1``."""
    return {
        **words.head_json("qmr-show/1", index.snapshot),
        "address": hex(place.address),
        "object": words.object_json(index, place.container) if place.container else None,
        "place": {
            "state": place.state,
            "kind": place.kind,
            "start": words.hex_text(place.start),
            "size": place.size,
            "offset": place.address - place.start if place.start else 0,
            "name": place.name,
            "field": place.field,
            "structure": structure_at(index, place) or "",
            "why": place.why,
        },
        "pointers": [_word_json(index, word) for word in place.words],
    }


def _word_json(index: Index, word: Word) -> dict[str, object]:
    memory = {True: "live", False: "freed", None: "not known"}[word.alive]
    return {
        "address": hex(word.address),
        "value": hex(word.value),
        "memory": memory,
        "place": word.place,
        "container": words.hex_text(word.container),
        "container_path": index.label(word.container) if word.place == "object" else "",
        "offset": word.offset,
        "field": word.field,
    }


def structure_at(index: Index, place: Place) -> str | None:
    """Return what is known to begin in a block that is no object, None when nothing is."""
    snapshot = index.snapshot
    low, high = place.start, place.start + place.size
    if place.kind != "block" or place.state == "freed":
        return None
    known: dict[int, str] = {a: "FlatView" for a in snapshot.views}
    known.update({a: f'AddressSpace "{s.name}"' for a, s in snapshot.spaces.items()})
    known.update({a: f'MemoryListener "{row.name}"' for a, row in snapshot.listeners.items()})
    known.update({k.address: "BusChild" for bus in snapshot.buses.values() for k in bus.children})
    known.update({g.address: f'NamedGPIOList "{g.name}"' for g in snapshot.gpios})
    known.update({f.holder: f.field.split(".")[0] for f in snapshot.fields if f.field})
    at = min((a for a in known if low <= a < high and a not in snapshot.objects), default=None)
    if at is None:
        return None
    return known[at] + (f" at +{at - low:#x}" if at > low else "")


def _block_text(place: Place) -> str:
    """Return a block of malloc in a few words."""
    what = "freed block" if place.state == "freed" else "live block"
    return f"{what} of {render.plural(place.size, 'byte')} at {place.start:#x}"


def place_lines(index: Index, place: Place) -> Iterator[str]:
    """Yield the same for people."""
    struct = structure_at(index, place)
    at = f"{place.address:#x}"
    inside = f"+{place.address - place.start:#x} in " if place.start else ""
    mapped = f"what is mapped at {place.start:#x}" + (f" ({place.name})" if place.name else "")
    if place.state == "unmapped":
        yield f"{at}: nothing is mapped there"
    elif place.kind == "block":
        yield f"{at} is {inside}a {_block_text(place)}"
    elif place.kind == "variable":
        yield f"{at} is {inside}the variable {printable(place.name)} of {place.size} bytes"
    elif place.kind == "stack":
        use = {"live": "in use", "freed": "not in use", "not known": "in use or not"}[place.state]
        yield f"{at} is {inside}a stack, where it is {use}"
    elif place.state == "not known":
        yield f"{at} is {inside}{printable(mapped)}; live or freed is not known: {place.why}"
    else:
        yield f"{at} is {inside}{printable(mapped)}"
    if place.container:
        label = words.name(index, place.container)
        field = f", {place.field}" if place.field else ""
        yield f"it is +{place.address - place.container:#x} in {label}{printable(field)}"
    if struct is not None:
        yield f"the block has a known structure: {printable(struct)}"
    if not place.words:
        yield "no word of memory points there"
        return
    live = sum(word.alive is True for word in place.words)
    count = render.plural(len(place.words), "word")
    yield f"{count} of memory point there, {live} of them in live memory:"
    rows = [
        Row(
            (
                {True: "live", False: "freed", None: "not known"}[word.alive],
                word.place,
                index.label(word.container)
                if word.place == "object"
                else words.hex_text(word.container)
                if word.container
                else "",
                printable(word.field) or (f"+{word.offset:#x}" if word.offset else ""),
                f"+{word.value - place.start:#x}" if place.start else "",
                f"{word.address:#x}",
            )
        )
        for word in place.words[:_WORDS_MAX]
    ]
    yield from render.table(("memory", "place", "in", "field", "to", "address"), rows)
    if len(place.words) > _WORDS_MAX:
        yield f"  and {len(place.words) - _WORDS_MAX} more (--json lists all)"
