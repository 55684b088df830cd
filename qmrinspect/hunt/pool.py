"""The VM pool
-----------

Where jobs are done: one VM at a time, started again after a result that later ones could
suffer from.  What kills a VM that other devices were in before is tried alone in a fresh
one, for the earlier ones may have harmed it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..audit.growth import Growth
from ..audit.outcome import BAD, Outcome
from ..closing import Closing
from ..documents import HuntRow
from ..errors import MonitorError, QmrError, ReadingError, TargetError
from ..hotplug.kinds import Driver, Recipe
from ..hotplug.recipes import START_OPTIONS, recipe_for
from ..hotplug.unplug import Cycle, Step, drivers, more_cycles
from ..layout.find import given
from ..search.memory import CYCLES, MORE, UNREACHABLE, Memory, MemoryLeak
from .backtrace import backtrace, stacks
from .bundle import write_bundle
from .cycle import Hunt, Hunted, not_begun
from .errorpaths import ErrorPaths
from .guest import GUEST_PATIENCE_S, GUEST_START_OPTIONS, Guest
from .own_vm import OwnVm
from .rows import row_of
from .settings import Job, Settings
from .stays import with_what_stays
from .sure import is_sure
from .suspects import caused_by, suspicion

__all__ = ["Job", "Settings", "VmPool"]

# Outcomes after which more cycles in the same VM say how much comes with each.
_GROWS = (Outcome.LEAK, Outcome.PARTIAL_LEAK, Outcome.STALE, Outcome.DELAYED)


class _Kind(NamedTuple):
    """What a job wants its VM to be, where that is not what the settings say."""

    cpu: str | None = None
    machine: str | None = None
    accel: str | None = None
    start_options: tuple[str, ...] = ()


class VmPool(Closing):
    """Does jobs, on a VM of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._vm: OwnVm | None = None
        self._hunt: Hunt | None = None
        self._guest: Guest | None = None
        self._kind = _Kind()
        self._before: list[str] = []
        self._known: Mapping[str, Driver] = {}
        self._drivers: dict[tuple[str | None, str | None], Mapping[str, Driver]] = {}
        self._number = 0
        self._layout = given(Path(settings.layout)) if settings.layout else None
        self._met: Collection[str] = ()

    def do(self, job: Job) -> Iterator[HuntRow]:
        """Run the cycles of a job and yield the rows of those that say something new.

        :raises QmrError: no VM can be started, or read.
        """
        if self._settings.error_paths:
            yield from self._error_paths(job)
            return
        growth, memory = Growth(), Memory()
        last: HuntRow = {}
        cycles, number = self._settings.cycles, 0
        while number < cycles:
            number += 1
            hunted = self._cycle(job)
            sure = self._is_sure(hunted) if cycles == 1 else True
            if sure is False:
                cycles, number = CYCLES + 1, 0
                continue
            # What the row of a cycle does to the VM comes after it.
            if cycles > 1 and hunted.after is not None:
                hunted = self._hunt.remembered(memory, hunted) if self._hunt else hunted
                more = number == cycles and hunted.outcome == Outcome.CLEAN
                if more and memory.undecided() and number <= 2 * CYCLES:
                    cycles = max(cycles + 1, CYCLES + 1)
            row = self._row(job, hunted, number)
            if sure is None:
                row["note"] = "its memory was not counted: the heap of this QEMU is not known"
            if hunted.books:
                if number == 1:
                    growth.begin(hunted.books[0])
                if hunted.after is not None:
                    growth.add(hunted.after)
            same = last and _gist(last) == _gist(row)
            if last and not same:
                yield last
            last = row
            if hunted.outcome in (Outcome.CRASH, Outcome.HANG, Outcome.REFUSED, Outcome.NOT_ACKED):
                break
        transcript = self._vm.monitor.transcript if self._vm is not None else []
        if growth.cycles > 1:
            last["growth"] = growth.summary()
        grown = growth.stays() if last["outcome"] == Outcome.CLEAN else None
        leak = self._leak(hunted.recipe, memory, last) if grown is None else None
        last = with_what_stays(last, leak, grown)
        if self._settings.bundle and last["outcome"] in BAD and "bundle" not in last:
            last["bundle"] = self._bundle(job, hunted, last, transcript)
        if cycles > 1 and last["outcome"] in BAD:
            self._drop()
        yield last

    def _is_sure(self, hunted: Hunted) -> bool | None:
        """Whether one cycle is enough, as of :func:`is_sure`."""
        vm, hunt, settings = self._vm, self._hunt, self._settings
        if not settings.sure or vm is None or hunt is None or settings.guest is not None:
            return True
        if hunted.outcome != Outcome.CLEAN or hunted.cycle.not_released:
            return True
        return is_sure(hunt, vm, hunted.recipe)

    def _leak(self, recipe: Recipe, memory: Memory, row: HuntRow) -> MemoryLeak | None:
        """Tell what memory stays with every cycle; many more cycles tell it from a pool."""
        leak = memory.leak()
        vm = self._vm
        if leak is None or row["outcome"] != Outcome.CLEAN or vm is None:
            return leak
        if leak.cause == UNREACHABLE:
            return leak  # no pool has what nothing leads to
        try:
            done = vm.drive(lambda monitor: more_cycles(monitor, recipe, "more", MORE))
            blocks = vm.blocks(vm.read()) if done == MORE else None
        except (MonitorError, ReadingError, TargetError) as error:
            if not isinstance(error, MonitorError) and not vm.death():
                raise
            self._drop()
            row["note"] = f"its memory is not judged: in {MORE} more cycles, {error.text}"
            return None
        if blocks is None:
            row["note"] = f"its memory is not judged: {done} of {MORE} more cycles went well"
            return None
        return leak if memory.is_steady(blocks.live, done) else None

    def _error_paths(self, job: Job) -> Iterator[HuntRow]:
        def ready() -> OwnVm:
            return self._ready(job)[0]

        def fresh() -> OwnVm:
            self._drop()
            return ready()

        paths = ErrorPaths(self._ready(job)[1], self._settings.machine, ready, fresh)
        for hunted, row in paths.run():
            if row["outcome"] in BAD and self._settings.bundle:
                row["bundle"] = self._bundle(job, hunted, row)
            yield row
        if row["outcome"] != Outcome.CLEAN or row["tried"]:
            self._drop()

    def _cycle(self, job: Job) -> Hunted:
        for attempt in (1, 2):
            try:
                vm, recipe = self._ready(job)
            except TargetError as error:
                by_name = recipe_for(job.driver)
                if not job.cpu or not by_name.missing:
                    raise
                reason = f"{by_name.missing} ({error.text})"
                return not_begun(by_name, self._settings.machine, reason)
            self._number += 1
            vm.monitor.forget()
            assert self._hunt is not None
            try:
                return self._hunt.one(recipe, f"dut{self._number}")
            except (ReadingError, TargetError) as error:
                cycle = Cycle(recipe.driver, step=Step.JUDGE)
                died = self._hunt.died(recipe, self._settings.machine, cycle, error)
                if attempt == 2:
                    return died
                self._drop()  # it may have died of what was there before
        raise AssertionError

    def _row(self, job: Job, hunted: Hunted, number: int) -> HuntRow:
        row = row_of(hunted, number)
        before = list(self._before)
        harmed = hunted.outcome not in (Outcome.CLEAN, Outcome.REFUSED) or (
            hunted.outcome == Outcome.REFUSED and hunted.cycle.step != Step.DEVICE_ADD
        )
        if hunted.cycle.not_released and hunted.outcome == Outcome.CLEAN:
            row["text"] += "; QEMU did not release " + "; ".join(hunted.cycle.not_released)
            harmed = True
        suspected = suspicion(hunted) if before and number == 1 else None
        if suspected is not None:
            alone = self._alone(job)
            if alone["outcome"] != hunted.outcome:
                alone["after"] = self._caused_by(job, before, alone["outcome"])
                who = " and ".join(alone["after"]) or f"{len(before)} others, {before[-1]} last,"
                alone["note"] = f"{suspected} where {who} came before: {row['text']}"
            return alone
        row = self._with_evidence(job, hunted, row)
        self._before.append(job.driver)
        # Many cycles go on in the same VM: the hunt avoids the slots that leaked devices own.
        if harmed and (self._settings.cycles == 1 or hunted.outcome not in _GROWS):
            self._drop()
        return row

    def _with_evidence(self, job: Job, hunted: Hunted, row: HuntRow) -> HuntRow:
        if row["outcome"] == "crash" and not self._before and self._guest is None:
            row["backtrace"] = backtrace(self._vm.vm, hunted.recipe) if self._vm else []
        if row["outcome"] == "hang" and self._vm is not None:
            row["backtrace"] = stacks(self._vm.vm.pid)
        if self._settings.bundle and row["outcome"] in BAD and self._vm is not None:
            row["bundle"] = self._bundle(job, hunted, row)
        return row

    def _bundle(
        self,
        job: Job,
        hunted: Hunted,
        row: HuntRow,
        transcript: Sequence[Mapping[str, object]] | None = None,
    ) -> str:
        vm, settings = self._vm, self._settings
        argv, said = (vm.vm.argv, vm.monitor.transcript) if vm is not None else ([], [])
        assert settings.bundle is not None
        done = said if transcript is None else transcript
        return write_bundle(settings.bundle, settings, job, row, hunted, argv, done)

    def _alone(self, job: Job) -> HuntRow:
        """Hunt a driver in a VM where nothing was before."""
        self._drop()
        hunted = self._cycle(job)
        row = self._with_evidence(job, hunted, row_of(hunted))
        self._drop()
        return row

    def _caused_by(self, job: Job, before: Sequence[str], alone: str) -> list[str]:
        """Find the drivers after which a job does not end as it does alone."""

        def causes(names: Sequence[str]) -> bool:
            self._drop()
            try:
                for name in names:
                    self._cycle(Job(name, job.cpu))
                return self._cycle(job).outcome != alone
            except QmrError:
                return True
            finally:
                self._drop()

        # With a guest it would have to boot for every suspect.
        return caused_by(job.driver, before, causes) if self._settings.guest is None else []

    def _ready(self, job: Job) -> tuple[OwnVm, Recipe]:
        """Return a VM in which a job can be done, and the recipe for it there."""
        # By its name alone: what this QEMU has is known when there is a VM.
        recipe = recipe_for(job.driver)
        needed = set(recipe.start_options)
        if self._settings.guest is not None:
            needed.difference_update(GUEST_START_OPTIONS)
        own = tuple(o.name for o in START_OPTIONS if o.exclusive and o.name in needed)
        kind = _Kind(job.cpu, recipe.machine, recipe.accel, own)
        if self._vm is not None and self._kind != kind:
            self._drop()
        if self._vm is None:
            self._kind = kind
            self._vm = self._start_special(recipe.needs) or self._start()
            more = self._settings.forecast, self._settings.trace, self._settings.cycles > 1
            self._hunt = Hunt(self._vm, None, None, *more)
            if self._guest is not None:
                self._hunt = Hunt(self._vm, GUEST_PATIENCE_S, self._guest.use, *more)
            # It has the same ones in every VM of the kind.
            of_kind = kind.machine, kind.accel
            if of_kind not in self._drivers:
                self._drivers[of_kind] = self._vm.drive(drivers)
            self._known = self._drivers[of_kind]
            self._before = []
            self._number = 0
        return self._vm, recipe_for(job.driver, self._known)

    def _start_special(self, needs: Collection[str]) -> OwnVm | None:
        """Start a VM for what needs a machine type, an accelerator or a start option of its own.

        It has no guest: a guest need not boot on that.

        :return: None where nothing needs that, or this QEMU cannot.
        :raises TargetError: it cannot, and an ordinary one would not either.
        """
        settings, kind = self._settings, self._kind
        if not (kind.machine or kind.accel or kind.start_options):
            return None
        try:
            return OwnVm(
                needs,
                settings.qemu,
                kind.machine or settings.machine,
                self._model(),
                kind.accel or settings.accel,
                layout=self._layout,
                met=self._met,
            )
        except TargetError:
            if kind.cpu:
                raise
            return None  # and the ordinary one refuses it, with its reason

    def _model(self) -> list[str]:
        return ["-cpu", self._kind.cpu] if self._kind.cpu else []

    def _start(self) -> OwnVm:
        settings = self._settings
        # A VM for one CPU model is for that alone.
        start = partial(
            OwnVm,
            ("cpu",) if self._kind.cpu else ("PCI", *settings.start_options),
            settings.qemu,
            settings.machine,
            accel=settings.accel,
            layout=self._layout,
            met=self._met,
        )
        if settings.guest is None:
            return start(self._model())
        for last in (False, True):
            self._guest = Guest(settings.guest)
            extra = [*self._model(), *self._guest.arguments]
            try:
                return start(extra, ready=self._guest.wait)
            except TargetError:
                # On a busy machine an emulated clock may mislead a kernel.
                self._guest.close()
                if last:
                    raise
        raise AssertionError

    def _drop(self) -> None:
        if self._vm is not None:
            self._layout, self._met = self._vm.layout, self._vm.met
            self._vm.close()
        if self._guest is not None:
            self._guest.close()
        self._vm = self._hunt = self._guest = None

    def close(self) -> None:
        """End the VM."""
        self._drop()


def _gist(row: HuntRow) -> tuple[object, ...]:
    return row["outcome"], row["cause"], tuple(row["causes"]), len(row["objects_left"])
