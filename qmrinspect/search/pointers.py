"""Who points to it
-----------------

Where no structure is known that holds an object, every word of writable memory
that points to it is a candidate.  These are shown apart from what is explained
and never counted: a pointer is not a reference.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

from ..records.context import Context
from ..records.scan import find_words
from ..snapshot import Obj, Pointer
from ..walk.validate import SIZED_TYPES

__all__ = ["field_of", "find_pointers", "type_functions", "variable_at"]

_FUNCTIONS = (
    "class_init class_base_init instance_init instance_post_init instance_finalize"
).split()
_RANK = {"object": 0, "variable": 1, "memory": 2}


def find_pointers(
    context: Context,
    objects: Mapping[int, Obj],
    targets: Collection[int],
    variables: Sequence[tuple[int, int, str]],
) -> list[Pointer]:
    """Return every word that points to one of ``targets``, the likeliest holders first.

    :param variables: (address, size in bytes, name) of the program's, sorted.
    """
    enclosing = context.enclosing(objects)
    low, high = context.statics.data
    out = []
    for word, target in find_words(context.image, targets):
        if low <= word < high:
            start, _, name = variable_at(variables, word)
            offset = word - start if name else 0
            out.append(Pointer(target, word, 0, offset, "variable", name))
            continue
        container = enclosing(word)
        if not container:
            out.append(Pointer(target, word, 0, 0, "memory", ""))
            continue
        offset = word - container
        field = field_of(context, objects[container].type, offset)
        out.append(Pointer(target, word, container, offset, "object", field))
    return sorted(out, key=lambda p: (p.target, _RANK[p.place], not p.field, p.address))


def type_functions(context: Context, name: str, base: int) -> list[int]:
    """Return the functions of a QOM type, or of the nearest ancestor that has some.

    :param base: load address of the program, which is subtracted.
    :return: none where the layout does not know where they are, or a module has them.
    """
    if not context.layout.has("TypeImpl", "class_init"):
        return []
    raw = {known[1]: known[0] for known in context.known.types.values()}
    unpack = context.layout.unpacker("TypeImpl", *_FUNCTIONS)
    low, high = context.statics.program
    for ancestor in context.chain(name):
        if ancestor in raw:
            found = [at - base for at in unpack(raw[ancestor]) if low <= at < high]
            if found:
                return found
    return []


def variable_at(variables: Sequence[tuple[int, int, str]], word: int) -> tuple[int, int, str]:
    """Return address, size and name of the variable that has a word; no name when none does."""
    i = bisect_right(variables, (word, 1 << 64, "")) - 1
    if i >= 0 and word < variables[i][0] + variables[i][1]:
        return variables[i]
    return 0, 0, ""


def field_of(context: Context, type_name: str, offset: int) -> str:
    """Return ``Struct.field`` where the layout knows what is at an offset of a type."""
    structs = {s for t, s in SIZED_TYPES.items() if t in context.chain(type_name)}
    size = context.types[type_name].size
    structs |= {s for s, row in context.layout.structs.items() if row.size == size}
    for struct in sorted(structs):
        row = context.layout.structs.get(struct)
        for field, (start, _size) in row.fields.items() if row else ():
            if start == offset:
                return f"{struct}.{field}"
    return ""
