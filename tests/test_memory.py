"""Memory that stays with every cycle, told from what is made anew or once."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from qmrinspect.search.blocks import Blocks, Group
from qmrinspect.search.memory import CYCLES, Memory, MemoryLeak

pytestmark = pytest.mark.unit


class FakeBlocks(Blocks):
    """Blocks by (where they begin, what sort they are).

    :param led: those that something leads to.
    """

    def __init__(self, sorts: dict[int, int], led: set[int]) -> None:
        self.led = led
        self.live = dict.fromkeys(sorts, 32)
        self._sorts = sorts

    def kinds(self) -> dict[int, tuple[int, ...]]:
        return {start: (32, sort) for start, sort in self._sorts.items()}

    def groups(self, born: Any, others: Any) -> list[Group]:
        reached = "a variable" if self.led & born else ""
        return [Group(len(born), 32 * len(born), min(born), "", reached)]


def remembered(*samples: dict[int, int], led: Collection[int] = ()) -> Memory:
    memory = Memory()
    for sorts in samples:
        memory.add(FakeBlocks(sorts, set(led)))
    return memory


def test_what_each_cycle_leaves_is_told_from_what_is_made_anew() -> None:
    # Sort 7 grows by one; sort 5 is made anew with every cycle, here or there.
    samples = [
        {1: 9, 100 + k % 2: 5, 102: 5, **{200 + i: 7 for i in range(k)}} for k in range(CYCLES + 1)
    ]
    leak = remembered(*samples).leak()
    assert leak is not None
    assert (leak.cause, leak.blocks, leak.bytes) == ("unreachable-memory", 1, 32)
    assert leak.of_a_sort
    assert (
        leak.text
        == "1 block, 32 bytes a cycle: nothing known begins there, which nothing points to"
    )


@pytest.mark.parametrize(("led", "found"), [(False, True), (True, False)])
def test_what_each_cycle_leaves_need_not_be_of_one_sort(led: bool, found: bool) -> None:
    """Behind a short text is what was left over, so that no sort grew, and nothing was said."""
    blocks = {200 + i: 20 + i for i in range(CYCLES)}
    samples = [{1: 9, 100 + k % 2: 5, **dict(list(blocks.items())[:k])} for k in range(CYCLES + 1)]
    leak = remembered(*samples, led=blocks if led else ()).leak()
    assert (leak is not None) == found
    if leak is not None:
        assert (leak.cause, leak.blocks) == ("unreachable-memory", 1)


class Apart(FakeBlocks):
    """Blocks by (where they begin, how many bytes they have), none of which leads to another."""

    def groups(self, born: Any, others: Any) -> list[Group]:
        return [Group(1, self._sorts[start], start, "", "") for start in sorted(born)]


def test_what_no_sort_tells_is_lost_beside_what_grows_in_a_list() -> None:
    """A timer of two sizes was left out, and the error in a list told as all that stays."""

    class Both(Apart):
        def groups(self, born: Any, others: Any) -> list[Group]:
            return [
                Group(1, self._sorts[at], at, "", "a list" if at < 200 else "")
                for at in sorted(born)
            ]

    memory = Memory()
    for k in range(CYCLES + 1):
        listed = {100 + i: 208 for i in range(k)}
        timers = {200 + i: 40 + 16 * (i % 2) for i in range(k)}
        memory.add(Both({1: 9, **listed, **timers}, set()))
    leak = memory.leak()
    assert leak is not None
    assert (leak.cause, leak.blocks) == ("unreachable-memory", 2)
    assert [group.reached for group in leak.groups] == ["", "a list"]
    assert not leak.of_a_sort


def test_what_came_with_one_cycle_alone_is_none_of_what_each_leaves() -> None:
    sizes = {200 + i: 24 + 16 * (i % 2) for i in range(CYCLES)}
    memory = Memory()
    for k in range(CYCLES + 1):
        once = {900: 648} if k >= CYCLES - 1 else {}
        memory.add(Apart({1: 9, **dict(list(sizes.items())[:k]), **once}, set()))
    leak = memory.leak()
    assert leak is not None
    assert leak.blocks == 1 and leak.bytes in (24, 40)
    memory = Memory()
    for k in range(CYCLES + 1):
        memory.add(Apart({200 + i: 1 << i for i in range(k)}, set()))
    assert memory.leak() is None  # each left another thing


def test_a_word_that_leads_to_one_of_many_makes_no_pool() -> None:
    samples = [dict.fromkeys(range(k), 7) for k in range(1, CYCLES + 2)]
    every = set(samples[-1])
    newest = max(samples[-2])
    causes = {len(led): remembered(*samples, led=led).leak() for led in ([], [newest], every)}
    assert {count: leak and leak.cause for count, leak in causes.items()} == {
        0: "unreachable-memory",
        1: "unreachable-memory",
        len(every): "growing-memory",
    }


def test_what_came_once_or_stops_is_no_leak() -> None:
    once = [{i: 1 for i in range(2 + (k > 0))} for k in range(CYCLES + 1)]
    assert remembered(*once).leak() is None
    pool = [{i: 1 for i in range(min(k, 4))} for k in range(CYCLES + 2)]
    assert remembered(*pool).leak() is None
    grows = [{i: 1 for i in range(k)} for k in range(1, CYCLES + 2)]
    assert remembered(*grows[:-1]).leak() is None  # too few cycles
    memory = remembered(*grows)
    leak = memory.leak()
    assert leak is not None
    assert goes_on(memory, leak, dict.fromkeys(range(CYCLES + 1 + 200), 1))
    pool = dict.fromkeys(range(CYCLES + 1 + 128), 1)
    assert goes_on(memory, leak, pool, pool) is False
    assert goes_on(memory, leak, None) is None
    memory.add(None)
    assert memory.leak() is None


def goes_on(memory: Memory, leak: MemoryLeak, *after: dict[int, int] | None) -> bool | None:
    """What 200 more cycles tell, and as many again; all that is given is asked for."""
    left = [None if blocks is None else FakeBlocks(blocks, set()) for blocks in after]
    told = memory.goes_on(leak, lambda cycles: left.pop(0), 200)
    assert not left
    return told


@pytest.mark.parametrize(("kept", "steady"), [(200, True), (128, False)])
def test_a_leak_grows_beside_a_pool(kept: int, steady: bool) -> None:
    def grown(leak: int, pool: int) -> dict[int, int]:
        return {**dict.fromkeys(range(leak), 1), **dict.fromkeys(range(-pool, 0), 2)}

    memory = remembered(*(grown(k, 2 * k) for k in range(1, CYCLES + 2)))
    leak = MemoryLeak("growing-memory", 3, 120, ())
    after = [grown(CYCLES + 1 + kept, 64)] * (1 if steady else 2)
    assert goes_on(memory, leak, *after) is steady


@pytest.mark.parametrize("kept", [200, 128])
def test_what_came_to_stay_beside_a_leak_of_no_sort_hides_it_not(kept: int) -> None:
    """virtio-9p-pci: two blocks a cycle for good, and a third one in the first cycles."""

    def grown(leak: int, pool: int) -> dict[int, int]:
        # Each is of a sort of its own.
        return {i: i for i in (*range(2 * leak), *range(-pool, 0))}

    memory = remembered(*(grown(k, k) for k in range(1, CYCLES + 2)))
    leak = MemoryLeak("unreachable-memory", 2, 688, (), of_a_sort=False)
    after = [grown(CYCLES + 1 + kept, CYCLES + 1 + 58)] * (1 if kept == 200 else 2)
    assert goes_on(memory, leak, *after) is (kept == 200)


def test_what_goes_meanwhile_hides_no_leak() -> None:
    """vhost-user-input-pci of 10.0: 370 blocks in 200 cycles, and 400 in the next ones."""
    memory = remembered(*({i: i for i in range(30 + 2 * k)} for k in range(1, CYCLES + 2)))
    leak = MemoryLeak("unreachable-memory", 2, 64, (), of_a_sort=False)
    here = 2 * (CYCLES + 1)
    assert goes_on(memory, leak, *({i: i for i in range(here + n)} for n in (400, 800)))
    assert not goes_on(memory, leak, {i: i for i in range(here + 180)})  # too few for another try


def test_a_coroutine_that_qemu_keeps_is_of_no_sort() -> None:
    words = {0x100: [0] * 11 + [0x700000, (1 << 20) + 4096] + [0] * 26, 0x300: [0] * 39}
    heap = SimpleNamespace(spans=list)
    live = SimpleNamespace(heap=heap, is_stack=lambda address: address == 0x701000)
    blocks = FakeBlocks({}, set())
    blocks.__dict__.update(
        live=dict.fromkeys(words, 312),
        _context=SimpleNamespace(live=live),
        _code=SimpleNamespace(all=[]),
        _words=lambda start, most: words[start][:most],
    )
    assert list(Blocks.kinds(blocks)) == [0x300]
    assert blocks.tally() == {312: 1}


def test_what_one_cycle_spoils_more_cycles_tell() -> None:
    def undecided(*sizes: int) -> bool:
        return remembered(*({i: 1 for i in range(size)} for size in sizes)).undecided()

    assert not undecided(9) and not undecided(9, 9)
    assert undecided(11, 10)  # two blocks of something else went, one came to stay
    assert undecided(9, 10)
    assert not undecided(*range(9, 9 + CYCLES + 1))
    assert undecided(*range(9, 9 + CYCLES), 8 + CYCLES - 1)
    memory = remembered({1: 1})
    memory.add(None)
    assert memory.undecided()  # the heap was not known this once
    never = Memory()
    never.add(None)
    assert not never.undecided()
