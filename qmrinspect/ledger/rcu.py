"""References that wait for RCU
----------------------------

What was released and is released after a grace period still holds what it held.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..index import Index
from .edges import Edge, Kind
from .policies import Policy

__all__ = ["KINDS"]


def _bus_child(index: Index, policy: Policy) -> Iterator[Edge]:
    for pending in index.snapshot.pending:
        if pending.what == "bus-child":
            yield Edge("rcu-bus-child", pending.target, pending.address, 0, "BusChild.child")


def _space(index: Index, policy: Policy) -> Iterator[Edge]:
    snapshot = index.snapshot
    for pending in snapshot.pending:
        if pending.what == "address-space" and pending.target:
            region = snapshot.regions.get(pending.target)
            if region is not None and region.owner:
                yield Edge(
                    "rcu-address-space", region.owner, pending.address, 0, "AddressSpace.root"
                )


KINDS = (
    Kind(
        "rcu-bus-child",
        "a BusChild that left its bus holds the device until the grace period ends",
        "hw/core/qdev.c bus_remove_child, bus_free_bus_child",
        "",
        True,
        _bus_child,
    ),
    Kind(
        "rcu-address-space",
        "a destroyed address space holds the owner of its root until the grace period ends",
        "system/memory.c address_space_destroy, do_address_space_destroy",
        "",
        True,
        _space,
    ),
)
