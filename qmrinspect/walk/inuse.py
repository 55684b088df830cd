"""Words that count
----------------

What memory says that nobody uses any more is left over from earlier.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from ..records.context import Context
from ..snapshot import Obj, Unknown

__all__ = ["Pointed", "leave_out_freed"]


def leave_out_freed(context: Context, objects: dict[int, Obj]) -> None:
    """Leave out irqs that went with the memory they were embedded in, and look as they did.

    Nothing finalizes what qemu_init_irq made (hw/core/irq.c, 10.0), so that it keeps a count and
    a property table.
    """
    home = context.enclosing(objects)
    gone = []
    for address, obj in objects.items():
        if obj.type == "irq" and not obj.heap and not obj.parent:
            outer = address
            # They come in arrays, too.
            while outer and objects[outer].type == "irq":
                outer = home(outer - 1)
            # What is in an object is as live as that, so that the heap need not be walked for it.
            if not outer and context.live.heap.freed(address):
                gone.append(address)
    for address in gone:
        del objects[address]


class Pointed:
    """Objects to which a word of live memory points, one word for each.

    What lies in a variable or in an object of the tree is live, so that the heap need not be
    walked for it.
    """

    def __init__(self, context: Context, objects: Mapping[int, Obj]) -> None:
        self._context, self._objects = context, objects
        self._home = context.enclosing(objects)
        self._found: dict[int, int] = {}
        self._others: dict[int, list[int]] = defaultdict(list)

    def see(self, word: int, target: int) -> None:
        """Take note of a word that points to an object."""
        if target in self._found:
            return
        low, high = self._context.statics.data
        home = self._home(word)
        if low <= word < high or (home != target and home and self._objects[home].parent):
            self._found[target] = word
        elif home != target:
            self._others[target].append(word)

    def all(self) -> Iterator[tuple[int, int]]:
        """Yield (word, object) once each word has been seen."""
        for target, words in self._others.items():
            if target not in self._found:
                word = next((word for word in words if self._alive(word)), 0)
                if word:
                    self._found[target] = word
        for target, word in self._found.items():
            yield word, target

    def _alive(self, word: int) -> bool:
        """Whether a word counts; where that is not known it does, and that is told."""
        context = self._context
        alive = context.live.alive(word)
        if alive is None:
            why = context.live.heap.reason or "the stack pointers of the threads are not known"
            unknown = Unknown("liveness", why)
            if unknown not in context.unknown:
                context.unknown.append(unknown)
        return alive is not False and not context.live.in_old_chunk(word)
