"""Sure of one cycle
-----------------

Whether a device that left nothing may leave memory with every cycle, told by counts of blocks:
a few more cycles, of which only the end is read.
"""

from __future__ import annotations

from ..audit.outcome import Outcome
from ..errors import MonitorError
from ..hotplug.kinds import Recipe
from ..hotplug.unplug import more_cycles
from .cycle import Hunt
from .hunted import Hunted
from .own_vm import OwnVm

__all__ = ["Sure"]

# So many cycles between two counts, and so many times at most.
_CYCLES, _ROUNDS = 2, 3


class Sure:
    """What is known of the number of live blocks of one VM."""

    def __init__(self) -> None:
        self._vm: OwnVm | None = None
        self._blocks = 0

    def doubts(self, hunted: Hunted, hunt: Hunt, vm: OwnVm, recipe: Recipe) -> bool:
        """Whether only more cycles that are judged tell what comes with each.

        :param hunted: the last cycle in ``vm``.
        """
        before = self._blocks if self._vm is vm else 0
        self._vm, self._blocks = vm, vm.count()
        if hunted.outcome != Outcome.CLEAN or hunted.cycle.not_released or not self._blocks:
            return False
        if self._blocks <= before:
            return False  # it left as much as it found
        live = 0
        for _ in range(_ROUNDS):
            try:
                done = vm.drive(lambda monitor: more_cycles(monitor, recipe, "more", _CYCLES))
            except MonitorError:
                return True  # what comes of a second cycle is a result as well
            book = hunt.look()
            after, self._blocks = self._blocks, vm.count()
            if done < _CYCLES or self._blocks < after + _CYCLES:
                return False  # what came once is none of what comes with every cycle
            # Some go by themselves, and a pool keeps others: counted exactly, which takes longer.
            blocks = vm.blocks(book.index.snapshot)
            exact = len(blocks.live) - blocks.coroutines() if blocks is not None else 0
            before, live = live, exact
            if live < before + _CYCLES:
                return False
        return True
