"""What a device's own code has to undo
------------------------------------

A snapshot of a plugged device shows what ties it to itself and to others: pairs of regions,
address spaces, links, interrupts.  It does not show which of them the device's ``unrealize``
ends.  So a forecast from it is sure only where there is none; else it says what follows where
all end and where none does, which ties decide, or what one cycle of the same type showed
elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..index import Index
from ..ledger import Book, Edge, Policy
from ..ledger.policies import NO_CONTAINER, NO_SUBREGIONS
from ..text import printable
from .cause import descends
from .forecast import Forecast, Forecaster
from .graph import TRANSIENT, source
from .teardown import FINALIZED_WITH, Teardown

__all__ = ["Prospect", "Tie", "foretell_without", "learn", "prospects", "ties"]

_DEPTH_MAX = 64

# What pci_qdev_unrealize() (hw/pci/pci.c) ends for every PCI device: its regions in the
# spaces of the bus, which are no aliases, and the space that it masters the bus through.
_BUS_MASTER = "bus master container"

Key = tuple[str, ...]


class Tie(NamedTuple):
    """One thing that may end when the device is unrealized, or stay.

    :param key: what it is called on any QEMU that has a device of the type.
    :param edge: the reference, for what is one under the build's own policy.
    :param region: of a pair of regions, with its ``container``; 0 for what is none.
    :param target: the object that has a reference of which nobody knows the holder.
    """

    key: Key
    text: str
    edge: Edge | None = None
    region: int = 0
    container: int = 0
    target: int = 0


class Prospect(NamedTuple):
    """What a policy makes of the unplug of a device that is plugged.

    :param certainty: ``sure`` (nothing decides), ``learned`` (what decides was seen elsewhere),
        ``either way`` (it comes to the same), or ``open``.
    :param forecast: the answer; None where it is open.
    :param nothing: what follows where unrealize ends none of the ties.
    :param everything: where it ends all.
    """

    policy: Policy
    certainty: str
    forecast: Forecast | None
    nothing: Forecast
    everything: Forecast


def prospects(
    forecaster: Forecaster,
    policies: Sequence[Policy],
    object: int,
    family: Collection[int] = (),
    learned: Iterable[Key] | None = None,
) -> tuple[Sequence[Tie], list[Prospect]]:
    """Foretell the unplug of a device that is plugged, and say what that hangs on.

    :param learned: the keys of the ties that outlive unrealize, from :func:`learn`.
    """
    family = family or forecaster.family(object)
    found = ties(forecaster.book, object, family)
    survivors = None if learned is None else _pick(found, Counter(learned))
    out = []
    for policy in policies:

        def under(kept: Collection[Tie], policy: Policy = policy) -> Forecast:
            ended = [tie for tie in found if tie not in kept]
            teardown = _Unplugging(forecaster, policy, family, ended)
            return forecaster.result(teardown, object, "plugged")

        nothing, everything = under(found), under(())
        certainty, answer = "open", None
        if not found:
            certainty, answer = "sure", nothing
        elif survivors is not None:
            certainty, answer = "learned", under(survivors)
        elif nothing.outcome.outcome == everything.outcome.outcome and not _may_abort(
            forecaster.book.index, policy, found
        ):
            certainty, answer = "either way", nothing
        out.append(Prospect(policy, certainty, answer, nothing, everything))
    return found, out


def foretell_without(
    forecaster: Forecaster,
    policies: Sequence[Policy],
    object: int,
    kept: Collection[tuple[int, int]],
) -> Iterator[Forecast]:
    """Foretell what becomes of an object whose code ends everything but some pairs of regions.

    :param kept: the region and the container of each.
    """
    family = forecaster.family(object)
    ended = [
        tie
        for tie in ties(forecaster.book, object, family)
        if not tie.target and (tie.region, tie.container) not in kept
    ]
    for policy in policies:
        teardown = _Unplugging(forecaster, policy, family, ended)
        teardown.balance()
        yield forecaster.result(teardown, object, "plugged")


def learn(
    book: Book, object: int, family: Collection[int], pins: Collection[tuple[int, str]] = ()
) -> list[Key]:
    """Return the keys of what outlived unrealize.

    :param book: of a device that was unrealized and is still there.
    :param pins: holder and name of the links that were made to hold it.
    """
    return sorted(tie.key for tie in ties(book, object, family, pins))


def ties(
    book: Book, object: int, family: Collection[int], pins: Collection[tuple[int, str]] = ()
) -> list[Tie]:
    """Find what ties a device to itself and to others.

    :param family: the device and what goes with it.
    :param pins: holder and name of links to leave out.
    """
    members = set(family)
    return [
        *_pairs(book, object, members),
        *_links(book, object, members, set(pins)),
        *_fields(book, object, members),
    ]


def _pairs(book: Book, object: int, family: set[int]) -> Iterator[Tie]:
    index, regions = book.index, book.index.snapshot.regions
    for region in regions.values():
        container = regions.get(region.container)
        if container is None or not family & {region.address, container.address}:
            continue
        if _ends_with_pci(book, region.address, container.address):
            continue
        names = (_name(index, object, region.address), _name(index, object, container.address))
        text = f"region {names[0]} in {names[1]}"
        yield Tie(("subregion", *names), text, None, region.address, container.address)


def _ends_with_pci(book: Book, region: int, container: int) -> bool:
    """Whether the PCI core itself takes a region of a realized device out of its container."""
    index = book.index
    regions, devices = index.snapshot.regions, index.snapshot.devices
    owner, outer = regions[region].owner, regions[container]
    if owner not in devices or not devices[owner].realized or not index.is_a(owner, "pci-device"):
        return False
    if outer.owner == owner:
        return outer.name == _BUS_MASTER
    return regions[region].kind != "alias" and not descends(book, outer.owner, owner)


def _links(book: Book, object: int, family: set[int], pins: set[tuple[int, str]]) -> Iterator[Tie]:
    index = book.index
    for prop in index.snapshot.props:
        if prop.role != "strong" or prop.target not in family or (prop.holder, prop.name) in pins:
            continue
        # A part's link to another part goes with the part, unless that is what it waits for.
        if prop.holder in family and not descends(book, prop.holder, prop.target):
            continue
        edge = Edge("link", prop.target, prop.holder, prop.holder, f'link "{prop.name}"')
        holder = _name(index, object, prop.holder)
        target = _name(index, object, prop.target)
        text = f'link "{printable(prop.name)}" of {holder} to {target}'
        yield Tie(("link", holder, prop.name), text, edge)


_KNOWN = frozenset(("child", "link", "bus-child", "parent-bus", "subregion"))


def _fields(book: Book, object: int, family: set[int]) -> Iterator[Tie]:
    index = book.index
    lists = {gpio.address for gpio in index.snapshot.gpios}
    lists |= {clock.address for clock in index.snapshot.clocks}
    for address in sorted(family):
        for edge in book.on.get(address, ()):
            if edge.kind in _KNOWN or edge.kind in TRANSIENT or edge.holder in lists:
                continue
            if edge.kind in FINALIZED_WITH and edge.owner in family:
                continue
            loose = not edge.rule and source(book, edge) not in family
            if loose and not descends(book, address, object):
                continue  # it came with the device, and lives by something else
            if edge.kind == "address-space-root":
                space = index.snapshot.spaces[edge.holder]
                region = index.snapshot.regions[space.root]
                devices = index.snapshot.devices
                alive = region.owner in devices and devices[region.owner].realized
                if alive and region.name == _BUS_MASTER:
                    continue
                key: Key = (edge.kind, _name(index, object, space.root))
                yield Tie(key, f'address space "{printable(space.name)}"', edge)
                continue
            field = edge.field if not edge.rule else edge.rule
            what = printable(index.snapshot.objects[address].type)
            yield Tie((edge.kind, what, field), f"{what} held by {printable(field)}", edge)
        for _ in range(max(0, book.residual(address))):
            name = _name(index, object, address)
            yield Tie(("unbalanced", name), f"a reference on {name}", None, target=address)


def _name(index: Index, object: int, address: int) -> str:
    """Return a name that is the same on every QEMU: the path from the device on, or its own."""
    parts: list[str] = []
    at = address
    for _ in range(_DEPTH_MAX):
        if at == object:
            return "/".join(reversed(parts)) or "the device"
        prop = index.name_of.get(at)
        if prop is None:
            break
        parts.append(printable(prop.name))
        at = prop.holder
    region = index.snapshot.regions.get(address)
    if region is not None and region.name:
        return f'"{printable(region.name)}"'
    return printable(index.path(address) or index.snapshot.objects[address].type)


def _pick(found: Iterable[Tie], wanted: Mapping[Key, int]) -> list[Tie]:
    left = Counter(wanted)
    out = []
    for tie in found:
        if left[tie.key] > 0:
            left[tie.key] -= 1
            out.append(tie)
    return out


def _may_abort(index: Index, policy: Policy, found: Iterable[Tie]) -> bool:
    """Whether a part of the pairs may make QEMU abort where none and all do not."""
    regions = index.snapshot.regions
    pairs = [(regions[tie.region], regions[tie.container]) for tie in found if tie.region]
    asserts = policy.finalizing.asserts
    if NO_SUBREGIONS in asserts and pairs:
        return True
    return NO_CONTAINER in asserts and any(not policy.referenced(*pair) for pair in pairs)


class _Unplugging(Teardown):
    """A teardown in which unrealize ends what it is said to."""

    def __init__(
        self,
        forecaster: Forecaster,
        policy: Policy,
        family: Collection[int],
        ended: Sequence[Tie],
    ) -> None:
        super().__init__(forecaster.ground, policy, family)
        self._book = forecaster.book
        self._ties = list(ended)

    def unrealize(self, device: int) -> None:
        """End the ties, and what the PCI core ends."""
        super().unrealize(device)
        while self._ties:
            self._cut(self._ties.pop())
        index = self._book.index
        if not index.is_a(device, "pci-device"):
            return
        regions = index.snapshot.regions
        for prop in index.children.get(device, ()):
            region = prop.target
            container = self.container(region) if region in regions else 0
            if container and _ends_with_pci(self._book, region, container):
                self.del_subregion(container, region)
        for edge in self._book.on.get(device, ()):
            if edge.kind == "address-space-root":
                space = index.snapshot.spaces[edge.holder]
                if regions[space.root].name == _BUS_MASTER:
                    self.end_late(edge)

    def _cut(self, tie: Tie) -> None:
        edge = tie.edge
        if tie.region and self.container(tie.region) == tie.container:
            self.del_subregion(tie.container, tie.region)
        elif tie.target:
            self.unref(tie.target)
        elif edge is not None and edge.kind == "address-space-root":
            self.end_late(edge)
        elif edge is not None and edge.kind == "link":
            self.released.add((edge.holder, edge.field.split('"', 1)[1][:-1]))
            self.unref(edge.target)
        elif edge is not None:
            self.end(edge)
