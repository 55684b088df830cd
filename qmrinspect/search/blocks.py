"""What blocks are
--------------

Blocks of malloc that stay and are no objects: grouped under those that lead to the others,
with what is known of each, and from where they are reached.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Callable, NamedTuple

from ..index import Index
from ..records.context import Context
from ..records.enclosing import Enclosing
from ..records.scan import find_into
from ..snapshot import Snapshot
from ..target.image import Unreadable
from ..text import printable
from .functions import Code
from .pointers import variable_at

__all__ = ["Blocks", "Group", "Kind"]

#: Size in bytes, and what the first words are.
Kind = tuple[int, ...]

#: (address, size in bytes, name) of the program's, sorted.
Variables = Sequence[tuple[int, int, str]]
NameOf = Callable[[Sequence[int]], Sequence[str]]

# What is said of a group: so many texts and functions, of texts so long.
_SHOWN, _TEXT_MIN, _TEXT_MAX = 2, 4, 120
# From a block up to a variable, through so many others.
_LEVELS, _WIDTH = 6, 64
_WORDS_MAX = 4096
# QEMUBH: its sizes, the word with its flags, and BH_PENDING | BH_DELETED.
_HALF, _FLAGS, _GONE = (40, 56, 72), 5, 1 | 4
# tcache_perthread_struct (malloc/malloc.c): its size, and how many bins it counts, 16 bits each.
_CACHES, _CACHED_MAX = {648: 64, 760: 76}, 127
# Sizes of a coroutine, and of its stack (include/qemu/coroutine_int.h COROUTINE_STACK_SIZE).
_COROUTINE, _STACK, _PAGE = (240, 480), 1 << 20, 4096
# So many first words tell one sort of blocks from another.
_TELLING = 6


class Group(NamedTuple):
    """Blocks that one of them leads to.

    :param blocks: how many, and how many ``bytes``.
    :param root: the one that leads to the others.
    :param what: what is known of them, empty for nothing.
    :param reached: what leads to them, empty when nothing does.
    """

    blocks: int
    bytes: int
    root: int
    what: str
    reached: str

    @property
    def text(self) -> str:
        """What it is, in a sentence."""
        count = f"{self.blocks} block{'s' * (self.blocks != 1)}, {self.bytes} bytes a cycle"
        what = self.what or "nothing known begins there"
        where = f"in {self.reached}" if self.reached else "which nothing points to"
        return f"{count}: {what}{' ' if self.reached else ', '}{where}"


class Blocks:
    """The live blocks of one reading.

    :param snapshot: what was read.
    :param variables: gives them where one is met.
    :param name_of: names functions.
    """

    def __init__(
        self,
        context: Context,
        snapshot: Snapshot,
        variables: Callable[[], Variables],
        name_of: NameOf,
    ) -> None:
        self._context, self._snapshot, self._variables = context, snapshot, variables
        self._name_of = name_of
        self._code = Code(context.image.mappings, context.statics.program)

    @cached_property
    def live(self) -> dict[int, int]:
        """Size in bytes by where each live block begins; empty when that is not known."""
        live = {b.start: b.size for b in self._context.live.heap.blocks() if b.state == "live"}
        # Of the size of a bottom half there are many; what is transient counts as gone.
        halves = [at for at, size in live.items() if size in _HALF and self._ends(at)]
        # malloc's own, of each thread.
        caches = [at for at, size in live.items() if size in _CACHES and self._is_cache(at, size)]
        for start in (*halves, *caches):
            del live[start]
        return live

    def sizes(self) -> dict[int, int]:
        """Return the size of each live block, those included that end by themselves."""
        return self._context.live.heap.sizes()

    @cached_property
    def _index(self) -> Index:
        return Index(self._snapshot)

    @cached_property
    def _starts(self) -> list[int]:
        return sorted(self._snapshot.objects)

    @cached_property
    def _home(self) -> Enclosing:
        return self._context.enclosing(self._snapshot.objects)

    def _ends(self, start: int) -> bool:
        """Whether a block is a bottom half (util/async.c) that was deleted.

        It is freed when the main loop polls, which nothing makes it do on an idle machine.
        """
        try:
            words = self._context.image.words(start, _FLAGS + 1)
        except Unreadable:
            return False
        if words[_FLAGS] & _GONE != _GONE or words[_FLAGS] & 0xFFE0:
            return False
        constant = any(low <= words[1] < high for low, high in self._code.all)
        return constant and self._code.has(words[2])

    def _is_cache(self, start: int, size: int) -> bool:
        """Whether a block is what malloc knows a thread's free chunks by: counts, then lists."""
        bins = _CACHES[size]
        try:
            words = self._context.image.words(start, bins // 4 + bins)
        except Unreadable:
            return False
        counts, heads = words[: bins // 4], [word for word in words[bins // 4 :] if word]
        few = all(c >> shift & 0xFFFF <= _CACHED_MAX for c in counts for shift in (0, 16, 32, 48))
        heap = self._context.live.heap
        return few and bool(heads) and all(heap.freed(head) for head in heads)

    def tally(self) -> Counter[int]:
        """Return how many blocks there are of each size, without coroutines.

        QEMU keeps coroutines that it has used.
        """
        return Counter(n for start, n in self.live.items() if not self._is_coroutine(start, n))

    def _is_coroutine(self, start: int, size: int) -> bool:
        # CoroutineUContext (util/coroutine-ucontext.c): a stack, and how large it is.
        if not _COROUTINE[0] <= size <= _COROUTINE[1]:
            return False
        words = self._words(start, _COROUTINE[0] // 8)
        return any(self._is_stack(*pair) for pair in zip(words, words[1:]))

    def _is_stack(self, start: int, size: int) -> bool:
        # Its first page is the guard (util/oslib-posix.c qemu_alloc_stack).
        return _STACK <= size <= _STACK + _PAGE and self._context.live.is_stack(start + _PAGE)

    def kinds(self) -> dict[int, Kind]:
        """Return what sort each live block is of, by where it begins, without coroutines.

        Two blocks of one sort have the same size, and in their first words the same constants
        of the program where these are, and pointers to heaps where those are.
        """
        spans = self._context.live.heap.spans()
        low, high = (spans[0][0], spans[-1][1]) if spans else (0, 0)
        main, end = spans[0] if spans else (0, 0)
        # Mappings do not overlap: behind an odd number of ends lies one of them.
        ends = sorted(end for span in self._code.all for end in span)
        least = min((low, *ends[:1]))
        out: dict[int, Kind] = {}
        for start, size in self.live.items():
            if self._is_coroutine(start, size):
                continue
            words: list[int] = []
            for word in self._words(start, _TELLING):
                # Most words are numbers, or lead to the main heap.
                if word < least:
                    words.append(2 if word else 0)
                elif main <= word < end:
                    words.append(1)
                elif bisect_right(ends, word) % 2:
                    words.append(word)
                elif low <= word < high:
                    words.append(1)
                else:
                    words.append(2)
            out[start] = (size, *words)
        return out

    def groups(self, born: Collection[int], others: Collection[int]) -> list[Group]:
        """Tell what blocks are.

        :param born: those that one cycle left.
        :param others: those that the other cycles left, which may lead to them.
        """
        every = sorted({*born, *others} & self.live.keys())
        mine = set(born) & self.live.keys()
        leads = {start: self._led_to(every, start) for start in every}
        led: dict[int, set[int]] = {start: set() for start in every}
        for start, targets in leads.items():
            for target in targets:
                led[target].add(start)
        out = []
        left = set(mine)
        while left:
            heads = [start for start in left if not led[start] & left]
            # In a circle the largest one leads.
            for head in sorted(heads) or [max(left, key=lambda at: (self.live[at], at))]:
                members = self._below(head, leads, left)
                left -= members
                if members:
                    out.append(self._group(head, members, self._above(members, led)))
        return out

    def _led_to(self, every: Sequence[int], start: int) -> set[int]:
        out = set()
        for word in self._words(start):
            i = bisect_right(every, word) - 1
            if i >= 0 and word < every[i] + self.live[every[i]] and every[i] != start:
                out.add(every[i])
        return out

    def _below(self, head: int, leads: dict[int, set[int]], among: set[int]) -> set[int]:
        seen: set[int] = set()
        todo = [head]
        while todo:
            at = todo.pop()
            if at in among and at not in seen:
                seen.add(at)
                todo += leads[at]
        return seen

    def _above(self, members: set[int], led: dict[int, set[int]]) -> set[int]:
        seen: set[int] = set()
        todo = list(members)
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo += led[at]
        return seen

    def _group(self, head: int, members: set[int], above: set[int]) -> Group:
        size = sum(self.live[start] for start in members)
        return Group(len(members), size, head, self._what(head, members), self._reached(above))

    # What it is --------------------------------------------------------------------

    def _what(self, head: int, members: set[int]) -> str:
        objects = self._index.snapshot.objects
        for start in (head, *sorted(members)):
            i = bisect_right(self._starts, start + self.live[start] - 1) - 1
            if i >= 0 and self._starts[i] >= start:
                address = self._starts[i]
                label = self._index.label(address)
                kind = printable(objects[address].type)
                return label if kind in label else f"{kind} {label}"
        for start in (head, *sorted(members)):
            error = self._error(start)
            if error:
                return f"Error '{error}'"
        # A function's table of names is read once for each file.
        words = (word for start in sorted(members) for word in self._words(start))
        code = dict.fromkeys(word for word in words if self._code.has(word))
        texts = [t for t in (self._text(start) for start in sorted(members)) if t]
        parts = []
        if code:
            names = self._name_of(list(code)[:_SHOWN])
            parts.append("with the function " + ", ".join(map(printable, names)))
        if texts:
            parts.append("with " + ", ".join(f'"{t}"' for t in texts[:_SHOWN]))
        return "a block " + " and ".join(parts) if parts else ""

    def _error(self, start: int) -> str:
        """Error (util/error.c): msg, err_class, and two constants, the file and the function."""
        words = self._words(start)
        if len(words) < 4 or words[0] not in self.live:
            return ""
        if not all(any(low <= word < high for low, high in self._code.all) for word in words[2:4]):
            return ""
        return self._text(words[0])

    def _text(self, start: int) -> str:
        raw = self._bytes(start).partition(b"\0")[0][:_TEXT_MAX]
        if len(raw) < _TEXT_MIN or not all(32 <= byte < 127 for byte in raw):
            return ""
        return printable(raw.decode("ascii"))

    # From where --------------------------------------------------------------------

    def _reached(self, blocks: Iterable[int]) -> str:
        """Return what leads to blocks: a variable or an object; a list on the way is passed."""
        seen = set(blocks)
        level = seen
        for _ in range(_LEVELS):
            ranges = sorted((start, start + self.live[start]) for start in level)
            above: set[int] = set()
            for word, _ in find_into(self._context.image, ranges):
                found = self._place(word, above, seen)
                if found:
                    return found
            level = set(sorted(above - seen)[:_WIDTH])
            seen |= level
            if not level:
                break
        return "a block that was not followed further" if level else ""

    def _place(self, word: int, above: set[int], seen: set[int]) -> str:
        low, high = self._context.statics.data
        if low <= word < high:
            name = variable_at(self._variables(), word)[2]
            return printable(name) if name else "a variable of QEMU"
        block = self._context.live.heap.at(word)
        if block is None or block.state != "live" or block.start in seen:
            return ""
        home = self._home(word)
        if home:
            return self._index.label(home)
        if self._context.live.alive(word) and block.start in self.live:
            above.add(block.start)
        return ""

    # Small things ------------------------------------------------------------------

    def _bytes(self, start: int, most: int = _WORDS_MAX) -> bytes:
        size = min(self.live[start], 8 * most)
        try:
            return self._context.image.read(start, size - size % 8)
        except Unreadable:
            return b""

    def _words(self, start: int, most: int = _WORDS_MAX) -> Sequence[int]:
        return memoryview(self._bytes(start, most)).cast("Q").tolist()
