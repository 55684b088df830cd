"""Reading a QEMU
--------------

From a target to a snapshot that can be trusted, and what is asked of its memory then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from .audit.check import Finding, Report, check
from .audit.finding import Severity
from .audit.graph import orphan_groups
from .audit.stale import outside_of
from .errors import ReadingError
from .fitting import Fitting
from .layout import Layout
from .layout.names import FieldNames, field_names
from .search.functions import is_glib, names_of
from .search.stale import Where, find_stale
from .snapshot import Pointer, Snapshot, Stale, TypeInfo, Unknown
from .stops import ATTEMPTS, GRACE_S, PAUSE_S, added
from .strict import displaced
from .target.image import Capture, Target
from .walk import settled
from .walk.memory import lost_views
from .walk.validate import SIZED_TYPES, Check, validate

# What a check does without is imported by who needs it.
if TYPE_CHECKING:
    from .search.blocks import Blocks
    from .search.named import Named
    from .search.place import Place

__all__ = ["Reader", "read"]

# Looks at what was found, with an RCU grace period between two.
_LOOKS = 8
_STEADY = 2  # looks at which nothing changed any more


class Reader(Fitting):
    """Reads one target again and again, under the layout that fitted first.

    Its parameters are those of :class:`~qmrinspect.fitting.Fitting`.
    """

    def read(self) -> Snapshot:
        """Take a snapshot, again and again if need be until it is of a quiet moment.

        :raises TargetError: when the target cannot be read.
        :raises LayoutError: when no known layout fits; the text says why each does not.
        :raises ReadingError: when the one that fitted before no longer does.
        """
        snapshot = self._read()
        if self._news(snapshot):
            snapshot = self._read()
        dated = snapshot.capture._replace(at_us=time.time_ns() // 1000)
        return snapshot._replace(capture=dated)

    def _read(self) -> Snapshot:
        spent: list[Capture] = []
        if self._fitting is None:
            snapshot = self._first(spent)
            # What was copied in a stop is of one instant.
            stood = self._instants is None or snapshot.capture.stops > 0
            if stood and (snapshot.capture.quiescent or not self._runs):
                return snapshot
            if self._instants is None:
                spent.append(snapshot.capture)
                time.sleep(PAUSE_S)
        assert self._fitting is not None
        if self._instants is not None:
            taken = self._instants.read(spent)
            if taken is not None:
                snapshot, self._context = taken
                return snapshot
        return self._again(self._fitting, spent)

    def _again(self, layout: Layout, spent: list[Capture]) -> Snapshot:
        """Read under a layout that has fitted, and look again at a moment that is not quiet.

        :param spent: what earlier looks cost; of the last one, whatever it is, comes a picture.
        """
        while True:
            last = len(spent) >= ATTEMPTS - 1 or not self._runs
            image, cost = self._capture(layout)
            statics = self._known_program().statics
            spent.append(cost)
            try:
                if last or settled(image, layout, statics):
                    return self._decode(image, added(spent), layout)
            except ReadingError:
                # A list that is being changed gets a second look.
                if last:
                    raise
            time.sleep(PAUSE_S * len(spent))

    def checks(self) -> tuple[Snapshot, list[Check]]:
        """Take a reading and say how well the layout fits it.

        :raises QmrError: as :meth:`read` does.
        """
        snapshot = self.read()
        assert self._fitting is not None
        return snapshot, validate(snapshot, self._fitting)

    def check(self) -> Report:
        """Read and audit; what is found must still be there in a second reading.

        A reference that is on its way, and a request in flight, are gone by then; a
        leak is not.

        :raises QmrError: as :meth:`read` does.
        """
        report = self.audit(self.read())
        known = _identities(report)
        steady = 0
        for _ in range(_LOOKS):
            if not report.failed or not self._runs or steady == _STEADY:
                break
            time.sleep(GRACE_S)
            report = self.audit(self.read(), _blocks(report))
            still = known & _identities(report)
            steady = steady + 1 if still == known == _identities(report) else 0
            known = still
        if report.failed and self._is_displaced(report):
            return self.check()
        kept = [f for f in report.findings if f.severity == Severity.NOTE or _identity(f) in known]
        return report._replace(findings=kept)

    def audit(self, snapshot: Snapshot, freed: Sequence[tuple[int, int]] | None = None) -> Report:
        """Audit the last reading, with the search for what outlives what it needs.

        :param snapshot: that reading.
        :param freed: (start, end) of the freed memory that matters, all of it by default.
        """
        if snapshot.unknown:
            # What is granted while liveness is not known would hide a leak.
            snapshot = self._with_heap(snapshot)
        report = check(snapshot)
        if self._context is None:
            return report
        if any(finding.kind == "unexplained" for finding in report.findings):
            # What a lost flat view holds is explained by it.
            lost = lost_views(self._context, snapshot)
            if lost:
                snapshot = snapshot._replace(views={**snapshot.views, **lost})
                report = check(snapshot)
        groups = orphan_groups(report.book)
        outside = outside_of(report.book, [m for group in groups for m in group.members])
        stale = self.stale(snapshot, Where(freed, outside, candidates=True))
        unknown = snapshot.unknown
        why = self._context.live.heap.reason
        if why and not unknown:
            unknown = (Unknown("liveness", why),)
        if not stale and unknown is snapshot.unknown:
            return report
        return check(snapshot._replace(stale=tuple(stale), unknown=unknown))

    def _is_displaced(self, report: Report) -> bool:
        """Say whether what was found is the layout's fault, and leave out the fields that are."""
        lost = {f.address for f in report.findings if f.kind == "unexplained"}
        layout, context = self._fitting, self._context
        if not lost or layout is None or context is None:
            return False
        less = layout.without(displaced(context, report.book.index.snapshot, lost))
        if less.structs == layout.structs or less.missing():
            return False
        self._adopt(less)
        return True

    def types(self) -> Mapping[str, TypeInfo]:
        """Return all QOM types of the program, by name, as the last reading found them."""
        return self._context.types if self._context is not None else {}

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        """Search the memory of the last reading for every word that points to an object.

        :param snapshot: that reading.
        :param targets: addresses of the objects.
        """
        from .search.pointers import find_pointers, type_functions

        if self._context is None or not targets:
            return ()
        base = self.target.base()
        found = find_pointers(self._context, snapshot.objects, targets, self._variables())
        nameless = {
            snapshot.objects[pointer.container].type
            for pointer in found
            if pointer.place == "object" and not pointer.field
        }
        functions = {name: type_functions(self._context, name, base) for name in nameless}
        functions = {name: places for name, places in functions.items() if places}
        if not functions:
            return found
        names = field_names(self._debug, functions)
        return [self._named(names, snapshot, pointer) for pointer in found]

    def stale(self, snapshot: Snapshot, where: Where) -> Sequence[Stale]:
        """Search the memory of the last reading for callbacks that outlive what they need.

        :param snapshot: that reading.
        """
        snapshot = self._with_heap(snapshot)
        if self._context is None:
            return ()
        found = find_stale(self._context, snapshot, where)
        code = [row.function for row in found if row.function]
        mappings = self._context.image.mappings
        names = dict(zip(code, names_of(self.target, mappings, code)))
        named = [row._replace(name=names.get(row.function, row.name)) for row in found]
        # GLib's functions, a hash table's say, lie beside what they are not called with.
        return [row for row in named if row.certain or not is_glib(row.name)]

    def _with_heap(self, snapshot: Snapshot) -> Snapshot:
        """Return the last reading, or a new one of a moment at which no thread was in malloc.

        Where the heap is never known, that is found out once.
        """
        looks = _LOOKS if self._runs and self._has_heap else 0
        while looks and self._context is not None and not self._context.live.heap.exact:
            if self._instants is not None:
                self._instants.follow_blocks()
            time.sleep(PAUSE_S)
            snapshot = self.read()
            looks -= 1
        if self._context is not None:
            self._has_heap = self._context.live.heap.exact
        return snapshot

    def place(self, snapshot: Snapshot, address: int) -> Place:
        """Find out what an address belongs to, and what points there.

        :param snapshot: the last reading.
        """
        from .search.place import find_place

        snapshot = self._with_heap(snapshot)
        assert self._context is not None
        return find_place(self._context, snapshot.objects, address, self._variables())

    def tally(self) -> Counter[int] | None:
        """Return how many blocks of each size malloc had live in the last reading.

        :return: None for not known.
        """
        return (self._context.live.heap.tally() or None) if self._context is not None else None

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        """Return the live blocks of malloc, None where they are not known.

        :param snapshot: the last reading.
        """
        from .search.blocks import Blocks

        snapshot = self._with_heap(snapshot)
        if self._context is None or not self._context.live.heap.exact:
            return None
        mappings = self._context.image.mappings
        return Blocks(
            self._context,
            snapshot,
            self._variables,
            lambda code: names_of(self.target, mappings, code),
        )

    def _variables(self) -> list[tuple[int, int, str]]:
        base = self.target.base()
        return [(base + start, size, name) for start, size, name in self._debug.objects()]

    def named(
        self, snapshot: Snapshot, name: str | None, address: int | None = None
    ) -> tuple[Sequence[Named], str | None]:
        """Find what is no object and has a name, and who uses it.

        :param snapshot: the last reading.
        :param name: None for none.
        :param address: an object of that name, whose users that count nothing are found as well.
        :return: what was found, and why nothing can be, None when it can.
        """
        from .search.named import Names

        snapshot = self._with_heap(snapshot)
        assert self._context is not None
        if not self._context.live.heap.exact:
            return (), self._context.live.heap.reason
        names = Names(self._context, snapshot.objects)
        found = names.named(name) if name else []
        if address:
            found.append(names.object(name, address, self._context.is_a))
        return found, None

    def _named(self, names: FieldNames, snapshot: Snapshot, pointer: Pointer) -> Pointer:
        """Name the field that a pointer is in by the program's debug information."""
        if pointer.place != "object" or pointer.field or self._context is None:
            return pointer
        chain = self._context.chain(snapshot.objects[pointer.container].type)
        sizes = [(name, self._context.types[name].size) for name in reversed(chain)]
        return pointer._replace(field=names.field(sizes, SIZED_TYPES, pointer.offset))


def _blocks(report: Report) -> list[tuple[int, int]]:
    """Return the freed blocks that something stale leads to."""
    stale = report.book.index.snapshot.stale
    return sorted({(row.block, row.block + max(row.size, 1)) for row in stale if row.freed})


def _identities(report: Report) -> set[tuple[str, int, int]]:
    return {_identity(finding) for finding in report.findings if finding.severity != Severity.NOTE}


def _identity(finding: Finding) -> tuple[str, int, int]:
    return finding.kind, finding.address, finding.observed - finding.expected


def read(target: Target) -> Snapshot:
    """Take one snapshot of a target.  Raises as :meth:`Reader.read` does."""
    return Reader(target).read()
