"""Error paths
-----------

Plugs a driver in the ways that make its realize fail, and judges what QEMU did not take back:
references, memory, and pointers to what is gone.  A crash is a result as well.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Callable

from ..audit.outcome import BAD, Outcome
from ..audit.policy import book_of
from ..audit.stale import outside_of
from ..documents import ErrorPathJson
from ..errors import MonitorError, PeerMissing, ReadingError, TargetError
from ..hotplug.failing import FULL, Trial, more_trials, properties_of, trials
from ..hotplug.kinds import Recipe
from ..hotplug.recipes import recipe_for
from ..hotplug.unplug import Cycle, Plugged, Step, ended, plug, release, run_cycle
from ..ledger import Book
from ..monitor.arguments import Property
from ..monitor.base import MonitorLost, MonitorTimeout
from ..search.blocks import Blocks
from ..search.memory import CYCLES, MORE, Memory, MemoryLeak
from ..search.stale import Where
from .again import judge_again
from .failed import Failed, end_of
from .hunted import Hunted, stable
from .judge import Judgement, with_stale
from .own_vm import OwnVm
from .sure import BETWEEN, nothing_grows

__all__ = ["ErrorPaths"]

# A driver has so many properties at most; of what QEMU's words suggest so much is tried, and so
# many of the ways that leave something are reported.
_TRIALS_MAX, _MORE_MAX, _SHOWN_MAX = 400, 40, 24
# QEMU's words for a device that it does not plug in any way (qdev_device_add_from_qdict()).
_NEVER = re.compile(
    r"expects a pluggable device type|does not support hotplugging"
    r"|can not be hotplugged on this machine|^No '.*' bus found for device"
    r"|is not a valid device model name"
)
# What a device had that was refused is not known: it is gone before the next reading.
_ALL = Where(every_word=True)
_END = {True: Outcome.CRASH, False: Outcome.HANG}
# Devices that fill a bus.
_FILLER, _PLACES_MAX = "pci-testdev", 64


class _Died(Exception):
    """QEMU died, or hangs, of a way that was tried."""

    def __init__(self, cycle: Cycle) -> None:
        super().__init__(cycle.crash or cycle.hang)
        self.cycle = cycle


class ErrorPaths:
    """Tries the ways of one driver.

    :param recipe: how it is plugged into such a QEMU.
    :param vm: the VM that is there.
    :param start: starts one in its place, in which nothing was yet.
    """

    def __init__(self, recipe: Recipe, machine: str, vm: OwnVm, start: Callable[[], OwnVm]) -> None:
        self._driver, self._machine = recipe.driver, machine
        self._vm, self._start = vm, start
        self._recipe = recipe
        self._full: Trial | None = None
        self._tried = self._number = 0
        self._ends: set[str] = set()  # how QEMU died, or hung

    def run(self) -> Iterator[Hunted]:
        """Yield a result for each way after which something stays; one where nothing does."""
        if self._recipe.non_device is not None:
            yield self._plain(Outcome.REFUSED, f"{self._driver} is no device, and is not realized")
            return
        vm = self._vm
        try:
            properties = vm.drive(lambda monitor: properties_of(monitor, self._driver))
        except (MonitorLost, MonitorTimeout) as error:
            # Some devices are made whole for that, and QEMU dies of them.
            cycle = ended(Cycle(self._driver), Step.LIST_PROPERTIES, error)
            end = _END[bool(cycle.crash)]
            text = f"device-list-properties: {_told(end, end_of(vm, cycle))}"
            yield self._plain(end, text)
            return
        failed: list[Failed] = []
        found = False
        for failure in self._find(vm, properties):
            if failure.cycle.crash or failure.cycle.hang:
                found = True
                yield self._died(failure)
            else:
                failed.append(failure)
        tried = [f for f in failed if not _NEVER.search(f.message)]
        if failed and not tried:
            yield self._plain(Outcome.REFUSED, failed[0].message)
            return
        for one in (*self._judged(tried), *self._on_a_full_bus()):
            found = True
            yield one
        if not found:
            text = f"{len(failed)} of {self._tried} ways were refused, and nothing stays of any"
            yield self._plain(Outcome.CLEAN, f"{self._driver}: {text}")

    def _fresh(self) -> OwnVm:
        self._vm = self._start()
        return self._vm

    # What fails --------------------------------------------------------------------

    def _find(self, vm: OwnVm, properties: Sequence[Property]) -> Iterator[Failed]:
        recipe = self._recipe
        todo = deque(trials(recipe, properties))
        seen: set[tuple[str, str]] = set()
        before: list[Trial] = []
        more = 0
        while todo and self._tried < _TRIALS_MAX:
            trial = todo.popleft()
            if trial.property == FULL and trial.value is None:
                self._full = trial
                continue
            if (trial.property, repr(trial.value)) in seen:
                continue
            seen.add((trial.property, repr(trial.value)))
            self._tried += 1
            cycle = self._attempt(vm, trial)
            if cycle.crash or cycle.hang:
                yield self._blamed(Failed(trial, cycle, end_of(vm, cycle)), before)
                vm, before = self._fresh(), []
                continue
            before.append(trial)
            if cycle.refused and cycle.step == Step.DEVICE_ADD:
                yield Failed(trial, cycle, cycle.refused)
                if _NEVER.search(cycle.refused):
                    return
                for other in more_trials(recipe, properties, cycle.refused):
                    more += 1
                    if more <= _MORE_MAX:
                        todo.append(other)
            elif not cycle.event and not cycle.refused:
                vm, before = self._fresh(), []  # it was taken, and leaks as it always does
            elif cycle.refused and cycle.step != Step.PREPARE:
                vm, before = self._fresh(), []  # it is still there

    def _attempt(self, vm: OwnVm, trial: Trial, refused: list[Plugged] | None = None) -> Cycle:
        self._number += 1
        cycle = partial(run_cycle, recipe=trial.recipe, id=f"err{self._number}", refused=refused)
        return vm.drive(cycle)

    def _blamed(self, failure: Failed, before: Sequence[Trial]) -> Failed:
        """Say after which way a fresh QEMU dies as well: after this one alone, or after another."""
        last = failure.trial
        vm = self._fresh()
        if self._dies(vm, [last]):
            return failure
        for other in before:
            if self._dies(vm, [other, last]):
                vm = self._fresh()
                if self._dies(vm, [other, last]):
                    return failure._replace(after=(other,))
                break
        self._dies(self._fresh(), [*before, last])
        return failure._replace(after=tuple(before))

    def _dies(self, vm: OwnVm, ways: Sequence[Trial]) -> bool:
        return any(cycle.crash or cycle.hang for cycle in (self._attempt(vm, w) for w in ways))

    # What stays --------------------------------------------------------------------

    def _judged(self, failed: Sequence[Failed]) -> Iterator[Hunted]:
        if not failed:
            return
        groups: dict[tuple[str, str], list[Failed]] = {}
        for failure in failed:
            groups.setdefault(failure.shape(), []).append(failure)
        alike = list(groups.values())[:_SHOWN_MAX]
        vm = self._fresh()
        together = self._try(vm, [group[0].trial for group in alike])
        if together.outcome not in BAD:
            return
        vm, before, found = self._fresh(), list[Trial](), False
        only = {row.kind for row in together.judgement.stale}
        for first, *others in alike:
            vm.monitor.forget()
            hunted = self._try(vm, [first.trial])
            if hunted.outcome in _END.values() and before:
                # What the ways before it left may be what it died of.
                alone = self._try(self._fresh(), [first.trial])
                if alone.outcome in _END.values():
                    hunted = alone
                else:
                    first = first._replace(after=tuple(before))
            if hunted.outcome in BAD:
                found = True
                only -= {row.kind for row in hunted.judgement.stale}
                yield self._found(hunted, [first, *others])
            before.append(first.trial)
            if hunted.outcome in _END.values():
                vm, before = self._fresh(), []
        # What is freed may be used again before it is read.
        if not found or only:
            *others, last = (group[0] for group in alike)
            last = last._replace(after=tuple(failure.trial for failure in others) or None)
            yield self._found(together, [last])

    def _try(self, vm: OwnVm, ways: Sequence[Trial], memory: bool = True) -> Hunted:
        """Try ways, and judge what stays; QEMU may die of them at any moment.

        :param memory: try them again, for the memory that stays each time.
        """
        when = ""
        try:
            hunted = self._one(vm, ways)
            when = " (when it was tried again)"
            leak = self._memory(vm, ways) if memory and hunted.outcome not in BAD else None
            return hunted if leak is None else _with_memory(hunted, leak)
        except _Died as died:
            cycle = died.cycle
        except (ReadingError, TargetError) as error:
            if not vm.death():
                raise
            cycle = Cycle(self._driver, crash=error.text)
        text = end_of(vm, cycle) + when
        judgement = Judgement(_END[bool(cycle.crash)], None, (), (), text)
        return self._hunted(judgement, cycle)

    def _one(self, vm: OwnVm, ways: Sequence[Trial]) -> Hunted:
        """Try ways, and judge what stays of all of them."""
        # What stands behind a device is there before it, and still there when it was refused.
        behind: list[Plugged] = []
        try:
            hunted = self._left(vm, ways, behind)
            kept = hunted.cycle.not_released
            for one in reversed(behind):
                kept += vm.drive(partial(release, plugged=one))
        except (MonitorLost, MonitorTimeout) as error:
            raise _Died(ended(Cycle(self._driver), Step.RELEASE, error)) from None
        finally:
            for one in behind:
                one.close()
        if behind:
            vm.read()  # whoever counts what comes with more ways begins without it
        return hunted._replace(cycle=hunted.cycle._replace(not_released=kept))

    def _left(self, vm: OwnVm, ways: Sequence[Trial], behind: list[Plugged]) -> Hunted:
        before = book_of(vm.read())
        known = {(row.kind, row.address) for row in vm.stale(before.index.snapshot, _ALL)}
        cycle = Cycle(self._driver)
        for trial in ways:
            cycle = self._survived(vm, trial, behind)
        made = book_of(vm.read())
        devices = made.index.snapshot.devices.values()
        head = next((d.address for d in devices if d.id == cycle.id), None)
        after, judgement = judge_again(vm, before, made, head, name=self._driver)
        if not judgement.stale:
            outside = outside_of(after, [row.address for row in judgement.left])
            stale = vm.stale(after.index.snapshot, _ALL._replace(outside=outside))
            new = [row for row in stale if (row.kind, row.address) not in known]
            judgement = with_stale(judgement, made, new) if new else judgement
        return self._hunted(judgement, cycle, after, (before, made, after))

    def _memory(self, vm: OwnVm, ways: Sequence[Trial]) -> MemoryLeak | None:
        """Return what memory stays each time that ways are tried; they were, once.

        A few counts are enough where nothing does; otherwise each time is read.
        """

        def again() -> bool:
            return all(self._survived(vm, trial) for trial in (*ways,) * BETWEEN)

        if nothing_grows(vm, again, vm.read, by_size=len(ways) == 1):
            return None
        memory = Memory()
        memory.add(vm.blocks(vm.read()))
        for _ in range(CYCLES):
            for trial in ways:
                self._survived(vm, trial)
            memory.add(vm.blocks(vm.read()))
        leak = memory.leak()
        if leak is None or leak.is_sure:
            return leak

        def more(times: int) -> Blocks | None:
            for trial in (*ways,) * times:
                self._survived(vm, trial)
            return vm.blocks(vm.read())

        return leak if memory.goes_on(leak, more, -(-MORE // len(ways))) else None

    def _survived(self, vm: OwnVm, trial: Trial, refused: list[Plugged] | None = None) -> Cycle:
        cycle = self._attempt(vm, trial, refused)
        if cycle.crash or cycle.hang:
            raise _Died(cycle)
        return cycle

    def _on_a_full_bus(self) -> Iterator[Hunted]:
        if self._full is None:
            return
        vm = self._fresh()
        filler = recipe_for(_FILLER)
        try:
            for number in range(_PLACES_MAX):
                vm.drive(partial(plug, recipe=filler, id=f"full{number}"))
        except (MonitorError, PeerMissing) as error:
            cycle = ended(Cycle(self._driver), Step.DEVICE_ADD, error)
            if not cycle.refused:
                return
        vm.monitor.forget()
        hunted = self._try(vm, [self._full], memory=False)
        if hunted.outcome in BAD:
            message = hunted.cycle.refused or hunted.judgement.text
            yield self._found(hunted, [Failed(self._full, hunted.cycle, message)])

    # What is said of it ------------------------------------------------------------

    def _hunted(
        self,
        judgement: Judgement,
        cycle: Cycle,
        after: Book | None = None,
        books: tuple[Book, ...] = (),
    ) -> Hunted:
        return Hunted(
            self._recipe,
            self._machine,
            judgement.outcome,
            judgement,
            cycle,
            after=after,
            books=books,
            tried=self._tried,
        )

    def _plain(self, outcome: Outcome, text: str) -> Hunted:
        judgement = Judgement(outcome, None, (), (), text)
        refused = text if outcome == Outcome.REFUSED else None
        return self._hunted(judgement, Cycle(self._driver, step=Step.DEVICE_ADD, refused=refused))

    def _died(self, failure: Failed) -> Hunted:
        judgement = Judgement(_END[bool(failure.cycle.crash)], None, (), (), failure.message)
        return self._found(self._hunted(judgement, failure.cycle), [failure])

    def _found(self, hunted: Hunted, alike: Sequence[Failed]) -> Hunted:
        first = alike[0]
        hunted = hunted._replace(recipe=first.trial.recipe, tried=self._tried)
        way: ErrorPathJson = {
            "property": first.trial.property,
            "value": first.trial.value,
            "why": first.trial.why,
            "message": stable(first.message),
            "also": [failure.trial.describe() for failure in alike[1:]],
        }
        if first.after is not None:
            way["after"] = [trial.describe() for trial in first.after]
        if hunted.outcome in _END.values():
            hunted = hunted._replace(frames=self._frames(hunted, first))
            text = f"{first.trial.describe()}: {_told(hunted.outcome, hunted.text)}"
        else:
            said = f"{first.trial.describe()}: {stable(first.message)}"
            note = f"device_add was refused, and not all was taken back: {said}"
            hunted = hunted._replace(note=note)
            text = f"{said}; {hunted.text}"
        judgement = hunted.judgement._replace(text=first.with_before(text))
        return hunted._replace(judgement=judgement, error_path=way)

    def _frames(self, hunted: Hunted, failure: Failed) -> list[str] | None:
        """Say where QEMU crashed or stands, once where several ways end with the same words."""
        alone = failure.after is None and failure.trial is not self._full
        end = hunted.text
        if end in self._ends or not (alone or hunted.outcome == Outcome.HANG):
            return None
        if ": " in end:  # a signal alone says nothing of where it was
            self._ends.add(end)
        # More than one where it died when it was tried again.
        return self._vm.frames(hunted, 1 + BETWEEN)


def _with_memory(hunted: Hunted, leak: MemoryLeak) -> Hunted:
    outcome, text = Outcome.PARTIAL_LEAK, f"memory stays: {leak.text}"
    judgement = hunted.judgement._replace(outcome=outcome, cause=leak.cause, text=text)
    return hunted._replace(outcome=outcome, judgement=judgement, memory=leak)


def _told(end: Outcome, text: str) -> str:
    return f"QEMU died: {text}" if end == Outcome.CRASH else text
