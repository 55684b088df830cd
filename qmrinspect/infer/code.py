"""Offsets in code
---------------

A stripped QEMU still exports functions that do little more than read a field of what
they are given.  The displacements from the first argument, in the first instructions of
such a function, are the field's offset, without any instance (x86-64 only).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..target.elf import PT_LOAD, ElfFile

__all__ = ["FUNCTIONS", "Access", "Pick", "accesses", "offsets"]

_CODE_BYTES = 160
_INSTRUCTIONS = 24
_EM_X86_64 = 62
_RDI, _RSP = 7, 4
_CALL, _RET, _JUMPS = 0xE8, (0xC2, 0xC3), (0xE9, 0xEB)
_ENDBR64 = b"\xf3\x0f\x1e\xfa"

# No structure that these functions are given is larger; what says so is no code.
_OFFSET_MAX = 1 << 20


class Pick(NamedTuple):
    """Which of a function's offsets is which field's.

    :param field: ``Struct.field``; the offset counts from the start of the QOM object.
    :param place: among the offsets, in the order of use.
    :param ascending: in ascending order instead.
    """

    field: str
    place: int
    ascending: bool = False


#: What exported functions do with their first argument.
FUNCTIONS: dict[str, tuple[Pick, ...]] = {
    "memory_region_name": (Pick("MemoryRegion.name", 0),),
    "memory_region_set_size": (Pick("MemoryRegion.size", 0, True),),
    "memory_region_set_address": (Pick("MemoryRegion.addr", 0),),
    "memory_region_set_enabled": (Pick("MemoryRegion.enabled", 0),),
    "memory_region_is_mapped": (Pick("MemoryRegion.container", 0),),
    "memory_region_get_ram_addr": (Pick("MemoryRegion.ram_block", 0),),
    "memory_region_ref": (Pick("MemoryRegion.owner", 0),),
    "memory_region_is_protected": (Pick("MemoryRegion.ram", 0),),
    "memory_region_set_alias_offset": (
        Pick("MemoryRegion.alias", 0),
        Pick("MemoryRegion.alias_offset", 1),
    ),
    # Some test what kind of region it is before.
    "memory_region_get_ram_discard_manager": (Pick("MemoryRegion.rdm", -1),),
    "portio_list_destroy": (Pick("PortioList.nr", 0),),
    "qemu_ram_get_host_addr": (Pick("RAMBlock.host", 0),),
    "qemu_ram_get_used_length": (Pick("RAMBlock.used_length", 0),),
    "qemu_ram_get_max_length": (Pick("RAMBlock.max_length", 0),),
    "qemu_ram_get_idstr": (Pick("RAMBlock.idstr", 0),),
    "qdev_set_id": (Pick("DeviceState.id", 0), Pick("DeviceState.realized", 1)),
    "qdev_get_parent_bus": (Pick("DeviceState.parent_bus", 0),),
    "qdev_get_clock_in": (Pick("DeviceState.clocks", 0),),
    "set_numa_options": (Pick("MachineState.numa_state", 0),),
    "virtio_get_queue": (Pick("VirtIODevice.vq", 0),),
    "virtqueue_detach_element": (Pick("VirtQueue.inuse", 0),),
    "vhost_dev_cleanup": (Pick("vhost_dev.nvqs", 0),),
    "vhost_virtqueue_pending": (Pick("vhost_dev.vqs", 0, True),),
    "usb_packet_copy": (Pick("USBPacket.iov", 0),),
    "pcie_sriov_get_pf": (Pick("PCIESriovVF.pf", 0),),
    "pcie_sriov_get_vf_at_index": (Pick("PCIESriovPF.vf", -1),),
    "qemu_set_irq": (
        Pick("IRQState.handler", 0, True),
        Pick("IRQState.opaque", 1, True),
        Pick("IRQState.n", 2, True),
    ),
    "throttle_group_get_name": (Pick("ThrottleGroupMember.throttle_state", 0),),
    "qio_net_listener_sioc": (
        Pick("QIONetListener.nsioc", 0),
        Pick("QIONetListener.source", 1),
    ),
    # No reference needs it; it lies behind one that is needed.
    "qio_net_listener_is_connected": (Pick("QIONetListener.connected", 0),),
    "qemu_iovec_add": (Pick("QEMUIOVector.niov", 1), Pick("QEMUIOVector.iov", 2)),
    "qemu_sglist_add": (
        Pick("QEMUSGList.nsg", 0),
        Pick("QEMUSGList.sg", 1),
        Pick("QEMUSGList.nalloc", 2),
    ),
    "qemu_sglist_destroy": (Pick("QEMUSGList.dev", 0),),
    "scsi_req_ref": (Pick("SCSIRequest.refcount", 0),),
    "qio_task_get_source": (Pick("QIOTask.source", 0),),
    "address_space_destroy": (Pick("AddressSpace.root", 0),),
    "call_rcu1": (Pick("rcu_head.func", 0), Pick("rcu_head.next", 1)),
}


class Access(NamedTuple):
    """One use of memory at the first argument plus ``offset`` bytes.

    :param how: ``load``, ``store`` or ``address``.
    """

    offset: int
    how: str


class _Instruction(NamedTuple):
    """What is left of an instruction: registers, and a displacement where memory is used."""

    end: int
    opcode: int
    two: bool
    reg: int
    base: int
    offset: int | None
    memory: bool


_IMM8 = {0x80, 0x83, 0xC0, 0xC1, 0xC6, 0x6B}
_IMM32 = {0x81, 0xC7, 0x69}
_TWO_IMM8 = {0xBA, 0xA4, 0xAC, 0x70}
_PLAIN = {0x90, 0x98, 0x99}


def accesses(code: bytes) -> Iterator[Access]:
    """Yield how a function uses its first argument, until it calls, jumps or returns.

    :param code: from its first byte on.
    """
    copies = {_RDI}
    at = 4 if code.startswith(_ENDBR64) else 0
    for _ in range(_INSTRUCTIONS):
        row = _decode(code, at)
        if row is None:
            return
        at = row.end
        opcode = row.opcode
        if row.memory and row.base in copies and row.offset is not None:
            store = not row.two and opcode in (0x88, 0x89, 0xC6, 0xC7)
            lea = not row.two and opcode == 0x8D
            yield Access(row.offset, "store" if store else "address" if lea else "load")
        if row.memory:
            if (not row.two and opcode in (0x8A, 0x8B, 0x8D, 0x63)) or (
                row.two and opcode in (0xB6, 0xB7, 0xBE, 0xBF)
            ):
                copies.discard(row.reg)
        elif not row.two and opcode == 0x89:
            (copies.add if row.reg in copies else copies.discard)(row.base)
        elif not row.two and opcode == 0x8B:
            (copies.add if row.base in copies else copies.discard)(row.reg)


def _decode(code: bytes, at: int) -> _Instruction | None:
    """Return the instruction at a place, None where reading should end."""
    rex = 0
    while at < len(code) and code[at] in (0x66, 0xF2, 0xF3):
        at += 1
    if at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    if at + 16 > len(code):
        return None
    opcode, two = code[at], False
    at += 1
    if opcode == 0x0F:
        opcode, two = code[at], True
        at += 1
    short = _without_modrm(opcode, two, rex)
    if short is not None:
        return _Instruction(at + short, opcode, two, -1, -1, None, False) if short >= 0 else None
    modrm = code[at]
    at += 1
    reg = modrm >> 3 & 7 | (rex & 4) << 1
    base = modrm & 7 | (rex & 1) << 3
    mode, offset, memory = modrm >> 6, None, modrm >> 6 != 3
    if memory:
        if modrm & 7 == 4:
            base = code[at] & 7 | (rex & 1) << 3
            indexed = code[at] >> 3 & 7 != 4 or rex & 2
            at += 1
            base = -1 if indexed or (mode == 0 and base & 7 == 5) else base
        if mode == 0 and modrm & 7 == 5:
            base, at = -1, at + 4  # relative to the instruction
        elif mode == 0:
            offset = 0
        elif mode == 1:
            offset = int.from_bytes(code[at : at + 1], "little", signed=True)
            at += 1
        else:
            offset = int.from_bytes(code[at : at + 4], "little", signed=True)
            at += 4
    if two:
        at += opcode in _TWO_IMM8
    elif opcode in _IMM8 or (opcode == 0xF6 and modrm >> 3 & 7 < 2):
        at += 1
    elif opcode in _IMM32 or (opcode == 0xF7 and modrm >> 3 & 7 < 2):
        at += 4
    return _Instruction(at, opcode, two, reg, base, offset, memory)


def _without_modrm(opcode: int, two: bool, rex: int) -> int | None:
    """Return the bytes that follow an opcode without operands in memory.

    None where a ModRM byte follows, a negative number where reading should end.
    """
    if two:
        return 4 if opcode & 0xF0 == 0x80 else None
    if opcode & 0xF0 == 0x50 or opcode in _PLAIN:
        return 0
    if opcode in (_CALL, *_RET, *_JUMPS):
        return -1
    if opcode & 0xF0 == 0x70 or opcode == 0xA8 or opcode & 0xF8 == 0xB0:
        return 1
    if opcode & 0xF8 == 0xB8:
        return 8 if rex & 8 else 4
    if (opcode < 0x40 and opcode & 7 == 5) or opcode == 0xA9:
        return 4
    if opcode < 0x40 and opcode & 7 == 4:
        return 1
    return None


def _machine(elf: ElfFile) -> int:
    return int.from_bytes(bytes(elf.data[18:20]), "little")


def code_of(elf: ElfFile, names: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    """Yield the first bytes of each exported function of the names."""
    for name, places in elf.symbols(names).items():
        for segment in elf.segments:
            if segment.type == PT_LOAD and 0 <= places[0] - segment.vaddr < segment.filesz:
                start = segment.offset + places[0] - segment.vaddr
                yield name, bytes(elf.data[start : start + _CODE_BYTES]) + bytes(16)


def offsets(elf: ElfFile) -> dict[str, int]:
    """Return the offset of each field that a program's functions disclose."""
    if _machine(elf) != _EM_X86_64:
        return {}
    out = {}
    for name, code in code_of(elf, FUNCTIONS):
        found: list[int] = []
        for access in accesses(code):
            if not 0 <= access.offset < _OFFSET_MAX:
                break
            if access.offset not in found:
                found.append(access.offset)
        for pick in FUNCTIONS[name]:
            row = sorted(found) if pick.ascending else found
            if pick.place < len(row) and row:
                out[pick.field] = row[pick.place]
    return out
