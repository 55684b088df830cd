"""What stays with every cycle
---------------------------

The verdict on a device that was finalized, and left something behind with every cycle.
"""

from __future__ import annotations

from typing import Callable, Optional

from ..audit.growth import Growth
from ..audit.outcome import Outcome
from ..errors import MonitorError
from ..hotplug.kinds import Recipe
from ..search.blocks import Blocks
from ..search.memory import CYCLES, MORE, Memory
from .hunted import Hunted

__all__ = ["Stays"]

More = Callable[[Recipe, int], tuple[int, Optional[Blocks]]]

# Outcomes after which no more cycles are possible.
_ENDS = (Outcome.CRASH, Outcome.HANG, Outcome.REFUSED, Outcome.NOT_ACKED)
_NOT_COUNTED = "its memory was not counted: the heap of this QEMU is not known"


class Stays:
    """Adds up what comes with each cycle of one device.

    :param cycles: how many are wanted.
    """

    def __init__(self, cycles: int) -> None:
        #: How many it takes; more than were wanted, where these cannot tell a leak from a pool.
        self.cycles = cycles
        #: The last cycle, and whether another one is wanted.
        self.last: Hunted | None = None
        self.goes_on = True
        self._number = 0
        self._growth, self._memory = Growth(), Memory()

    def add(self, hunted: Hunted) -> Hunted | None:
        """Add a cycle; return the one before it, where that said something else."""
        before, after = self.last if self._number else None, hunted.after
        self._number += 1
        if hunted.enough is None:
            hunted = hunted._replace(note=_NOT_COUNTED)
        self.last = hunted = hunted._replace(number=self._number)
        if hunted.enough is False:
            # What comes with each is counted from the next one on.
            self.cycles, self._number = CYCLES + 1, 0
            return None
        if self.cycles > 1 and after is not None:
            self._memory.add(hunted.blocks)
            more = self._number == self.cycles and hunted.outcome == Outcome.CLEAN
            if more and self._memory.undecided() and self._number <= 2 * CYCLES:
                self.cycles = max(self.cycles + 1, CYCLES + 1)
        if self._number == 1 and hunted.books:
            self._growth.begin(hunted.books[0])
        if after is not None:
            self._growth.add(after)
        self.goes_on = self._number < self.cycles and hunted.outcome not in _ENDS
        return before if before is not None and _gist(before) != _gist(hunted) else None

    def judged(self, more: More) -> Hunted:
        """Return the last cycle with what comes with each.

        :param more: as of :meth:`~qmrinspect.hunt.job_vm.JobVm.more`.
        """
        hunted = self.last
        assert hunted is not None
        if self._growth.cycles > 1:
            hunted = hunted._replace(growth=self._growth.summary())
        grown = self._growth.stays() if hunted.outcome == Outcome.CLEAN else None
        if grown is None:
            hunted = self._with_memory(hunted, more)
            if hunted.memory is not None:
                grown = hunted.memory.cause, f"memory stays: {hunted.memory.text}"
        if grown is None or hunted.outcome != Outcome.CLEAN:
            return hunted
        # It balances, or is no object, and nobody will ever take it back.
        outcome, (cause, text) = Outcome.PARTIAL_LEAK, grown
        text = f"{hunted.recipe.driver} was finalized, and {text}"
        judgement = hunted.judgement._replace(outcome=outcome, cause=cause, text=text)
        return hunted._replace(outcome=outcome, judgement=judgement, stays=cause)

    def _with_memory(self, hunted: Hunted, more: More) -> Hunted:
        """Tell what memory stays with every cycle; many more cycles tell it from a pool."""
        leak, done = self._memory.leak(), 0
        if leak is None:
            return hunted
        # Of others, and of a VM that something of it still holds, it is taken as it is.
        if leak.is_sure or hunted.outcome != Outcome.CLEAN or hunted.cycle.not_released:
            return hunted._replace(memory=leak)

        def blocks(cycles: int) -> Blocks | None:
            nonlocal done
            done, found = more(hunted.recipe, cycles)
            return found

        try:
            goes_on = self._memory.goes_on(leak, blocks)
        except MonitorError as error:
            said = f"in {MORE} more cycles, {error.text}"
        else:
            if goes_on is not None:
                return hunted._replace(memory=leak if goes_on else None)
            said = f"{done} of {MORE} more cycles went well"
        return hunted._replace(note=f"its memory is not judged: {said}")


def _gist(hunted: Hunted) -> tuple[object, ...]:
    judgement = hunted.judgement
    causes = tuple(dict.fromkeys(cause.name for cause in judgement.causes))
    return hunted.outcome, judgement.cause, causes, len(judgement.left)
