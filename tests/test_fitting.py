"""Which layout fits a machine, and what one that lacks a field costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes import LAYOUTS, NEWEST, FakeMachine, shifted
from faketarget import BASE, GUEST
from mutants import Bench
from scenarios import SOLE, ghost_ram, nbd

from qmrinspect.audit import check
from qmrinspect.errors import LayoutError, ReadingError, TargetError
from qmrinspect.layout import Layout
from qmrinspect.reading import Reader, read
from qmrinspect.snapshot import Snapshot
from qmrinspect.walk import take

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("no_layout_cache")]


# Layouts that do not fit


def _roomy(machine: FakeMachine) -> FakeMachine:
    """More of everything, so that a contradiction is no accident."""
    for i in range(4):
        device = machine.device(f"extra{i}", "core")
        bar = machine.region("bar", device, machine.pci_memory, 0x1000 * i)
        machine.region("inner", device, bar)
        machine.irqs(device, 2)
        machine.space(f"extra{i}", bar, machine.view(bar, [bar], [bar]))
    return machine


@pytest.mark.parametrize(
    "name",
    [
        "AddressSpace",
        "AddressSpaceDispatch",
        "BusChild",
        "BusState",
        "DeviceState",
        "FlatRange",
        "FlatView",
        "LinkProperty",
        "MemoryRegion",
        "MemoryRegionSection",
        "Object",
        "ObjectClass",
        "ObjectProperty",
        "TypeImpl",
    ],
)
def test_a_layout_that_does_not_fit_is_refused(name: str) -> None:
    target = _roomy(FakeMachine(layout=shifted(NEWEST, name, 40))).build()
    with pytest.raises(LayoutError) as caught:
        read(target)
    assert "no known layout fits /usr/bin/qemu-system-fake" in caught.value.text
    for source in LAYOUTS:
        assert any(f"profile:{source} does not fit: " in line for line in caught.value.lines)
    assert caught.value.hint


def test_the_right_one_of_the_profiles_is_taken() -> None:
    for name, layout in LAYOUTS.items():
        assert read(_roomy(FakeMachine(layout=layout)).build()).target.layout == f"profile:{name}"


def test_a_reader_keeps_the_layout_that_fitted() -> None:
    machine = _roomy(FakeMachine(layout=shifted(NEWEST, "MemoryRegion")))
    reader = Reader(machine.build(), [machine.layout])
    assert reader.read().target.layout == "shifted"
    assert reader.read().target.layout == "shifted"


def test_an_incomplete_layout_is_refused() -> None:
    structs = {k: v for k, v in NEWEST.structs.items() if k != "FlatRange"}
    with pytest.raises(LayoutError, match=r"FlatRange\.mr"):
        take(FakeMachine().build(), NEWEST._replace(structs=structs))


def test_what_is_no_qemu_is_said_to_be_none() -> None:
    machine = FakeMachine()
    del machine.symbols["current_machine"]
    with pytest.raises(TargetError, match="names none of its variables"):
        take(machine.build(), machine.layout)


def test_a_qemu_without_a_machine_yet() -> None:
    machine = FakeMachine()
    target = machine.build()
    variable = BASE + machine.symbols["current_machine"]
    with pytest.raises(ReadingError, match="no machine yet"):
        take(target.corrupt(variable, bytes(8)), machine.layout)


# What this QEMU was not searched for


def _without(machine: FakeMachine, struct: str, field: str) -> Snapshot:
    """Read a machine under its layout without one field, or without the whole structure."""
    structs = dict(machine.layout.structs)
    row = structs.pop(struct)
    if field:
        structs[struct] = row._replace(fields={k: v for k, v in row.fields.items() if k != field})
    return take(machine.build(), machine.layout._replace(structs=structs))[0]


@pytest.mark.parametrize(
    ("kind", "struct", "field"),
    [
        ("chardev", "SocketChardev", "sioc"),
        ("channel", "QIOChannelTLS", ""),
        ("listener", "QIONetListener", "nsioc"),
        ("watch", "QIOChannelFDSource", "ioc"),
        ("nbd-client", "NBDClient", "next"),
        ("numa-node", "NodeInfo", "node_memdev"),
        ("throttle-member", "ThrottleGroup", "head"),
        ("dma-map", "AHCIDevice", "lst"),
        ("vhost-section", "vhost_dev", "mem_sections"),
        ("vring-cache", "VRing", "caches"),
    ],
)
def test_what_a_layout_lacks_costs_one_kind(kind: str, struct: str, field: str) -> None:
    machine = FakeMachine()
    obj = SOLE[kind](machine)
    whole = check(machine.snapshot())
    # What nothing but the machine's memory holds is an orphan, and balances.
    assert {f.kind for f in whole.findings} <= {"orphan"} and not whole.not_judged
    report = check(_without(machine, struct, field))
    told = [row for row in report.book.index.snapshot.unsearched if kind == row.kind]
    assert told and not any(row.absent for row in told)
    assert any(f"{struct}.{field}".rstrip(".") in row.why for row in told)
    # The object that it holds is not judged; everything else still is.
    assert [row.address for row in report.not_judged] == [obj.address]
    assert kind in report.not_judged[0].kinds
    assert not report.findings
    assert report.exact == report.objects - 1


def test_a_list_of_lines_that_lies_elsewhere_costs_its_kind() -> None:
    target = _roomy(FakeMachine(layout=shifted(NEWEST, "NamedGPIOList", 40))).build()
    report = Reader(target).check()
    assert report.objects > 40 and not report.findings
    told = {(row.kind, row.target) for row in report.book.index.snapshot.unsearched}
    assert ("initial", "irq") in told


def _less(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """Yield a layout without each structure and without each field of it."""
    for struct, row in layout.structs.items():
        rest = {name: other for name, other in layout.structs.items() if name != struct}
        yield struct, layout._replace(structs=rest)
        yield from ((f"{struct}.{f}", layout.without({f"{struct}.{f}"})) for f in row.fields)


def test_whatever_a_layout_lacks_nothing_else_is_refused_or_found() -> None:
    """Only what is required costs a reading; the rest a kind, which is told."""
    machine = FakeMachine()
    for kind in ("queue-element", "shared-memory", "vring-cache"):
        SOLE[kind](machine)
    bench = Bench(machine.build(), machine.layout)
    truth = bench.read(machine.layout).report
    assert truth is not None
    known = {finding.kind for finding in truth.findings}
    tried, less = (
        0,
        [(what, layout) for what, layout in _less(machine.layout) if not layout.missing()],
    )
    for what, layout in less:
        report = bench.read(layout).report
        assert report is not None, f"refused without {what}"
        assert {finding.kind for finding in report.findings} <= known, what
        tried += 1
    assert tried > 300


def test_what_the_programs_own_debug_information_lacks_is_not_there() -> None:
    machine = FakeMachine()
    nbd(machine)
    machine.layout = machine.layout._replace(build_id=machine.build().elf().build_id())
    report = check(_without(machine, "NBDClient", ""))
    told = [row for row in report.book.index.snapshot.unsearched if row.kind == "nbd-client"]
    assert told and all(row.absent for row in told)
    # So that nothing excuses the reference that nothing explains.
    assert [f.kind for f in report.findings] == ["unexplained"]


def test_a_renamed_field_goes_by_both_names() -> None:
    machine = FakeMachine()
    row = machine.layout.structs["vhost_virtqueue"]
    fields = {f"{name}_user": place for name, place in row.fields.items()}
    machine.layout = machine.layout._replace(
        structs={**machine.layout.structs, "vhost_virtqueue": row._replace(fields=fields)}
    )
    ghost = ghost_ram(machine)
    queue = machine.make("vhost_virtqueue", used_user=GUEST + 0x400)
    device = machine.make("vhost_dev", nvqs=1, vqs=queue, started=1)
    listener = device + machine.layout.offset("vhost_dev", "memory_listener")
    machine.spaces[0].listeners.append((listener, "vhost"))
    report = check(machine.snapshot())
    assert report.exact == report.objects
    (edge,) = [e for e in report.book.on[ghost.address] if e.kind == "dma-map"]
    assert (edge.holder, edge.field) == (device, "vhost_dev.vqs[0].used_user")


def test_a_vhost_device_that_was_stopped_holds_nothing() -> None:
    """Until 10.2 its pointers stay (hw/virtio/vhost.c vhost_virtqueue_stop)."""
    machine = FakeMachine()
    ghost = ghost_ram(machine)
    queue = machine.make("vhost_virtqueue", used=GUEST + 0x400)
    device = machine.make("vhost_dev", nvqs=1, vqs=queue, started=0)
    listener = device + machine.layout.offset("vhost_dev", "memory_listener")
    machine.spaces[0].listeners.append((listener, "vhost"))
    report = check(machine.snapshot())
    assert not [e for e in report.book.on[ghost.address] if e.kind == "dma-map"]
