"""Unplugs that wait
-----------------

What the controllers that know of them hold, on every machine that has one.
"""

from __future__ import annotations

from ..records.context import LIST_MAX
from ..snapshot import Snapshot
from ..target.image import Unreadable
from ..walk.unplugging import ARRAYS
from .tally import Tally

__all__ = ["relate"]

# SHPC_NSLOTS, SHPC_FIRST_DEV, and what shpc_init() writes there (hw/pci/shpc.c).
_SLOTS, _SLOTS_MAX, _FIRST, _FIRST_SLOT = 0x0C, 31, 0x0D, 1


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count what holds between the controllers and what they control."""
    _registers(tally, snapshot)
    _arrays(tally, snapshot)


def _registers(tally: Tally, snapshot: Snapshot) -> None:
    put = tally.asks(
        "a hot-plug controller has slots from the first on", "PCIDevice.shpc SHPCDevice.config"
    )
    for parent in {bus.parent for bus in snapshot.buses.values()} if put else ():
        bridge = snapshot.objects.get(parent)
        if put is None or bridge is None or not tally.context.is_a(bridge.type, "pci-device"):
            continue
        controller = tally.word(parent + tally.offset("PCIDevice.shpc"))
        if not controller:
            continue
        try:
            config = tally.context.image.u64(controller + tally.offset("SHPCDevice.config"))
            registers = tally.context.image.read(config, _FIRST + 1)
        except Unreadable:
            put(False)
            continue
        put(0 < registers[_SLOTS] <= _SLOTS_MAX and registers[_FIRST] == _FIRST_SLOT)


def _arrays(tally: Tally, snapshot: Snapshot) -> None:
    for region in snapshot.regions.values():
        if region.name not in ARRAYS:
            continue
        _, outer, field, inner, who = ARRAYS[region.name]
        opaque = "MemoryRegion.opaque"
        if not tally.has(f"{outer}.{field} {opaque}"):
            continue
        start = region.address - tally.offset(f"{outer}.{field}")
        # The registers for CPUs of old have the same name, and are in another structure.
        if tally.word(region.address + tally.offset(opaque)) != start:
            continue
        fields = f"{outer}.dev_count {outer}.devs {inner}.{who}"
        put = tally.asks(f"{outer}.devs has objects or none", fields)
        state = tally.record(outer, start)
        if put is None or state is None or not state["devs"]:
            continue
        if state["dev_count"] > LIST_MAX:
            put(False)
            continue
        for k in range(state["dev_count"]):
            row = tally.record(inner, state["devs"] + k * tally.context.layout.size(inner))
            put(row is not None and (not row[who] or row[who] in snapshot.objects))
