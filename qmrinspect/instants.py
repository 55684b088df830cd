"""Readings of a VM that runs
--------------------------

A VM stands still for as long as the pages take to read that the walk reads: those which
it read the last times.  All other memory is copied when the VM runs again; a scan looks
for objects there, and what it finds brings the walk to pages that were not read in the
stop.  Then the VM is stopped once more for these as well, and in the end for all but the
stacks of coroutines, where nothing is that is looked for.

Copied after the stop, not before: what was born before the stop and lives on is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from .errors import LayoutError, ReadingError
from .heap import Live
from .layout import Layout
from .records.context import Context, Known
from .snapshot import Snapshot
from .stops import ATTEMPTS, PAUSE_S, added, cost_of, patiently
from .target.image import PAGE, Capture, Image, Ranges
from .target.instant import Copy, Frozen, Stoppable, numbers
from .target.memory import merged
from .tuples import NamedTuple
from .walk import Program, chooser, decode
from .walk.quiet import Signs, signs, waiting

__all__ = ["Instants"]

Taken = tuple[Snapshot, Context]

# On a busy host it may be for long: whoever holds the big lock waits for a CPU.  A stop that only
# asks is short; so many of them take a second, and are not tried again where all were in vain.
_PATIENCE = 24
# Stops that read: for what is wanted, twice for what was missing, and for all but some stacks.
_ROUNDS = 4
# So many pages of heaps that change between two readings are too many to be lucky.
_MOVING = 16
# A page that so many readings did without is not read any more.
_AGE_MAX = 16
# Fewer pages are read at once as fast; and so many readings after a proof that failed, and at
# first, when nothing is known of what changes, all are.
_HOT_MIN = 512
_DISTRUST = 2
# An image larger than this is not compared with the next one, in bytes.
_KEEP_MAX = 256 << 20
# More pages of coroutines' stacks than these are not read to be on the safe side.
_STACKS_MAX = 1024
# Pages that are read though nobody needs them, to have fewer ranges.
_BETWEEN = 2


class Instants:
    """Readings of a process that runs, under one layout.

    :param own: the process is our own and serves nobody else, so that a stop may take as long
        as all memory takes to read: one walk is enough then.
    :param pages: the numbers of those that earlier readings of the process needed.
    :param heap: of those that tell live blocks of malloc from free ones, which the next ``blocks``
        readings read in the stop.
    """

    def __init__(
        self,
        target: Stoppable,
        layout: Layout,
        program: Program,
        own: bool = False,
        pages: Iterable[int] = (),
        heap: Iterable[int] = (),
        blocks: int = 0,
    ) -> None:
        self._target = target
        self._own = own
        self._layout = layout
        self._program = program._replace(info=program.info._replace(layout=layout.source))
        self._choose = chooser(target, layout, program.statics)
        self._known = Known()
        self._heap = set(heap)  # pages that tell live blocks from free ones
        # Page number to the last reading that needed it.
        self._needed = dict.fromkeys(pages, 0)
        self._readings = 0
        self._signs: Signs | None = None
        self._changing: set[int] = set()  # pages that were seen to differ between readings
        self._always: set[int] = set()  # pages of the signs
        self._distrust = _DISTRUST  # readings that do without a proof
        self.blocks = blocks  # readings that read them in the stop
        self._rests = True  # whether the last reading was of a quiet moment
        self._last: _Walked | None = None

    @property
    def needed(self) -> frozenset[int]:
        """The numbers of the pages that the last readings needed, or nearly did."""
        needed = frozenset(page for page, number in self._needed.items() if number)
        return needed | self._in_coroutines()

    @property
    def heap(self) -> frozenset[int]:
        """The numbers of the pages that told live blocks from free ones in the last stops."""
        return frozenset(self._heap if self.blocks else ())

    def look(self, spent: list[Capture]) -> Snapshot:
        """Walk a copy that was made without a stop: it may be of no instant at all.

        Where it is known which pages are needed, these are of a stop, quiet or not.

        :param spent: what stops cost is added.
        :raises QmrError: as :func:`~qmrinspect.walk.decode` does.
        """
        if self._own:
            walked = self._walk(*self._all(None))
            self._learn(walked, set())
            return walked.snapshot
        if self._needed and self._signs is None:
            taken = self._pages(self._wanted(), spent)
            if taken is not None:
                return taken[0]
        begin = time.perf_counter_ns()
        copy = self._copy()
        image = copy.patched(None, self._target.peek)
        wall_us = (time.perf_counter_ns() - begin) // 1000
        cost = Capture(0, wall_us, copy.reads, image.size, 0, True, "pages", 0, 0)
        walked = self._walk(image, cost)
        self._learn(walked, _needs(walked))
        return walked.snapshot

    def read(self, spent: list[Capture]) -> Taken | None:
        """Take a snapshot of one instant; None when it is not known yet where a quiet one shows.

        :param spent: what earlier stops cost; those of this reading are added.
        :raises QmrError: the target cannot be read; ReadingError: the structures make no
            sense, at none of several looks.
        """
        if self._signs is None:
            return None
        if self._own:
            return self.whole(spent)
        wanted = self._wanted()
        taken = self._hot(wanted, spent)
        if taken is None:
            taken = self._pages(wanted, spent)
        return taken if taken is not None else self.whole(spent)

    def follow_blocks(self) -> None:
        """Read in the stop what tells live blocks of malloc from free ones as well.

        A copy is of no one moment where many threads allocate.
        """
        self.blocks = _AGE_MAX

    def _moved(self, walked: _Walked, stopped: set[int]) -> set[int]:
        """Return the pages that tell live blocks, and may have been others in the stop."""
        if not self.blocks:
            return set()
        image, heap = walked.image, walked.context.live.heap
        pages = heap.pages()
        self._heap = pages | heap.ahead()
        if len(pages & walked.changed) >= _MOVING:
            self.follow_blocks()
        # What is the same before and after was so in between.
        others = pages - stopped if self._last is None else (pages - stopped) & walked.changed
        return others | {page for page in pages - stopped if image.lacks(page)}

    def _pages(self, wanted: set[int], spent: list[Capture]) -> Taken | None:
        """Stop for all pages that are wanted, and those that turn out to be."""
        rounds, lacked = 0, set[int]()
        if self.blocks:
            self.blocks -= 1
            wanted |= self._heap
        while rounds < _ROUNDS - bool(self.blocks):
            last = len(spent) >= self._looks() + rounds
            begin = time.perf_counter_ns()
            frozen = self._freeze(self._ranges(wanted), not last)
            if not frozen.quiet:
                spent.append(cost_of(frozen, None, begin, "pages"))
                time.sleep(PAUSE_S * len(spent))
                continue
            rounds += 1
            copy = self._copy()
            image = copy.patched(frozen, self._target.peek)
            if rounds > 1:
                # What was found before is wanted by now; what is found elsewhere is born since.
                image.scope = frozen.pages()
            spent.append(cost_of(frozen, copy, begin, "pages"))
            try:
                walked = self._walk(image, added(spent))
            except (ReadingError, LayoutError):
                # A list that is being changed, or a page that was not there: again.
                missing = image.given | image.missing
                if not missing - frozen.pages() and last:
                    raise
                wanted |= missing
                continue
            needs = _needs(walked)
            # What cannot be read stays unread.
            missing = (image.given - frozen.pages()) | (needs - wanted)
            missing |= self._moved(walked, frozen.pages())
            if not missing:
                return self._learn(walked, needs | lacked)
            wanted |= missing
            # They were needed a moment ago, and will be again.
            lacked |= needs & missing
            # Where blocks come and go one more short stop would be in vain.
            if rounds == _ROUNDS - 1 - bool(self.blocks):
                wanted |= _all_but_coroutines(image)
        return None

    def whole(self, spent: list[Capture]) -> Taken:
        """As :meth:`read`; stop for all memory, at a quiet moment if there is one."""
        most = len(spent) + self._looks()
        while True:
            last = len(spent) >= most
            signs = None if last else self._signs
            if self._own and signs is not None and not signs.quiet(self._target.peek):
                # That much shows without a stop.
                spent.append(Capture(0, 0, 0, 0, 0, False, "whole", 0))
                time.sleep(PAUSE_S * len(spent))
                continue
            image, cost = self._all(signs)
            spent.append(cost)
            try:
                if cost.quiescent:
                    walked = self._walk(image, added(spent))
                    return self._learn(walked, set() if self._own else _needs(walked))
            except ReadingError:
                # A list that is being changed gets a second look.
                if last:
                    raise
            time.sleep(PAUSE_S * len(spent))

    def _looks(self) -> int:
        """Return how many looks may be in vain before one that takes what there is."""
        return (_PATIENCE if self._rests else ATTEMPTS) - 1

    def _all(self, signs: Signs | None) -> tuple[Image, Capture]:
        ask = signs.quiet if signs is not None else None
        return patiently(lambda: self._target.capture_all(self._choose, ask))

    def _hot(self, wanted: set[int], spent: list[Capture]) -> Taken | None:
        """Stop for the pages that change; all others are the same before and after.

        :param wanted: what turns out to be wanted as well is added.
        :return: None where that cannot be shown, or is not worth it.
        """
        hot = (self._changing | self._in_coroutines()) & wanted
        if self.blocks or self._distrust or len(wanted) < _HOT_MIN or 2 * len(hot) > len(wanted):
            self._distrust = max(0, self._distrust - 1)
            return None
        hot |= self._always
        before = self._ranges(wanted)
        begin = time.perf_counter_ns()
        glance = self._target.glance(before)
        frozen = self._freeze(self._ranges(hot), True)
        while not frozen.quiet and len(spent) < ATTEMPTS - 2:
            spent.append(cost_of(frozen, None, begin, "hot"))
            time.sleep(PAUSE_S * len(spent))
            begin = time.perf_counter_ns()
            glance = self._target.glance(before)
            frozen = self._freeze(self._ranges(hot), True)
        if not frozen.quiet:
            spent.append(cost_of(frozen, None, begin, "hot"))
            return None
        copy = self._copy()
        changed = glance.differing(Image(copy.segments), before) - frozen.pages()
        spent.append(cost_of(frozen, copy, begin, "hot"))
        if not changed.isdisjoint(wanted):
            self._changing |= changed
            self._distrust = _DISTRUST
            return None
        image = copy.patched(frozen, self._target.peek)
        try:
            walked = self._walk(image, added(spent))
        except (ReadingError, LayoutError):
            return None
        needs = _needs(walked)
        if needs <= wanted | frozen.pages():
            return self._learn(walked, needs)
        wanted |= needs
        return None

    def learn(self, image: Image, snapshot: Snapshot, context: Context) -> None:
        """Learn from a reading that was made in another way."""
        walked = _Walked(image, snapshot, context, set())
        self._learn(walked, _needs(walked))

    @property
    def context(self) -> Context | None:
        """What the last walk was made with."""
        return self._last.context if self._last is not None else None

    @property
    def known(self) -> Known:
        """What a walk may build upon."""
        return self._known

    def _freeze(self, ranges: Ranges, quiet: bool) -> Frozen:
        ask = self._signs.quiet if quiet and self._signs is not None else None
        return patiently(lambda: self._target.freeze(ranges, ask))

    def _ranges(self, wanted: set[int]) -> Ranges:
        pages = set(wanted)
        if self._last is not None:
            holds = self._last.image.holds
            for start, size in merged(sorted(wanted)):
                behind = start // PAGE + size // PAGE
                gap = range(behind, behind + _BETWEEN)
                if not wanted.isdisjoint(range(behind, behind + _BETWEEN + 1)):
                    pages.update(page for page in gap if holds(page))
        return merged(sorted(pages))

    def _copy(self) -> Copy:
        if self._last is not None and self._last.image.size > _KEEP_MAX:
            # Two of them would be too much.
            self._last, self._known = None, Known()
        return self._target.copy(self._choose)

    def _walk(self, image: Image, cost: Capture) -> _Walked:
        last = self._last
        if last is not None:
            image.compare(last.image)
            if not image.changed:
                # The walk would come to the same.
                quiet = last.snapshot.capture.quiescent
                snapshot = last.snapshot._replace(capture=cost._replace(quiescent=quiet))
                return _Walked(last.image, snapshot, last.context, set())
        snapshot, context = decode(
            image, cost, self._layout, self._program.statics, self._program.info, self._known
        )
        return _Walked(image, snapshot, context, image.changed)

    def _wanted(self) -> set[int]:
        oldest = self._readings - _AGE_MAX
        self._needed = {page: n for page, n in self._needed.items() if n > oldest}
        return self._needed.keys() | self._in_coroutines()

    def _in_coroutines(self) -> set[int]:
        """Return the pages of coroutines' stacks that lie as those that were needed do.

        Any coroutine may serve the next request.
        """
        if self._last is None:
            return set()
        image, needed = self._last.image, set(self._needed)
        stacks = [(s // PAGE, end // PAGE) for s, end in self._last.context.live.coroutines()]
        depths = {end - page for s, end in stacks for page in needed.intersection(range(s, end))}
        if len(stacks) * len(depths) > _STACKS_MAX:
            return set()
        return {end - n for _, end in stacks for n in depths if image.holds(end - n)}

    def _learn(self, walked: _Walked, needs: set[int]) -> Taken:
        self._changing |= walked.changed & needs & self._needed.keys()
        self._readings += 1
        self._needed.update(dict.fromkeys(needs, self._readings))
        self._last = walked
        self._rests = walked.snapshot.capture.quiescent
        walked.context.believed()
        if self._signs is None:
            self._signs = signs(walked.context, walked.snapshot.objects)
        else:
            # Iothreads come and go.
            found = waiting(walked.context, walked.snapshot.objects)
            self._signs = self._signs._replace(waiting=found)
        self._always = {address // PAGE for address in self._signs.addresses()}
        return walked.snapshot, walked.context


class _Walked(NamedTuple):
    """An image, what the walk made of it, and the pages that changed since the one before."""

    image: Image
    snapshot: Snapshot
    context: Context
    changed: set[int]


def _needs(walked: _Walked) -> set[int]:
    """Return the numbers of the pages that the walk read, or would have."""
    snapshot, image = walked.snapshot, walked.image
    named = {prop.target for prop in snapshot.props if prop.role != "weak"}
    named.update(child.child for bus in snapshot.buses.values() for child in bus.children)
    named.update(at for region in snapshot.regions.values() for at in region.subregions)
    named.update(row.mr for view in snapshot.views.values() for row in view.ranges)
    named.update(field.target for field in snapshot.fields)
    # An object that is named and was not found may be one that the copy came too late for.
    lost = {at // PAGE for at in named - snapshot.objects.keys() if at}
    return image.given | image.missing | lost


def _all_but_coroutines(image: Image) -> set[int]:
    """Return the numbers of all pages of an image but for the stacks, which are most of some."""
    held = numbers((start, len(data)) for start, data in image.segments())
    live = Live(image, image.mappings, None)
    return {page for page in held if not live.in_coroutine(page * PAGE)}
