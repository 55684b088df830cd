"""The draft of a layout
---------------------

Every field that a profile knows, where it ought to be in this QEMU, and what speaks for
that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..layout import Layout, Struct
from ..layout.schema import ABI
from .anchors import Anchors
from .core import CORE
from .homes import Home, home, outermost, parts, types_of
from .predict import Anchor, Guess, anchors_between, named, predict

__all__ = ["CONFIRMED", "Draft", "Place", "Reference", "draft", "nearest"]

# A list's head or link, the largest field that has the same size in every QEMU.
_POINTERS = 16

# What is not QEMU's own: POSIX's, and GLib's that its headers show.
_FOREIGN = (*ABI, "_GPtrArray", "_GSource")

#: Words that say that a field was found in this QEMU itself.
CONFIRMED = ("named", "code", "seen", "solved")


class Reference(NamedTuple):
    """A QEMU whose layout is known, with the anchors that it gave."""

    layout: Layout
    anchors: Anchors


class Place(NamedTuple):
    """Where a field is believed to be.

    :param offset: from the start of the QOM object for a structure that lives on one, from the
        start of the structure for another; bytes.
    :param evidence: a word of :data:`CONFIRMED`, ``both``, or ``unconfirmed``.
    :param others: where else it may be, likeliest first.
    :param close: of ``both``: whether what is on both sides is firm and near.
    """

    offset: int
    size: int
    evidence: str
    others: tuple[int, ...] = ()
    close: bool = False


class Draft:
    """Places by structure and field, and the sizes of the structures in bytes."""

    def __init__(self, types: Collection[str]) -> None:
        self._types = types
        self.sizes: dict[str, int] = {}
        self.places: dict[str, dict[str, Place]] = {}
        #: The sets of fields that a structure has in different QEMUs, the nearest first.
        self.shapes: dict[str, list[dict[str, Place]]] = {}

    def layout(self, confirmed: bool = False) -> Layout:
        """Build the layout that it stands for.

        :param confirmed: without the fields that nothing speaks for.
        """
        structs: dict[str, Struct] = {}
        left_out = []
        for name in self._outer_first():
            base = self._base(name)
            fields = {}
            for field, place in self.places[name].items():
                at = place.offset - base
                if at < 0 or (confirmed and place.evidence == "unconfirmed"):
                    left_out.append(f"{name}.{field}")
                else:
                    fields[field] = (at, place.size)
            ends = [offset + size for offset, size in fields.values()]
            size = self.sizes[name]
            if not types_of(name):
                size = max([size, *ends])
            fields = {f: (o, s) for f, (o, s) in fields.items() if o + s <= size}
            structs[name] = Struct(size, _clipped(fields))
        evidence = {
            f"{name}.{field}": place.evidence
            for name, rows in self.places.items()
            for field, place in rows.items()
        }
        evidence.update(dict.fromkeys(left_out, "unconfirmed"))
        return Layout("inferred", "", "", structs, evidence)

    def set(self, name: str, field: str, offset: int, evidence: str) -> None:
        """Move a field and say what speaks for that."""
        place = self.places[name][field]
        self.places[name][field] = place._replace(offset=offset, evidence=evidence)

    def confirm_outer(self) -> None:
        """Confirm the fields that confirmed fields are parts of: only the sum is ever used."""
        for name, outer in parts().items():
            words = [p.evidence for p in self.places.get(name, {}).values()]
            found = next((word for word in words if word in CONFIRMED), None)
            while found and outer:
                struct, _, field = outer.partition(".")
                place = self.places.get(struct, {}).get(field)
                if place is not None and place.evidence not in CONFIRMED:
                    self.set(struct, field, place.offset, found)
                outer = parts().get(struct, "")

    def home(self, name: str) -> Home | None:
        """Return the QOM type that a structure lives on, and where it begins there."""
        types = types_of(name)
        if types:
            kind = next((kind for kind in types if kind in self._types), "")
            return Home(kind, 0) if kind else None
        outer, _, field = parts().get(name, "").partition(".")
        place = self.places.get(outer, {}).get(field)
        inside = self.home(outer) if place is not None else None
        return Home(inside.type, place.offset) if inside is not None and place is not None else None

    def _base(self, name: str) -> int:
        place = self.home(name)
        return place.offset if place is not None else 0

    def _outer_first(self) -> Iterable[str]:
        return sorted(self.places)


def _clipped(fields: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Let structures that are fields, whose sizes are another QEMU's, end before the next field."""
    starts = sorted(offset for offset, _ in fields.values())
    out = {}
    for field, (offset, size) in fields.items():
        i = bisect_right(starts, offset)
        room = starts[i] - offset if i < len(starts) else size
        out[field] = (offset, room if size > _POINTERS and room < size else size)
    return out


def nearest(here: Anchors, references: Sequence[Reference]) -> list[Reference]:
    """Order QEMUs by how many sizes of types they share with this one, most first."""

    def same(reference: Reference) -> int:
        return sum(
            row.size == here.size(name) for name, row in reference.anchors.types.items() if row.size
        )

    return sorted(references, key=same, reverse=True)


