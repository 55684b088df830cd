"""The VM of a job
--------------

Starts the VM that a job needs, serves the next one with it where it can, and runs cycles in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..audit.outcome import Outcome
from ..closing import Closing
from ..errors import MonitorError, ReadingError, TargetError
from ..hotplug.guest import GUEST_PATIENCE_S, Guest
from ..hotplug.kinds import Driver, Recipe
from ..hotplug.unplug import Cycle, Step, drivers, more_cycles
from ..hotplug.vm_kind import VmKind, needed
from ..layout.find import given
from ..monitor.base import MonitorLost
from ..search.blocks import Blocks
from .cycle import Hunt
from .hunted import Hunted
from .judge import Judgement
from .own_vm import OwnVm
from .settings import Job, Settings
from .sure import is_sure

__all__ = ["JobVm"]

# Outcomes after which more cycles in the same VM say how much comes with each.
_GROWS = (Outcome.LEAK, Outcome.PARTIAL_LEAK, Outcome.STALE, Outcome.DELAYED)


class _Lacking(TargetError):
    """This host lacks what the VM of a job needs."""


class JobVm(Closing):
    """A VM for one job after another; started when it is needed, and anew for another kind."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._vm: OwnVm | None = None
        self._hunt: Hunt | None = None
        self._guest: Guest | None = None
        # The drivers that were hunted in it, in this order.
        self._before: list[str] = []
        self._kind: VmKind | None = None
        # What this QEMU has; nothing until one was started.
        self._known: Mapping[str, Driver] = {}
        self._layout = given(Path(settings.layout)) if settings.layout else None
        self._met: Collection[str] = ()

    def cycle(self, job: Job, count: bool = False) -> Hunted:
        """Run one cycle; where the VM dies of its past, another in a fresh one.

        A VM that could harm the next job ends.

        :param count: tell the live blocks after it, and not whether one cycle is enough.
        :raises QmrError: no VM can be started, or read.
        """
        try:
            hunted = self._cycle(job, count)
        except _Lacking as error:
            return _not_begun(job.driver, self._settings.machine, error.text)
        if self._is_harmed(hunted):
            self.close()
        elif not count and hunted.outcome == Outcome.CLEAN:
            hunted = hunted._replace(enough=self._is_enough(hunted.recipe))
        return hunted

    def _cycle(self, job: Job, count: bool = False, again: bool = True) -> Hunted:
        vm, recipe = self.ready(job)
        hunt = self._hunt
        assert hunt is not None
        before = tuple(self._before)
        self._before.append(job.driver)
        vm.monitor.forget()
        try:
            hunted = hunt.one(recipe, f"dut{len(self._before)}")
            if count and hunted.after is not None:
                hunted = hunted._replace(blocks=vm.blocks(hunted.after.index.snapshot))
        except (ReadingError, TargetError) as error:
            cycle = Cycle(recipe.driver, step=Step.JUDGE)
            hunted = hunt.died(recipe, self._settings.machine, cycle, error)
            if again:
                self.close()  # it may have died of what was there before
                return self._cycle(job, count, again=False)
        # Another one like it dies as well.
        alike = set(before) <= {recipe.driver} and self._guest is None
        if hunted.outcome == Outcome.HANG or (hunted.outcome == Outcome.CRASH and alike):
            hunted = hunted._replace(frames=vm.frames(hunted, len(before) + 1))
        return self.with_messages(hunted._replace(before=before))

    def _is_harmed(self, hunted: Hunted) -> bool:
        """Whether what a cycle left could harm the next one."""
        if hunted.outcome == Outcome.REFUSED:
            return hunted.cycle.step != Step.DEVICE_ADD
        # Many cycles go on in the same VM: the hunt avoids the slots that leaked devices own.
        if self._settings.cycles > 1 and hunted.outcome in _GROWS:
            return False
        return hunted.outcome != Outcome.CLEAN or bool(hunted.cycle.not_released)

    def alone(self, job: Job, before: Sequence[str]) -> Hunted:
        """Run a cycle in a VM that is for it and for those before it, and ends with it.

        :param before: drivers.
        """
        self.close()
        try:
            for driver in before:
                self._cycle(job._replace(driver=driver))
            return self._cycle(job)
        finally:
            self.close()

    def _is_enough(self, recipe: Recipe) -> bool | None:
        vm, hunt, settings = self._vm, self._hunt, self._settings
        if vm is None or hunt is None or not settings.sure or settings.guest is not None:
            return True
        return is_sure(hunt, vm, recipe)

    def more(self, recipe: Recipe, cycles: int) -> tuple[int, Blocks | None]:
        """Run cycles of a recipe that nobody judges.

        :return: how many went well, and the live blocks then, None where they are not known.
        :raises MonitorError: QEMU died of one, or hangs.
        """
        vm, hunt = self._vm, self._hunt
        assert vm is not None and hunt is not None
        try:
            done = vm.drive(lambda monitor: more_cycles(monitor, recipe, "more", cycles))
            snapshot = hunt.take_reading().index.snapshot
            return done, vm.blocks(snapshot) if done == cycles else None
        except MonitorError:
            self.close()
            raise
        except (ReadingError, TargetError) as error:
            if not vm.death():
                raise
            self.close()
            raise MonitorLost(error.text) from None

    def ready(self, job: Job) -> tuple[OwnVm, Recipe]:
        """Return a VM in which a job can be done, and the recipe for it there."""
        ordinary, guest = self._ordinary(job.cpu), self._settings.guest is not None
        while True:
            recipe, kind = needed(job.driver, self._known, ordinary, guest)
            if self._vm is not None and self._kind == kind:
                return self._vm, recipe
            self.close()
            try:
                self._begin(kind)
            except TargetError as error:
                if not job.cpu or not recipe.missing:
                    raise
                raise _Lacking(f"{recipe.missing} ({error.text})", error.hint) from error

    def fresh(self, job: Job) -> OwnVm:
        """Return a VM in which nothing was yet."""
        self.close()
        return self.ready(job)[0]

    def with_messages(self, hunted: Hunted) -> Hunted:
        """Add QEMU's command line and the last messages, where bundles are wanted."""
        if self._vm is None or self._settings.bundle is None:
            return hunted
        return hunted._replace(argv=self._vm.vm.argv, transcript=self._vm.monitor.transcript)

    def _ordinary(self, cpu: str | None = None) -> VmKind:
        settings = self._settings
        # A VM for one CPU model is for that alone.
        needs = frozenset(("cpu",) if cpu else ("PCI", *settings.start_options))
        return VmKind(needs, settings.machine, settings.accel, cpu)

    def _begin(self, kind: VmKind) -> None:
        settings = self._settings
        try:
            self._vm = self._start(kind)
        except TargetError:
            if not kind.special or kind.cpu:
                raise
            # The ordinary one refuses the device, with its reason.
            self._vm = self._start(self._ordinary())
        self._kind = kind
        self._before = []
        guest = self._guest
        patience, use = (None, None) if guest is None else (GUEST_PATIENCE_S, guest.use)
        deep = settings.cycles > 1
        self._hunt = Hunt(self._vm, patience, use, settings.forecast, settings.trace, deep)
        self._known = self._known or self._vm.drive(drivers)

    def _start(self, kind: VmKind, again: bool = True) -> OwnVm:
        needs, machine, accel, cpu, special = kind
        qemu, guest = self._settings.qemu, self._settings.guest
        extra, ready = ["-cpu", cpu] if cpu else [], None
        if guest is not None and not special:
            self._guest = Guest(guest)
            extra, ready = [*extra, *self._guest.arguments], self._guest.wait
        try:
            return OwnVm(needs, qemu, machine, extra, accel, ready, self._layout, self._met)
        except TargetError:
            if self._guest is None:
                raise
            self._guest.close()
            if not again:
                raise
        # On a busy machine an emulated clock may mislead a kernel.
        return self._start(kind, again=False)

    def close(self) -> None:
        """End the VM; the next job has a fresh one."""
        if self._vm is not None:
            self._layout, self._met = self._vm.layout, self._vm.met
            self._vm.close()
        if self._guest is not None:
            self._guest.close()
        self._vm = self._hunt = self._guest = None


def _not_begun(driver: str, machine: str, reason: str) -> Hunted:
    judgement = Judgement(Outcome.REFUSED, None, (), (), reason)
    cycle = Cycle(driver, step=Step.PREPARE, refused=reason)
    return Hunted(Recipe(driver, None), machine, Outcome.REFUSED, judgement, cycle)
