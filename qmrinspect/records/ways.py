"""Following a way
---------------

A way of :mod:`qmrinspect.references` under one layout: offsets instead of names.  What
an array holds is read at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..target.image import Unreadable
from ..tuples import NamedTuple
from .context import LIST_MAX, Context
from .route import Array, Deref, List, Op, Route, Value

__all__ = ["Found", "follow", "used"]

_POINTER = 8
_PART = 16  # elements that are read at once


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


def follow(context: Context, start: int, way: str) -> Iterator[Found]:
    """Yield what a way leads to; NULL pointers are left out.

    :param start: address of the structure that the way begins with.
    :raises Unreadable: when it leads out of memory.
    :raises LayoutError: when this layout lacks a field of it.
    """
    ops = context.known.routes.get(way)
    if ops is None:
        ops = context.known.routes[way] = tuple(Route(context.layout, way).ops)
    yield from _run(context, ops, 0, [start], start, "")


def _run(
    context: Context, ops: tuple[Op, ...], i: int, places: list[int], holder: int, label: str
) -> Iterator[Found]:
    op, place, image = ops[i], places[-1], context.image
    text = label + op.label
    if isinstance(op, Value):
        value = place + op.offset if op.embedded else image.u64(place + op.offset)
        if value:
            yield Found(holder, text, value)
    elif isinstance(op, Deref):
        value = image.u64(place + op.offset)
        if value:
            yield from _run(context, ops, i + 1, [*places, value], holder, text)
    elif isinstance(op, List):
        first = image.u64(place + op.offset)
        for at in context.queue(first, op.link, text):
            yield from _run(context, ops, i + 1, [*places, at], at, "")
    else:
        yield from _elements(context, ops, i, places, holder, text)


def _elements(
    context: Context, ops: tuple[Op, ...], i: int, places: list[int], holder: int, text: str
) -> Iterator[Found]:
    op, after, image = ops[i], ops[i + 1], context.image
    assert isinstance(op, Array)
    array = image.u64(places[-1] + op.offset) if op.pointed else places[-1] + op.offset
    count = op.length if isinstance(op.length, int) else _count(context, places, op.length)
    if not array or not count:
        return
    if count > LIST_MAX:
        context.note(places[-1], f"{text} claims {count} elements")
        return
    if op.ends:
        count = used(context, array, count, op.stride, op.ends)
    at = after.offset
    # What is not followed further is not looked at twice.
    sparse = isinstance(after, Deref) or (isinstance(after, Value) and not after.embedded)
    for k, value in _column(context, array, count, op.stride, at) if sparse else _all(count):
        inner = f"{text}[{k}]"
        if isinstance(after, Value) and sparse:
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


def used(context: Context, array: int, most: int, stride: int, ends: tuple[int, int]) -> int:
    """Return how many elements of an array come before the first whose field is zero.

    :param ends: (offset, size) of the field.
    """
    at, size = ends
    zero = bytes(size)
    for first in range(0, most, _PART):
        count = min(_PART, most - first)
        raw = context.image.read(array + first * stride, (count - 1) * stride + at + size)
        for k in range(count):
            if raw[k * stride + at : k * stride + at + size] == zero:
                return first + k
    return most


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
