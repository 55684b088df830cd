"""QEMUs that die while a hunt drives and reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from qmrinspect.audit.outcome import Outcome
from qmrinspect.errors import TargetError
from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hunt import sure
from qmrinspect.hunt.cycle import Hunt
from qmrinspect.hunt.job_vm import JobVm
from qmrinspect.hunt.pool import VmPool
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


@pytest.mark.parametrize(
    ("outcome", "kept", "ends"),
    [
        ("clean", (), {1: False, 5: False}),
        ("clean", ("a chardev: busy",), {1: True, 5: True}),
        ("leak", (), {1: True, 5: False}),
        # The device holds it; its growth is of one VM.
        ("leak", ("a chardev: busy",), {1: True, 5: False}),
        ("crash", (), {1: True, 5: True}),
    ],
)
def test_a_vm_serves_on_after_what_harms_nobody(
    outcome: str, kept: tuple[str, ...], ends: dict[int, bool]
) -> None:
    hunted: Any = SimpleNamespace(
        outcome=Outcome(outcome), cycle=SimpleNamespace(not_released=kept, step=None)
    )
    ended = {}
    for cycles in (1, 5):
        closed: list[int] = []
        vm: Any = SimpleNamespace(
            before=[],
            found=lambda *_: None,
            close=partial(closed.append, 1),
        )
        pool = VmPool(Settings(start_options=(), cycles=cycles))
        pool._vm = vm
        pool._found(Job("some-pci"), hunted, 1)
        assert vm.before == ["some-pci"]
        ended[cycles] = bool(closed)
    assert ended == ends
