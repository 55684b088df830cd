"""Memory that stays with every cycle
----------------------------------

Counts the blocks of malloc after each cycle, and tells what stays with every one from what
came once.  What a pool keeps is bounded: many more cycles tell.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Callable, NamedTuple

from ..documents import MemoryJson
from .blocks import Blocks, Group, Kind

__all__ = ["CYCLES", "GROWING", "MORE", "UNREACHABLE", "Memory", "MemoryLeak"]

#: Causes of a leak of memory.
UNREACHABLE, GROWING = "unreachable-memory", "growing-memory"
#: So many cycles tell, of which the first ones make what is made once.
CYCLES, _WARM = 6, 2
#: So many more tell a pool from a leak: QEMU's own are bounded by fewer.
MORE = 200
_STEADY, _HALF = 0.95, 0.5
# So often as many cycles more, where it is not decided.
_BATCHES = 2
_SHOWN = 4
# Bytes that malloc gives more where less would not be a block (MINSIZE, malloc/malloc.c).
_ROUNDED = 16


class MemoryLeak(NamedTuple):
    """What stays with every cycle; ``cause`` in the contract's words.

    :param of_a_sort: whether one sort of block told it; otherwise many more cycles must, too.
    """

    cause: str
    blocks: int
    bytes: int
    groups: tuple[Group, ...]
    of_a_sort: bool = True

    @property
    def is_sure(self) -> bool:
        """Whether no more cycles are needed: no pool has what nothing leads to."""
        return self.cause == UNREACHABLE and self.of_a_sort

    @property
    def text(self) -> str:
        """What stays, in a sentence."""
        said = "; ".join(group.text for group in self.groups[:_SHOWN])
        more = f"; and {len(self.groups) - _SHOWN} more" if len(self.groups) > _SHOWN else ""
        return said + more

    def json(self) -> MemoryJson:
        """Return it as a row has it."""
        return {
            "cause": self.cause,
            "blocks": self.blocks,
            "bytes": self.bytes,
            "groups": [
                {
                    "blocks": group.blocks,
                    "bytes": group.bytes,
                    "head": f"{group.root:#x}",
                    "what": group.what,
                    "reached": group.reached,
                    "text": group.text,
                }
                for group in self.groups
            ],
        }


class Memory:
    """The live blocks of one VM before the first cycle and after each."""

    def __init__(self) -> None:
        self.cycles = -1
        self._kept: deque[Blocks] = deque(maxlen=CYCLES - _WARM + 1)
        self._lost = False

    def add(self, blocks: Blocks | None) -> None:
        """Count after a cycle; None, or none, is of a VM whose heap is not known."""
        if blocks is None or not blocks.live:
            self._lost = bool(self._kept)
            self._kept.clear()
            self.cycles = -1
            return
        self._kept.append(blocks)
        self.cycles += 1

    def _steps(self) -> list[int]:
        sizes = [len(blocks.live) for blocks in self._kept]
        return [after - before for before, after in zip(sizes, sizes[1:])]

    def undecided(self) -> bool:
        """Whether more cycles would tell: some left more or less than they found.

        A cycle of a sound device leaves as many blocks as it found, but for what something
        else happened to make or free.
        """
        if not self._kept:
            return self._lost
        return any(self._steps()) and not self.grows()

    def grows(self) -> bool:
        """Whether each of enough cycles did, after the first ones."""
        steps = self._steps()
        return self.cycles >= CYCLES and all(step > 0 for step in steps)

    def goes_on(
        self, leak: MemoryLeak, more: Callable[[int], Blocks | None], cycles: int = MORE
    ) -> bool | None:
        """Whether many more cycles leave as much each.

        :param leak: what was told so far; more may have come to stay in the first cycles.
        :param more: runs so many, and returns the blocks then, None where that went wrong.
        :return: None where it did.
        """
        before = self._kept[-1]
        for _ in range(_BATCHES):
            after = more(cycles)
            if after is None:
                return None
            share = self._share(leak, before, after, cycles)
            if share >= _STEADY or share < _HALF:
                return share >= _STEADY
            # What was there before the first cycle may have gone meanwhile, and a pool is full now.
            before = after
        return False

    def _share(self, leak: MemoryLeak, before: Blocks, after: Blocks, cycles: int) -> float:
        """Return how much of what is expected came, of all sorts or of one beside a pool."""
        least = min(leak.blocks, *self._steps())
        shares = [(len(after.live) - len(before.live)) / (cycles * least)]
        counts = [Counter(blocks.kinds().values()) for blocks in self._kept]
        last, now = Counter(before.kinds().values()), Counter(after.kinds().values())
        for kind in _growing(counts):
            each = (counts[-1][kind] - counts[0][kind]) / (len(counts) - 1)
            shares.append((now[kind] - last[kind]) / (cycles * each))
        return max(shares)

    def leak(self) -> MemoryLeak | None:
        """Tell what stays with every cycle, None when nothing does."""
        if not self.grows():
            return None
        kinds = [blocks.kinds() for blocks in self._kept]
        grown = _growing([Counter(kind.values()) for kind in kinds])
        # What is made anew with every cycle may be where it was: only the sorts that grow count.
        found = self._found(_born(kinds, grown))
        # A word that is left over may lead to what one cycle left: then another cycle tells.
        groups = next((groups for groups in found if _lost(groups)), None)
        of_a_sort = groups is not None
        if groups is None:
            # Behind a short text is what was left over, and malloc gives a bit more now and then:
            # a leak need not be of one sort.  Then only what nothing leads to counts.
            born = _born(kinds, None)
            usual = _of_most(self._found(born), len(born))
            groups = [group for some in (*usual[:1], *found[:1]) for group in some]
        if not groups:
            return None
        blocks = sum(group.blocks for group in groups)
        size = sum(group.bytes for group in groups)
        cause = UNREACHABLE if _lost(groups) else GROWING
        return MemoryLeak(cause, blocks, size, tuple(groups), of_a_sort)

    def _found(self, born: Sequence[set[int]]) -> list[list[Group]]:
        """Return what the cycles left, the last one's first, if that left something."""
        if not born or not born[-1]:
            return []
        return [self._left_by(born, k) for k in reversed(range(len(born))) if born[k]]

    def _left_by(self, born: Sequence[set[int]], k: int) -> list[Group]:
        """Return what one of the cycles left, what nothing leads to first."""
        others = set().union(*born[:k], *born[k + 1 :])
        groups = self._kept[-1].groups(born[k], others)
        return sorted(groups, key=lambda group: (bool(group.reached), -group.bytes))


