"""How a reference is declared
---------------------------

One :class:`Holder` for each field of QEMU that keeps a counted pointer to a QOM
object and that no property shows.  It names where the structure is found, the way
to the pointer, and what it must point to; a pointer to anything else is not
believed, so that a layout made from another configuration of the same source does
no harm.

A way is written as C has it.  It begins with a field of the structure that it starts
from, and goes on by steps:

=================  ==========================================================
``S.f``            field ``f`` of the structure it starts from
``+ S.f``          the structure ``S`` is that field itself
``-> S.f``         the field points to ``S``
``list S.f``       the field is the head of a QLIST or QTAILQ of ``S``, linked by
                   ``f``; what follows begins at each element
``[N S]``          the field is an array of ``N`` structures ``S``
``->[N S]``        the field points to an array of ``N`` structures ``S``
``->[N]``          the field points to an array of ``N`` pointers
``[N S while W]``  the array ends before the first element in which ``W``, a way of embedded
                   fields, is zero
=================  ==========================================================

``N`` is a number, the most there can be, or a field ``S.n`` of a structure on the way
that counts them.  ``a|b`` is a field that QEMU renamed: the one that this QEMU has.
``S.{a,b}`` stands for two ways.  A way that begins with ``&`` ends at the object
itself, which is embedded there, and not at a pointer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Union

from ..tuples import NamedTuple

__all__ = [
    "Around",
    "Holder",
    "Kind",
    "OfListener",
    "OfType",
    "Reader",
    "Start",
    "Step",
    "Variable",
    "fields_of",
    "parse",
    "ways_of",
]


class Kind(NamedTuple):
    """One kind of reference whose holders are declared.

    :param name: its word in text, JSON, code and docs.
    :param holds: one sentence: what holds it, and on what.
    :param source: QEMU source, file and function.
    :param since: the QEMU in which it came, or went; empty when always there.
    :param transient: whether it ends without anybody's doing (RCU, a request in flight).
    :param on: ``object``: what the pointer leads to; ``owner``: the owner of the region
        that it leads to; ``view``: a flat view, whose count is no object's.
    """

    name: str
    holds: str
    source: str
    since: str = ""
    transient: bool = False
    on: str = "object"


class OfType(NamedTuple):
    """The way starts at every object of a QOM type."""

    type: str


class OfListener(NamedTuple):
    """The way starts at the structure whose ``field`` is a ``MemoryListener`` of that name."""

    name: str
    field: str


class Variable(NamedTuple):
    """The way starts at a variable of the program, where the program names it."""

    name: str


class Around(NamedTuple):
    """The way is one field; a pointer to the target is searched for, and the structure around
    it is believed when it holds together.

    :param shape: ``linked``, ``source``, ``netdev``, ``netdev-head`` or ``variable``: see
        :mod:`qmrinspect.walk.shapes`.
    :param link: the QTAILQ link that must close, ``S.f``.
    """

    shape: str
    link: str = ""


class Reader(NamedTuple):
    """What no way describes: a function of :mod:`qmrinspect.walk.readers` reads it."""

    name: str


Start = Union[OfType, OfListener, Variable, Around, Reader]


class Holder(NamedTuple):
    """One field that keeps a reference.

    :param kind: the reference kind.
    :param start: where the way starts.
    :param way: see the head of this module.
    :param target: QOM type it points to; ``ram`` for a host address in the guest's memory,
        ``view`` for a flat view.
    :param source: QEMU source, file and function.
    :param when: a way to a field that must not be zero; where the structure has no such
        field, this QEMU knows no such reference.
    :param needs: further fields that a reader needs, ``S.f``; ``S.f?`` is one it can do
        without.
    :param either: a name that alternatives share: the QEMU that has one has no other.
    :param since: the QEMU in which it came, or went; for people only.
    :param unsure: where QEMU counts it in one release and not in another although the
        structure is the same, the name of that question.  What balances the books answers it.
    :param mark: a field that came to QEMU together with the reference, ``!S.f`` one that came
        when it went: the answer while there is no evidence.
    """

    kind: str
    start: Start
    way: str
    target: str
    source: str
    when: str = ""
    needs: str = ""
    either: str = ""
    since: str = ""
    unsure: str = ""
    mark: str = ""


class Step(NamedTuple):
    """One step of a way.

    :param how: ``+``, ``->``, ``list``, ``[]`` or ``->[]``.
    :param struct: the structure; of an array its elements, empty for pointers.
    :param names: the field; more than one where QEMU renamed it.
    :param length: of an array: a number or ``S.n``.
    :param ends: of an array: the way to the field that is zero in the first element behind it.
    """

    how: str
    struct: str
    names: tuple[str, ...] = ()
    length: str = ""
    ends: str = ""


# By which the listeners are found.
_LISTENERS = ("MemoryListener.name", "MemoryListener.link_as", "AddressSpace.listeners")
_TOKEN = re.compile(r"(?:->)?\[[^\]]*\]|\S+")
_FIELD = re.compile(r"(\w+)\.(\w+(?:\|\w+)*)")
_ARRAY = re.compile(r"(->)?\[(\d+|\w+\.\w+)(?: (\w+)(?: while ([^\]]+))?)?\]")


@cache
def parse(way: str) -> tuple[Step, ...]:
    """Return the steps of a way without braces.

    :raises ValueError: when it is none.
    """
    steps: list[Step] = []
    how = "+"
    for token in _TOKEN.findall(way.lstrip("&")):
        array, field = _ARRAY.fullmatch(token), _FIELD.fullmatch(token)
        if token in ("+", "->", "list"):
            how = token
        elif array:
            steps.append(Step(f"{array[1] or ''}[]", array[3] or "", (), array[2], array[4] or ""))
            how = ""
        elif field and how:
            steps.append(Step(how, field[1], tuple(field[2].split("|"))))
            how = ""
        else:
            raise ValueError(f"{way!r} is no way: {token!r}")
    return tuple(steps)


def ways_of(text: str) -> list[str]:
    """Return the ways that one with braces stands for."""
    match = re.search(r"\{([^}]*)\}", text)
    if match is None:
        return [text]
    head, tail = text[: match.start()], text[match.end() :]
    return [way for name in match[1].split(",") for way in ways_of(head + name + tail)]


def _fields_on(way: str) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    for step in parse(way):
        if step.struct:
            yield step.struct, step.names, True
        if "." in step.length:
            struct, _, field = step.length.partition(".")
            yield struct, (field,), True
        if step.ends:
            yield from _fields_on(step.ends)


@cache
def fields_of(holder: Holder) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """Return (structure, names of a field, whether it is needed) of all that a holder reads.

    No names stand for the structure itself.
    """
    return tuple(_fields_of(holder))


def _fields_of(holder: Holder) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    for text in (holder.way, holder.when):
        for way in ways_of(text) if text else ():
            yield from _fields_on(way)
    start = holder.start
    more = [start.field, *_LISTENERS] if isinstance(start, OfListener) else []
    more += [start.link] if isinstance(start, Around) and start.link else []
    for text in [*more, *holder.needs.split()]:
        struct, _, field = text.rstrip("?").partition(".")
        yield struct, (field,) if field else (), not text.endswith("?")
