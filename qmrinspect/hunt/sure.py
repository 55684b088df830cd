"""Sure of one cycle
-----------------

Whether a device that left nothing may leave memory with every cycle, told by counts of blocks:
a few more cycles, of which only the end is read.
"""

from __future__ import annotations

from collections import Counter
from typing import Callable

from ..errors import MonitorError, ReadingError, TargetError
from ..hotplug.kinds import Recipe
from ..hotplug.unplug import more_cycles
from ..snapshot import Snapshot
from .cycle import Hunt
from .own_vm import OwnVm

__all__ = ["BETWEEN", "is_sure", "may_grow", "nothing_grows"]

# So many cycles between two counts, and so many times at most.
BETWEEN, _ROUNDS = 2, 3
# So many blocks that something else freed meanwhile hide no leak.
_STRAY = 1


def is_sure(hunt: Hunt, vm: OwnVm, recipe: Recipe) -> bool | None:
    """Whether one cycle is enough; otherwise cycles that are judged tell what comes with each.

    :param recipe: of the device that a cycle of ``hunt`` in ``vm`` finalized.
    :return: None where the live blocks of ``vm`` are not known.
    """

    def again() -> bool:
        return vm.drive(lambda monitor: more_cycles(monitor, recipe, "more", BETWEEN)) == BETWEEN

    try:
        return nothing_grows(vm, again, lambda: hunt.take_reading().index.snapshot)
    except MonitorError:
        return False  # what comes of a second cycle is a result as well
    except (ReadingError, TargetError):
        if not vm.death():
            raise
        return False  # it died of one, and was read too late


def nothing_grows(
    vm: OwnVm, again: Callable[[], bool], read: Callable[[], Snapshot], by_size: bool = True
) -> bool | None:
    """Whether what is done again and again leaves no more blocks each time.

    :param again: does it :data:`BETWEEN` times, and says whether it could.
    :param read: takes a reading of ``vm``; the last one is of when it was done the first time.
    :param by_size: as of :func:`may_grow`.
    :return: None where the live blocks of ``vm`` are not known.
    """
    first = _tally(vm, read)
    if first is None:
        return None
    exact: list[Counter[int]] = []
    for number in range(1, _ROUNDS + 1):
        done, snapshot = again(), read()
        last = _tally(vm, read)
        if last is None:
            return None
        # What came once is none of what comes with every cycle.
        if not done or not may_grow(first, last, number, by_size):
            return True
        # Some go by themselves, and a pool keeps others: counted exactly, which takes longer.
        blocks = vm.blocks(snapshot)
        if blocks is None:
            return None
        exact.append(blocks.tally())
        if not may_grow(exact[0], exact[-1], number - 1, by_size):
            return True
    return False


def _tally(vm: OwnVm, read: Callable[[], Snapshot]) -> Counter[int] | None:
    """Return the live blocks by size, None for not known: a single reading may not know it."""
    known = vm.tally()
    if known is None:
        read()
        known = vm.tally()
    return known


def may_grow(first: Counter[int], last: Counter[int], rounds: int, by_size: bool = True) -> bool:
    """Whether every cycle of so many rounds may have left a block.

    What is freed meanwhile hides none of another size, and what has another size with each cycle
    makes all of them more.

    :param first: how many blocks there were of each size.
    :param last: how many there are.
    :param by_size: whether more of one size are enough; where much is done each time, malloc gives
        some of it 16 bytes more or less.
    """
    least = rounds * BETWEEN
    if sum(last.values()) >= sum(first.values()) + least - _STRAY:
        return True
    return by_size and any(count >= first[size] + least for size, count in last.items())
