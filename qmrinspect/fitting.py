"""Which layout fits
-----------------

The layouts worth trying are tried until one is found under which the picture is free of
contradictions; what live structures contradict is left out of it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path

from .earlier import Earlier, layout_id
from .errors import LayoutError, ReadingError, TargetError
from .instants import Instants
from .layout import Layout, load
from .layout.advice import no_layout
from .layout.debugfiles import Origin, open_file
from .layout.dwarf import DebugInfo, debug_info
from .layout.find import Wanted, candidates, given, profiles
from .records.context import Context
from .snapshot import Snapshot
from .stops import ATTEMPTS, PAUSE_S, patiently
from .strict import doubted, relations
from .target.image import Capture, Image, Target
from .target.instant import Stoppable
from .walk import Program, capture, decode, program_of, version_of
from .walk.validate import fits, validate

__all__ = ["Fitting", "program_layout", "shipped_layout", "types_of"]


class Fitting:
    """A target and the layout that fits it, once one was found.

    :param target: what to read.
    :param layouts: tried before the known ones; a GDB that has debug information
        gives its own.
    :param runs: whether the target runs between two readings, so that another one may
        come out better.
    :param given: a layout file of the user's; no other layout is tried then.
    :param debug: the debug information of the target, where it has been opened.
    :param own: see :class:`~qmrinspect.instants.Instants`.
    :param met: types with which the first of ``layouts`` was seen to fit this program before.
    :param earlier: what earlier commands learned of the target.
    """

    def __init__(
        self,
        target: Target,
        layouts: Iterable[Layout] = (),
        runs: bool = True,
        given: str | None = None,
        debug: DebugInfo | None = None,
        own: bool = False,
        met: Collection[str] = (),
        earlier: Earlier | None = None,
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
        self._earlier = earlier

    @property
    def layout(self) -> Layout | None:
        """The layout that fitted, None before the first reading."""
        return self._fitting

    @property
    def met(self) -> Collection[str]:
        """The QOM types of which instances were seen under the layout."""
        return frozenset(self._met)

    def learned(self) -> Earlier | None:
        """Return what a later command may build upon, None for nothing new."""
        layout, instants = self._fitting, self._instants
        if layout is None or instants is None:
            return None
        found = Earlier(
            layout_id(layout), frozenset(self._met), instants.needed, instants.heap, instants.blocks
        )
        return None if self._earlier is not None and self._earlier.has(found) else found

    def _of_earlier(self, layout: Layout) -> Earlier | None:
        """Return what was learned under a layout."""
        known = self._earlier
        return known if known is not None and known.layout == layout_id(layout) else None

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

    def _first(self, spent: list[Capture]) -> Snapshot:
        """Find the layout that fits; what stops cost is added."""
        self.need_machine()
        wanted = Wanted(self.target, self._debug, version_of(self.target.elf()))
        for layout in self._candidates(wanted):
            snapshot, reason = self._try(layout, spent)
            if snapshot is not None:
                if layout.source == "inferred" and self._fitting is not self._recalled:
                    from .infer import remember

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

    def _try(self, layout: Layout, spent: list[Capture]) -> tuple[Snapshot | None, str]:
        """Read under a layout, and keep to it; return no snapshot, and why, when it does not fit.

        A VM that changes its memory topology, or gets new memory, at the instant
        contradicts itself under the right layout as well: it is looked at again.
        What live structures contradict time and again is left out of the layout.
        """
        reason = ""
        instants = self._instants_of(layout)
        before: set[str] = set()
        doubts = False
        for attempt in range(ATTEMPTS if self._runs else 1):
            if attempt:
                time.sleep(PAUSE_S * attempt)
            # A look without a stop is enough, unless the VM is never at rest; what it contradicts
            # may be of no instant: a list that went on meanwhile.
            late = instants is None or attempt >= ATTEMPTS // 2
            stops = late or doubts
            try:
                snapshot = self._take(layout) if stops or not instants else instants.look(spent)
            except (LayoutError, ReadingError) as error:
                if late or isinstance(error, LayoutError):
                    return None, error.text
                reason = error.text
                continue
            context = instants.context if instants is not None and not stops else self._context
            assert context is not None
            checks = validate(snapshot, layout)
            if fits(checks):
                wrong = self._doubted(context, snapshot, layout)
                if not wrong:
                    if instants is not None and stops:
                        instants.learn(context.image, snapshot, context)
                    self._fitting, self._instants, self._context = layout, instants, context
                    self._met |= types_of(snapshot) if layout is not self._recalled else set()
                    return snapshot, ""
                reason = f"live structures contradict {', '.join(sorted(wrong))}"
                if wrong == before or not self._runs:
                    less = layout.without(wrong)
                    return (None, reason) if less.missing() else self._try(less, spent)
                before, doubts = wrong if stops else set(), True
                continue
            worst = next((c for c in checks if not c.ok), checks[0])
            reason = f"{worst.name}: {worst.detail}"
            if worst.exact:
                break  # sizes do not change: it is another QEMU's layout
        return None, reason

    def _doubted(self, context: Context, snapshot: Snapshot, layout: Layout) -> set[str]:
        """Return the fields that live structures contradict."""
        earlier = self._of_earlier(layout)
        known = earlier.met if earlier is not None else self._met
        if known and (earlier is not None or self._layouts[:1] == (layout,)):
            new = types_of(snapshot) - known
            return doubted(relations(context, snapshot, new)) if new else set()
        return doubted(relations(context, snapshot))

    def _instants_of(self, layout: Layout) -> Instants | None:
        if self._runs and isinstance(self.target, Stoppable):
            earlier = self._of_earlier(layout)
            known = (earlier.pages, earlier.heap, earlier.blocks) if earlier is not None else ()
            return Instants(self.target, layout, self._known_program(), self._own, *known)
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
        from .infer import infer, recall, references

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
        new = types_of(snapshot) - self._met
        self._met |= new
        layout, context = self._fitting, self._context
        if not new or layout is None or context is None:
            return False
        if layout.source == "inferred":
            from .infer import open_questions

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
        from .infer import infer, references, remember

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


def types_of(snapshot: Snapshot) -> set[str]:
    """Return the QOM types that have instances."""
    return {obj.type for obj in snapshot.objects.values()}


def shipped_layout(path: str) -> Layout | None:
    """Return the profile of a program's version, None where none ships.

    It may be wrong for this build: only a QEMU that runs can be tested by it.
    """
    version = version_of(open_file(path).elf).split()
    found = (profile for profile in profiles() if [profile.stem] == version[:1])
    return next((load(profile, f"profile:{profile.stem}") for profile in found), None)


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
