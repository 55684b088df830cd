"""The walk and the ledger, on machines built from bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Callable

import pytest
from fakeimage import LINK_DIRECT, LINK_STRONG
from fakes import LAYOUTS, NEWEST, FakeMachine, FakeObject, books, shifted
from faketarget import BASE, BSS, CONSOLES, GUEST, FakeTarget

from qmrinspect.audit import check, choose
from qmrinspect.errors import LayoutError, ReadingError, TargetError
from qmrinspect.index import Index
from qmrinspect.layout import Layout
from qmrinspect.ledger import KINDS, POLICIES, Kind, open_book
from qmrinspect.reading import Reader, read
from qmrinspect.snapshot import Snapshot
from qmrinspect.target.image import Image
from qmrinspect.walk import take
from qmrinspect.walk.context import Known
from qmrinspect.walk.glib import HASH_VARIANTS, HashVariant, entries, open_table, probe
from qmrinspect.walk.scan import Found, find_words

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No layout cache of the user's, no debuginfod."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


# What is decoded


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.source)
@pytest.mark.parametrize("glib", HASH_VARIANTS, ids=lambda glib: glib.name)
@pytest.mark.parametrize("low", (False, True), ids=("wide", "4-byte-entries"))
def test_every_object_is_found_and_every_reference_explained(
    layout: Layout, glib: HashVariant, low: bool
) -> None:
    machine = FakeMachine(layout=layout, glib=glib, low=low)
    snapshot = machine.snapshot()
    assert not snapshot.notes
    assert {(o.address, o.type, o.ref) for o in snapshot.objects.values()} == {
        (o.address, o.type, o.ref) for o in machine.objects
    }
    report = check(snapshot)
    assert not report.findings
    assert report.exact == report.objects == len(machine.objects)
    assert report.observed == sum(o.ref for o in machine.objects)
    assert report.explained + report.by_rule == report.observed


def test_structures_are_decoded() -> None:
    machine = FakeMachine()
    machine.clock(machine.serial, "clk")
    snapshot = machine.snapshot()
    index = Index(snapshot)
    assert snapshot.target.machine == "pc"
    assert snapshot.target.qemu_version == "10.0.13 (fake)"
    assert index.path(machine.nic.address) == "/machine/peripheral/nic0"
    assert index.path(machine.msix.address) == "/machine/peripheral/nic0/msix-table[1]"
    assert index.resolve("nic0").address == machine.nic.address
    assert index.containing(machine.bar.address + 8) == machine.bar.address
    assert index.containing(machine.nic.address + 0x300) == machine.nic.address
    device = snapshot.devices[machine.nic.address]
    assert (device.id, device.realized, device.parent_bus) == ("nic0", True, machine.pci.address)
    bus = snapshot.buses[machine.pci.address]
    assert [k.child for k in bus.kids] == [machine.serial.address, machine.nic.address]
    bar = snapshot.regions[machine.bar.address]
    assert bar.name == "nic-bar" and bar.owner == machine.nic.address
    assert bar.subregions == (machine.msix.address, machine.pba.address)
    assert (bar.addr, bar.size) == (0xFEB00000, 0x1000)
    assert snapshot.regions[machine.system.address].size == 1 << 64
    assert snapshot.regions[machine.low_ram.address].kind == "alias"
    memory, ports = snapshot.spaces.values()
    assert (memory.name, ports.name) == ("memory", "I/O")
    assert memory.root == machine.system.address
    assert [snapshot.listeners[a].name for a in memory.listeners] == ["memory-listener"]
    view = snapshot.views[memory.view]
    assert [r.mr for r in view.ranges] == [
        o.address for o in (machine.ram, machine.msix, machine.pba, machine.bios)
    ]
    assert view.ranges[1].start == 0x4000000
    assert view.sections[0] == machine.unassigned.address
    (gpio,) = snapshot.gpios
    assert gpio.device == machine.serial.address and len(gpio.inputs) == 2
    assert [c.name for c in snapshot.clocks] == ["clk"]


def test_guest_memory_is_not_captured() -> None:
    machine = FakeMachine()
    snapshot = machine.snapshot()
    assert not any(GUEST <= address < GUEST + 0x4000 for address in snapshot.objects)
    target = machine.build()
    held = sum(len(data) for start, data in target.memory.items() if start != GUEST)
    assert snapshot.capture.bytes <= held


def test_link_roles_and_levels() -> None:
    machine = FakeMachine()
    machine.set_link(machine.nic, "strong", machine.serial)
    machine.set_link(machine.nic, "weak", machine.serial, 0)
    machine.set_link(machine.nic, "direct", machine.serial, LINK_STRONG | LINK_DIRECT)
    props = [p for p in machine.snapshot().props if p.holder == machine.nic.address]
    links = {p.name: (p.target, p.role, p.level) for p in props if p.role != "child"}
    serial = machine.serial.address
    assert links == {
        "strong": (serial, "strong", "instance"),
        "direct": (serial, "strong", "instance"),
        "weak": (serial, "weak", "instance"),
        "parent_bus": (machine.pci.address, "weak", "class"),
    }


def test_an_unparented_object_is_still_found() -> None:
    machine = FakeMachine()
    machine.nic.ref += 1
    machine.unparent(machine.nic)
    snapshot = machine.snapshot()
    assert snapshot.objects[machine.nic.address].parent == 0
    assert Index(snapshot).path(machine.nic.address) == ""


def test_a_class_link_needs_no_instance_property() -> None:
    machine = FakeMachine()
    at = machine.layout.offset("DeviceState", "parent_bus")
    machine.class_links["core"] = [("again", LINK_STRONG | 4, at)]
    machine.pci.ref += 1
    report = check(machine.snapshot())
    assert not report.findings
    (edge,) = [e for e in report.book.on[machine.pci.address] if e.kind == "link"]
    assert edge.holder == machine.serial.address and "again" in edge.field


# Every kind is the only explanation of something

Scenario = Callable[[FakeMachine], FakeObject]


def _child(m: FakeMachine) -> FakeObject:
    return m.add_child(m.objects_container, "rng0", m.new("rng"))


def _link(m: FakeMachine) -> FakeObject:
    rng = m.new("rng")
    m.set_link(m.nic, "rng", rng)
    m.unref(rng)
    return rng


def _bus_child(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    m.plug(m.pci, ghost)
    m.unref(ghost)
    return ghost


def _parent_bus(m: FakeMachine) -> FakeObject:
    bus = m.new("PCI")
    m.plug(bus, m.add_child(m.peripheral, "far", m.new("nic")))
    m.unref(bus)
    return bus


def _subregion(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    m.region("ghost-bar", ghost, m.pci_memory)
    m.unref(ghost)
    return ghost


def _space_root(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    root = m.region("ghost-dma", ghost)
    m.space("ghost-dma", root, m.view(m.system, ()))
    m.unref(ghost)
    return ghost


def _view_root(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    m.retire(m.view(m.region("ghost-dma", ghost), ()))
    m.unref(ghost)
    return ghost


def _flat_range(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    m.retire(m.view(m.io, [m.region("ghost-bar", ghost)]))
    m.unref(ghost)
    return ghost


def _section(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    m.retire(m.view(m.io, (), [m.region("ghost-bar", ghost)]))
    m.unref(ghost)
    return ghost


def _rcu_bus_child(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    kid = m.plug(m.pci, ghost)
    m.pci.kids.remove(kid)
    ghost.bus = None
    m.unref(m.pci)
    m.unref(ghost)
    m.dead_kids.append(kid)
    m.pending.append(kid.address)
    return ghost


def _rcu_space(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    space = m.space("ghost-dma", m.region("ghost-dma", ghost), m.view(m.system, ()))
    m.spaces.remove(space)
    m.dead_spaces.append(space)
    m.pending.append(space.address)
    m.unref(ghost)
    return ghost


def _initial(m: FakeMachine) -> FakeObject:
    return m.accel


def _reset(m: FakeMachine) -> FakeObject:
    root = m.new("resettable-container")
    reset = m.new("legacy-reset")
    root.resets = [m.machine, reset]
    return reset


def _portio(m: FakeMachine) -> FakeObject:
    portio = m.new("memory-region-portio-list")
    at = portio.address + m.layout.offset("MemoryRegionPortioList", "mr")
    region = m.new("memory-region", at=at)
    region.name, region.owner = "vga", portio
    portio.size = 0  # its one region is where the structure has it
    return region


def _kvm(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    view = m.view(m.system, [m.region("ghost-ram", ghost)])
    m.space("ghost", m.system, view).listeners = [
        (m.allocate(m.layout.size("MemoryListener")), "kvm-memory")
    ]
    return ghost  # its first reference is KVM's now


def _chardev(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    chardev = m.add_child(m.objects_container, "serial0", m.new("chardev-socket"))
    m.poke("SocketChardev", chardev.address, sioc=socket.address)
    return socket


def _channel(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    tls = m.add_child(m.objects_container, "tls", m.new("qio-channel-tls"))
    m.poke("QIOChannelTLS", tls.address, master=socket.address)
    return socket


def _listener(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    listener = m.add_child(m.objects_container, "listener", m.new("qio-net-listener"))
    rows = {"sioc": m.array(socket.address), "io_source": m.array(0), "nsioc": 1}
    m.poke("QIONetListener", listener.address, **rows)
    return socket


def _watch(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    source = m.make("QIOChannelFDSource", ioc=socket.address)
    polls = m.array(source + m.layout.offset("QIOChannelFDSource", "fd"), 0)
    alive = {"source_funcs": BASE + BSS, "ref_count": 1, "context": source, "poll_fds": polls}
    m.poke("_GSource", source, **alive)
    return socket


def _queued(m: FakeMachine, name: str, link: str, **fields: int) -> int:
    """A structure on a QTAILQ of its own."""
    at = m.make(name, **fields)
    head = m.array(at, 0)
    m.pokes.append((at + m.layout.offset(name, link) + 8, 8, head))
    return at


def _vnc_client(m: FakeMachine) -> FakeObject:
    m.know("VncState", sioc=0x10, ioc=0x18, next=0x100)
    socket = m.new("qio-channel-socket")
    _queued(m, "VncState", "next", sioc=socket.address)
    return socket


def _vnc_display(m: FakeMachine) -> FakeObject:
    m.know("VncDisplay", listener=0x10, wslistener=0x18, tlscreds=0x20, next=0x100)
    listener = m.new("qio-net-listener")
    _queued(m, "VncDisplay", "next", listener=listener.address)
    return listener


def _nbd(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    _queued(m, "NBDClient", "next", ioc=socket.address)
    return socket


def _nbd_server(m: FakeMachine) -> FakeObject:
    listener = m.new("qio-net-listener")
    m.know("NBDServerData", listener=0, tlscreds=0x10)
    m.pokes.append((BASE + BSS + 0x980, 8, m.make("NBDServerData", listener=listener.address)))
    return listener


def _audio(m: FakeMachine) -> FakeObject:
    m.know("AudioMixengBackend", hw_head_out=0x60, hw_head_in=0x68)
    m.know("HWVoiceOut", s=0, entries=0x80, sw_head=0x90)
    m.define("audio-backend", "object")
    m.define("audio-mixeng-backend", "audio-backend", 0x400)
    backend = m.new("audio-mixeng-backend")
    voice = m.make("HWVoiceOut", s=backend.address)
    m.poke("AudioMixengBackend", backend.address, hw_head_out=voice)
    return backend


def _rdm(m: FakeMachine) -> FakeObject:
    row = m.layout.structs["MemoryRegion"]
    fields = {**row.fields, "rdm": (256, 8)}
    m.layout = m.layout._replace(
        structs={**m.layout.structs, "MemoryRegion": row._replace(fields=fields)}
    )
    m.know("RamDiscardManager", mr=40, rdl_list=64)
    m.define("ram-discard-manager", "object", 0x400)
    manager = m.new("ram-discard-manager")
    m.poke("RamDiscardManager", manager.address, mr=m.ram.address)
    m.poke("MemoryRegion", m.ram.address, rdm=manager.address)
    return manager


def _shared_memory(m: FakeMachine) -> FakeObject:
    row = m.layout.structs["VirtIODevice"]
    fields = {**row.fields, "shmem_list": (row.size - 16, 16)}
    m.layout = m.layout._replace(
        structs={**m.layout.structs, "VirtIODevice": row._replace(fields=fields)}
    )
    m.know("VirtioSharedMemory", mmaps=0x20, entry=0x30)
    m.know("VirtioSharedMemoryMapping", link=0x48)
    m.define("virtio-shared-memory-mapping", "object", 0x400)
    mapping = m.new("virtio-shared-memory-mapping")
    virtio = m.device("virtio0", "virtio-device")
    memory = m.make("VirtioSharedMemory", mmaps=mapping.address)
    m.poke("VirtIODevice", virtio.address, shmem_list=memory)
    return mapping


def _proxy_device(m: FakeMachine) -> FakeObject:
    m.know("PCIProxyDev", ioc=0x300, proxy_listener=0x310)
    m.know("ProxyMemoryListener", n_mr_sections=0xC0, mr_sections=0xC8)
    m.define("x-pci-proxy-dev", "pci-device", 0x400)
    return m.device("proxy0", "x-pci-proxy-dev")


def _proxy_section(m: FakeMachine) -> FakeObject:
    ghost = _ghost_ram(m)
    proxy = _proxy_device(m)
    section = m.make("MemoryRegionSection", mr=m.ram.address)
    listener = proxy.address + m.layout.offset("PCIProxyDev", "proxy_listener")
    m.poke("ProxyMemoryListener", listener, n_mr_sections=1, mr_sections=section)
    return ghost


def _proxy_channel(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    m.poke("PCIProxyDev", _proxy_device(m).address, ioc=socket.address)
    return socket


def _netdev(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    netdev = m.make("NetStreamState", ioc=socket.address)
    # It is linked and described by the NetClientState at its start.
    size = m.layout.size("NetStreamState")
    info = BASE + BSS + 0x900
    m.pokes.append((info + m.layout.offset("NetClientInfo", "size"), 8, size))
    m.poke("NetClientState", netdev, info=info)
    link = netdev + m.layout.offset("NetClientState", "next")
    m.pokes.append((link + 8, 8, m.array(netdev, 0)))
    return socket


def _iothread(m: FakeMachine) -> FakeObject:
    iothread = m.new("iothread")
    balloon = m.device("balloon0", "virtio-balloon-device")
    fields = {"iothread": iothread.address, "free_page_bh": iothread.address}
    m.poke("VirtIOBalloon", balloon.address, **fields)
    return iothread


def _tpm(m: FakeMachine) -> FakeObject:
    m.know("TPMBackend", tpmif=0x38)
    m.types["tpm-backend"] = ("object", m.layout.size("TPMBackend"))
    backend = m.add_child(m.objects_container, "tpm0", m.new("tpm-backend"))
    front = m.new("nic")
    m.poke("TPMBackend", backend.address, tpmif=front.address)
    return front


def _numa(m: FakeMachine) -> FakeObject:
    backend = m.new("memory-backend")
    state = m.make("NumaState", num_nodes=1)
    nodes = state + m.layout.offset("NumaState", "nodes")
    m.poke("NodeInfo", nodes, node_memdev=backend.address)
    m.poke("MachineState", m.machine.address, numa_state=state)
    return backend


def _throttle(m: FakeMachine) -> FakeObject:
    group = m.new("throttle-group")
    member = m.make("ThrottleGroupMember")
    m.poke("ThrottleGroup", group.address, head=member)
    return group


def _scsi(m: FakeMachine) -> FakeObject:
    disk = m.new("scsi-device")
    m.poke("SCSIDevice", disk.address, requests=m.make("SCSIRequest", dev=disk.address))
    return disk


def _scatter_list(m: FakeMachine) -> FakeObject:
    ghost = m.new("nic")
    sg = m.make("QEMUSGList", dev=ghost.address, sg=m.array(0, 0), nsg=1, nalloc=5)
    m.poke("QEMUSGList", sg, **{"as": m.spaces[0].address})
    m.array(sg)
    return ghost


def _request_map(m: FakeMachine) -> FakeObject:
    ghost = _ghost_ram(m)
    m.nic.ref += 1
    sg = m.make("QEMUSGList", dev=m.nic.address, sg=m.array(0, 0), nsg=1, nalloc=5)
    m.poke("QEMUSGList", sg, **{"as": m.spaces[0].address})
    request = m.make("DMAAIOCB", sg=sg)
    vector = request + m.layout.offset("DMAAIOCB", "iov")
    m.poke("QEMUIOVector", vector, iov=m.array(GUEST + 0x100, 0x80), niov=1)
    return ghost


def _ghost_ram(m: FakeMachine) -> FakeObject:
    """Let the guest's memory belong to an object that nothing else holds."""
    ghost = m.new("nic")
    m.ram = m.region("ghost-ram", ghost)
    m.ram.fields["MemoryRegion", "ram"] = 1
    return ghost


