"""References of devices and buses
-------------------------------
"""

from __future__ import annotations

from collections.abc import Iterator

from ..index import Index
from .edges import Edge, Kind
from .policies import Policy

__all__ = ["KINDS"]


def _bus_child(index: Index, policy: Policy) -> Iterator[Edge]:
    for bus in index.snapshot.buses.values():
        for child in bus.children:
            yield Edge(
                "bus-child",
                child.child,
                child.address,
                bus.address,
                f"BusChild[{child.number}].child",
            )


def _parent_bus(index: Index, policy: Policy) -> Iterator[Edge]:
    for device in index.snapshot.devices.values():
        if device.parent_bus:
            yield Edge(
                "parent-bus",
                device.parent_bus,
                device.address,
                device.address,
                "DeviceState.parent_bus",
            )


KINDS = (
    Kind(
        "bus-child",
        "a bus's BusChild holds the device on it",
        "hw/core/qdev.c bus_add_child; dropped by bus_free_bus_child after a grace period",
        "",
        False,
        _bus_child,
    ),
    Kind(
        "parent-bus",
        "a device holds the bus it sits on",
        "hw/core/qdev.c qdev_set_parent_bus; dropped in device_unparent",
        "",
        False,
        _parent_bus,
    ),
)
