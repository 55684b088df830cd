"""A session of the REPL
---------------------

What it is attached to, one VM at a time, and what it keeps for its user: marks,
aliases, watches, lines.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Callable

from ...errors import QmrError, TargetError, UsageError
from ...index import Index
from ...layout import Layout
from ...monitor.base import Event, Monitor
from ...snapshot import Obj, Pointer, Snapshot
from ...target.image import Target
from ...text import printable
from ..jobs import check_cancelled
from ..options import Options
from .knowledge import Knowledge
from .statements import Result, object_of
from .vm import Notify, Vm

if TYPE_CHECKING:
    from ...audit.check import Report
    from ...hunt.driver import Driver
    from ...search.named import Named
    from ...search.place import Place
    from ...trace.recorder import OnEvents
    from ...trace.tracing import Tracing
    from ...verbs.verb import Verb

__all__ = ["ReplSession"]


class ReplSession:
    """What the REPL gives to the verbs, as :class:`~qmrinspect.verbs.verb.Session`.

    :param notify: tells what nobody asked for.
    :param changed: called when the status bar has something new to show.
    :param event: called for each event of the VM, by a thread of its monitor.
    """

    front = "repl"

    def __init__(
        self,
        notify: Notify,
        changed: Callable[[], None],
        event: Callable[[Vm, Event], None],
    ) -> None:
        self.notify, self._changed, self._event = notify, changed, event
        self.vm: Vm | None = None
        #: What it answers, by name; the engine sets it.
        self.verbs: Mapping[str, Verb] = {}
        #: What the running command says of itself.
        self.activity: str | None = None
        #: Snapshots that the user gave names.
        self.marks: dict[str, Snapshot] = {}
        self.aliases: dict[str, str] = {}
        #: What commands answered, by name; ``_`` is the last one.
        self.results: dict[str, Result] = {}
        #: Ends the watch of an object, by the name it was given.
        self.watches: dict[str, threading.Event] = {}
        #: Ends a trace, by what it is of.
        self.traces: dict[str, threading.Event] = {}
        #: The lines that were typed, oldest first.
        self.history: list[str] = []
        #: What completion and typed arguments know of the VM.
        self.knowledge = Knowledge(lambda: self.vm)
        #: Set when the session shall end.
        self.over = False

    def attach(self, options: Options) -> Vm:
        """Attach to another VM, and detach from the present one when that worked.

        :raises QmrError: it cannot be used; the present one stays.
        """
        vm = Vm(options, self.notify, self._changed, self._event)
        self.detach()
        self.vm = vm
        self._changed()
        if vm.pid and vm.live:
            try:
                vm.monitor()
            except QmrError as error:
                text = f"{error.text}; qmr reads memory only"
                self.notify(text + (f" ({error.hint})" if error.hint else ""), "warning")
        return vm

    def detach(self) -> bool:
        """Detach from the VM; say whether there was one."""
        vm, self.vm = self.vm, None
        for stop in (*self.watches.values(), *self.traces.values()):
            stop.set()
        self.watches.clear()
        self.traces.clear()
        if vm is not None:
            vm.close()
            self._changed()
        return vm is not None

    def attached(self) -> Vm:
        """Return the VM.

        :raises TargetError: there is none.
        """
        if self.vm is None:
            raise TargetError(
                "the session is not attached to a VM", "ps lists what runs; attach NAME takes one"
            )
        return self.vm

    @property
    def layout_file(self) -> str | None:
        """The user's own layout (``--layout``), None for none."""
        return self.vm.layout_file if self.vm is not None else None

    def has_target(self) -> bool:
        """Whether it is attached."""
        return self.vm is not None

    def target(self) -> Target:
        """Return what is read."""
        return self.attached().target()

    def snapshot(self) -> Snapshot:
        """Take a reading, or return the last one of a VM that has gone."""
        return self.attached().snapshot()

    def report(self) -> Report:
        """Audit a reading."""
        return self.attached().report()

    def layout(self) -> Layout | None:
        """Return the layout of the last reading, None when a saved snapshot was read."""
        return self.attached().layout()

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        """Return the words that point to objects of the last reading."""
        return self.attached().pointers(snapshot, targets)

    def place(self, snapshot: Snapshot, address: int) -> Place:
        """Find out what an address belongs to."""
        return self.attached().place(snapshot, address)

    def named(
        self, snapshot: Snapshot, name: str | None, address: int | None
    ) -> tuple[Sequence[Named], str | None]:
        """Find what is no object and has a name; see :meth:`Reader.named`."""
        return self.attached().named(snapshot, name, address)

    def resolve(self, index: Index, text: str) -> Obj:
        """Find the object that ``OBJ`` names; ``_`` and other results are what they are about.

        :raises UsageError: such a result is about no object.
        :raises ObjectNotFound: there is none, or more than one.
        """
        if text in self.results:
            named = object_of(self.results[text].data)
            if not named:
                command = printable(self.results[text].command)
                raise UsageError(f"what {command} answered is about no object", "name the object")
            text = named
        return index.resolve(text)

    def monitor(self) -> Monitor:
        """Return the monitor, connected."""
        return self.attached().monitor()

    def driver(self) -> Driver:
        """Return what a hunt reads and drives the VM with."""
        return self.attached().driver()

    def tracing(self, only: Collection[int] = (), on_events: OnEvents | None = None) -> Tracing:
        """Return what traces the VM."""
        return self.attached().tracing(only, on_events)

    def say(self, text: str) -> None:
        """Tell the user what is no part of the answer: above the prompt."""
        self.notify(text, "note")

    def confirm(self, question: str) -> bool:
        """Nobody is asked here: the prompt is for the next command."""
        return False

    def progress(self, text: str | None) -> None:
        """Show how far a long work is, in the status bar."""
        check_cancelled()
        self.activity = printable(text) if text is not None else None
        self._changed()

    def close(self) -> None:
        """End the session."""
        self.over = True
        self.detach()
