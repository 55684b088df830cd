"""Types made and dropped
----------------------

``device-list-properties`` makes an instance of a type, and drops it again: QEMU's classic
trigger of a region that is still in a container, since nothing is ever realized, and so
nothing unrealized.  What stays is judged, and foretold under each policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..audit.forecast import all_policies
from ..audit.graph import Orphans, orphan_groups
from ..audit.outcome import Outcome, outcome_of
from ..audit.policy import Verdict, choose
from ..closing import Closing
from ..documents import HuntRow
from ..errors import MonitorError
from ..hotplug.kinds import Recipe
from ..hotplug.unplug import Cycle, Step
from ..hotplug.vm import Vm
from ..index import Index
from ..ledger import Book, open_book
from ..monitor.base import CommandError, Monitor
from ..reading import Reader
from ..target.process import Process
from .foretell import UNKNOWN, also_gone, foretell_after, foretell_rest
from .hunted import Hunted
from .judge import Judgement, rows_left
from .rows import row_of

__all__ = ["Introspected", "Total", "introspect"]

# So many types are made between two readings; where something stays that shows no type, or
# QEMU dies, they are made again by halves.
_BATCH = 64
_TIMEOUT_S = 30.0


class Introspected(NamedTuple):
    """What came of the types of one emulator.

    :param row: of one type of which something stays, or of which QEMU died; None at the end.
    :param types: how many were made.
    """

    row: HuntRow | None
    types: int


class Total(NamedTuple):
    """How the types of one emulator ended.

    :param types: how many were made.
    :param outcomes: how many ended how.
    :param under: the same by policy.
    """

    emulator: str
    types: int
    outcomes: Mapping[str, int]
    under: Mapping[str, Mapping[str, int]]


def introspect(qemu: str, names: Sequence[str] = ()) -> Iterator[Introspected]:
    """Make and drop every device type of an emulator, and judge what stays.

    :param names: only these types; those that it does not have are left out.
    :raises TargetError: it does not start, or cannot be read.
    """
    with _Emulator(qemu) as emulator:
        types = [name for name in emulator.types() if not names or name in names]
        done = 0
        while done < len(types):
            batch = types[done : done + _BATCH]
            for row in emulator.batch(batch):
                yield Introspected(row, done)
            done += len(batch)
        yield Introspected(None, done)


class _Emulator(Closing):
    """A machine without anything, started again when it dies."""

    def __init__(self, qemu: str) -> None:
        self._qemu = qemu
        self._verdict: Verdict | None = None
        self._start()

    def _start(self) -> None:
        self._vm = Vm(self._qemu, "none")
        self._monitor: Monitor = self._vm.monitor()
        self._process = Process(self._vm.pid)
        self._reader = Reader(self._process)
        self._before = self._after = self._book()
        self._known = {a for group in orphan_groups(self._before) for a in group.members}

    def _book(self) -> Book:
        index = Index(self._reader.read())
        # What is left of types tells the policy better than an empty machine does.
        verdict, book = choose(index)
        if self._verdict is None or not self._verdict.supporting:
            self._verdict = verdict
            return book
        return open_book(index, self._verdict.policy)

    def types(self) -> list[str]:
        """Return the names of all device types that have instances."""
        wanted = {"implements": "device", "abstract": False}
        found = self._monitor.execute("qom-list-types", wanted, _TIMEOUT_S)
        return sorted(str(item["name"]) for item in found) if isinstance(found, list) else []

    def batch(self, types: Sequence[str]) -> Iterator[HuntRow]:
        """Make types, and yield the rows of those of which something stays."""
        died = self._make(types)
        groups = [] if died else self._new()
        said = self._vm.exit_text() or ""
        if died:
            self.restart()
        if len(types) > 1 and (died or any(self._type(g) not in types for g in groups)):
            # Whose it is the halves tell.
            middle = len(types) // 2
            yield from self.batch(types[:middle])
            yield from self.batch(types[middle:])
            return
        if died:
            yield self._row(types[0], Judgement(Outcome.CRASH, None, (), (), said), None, None)
            return
        for name in types:
            mine = [g for g in groups if len(types) == 1 or self._type(g) == name]
            if mine:
                yield self._judge(name, mine)

    def _make(self, types: Sequence[str]) -> bool:
        """Make and drop types; say whether QEMU died of it."""
        try:
            for name in types:
                try:
                    arguments = {"typename": name}
                    self._monitor.execute("device-list-properties", arguments, _TIMEOUT_S)
                except CommandError:
                    continue  # it is of no use outside its machine, QEMU says
            # RCU's work comes later, and so may its assertions.
            self._monitor.execute("query-status", timeout=_TIMEOUT_S)
        except MonitorError:
            if not self._vm.wait(_TIMEOUT_S):
                raise
            return True
        return False

    def _new(self) -> list[Orphans]:
        self._after = self._book()
        # What was a member of a group, a later reading may take for the root of another.
        groups = [g for g in orphan_groups(self._after) if g.root not in self._known]
        for group in groups:
            self._known.update(group.members)
        return groups

    def _type(self, group: Orphans) -> str:
        return self._after.index.snapshot.objects[group.root].type

    def _judge(self, name: str, groups: Sequence[Orphans]) -> HuntRow:
        after = self._after
        head = next((g.root for g in groups if self._type(g) == name), None)
        left = sorted({member for group in groups for member in group.members})
        found = outcome_of(after, head, left, name)
        rows = rows_left(after, after, left)
        judgement = Judgement(found.outcome, found.cause, found.causes, rows, found.text)
        return self._row(name, judgement, head, after)

    def _row(
        self, name: str, judgement: Judgement, head: int | None, after: Book | None
    ) -> HuntRow:
        """Return the row of a type.

        :param head: an object of the type that is left, None for none.
        :param after: None where QEMU died.
        """
        foretold = None
        under: dict[str, str] = {}
        if after is not None:
            verdict = self._verdict
            left = [row.address for row in judgement.left]
            if head is not None:
                foretold = foretell_after(after, head, left)
            else:
                gone = also_gone(verdict.candidates if verdict is not None else ())
                foretold = foretell_rest(after, left, name, gone)
            under = {policy.name: UNKNOWN for policy in all_policies()}
            under.update({f.policy.name: str(f.outcome.outcome) for f in foretold.forecasts})
        cycle = Cycle(name, step=Step.INTROSPECT)
        hunted = Hunted(
            Recipe(name, None),
            "none",
            judgement.outcome,
            judgement,
            cycle,
            after=after,
            books=(self._before,),
            foretold=foretold,
            under=under,
        )
        row = row_of(hunted)
        row["emulator"] = self._vm.argv[0]
        return row

    def restart(self) -> None:
        """Start QEMU anew."""
        self.close()
        self._start()

    def close(self) -> None:
        """End QEMU."""
        self._monitor.close()
        self._process.close()
        self._vm.close()
