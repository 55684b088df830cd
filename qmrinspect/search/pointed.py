"""Fields that lead to what must not be freed
------------------------------------------

Fields of live objects that count nothing, and that QEMU follows: declared here, with the way to
the pointer as :mod:`qmrinspect.references.record` has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import LayoutError
from ..records.context import Context
from ..records.ways import follow
from ..snapshot import Obj
from ..target.image import Unreadable
from ..tuples import NamedTuple

__all__ = ["POINTED", "Pointed", "pointers"]


class Pointed(NamedTuple):
    """One field.

    :param kind: of what is found there, when that was freed.
    :param type: of the objects that have it.
    :param source: who should have taken it out.
    """

    kind: str
    type: str
    way: str
    source: str


POINTED = (
    Pointed("bus-list", "PCI", "PCIBus.child", "hw/pci/pci.c pci_bus_uninit"),
    Pointed("bus-list", "PCI", "PCIBus.sibling", "hw/pci/pci.c pci_bus_uninit"),
    Pointed("bus-list", "device", "DeviceState.child_bus", "hw/core/bus.c bus_unparent"),
    Pointed("bus-list", "bus", "BusState.sibling", "hw/core/bus.c bus_unparent"),
    Pointed("chardev-handler", "chardev", "Chardev.be|fe", "chardev/char-fe.c qemu_chr_fe_deinit"),
    Pointed("request", "scsi-device", "SCSIDevice.requests", "hw/scsi/scsi-bus.c scsi_req_dequeue"),
    Pointed(
        "request",
        "rng-backend",
        "RngBackend.requests",
        "backends/rng.c rng_backend_cancel_requests",
    ),
    Pointed(
        "iommu-notifier",
        "iommu-memory-region",
        "IOMMUMemoryRegion.iommu_notify",
        "system/memory.c memory_region_unregister_iommu_notifier",
    ),
    Pointed(
        "eventfd",
        "memory-region",
        "MemoryRegion.ioeventfds ->[MemoryRegion.ioeventfd_nb MemoryRegionIoeventfd] "
        "+ MemoryRegionIoeventfd.e",
        "system/memory.c memory_region_del_eventfd",
    ),
)


def pointers(
    context: Context, objects: Mapping[int, Obj]
) -> Iterator[tuple[Pointed, int, int, int]]:
    """Yield each field, the object and the structure that have it, and where it leads."""
    for row in POINTED:
        try:
            for address, obj in objects.items():
                if context.is_a(obj.type, row.type):
                    try:
                        for found in follow(context, address, row.way):
                            yield row, address, found.holder, found.value
                    except Unreadable:
                        continue
        except LayoutError:
            continue  # this layout lacks it
