"""Who points to it
-----------------

Where no structure is known that holds an object, every word of writable memory
that points to it is a candidate.  These are shown apart from what is explained
and never counted: a pointer is not a reference.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Collection, Iterator, Mapping

from ..snapshot import Obj, Pointer
from .context import Context
from .scan import find_words

__all__ = ["find_pointers"]

# How far in front of a word its allocation may begin.
_CHUNK_MAX = 1 << 20


def find_pointers(
    context: Context, objects: Mapping[int, Obj], targets: Collection[int]
) -> Iterator[Pointer]:
    """Yield every word that points to one of ``targets``, with what contains it."""
    starts = sorted(objects)
    low, high = context.statics.data
    for word, target in find_words(context.image, targets):
        container, offset = 0, 0
        if low <= word < high:
            yield Pointer(target, word, 0, word - context.statics.program[0], "data")
            continue
        for start in reversed(starts[max(0, bisect_right(starts, word) - 4096) : bisect_right(starts, word)]):
            info = context.types.get(objects[start].type)
            if info is not None and word < start + info.size:
                container, offset = start, word - start
                break
        yield Pointer(target, word, container, offset, "object" if container else "memory")
