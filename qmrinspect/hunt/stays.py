"""What stays with every cycle
---------------------------

The verdict on a device that was finalized, and left something behind with every cycle.
"""

from __future__ import annotations

from typing import Callable

from ..audit.growth import Growth
from ..audit.outcome import Outcome
from ..errors import MonitorError
from ..hotplug.kinds import Recipe
from ..search.blocks import Blocks
from ..search.memory import CYCLES, MORE, Memory
from .hunted import Hunted

__all__ = ["Stays"]

# Outcomes after which no more cycles are possible.
_ENDS = (Outcome.CRASH, Outcome.HANG, Outcome.REFUSED, Outcome.NOT_ACKED)


class Stays:
    """Adds up what comes with each cycle of one device.

    :param cycles: how many are wanted.
    """

    def __init__(self, cycles: int) -> None:
        #: How many it takes; more than were wanted, where these cannot tell a leak from a pool.
        self.cycles = cycles
        self._growth, self._memory = Growth(), Memory()

    def add(self, hunted: Hunted) -> bool:
        """Add a cycle, and say whether another one is wanted."""
        number, after = hunted.number, hunted.after
        if self.cycles > 1 and after is not None:
            self._memory.add(hunted.blocks)
            more = number == self.cycles and hunted.outcome == Outcome.CLEAN
            if more and self._memory.undecided() and number <= 2 * CYCLES:
                self.cycles = max(self.cycles + 1, CYCLES + 1)
        if number == 1 and hunted.books:
            self._growth.begin(hunted.books[0])
        if after is not None:
            self._growth.add(after)
        return number < self.cycles and hunted.outcome not in _ENDS

    def judged(
        self, hunted: Hunted, more: Callable[[Recipe, int], tuple[int, Blocks | None]]
    ) -> Hunted:
        """Return the result of the last cycle with what comes with each.

        :param more: runs so many cycles more, and returns how many went well, and the live blocks
            after them; raises MonitorError where QEMU dies of one.
        """
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

    def _with_memory(
        self, hunted: Hunted, more: Callable[[Recipe, int], tuple[int, Blocks | None]]
    ) -> Hunted:
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
