"""The VM of a job
--------------

Starts the VM that a job needs, serves the next one with it where it can, and runs cycles in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..audit.outcome import Outcome
from ..closing import Closing
from ..errors import ReadingError, TargetError
from ..hotplug.kinds import Driver, Recipe
from ..hotplug.recipes import START_OPTIONS, recipe_for
from ..hotplug.unplug import Cycle, Step, drivers
from ..layout.find import given
from .cycle import Hunt, not_begun
from .guest import GUEST_PATIENCE_S, GUEST_START_OPTIONS, Guest
from .hunted import Found, Hunted
from .own_vm import OwnVm
from .rows import row_of
from .settings import Job, Settings

__all__ = ["JobVm"]


class _Kind(NamedTuple):
    """What a job wants its VM to be, where that is not what the settings say."""

    cpu: str | None = None
    machine: str | None = None
    accel: str | None = None
    start_options: tuple[str, ...] = ()


class JobVm(Closing):
    """A VM for one job after another; started when it is needed, and anew for another kind."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: Whether a guest boots in it.
        self.has_guest = settings.guest is not None
        #: The VM, and the cycles on it; None where none is there.
        self.vm: OwnVm | None = None
        self.hunt: Hunt | None = None
        self._guest: Guest | None = None
        #: The drivers that were hunted in it, in this order.
        self.before: list[str] = []
        self._kind = _Kind()
        self._known: Mapping[str, Driver] = {}
        self._drivers: dict[tuple[str | None, str | None], Mapping[str, Driver]] = {}
        self._number = 0
        self._layout = given(Path(settings.layout)) if settings.layout else None
        self._met: Collection[str] = ()

    def cycle(self, job: Job) -> Hunted:
        """Run one cycle; where the VM dies of its past, another in a fresh one.

        :raises QmrError: no VM can be started, or read.
        """
        for attempt in (1, 2):
            try:
                vm, recipe = self.ready(job)
            except TargetError as error:
                by_name = recipe_for(job.driver)
                if not job.cpu or not by_name.missing:
                    raise
                reason = f"{by_name.missing} ({error.text})"
                return not_begun(by_name, self._settings.machine, reason)
            self._number += 1
            vm.monitor.forget()
            assert self.hunt is not None
            try:
                return self.hunt.one(recipe, f"dut{self._number}")
            except (ReadingError, TargetError) as error:
                cycle = Cycle(recipe.driver, step=Step.JUDGE)
                died = self.hunt.died(recipe, self._settings.machine, cycle, error)
                if attempt == 2:
                    return died
                self.close()  # it may have died of what was there before
        raise AssertionError

    def ready(self, job: Job) -> tuple[OwnVm, Recipe]:
        """Return a VM in which a job can be done, and the recipe for it there."""
        # By its name alone: what this QEMU has is known when there is a VM.
        recipe = recipe_for(job.driver)
        needed = set(recipe.start_options)
        if self._settings.guest is not None:
            needed.difference_update(GUEST_START_OPTIONS)
        own = tuple(o.name for o in START_OPTIONS if o.exclusive and o.name in needed)
        kind = _Kind(job.cpu, recipe.machine, recipe.accel, own)
        if self.vm is not None and self._kind != kind:
            self.close()
        if self.vm is None:
            self._kind = kind
            self.vm = self._start_special(recipe.needs) or self._start()
            more = self._settings.forecast, self._settings.trace, self._settings.cycles > 1
            self.hunt = Hunt(self.vm, None, None, *more)
            if self._guest is not None:
                self.hunt = Hunt(self.vm, GUEST_PATIENCE_S, self._guest.use, *more)
            # It has the same ones in every VM of the kind.
            of_kind = kind.machine, kind.accel
            if of_kind not in self._drivers:
                self._drivers[of_kind] = self.vm.drive(drivers)
            self._known = self._drivers[of_kind]
            self.before = []
            self._number = 0
        return self.vm, recipe_for(job.driver, self._known)

    def fresh(self, job: Job) -> OwnVm:
        """Return a VM in which nothing was yet."""
        self.close()
        return self.ready(job)[0]

    def found(self, hunted: Hunted, number: int = 1) -> Found:
        """Return what is said of the cycle that was run last, and what only its VM shows.

        :param number: of the cycle, from 1.
        """
        row = row_of(hunted, number)
        # Another one like it dies as well.
        alike = set(self.before) <= {hunted.recipe.driver} and self._guest is None
        has_frames = hunted.outcome == Outcome.HANG or (hunted.outcome == Outcome.CRASH and alike)
        if self.vm is not None and has_frames:
            row["backtrace"] = self.vm.frames(hunted, len(self.before) + 1)
        return Found(hunted, row, *self.messages())

    def messages(self) -> tuple[Sequence[str], Sequence[Mapping[str, object]]]:
        """Return QEMU's command line and the last cycle's messages, where bundles are wanted."""
        if self.vm is None or self._settings.bundle is None:
            return (), ()
        return self.vm.vm.argv, self.vm.monitor.transcript

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

    def close(self) -> None:
        """End the VM; the next job has a fresh one."""
        if self.vm is not None:
            self._layout, self._met = self.vm.layout, self.vm.met
            self.vm.close()
        if self._guest is not None:
            self._guest.close()
        self.vm = self.hunt = self._guest = None