def _vring(m: FakeMachine) -> FakeObject:
    ghost = _ghost_ram(m)
    virtio = m.device("virtio0", "virtio-device")
    caches = m.make("VRingMemoryRegionCaches")
    desc = caches + m.layout.offset("VRingMemoryRegionCaches", "desc")
    section = desc + m.layout.offset("MemoryRegionCache", "mrs")
    m.poke("MemoryRegionSection", section, mr=m.ram.address)
    queues = m.allocate(m.layout.size("VirtQueue") * 1024)
    m.poke("VRing", queues + m.layout.offset("VirtQueue", "vring"), caches=caches, num=256)
    m.poke("VirtIODevice", virtio.address, vq=queues)
    return ghost


def _element(m: FakeMachine) -> FakeObject:
    ghost = _ghost_ram(m)
    port = m.device("port0", "virtio-serial-port")
    element = m.make("VirtQueueElement", in_num=1, in_sg=m.array(GUEST + 0x100, 0x80))
    m.poke("VirtIOSerialPort", port.address, elem=element)
    return ghost


def _dma(m: FakeMachine) -> FakeObject:
    ghost = _ghost_ram(m)
    ahci = m.device("ahci0", "ich9-ahci")
    state = ahci.address + m.layout.offset("AHCIPCIState", "ahci")
    m.poke("AHCIState", state, ports=1, dev=m.make("AHCIDevice", lst=GUEST + 0x400))
    return ghost


