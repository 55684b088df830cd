"""Words of one image
------------------

What shapes are told by: single words, the blocks of malloc around them, and what is code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Callable

from ..heap.model import FREED, LIVE, Block
from ..records.context import LIST_MAX, Context
from ..records.scan import aligned, find_words
from ..snapshot import Obj
from ..target.image import Unreadable
from ..tuples import NamedTuple
from .functions import Code

__all__ = ["Callback", "Words"]

# The words before an argument, in bytes, and how many in all the shapes words at most often.
_BEFORE, _AROUND = 64, 16
# The block of a GSList, and what malloc adds to a size at most.
_GSLIST, _ROUNDED = 24, 32


class Callback(NamedTuple):
    """A structure that will be called with a pointer.

    :param kind: see :data:`SHAPES`.
    :param address: of the structure.
    :param function: what will be called; 0 for a description (``VMStateDescription``).
    """

    kind: str
    address: int
    function: int


class Words:
    """Reads single words; what cannot be read is 0."""

    def __init__(self, context: Context, code: Code, objects: Mapping[int, Obj]) -> None:
        self._context, self.code, self._objects = context, code, objects
        self._home = context.enclosing(objects)
        self._near: dict[int, int] = {}
        self._lists: set[int] | None = None

    def around(self, word: int) -> None:
        """Read the words around one at once, of which most will be asked for."""
        start = word - _BEFORE
        try:
            words = self._context.image.words(start, _AROUND)
        except Unreadable:
            words = ()
        self._near = {start + 8 * i: value for i, value in enumerate(words)}

    def __call__(self, address: int) -> int:
        near = self._near.get(address)
        if near is not None:
            return near
        try:
            return self._context.image.u64(address) if address else 0
        except Unreadable:
            return 0

    def in_data(self, address: int) -> bool:
        """Whether an address is a variable of the program."""
        low, high = self._context.statics.data
        return low <= address < high

    def constant(self, address: int) -> bool:
        """Whether an address is in the program or in a module."""
        return any(low <= address < high for low, high in self.code.all)

    def sure(self, address: int) -> bool:
        """Whether an address is in a variable or in an object.

        QEMU clears an object's memory, while another block may still have a whole structure
        of earlier.
        """
        return self.in_data(address) or self.is_object(address)

    def closes(self, before: int, start: int) -> bool:
        """Whether the word at ``before``, which was not freed, leads to ``start``."""
        if not before or self(before) != start:
            return False
        block = self.block(before)
        return block is None or block.state != FREED

    def ends(self, start: int, link: int, head: Callable[[int], bool] | None = None) -> bool:
        """Whether a list leads from its head to an element, and back by each element's link.

        Links that close in what was left over lead to no head.

        :param link: of the element that begins at ``start``: a QLIST's or a QTAILQ's.
        :param head: says whether a head is at an address; one in a variable or an object is.
        """
        depth = link - start
        if not self.closes(self(link + 8), start):
            return False
        for _ in range(LIST_MAX):
            before = self(link + 8)
            if not before or self(before) != start:
                return False
            if self.sure(before) or (head is not None and head(before)):
                return True
            start, link = before - depth, before
        return False

    # Blocks ------------------------------------------------------------------------

    def block(self, address: int) -> Block | None:
        """Return the block that has an address, None where none does or that is not known."""
        block = self._context.live.heap.at(address) if address else None
        return block if block is not None and block.start else None

    def start(self, address: int) -> int:
        """Return where the block begins that has an address, 0 for none."""
        block = self.block(address)
        return block.start if block is not None else 0

    def end(self, address: int) -> int:
        """Return where that block ends, 0 for none."""
        block = self.block(address)
        return block.start + block.size if block is not None else 0

    def size(self, start: int) -> int:
        """Return the size of the live block that begins there, 0 for none."""
        block = self.block(start)
        live = block is not None and block.start == start and block.state == LIVE
        return block.size if block is not None and live else 0

    def has_room(self, start: int, least: int) -> bool:
        """Whether a live block begins at an address, and is as large as a structure or little more.

        What malloc adds, and what later releases added to a structure, make it larger.
        """
        return least <= self.size(start) <= 2 * least + _ROUNDED

    def fits(self, struct: str, start: int, rounded: int) -> bool:
        """Whether a block is as large as a structure, which the layout knows."""
        row = self._context.layout.structs.get(struct)
        return row is not None and row.size <= self.size(start) <= row.size + rounded

    def is_object(self, address: int) -> bool:
        """Whether an address is in an object."""
        return bool(self._home(address))

    def is_a(self, type: str, address: int) -> bool:
        """Whether an object of a type begins at an address."""
        obj = self._objects.get(address)
        return obj is not None and self._context.is_a(obj.type, type)

    def leads(self, start: int, address: int) -> bool:
        """Whether a word of the object that begins at ``start`` leads to an address."""
        obj = self._objects.get(start)
        size = self._context.types[obj.type].size if obj is not None else 0
        return any(self.where(start, start + size, address))

    def is_of(self, type: str, address: int) -> bool:
        """Whether an object of a type points to an address."""
        homes = [self._home(word) for word, _ in find_words(self._context.image, [address])]
        return any(home and self._context.is_a(self._objects[home].type, type) for home in homes)

    def where(self, start: int, end: int, value: int) -> Iterator[int]:
        """Yield where between two addresses a word has a value, nowhere if one cannot be read."""
        try:
            raw = self._context.image.read(start, max(end - start, 0) // 8 * 8)
        except Unreadable:
            return
        yield from (start + at for at in aligned(raw, value))

    def listed(self) -> Set[int]:
        """Return the nodes of each GSList that begins in a variable, and ends."""
        if self._lists is None:
            self._lists = set()
            for _, at in self._context.from_data():
                nodes: set[int] = set()
                seen = self._lists
                while at not in nodes and at not in seen and self.size(at) == _GSLIST:
                    nodes.add(at)
                    # What lies behind a text is left over.
                    at = self(at + 8) if self._context.live.alive(at + 8) else at
                # Of what is no list the second word may lead anywhere.
                if not at or at in seen:
                    seen |= nodes
        return self._lists
