"""Live memory
-----------

Whether what a word says counts: what lies in a freed block, below a thread's stack pointer
or in the stack of a thread that has ended is left over from earlier.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..target.image import Image, Mapping, Unreadable
from .chunks import Walked
from .model import LIVE, NOT_KNOWN, Block, Heap

__all__ = ["Live"]

# Below its stack pointer a function may use so much (System V ABI, AMD64, 3.2.2).
_RED_ZONE = 128
# In front of a stack lie pages that cannot be accessed, far fewer than a heap reserves.
_GUARD_MAX = 1 << 20
# COROUTINE_STACK_SIZE (util/coroutine-ucontext.c), behind one page that is its guard.
_COROUTINE, _GUARD = 1 << 20, 4096
# Of larger blocks no text is looked for, bytes.
_TEXT_MAX = 120
# So far in front of an address a free chunk of earlier is looked for, bytes.
_CHUNK_MAX = 512


class Live:
    """What of a process's memory is in use.

    :param image: its writable memory.
    :param mappings: of the same instant, lowest first.
    :param stacks: the stack pointers of its threads, 0 for one that is not known; None where
        none is.
    :param walked: see :class:`Heap`.
    """

    def __init__(
        self,
        image: Image,
        mappings: Sequence[Mapping],
        stacks: Sequence[int] | None,
        walked: Walked | None = None,
    ) -> None:
        self.heap = Heap(image, mappings, walked)
        self._image = image
        self._mappings = mappings
        self._starts = [mapping.start for mapping in mappings]
        self._stacks = stacks
        self._unguarded = self._without_guard()
        self._coroutines: list[tuple[int, int]] | None = None

    def alive(self, address: int) -> bool | None:
        """Return whether the memory at an address is in use; None when that is not known."""
        block = self.heap.at(address)
        if block is not None and block.state != NOT_KNOWN:
            return block.state == LIVE and not self._behind_text(block, address)
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._mappings[i].end:
            return False if self._mappings else None
        if self._is_stack(i):
            return self._in_use(self._mappings[i], address)
        if block is not None and self._may_be_heap(self._mappings[i]):
            return None
        return True

    def in_old_chunk(self, address: int) -> bool:
        """Whether an address is in what a live block still has of a free chunk of earlier.

        That begins with its size and two pointers, one of them to the list of an arena, which
        no program has; nothing was written there since.  Too slow for every word.
        """
        block = self.heap.at(address)
        if block is None or block.state != LIVE:
            return False
        start = max(block.start, address - _CHUNK_MAX & ~7)
        try:
            words = self._image.words(start, (address - start) // 8)
        except Unreadable:
            return False
        for i, (size, *links) in enumerate(zip(words, words[1:], words[2:])):
            # Chunks begin at multiples of 16, a word before their size and its flags.
            at = start + 8 * i - 8
            is_size = at % 16 == 0 and size & 10 == 0 and size >= 32 and address < at + size
            if is_size and any(map(self.heap.in_arena, links)):
                return True
        return False

    def _behind_text(self, block: Block, address: int) -> bool:
        """Whether an address is in what malloc rounded a text's block up by.

        A text is told by its end, by a block that is as large as one of its length is, and by a
        beginning that is no address.
        """
        if block.size > _TEXT_MAX or address < block.start + 8:
            return False
        try:
            data = self._image.read(block.start, block.size)
        except Unreadable:
            return False
        text = data.partition(b"\0")[0]
        rounded = max(24, (len(text) + 1 + 23 & ~15) - 8)
        if not text or rounded != block.size or address < block.start + len(text) + 1:
            return False
        return all(32 <= byte < 127 for byte in text) and not self._is_mapped(data[:8])

    def _is_mapped(self, word: bytes) -> bool:
        address = int.from_bytes(word, "little")
        i = bisect_right(self._starts, address) - 1
        return i >= 0 and address < self._mappings[i].end

    def is_stack(self, address: int) -> bool:
        """Whether an address is in the stack of a thread or coroutine, used or not."""
        i = bisect_right(self._starts, address) - 1
        return i >= 0 and address < self._mappings[i].end and self._is_stack(i)

    def in_coroutine(self, address: int) -> bool:
        """Whether an address is in a coroutine's stack: what lies there was never allocated.

        What the kernel joined with another mapping is larger.
        """
        i = bisect_right(self._starts, address) - 1
        return self._is_coroutine(i) and address < self._mappings[i].end

    def coroutines(self) -> list[tuple[int, int]]:
        """Return (start, end) of the coroutines' stacks, lowest first."""
        if self._coroutines is None:
            rows = enumerate(self._mappings)
            self._coroutines = [(row.start, row.end) for i, row in rows if self._is_coroutine(i)]
        return self._coroutines

    def _is_coroutine(self, i: int) -> bool:
        if i < 1 or self._mappings[i].end - self._mappings[i].start != _COROUTINE:
            return False
        guard = self._mappings[i - 1]
        is_guard = guard.perms.startswith("---") and guard.end - guard.start == _GUARD
        return is_guard and guard.end == self._mappings[i].start and self._is_stack(i)

    def _is_stack(self, i: int) -> bool:
        mapping = self._mappings[i]
        if mapping.path.startswith("[stack"):
            return True
        if mapping.path:
            return False
        if mapping.end - mapping.start in self._unguarded and mapping.perms.startswith("rw"):
            return True
        if not i:
            return False
        below = self._mappings[i - 1]
        guard = not below.path and below.perms.startswith("---") and below.end == mapping.start
        return guard and below.end - below.start <= _GUARD_MAX

    def _without_guard(self) -> set[int]:
        """Return the sizes of threads' stacks whose guard is no mapping.

        glibc has one in the stack itself since 2.42 (``MADV_GUARD_INSTALL``).  A thread that has
        ended leaves its stack for another, as large as any.
        """
        sizes = set()
        for at in self._stacks or ():
            i = bisect_right(self._starts, at) - 1
            if i >= 0 and at < self._mappings[i].end and not self._mappings[i].path:
                sizes.add(self._mappings[i].end - self._mappings[i].start)
        return sizes

    def _in_use(self, mapping: Mapping, address: int) -> bool | None:
        if self._stacks is None:
            return None
        inside = [at for at in self._stacks if mapping.start <= at < mapping.end]
        if not inside and 0 in self._stacks:
            return None
        return any(at - _RED_ZONE <= address for at in inside)

    def _may_be_heap(self, mapping: Mapping) -> bool:
        return not mapping.path or mapping.path == "[heap]" or mapping.path.startswith("[anon")
