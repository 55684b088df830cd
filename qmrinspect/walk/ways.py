"""Following a way
---------------

A way of :mod:`qmrinspect.references` under one layout: offsets instead of names.  What
an array holds is read at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

from ..layout import Layout
from ..layout.model import resolve
from ..references.record import Step, parse
from ..target.image import Unreadable
from .context import LIST_MAX, Context

__all__ = ["Found", "Op", "follow"]

_POINTER = 8


class Found(NamedTuple):
    """One pointer at the end of a way.

    :param holder: the structure that it is reported for: what the way started from, or the
        element of the last list.
    :param field: ``S.f`` as C has it, with indices.
    :param value: where it points to; of a way to an embedded object the object's address.
    """

    holder: int
    field: str
    value: int


class _Deref(NamedTuple):
    """Go where the pointer at ``offset`` leads."""

    offset: int
    label: str


class _List(NamedTuple):
    """Go to each element of the list whose head is at ``offset``."""

    offset: int
    link: int
    label: str


class _Array(NamedTuple):
    """Go to each element of an array at ``offset``, or where the pointer there leads.

    :param length: the most there can be, or where they are counted as (level, offset, size).
    """

    offset: int
    pointed: bool
    length: int | tuple[int, int, int]
    stride: int
    label: str


class _Value(NamedTuple):
    """Read the pointer at ``offset``, or take the place itself."""

    offset: int
    embedded: bool
    label: str


Op = Union[_Deref, _List, _Array, _Value]


class _Route:
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
        self.ops.append(_Value(self._offset, way.startswith("&"), self._label))

    def _step(self, step: Step) -> None:
        if step.how.endswith("[]"):
            self._array(step)
            return
        name = resolve(self._layout, step.struct, step.names)
        offset = self._layout.offset(step.struct, name)
        if step.how == "list":
            self._go(_List(self._offset, offset, self._label))
            self._label = step.struct
            self._bases[step.struct] = (len(self.ops), 0)
            return
        if step.how == "->":
            self._go(_Deref(self._offset, self._label))
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
        self._go(_Array(self._offset, step.how == "->[]", length, stride, self._label))

    def _go(self, op: Op) -> None:
        self.ops.append(op)
        self._offset, self._label = 0, ""


def follow(context: Context, start: int, way: str) -> Iterator[Found]:
    """Yield what a way leads to; NULL pointers are left out.

    :param start: address of the structure that the way begins with.
    :raises Unreadable: when it leads out of memory.
    :raises LayoutError: when this layout lacks a field of it.
    """
    ops = context.known.routes.get(way)
    if ops is None:
        ops = context.known.routes[way] = tuple(_Route(context.layout, way).ops)
    yield from _run(context, ops, 0, [start], start, "")


def _run(
    context: Context, ops: tuple[Op, ...], i: int, places: list[int], holder: int, label: str
) -> Iterator[Found]:
    op, place, image = ops[i], places[-1], context.image
    text = label + op.label
    if isinstance(op, _Value):
        value = place + op.offset if op.embedded else image.u64(place + op.offset)
        if value:
            yield Found(holder, text, value)
    elif isinstance(op, _Deref):
        value = image.u64(place + op.offset)
        if value:
            yield from _run(context, ops, i + 1, [*places, value], holder, text)
    elif isinstance(op, _List):
        first = image.u64(place + op.offset)
        for at in context.queue(first, op.link, text):
            yield from _run(context, ops, i + 1, [*places, at], at, "")
    else:
        yield from _elements(context, ops, i, places, holder, text)


def _elements(
    context: Context, ops: tuple[Op, ...], i: int, places: list[int], holder: int, text: str
) -> Iterator[Found]:
    op, after, image = ops[i], ops[i + 1], context.image
    assert isinstance(op, _Array)
    array = image.u64(places[-1] + op.offset) if op.pointed else places[-1] + op.offset
    count = op.length if isinstance(op.length, int) else _count(context, places, op.length)
    if not array or not count:
        return
    if count > LIST_MAX:
        context.note(places[-1], f"{text} claims {count} elements")
        return
    at = after.offset
    # What is not followed further is not looked at twice.
    sparse = isinstance(after, _Deref) or (isinstance(after, _Value) and not after.embedded)
    for k, value in _column(context, array, count, op.stride, at) if sparse else _all(count):
        inner = f"{text}[{k}]"
        if isinstance(after, _Value) and sparse:
            yield Found(holder, inner + after.label, value)
        elif sparse:
            yield from _run(
                context,
                ops,
                i + 2,
                [*places, array + k * op.stride, value],
                holder,
                inner + after.label,
            )
        else:
            where = [*places, array + k * op.stride]
            yield from _run(context, ops, i + 1, where, holder, inner)


def _count(context: Context, places: list[int], where: tuple[int, int, int]) -> int:
    level, offset, size = where
    return int.from_bytes(context.image.read(places[level] + offset, size), "little")


def _all(count: int) -> Iterator[tuple[int, int]]:
    for k in range(count):
        yield k, 0


def _column(
    context: Context, array: int, count: int, stride: int, at: int
) -> Iterator[tuple[int, int]]:
    """Yield (index, pointer) of the elements of an array whose pointer at ``at`` is not NULL.

    An array whose length is not known may be shorter than what is asked for: what lies
    behind it may not be there at all.
    """
    try:
        raw = context.image.read(array, (count - 1) * stride + at + _POINTER)
    except Unreadable:
        for k in range(count):
            try:
                value = context.image.u64(array + k * stride + at)
            except Unreadable:
                if not k:
                    raise
                return
            if value:
                yield k, value
        return
    if stride == _POINTER:
        words = memoryview(raw).cast("Q") if len(raw) % _POINTER == 0 else ()
        for k, value in enumerate(words):
            if value:
                yield k, value
        return
    empty = bytes(_POINTER)
    for k in range(count):
        word = raw[k * stride + at : k * stride + at + _POINTER]
        if word != empty:
            yield k, int.from_bytes(word, "little")
