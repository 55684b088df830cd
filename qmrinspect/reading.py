"""Reading a QEMU
--------------

From a target to a snapshot that can be trusted: the layouts worth trying are
tried until one is found under which the picture is free of contradictions.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from .audit.check import Finding, Report, check
from .audit.finding import Severity
from .audit.graph import orphan_groups
from .audit.stale import outside_of
from .errors import LayoutError, ReadingError, TargetError
from .index import Index
from .infer import infer, open_questions, recall, references, remember
from .instants import ATTEMPTS, GRACE_S, PAUSE_S, Instants, added, patiently
from .layout import Layout
from .layout.advice import no_layout
from .layout.debugfiles import Origin, open_file
from .layout.dwarf import DebugInfo, debug_info
from .layout.find import Wanted, candidates, given
from .layout.names import FieldNames, field_names
from .records.context import Context
from .search.blocks import Blocks
from .search.named import Named, Names
from .search.place import Place, find_place
from .snapshot import Pointer, Snapshot, Stale, TypeInfo, Unknown
from .strict import displaced, doubted, relations
from .target.image import Capture, Image, Target
from .target.instant import Stoppable
from .walk import Program, capture, decode, program_of, settled, version_of
from .walk.functions import names_of
from .walk.memory import lost_views
from .walk.pointers import find_pointers, type_functions
from .walk.stale import Where, find_stale
from .walk.validate import SIZED_TYPES, Check, fits, validate

__all__ = ["Reader", "program_layout", "read"]

# Looks at what was found, with an RCU grace period between two.
_LOOKS = 8
_STEADY = 2  # looks at which nothing changed any more


class Reader:
    """Reads one target again and again, under the layout that fitted first.

    :param target: what to read.
    :param layouts: tried before the known ones; a GDB that has debug information
        gives its own.
    :param runs: whether the target runs between two readings, so that another one may
        come out better.
    :param given: a layout file of the user's; no other layout is tried then.
    :param debug: the debug information of the target, where it has been opened.
    :param own: see :class:`~qmrinspect.instants.Instants`.
    :param met: types with which the first of ``layouts`` was seen to fit this program before.
    """

    def __init__(
        self,
        target: Target,
        layouts: Iterable[Layout] = (),
        runs: bool = True,
        given: str = "",
        debug: DebugInfo | None = None,
        own: bool = False,
        met: Collection[str] = (),
    ) -> None:
        self.target = target
        self._own = own
        self._given = given
        self._debug = debug or debug_info(target)
        self._runs = runs and target.kind == "process"
        self._layouts = tuple(layouts)
        self._fitting: Layout | None = None
        self._instants: Instants | None = None
        self._context: Context | None = None
        self._has_heap = True
        self._program: Program | None = None
        # An inferred layout of an earlier time, and the types that have had instances.
        self._recalled: Layout | None = None
        self._met = set(met)

    @property
    def layout(self) -> Layout | None:
        """The layout that fitted, None before the first reading."""
        return self._fitting

    @property
    def met(self) -> Collection[str]:
        """The QOM types of which instances were seen under the layout."""
        return frozenset(self._met)

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
            snapshot = self._first()
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
        snapshot = self.read()
        if snapshot.unknown:
            snapshot = self._with_heap(snapshot)
        report = self.audit(snapshot)
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
        stale = self.stale(snapshot, Where(freed, outside))
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
        return [row._replace(name=names.get(row.function, "")) for row in found]

    def _with_heap(self, snapshot: Snapshot) -> Snapshot:
        """Return the last reading, or a new one of a moment at which no thread was in malloc.

        Where the heap is never known, that is found out once.
        """
        looks = _LOOKS if self._runs and self._has_heap else 0
        while looks and self._context is not None and not self._context.live.heap.exact:
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
        snapshot = self._with_heap(snapshot)
        assert self._context is not None
        return find_place(self._context, snapshot.objects, address, self._variables())

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        """Return the live blocks of malloc, None where they are not known.

        :param snapshot: the last reading.
        """
        snapshot = self._with_heap(snapshot)
        if self._context is None or not self._context.live.heap.exact:
            return None
        mappings = self._context.image.mappings
        return Blocks(
            self._context,
            Index(snapshot),
            self._variables(),
            lambda code: names_of(self.target, mappings, code),
        )

    def _variables(self) -> list[tuple[int, int, str]]:
        base = self.target.base()
        return [(base + start, size, name) for start, size, name in self._debug.objects()]

    def named(self, snapshot: Snapshot, name: str, address: int = 0) -> tuple[Sequence[Named], str]:
        """Find what is no object and has a name, and who uses it.

        :param snapshot: the last reading.
        :param address: an object of that name, whose users that count nothing are found as well.
        :return: what was found, and why nothing can be, empty when it can.
        """
        snapshot = self._with_heap(snapshot)
        assert self._context is not None
        if not self._context.live.heap.exact:
            return (), self._context.live.heap.reason
        names = Names(self._context, snapshot.objects)
        found = names.named(name) if name else []
        if address:
            found.append(names.object(name, address, self._context.is_a))
        return found, ""

    def _named(self, names: FieldNames, snapshot: Snapshot, pointer: Pointer) -> Pointer:
        """Name the field that a pointer is in by the program's debug information."""
        if pointer.place != "object" or pointer.field or self._context is None:
            return pointer
        chain = self._context.chain(snapshot.objects[pointer.container].type)
        sizes = [(name, self._context.types[name].size) for name in reversed(chain)]
        return pointer._replace(field=names.field(sizes, SIZED_TYPES, pointer.offset))

    def _take(self, layout: Layout) -> Snapshot:
        return self._decode(*self._capture(layout), layout)

    def _capture(self, layout: Layout) -> tuple[Image, Capture]:
        statics = self._known_program().statics
        return patiently(lambda: capture(self.target, layout, statics))

    def _decode(self, image: Image, cost: Capture, layout: Layout) -> Snapshot:
        statics, info = self._known_program()
        known = self._context.known if self._context and layout is self._fitting else None
        snapshot, self._context = decode(
            image, cost, layout, statics, info._replace(layout=layout.source), known
        )
        if self._instants is not None and layout is self._fitting:
            self._instants.learn(image, snapshot, self._context)
        return snapshot

    def _known_program(self) -> Program:
        self._program = self._program or program_of(self.target, self._debug)
        return self._program

    def _first(self) -> Snapshot:
        """Find the layout that fits."""
        self.need_machine()
        wanted = Wanted(self.target, self._debug, version_of(self.target.elf()))
        for layout in self._candidates(wanted):
            snapshot, reason = self._try(layout)
            if snapshot is not None:
                if layout.source == "inferred" and self._fitting is not self._recalled:
                    remember(self._fitting or layout, self._met, self._debug.user)
                return snapshot
            wanted.tried.append(f"{layout.source} does not fit: {reason}")
        self.target.mappings()  # a process that has ended meanwhile is told as that
        raise no_layout(wanted)

    def need_machine(self) -> None:
        """See that QEMU is so far that it can be read; its memory is hardly looked at.

        :raises TargetError: it is none, or names none of its variables.
        :raises ReadingError: it has no machine yet.
        """
        raw = self.target.peek(self._known_program().statics.first("current_machine"), 8)
        if raw is not None and not any(raw):
            raise ReadingError("this QEMU has no machine yet", "try again when it has started")

    def _try(self, layout: Layout) -> tuple[Snapshot | None, str]:
        """Read under a layout, and keep to it; return no snapshot, and why, when it does not fit.

        A VM that changes its memory topology, or gets new memory, at the instant
        contradicts itself under the right layout as well: it is looked at again.
        What live structures contradict time and again is left out of the layout.
        """
        reason = ""
        instants = self._instants_of(layout)
        before: set[str] = set()
        for attempt in range(ATTEMPTS if self._runs else 1):
            if attempt:
                time.sleep(PAUSE_S * attempt)
            # A look without a stop is enough, unless the VM is never at rest.
            stops = instants is None or attempt >= ATTEMPTS // 2
            try:
                snapshot = self._take(layout) if stops or not instants else instants.look()
            except (LayoutError, ReadingError) as error:
                if stops or isinstance(error, LayoutError):
                    return None, error.text
                reason = error.text
                continue
            context = instants.context if instants is not None and not stops else self._context
            assert context is not None
            checks = validate(snapshot, layout)
            if fits(checks):
                wrong = self._doubted(context, snapshot, layout)
                if not wrong:
                    self._fitting, self._instants, self._context = layout, instants, context
                    self._met |= _types(snapshot) if layout is not self._recalled else set()
                    return snapshot, ""
                reason = f"live structures contradict {', '.join(sorted(wrong))}"
                if wrong == before or not self._runs:
                    less = layout.without(wrong)
                    return (None, reason) if less.missing() else self._try(less)
                before = wrong
                continue
            worst = next((c for c in checks if not c.ok), checks[0])
            reason = f"{worst.name}: {worst.detail}"
            if worst.exact:
                break  # sizes do not change: it is another QEMU's layout
        return None, reason

    def _doubted(self, context: Context, snapshot: Snapshot, layout: Layout) -> set[str]:
        """Return the fields that live structures contradict."""
        if self._met and self._layouts[:1] == (layout,):
            new = _types(snapshot) - self._met
            return doubted(relations(context, snapshot, new)) if new else set()
        return doubted(relations(context, snapshot))

    def _instants_of(self, layout: Layout) -> Instants | None:
        if self._runs and isinstance(self.target, Stoppable):
            return Instants(self.target, layout, self._known_program(), self._own)
        return None

    def _candidates(self, wanted: Wanted) -> Iterable[Layout]:
        if self._given:
            yield given(Path(self._given))
            return
        yield from self._layouts
        yield from candidates(wanted)
        yield from self._inferred(wanted)

    def _inferred(self, wanted: Wanted) -> Iterable[Layout]:
        """Yield what was inferred for this build before, and what can be inferred now."""
        before = recall(wanted.debug.elf.build_id(), wanted.debug.user)
        if before is not None:
            self._recalled, self._met = before.layout, set(before.met)
            yield before.layout
        statics = self._known_program().statics
        try:
            layout = infer(self.target, statics, references(), self._recalled)
        except LayoutError as error:
            wanted.tried.append(f"inference: {error.text}")
            return
        yield layout

    def _news(self, snapshot: Snapshot) -> bool:
        """Look at the layout again when types live that did not before; say whether it changed."""
        new = _types(snapshot) - self._met
        self._met |= new
        layout, context = self._fitting, self._context
        if not new or layout is None or context is None:
            return False
        if layout.source == "inferred":
            if not open_questions(layout, [context.chain(name) for name in new]):
                return False
            return self._infer_again(layout)
        wrong = doubted(relations(context, snapshot, new))
        less = layout.without(wrong)
        if not wrong or less.missing():
            return False
        self._adopt(less)
        return True

    def _infer_again(self, layout: Layout) -> bool:
        try:
            better = infer(self.target, self._known_program().statics, references(), layout)
        except LayoutError:
            return False
        if better == layout:
            return False
        remember(better, self._met, self._debug.user)
        self._adopt(better)
        return True

    def _adopt(self, layout: Layout) -> None:
        self._fitting, self._context = layout, None
        self._instants = self._instants_of(layout)


def _types(snapshot: Snapshot) -> set[str]:
    return {obj.type for obj in snapshot.objects.values()}


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


def program_layout(path: str) -> Layout:
    """Return the layout of a program that need not run, from its debug information.

    :raises TargetError: it is no QEMU, or cannot be read.
    :raises LayoutError: it has no debug information; the lines say what was tried.
    """
    try:
        program = open_file(path)
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from None
    version = version_of(program.elf)
    if not version:
        raise TargetError(f"{path} is not a QEMU system emulator", "name the program itself")
    tried: list[str] = []
    origin = Origin(path, program.real, "/", ())
    layout = DebugInfo(program.elf, origin).layout(version, tried.append)
    if layout is None:
        raise LayoutError(
            f"{path} has no debug information that can be read",
            "install it, or name servers in DEBUGINFOD_URLS",
            [f"  tried: {line}" for line in tried],
        )
    return layout