def draft(here: Anchors, references: Sequence[Reference]) -> Draft:
    """Say where each field ought to be.

    :param here: what this QEMU says of itself.
    :param references: the nearest first; a structure has the fields of the first that has it.
    """
    out = Draft(here.types.keys())
    known = [_Known(reference, here) for reference in references]
    for i, reference in enumerate(references):
        for name, struct in reference.layout.structs.items():
            places = _places(here, known[i:], name, struct)
            # A type that this QEMU has not got, or a structure whose fields moved elsewhere there.
            if not places:
                continue
            if name not in out.places:
                out.places[name] = places
                kind = next((kind for kind in types_of(name) if kind in here.types), "")
                out.sizes[name] = here.size(kind) if kind else struct.size
            rows = out.shapes.setdefault(name, [])
            if not any(row.keys() == places.keys() for row in rows):
                rows.append(places)
    for field, offset in here.code.items():
        name, _, member = field.partition(".")
        for places in out.shapes.get(name, ()):
            if member in places:
                places[member] = places[member]._replace(offset=offset, evidence="code")
    return out


def _places(
    here: Anchors, known: Sequence[_Known], name: str, struct: Struct
) -> dict[str, Place] | None:
    """Predict a structure; only those that have all its fields predict it.

    :param known: the QEMU that it is of, and those behind it.
    """
    same = [
        other
        for other in known
        if name in other.structs and other.structs[name].fields.keys() >= struct.fields.keys()
    ]
    return _on_type(here, same, name, struct) if _lives(name) else _plain(same, name, struct)


def _lives(name: str) -> bool:
    """Whether a structure is on objects."""
    return bool(types_of(outermost(name)))


class _Known:
    """A reference, with its anchors compared to this QEMU's, type by type."""

    def __init__(self, reference: Reference, here: Anchors) -> None:
        self.structs = reference.layout.structs
        self._anchors, self._here = reference.anchors, here
        self._below = reference.anchors.descendants()
        self._rows: dict[str, list[Anchor]] = {}
        self._code: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for field, offset in reference.anchors.code.items():
            name = field.partition(".")[0]
            where = self.home(name)
            if field in here.code:
                kind = where.type if where is not None else name
                self._code[kind].append((offset, here.code[field]))

    def certain(self, name: str) -> list[Anchor]:
        """Return what code says of a structure that is on no object."""
        pairs = sorted(self._code.get(name, ()))
        return [Anchor(0, 0, False), *(Anchor(there, here, True) for there, here in pairs)]

    def home(self, name: str) -> Home | None:
        """Return where a structure lives there, on a type that this QEMU has too."""
        types = self._anchors.types.keys() & self._here.types.keys()
        return home(self.structs, name, types)

    def guess(self, kind: str, field: str, offset: int) -> Guess:
        """Predict a field of a type's instances.

        :param offset: there, from the start of the object.
        """
        found = named(self._anchors, self._here, kind, field, offset)
        if found is not None:
            return Guess((found,), "named")
        if kind not in self._rows:
            self._rows[kind] = anchors_between(
                self._anchors, self._here, kind, self._below, self._code[kind]
            )
        return predict(self._rows[kind], offset)


def _on_type(
    here: Anchors, known: Sequence[_Known], name: str, struct: Struct
) -> dict[str, Place] | None:
    kind = next((kind for kind in types_of(outermost(name)) if kind in here.types), "")
    room = here.size(kind)
    places = {}
    for field, (_, size) in struct.fields.items():
        guesses = []
        for other in known:
            where = other.home(name)
            if where is not None:
                offset = where.offset + other.structs[name].fields[field][0]
                guesses.append(other.guess(where.type, field, offset))
        if not guesses:
            return None
        rank = {"named": 0, "both": 1}
        best = min(guesses, key=lambda guess: rank.get(guess.evidence, 2))
        candidates = dict.fromkeys(
            offset for guess in (best, *guesses) for offset in guess.offsets if 0 <= offset < room
        )
        if not candidates:
            continue
        first, *others = candidates
        evidence = best.evidence or "unconfirmed"
        # Two QEMUs that disagree prove nothing.
        same = {guess.offsets[0] for guess in guesses if guess.evidence == best.evidence}
        if evidence == "both" and len(same) > 1:
            evidence = "unconfirmed"
        places[field] = Place(first, size, evidence, tuple(others), best.close)
    return places


def _plain(known: Sequence[_Known], name: str, struct: Struct) -> dict[str, Place]:
    """What is on no object is taken as it is, but for what code says of its neighbours.

    Others of the same shape are alternatives.
    """
    places = {}
    for field, (offset, size) in struct.fields.items():
        guess = predict(known[0].certain(name), offset)
        first, *others = dict.fromkeys(
            (*guess.offsets, *(other.structs[name].fields[field][0] for other in known))
        )
        same = {other.structs[name].fields[field] for other in known}
        evidence = "both" if len(same) == 1 and len(known) > 1 and not others else "unconfirmed"
        if name in CORE or name in _FOREIGN:
            evidence = "named"
        places[field] = Place(first, size, evidence, tuple(others))
    return places
