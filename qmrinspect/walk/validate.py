"""Does the layout fit
-------------------

A snapshot taken under a wrong layout contradicts itself.  Each check below is a
relation that QEMU keeps at every instant; nearly all must hold before a layout
is believed.  (A few may not: an object can be half made at the instant.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..layout import Layout
from ..snapshot import Snapshot, TypeInfo
from ..tuples import NamedTuple
from .qdev import GPIO_FIELDS

__all__ = ["Check", "check_sizes", "fits", "validate"]

# Objects that are being made or finalized break a relation for an instant.
_TOLERANCE = 0.02


class Check(NamedTuple):
    """One relation: how many of the structures that should keep it do.

    :param exact: whether all of them must.
    """

    name: str
    held: int
    total: int
    exact: bool = False

    @property
    def ok(self) -> bool:
        """Whether it holds often enough; a relation that nothing shows says nothing."""
        if self.exact:
            return self.held == self.total
        return self.total - self.held <= max(1, int(self.total * _TOLERANCE))

    @property
    def detail(self) -> str:
        """The numbers in words."""
        return f"{self.held} of {self.total}"


def _check(name: str, outcomes: Iterator[bool], exact: bool = False) -> Check:
    results = list(outcomes)
    return Check(name, sum(results), len(results), exact)


# Types whose instances are one structure of the layout: their sizes say most.
SIZED_TYPES = {
    "object": "Object",
    "device": "DeviceState",
    "bus": "BusState",
    "machine": "MachineState",
    "memory-region": "MemoryRegion",
    "virtio-device": "VirtIODevice",
    "scsi-device": "SCSIDevice",
    "irq": "IRQState",
}


def check_sizes(types: Mapping[str, TypeInfo], layout: Layout) -> Check:
    """Say how many of the types that can tell have the size that the layout says.

    Sizes do not change: it is another QEMU's layout if one has not.
    """
    return _check(
        "a type's instances have the size of its structure",
        (
            types[name].size == layout.size(struct)
            for name, struct in SIZED_TYPES.items()
            if name in types and struct in layout.structs
        ),
        exact=True,
    )


def validate(snapshot: Snapshot, layout: Layout | None = None) -> list[Check]:
    """Return every relation with how well it holds.

    :param layout: that the snapshot was taken under, where it is at hand.
    """
    objects, regions, devices = snapshot.objects, snapshot.regions, snapshot.devices
    buses, spaces, views = snapshot.buses, snapshot.spaces, snapshot.views
    children = [p for p in snapshot.props if p.role == "child"]
    links = {
        p.holder: p.target for p in snapshot.props if p.name == "parent_bus" and p.level == "class"
    }
    inputs = {irq for gpio in snapshot.gpios for irq in gpio.inputs}
    named = [p for p in children if p.name.startswith("unnamed-gpio-in[")]
    if layout and not all(layout.has(*field.split(".")) for field in GPIO_FIELDS.split()):
        named = []  # the lists were not read
    return [
        *([check_sizes(snapshot.types, layout)] if layout else []),
        _check(
            "a child's parent is the object that has the child property",
            (p.target in objects and objects[p.target].parent == p.holder for p in children),
        ),
        _check(
            "an object's parent is an object",
            (o.parent in objects for o in objects.values() if o.parent),
        ),
        _check(
            "a device's bus is a bus",
            (d.parent_bus in buses for d in devices.values() if d.parent_bus),
        ),
        _check(
            "a bus's child is a device that sits on it",
            (
                child.child in devices and devices[child.child].parent_bus == bus.address
                for bus in buses.values()
                for child in bus.children
            ),
        ),
        _check(
            "a device on a bus is one of its children",
            (
                d.address in {child.child for child in buses[d.parent_bus].children}
                for d in devices.values()
                if d.parent_bus in buses
            ),
        ),
        _check(
            "a device's link parent_bus leads to its bus",
            (links.get(d.address) == d.parent_bus for d in devices.values() if d.parent_bus),
        ),
        _check("a device's id is text", (d.id.isprintable() for d in devices.values())),
        _check(
            "a region's owner is an object",
            (r.owner in objects for r in regions.values() if r.owner),
        ),
        _check(
            "a region's container has it as a subregion",
            (
                r.container in regions and r.address in regions[r.container].subregions
                for r in regions.values()
                if r.container
            ),
        ),
        _check(
            "a region's alias is a region",
            (r.alias in regions for r in regions.values() if r.alias),
        ),
        _check("a region's name is text", (r.name.isprintable() for r in regions.values())),
        _check(
            "a region is no larger than an address space",
            (r.size <= 1 << 64 for r in regions.values()),
        ),
        _check("an address space's root is a region", (s.root in regions for s in spaces.values())),
        _check("an address space has a flat view", (s.view in views for s in spaces.values())),
        _check(
            "a flat view in use is counted and made from a region",
            (
                v.ref > 0 and (not v.root or v.root in regions)
                for v in views.values()
                if v.found == "space"
            ),
        ),
        _check(
            "a flat view's ranges are regions, in order",
            (
                all(r.mr in regions for r in view.ranges)
                and all(a.start + a.size <= b.start for a, b in zip(view.ranges, view.ranges[1:]))
                for view in views.values()
            ),
        ),
        _check(
            "a view's dispatch sections are regions",
            (all(mr in regions for mr in view.sections) for view in views.values()),
        ),
        _check(
            "a flat view that has ranges has sections",
            (bool(view.sections) for view in views.values() if view.ranges),
        ),
        _check(
            "an irq that is named as a GPIO input is one",
            (p.target in inputs for p in named),
        ),
        _check(
            "a GPIO input is an irq",
            (
                irq in objects and objects[irq].type == "irq"
                for gpio in snapshot.gpios
                for irq in gpio.inputs
                if irq
            ),
        ),
    ]


def fits(checks: list[Check]) -> bool:
    """Whether a layout under which these came out may be believed."""
    shown = [check for check in checks if check.total]
    return len(shown) >= 8 and all(check.ok for check in shown)
