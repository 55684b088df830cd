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
from qmrinspect.hotplug.unplug import Cycle
from qmrinspect.hunt import sure
from qmrinspect.hunt.cycle import Hunt
from qmrinspect.hunt.hunted import Hunted
from qmrinspect.hunt.job_vm import JobVm
from qmrinspect.hunt.judge import Judgement
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.hunt.suspects import caused_by, cleared

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


@pytest.mark.parametrize("counted", [False, True])
def test_a_fresh_qemu_that_dies_while_it_is_read_has_crashed(counted: bool) -> None:
    """Of the cycle, or after it, when the blocks that it left are counted."""
    death: list[str | None] = ["killed by SIGSEGV"]
    vm: Any = SimpleNamespace(
        death=lambda: death[0],
        blocks=_unreadable,
        close=lambda: None,
        frames=lambda hunted, cycles: [f"#0 of {cycles}"],
        monitor=SimpleNamespace(forget=lambda: None),
    )
    fresh: list[Hunt] = []
    after: Any = SimpleNamespace(index=SimpleNamespace(snapshot=None))
    recipe, verdict = (
        Recipe("some-pci", "PCI"),
        Judgement(Outcome.CLEAN, None, (), (), "it is gone"),
    )
    clean = Hunted(recipe, "pc", verdict.outcome, verdict, Cycle("some-pci"), after=after)
    with JobVm(Settings(start_options=())) as job_vm:

        def ready(job: Job) -> Any:
            fresh.append(Hunt(vm))
            fresh[-1].one = (lambda recipe, id: clean) if counted else _unreadable  # type: ignore
            job_vm._hunt, job_vm._before = fresh[-1], []
            return vm, recipe

        job_vm.ready = ready  # type: ignore
        hunted = job_vm.cycle(Job("some-pci"), count=True)
        assert (hunted.outcome, hunted.text) == ("crash", "killed by SIGSEGV")
        assert hunted.frames == ["#0 of 1"]
        assert len(fresh) == 2  # the first may have died of what was there before
        death[0] = None
        with pytest.raises(TargetError):
            job_vm.cycle(Job("some-pci"), count=True)


def _ended(outcome: Outcome, before: tuple[str, ...]) -> Hunted:
    judgement = Judgement(outcome, None, (), (), f"it ends {outcome}")
    return Hunted(Recipe("victim", "PCI"), "pc", outcome, judgement, Cycle("victim"), before=before)


@pytest.mark.parametrize(
    ("ends", "search", "told"),
    [
        ({(): "crash"}, True, None),  # alone as well
        ({(): "clean"}, True, ["guilty"]),
        ({(): "clean"}, False, []),
    ],
)
def test_who_dies_after_others_is_hunted_alone(
    ends: dict[tuple[str, ...], str], search: bool, told: list[str] | None
) -> None:
    def again(names: Sequence[str]) -> Hunted:
        outcome = "crash" if "guilty" in names else ends[()]
        return _ended(Outcome(outcome), tuple(names))

    after = cleared(_ended(Outcome.CRASH, ("sound", "guilty")), again, search)
    assert (after.outcome, after.before, after.guilty) == (ends[()], (), told)
    if told is not None:
        who = told[0] if told else "2 others, guilty last,"
        assert after.note == f"QEMU dies of it where {who} came before: it ends crash"
    first = _ended(Outcome.CRASH, ())
    assert cleared(first, again, search) is first


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
    vms = {cycles: JobVm(Settings(start_options=(), cycles=cycles)) for cycles in (1, 5)}
    assert {cycles: vm._is_harmed(hunted) for cycles, vm in vms.items()} == ends
