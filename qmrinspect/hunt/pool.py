"""The VM pool
-----------

Where jobs are done: one VM at a time, started again after a result that later ones could
suffer from.  What kills a VM that other devices were in before is tried alone in a fresh
one, for the earlier ones may have harmed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

from ..audit.outcome import BAD, Outcome
from ..closing import Closing
from ..documents import HuntRow
from ..hotplug.unplug import Step
from ..search.memory import CYCLES
from .bundle import write_bundle
from .errorpaths import ErrorPaths
from .hunted import Found, Hunted
from .job_vm import JobVm
from .settings import Job, Settings
from .stays import Stays
from .sure import is_sure
from .suspects import alone, suspicion

__all__ = ["Job", "Settings", "VmPool"]

# Outcomes after which more cycles in the same VM say how much comes with each.
_GROWS = (Outcome.LEAK, Outcome.PARTIAL_LEAK, Outcome.STALE, Outcome.DELAYED)
# Outcomes after which no more cycles are possible.
_ENDS = (Outcome.CRASH, Outcome.HANG, Outcome.REFUSED, Outcome.NOT_ACKED)
_NOT_COUNTED = "its memory was not counted: the heap of this QEMU is not known"


class VmPool(Closing):
    """Does jobs, on a VM of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._vm = JobVm(settings)

    def do(self, job: Job) -> Iterator[HuntRow]:
        """Run the cycles of a job and its error paths, and yield the rows that say something new.

        :raises QmrError: no VM can be started, or read.
        """
        settings = self._settings
        ways = [self._cycles] if settings.has_cycles() else []
        if settings.has_error_paths(job):
            ways.append(self._error_paths)
        for found in chain.from_iterable(way(job) for way in ways):
            if settings.bundle is not None and found.row["outcome"] in BAD:
                found.row["bundle"] = write_bundle(settings.bundle, settings, job, found)
            yield found.row

    def _cycles(self, job: Job) -> Iterator[Found]:
        vm = self._vm
        stays, number = Stays(self._settings.cycles), 0
        last: Found | None = None
        while number < stays.cycles:
            number += 1
            hunted = vm.cycle(job)
            sure = self._is_sure(hunted) if stays.cycles == 1 else True
            if sure is False:
                stays, number = Stays(CYCLES + 1), 0
                continue
            hunted = stays.add(vm, hunted, number)
            found = self._found(job, hunted, number)
            if sure is None:
                found.row["note"] = _NOT_COUNTED
            if last is not None and _gist(last.row) != _gist(found.row):
                yield last
            last = found
            if hunted.outcome in _ENDS:
                break
        assert last is not None
        row = stays.judged(vm, last.hunted.recipe, last.row)
        if stays.cycles > 1 and row["outcome"] in BAD:
            vm.close()
        yield last._replace(row=row)

    def _is_sure(self, hunted: Hunted) -> bool | None:
        """Whether one cycle is enough, as of :func:`is_sure`."""
        own, hunt, settings = self._vm.vm, self._vm.hunt, self._settings
        if own is None or hunt is None or not settings.sure or settings.guest is not None:
            return True
        if hunted.outcome != Outcome.CLEAN or hunted.cycle.not_released:
            return True
        return is_sure(hunt, own, hunted.recipe)

    def _error_paths(self, job: Job) -> Iterator[Found]:
        vm = self._vm
        recipe, fresh = vm.ready(job)[1], partial(vm.fresh, job)
        machine = self._settings.machine
        untouched = False
        for found in ErrorPaths(recipe, machine, lambda: vm.ready(job)[0], fresh).run():
            untouched = found.row["outcome"] == Outcome.CLEAN and not found.row["tried"]
            yield Found(found.hunted, found.row, *vm.messages())
        if not untouched:
            vm.close()

    def _found(self, job: Job, hunted: Hunted, number: int) -> Found:
        vm = self._vm
        suspected = suspicion(hunted) if vm.before and number == 1 else None
        if suspected is not None:
            return alone(vm, job, hunted, suspected)
        found = vm.found(hunted, number)
        vm.before.append(job.driver)
        harmed = hunted.outcome != Outcome.CLEAN or bool(hunted.cycle.not_released)
        if hunted.outcome == Outcome.REFUSED:
            harmed = hunted.cycle.step != Step.DEVICE_ADD
        # Many cycles go on in the same VM: the hunt avoids the slots that leaked devices own.
        if harmed and (self._settings.cycles == 1 or hunted.outcome not in _GROWS):
            vm.close()
        return found

    def close(self) -> None:
        """End the VM."""
        self._vm.close()


def _gist(row: HuntRow) -> tuple[object, ...]:
    return row["outcome"], row["cause"], tuple(row["causes"]), len(row["objects_left"])