def _vhost(m: FakeMachine) -> FakeObject:
    ghost = _ghost_ram(m)
    section = m.make("MemoryRegionSection", mr=m.ram.address)
    device = m.make("vhost_dev", n_mem_sections=1, mem_sections=section)
    listener = device + m.layout.offset("vhost_dev", "memory_listener")
    m.spaces[0].listeners.append((listener, "vhost"))
    return ghost


# Kinds that never come alone, with what comes along.
COMPANY = {"kvm-slot": {"flat-range"}}

SOLE: dict[str, Scenario] = {
    "kvm-slot": _kvm,
    "chardev": _chardev,
    "channel": _channel,
    "listener": _listener,
    "watch": _watch,
    "vnc-client": _vnc_client,
    "vnc-display": _vnc_display,
    "nbd-client": _nbd,
    "nbd-server": _nbd_server,
    "audio-voice": _audio,
    "ram-discard": _rdm,
    "shared-memory": _shared_memory,
    "proxy-section": _proxy_section,
    "proxy-channel": _proxy_channel,
    "netdev": _netdev,
    "iothread-user": _iothread,
    "tpm-backend": _tpm,
    "numa-node": _numa,
    "throttle-member": _throttle,
    "scsi-request": _scsi,
    "scatter-list": _scatter_list,
    "request-map": _request_map,
    "vring-cache": _vring,
    "queue-element": _element,
    "dma-map": _dma,
    "vhost-section": _vhost,
    "child": _child,
    "link": _link,
    "bus-child": _bus_child,
    "parent-bus": _parent_bus,
    "subregion": _subregion,
    "address-space-root": _space_root,
    "flatview-root": _view_root,
    "flat-range": _flat_range,
    "dispatch-section": _section,
    "rcu-bus-child": _rcu_bus_child,
    "rcu-address-space": _rcu_space,
    "initial": _initial,
    "reset": _reset,
    "portio-region": _portio,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kind_is_the_only_explanation_of_a_reference(kind: Kind) -> None:
    assert kind.name in SOLE, f"no fake shows the kind {kind.name}: add one to SOLE"
    machine = FakeMachine()
    obj = SOLE[kind.name](machine)
    snapshot = machine.snapshot()
    book = open_book(Index(snapshot), machine.policy)
    edges = book.on[obj.address]
    assert {edge.kind for edge in edges} == {kind.name} | COMPANY.get(kind.name, set())
    assert not any(edge.rule for edge in edges), "a rule is no explanation"
    assert all(edge.field for edge in edges)
    assert snapshot.objects[obj.address].ref == book.expected(obj.address) > 0
    # And nothing else in the machine lost its balance by it.
    assert {a: book.residual(a) for a in snapshot.objects if book.residual(a)} == {}


@pytest.mark.parametrize("magic", (0xB4017CEB4FFE12ED, ~0xB4017CEB4FFE12ED & (1 << 64) - 1))
def test_a_bounce_buffer_holds_its_region_until_it_is_freed(magic: int) -> None:
    machine = FakeMachine()
    ghost = _ghost_ram(machine)
    machine.know("BounceBuffer", magic=0, mr=8)
    buffer = machine.make("BounceBuffer", magic=magic, mr=machine.ram.address)
    held = [
        e for e in check(machine.snapshot()).book.on.get(ghost.address, ()) if e.kind == "dma-map"
    ]
    freed = magic != 0xB4017CEB4FFE12ED
    assert [(e.holder, e.field) for e in held] == ([] if freed else [(buffer, "BounceBuffer.mr")])


def test_every_scenario_is_of_a_kind() -> None:
    assert set(SOLE) <= {kind.name for kind in KINDS}


def test_named_variables_hold_first_references() -> None:
    machine = FakeMachine()
    machine.symbols["main_system_bus"] = BSS + 0x800
    machine.symbols["root"] = BSS + 0x808
    machine.symbols["io_mem_unassigned"] = machine.unassigned.address - BASE
    target = machine.build()
    target = target.corrupt(BASE + BSS + 0x800, machine.sysbus.address.to_bytes(8, "little"))
    target = target.corrupt(BASE + BSS + 0x808, machine.root.address.to_bytes(8, "little"))
    report = check(take(target, machine.layout)[0])
    assert not report.findings
    assert report.by_rule == 0 and not report.rules
    fields = {e.field for e in report.book.edges if e.kind == "initial"}
    assert {"main_system_bus", "root", "current_machine", "io_mem_unassigned"} <= fields


def test_rules_are_counted_apart() -> None:
    machine = FakeMachine()
    machine.array(machine.new("irq").address)
    report = check(machine.snapshot())
    assert not report.findings
    assert report.rules == {
        "static-root": 1,
        "main-system-bus": 1,
        "static-region": 1,
        "irq-allocated": 1,
    }
    assert report.by_rule == 4


def test_no_rule_speaks_for_an_irq_that_nothing_points_to() -> None:
    machine = FakeMachine()
    irq = machine.new("irq")
    report = check(machine.snapshot())
    assert [(f.kind, f.address) for f in report.findings] == [("unexplained", irq.address)]


def test_consoles_hold_each_other() -> None:
    machine = FakeMachine()
    for i in range(2):
        console = machine.new("qemu-graphic-console")
        machine.add_child(machine.objects_container, f"console[{i}]", console)
        console.ref += 1
        machine.consoles.append(console)
    report = check(machine.snapshot())
    assert not report.findings
    holders = [
        (e.holder, e.field)
        for console in machine.consoles
        for e in report.book.on[console.address]
        if e.kind != "child"
    ]
    assert [field for _, field in holders] == ["consoles", "QemuConsole.next"]
    assert holders[1][0] == machine.consoles[0].address
    assert CONSOLES > BSS


# Policies


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_the_policy_is_found_by_the_books(policy: object) -> None:
    name = getattr(policy, "name", "")
    machine = FakeMachine(policy=name)
    snapshot = machine.snapshot()
    verdict, book = choose(Index(snapshot))
    # Counts tell what is referenced, not what finalizing does: two pairs of policies count alike.
    alike = {"strict": {"owner-ref", "strict"}, "no-ref": {"owner-shared", "no-ref"}}
    alike.update({"owner-ref": alike["strict"], "owner-shared": alike["no-ref"]})
    assert {policy.name for policy in verdict.candidates} == alike.get(name, {name})
    assert verdict.policy in verdict.candidates and verdict.decided
    assert verdict.votes[name] == (2, 0)
    assert not verdict.mixed
    assert all(book.residual(a) == 0 for a in snapshot.objects)
    rules = (machine.policy.same_owner, machine.policy.same_none)
    for other, its_book in books(snapshot):
        balanced = all(its_book.residual(a) == 0 for a in snapshot.objects)
        assert balanced == ((other.same_owner, other.same_none) == rules)


def test_a_mixed_machine_is_told_as_such() -> None:
    machine = FakeMachine()
    # A second device whose regions follow another rule: a backport in the middle.
    other = machine.device("other", "core")
    bar = machine.region("other-bar", other, machine.pci_memory)
    machine.region("inner", other, bar)
    other.ref -= 1
    verdict, book = choose(Index(machine.snapshot()))
    assert verdict.mixed
    assert verdict.policy.name == "owner-ref"
    assert (verdict.supporting, verdict.opposing) == (2, 1)
    assert book.residual(other.address) == -1


def test_no_evidence_is_no_vote() -> None:
    machine = FakeMachine()
    machine.del_subregion(machine.msix)
    machine.del_subregion(machine.pba)
    verdict, _ = choose(Index(machine.snapshot()))
    assert (verdict.supporting, verdict.opposing, verdict.undecided) == (0, 0, 0)
    assert not verdict.decided
    # Pairs of regions without an owner are referenced by one policy alone, and here by none.
    left = {policy.name for policy in verdict.candidates}
    assert left == {policy.name for policy in POLICIES} - {"subregion-ref"}


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
        "NamedGPIOList",
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


# GLib


@pytest.mark.parametrize("glib", HASH_VARIANTS, ids=lambda glib: glib.name)
def test_the_glib_variant_is_probed(glib: HashVariant) -> None:
    machine = FakeMachine(glib=glib)
    target = machine.build()
    image, _ = target.capture([(m.start, m.end - m.start) for m in target.mappings()])
    properties = _word(target, "Object", "properties", machine.machine.address)
    found = probe(image, properties)
    table = open_table(image, found, properties)
    assert table is not None
    assert len(entries(image, table)) == table.nnodes == len(machine.machine.children) + 1
    # The two newest differ in where the destroy functions are: only that may be confused.
    assert found._replace(name="", value_destroy=0, bytes=0) == glib._replace(
        name="", value_destroy=0, bytes=0
    )


def _word(target: FakeTarget, struct_name: str, name: str, address: int) -> int:
    return target.u64(target.field(struct_name, name, address))


def test_tables_of_sets_share_their_array() -> None:
    machine = FakeMachine()
    target = machine.build()
    table = open_table(
        target.capture([(m.start, m.end - m.start) for m in target.mappings()])[0],
        machine.glib,
        _word(target, "Object", "properties", machine.accel.address),
    )
    assert table is not None and table.keys == table.values and table.nnodes == 0


# Scans


def test_scan_finds_words_in_every_chunk() -> None:
    value = 0x7F1234567890
    data = bytearray(0x30000)
    for at in (0, 8, 0xFFF8, 0x10000, 0x2FFF8):
        data[at : at + 8] = value.to_bytes(8, "little")
    data[0x204:0x20C] = value.to_bytes(8, "little")  # not aligned: no pointer
    image = Image([(0x1000, bytes(data))])
    places = [0x1000, 0x1008, 0x10FF8, 0x11000, 0x30FF8]
    assert [a for a, _ in find_words(image, {value, value + (1 << 20)})] == places
    assert list(find_words(image, ())) == []


def test_a_scan_that_knows_what_was_before_finds_the_same() -> None:
    value, other = 0x555555556000, 0x555555557000
    found = Found()
    memory = bytearray(0x40000)
    for start, at, word, values in (
        (0x10000, 0x8, value, {value, other}),
        (0x10000, 0x20000, other, {value, other}),  # a piece changed
        (0x10000, 0x4000, other, {value}),
        (0x13000, 0x20008, value, {value, other}),  # the segment begins elsewhere
        (0x13000, 0x8, 0, {value, other}),  # one is gone
        (0x13000, 0x30000, other, {other}),  # others are wanted
    ):
        memory[at : at + 8] = word.to_bytes(8, "little")
        image = Image([(start, bytes(memory[start - 0x10000 :]))])
        assert list(find_words(image, values, found)) == list(find_words(image, values))


def test_scans_of_memory_that_changes_find_what_a_fresh_one_finds() -> None:
    chance, found, last = random.Random(1), Found(), None
    words = [0x555555550000 + 0x110 * i for i in range(40)]
    memory = bytearray(0x50000)
    for _ in range(200):
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(memory) // 8) * 8
            memory[at : at + 8] = chance.choice([0, *words]).to_bytes(8, "little")
        low, high = (chance.choice((0, 0x1000, 0x11000)) for _ in range(2))
        image = Image(
            [(low, bytes(memory[low:0x30000])), (0x30000 + high, bytes(memory[0x30000 + high :]))]
        )
        if last is not None and chance.random() < 0.7:
            image.compare(last)
        found.expect(chance.sample(words, 3))
        for _ in range(2):
            values = chance.sample(words, chance.randrange(1, 9))
            assert list(find_words(image, values, found)) == list(find_words(image, values))
        last = image


def test_a_reading_that_knows_an_earlier_one_sees_the_same() -> None:
    machine, known = FakeMachine(), Known()
    take(machine.build(), machine.layout, known=known)
    assert known.types and known.variables.keys() == {"type_table", "flat_views"}
    late = machine.device("late")
    machine.define("newest", "device", machine.types["device"][1])
    for change in (lambda: None, lambda: machine.unparent(late), lambda: machine.new("newest")):
        change()
        target = machine.build()
        assert take(target, machine.layout, known=known)[0] == take(target, machine.layout)[0]


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


def test_what_the_programs_own_debug_information_lacks_is_not_there() -> None:
    machine = FakeMachine()
    _nbd(machine)
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
    ghost = _ghost_ram(machine)
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
    ghost = _ghost_ram(machine)
    queue = machine.make("vhost_virtqueue", used=GUEST + 0x400)
    device = machine.make("vhost_dev", nvqs=1, vqs=queue, started=0)
    listener = device + machine.layout.offset("vhost_dev", "memory_listener")
    machine.spaces[0].listeners.append((listener, "vhost"))
    report = check(machine.snapshot())
    assert not [e for e in report.book.on[ghost.address] if e.kind == "dma-map"]


# Where the structure is the same and the rule is not


@pytest.mark.parametrize("counted", (True, False))
@pytest.mark.parametrize("outputs", (1, 3))
def test_output_clocks_are_counted_where_that_balances(counted: bool, outputs: int) -> None:
    machine = FakeMachine()
    for i in range(outputs):
        clock = machine.add_child(machine.serial, f"out{i}", machine.new("clock"))
        clock.ref += counted
        at = machine.allocate(machine.layout.size("NamedClockList"))
        machine.serial.clocks.append((at, f"out{i}", clock, True, False))
    report = check(machine.snapshot())
    assert not report.findings
    assert report.exact == report.objects


def _io_watch(machine: FakeMachine, counted: bool) -> FakeObject:
    machine.know("IOWatchPoll", ioc=0x60)
    socket = _chardev(machine)
    source = machine.make("IOWatchPoll", ioc=socket.address)
    machine.poke("_GSource", source, source_funcs=BASE + BSS, ref_count=1, context=source)
    socket.ref += counted
    return socket


@pytest.mark.parametrize("counted", (True, False))
def test_a_character_devices_watch_is_counted_where_that_balances(counted: bool) -> None:
    machine = FakeMachine()
    _io_watch(machine, counted)
    second = machine.new("qio-channel-socket")
    chardev = machine.add_child(machine.objects_container, "serial1", machine.new("chardev-socket"))
    machine.poke("SocketChardev", chardev.address, sioc=second.address)
    source = machine.make("IOWatchPoll", ioc=second.address)
    machine.poke("_GSource", source, source_funcs=BASE + BSS, ref_count=1, context=source)
    second.ref += counted
    assert not check(machine.snapshot()).findings


def test_one_leaked_reference_does_not_overrule_what_came_with_the_release() -> None:
    machine = FakeMachine()
    socket = _io_watch(machine, True)  # a leak, in a QEMU whose irqs have no observer yet
    assert not machine.layout.has("IRQState", "observer")
    assert [(f.kind, f.address) for f in check(machine.snapshot()).findings] == [
        ("unexplained", socket.address)
    ]


def test_an_irq_that_is_a_child_handed_its_first_reference_on() -> None:
    machine = FakeMachine()
    embedded = machine.add_child(machine.serial, "irq[0]", machine.new("irq", machine.serial))
    line = machine.new("irq", machine.serial)
    machine.add_child(machine.unattached, "non-qdev-gpio[0]", line)
    line.ref += 1
    report = check(machine.snapshot())
    assert not report.findings
    assert [e.kind for e in report.book.on[embedded.address]] == ["child"]
    assert [e.rule for e in report.book.on[line.address]] == ["", "irq-embedded"]
