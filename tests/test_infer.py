"""Layouts that are inferred: from the tables of a process, its code, and live structures."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import NEWEST, FakeMachine, shifted
from mutants import Bench, findings, moved, mutants

from qmrinspect.errors import LayoutError
from qmrinspect.hotplug.device_set_vm import DeviceSetVm
from qmrinspect.hotplug.vm import Vm
from qmrinspect.infer import anchors, infer, recall, references
from qmrinspect.infer import layout as infer_layout
from qmrinspect.infer.anchors import Anchors, TypeAnchors
from qmrinspect.infer.code import Access, accesses, offsets
from qmrinspect.infer.draft import CONFIRMED, Reference
from qmrinspect.infer.homes import outermost, parts
from qmrinspect.infer.predict import Guess, anchors_between, predict
from qmrinspect.infer.tables import read_anchors
from qmrinspect.layout import Layout, find, load
from qmrinspect.layout.find import profiles
from qmrinspect.layout.schema import REQUIRED
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process
from qmrinspect.walk import program_of

STOCK = "7.2.22"
TOOL = Path(__file__).resolve().parent.parent / "tools" / "stock_qemu.py"


def stock(version: str) -> str:
    """Return a QEMU of tools/stock_qemu.py."""
    tool = ["/usr/bin/python3", str(TOOL), version]
    found = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.fixture(scope="module")
def truth() -> Layout:
    return load(next(path for path in profiles() if path.stem == STOCK), "truth")


@pytest.fixture
def without_stock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No profile of the installed QEMU, and no cache."""
    others = [path for path in profiles() if path.stem != STOCK]
    monkeypatch.setattr(find, "profiles", lambda: others)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield


def test_every_profile_has_anchors() -> None:
    for path in profiles():
        found = anchors.load(path.with_suffix(".anchors.gz"))
        assert found.size("device") == load(path, "x").size("DeviceState")
        assert len(found.code) > 20


def test_an_unknown_qemu_is_read_as_well_as_a_known_one(
    stock_vm: Vm, truth: Layout, without_stock: None
) -> None:
    reader = Reader(Process(stock_vm.pid))
    report = reader.check()
    assert reader.layout is not None
    assert report.book.index.snapshot.target.layout == "inferred"
    assert report.exact == report.objects > 300
    assert not report.findings and not report.not_judged
    confirmed = [f for f, word in reader.layout.evidence.items() if word in CONFIRMED]
    known = [field for field in confirmed if truth.has(*field.split("."))]
    assert len(known) > 120
    # Of a part of a part only the sum is used.
    sums = [field for field in known if outermost(field) == field.split(".")[0]]
    sums += ["PCIESriovPF.vf", "PCIESriovVF.pf"]
    assert not [field for field in sums if place(reader.layout, field) != place(truth, field)]
    assert {"named", "code", "seen", "solved"} <= set(reader.layout.evidence.values())
    left_out = [f for f, word in reader.layout.evidence.items() if word == "unconfirmed"]
    assert not any(reader.layout.has(*field.split(".")) for field in left_out)


