"""Fields that hold references
----------------------------

One row for each field of a QEMU structure that keeps a counted pointer to an
object and that no property shows.  A row names the QOM type whose structure it
is, the way to the field, and what it must point to; a pointer to anything else
is not believed, so that a layout made from another configuration of the same
source does no harm.

The way is written as C has it: ``A.b`` is a field, ``A.b + C.d`` a field of the
structure ``C`` that is field ``b`` itself, ``A.b -> C.d`` one of the structure
that ``b`` points to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..snapshot import Obj, Slot
from ..target.image import Unreadable
from .context import Context

__all__ = ["FIELDS", "Field", "read_fields"]


class Field(NamedTuple):
    """One field.

    :param kind: the reference kind.
    :param type: QOM type of the object whose structure the way starts from.
    :param way: see the head of this module.
    :param target: QOM type it points to.
    :param form: ``pointer``; ``embedded`` when the object is the field itself,
        ``embedded N STRUCT`` when the field is an array of them; ``array N`` for an
        array of at most N pointers that the field points to.
    :param when: a way to a field that must not be zero.
    :param unless: a structure that must not exist in this QEMU.
    """

    kind: str
    type: str
    way: str
    target: str
    form: str = "pointer"
    when: str = ""
    unless: str = ""


FIELDS = (
    # chardev/char-socket.c tcp_chr_new_client, qmp_chardev_open_socket_server
    Field("chardev", "chardev-socket", "SocketChardev.ioc", "qio-channel"),
    Field("chardev", "chardev-socket", "SocketChardev.sioc", "qio-channel-socket"),
    Field("chardev", "chardev-socket", "SocketChardev.listener", "qio-net-listener"),
    Field("chardev", "chardev-socket", "SocketChardev.tls_creds", "tls-creds"),
    Field("chardev", "chardev-socket", "SocketChardev.connect_task -> QIOTask.source", "object"),
    # chardev/char-fd.c qemu_chr_open_fd: the same channel twice for a two-way file
    Field("chardev", "chardev-fd", "FDChardev.ioc_in", "qio-channel"),
    Field("chardev", "chardev-fd", "FDChardev.ioc_out", "qio-channel"),
    Field("chardev", "chardev-pty", "PtyChardev.ioc", "qio-channel"),
    Field("chardev", "chardev-udp", "UdpChardev.ioc", "qio-channel"),
    # io/channel-tls.c, io/channel-websock.c
    Field("channel", "qio-channel-tls", "QIOChannelTLS.master", "qio-channel"),
    Field("channel", "qio-channel-websock", "QIOChannelWebsock.master", "qio-channel"),
    # hw/block/dataplane/virtio-blk.c virtio_blk_data_plane_create (7.2);
    # hw/block/virtio-blk.c virtio_blk_vq_aio_context_init (10.0)
    Field(
        "iothread-user",
        "virtio-blk-device",
        "VirtIOBlock.dataplane -> VirtIOBlockDataPlane.iothread",
        "iothread",
    ),
    Field(
        "iothread-user",
        "virtio-blk-device",
        "VirtIOBlock.conf + VirtIOBlkConf.iothread",
        "iothread",
        when="VirtIOBlock.vq_aio_context",
    ),
    # hw/scsi/virtio-scsi-dataplane.c virtio_scsi_dataplane_setup (10.0)
    Field(
        "iothread-user",
        "virtio-scsi-device",
        "VirtIOSCSICommon.conf + VirtIOSCSIConf.iothread",
        "iothread",
        when="VirtIOSCSI.vq_aio_context",
    ),
    # hw/virtio/virtio-balloon.c virtio_balloon_device_realize, with free page hints
    Field(
        "iothread-user",
        "virtio-balloon-device",
        "VirtIOBalloon.iothread",
        "iothread",
        when="VirtIOBalloon.free_page_bh",
    ),
    # backends/tpm/tpm_backend.c tpm_backend_init
    Field("tpm-backend", "tpm-backend", "TPMBackend.tpmif", "object"),
    # accel/accel-softmmu.c accel_init_machine
    Field("initial", "machine", "MachineState.accelerator", "accel"),
    # hw/i386/pc.c pc_gsi_create; microvm has the lines of two I/O APICs
    Field("initial", "x86-machine", "X86MachineState.gsi", "irq", "array 48"),
    # hw/i386/microvm.c microvm_devices_init: qdev_new without an unref
    Field("initial", "microvm-machine", "X86MachineState.acpi_dev", "acpi-ged"),
    # hw/i386/amd_iommu.c amdvi_sysbus_realize
    Field("initial", "amd-iommu", "AMDVIState.pci", "AMDVI-PCI", "embedded"),
    Field("initial", "amd-iommu", "AMDVIState.pci", "AMDVI-PCI"),
    # pci_allocate_irq and qemu_allocate_irq: who keeps what they return
    Field("initial", "pci-uhci-usb", "UHCIState.irq", "irq"),
    Field("initial", "pci-ohci", "OHCIPCIState.state + OHCIState.irq", "irq"),
    Field("initial", "pci-ehci-usb", "EHCIPCIState.ehci + EHCIState.irq", "irq"),
    Field("initial", "ich9-ahci", "AHCIPCIState.ahci + AHCIState.irq", "irq"),
    Field("initial", "ich9-ahci", "AHCIPCIState.irq", "irq", "embedded"),
    Field("initial", "IDE", "IDEBus.irq", "irq"),
    Field("initial", "ICH9-LPC", "ICH9LPCState.pm + ICH9LPCPMRegs.irq", "irq"),
    Field("initial", "pcnet", "PCIPCNetState.state + PCNetState.irq", "irq"),
    Field("initial", "ne2k_pci", "PCINE2000State.ne2000 + NE2000State.irq", "irq"),
    Field("initial", "tulip", "TULIPState.irq", "irq"),
    Field("initial", "pci-serial", "PCISerialState.state + SerialState.irq", "irq"),
    Field("initial", "pci-serial-2x", "PCIMultiSerialState.irqs", "irq", "array 4"),
    Field("initial", "pci-serial-4x", "PCIMultiSerialState.irqs", "irq", "array 4"),
    Field("initial", "pci-serial-2x", "PCIMultiSerialState.irqs", "irq", "embedded 4 IRQState"),
    Field("initial", "pci-serial-4x", "PCIMultiSerialState.irqs", "irq", "embedded 4 IRQState"),
    Field("initial", "diva-gsp", "PCIDivaSerialState.irqs", "irq", "array 4"),
    Field("initial", "ipack-device", "IPackDevice.irq", "irq", "embedded 2 IRQState"),
    Field("initial", "ipack-device", "IPackDevice.irq", "irq", "array 2"),
    Field("initial", "kvaser_pci", "KvaserPCIState.irq", "irq"),
    Field("initial", "ctucan_pci", "CtuCanPCIState.irq", "irq"),
    Field("initial", "pcm3680_pci", "Pcm3680iPCIState.irq", "irq"),
    Field("initial", "mioe3680_pci", "Mioe3680PCIState.irq", "irq"),
    Field("initial", "am53c974", "PCIESPState.esp + ESPState.irq", "irq"),
    Field("initial", "piix4_pm", "PIIX4PMState.smi_irq", "irq"),
    Field("initial", "PIIX4_PM", "PIIX4PMState.smi_irq", "irq"),
)


def _parse(way: str) -> list[tuple[str, str, str]]:
    """Return the steps of a way as (how, struct, field)."""
    steps, how = [], "+"
    for word in way.split():
        if word in ("+", "->"):
            how = word
        else:
            struct, _, field = word.partition(".")
            steps.append((how, struct, field))
    return steps


_WAYS = {way: _parse(way) for row in FIELDS for way in (row.way, row.when) if way}


def _known(context: Context, row: Field) -> bool:
    """Whether this QEMU has the fields of a row, where the layout says they are."""
    start = _WAYS[row.way][0][1]
    return _fits(context, row.type, start) and all(
        context.layout.has(struct, field)
        for way in (row.way, row.when)
        if way
        for _, struct, field in _WAYS[way]
    )


def _fits(context: Context, type_name: str, struct: str) -> bool:
    """Whether the type, or one it derives from, has instances of the structure's size.

    A layout from another configuration of the same source may differ in this
    structure alone.
    """
    if struct not in context.layout.structs:
        return False
    size = context.layout.size(struct)
    return any(context.types[name].size == size for name in context.chain(type_name))


def _locate(context: Context, start: int, way: str) -> int:
    """Follow a way; return the address of its last field, 0 behind a NULL pointer."""
    at = start
    for how, struct, field in _WAYS[way]:
        if how == "->":
            at = context.image.u64(at)
            if not at:
                return 0
        at += context.layout.offset(struct, field)
    return at


def read_fields(context: Context, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """Yield what the fields of the table point to, in every object that has them."""
    rows: dict[str, list[Field]] = {}
    for row in FIELDS:
        if _known(context, row):
            rows.setdefault(row.type, []).append(row)
    of_type: dict[str, Sequence[Field]] = {}
    for address, obj in objects.items():
        if obj.type not in of_type:
            of_type[obj.type] = [
                row for name in rows if context.is_a(obj.type, name) for row in rows[name]
            ]
        for row in of_type[obj.type]:
            try:
                for name, target in _targets(context, address, row):
                    found = objects.get(target)
                    if found is not None and context.is_a(found.type, row.target):
                        yield Slot(row.kind, address, name, target)
            except Unreadable:
                context.note(address, f"{row.way} cannot be read")


def _targets(context: Context, start: int, row: Field) -> Iterator[tuple[str, int]]:
    at = _locate(context, start, row.way)
    if not at or (row.when and not context.image.u64(_locate(context, start, row.when))):
        return
    form, *more = row.form.split()
    if form == "pointer":
        yield row.way, context.image.u64(at)
    elif form == "embedded" and not more:
        yield row.way, at
    elif form == "embedded":
        for i in range(int(more[0])):
            yield f"{row.way}[{i}]", at + i * context.layout.size(more[1])
    else:
        array = context.image.u64(at)
        for i in range(int(more[0]) if array else 0):
            # The array may be shorter: what lies behind it may not be there at all.
            try:
                yield f"{row.way}[{i}]", context.image.u64(array + 8 * i)
            except Unreadable:
                return
