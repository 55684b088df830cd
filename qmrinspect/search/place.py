"""What an address belongs to
--------------------------

The block of malloc, the variable, the stack or the mapping that has an address, and every
word of memory that points into it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..records.context import Context
from ..records.enclosing import Enclosing
from ..records.scan import find_into
from ..snapshot import Obj
from .pointers import field_of, variable_at

__all__ = ["Place", "Word", "find_place"]

_WORD = 8
_PAGE = 4096
_WORDS_MAX = 100_000


class Word(NamedTuple):
    """A word that points into a place.

    :param alive: whether its own memory is in use, None when that is not known.
    :param place: ``object``, ``variable``, ``block`` or ``memory``.
    :param container: the object, or the block, that has it; 0 when none does.
    :param offset: of the word in that, bytes.
    """

    address: int
    value: int
    alive: bool | None
    place: str
    container: int
    offset: int
    field: str


class Place(NamedTuple):
    """What has an address.

    :param state: ``live``, ``freed``, ``not known``, or ``unmapped``.
    :param kind: ``block``, ``variable``, ``stack``, ``program``, ``file``, ``memory`` or empty.
    :param start: of the block, variable or mapping; ``size`` in bytes.
    :param name: of the variable, or of what is mapped.
    :param container: the innermost object whose memory has the address, 0 when none does.
    :param why: why it is not known, empty when it is.
    """

    address: int
    state: str
    kind: str
    start: int
    size: int
    name: str
    container: int
    field: str
    why: str
    words: Sequence[Word]


def find_place(
    context: Context,
    objects: Mapping[int, Obj],
    address: int,
    variables: Sequence[tuple[int, int, str]],
) -> Place:
    """Find out what an address belongs to.

    :param variables: (address, size in bytes, name) of the program's, sorted.
    """
    place = _of(context, address, variables)
    enclosing = context.enclosing(objects)
    home = enclosing(address)
    if home and place.state == "freed":
        home = 0  # only a freed object
    field = field_of(context, objects[home].type, address - home) if home else ""
    # Of a mapping only the address itself is pointed to.
    exact = place.kind in ("block", "variable")
    low, high = (place.start, place.start + place.size) if exact else (address, address + _WORD)
    words = [
        _word(context, objects, enclosing, word, value, variables)
        for word, value in find_into(context.image, [(low, max(high, low + 1))])
        if not low <= word < high
    ][:_WORDS_MAX]
    words.sort(key=lambda word: (word.alive is False, word.value != low, word.address))
    return place._replace(container=home, field=field, words=words)


def _of(context: Context, address: int, variables: Sequence[tuple[int, int, str]]) -> Place:
    block = context.live.heap.at(address)
    nothing = Place(address, "unmapped", "", 0, 0, "", 0, "", "", ())
    if block is not None and block.start:
        return nothing._replace(
            state=block.state, kind="block", start=block.start, size=max(block.size, 1)
        )
    low, high = context.statics.data
    if low <= address < high:
        start, size, name = variable_at(variables, address)
        if name:
            return nothing._replace(
                state="live", kind="variable", start=start, size=size, name=name
            )
    mappings = context.image.mappings
    i = bisect_right([m.start for m in mappings], address) - 1
    if i < 0 or address >= mappings[i].end:
        return nothing
    mapping = mappings[i]
    alive = context.live.alive(address)
    state = {True: "live", False: "freed", None: "not known"}[alive]
    why = ""
    if alive is None:
        why = context.live.heap.reason or "the stack pointers of the threads are not known"
    start, end = context.statics.program
    kind = "program" if start <= address < end else "file" if mapping.path else "memory"
    if context.live.is_stack(address):
        kind = "stack"
    size = mapping.end - mapping.start
    return nothing._replace(
        state=state, kind=kind, start=mapping.start, size=size, name=mapping.path, why=why
    )


def _word(
    context: Context,
    objects: Mapping[int, Obj],
    enclosing: Enclosing,
    address: int,
    value: int,
    variables: Sequence[tuple[int, int, str]],
) -> Word:
    alive = context.live.alive(address)
    low, high = context.statics.data
    if low <= address < high:
        start, _, name = variable_at(variables, address)
        offset = address - start if name else 0
        return Word(address, value, alive, "variable", 0, offset, name)
    home = enclosing(address)
    if home and alive is not False:
        field = field_of(context, objects[home].type, address - home)
        return Word(address, value, alive, "object", home, address - home, field)
    block = context.live.heap.at(address)
    if block is not None and block.start:
        return Word(address, value, alive, "block", block.start, address - block.start, "")
    return Word(address, value, alive, "memory", 0, 0, "")
