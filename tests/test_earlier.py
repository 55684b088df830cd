"""What one command learned of a process serves the next one, and is never relied on."""

from __future__ import annotations

import json
import os
import random
import stat
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Qmr
from fakes import FakeMachine
from test_instants import Running, changes, same

from qmrinspect.earlier import Earlier, recall, remember
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.strict import doubted
from qmrinspect.target.image import PAGE
from qmrinspect.target.process import Process


def learned_of(machine: FakeMachine) -> Earlier:
    """Return what a first command learns of a machine."""
    reader = Reader(Running(iter([machine.build()])), [machine.layout])
    reader.read()
    learned = reader.learned()
    assert learned is not None and learned.pages and learned.met
    return learned


@pytest.mark.unit
def test_what_was_read_before_is_copied_and_tested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine()
    learned = learned_of(machine)
    met, calls = sorted(learned.met), list[str]()
    # Of another layout nothing is believed, and of this one nothing of types that are new.
    for earlier, copied, tested in (
        (None, 2, 1),
        (learned, 1, 0),
        (learned._replace(layout=1), 2, 1),
        (learned._replace(met=frozenset(met[1:])), 1, 1),
    ):
        target = Running(iter([machine.build()]))
        calls.clear()
        copy = target.copy
        with monkeypatch.context() as patch:
            patch.setattr(target, "copy", lambda how, do=copy: calls.append("copy") or do(how))
            patch.setattr(
                "qmrinspect.fitting.doubted", lambda rows: calls.append("test") or doubted(rows)
            )
            reader = Reader(target, [machine.layout], earlier=earlier)
            snapshot = reader.read()
        same(snapshot, target.frozen, machine)
        assert (snapshot.capture.way, snapshot.capture.stops) == ("pages", 1)
        assert len(target.stops) == 1 and learned.pages <= target.stops[0]
        assert (calls.count("copy"), calls.count("test")) == (copied, tested)
        assert (reader.learned() is None) == (earlier is learned)


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(4))
def test_what_is_wrong_or_old_costs_stops_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    machine = FakeMachine()
    learned = learned_of(machine)
    pages = sorted(learned.pages)
    for some in ([], chance.sample(pages, len(pages) // 2), [1, 2, pages[0], 1 << 35], pages):
        target = Running(changes(machine, seed))
        earlier = learned._replace(pages=frozenset(some))
        reader = Reader(target, [machine.layout], earlier=earlier)
        for _ in range(3):
            same(reader.read(), target.frozen, machine)


@pytest.mark.unit
def test_what_tells_live_blocks_is_read_as_long_as_many_come_and_go() -> None:
    machine = FakeMachine()
    learned = learned_of(machine)
    everything = {m.start // PAGE for m in machine.build().mappings()}
    other = min(everything - learned.pages)
    earlier = learned._replace(heap=frozenset({other}), blocks=2)
    for blocks in (1, 0):
        target = Running(iter([machine.build()]))
        reader = Reader(target, [machine.layout], earlier=earlier)
        same(reader.read(), target.frozen, machine)
        assert other in target.stops[0]
        found = reader.learned()
        assert found is not None and found.blocks == blocks
        earlier = earlier._replace(blocks=blocks)
    target = Running(iter([machine.build()]))
    Reader(target, [machine.layout], earlier=earlier).read()
    assert other not in target.stops[0]


@pytest.mark.unit
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"layout": 1, "met": []}',
        '{"layout": 1, "met": 5, "heap": [], "blocks": 3, "pages": []}',
        '{"layout": 1, "met": [], "heap": [], "blocks": 3, "pages": [[0, 1e99]]}',
        '{"layout": 1, "met": [], "heap": [], "blocks": 3, "pages": [[0, 99999999999999]]}',
        '{"layout": 1, "met": [], "heap": [], "blocks": 3, "pages": [[-5, 3]]}',
        '{"layout": 1, "met": [], "heap": [], "blocks": 3, "pages": [7]}',
        '{"layout": 1, "met": [], "heap": [], "blocks": 3, "pages": ' + "[" * 100_000,
    ],
)
def test_a_damaged_file_is_none(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = FakeMachine().build()
    monkeypatch.setattr(target, "pid", os.getpid())
    earlier = Earlier(7, frozenset({"a"}), frozenset({3, 4, 9}), frozenset({5}), 2)
    remember(target, earlier)
    assert recall(target) == earlier
    (path,) = (tmp_path / "qmr" / "processes").iterdir()
    path.write_text(content)
    assert recall(target) is None


@pytest.mark.timeout(120)
def test_the_next_command_reads_what_the_last_one_did(
    qmr: Qmr, fresh_vm: Vm, tmp_path: Path
) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    directory = tmp_path / "qmr" / "processes"
    directory.mkdir(parents=True)
    for name in ("999999999-1-ab.json", "x-1-ab.json"):
        (directory / name).write_text("{}")

    def check() -> dict[str, object]:
        ran = qmr(fresh_vm.pid, "check", "--json", env=env)
        assert ran.code == 0, ran
        return dict(json.loads(ran.out))

    first, second = check(), check()
    # What is known of processes that have ended goes.
    path, other = sorted(directory.iterdir())
    assert path.name.startswith(f"{fresh_vm.pid}-") and other.name.startswith("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for data in (first, second):
        data["capture"] = {k: data["capture"][k] for k in ("way", "stops", "quiescent")}
    assert first == second

    earlier = recall_of(fresh_vm, tmp_path)
    with fresh_vm.monitor() as monitor:
        monitor.execute("device_add", {"driver": "e1000e", "id": "since"})
    assert check()["objects"] > first["objects"]
    assert recall_of(fresh_vm, tmp_path).pages != earlier.pages


def recall_of(vm: Vm, cache: Path) -> Earlier:
    """Return what is kept of a VM."""
    with pytest.MonkeyPatch.context() as patch, closing(Process(vm.pid)) as target:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        earlier = recall(target)
    assert earlier is not None
    return earlier