def _born(kinds: Sequence[Mapping[int, Kind]], grown: Collection[Kind] | None) -> list[set[int]]:
    """Return which blocks each cycle made that stay; of the last one it is not known yet.

    :param grown: the sorts that count, None for all.
    """
    born = []
    for k in range(1, len(kinds) - 1):
        here, before = kinds[k], kinds[k - 1]
        new = {a for a, kind in here.items() if before.get(a) != kind}
        if grown is not None:
            new = {a for a in new if here[a] in grown}
        for later in kinds[k + 1 :]:
            new = {a for a in new if later.get(a) == here[a]}
        born.append(new)
    return born


def _of_most(found: Sequence[Sequence[Group]], cycles: int) -> list[list[Group]]:
    """Return of each cycle what nothing leads to and most cycles left the like of."""
    lost = [[group for group in groups if not group.reached] for groups in found]

    def often(group: Group) -> bool:
        return 2 * sum(any(_alike(group, other) for other in others) for others in lost) > cycles

    usual = [[group for group in groups if often(group)] for groups in lost]
    return [groups for groups in usual if groups]


def _alike(group: Group, other: Group) -> bool:
    """Whether two groups are of one size, but for what malloc gives more now and then."""
    most = _ROUNDED * group.blocks
    return group.blocks == other.blocks and abs(group.bytes - other.bytes) <= most


def _lost(groups: Sequence[Group]) -> bool:
    """Whether nothing leads to some of the blocks."""
    return any(not group.reached for group in groups)


def _growing(counts: Sequence[Mapping[Kind, int]]) -> set[Kind]:
    """Return the sorts of blocks of which there are more after every cycle."""
    pairs = list(zip(counts, counts[1:]))
    return {
        kind
        for kind in counts[-1]
        if all(after.get(kind, 0) > before.get(kind, 0) for before, after in pairs)
    }
