"""A way under one layout
---------------------

Offsets instead of the names of a way of :mod:`qmrinspect.references`.
"""

from __future__ import annotations

from typing import Union

from ..layout import Layout
from ..layout.model import resolve
from ..references.record import Step, parse
from ..tuples import NamedTuple

__all__ = ["Array", "Deref", "List", "Op", "Route", "Value"]

_POINTER = 8


class Deref(NamedTuple):
    """Go where the pointer at ``offset`` leads."""

    offset: int
    label: str


class List(NamedTuple):
    """Go to each element of the list whose head is at ``offset``."""

    offset: int
    link: int
    label: str


class Array(NamedTuple):
    """Go to each element of an array at ``offset``, or where the pointer there leads.

    :param ends: (offset, size) of the field that is zero behind the last element.
    :param length: the most there can be, or where they are counted as (level, offset, size).
    """

    offset: int
    pointed: bool
    length: int | tuple[int, int, int]
    stride: int
    label: str
    ends: tuple[int, int] | None = None


class Value(NamedTuple):
    """Read the pointer at ``offset``, or take the place itself."""

    offset: int
    embedded: bool
    label: str


Op = Union[Deref, List, Array, Value]


def place_of(layout: Layout, way: str) -> tuple[int, int]:
    """Return (offset, size) of the field at the end of a way of embedded structures.

    :raises LayoutError: when this layout lacks a field of it.
    """
    at = size = 0
    for step in parse(way):
        name = resolve(layout, step.struct, step.names)
        offset, size = layout.structs[step.struct].fields[name]
        at += offset
    return at, size


class Route:
    """Compiles a way; the offsets of embedded structures are added up."""

    def __init__(self, layout: Layout, way: str) -> None:
        self._layout = layout
        self.ops: list[Op] = []
        self._offset = 0
        self._label = ""
        # Where each structure on the way begins: the level, and the offset there.
        self._bases: dict[str, tuple[int, int]] = {}
        for step in parse(way):
            self._step(step)
        self.ops.append(Value(self._offset, way.startswith("&"), self._label))

    def _step(self, step: Step) -> None:
        if step.how.endswith("[]"):
            self._array(step)
            return
        name = resolve(self._layout, step.struct, step.names)
        offset = self._layout.offset(step.struct, name)
        if step.how == "list":
            self._go(List(self._offset, offset, self._label))
            self._label = step.struct
            self._bases[step.struct] = (len(self.ops), 0)
            return
        if step.how == "->":
            self._go(Deref(self._offset, self._label))
            self._label = f"->{name}"
        elif not self.ops and not self._label:
            self._label = f"{step.struct}.{name}"
        else:
            self._label += f".{name}"
        self._bases[step.struct] = (len(self.ops), self._offset)
        self._offset += offset

    def _array(self, step: Step) -> None:
        stride = self._layout.size(step.struct) if step.struct else _POINTER
        length: int | tuple[int, int, int]
        if "." in step.length:
            struct, _, field = step.length.partition(".")
            level, base = self._bases[struct]
            offset, size = self._layout.structs[struct].fields[field]
            length = (level, base + offset, size)
        else:
            length = int(step.length)
        ends = place_of(self._layout, step.ends) if step.ends else None
        self._go(Array(self._offset, step.how == "->[]", length, stride, self._label, ends))

    def _go(self, op: Op) -> None:
        self.ops.append(op)
        self._offset, self._label = 0, ""
