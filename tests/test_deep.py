"""Deep hunts: error paths, and memory that stays with every cycle."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import release

from qmrinspect.audit.agreement import agrees
from qmrinspect.audit.outcome import Outcome
from qmrinspect.audit.stale import stale_text
from qmrinspect.campaign.expect import Expectations
from qmrinspect.errors import UsageError
from qmrinspect.hotplug.failing import FULL, more_trials, trials
from qmrinspect.hotplug.kinds import Backend, Recipe
from qmrinspect.hunt import again, sure
from qmrinspect.hunt.came import Came
from qmrinspect.hunt.introspect import Total
from qmrinspect.hunt.judge import Judgement
from qmrinspect.hunt.own_vm import OwnVm
from qmrinspect.hunt.pool import Job, Settings, VmPool
from qmrinspect.hunt.rows import key
from qmrinspect.monitor.arguments import Property
from qmrinspect.monitor.base import CommandError, Monitor
from qmrinspect.report.rows import type_lines, verdict_lines
from qmrinspect.search.stale import Where
from qmrinspect.snapshot import Stale

TOOLS = Path(__file__).parent.parent / "tools"
EVERY_WORD = Where(every_word=True)


# Ways to fail -----------------------------------------------------------------------

_DRIVE = Backend("drive", "{id}-node", "blockdev-add", {}, "blockdev-del", "node-name")
_RECIPE = Recipe("some-pci", "PCI", {"serial": "x"}, (_DRIVE,))


@pytest.mark.unit
def test_the_ways_to_fail_follow_from_types_and_recipe() -> None:
    rows = [
        *(Property("size", "uint16"), Property("delta", "int8"), Property("mem", "size")),
        *(Property("romfile", "str"), Property("addr", "int32"), Property("on", "bool")),
        *(Property("drive", "str"), Property("part", "child<some-part>"), Property("pcap", "str")),
        Property("rng", "link<rng-backend>"),
    ]
    found = {(trial.property, trial.value) for trial in trials(_RECIPE, rows)}
    assert {("size", 0), ("size", 65535), ("delta", -128), ("delta", 127), ("mem", 0)} <= found
    assert {("drive", None), ("serial", None), (FULL, None), ("addr", "1.0")} <= found
    assert {name for name, value in found if value == "qmr-no-such"} == {"drive", "rng"}
    # What is a file's name for some device, and was made where the hunt was started.
    assert ("pcap", "qmr-no-such/it") in found
    assert not {name for name, _ in found} & {"on", "part"}
    missing = next(t for t in trials(_RECIPE, rows) if (t.property, t.value) == ("drive", None))
    assert not missing.recipe.backends and missing.describe() == "without drive"
    taken = next(t for t in trials(_RECIPE, rows) if t.property == "size" and t.value)
    assert taken.recipe.properties == {"serial": "x", "size": 65535}
    assert taken.describe() == "size=65535"


@pytest.mark.unit
def test_what_qemu_names_is_tried_as_well() -> None:
    rows = [Property("rx_queue_size", "uint16"), Property("other", "uint16")]
    said = "Invalid rx_queue_size (= 0), must be a power of 2 between 256 and 1024."
    found = {(t.property, t.value) for t in more_trials(_RECIPE, rows, said)}
    assert {("rx_queue_size", 255), ("rx_queue_size", 1025), ("rx_queue_size", 1)} <= found
    assert {name for name, _ in found} == {"rx_queue_size"}


# Judged ---------------------------------------------------------------------------


@pytest.mark.unit
def test_no_policy_decides_over_memory_that_is_no_object() -> None:
    foretold: Any = {"outcome": "clean", "cause": ""}
    row: Any = {"outcome": "partial-leak", "text": ""}
    assert agrees(foretold, {**row, "cause": "growing-memory"})
    assert agrees(foretold, {**row, "cause": "grows-in-tree"})
    assert not agrees(foretold, {**row, "cause": "unbalanced"})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("counts", "exact", "enough", "readings"),
    [
        ([None, None], [], None, 1),  # another allocator's heap
        ([103, 103], [], True, 1),
        ([None, 103, 103], [], True, 2),  # not known this once
        ([103, None, None], [], None, 2),  # nor any more
        ([103, 105, 106, 106], [105, 107], True, 3),
        ([103, 105, 107, 109], [105, 105], True, 2),  # what goes by itself, and pools
        ([103, 105, 107, 109], [105, 107, 109], False, 3),
        ([103, 104, 107, 108], [105, 106, 109], False, 3),  # something else freed a block
        ([103, 105, None, 107, 109], [105, 107, 109], False, 4),
        ([(103, 9), (105, 6), (107, 6), (109, 6)], [(5, 9), (7, 5), (9, 5)], False, 3),  # others
        ([(103, 9), (99, 14), (99, 14)], [(99, 14), (99, 14)], True, 2),  # once
    ],
)
def test_one_cycle_is_not_enough_where_blocks_grow(
    monkeypatch: pytest.MonkeyPatch,
    counts: list[int | tuple[int, int] | None],
    exact: list[int | tuple[int, int]],
    enough: bool | None,
    readings: int,
) -> None:
    def tally(live: int | tuple[int, int] | None) -> Counter[int] | None:
        return (
            None
            if live is None
            else Counter(dict(zip((48, 64), (live, 9) if isinstance(live, int) else live)))
        )

    left, live, seen = list(counts), iter(exact), []
    monkeypatch.setattr(sure, "more_cycles", lambda monitor, recipe, id, count: count)
    vm: Any = SimpleNamespace(
        tally=lambda: tally(left.pop(0)),
        drive=lambda step: step(None),
        blocks=lambda snapshot: SimpleNamespace(tally=lambda: tally(next(live))),
    )
    book = SimpleNamespace(index=SimpleNamespace(snapshot=None))
    hunt: Any = SimpleNamespace(take_reading=lambda: seen.append(1) or book)
    assert sure.is_sure(hunt, vm, Recipe("some-pci", "PCI")) is enough
    assert len(seen) == readings


@pytest.mark.unit
def test_what_came_with_a_plug_is_all_that_there_is_more() -> None:
    sizes = iter([{16: 24, 64: 40}, {16: 56, 64: 40, 128: 8}])
    blocks = SimpleNamespace(sizes=lambda: next(sizes))
    driver: Any = SimpleNamespace(blocks=lambda snapshot: blocks)
    book: Any = SimpleNamespace(index=SimpleNamespace(snapshot=None))
    came = Came(driver, True)
    came.begin(book)
    came.end(book)
    assert came.ranges == [(16, 72), (128, 136)]
    unwanted = Came(driver)
    unwanted.begin(book)
    unwanted.end(book)
    assert not unwanted.ranges


# Reports ----------------------------------------------------------------------------


@pytest.mark.unit
def test_error_paths_are_told_apart_by_property(tmp_path: Path) -> None:
    way = {"property": "period", "message": "'period' parameter expects a positive integer"}
    row = {"device": "d", "outcome": "leak", "cause": "c", "causes": ["c"], "error_path": way}
    assert key(row) != key({**row, "error_path": {**way, "property": "other"}})
    assert key({**row, "error_path": None}) == ("d", "leak", "c")
    rules = tmp_path / "rules.json"
    rules.write_text('[{"property": "period", "message": "*positive*", "reason": "#2845"}]')
    expected = Expectations(str(rules))
    assert expected.match(row) == "#2845"
    assert not expected.match({**row, "error_path": None})
    rules.write_text('[{"colour": "red", "reason": "none"}]')
    with pytest.raises(UsageError, match="no use for colour"):
        Expectations(str(rules))


def _tool(name: str) -> Any:
    spec = spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.mark.unit
def test_the_page_of_hunts_has_a_line_for_each_and_what_was_not_done(tmp_path: Path) -> None:
    tool = _tool("make_hunts")
    irq = {"cause": "unbalanced", "text": "irq has 1 reference"}
    leak = {"device": "ich9-ahci", "outcome": "partial-leak", **irq}
    cpu = {"device": "486-x86_64-cpu", "outcome": "leak", "cause": "c", "text": "t"}
    for number, machine in enumerate(("pc-q35-10.2", "pc-i440fx-10.2")):
        about = {"qemu_version": "10.2.2 (Debian)", "machine": machine}
        kept = {"device": "x", "outcome": "refused", "hotpluggable": False}
        rows = [{**row, **about} for row in (leak, cpu, {**cpu, "device": "b-cpu"}, kept)]
        end = {"summary": {}, "not_done": [{}] * number}
        text = "".join(json.dumps(row) + "\n" for row in (*rows, end))
        (tmp_path / str(number)).write_text(text)
    page = list(tool.lines([tool.read(str(tmp_path / name)) for name in "01"], "abc"))
    assert "| 10.2.2 | q35 | 3 | 0 | 0 | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 0 |" in page
    assert "| 10.2.2 | pc | 3 | 0 | 0 | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 1 |" in page
    found = [line for line in page if line.startswith("| `")]
    assert len(found) == 2 and found[0].startswith("| `CPU models` | leak | 10.2.2 (pc, q35) |")
    assert "hw/ide/ahci.c" in found[1]


@pytest.mark.unit
def test_the_page_of_campaigns_tells_each_finding_once() -> None:
    tool = _tool("make_deep")
    row = {"device": "i82559a", "outcome": "stale", "cause": "reset-handler", "text": "it <0x12>"}
    way = {"property": "rombar", "message": "no | here on the monitor /x/qmp"}
    rows = [
        {**row, "qemu_version": "7.2.22 (Debian)"},
        {**row, "qemu_version": "11.1.3"},
        {**row, "device": "odd", "error_path": way, "qemu_version": "11.1.3"},
        {**row, "outcome": "clean", "device": "edu", "qemu_version": "11.1.3"},
    ]
    campaign = tool.Campaign("--cycles", "2026-11-26 abc", rows)
    text = list(tool.lines([campaign]))
    assert "| 11.1.3 | `--cycles` | 2026-11-26 abc | 3 | 3 | 1 |" in text
    page = [line for line in text if line.startswith("| `")]
    assert len(page) == 2
    assert "| 11.1.3, 7.2.22 | stale | reset-handler | plug, unplug | hw/net/eepro100.c" in page[0]
    assert page[1].endswith("`rombar`: no \\| here | it |")


@pytest.mark.unit
@pytest.mark.parametrize("known", [True, False])
def test_the_page_of_campaigns_puts_cpu_models_together(known: bool) -> None:
    tool = _tool("make_deep")
    cause = "same-owner-subregions" if known else "odd"
    row = {"outcome": "leak", "cause": cause, "text": "x", "qemu_version": "7.2.22"}
    rows = [{**row, "device": f"{name}-x86_64-cpu"} for name in ("athlon", "qemu64")]
    text = tool.lines([tool.Campaign("--cycles", "abc", rows)])
    page = [line.split("|")[1].strip() for line in text if line.startswith("| `")]
    assert page == (["`2 CPU models`"] if known else ["`athlon-x86_64-cpu`", "`qemu64-x86_64-cpu`"])


# Candidates -------------------------------------------------------------------------


def _stale(certain: bool) -> Stale:
    return Stale("timer" if certain else "candidate", 1, 2, 3, 4, "f", True, 3, 64, certain)


@pytest.mark.unit
def test_candidates_are_apart_from_what_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Judgement(Outcome.CLEAN, None, (), (), "it was finalized")
    book: Any = SimpleNamespace(index=SimpleNamespace(snapshot=None, home=lambda _: None))
    for name, value in (("judge", sound), ("memory_of", [(3, 67)]), ("outside_of", [])):
        monkeypatch.setattr(again, name, lambda *_, value=value: value)
    for found, outcome, candidates in (
        ([_stale(False)], "clean", 1),
        ([_stale(True)], "stale", 0),
        ([_stale(True), _stale(False)], "stale", 1),
    ):
        driver: Any = SimpleNamespace(
            read=lambda: None, stale=lambda *_, found=found: found, drive=lambda step: None
        )
        judgement = again.judge_again(driver, book, book, 0, lambda: book)[1]
        assert (judgement.outcome, len(judgement.candidates)) == (outcome, candidates)
        assert all(row.certain for row in judgement.stale)


@pytest.mark.unit
def test_a_candidate_is_told_as_one() -> None:
    assert "would call f with" in stale_text(_stale(True))
    assert "has f beside a pointer to" in stale_text(_stale(False))
    row: Any = {"device": "d", "outcome": "clean", "objects_left": [], "text": ""}
    row["candidates"] = [{"text": stale_text(_stale(False))}]
    assert any(line.startswith("    not certain: a structure") for line in verdict_lines(row))


@pytest.mark.unit
def test_the_sum_of_types_has_every_outcome() -> None:
    ends = {str(word): 1 for word in Outcome}
    (line,) = type_lines([Total("qemu-system-x86_64", len(ends), ends, {})], [])
    assert all(f"1 {word}" in line for word in ends)


# On QEMUs ---------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", ["7.2", "11.1"])
def test_a_realize_that_fails_leaves_everything_behind_since_9_2(version: str) -> None:
    """virtio-pci makes an address space before it realizes, and destroys it in exit alone."""
    leaks = version != "7.2"
    with VmPool(Settings(start_options=(), error_paths=True, qemu=release(version))) as pool:
        rows = list(pool.do(Job("virtio-rng-pci")))
        (sound,) = pool.do(Job("edu")) if leaks else rows
    assert (sound["outcome"], sound["error_path"]) == ("clean", None)
    assert sound["tried"] > 3 and "nothing stays of any" in sound["text"]
    if not leaks:
        return
    assert {(row["outcome"], row["cause"]) for row in rows} == {("leak", "address-space-root")}
    ways = {row["error_path"]["property"]: row for row in rows}
    assert ways["period"]["error_path"]["value"] == 0
    assert "expects a positive integer" in ways["period"]["error_path"]["message"]
    assert ways["period"]["text"].startswith("period=0: 'period' parameter expects")
    assert "virtio-pci-cfg-mem-as" in ways["period"]["text"]
    assert ways["period"]["objects_left"]
    # What is refused before realize leaves nothing.
    assert "rng" not in ways and "disable-legacy" not in ways


@pytest.mark.timeout(240)
def test_each_bus_that_a_device_is_without_leaves_what_was_made_before() -> None:
    """QEMU says the same of both, and where the second one fails the first is joined."""
    with VmPool(Settings(start_options=("can",), error_paths=True)) as pool:
        rows = list(pool.do(Job("pcm3680_pci")))
    left = [row for row in rows if row["outcome"] == "partial-leak"]
    assert {"canbus0", "canbus1"} <= {row["error_path"]["property"] for row in left}
    assert {row["cause"] for row in left} == {"unbalanced"}


def test_a_list_that_begins_in_an_object_leads_to_a_device_that_was_refused() -> None:
    """pcm3680_pci joins its first bus, and does not leave it where there is no second."""

    def refused(monitor: Monitor) -> None:
        arguments = {"driver": "pcm3680_pci", "id": "dut", "canbus0": "bus"}
        with pytest.raises(CommandError, match="can_sja_connect_to_bus failed"):
            monitor.execute("device_add", arguments)

    for _ in range(12):  # what was freed may be in use again
        with OwnVm((), extra=("-object", "can-bus,id=bus")) as vm:
            assert not [row for row in vm.stale(vm.read(), EVERY_WORD) if row.certain]
            vm.drive(refused)
            snapshot = vm.read()
            found = [row for row in vm.stale(snapshot, EVERY_WORD) if row.certain]
        if found:
            break
    (row,) = found
    (bus,) = (at for at, obj in snapshot.objects.items() if obj.type == "can-bus")
    assert (row.kind, row.freed, 0 < row.word - bus < 64) == ("list", True, True)


@pytest.mark.timeout(240)
def test_memory_that_stays_with_every_cycle_is_a_leak(tmp_path: Path) -> None:
    """A console that is used again gets a timer that nobody frees (ui/console.c)."""
    with VmPool(Settings(start_options=(), cycles=2)) as pool:
        sound = list(pool.do(Job("virtio-net-pci")))[-1]
    # One cycle is enough where it left as much as it found; it is not of this one.
    with VmPool(Settings(start_options=(), bundle=str(tmp_path), sure=True)) as pool:
        (first,) = pool.do(Job("virtio-net-pci"))
        assert (first["outcome"], first["cycle"]) == ("clean", 1)
        (row,) = pool.do(Job("secondary-vga"))
    assert sound["outcome"] == "clean" and "memory" not in sound
    assert (row["outcome"], row["cause"]) == ("partial-leak", "unreachable-memory")
    (group,) = row["memory"]["groups"]
    assert (group["blocks"], group["reached"]) == (1, "")
    assert row["text"].startswith("secondary-vga was finalized, and memory stays: 1 block, ")
    kept = json.loads(Path(row["bundle"], "verdict.json").read_text())["row"]
    assert (kept["outcome"], kept["memory"]) == (row["outcome"], row["memory"])
