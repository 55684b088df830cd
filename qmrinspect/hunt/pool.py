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
from .bundle import write_bundle
from .errorpaths import ErrorPaths
from .hunted import Hunted
from .job_vm import JobVm
from .rows import row_of
from .settings import Job, Settings
from .stays import Stays
from .suspects import cleared

__all__ = ["Job", "Settings", "VmPool"]


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
        for hunted in chain.from_iterable(way(job) for way in ways):
            row = row_of(hunted)
            if settings.bundle is not None and hunted.outcome in BAD:
                row["bundle"] = write_bundle(settings.bundle, settings, job, hunted, row)
            yield row

    def _cycles(self, job: Job) -> Iterator[Hunted]:
        vm = self._vm
        stays = Stays(self._settings.cycles)
        while stays.goes_on:
            hunted = vm.cycle(job, stays.cycles > 1)
            if stays.last is None:
                hunted = cleared(hunted, partial(vm.alone, job), self._settings.guest is None)
            said = stays.add(hunted)
            if said is not None:
                yield said
        hunted = stays.judged(vm.more)
        if stays.cycles > 1 and hunted.outcome in BAD:
            vm.close()
        yield hunted

    def _error_paths(self, job: Job) -> Iterator[Hunted]:
        vm = self._vm
        own, recipe = vm.ready(job)
        untouched = False
        for hunted in ErrorPaths(recipe, self._settings.machine, own, partial(vm.fresh, job)).run():
            untouched = hunted.outcome == Outcome.CLEAN and not hunted.tried
            yield vm.with_messages(hunted)
        if not untouched:
            vm.close()

    def close(self) -> None:
        """End the VM."""
        self._vm.close()
