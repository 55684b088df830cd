"""A layout with one field beside its place gives no finding that the true one does not give."""

from __future__ import annotations

from typing import Callable

import pytest
from fakes import FakeMachine
from faketarget import BASE, DATA, GUEST, TEXT
from mutants import Bench, findings, moved, mutants
from scenarios import SOLE, ghost_ram

from qmrinspect.audit import check
from qmrinspect.heap import Block, Heap
from qmrinspect.layout import Layout
from qmrinspect.references import HOLDERS
from qmrinspect.references.record import fields_of
from qmrinspect.strict import doubted, relations
from qmrinspect.walk import decode

pytestmark = pytest.mark.unit

#: Kinds whose fakes hold together less than a QEMU does.
_LESS = {
    "audio-voice",
    "dma-map",
    "parent-bus",
    "proxy-section",
    "queue-element",
    "request-map",
    "scsi-request",
    "shared-memory",
    "throttle-member",
    "vhost-section",
    "vring-cache",
}


def _found(machine: FakeMachine, field: str, step: int) -> tuple[list[str], frozenset[str]]:
    """Return what a moved field finds that the true layout does not, and what was left out."""
    bench = Bench(machine.build(), machine.layout)
    truth = bench.read(machine.layout)
    layout = moved(machine.layout, field, step)
    assert truth.report is not None and layout is not None
    report, off = bench.read(layout)
    assert report is not None
    return sorted(
        f.text for f in report.findings if f not in truth.report.findings
    ), off - truth.off


def test_a_structure_is_found_where_any_of_its_fields_lies_beside() -> None:
    """The field that is wrong need not be the one that holds the object."""
    machine = FakeMachine()
    SOLE["vnc-display"](machine)
    (display,) = {f.holder for f in machine.snapshot().fields if f.kind == "vnc-display"}
    machine.pokes.append((display + 0x20, 8, display))
    machine.know("VncDisplay", listener=0x10, wslistener=0x18, next=0x100)
    assert _found(machine, "VncDisplay.wslistener", 8) == ([], {"VncDisplay.wslistener"})
    assert _found(machine, "VncDisplay.wslistener", -8)[0] == []


def test_a_way_to_memory_that_leads_nowhere_is_the_layouts_fault() -> None:
    machine = FakeMachine()
    ahci = machine.device("ahci0", "ich9-ahci")
    state = ahci.address + machine.layout.offset("AHCIPCIState", "ahci")
    machine.poke("AHCIState", state, ports=1)
    at = machine.layout.offset("AHCIState", "dev")
    machine.pokes.append((state + at + 8, 8, 1 << 63))
    found, off = _found(machine, "AHCIState.dev", 8)
    assert found == [] and "AHCIState.dev" in off


def test_a_scatter_list_has_its_entries_in_memory() -> None:
    machine = FakeMachine()
    ghost = SOLE["scatter-list"](machine)
    (held,) = (f for f in machine.snapshot().fields if f.kind == "scatter-list")
    assert held.target == ghost.address
    machine.poke("QEMUSGList", held.holder, sg=0x10)
    assert [f.kind for f in check(machine.snapshot()).findings][:1] == ["unexplained"]