# What is stock, with what devices, and the profiles that are left.
UNKNOWN = {
    "11.1 from the one before": ("11.1", "q35", "mixed", ["10.2.2"]),
    "11.1, nothing but the machine": ("11.1", "pc", "none", ["10.2.2", "10.0.13", "7.2.22"]),
    "10.0 from the one before": ("10.0", "q35", "mixed", ["7.2.22"]),
    "7.2, nothing but the machine": ("", "q35", "none", ["10.0.13"]),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_stock_qemus_are_exact_without_their_profile(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version, machine, devices, left = UNKNOWN[case]
    program = stock(version) if version else "qemu-system-x86_64"
    few = [path for path in profiles() if path.stem in left]
    monkeypatch.setattr(find, "profiles", lambda: few)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with DeviceSetVm(devices, program, machine) as vm:
        report = Reader(Process(vm.vm.pid)).check()
    assert report.book.index.snapshot.target.layout == "inferred"
    assert report.exact == report.objects > 250
    assert not report.findings and not report.not_judged


def test_what_was_inferred_is_kept_with_its_evidence(stock_vm: Vm, without_stock: None) -> None:
    first = Reader(Process(stock_vm.pid))
    first.read()
    assert first.layout is not None
    kept = recall(first.layout.build_id, None)
    assert kept is not None
    assert kept.layout == first.layout and "virtio-net-device" in kept.met
    again = Reader(Process(stock_vm.pid))
    again.read()
    assert again.layout == first.layout


def test_a_type_that_is_met_alive_is_looked_at(fresh_vm: Vm, without_stock: None) -> None:
    reader = Reader(Process(fresh_vm.pid))
    reader.read()
    assert reader.layout is not None and reader.layout.evidence["UHCIState.irq"] == "both"
    with fresh_vm.monitor() as monitor:
        monitor.execute("device_add", {"driver": "piix3-usb-uhci", "id": "uhci0"})
        report = reader.check()
        assert reader.layout.evidence["UHCIState.irq"] == "seen"
        assert report.exact == report.objects


def test_a_region_is_known_by_what_it_holds(
    stock_vm: Vm, truth: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without code, and with references in which every field of it lies elsewhere."""
    whole = read_anchors
    monkeypatch.setattr(
        infer_layout, "read_anchors", lambda core, elf: whole(core, elf)._replace(code={})
    )
    known = []
    for reference in references():
        row = reference.layout.structs["MemoryRegion"]
        # A property names the address, and it moved otherwise than the fields around it.
        fields = {f: (o + (16 if f == "addr" else 24), n) for f, (o, n) in row.fields.items()}
        structs = {**reference.layout.structs, "MemoryRegion": row._replace(fields=fields)}
        there = reference.anchors.types["memory-region"]
        moved_by = {name: at + 16 for name, at in there.offsets.items()}
        anchored = there._replace(offsets=moved_by)
        types = {**reference.anchors.types, "memory-region": anchored}
        if reference.layout.source != f"profile:{STOCK}":
            known.append(
                Reference(
                    reference.layout._replace(structs=structs),
                    reference.anchors._replace(types=types, code={}),
                )
            )
    target = Process(stock_vm.pid)
    layout = infer(target, program_of(target).statics, known)
    found = {f: at for f, (at, _) in layout.structs["MemoryRegion"].fields.items()}
    right = {f: at for f, (at, _) in truth.structs["MemoryRegion"].fields.items()}
    words = {f: layout.evidence[f"MemoryRegion.{f}"] for f in found}
    solved = {f for f, word in words.items() if word in CONFIRMED}
    assert {f: found[f] for f in solved} == {f: right[f] for f in solved}
    assert solved >= set(REQUIRED["MemoryRegion"].split()) | {"dev"}
    assert "solved" in words.values()
    report = Reader(target, [layout]).check()
    assert report.exact + len(report.not_judged) == report.objects > 300
    assert not report.findings


def test_nothing_is_inferred_from_nothing(stock_vm: Vm) -> None:
    target = Process(stock_vm.pid)
    with pytest.raises(LayoutError, match="no profile has anchors"):
        infer(target, program_of(target).statics, [])


def test_what_nothing_speaks_for_is_refused() -> None:
    machine = FakeMachine(layout=shifted(NEWEST, "MemoryRegion", 40))
    target = machine.build()
    with pytest.raises(LayoutError, match=r"nothing speaks for .*MemoryRegion\.owner"):
        infer(target, program_of(target).statics, references())


def place(layout: Layout, field: str) -> int:
    """Return the offset of a field from the start of the object that it is in."""
    struct, _, name = field.partition(".")
    at = layout.offset(struct, name)
    while struct in parts():
        struct, _, name = parts()[struct].partition(".")
        at += layout.offset(struct, name)
    return at


# Mutants ---------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_moved_field_makes_no_finding(stock_vm: Vm, truth: Layout) -> None:
    bench = Bench(Process(stock_vm.pid), truth)
    exact = bench.read(truth).report
    assert exact is not None and exact.exact == exact.objects
    chosen = random.Random(7).sample(list(mutants(truth)), 20)
    # Those that nothing but a look beside them shows, and a count.
    chosen += [("SocketChardev.listener", 8), ("QIOChannelFDSource.ioc", 8)]
    chosen += [("VirtIONet.max_queue_pairs", -8), ("PCIDevice.devfn", 8)]
    # A scatter list that is none, and a way to guest memory that leads nowhere.
    chosen += [("QEMUSGList.nalloc", 8), ("AHCIState.dev", 8)]
    for field, step in chosen:
        mutant = moved(truth, field, step)
        assert mutant is not None
        report = bench.read(mutant).report
        if report is not None:
            assert findings(report) <= findings(exact), (field, step)


# Parts -----------------------------------------------------------------------------


def test_code_tells_offsets_from_the_first_argument() -> None:
    code = bytes.fromhex(
        "f30f1efa 53 4889fb"  # endbr64; push %rbx; mov %rdi,%rbx
        "488b4358 0fb68f2c010000 488d5008"  # mov 0x58(%rbx),%rax; movzbl 0x12c(%rdi),%ecx; lea ...
        "48894f10 4889c7 488b4720 c3"  # mov %rcx,0x10(%rdi); mov %rax,%rdi; mov 0x20(%rdi),...
    )
    assert list(accesses(code + bytes(16))) == [
        Access(0x58, "load"),
        Access(0x12C, "load"),
        Access(0x10, "store"),
    ]


def test_code_that_is_none_ends_quietly() -> None:
    for seed in range(200):
        list(accesses(random.Random(seed).randbytes(64)))


def test_the_code_of_the_installed_qemu_is_right(stock_vm: Vm, truth: Layout) -> None:
    found = offsets(Process(stock_vm.pid).elf())
    known = {f: at for f, at in found.items() if truth.has(*f.split("."))}
    assert len(known) > 40
    for field, offset in known.items():
        assert place(truth, field) == offset, field


def _two(there: dict[str, int], here: dict[str, int], grown: int) -> tuple[Anchors, Anchors]:
    def make(size: int, offsets: dict[str, int]) -> Anchors:
        return Anchors(
            {"object": TypeAnchors("", 40, {}), "dev": TypeAnchors("object", size, offsets)}, {}
        )

    return make(200, there), make(200 + grown, here)


def test_a_field_is_named_or_between_two_that_moved_alike_or_in_doubt() -> None:
    pair = _two({"a": 64, "b": 96, "c": 160}, {"a": 64, "b": 112, "c": 176}, 16)
    rows = anchors_between(*pair, "dev", {})
    assert predict(rows, 96) == Guess((112,), "named")
    assert predict(rows, 128) == Guess((144,), "both")
    assert predict(rows, 72) == Guess((72, 88), "")


def test_an_anchor_out_of_order_is_none() -> None:
    pair = _two({"a": 64, "b": 96, "c": 160, "d": 168}, {"a": 64, "b": 192, "c": 176, "d": 184}, 16)
    assert [row.there for row in anchors_between(*pair, "dev", {}) if row.firm] == [64, 160, 168]


def test_damaged_anchors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.anchors.gz"
    whole = next(iter(profiles())).with_suffix(".anchors.gz").read_bytes()
    for data in (b"", whole[:-40], whole[:40] + b"\0" * 40 + whole[80:], b"{}"):
        path.write_bytes(data)
        with pytest.raises(LayoutError, match="cannot be read as anchors"):
            anchors.load(path)


def test_anchors_are_written_as_they_are_read(tmp_path: Path) -> None:
    path = next(iter(profiles())).with_suffix(".anchors.gz")
    anchors.save(anchors.load(path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert path.stat().st_size < 12_000
