"""What an unplug would do under each policy
-----------------------------------------

From one snapshot: the counts as a policy would have them, and the device taken down step
by step.  What a snapshot cannot show is what a device's own ``unrealize`` undoes; a forecast
therefore says what it was made from:

``after``
    The device was unplugged, and is still there: what unrealize left is seen.
``pinned``
    It was unplugged while a link of another object held it: the same, on any QEMU.
``plugged``
    Nothing was unplugged: see :mod:`.unrealize`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ..ledger import KINDS, POLICIES, Book, Edge, Policy
from ..snapshot import Prop, Snapshot
from .graph import TRANSIENT, alive, is_transient, source
from .outcome import Ended, Outcome, is_of_a_view, outcome_of
from .teardown import Abort, Ground, Teardown

__all__ = ["Forecast", "Forecaster", "forecast"]

_ORDER = {kind.name: i for i, kind in enumerate(KINDS)}


class Forecast(NamedTuple):
    """What one policy makes of an unplug.

    :param source: ``after``, ``pinned`` or ``plugged``: what it was made from.
    :param outcome: ``clean``, ``leak``, ``partial-leak`` or ``crash``, with its cause.
    :param abort: the assertion that would end QEMU.
    :param left: the objects that would stay.
    :param book: the machine as it would be, under the policy: the references on what is left.
    """

    policy: Policy
    source: str
    outcome: Ended
    abort: Abort | None
    left: tuple[int, ...]
    book: Book


class Forecaster:
    """Forecasts from one snapshot; what they share is looked up once.

    :param book: the snapshot's, under the policy that its QEMU counts by.
    """

    def __init__(self, book: Book) -> None:
        self.book = book
        self.ground = Ground(book)
        self._alive: set[int] | None = None
        self._parentless: dict[int, set[int]] | None = None

    def family(self, object: int) -> set[int]:
        """Return an object and what goes with it.

        That is what is below it, the devices on its buses, and what has no parent and only
        they hold, or embed.
        """
        index, ground = self.book.index, self.ground
        out: set[int] = set()
        todo = [object]
        while todo:
            at = todo.pop()
            if at in out or at not in index.snapshot.objects:
                continue
            out.add(at)
            todo += [prop.target for prop in index.children.get(at, ())]
            todo += ground.buses.get(at, ())
            bus = index.snapshot.buses.get(at)
            todo += [child.child for child in bus.children] if bus is not None else []
        return out | self._loose(out)

    def _loose(self, family: Collection[int]) -> set[int]:
        """Return the objects without a parent that belong to a family."""
        if self._parentless is None:
            self._parentless = {
                address: self._holders(address)
                for address, obj in self.book.index.snapshot.objects.items()
                if obj.ref and not obj.parent
            }
        members = set(family)
        return {a for a, holders in self._parentless.items() if holders and holders <= members}

    def _holders(self, address: int) -> set[int]:
        """Return what holds an object, or embeds it where nothing is seen to hold it."""
        edges = [e for e in self.book.on.get(address, ()) if e.kind not in TRANSIENT and not e.rule]
        found = {source(self.book, edge) for edge in edges}
        return found or {self.book.index.containing(address)}

    def of(
        self,
        policy: Policy,
        object: int,
        family: Collection[int] = (),
        pins: Iterable[Prop] = (),
    ) -> Forecast:
        """Foretell from what unrealize left; see :func:`forecast`.

        :param family: what came with the object, where that is known better than by
            :meth:`family`.
        :param pins: links that were made to hold it, and are released.
        """
        pins = tuple(pins)
        teardown = Teardown(self.ground, policy, family or self.family(object))
        return self.result(teardown, object, "pinned" if pins else "after", pins)

    def rest(self, policy: Policy, family: Collection[int], name: str) -> Forecast:
        """Foretell what becomes of what is left of something that was finalized itself.

        :param name: what to call that.
        """
        return self.result(Teardown(self.ground, policy, family), 0, "after", name=name)

    def result(
        self,
        teardown: Teardown,
        object: int,
        made_from: str,
        pins: Sequence[Prop] = (),
        name: str = "",
    ) -> Forecast:
        """Run a teardown, and say what it came to.

        :param name: what to call the object; its type by default.
        """
        policy = teardown.policy
        try:
            teardown.run(object, pins)
        except Abort as abort:
            outcome = Ended(Outcome.CRASH, None, (), teardown.describe(abort))
            return Forecast(policy, made_from, outcome, abort, (), self.book)
        after = self._after(teardown)
        left = self._lost(teardown, after)
        name = name or self.book.index.snapshot.objects[object].type
        outcome = outcome_of(after, object, left, name)
        return Forecast(policy, made_from, outcome, None, tuple(sorted(left)), after)

    def _after(self, teardown: Teardown) -> Book:
        """Return the books of what is left, with the references on it."""
        remain = [a for a in teardown.family if a in self.book.index.snapshot.objects]
        remain = [a for a in remain if a not in teardown.dead]
        snapshot = _state(self.book.index.snapshot, teardown, remain)
        on: dict[int, list[Edge]] = defaultdict(list)
        for address in remain:
            on[address] = [e for e in self.book.on.get(address, ()) if teardown.kept(e)]
        for edge in self._subregions(teardown, snapshot):
            if edge.target in on:
                on[edge.target].append(edge)
        for edges in on.values():
            edges.sort(key=lambda edge: _ORDER[edge.kind])
        edges = [edge for address in sorted(on) for edge in on[address]]
        return Book(self.book.index.after(snapshot), teardown.policy, edges, dict(on))

    def _subregions(self, teardown: Teardown, snapshot: Snapshot) -> Iterable[Edge]:
        subregion = next(kind for kind in KINDS if kind.name == "subregion")
        wanted = set(teardown.family)
        touched = {
            a: r
            for a, r in snapshot.regions.items()
            if a in wanted or r.owner in wanted or r.container in wanted
        }
        # Their containers, too, for the pairs to be complete.
        for region in list(touched.values()):
            if region.container in snapshot.regions:
                touched.setdefault(region.container, snapshot.regions[region.container])
        part = snapshot._replace(regions=touched)
        return subregion.edges(self.book.index.after(part), teardown.policy)

    def _lost(self, teardown: Teardown, after: Book) -> set[int]:
        """Return what is left and would not be reachable from a root."""
        if self._alive is None:
            self._alive = alive(self.book)
        objects = after.index.snapshot.objects
        devices = after.index.snapshot.devices
        reached = self._alive - teardown.family
        remain = {a for a in after.on if objects[a].ref > 0 and not is_of_a_view(after, a)}
        held: set[int] = set()
        grew = True
        while grew:
            grew = False
            for address in remain - held:
                if address in devices and not objects[address].parent:
                    continue
                edges = after.on[address]
                if any(_held_by_reached(after, edge, reached | held) for edge in edges):
                    held.add(address)
                    grew = True
        return remain - held


def _held_by_reached(book: Book, edge: Edge, reached: Collection[int]) -> bool:
    holder = source(book, edge)
    if holder:
        return holder in reached
    return not is_transient(edge)


def _state(snapshot: Snapshot, teardown: Teardown, remain: Iterable[int]) -> Snapshot:
    """Return the snapshot with what the teardown changed on the objects that remain."""
    objects = {a: o for a, o in snapshot.objects.items() if a not in teardown.dead}
    regions = {a: r for a, r in snapshot.regions.items() if a not in teardown.dead}
    devices = {a: d for a, d in snapshot.devices.items() if a not in teardown.dead}
    for address in remain:
        objects[address] = objects[address]._replace(
            ref=teardown.ref(address), parent=teardown.parent(address)
        )
        if address in devices:
            devices[address] = devices[address]._replace(
                realized=teardown.realized(address), parent_bus=teardown.parent_bus(address)
            )
    for address in regions:
        container = teardown.container(address)
        if container != regions[address].container:
            regions[address] = regions[address]._replace(container=container)
    return snapshot._replace(objects=objects, regions=regions, devices=devices)


def forecast(
    book: Book, policy: Policy, object: int, family: Collection[int] = (), pins: Iterable[Prop] = ()
) -> Forecast:
    """Foretell what becomes of an object that was unplugged and is still there.

    :param book: the snapshot's, under the policy that its QEMU counts by.
    :param policy: the one to foretell for.
    :param object: its address.
    :param family: what came with it; found by the tree and by who holds what, by default.
    :param pins: links that were made to hold it, and are released.
    """
    return Forecaster(book).of(policy, object, family, pins)


def all_policies() -> Sequence[Policy]:
    """Return the policies in the order in which they are listed: the oldest first."""
    return sorted(POLICIES, key=lambda policy: policy.age)