@pytest.mark.parametrize(
    ("head", "there"),
    (
        (0x61, True),
        (0x75, True),
        (0x1002, True),
        (0x51, False),
        (0x81, False),
        (0x42, False),
        (0, False),
    ),
)
def test_entries_are_told_by_the_size_in_front_of_them(
    head: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are walked in a copy that may be of later, when the list has given them back."""
    machine = FakeMachine()
    SOLE["scatter-list"](machine)
    (held,) = (f for f in machine.snapshot().fields if f.kind == "scatter-list")
    entries = machine.allocate(16 + 16 * 5) + 16
    machine.poke("QEMUSGList", held.holder, sg=entries)
    machine.pokes.append((entries - 8, 8, head))
    monkeypatch.setattr(Heap, "is_glibc", True)
    monkeypatch.setattr(Heap, "at", lambda heap, address: Block(address, 0x58, "freed"))
    assert any(f.kind == "scatter-list" for f in machine.snapshot().fields) is there


@pytest.mark.parametrize("head", (0x7F, BASE + TEXT, BASE + DATA + 0x20))
def test_a_scatter_list_that_was_passed_on_makes_no_request(head: int) -> None:
    """Its address is on the stacks of coroutines as well, with anything around it."""
    machine = FakeMachine()
    ghost = SOLE["request-map"](machine)
    (held,) = (f for f in machine.snapshot().fields if f.kind == "scatter-list")
    before = check(machine.snapshot())
    assert before.book.residual(ghost.address) == 0 and not before.failed
    for where, count in ((machine.array(GUEST + 0x100, 0x80), 1), (0x10, 692292352)):
        frame = machine.make("DMAAIOCB", sg=held.holder)
        machine.pokes.append((frame, 8, head))
        vector = frame + machine.layout.offset("DMAAIOCB", "iov")
        machine.poke("QEMUIOVector", vector, iov=where, niov=count)
    after = check(machine.snapshot())
    assert after.book.residual(ghost.address) == 0 and not after.failed


def _scsi_request(machine: FakeMachine) -> int:
    machine.define("SCSI", "bus")
    bus = machine.new("SCSI")
    disk = machine.new("scsi-device")
    machine.poke("DeviceState", disk.address, parent_bus=bus.address)
    fields = {"dev": disk.address, "bus": bus.address, "ops": BASE + DATA, "refcount": 1}
    machine.allocate(16)
    return machine.make("SCSIRequest", **fields)


def _virtio_request(machine: FakeMachine) -> int:
    ghost_ram(machine)
    machine.define("virtio-blk-device", "virtio-device")
    disk = machine.device("disk0", "virtio-blk-device")
    queue = machine.allocate(machine.layout.size("VirtQueue") * 2)
    machine.poke("VirtQueue", queue, inuse=1)
    machine.poke("VRing", queue + machine.layout.offset("VirtQueue", "vring"), num=256)
    machine.poke("VirtIODevice", disk.address, vq=queue)
    machine.allocate(16)
    request = machine.make("VirtIOBlockReq", dev=disk.address, vq=queue)
    vector = machine.array(GUEST + 0x100, 0x80)
    element = request + machine.layout.offset("VirtIOBlockReq", "elem")
    machine.poke("VirtQueueElement", element, in_num=1, in_sg=vector, out_sg=vector)
    return request


_KINDS = ("scsi-request", "queue-element")
_SIZE = 0x210


@pytest.mark.parametrize("make", (_scsi_request, _virtio_request))
@pytest.mark.parametrize(
    ("head", "behind", "there"),
    (
        (_SIZE | 5, 0x75, True),
        (_SIZE | 4, 0x31, True),
        # It was merged with the free block before it; what became of that ends elsewhere.
        (_SIZE | 4, 0x7F2AECC52580, False),
        (_SIZE | 5, 0x70, False),
        (_SIZE | 5, 0x7F2AECC52581, False),
        # It is in a block that is smaller than a request, or in none.
        (0x35, 0x75, False),
        (0, 0x75, False),
        (0x7F2AECC52580, 0x75, False),
    ),
)
def test_a_request_has_a_block_of_its_own_in_the_instant_of_the_stop(
    make: Callable[[FakeMachine], int],
    head: int,
    behind: int,
    there: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left of a freed one was found for minutes: its head was inside another block."""
    machine = FakeMachine()
    request = make(machine)
    machine.allocate(2 * _SIZE)
    machine.pokes += [(request - 8, 8, head), (request - 8 + _SIZE, 8, behind)]
    monkeypatch.setattr(Heap, "is_glibc", True)
    # Blocks are walked in a copy that may be of later.
    monkeypatch.setattr(Heap, "at", lambda heap, address: Block(address, 0x1000, "freed"))
    assert any(row.kind in _KINDS for row in machine.snapshot().fields) is there
    # Of another allocator nothing is known.
    monkeypatch.setattr(Heap, "is_glibc", False)
    assert any(row.kind in _KINDS for row in machine.snapshot().fields)


@pytest.mark.parametrize(
    ("refcount", "back", "there"), ((1, 0, True), (3, 0, True), (0x35, 0, False), (1, 0x101, False))
)
def test_a_request_off_its_list_has_few_references_and_no_way_back(
    refcount: int, back: int, there: bool
) -> None:
    machine = FakeMachine()
    request = _scsi_request(machine)
    machine.poke("SCSIRequest", request, refcount=refcount)
    # tql_prev, which QTAILQ_REMOVE clears (include/qemu/queue.h).
    machine.pokes.append((request + machine.layout.offset("SCSIRequest", "next") + 8, 8, back))
    assert any(row.kind == "scsi-request" for row in machine.snapshot().fields) is there


def test_a_condition_that_was_left_out_excuses_what_it_would_hold() -> None:
    """Where QEMU has no such condition, it has no such reference; here it has one."""
    machine = FakeMachine()
    machine.define("virtio-scsi-device", "virtio-device")
    machine.layout = machine.layout.without({"VirtIOSCSI.vq_aio_context"})
    machine.device("scsi0", "virtio-scsi-device")
    thread = machine.new("iothread")
    report = check(machine.snapshot())
    assert [row.address for row in report.not_judged] == [thread.address]
    assert "iothread-user" in report.not_judged[0].kinds and not report.findings


@pytest.mark.parametrize("kind", sorted(SOLE))
def test_no_moved_field_of_a_kind_makes_a_finding(kind: str) -> None:
    machine = FakeMachine()
    SOLE[kind](machine)
    bench = Bench(machine.build(), machine.layout)
    truth = bench.read(machine.layout)
    if truth.report is None or truth.off:
        # A fake that is less than a QEMU has: a real one shows it (tests/test_infer.py).
        assert kind in _LESS
        return
    known = findings(truth.report)
    structs = {s for h in HOLDERS if h.kind == kind for s, _, _ in fields_of(h)}
    tried = 0
    for field, step in mutants(machine.layout):
        layout = moved(machine.layout, field, step) if field.split(".")[0] in structs else None
        if layout is not None:
            report, _ = bench.read(layout)
            assert report is None or findings(report) <= known, (field, step)
            tried += 1
    assert tried or not structs


def test_registers_of_a_hot_plug_controller_are_its_own() -> None:
    machine = FakeMachine()
    machine.know("SHPCDevice", config=0x18)
    bridge = machine.device("bridge0")
    machine.add_child(bridge, "sec", machine.new(machine.pci.type))
    registers = machine.array(0, (1 << 8 | 31) << 32)  # slots, and the first of them
    controller = machine.make("SHPCDevice", config=registers)
    machine.poke("PCIDevice", bridge.address, shpc=controller)
    machine.pokes.append((controller + 0x20, 8, 1 << 63))
    machine.device("nic9", bus=bridge.children["sec"])
    bench = Bench(machine.build(), machine.layout)

    def contradicted(layout: Layout) -> set[str]:
        snapshot, context = decode(bench.image, bench.cost, layout, bench.statics, bench.info)
        return doubted(relations(context, snapshot))

    layout = moved(machine.layout, "SHPCDevice.config", 8)
    assert layout is not None
    more = contradicted(layout) - contradicted(machine.layout)
    assert more == {"SHPCDevice.config", "PCIDevice.shpc"}


def test_a_word_that_holds_one_reference_is_no_others() -> None:
    """A channel that leaks, and is watched as well, is QEMU's fault and not the layout's."""
    machine = FakeMachine()
    channel = SOLE["watch"](machine)
    channel.ref += 1
    bench = Bench(machine.build(), machine.layout)
    report = bench.read(machine.layout).report
    assert report is not None
    assert [f.kind for f in report.findings if f.address == channel.address] == ["unexplained"]


def test_a_list_that_a_reader_follows_closes() -> None:
    machine = FakeMachine()
    manager = SOLE["ram-discard"](machine)
    # What the guest may discard at once lies before the list.
    machine.pokes.append((manager.address + 56, 8, 0x20_0000))
    found, off = _found(machine, "RamDiscardManager.rdl_list", -8)
    assert found == [] and "RamDiscardManager.rdl_list" in off


def test_a_region_that_gives_its_functions_itself_is_no_block_of_registers() -> None:
    machine = FakeMachine()
    machine.define("qemu-register", "device")
    machine.device("register0", "qemu-register")
    layout, region = machine.layout, machine.region("bar", machine.nic).address
    block = region - layout.offset("RegisterInfoArray", "mem")
    machine.poke("MemoryRegion", region, opaque=block)
    at_count, at_r = (layout.offset("RegisterInfoArray", f) for f in ("num_elements", "r"))
    machine.pokes += [(block + at_count, 4, 1 << 30), (block + at_r, 8, machine.nic.address)]
    assert not machine.snapshot().notes
