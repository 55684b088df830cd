"""What stays with every cycle
---------------------------

The verdict on a device that was finalized, and left something behind with every cycle.
"""

from __future__ import annotations

from ..audit.growth import Growth
from ..audit.outcome import Outcome
from ..documents import HuntRow
from ..errors import MonitorError, ReadingError, TargetError
from ..hotplug.kinds import Recipe
from ..hotplug.unplug import more_cycles
from ..search.blocks import Blocks
from ..search.memory import CYCLES, MORE, Memory, MemoryLeak
from .hunted import Hunted
from .job_vm import JobVm

__all__ = ["Stays"]


class Stays:
    """Adds up what comes with each cycle of one device.

    :param cycles: how many are wanted.
    """

    def __init__(self, cycles: int) -> None:
        #: How many it takes; more than were wanted, where these cannot tell a leak from a pool.
        self.cycles = cycles
        self._growth, self._memory = Growth(), Memory()

    def add(self, vm: JobVm, hunted: Hunted, number: int) -> Hunted:
        """Add a cycle, of which the last reading of ``vm`` is; ``number`` from 1.

        :return: its result; QEMU may die while it is read.
        """
        if self.cycles > 1 and hunted.after is not None:
            hunted = vm.hunt.remembered(self._memory, hunted) if vm.hunt else hunted
            more = number == self.cycles and hunted.outcome == Outcome.CLEAN
            if more and self._memory.undecided() and number <= 2 * CYCLES:
                self.cycles = max(self.cycles + 1, CYCLES + 1)
        if hunted.books:
            if number == 1:
                self._growth.begin(hunted.books[0])
            if hunted.after is not None:
                self._growth.add(hunted.after)
        return hunted

    def judged(self, vm: JobVm, recipe: Recipe, row: HuntRow) -> HuntRow:
        """Return the row of the last cycle with what comes with each; more are run in ``vm``."""
        if self._growth.cycles > 1:
            row["growth"] = self._growth.summary()
        grown = self._growth.stays() if row["outcome"] == Outcome.CLEAN else None
        leak = self._leak(vm, recipe, row) if grown is None else None
        if leak is not None:
            row = {**row, "memory": leak.json()}
            grown = leak.cause, f"memory stays: {leak.text}"
        if grown is None or row["outcome"] != Outcome.CLEAN:
            return row
        cause, text = grown
        # It balances, or is no object, and nobody will ever take it back.
        text = f"{row['device']} was finalized, and {text}"
        outcome = str(Outcome.PARTIAL_LEAK)
        return {**row, "outcome": outcome, "cause": cause, "causes": [cause], "text": text}

    def _leak(self, vm: JobVm, recipe: Recipe, row: HuntRow) -> MemoryLeak | None:
        """Tell what memory stays with every cycle; many more cycles tell it from a pool."""
        leak, own = self._memory.leak(), vm.vm
        if leak is None or leak.is_sure or row["outcome"] != Outcome.CLEAN or own is None:
            return leak
        done = 0

        def more(cycles: int) -> Blocks | None:
            nonlocal done
            done = own.drive(lambda monitor: more_cycles(monitor, recipe, "more", cycles))
            return own.blocks(own.read()) if done == cycles else None

        try:
            goes_on = self._memory.goes_on(leak, more)
        except (MonitorError, ReadingError, TargetError) as error:
            if not isinstance(error, MonitorError) and not own.death():
                raise
            vm.close()
            row["note"] = f"its memory is not judged: in {MORE} more cycles, {error.text}"
            return None
        if goes_on is None:
            row["note"] = f"its memory is not judged: {done} of {MORE} more cycles went well"
            return None
        return leak if goes_on else None
