"""Error paths: how what stays of ways to fail is found, without a QEMU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from qmrinspect.audit.outcome import Outcome
from qmrinspect.errors import TargetError
from qmrinspect.hotplug.failing import Trial
from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hotplug.unplug import Cycle, Step
from qmrinspect.hunt import errorpaths
from qmrinspect.hunt.errorpaths import ErrorPaths
from qmrinspect.hunt.failed import Failed
from qmrinspect.hunt.hunted import Hunted
from qmrinspect.hunt.judge import Judgement
from qmrinspect.hunt.rows import row_of
from qmrinspect.monitor.base import MonitorLost, MonitorTimeout
from qmrinspect.search.memory import CYCLES, MORE, Memory, MemoryLeak

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "counts, exact, readings, tries",
    [
        ((9, 9), (), 1, 2),
        ((9, 20), (), 2 + CYCLES, 2 + CYCLES),  # which blocks is not known
        ((9, 20, 20), (9, 9), 2, 4),  # coroutines that QEMU keeps
        ((9, 20, 22, 24), (9, 11, 13), 4 + CYCLES, 6 + CYCLES),
        ((0, 0), (), 2 + CYCLES, CYCLES),
    ],
)
def test_ways_after_which_no_block_is_left_are_read_seldom(
    counts: tuple[int, ...], exact: tuple[int, ...], readings: int, tries: int
) -> None:
    """One block may have gone; where the blocks are not known, each time is read."""
    read: list[int] = []
    left, known = iter(counts), iter(exact)

    def blocks(_: object) -> Any:
        live = next(known, None)
        tally = Counter({48: live or 0})
        return None if live is None else SimpleNamespace(live=(), tally=lambda: tally)

    vm: Any = SimpleNamespace(
        tally=lambda: Counter([48] * next(left)) or None,
        read=lambda: read.append(1),
        blocks=blocks,
    )
    paths = ErrorPaths(Recipe("some-pci", "PCI"), "pc", vm, lambda: vm)
    tried: list[object] = []
    paths._attempt = lambda vm, trial, refused=None: tried.append(trial) or Cycle("some-pci")  # type: ignore
    way: Any = object()
    assert paths._memory(vm, [way]) is None
    assert (len(read), len(tried)) == (readings, tries)


@pytest.mark.parametrize("survived", [1, 2])
def test_a_qemu_that_dies_of_a_way_tried_again_has_crashed(survived: int) -> None:
    """Before, that was no result, and reading the dead one for the next way ended the driver."""
    attempts = iter([*([Cycle("some-pci")] * survived), Cycle("some-pci", crash="gone")])
    vm: Any = SimpleNamespace(
        tally=lambda: 9, read=lambda: None, blocks=lambda _: None, death=lambda: "killed by SIGABRT"
    )
    paths = ErrorPaths(Recipe("some-pci", "PCI"), "pc", vm, lambda: vm)
    paths._attempt = lambda vm, trial, refused=None: next(attempts)  # type: ignore
    clean: Any = SimpleNamespace(outcome=Outcome.CLEAN)
    paths._one = lambda vm, ways: (paths._survived(vm, ways[0]), clean)[1]  # type: ignore
    way: Any = object()
    hunted = paths._try(vm, [way])
    text = "killed by SIGABRT (when it was tried again)"
    assert (hunted.outcome, hunted.text, hunted.memory) == ("crash", text, None)


def test_a_qemu_that_dies_while_it_is_read_has_crashed_and_no_other() -> None:
    alive: Any = SimpleNamespace(death=lambda: None)
    dead: Any = SimpleNamespace(death=lambda: "killed by SIGSEGV")
    paths = ErrorPaths(Recipe("some-pci", "PCI"), "pc", dead, lambda: dead)

    def one(vm: Any, ways: Any) -> Any:
        raise TargetError("process 4242 may not be read")

    paths._one = one  # type: ignore
    assert paths._try(dead, []).judgement.text == "killed by SIGSEGV"
    with pytest.raises(TargetError):
        paths._try(alive, [])


class Machine:
    """A QEMU that dies of the way ``last`` where the ways ``needed`` were before it."""

    def __init__(self, last: str, needed: Collection[str], first: bool = False) -> None:
        self.tried: list[str] = []
        self._last, self._needed, self._first = last, needed, first

    def attempt(self, trial: Trial) -> Cycle:
        way = trial.property
        self.tried.append(way)
        dies = way == self._last and (self._first or all(n in self.tried for n in self._needed))
        return Cycle("some-pci", crash="gone" if dies else None, refused="no", step=Step.DEVICE_ADD)

    def death(self) -> str:
        return "killed by SIGSEGV"

    def frames(self, hunted: Hunted, cycles: int) -> list[str]:
        return [f"#0 in {hunted.recipe.driver}"]


@pytest.mark.parametrize(
    ("needed", "after", "said"),
    [
        ((), None, ""),
        (("b",), ["b=1"], "; not of this way alone, but after b=1"),
        (
            ("a", "c"),
            ["a=1", "b=1", "c=1"],
            "; not of this way alone, one of these ways was before it: a=1, b=1, c=1",
        ),
        (None, ["a=1", "b=1", "c=1"], "was before it: a=1, b=1, c=1"),
    ],
)
def test_a_way_of_which_a_fresh_qemu_does_not_die_names_what_came_before(
    needed: Collection[str] | None, after: list[str] | None, said: str, monkeypatch: Any
) -> None:
    """The one of which QEMU died was named, although an earlier one in the same VM did it."""
    recipe = Recipe("some-pci", "PCI")
    ways = [Trial(name, 1, "too small", recipe) for name in "abcd"]
    monkeypatch.setattr(errorpaths, "trials", lambda recipe, properties: ways)
    monkeypatch.setattr(errorpaths, "more_trials", lambda *given: [])
    machines: list[Machine] = []

    def fresh() -> Any:
        # Without what is needed it dies once, and never again.
        machines.append(Machine("d", needed or (["?"] if needed is None else []), not machines))
        machine: Any = machines[-1]
        machine.drive = lambda function: []
        return machine

    paths = ErrorPaths(recipe, "pc", fresh(), fresh)
    paths._attempt = lambda vm, trial: vm.attempt(trial)  # type: ignore
    paths._judged = lambda failed: iter(())  # type: ignore
    (found,) = paths.run()
    row = row_of(found)
    assert row["outcome"] == "crash"
    assert row.get("backtrace") == (["#0 in some-pci"] if after is None else None)
    way = row["error_path"]
    assert way is not None and (way["property"], way.get("after")) == ("d", after)
    assert row["text"].endswith(f"killed by SIGSEGV{said}" if needed is not None else said)
    # The last one that was driven is the one of which the row tells.
    dead = [machine for machine in machines if machine.tried[-1:] == ["d"]]
    assert machines[-1].tried == [] and dead[-1] is machines[-2]


@pytest.mark.parametrize(
    ("error", "outcome", "how"),
    [
        (MonitorLost("the monitor is gone"), "crash", "QEMU died: killed by SIGSEGV"),
        (MonitorTimeout("no answer within 10 s"), "hang", "no answer within 10 s"),
    ],
)
def test_a_qemu_that_dies_of_telling_the_properties_has_crashed(
    error: Exception, outcome: str, how: str
) -> None:
    """Before, virtio-gpu-gl-pci of 7.2.22 without a display was "not done"."""

    def drive(step: Any) -> Any:
        raise error

    vm: Any = SimpleNamespace(drive=drive, death=lambda: "killed by SIGSEGV")
    [found] = ErrorPaths(Recipe("some-pci", "PCI"), "pc", vm, lambda: vm).run()
    said = f"device-list-properties: {how}"
    assert (found.outcome, found.text, found.tried) == (outcome, said, 0)


def test_what_ways_leave_together_and_none_alone_is_told() -> None:
    """Before, the driver was clean: nothing stayed of any way that was done by itself."""
    recipe = Recipe("some-pci", "PCI")
    vm: Any = SimpleNamespace(monitor=SimpleNamespace(forget=lambda: None))
    paths = ErrorPaths(recipe, "pc", vm, lambda: vm)

    def attempt(_: Any, ways: Any) -> Any:
        outcome = Outcome.LEAK if len(ways) > 1 else Outcome.CLEAN
        judgement = Judgement(outcome, None, (), (), "it is still there")
        return paths._hunted(judgement, Cycle("some-pci"))

    paths._try = attempt  # type: ignore
    said = {"a": "too small", "b": "too large"}
    failed = [
        Failed(Trial(name, 1, why, recipe), Cycle("some-pci"), why) for name, why in said.items()
    ]
    (found,) = paths._judged(failed)
    assert found.error_path is not None and found.error_path["after"] == ["a=1"]
    told = "b=1: too large; it is still there; not of this way alone, but after a=1"
    assert (found.outcome, found.text) == ("leak", told)
    assert list(paths._judged(failed[:1])) == []


def test_each_backend_that_is_missing_is_looked_for() -> None:
    """Before, the second one was not tried alone where QEMU's words are the same."""
    recipe = Recipe("some-pci", "PCI")
    vm: Any = SimpleNamespace(monitor=SimpleNamespace(forget=lambda: None))
    paths = ErrorPaths(recipe, "pc", vm, lambda: vm)
    tried: list[list[str]] = []

    def attempt(_: Any, ways: Any) -> Any:
        tried.append([way.describe() for way in ways])
        row: Any = SimpleNamespace(kind="list")
        stale = (row,) if len(ways) > 1 else ()
        judgement = Judgement(Outcome.LEAK, None, (), (), "it is still there", stale)
        return paths._hunted(judgement, Cycle("some-pci"))

    paths._try = attempt  # type: ignore
    ways = [("a", None), ("b", None), ("c", 1), ("d", 2)]
    failed = [
        Failed(Trial(name, value, "wrong", recipe), Cycle("some-pci"), f"no bus {value}")
        for name, value in ways
    ]
    found = [way for hunted in paths._judged(failed) if (way := hunted.error_path) is not None]
    together = ["without a", "without b", "c=1"]
    assert tried == [together, *([way] for way in together)]
    assert found[2]["also"] == ["d=2"]
    # What is stale after all of them, and after none alone, is told as well.
    assert found[3]["after"] == together[:2]


@pytest.mark.parametrize("bounded", [True, False])
def test_memory_in_doubt_is_tried_many_times_more(bounded: bool, monkeypatch: Any) -> None:
    """Before, what error paths leave was told after six times, a pool's blocks as well."""
    leak = MemoryLeak("growing-memory", 1, 40, ())

    def goes_on(self: Memory, leak: object, more: Any, cycles: int) -> bool:
        assert cycles == MORE // 2
        assert more(cycles) is not None
        return not bounded

    monkeypatch.setattr(Memory, "leak", lambda self: leak)
    monkeypatch.setattr(Memory, "goes_on", goes_on)
    vm: Any = SimpleNamespace(
        tally=lambda: None, read=lambda: None, blocks=lambda _: SimpleNamespace(live=())
    )
    paths = ErrorPaths(Recipe("some-pci", "PCI"), "pc", vm, lambda: vm)
    tried: list[object] = []
    paths._attempt = lambda vm, trial, refused=None: tried.append(trial) or Cycle("a")  # type: ignore
    ways: Any = [object(), object()]
    assert paths._memory(vm, ways) == (None if bounded else leak)
    assert len(tried) == 2 * CYCLES + MORE
