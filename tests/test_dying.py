"""QEMUs that die while a hunt drives and reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from qmrinspect.audit.outcome import Outcome
from qmrinspect.errors import TargetError
from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hunt import sure
from qmrinspect.hunt.cycle import Hunt
from qmrinspect.hunt.job_vm import JobVm
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.hunt.suspects import caused_by
from qmrinspect.search.memory import Memory

pytestmark = pytest.mark.unit


def _unreadable(*_: object) -> Any:
    raise TargetError("process 4242 has ended")


def test_a_qemu_that_dies_of_a_later_cycle_is_no_job_undone(monkeypatch: Any) -> None:
    """Before, where it was read too late, nothing was judged."""
    monkeypatch.setattr(sure, "more_cycles", lambda monitor, recipe, id, count: count)
    hunt: Any = SimpleNamespace(take_reading=_unreadable)
    vm: Any = SimpleNamespace(tally=lambda: Counter({48: 9}), drive=lambda step: step(None))
    vm.death = lambda: "killed by SIGSEGV"
    assert sure.is_sure(hunt, vm, Recipe("some-pci", "PCI")) is False
    vm.death = lambda: None
    with pytest.raises(TargetError):
        sure.is_sure(hunt, vm, Recipe("some-pci", "PCI"))


def test_a_fresh_qemu_that_dies_while_it_is_read_has_crashed() -> None:
    death: list[str | None] = ["killed by SIGSEGV"] * 2
    vm: Any = SimpleNamespace(death=lambda: death[0], blocks=_unreadable, close=lambda: None)
    vm.monitor = SimpleNamespace(forget=lambda: None)
    fresh: list[Hunt] = []
    with JobVm(Settings(start_options=())) as job_vm:

        def ready(job: Job) -> Any:
            fresh.append(Hunt(vm))
            fresh[-1].one = _unreadable  # type: ignore
            job_vm.hunt = fresh[-1]
            return vm, Recipe("some-pci", "PCI")

        job_vm.ready = ready  # type: ignore
        hunted = job_vm.cycle(Job("some-pci"))
        assert (hunted.outcome, hunted.judgement.text) == ("crash", "killed by SIGSEGV")
        assert len(fresh) == 2  # the first may have died of what was there before
        after: Any = SimpleNamespace(index=SimpleNamespace(snapshot=None))
        clean = hunted._replace(outcome=Outcome.CLEAN, after=after)
        assert fresh[-1].remembered(Memory(), clean).outcome == "crash"
        death[0] = None
        with pytest.raises(TargetError):
            job_vm.cycle(Job("some-pci"))


def test_who_harmed_a_vm_is_searched_among_the_likely_ones_first() -> None:
    before = [f"dev{number:02}" for number in range(20)]

    def search(*guilty: str) -> tuple[list[str], int]:
        tried: list[Sequence[str]] = []

        def causes(names: Sequence[str]) -> bool:
            tried.append(names)
            return set(guilty) <= set(names)

        return caused_by("dev03-like", before, causes), len(tried)

    assert search("dev03") == (["dev03"], 1)  # a name that is alike
    assert search("dev19")[1] <= 4  # one of the last two
    assert search("dev11")[0] == ["dev11"]  # by halves
    assert search("dev01")[0] == []  # too long ago
    assert search("dev12", "dev18")[0] == []  # both together, which halves tear apart
