"""Taking objects down
-------------------

What ``object_unparent`` and ``object_unref`` do, step by step and in QEMU's order, on the
counts of a snapshot: ``object_finalize()`` and ``object_property_del_all()`` (qom/object.c),
``device_unparent()`` and ``bus_unparent()`` (hw/core), ``memory_region_finalize()``
(system/memory.c) under any policy, and what waits for RCU, last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from ..errors import ReadingError
from ..ledger import Book, Edge, Policy
from ..ledger.policies import NO_CONTAINER, NO_SUBREGIONS, SAME_OWNER
from ..snapshot import Prop
from ..text import printable
from .graph import TRANSIENT

__all__ = ["FINALIZED_WITH", "Abort", "Ground", "Teardown"]

# Kinds of references that a field holds and that finalizing the field's object ends:
# instance_finalize of chardevs and channels, memory_region_portio_list_finalize().  What
# else a field holds, the device's own unrealize ends, or nothing does.
FINALIZED_WITH = frozenset(("chardev", "channel", "listener", "portio-region"))

# These have steps of their own below.
_STEPS = frozenset(("child", "link", "bus-child", "parent-bus", "subregion", "address-space-root"))

_NAMES_MAX = 4
# An object, its child, the child's bus and the device on it: no machine goes deeper.
_DEPTH_MAX = 150


class Abort(Exception):
    """QEMU would abort.

    :param function: the function with the assertion.
    :param expression: what does not hold, in QEMU's words.
    :param object: on which object; for a region that is the region.
    :param other: its container, or the subregions that it still has.
    """

    def __init__(
        self, function: str, expression: str, object: int, others: Sequence[int] = ()
    ) -> None:
        super().__init__(f"{function}: Assertion `{expression}' failed.")
        self.function = function
        self.expression = expression
        self.object = object
        self.others = tuple(others)


class Ground:
    """What a snapshot says of lives and deaths, looked up once for many teardowns."""

    def __init__(self, book: Book) -> None:
        self.book = book
        snapshot = book.index.snapshot
        self.props: dict[int, list[Prop]] = defaultdict(list)
        for prop in snapshot.props:
            # In the order of the hash table, which is that of their release.
            if prop.role != "weak":
                self.props[prop.holder].append(prop)
        self.ended_with: dict[int, list[Edge]] = defaultdict(list)
        for edge in book.edges:
            if edge.kind in FINALIZED_WITH and edge.owner:
                self.ended_with[edge.owner].append(edge)
        self.first: dict[int, list[int]] = defaultdict(list)
        for gpio in snapshot.gpios:
            # device_finalize(): qemu_free_irqs() of each list.
            self.first[gpio.device] += [irq for irq in gpio.inputs if irq in snapshot.objects]
        for clock in snapshot.clocks:
            if not clock.alias and not clock.output:
                self.first[clock.device].append(clock.clock)
        self.buses: dict[int, list[int]] = defaultdict(list)
        for bus in snapshot.buses.values():
            self.buses[bus.parent].append(bus.address)
        self._own = self._subregions(book.policy)
        self._transient = Counter(e.target for e in book.edges if e.kind in TRANSIENT)
        self._under: dict[str, Counter[int]] = {}

    def _subregions(self, policy: Policy) -> Counter[int]:
        """Count what subregions reference under a policy."""
        regions = self.book.index.snapshot.regions
        pairs = ((r, regions.get(r.container)) for r in regions.values())
        return Counter(policy.referenced(r, c) for r, c in pairs if c is not None)

    def count(self, policy: Policy, address: int, transient: bool) -> int:
        """Return the count that an object would have under a policy.

        :param transient: whether to count the references that are transient.
        """
        under = self._under.get(policy.name)
        if under is None:
            under = self._under[policy.name] = self._subregions(policy)
        observed = self.book.index.snapshot.objects[address].ref
        left_out = 0 if transient else self._transient[address]
        return observed - self._own[address] + under[address] - left_out


class Teardown:
    """The objects of a snapshot under a policy, while some of them are taken down.

    :param family: the objects that are taken down; transient references on them have ended.
    """

    def __init__(self, ground: Ground, policy: Policy, family: Collection[int]) -> None:
        self._ground, self.policy, self.family = ground, policy, frozenset(family)
        self._index = ground.book.index
        self._snapshot = self._index.snapshot
        self._ref: dict[int, int] = {}
        self._parent: dict[int, int] = {}
        self._realized: dict[int, bool] = {}
        self._parent_bus: dict[int, int] = {}
        self._children: dict[int, list[int]] = {}
        self._buses: dict[int, list[int]] = {}
        self._container: dict[int, int] = {}
        self._subregions: dict[int, list[int]] = {}
        #: Finalized objects.
        self.dead: set[int] = set()
        #: Properties (holder, name) that were released, and other references that ended.
        self.released: set[tuple[int, str]] = set()
        self.ended: set[Edge] = set()
        self._late: list[int] = []
        self._depth = 0

    # What is there ------------------------------------------------------------------

    def ref(self, address: int) -> int:
        """Return an object's count."""
        if address not in self._ref:
            transient = address not in self.family
            self._ref[address] = self._ground.count(self.policy, address, transient)
        return self._ref[address]

    def parent(self, address: int) -> int:
        """Return ``Object.parent``."""
        found = self._parent.get(address)
        return self._snapshot.objects[address].parent if found is None else found

    def container(self, region: int) -> int:
        """Return a region's container, 0 for none."""
        found = self._container.get(region)
        if found is None:
            found = self._snapshot.regions[region].container
        return found if found in self._snapshot.regions else 0

    def subregions(self, region: int) -> list[int]:
        """Return a region's subregions, in QEMU's order."""
        if region not in self._subregions:
            regions = self._snapshot.regions
            self._subregions[region] = [r for r in regions[region].subregions if r in regions]
        return self._subregions[region]

    def buses(self, device: int) -> list[int]:
        """Return the buses that a device still has."""
        return self._buses.setdefault(device, list(self._ground.buses.get(device, ())))

    def children(self, bus: int) -> list[int]:
        """Return the devices on a bus, in QEMU's order."""
        if bus not in self._children:
            self._children[bus] = [child.child for child in self._snapshot.buses[bus].children]
        return self._children[bus]

    def parent_bus(self, device: int) -> int:
        """Return the bus that a device is on."""
        found = self._parent_bus.get(device)
        return self._snapshot.devices[device].parent_bus if found is None else found

    def realized(self, device: int) -> bool:
        """Whether a device is realized."""
        return self._realized.get(device, self._snapshot.devices[device].realized)

    def balance(self) -> None:
        """Count on the family what is seen to be held, and no more: as if its books balanced."""
        for address in self.family & self._snapshot.objects.keys():
            self._ref[address] = self.ref(address) - self._ground.book.residual(address)

    # What QEMU does -----------------------------------------------------------------

    def unref(self, address: int) -> None:
        """``object_unref``.

        :raises Abort: there is no reference left to give up.
        """
        if address not in self._snapshot.objects or address in self.dead:
            return
        if self.ref(address) <= 0:
            raise Abort("object_unref", "obj->ref > 0", address)
        self._ref[address] -= 1
        if not self._ref[address]:
            self.finalize(address)

    def unparent(self, address: int) -> None:
        """``object_unparent``.

        :raises Abort: as all that follows from it.
        """
        parent = self.parent(address)
        prop = self._index.name_of.get(address)
        if parent and prop is not None and prop.holder == parent:
            self._release(prop)

    def release(self, prop: Prop) -> None:
        """End a strong link."""
        self.released.add((prop.holder, prop.name))
        self.unref(prop.target)

    def end(self, edge: Edge) -> None:
        """End a reference that a field held."""
        if edge not in self.ended:
            self.ended.add(edge)
            self.unref(edge.target)

    def end_late(self, edge: Edge) -> None:
        """End a reference after a grace period: ``address_space_destroy``."""
        if edge not in self.ended:
            self.ended.add(edge)
            self._late.append(edge.target)

    def del_subregion(self, container: int, region: int) -> None:
        """``memory_region_del_subregion``."""
        regions = self._snapshot.regions
        self._container[region] = 0
        if region in self.subregions(container):
            self.subregions(container).remove(region)
        target = self.policy.referenced(regions[region], regions[container])
        if target:
            self.unref(target)

    def unrealize(self, device: int) -> None:
        """``qdev_unrealize``: that it happens, for a snapshot does not show what it would undo."""
        self._realized[device] = False
        for bus in self.buses(device):
            for child in list(self.children(bus)):
                if child in self._snapshot.devices and self.realized(child):
                    self.unrealize(child)

    def _release(self, prop: Prop) -> None:
        """``object_finalize_child_property``."""
        child = prop.target
        self.released.add((prop.holder, prop.name))
        if child in self._snapshot.devices:
            self._device_unparent(child)
        elif child in self._snapshot.buses:
            self._bus_unparent(child)
        self._parent[child] = 0
        self.unref(child)

    def _device_unparent(self, device: int) -> None:
        if self.realized(device):
            self.unrealize(device)
        for bus in list(self.buses(device)):
            self.unparent(bus)
        on = self.parent_bus(device)
        if on in self._snapshot.buses:
            if device in self.children(on):
                # bus_free_bus_child() comes after a grace period.
                self.children(on).remove(device)
                self._late.append(device)
            self._parent_bus[device] = 0
            self.unref(on)

    def _bus_unparent(self, bus: int) -> None:
        while self.children(bus):
            child = self.children(bus)[0]
            self.unparent(child)
            if child in self.children(bus)[:1]:
                self.children(bus).pop(0)
        parent = self._snapshot.buses[bus].parent
        if bus in self.buses(parent):
            self.buses(parent).remove(bus)

    def finalize(self, address: int) -> None:
        """``object_finalize``: the properties first, then the object's own part.

        :raises Abort: what :class:`Policy` asserts of a region, and QOM of any object.
        """
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise ReadingError(
                "the objects of this machine are nested too deep to be taken down",
                "the reading makes no sense; take another",
            )
        for prop in self._ground.props.get(address, ()):
            if (prop.holder, prop.name) in self.released:
                continue
            if prop.role == "strong":
                self.release(prop)
            elif prop.target in self._snapshot.objects and self.parent(prop.target) == address:
                self._release(prop)
        if address in self._snapshot.regions:
            self._finalize_region(address)
        for edge in self._ground.ended_with.get(address, ()):
            self.end(edge)
        for target in self._ground.first.get(address, ()):
            self.unref(target)
        if self.parent(address):
            raise Abort("object_finalize", "obj->parent == NULL", address)
        self.dead.add(address)
        self._depth -= 1

    def _finalize_region(self, address: int) -> None:
        regions = self._snapshot.regions
        finalizing, container = self.policy.finalizing, self.container(address)
        for text in finalizing.asserts:
            if text == NO_CONTAINER and container:
                raise Abort("memory_region_finalize", text, address, (container,))
            if text == NO_SUBREGIONS and self.subregions(address):
                raise Abort("memory_region_finalize", text, address, self.subregions(address))
            foreign = container and regions[container].owner != regions[address].owner
            if text == SAME_OWNER and foreign:
                raise Abort("memory_region_finalize", text, address, (container,))
        if finalizing.leaves and container:
            self.del_subregion(container, address)
        while self.subregions(address):
            self.del_subregion(address, self.subregions(address)[0])

    # The whole ----------------------------------------------------------------------

    def run(self, object: int, first: Iterable[Prop] = ()) -> None:
        """Take the family down: end some links, unparent an object, and wait for RCU.

        What already is out of the tree, and has no reference left under the policy, is
        finalized as well.

        :param first: links that are released first.
        :raises Abort: QEMU would not survive it.
        """
        free = [a for a in (object, *sorted(self.family)) if self._is_free(a)]
        for prop in first:
            self.release(prop)
        if object in self._snapshot.objects and object not in self.dead:
            self.unparent(object)
        for address in free:
            if address not in self.dead:
                self.finalize(address)
        while self._late:
            self.unref(self._late.pop(0))

    def _is_free(self, address: int) -> bool:
        """Whether an object that lives has no reference under this policy."""
        found = self._snapshot.objects.get(address)
        return found is not None and found.ref > 0 and self.ref(address) == 0

    def kept(self, edge: Edge) -> bool:
        """Whether a reference of the snapshot's own books is still held."""
        if edge.kind == "subregion" or edge in self.ended:
            return False
        if edge.target in self.dead or edge.holder in self.dead or edge.owner in self.dead:
            return False
        if edge.kind in TRANSIENT:
            return edge.target not in self.family
        if edge.kind in ("child", "link"):
            return (edge.holder, _quoted(edge)) not in self.released
        if edge.kind == "bus-child":
            return edge.target in self.children(edge.owner)
        if edge.kind == "parent-bus":
            return self.parent_bus(edge.holder) == edge.target
        return True

    def describe(self, abort: Abort) -> str:
        """Return an abort as a sentence: QEMU's message, and on what."""
        name = self._name(abort.object)
        others = ", ".join(self._name(other) for other in abort.others[:_NAMES_MAX])
        if len(abort.others) > _NAMES_MAX:
            others += f" and {len(abort.others) - _NAMES_MAX} more"
        said = str(abort).rstrip(".")
        if abort.expression == NO_SUBREGIONS:
            return f"{said}: {name} still has {others}"
        return f"{said}: {name} is still in {others}" if others else f"{said}: {name}"

    def _name(self, address: int) -> str:
        region = self._snapshot.regions.get(address)
        if region is None:
            return self._index.label(address)
        owner = f" of {self._index.label(region.owner)}" if region.owner else ""
        return f'"{printable(region.name)}"{owner}'


def _quoted(edge: Edge) -> str:
    """Return the property's name of a child or link."""
    return edge.field.split('"', 1)[1][:-1]
