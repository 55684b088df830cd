"""Where structures live
---------------------

Which QOM type's instances a structure is, and which structures are parts of others.
QOM keeps no record of either: it follows from the declared references, and for the rest
from the tables here.  Other structures live on no object.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple

from ..layout import Struct
from ..references import HOLDERS, OfType
from ..references.record import parse, ways_of

__all__ = ["Home", "home", "outermost", "parts", "qom_types", "types_of"]

_TYPES: dict[str, tuple[str, ...]] = {
    "Object": ("object",),
    "DeviceState": ("device",),
    "BusState": ("bus",),
    "MemoryRegion": ("memory-region",),
    "PCIDevice": ("pci-device",),
    "QIONetListener": ("qio-net-listener",),
    "QemuConsole": ("qemu-console",),
    "ThrottleGroup": ("throttle-group",),
    "SCSIDevice": ("scsi-device",),
    "IRQState": ("irq",),
    "RamDiscardManager": ("ram-discard-manager",),
    # What the references are declared for derives from these.
    "X86MachineState": ("x86-machine",),
    "VirtIOSCSICommon": ("virtio-scsi-common",),
    "VirtIOSCSI": ("virtio-scsi-device",),
}

_PARTS: dict[str, str] = {
    "PCIExpressDevice": "PCIDevice.exp",
    "PCIESriovPF": "PCIExpressDevice.sriov_pf",
    "PCIESriovVF": "PCIExpressDevice.sriov_vf",
}


class Home(NamedTuple):
    """The QOM type whose instances have a structure in them, and where, in bytes."""

    type: str
    offset: int


@lru_cache(maxsize=1)
def _declared() -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return what the declared references say of both."""
    types, parts = dict(_TYPES), dict(_PARTS)
    for holder in HOLDERS:
        if not isinstance(holder.start, OfType):
            continue
        for way in (*ways_of(holder.way), *ways_of(holder.when)):
            outer = ""
            for step in parse(way) if way else ():
                if step.how != "+" or not step.names:
                    break
                if outer:
                    parts.setdefault(step.struct, outer)
                elif holder.start.type not in types.get(step.struct, ()):
                    types[step.struct] = (*types.get(step.struct, ()), holder.start.type)
                outer = f"{step.struct}.{step.names[0]}"
    return types, {struct: field for struct, field in parts.items() if struct not in types}


def types_of(struct: str) -> tuple[str, ...]:
    """Return the QOM types whose instances begin with a structure; the first that exists counts."""
    return _declared()[0].get(struct, ())


def parts() -> Mapping[str, str]:
    """Return each structure that is a field of another, with that ``Struct.field``."""
    return _declared()[1]


def outermost(struct: str) -> str:
    """Return the structure that a structure is a part of, at any depth; itself for another.

    :param struct: its name, or ``Struct.field``.
    """
    name = struct.partition(".")[0]
    while name in parts():
        name = parts()[name].partition(".")[0]
    return name


def home(structs: Mapping[str, Struct], struct: str, types: Collection[str]) -> Home | None:
    """Return where a structure lives; None when it does not live on objects, or is absent.

    :param structs: a layout's.
    :param types: the QOM types that the QEMU has.
    """
    if struct not in structs:
        return None
    names = types_of(struct)
    if names:
        name = next((name for name in names if name in types), "")
        return Home(name, 0) if name else None
    outer, _, field = parts().get(struct, "").partition(".")
    place = home(structs, outer, types) if outer else None
    if place is None or field not in structs[outer].fields:
        return None
    return Home(place.type, place.offset + structs[outer].fields[field][0])


def qom_types() -> set[str]:
    """Return every QOM type whose instances have a structure of the layouts in them."""
    return {name for names in _declared()[0].values() for name in names}
