"""Machines in which one kind is the only explanation of a reference: a scenario a kind."""

from __future__ import annotations

from typing import Callable

from fakes import FakeMachine, FakeObject
from faketarget import BASE, BSS, DATA, GUEST

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


def chardev(m: FakeMachine) -> FakeObject:
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


def nbd(m: FakeMachine) -> FakeObject:
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
    ghost = ghost_ram(m)
    proxy = _proxy_device(m)
    section = m.make("MemoryRegionSection", mr=m.ram.address)
    listener = proxy.address + m.layout.offset("PCIProxyDev", "proxy_listener")
    m.poke("ProxyMemoryListener", listener, n_mr_sections=1, mr_sections=section)
    return ghost


def _proxy_channel(m: FakeMachine) -> FakeObject:
    socket = m.new("qio-channel-socket")
    m.poke("PCIProxyDev", _proxy_device(m).address, ioc=socket.address)
    return socket


def _link_array(m: FakeMachine) -> FakeObject:
    m.define("cpu", "device", 0x400)
    m.know("GICv5Common", num_cpus=0x300, cpus=0x308)
    m.define("arm-gicv5-common", "device", 0x400)
    cpu = m.new("cpu")
    gic = m.device("gic0", "arm-gicv5-common")
    m.poke("GICv5Common", gic.address, num_cpus=1, cpus=m.array(cpu.address))
    return cpu


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
    ghost = ghost_ram(m)
    m.nic.ref += 1
    sg = m.make("QEMUSGList", dev=m.nic.address, sg=m.array(0, 0), nsg=1, nalloc=5)
    m.poke("QEMUSGList", sg, **{"as": m.spaces[0].address})
    request = m.make("DMAAIOCB", sg=sg)
    table = BASE + DATA + 0x400
    m.pokes.append((request, 8, table))  # BlockAIOCB.aiocb_info
    m.pokes.append((table + 8, 8, m.layout.size("DMAAIOCB")))  # AIOCBInfo.aiocb_size
    vector = request + m.layout.offset("DMAAIOCB", "iov")
    m.poke("QEMUIOVector", vector, iov=m.array(GUEST + 0x100, 0x80), niov=1)
    return ghost


def ghost_ram(m: FakeMachine) -> FakeObject:
    """Let the guest's memory belong to an object that nothing else holds."""
    ghost = m.new("nic")
    m.ram = m.region("ghost-ram", ghost)
    m.ram.fields["MemoryRegion", "ram"] = 1
    return ghost


def _vring(m: FakeMachine) -> FakeObject:
    ghost = ghost_ram(m)
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
    ghost = ghost_ram(m)
    port = m.device("port0", "virtio-serial-port")
    element = m.make("VirtQueueElement", in_num=1, in_sg=m.array(GUEST + 0x100, 0x80))
    m.poke("VirtIOSerialPort", port.address, elem=element)
    return ghost


def _dma(m: FakeMachine) -> FakeObject:
    ghost = ghost_ram(m)
    ahci = m.device("ahci0", "ich9-ahci")
    state = ahci.address + m.layout.offset("AHCIPCIState", "ahci")
    m.poke("AHCIState", state, ports=1, dev=m.make("AHCIDevice", lst=GUEST + 0x400))
    return ghost


def _vhost(m: FakeMachine) -> FakeObject:
    ghost = ghost_ram(m)
    section = m.make("MemoryRegionSection", mr=m.ram.address)
    device = m.make("vhost_dev", n_mem_sections=1, mem_sections=section)
    listener = device + m.layout.offset("vhost_dev", "memory_listener")
    m.spaces[0].listeners.append((listener, "vhost"))
    return ghost


# Kinds that never come alone, with what comes along.
COMPANY = {"kvm-slot": {"flat-range"}}

SOLE: dict[str, Scenario] = {
    "kvm-slot": _kvm,
    "chardev": chardev,
    "channel": _channel,
    "listener": _listener,
    "watch": _watch,
    "vnc-client": _vnc_client,
    "vnc-display": _vnc_display,
    "nbd-client": nbd,
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
    "link-array": _link_array,
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
