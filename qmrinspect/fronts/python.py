"""The reading as Python objects
-----------------------------

``qmr NAME repl --python``: a Python prompt with the snapshot, its book and its findings, for
questions that no verb asks.
"""

from __future__ import annotations

import builtins
import code
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import QmrError
from ..report import render
from ..text import printable

if TYPE_CHECKING:
    from ..audit.check import Report
    from ..audit.finding import Finding
    from ..index import Index
    from ..ledger import Book, Edge
    from ..snapshot import Obj, Snapshot
    from ..verbs.verb import Session

__all__ = ["Reading", "run_python"]

# Of a value so many characters are shown at the prompt.
_SHOWN_MAX = 4000
_NAMES = ("snapshot", "book", "findings", "index")


class Reading:
    """One reading, with what the audit makes of it.

    :param session: reads the target.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.report: Report
        #: What a program may use without ``reading.``; always of the last reading.
        self.names: dict[str, object] = {"__name__": "__console__", "reading": self}
        for name in ("obj", "refs", "of_type", "again"):
            self.names[name] = getattr(self, name)
        self.again()

    def again(self) -> Reading:
        """Read once more; the names of the prompt follow."""
        self.report = self._session.report()
        self.names.update((name, getattr(self, name)) for name in _NAMES)
        return self

    def __repr__(self) -> str:
        found = render.plural(len(self.findings), "finding")
        return f"<reading of {render.plural(len(self.snapshot.objects), 'object')}, {found}>"

    @property
    def snapshot(self) -> Snapshot:
        """The frozen graph: objects, props, regions, ... by address."""
        return self.report.book.index.snapshot

    @property
    def book(self) -> Book:
        """The expected references: ``book.on[address]`` are those on an object."""
        return self.report.book

    @property
    def index(self) -> Index:
        """Names and relations: ``index.path(address)``, ``index.is_a(address, type)``."""
        return self.report.book.index

    @property
    def findings(self) -> list[Finding]:
        """What the audit found."""
        return list(self.report.findings)

    def obj(self, name: str | int) -> Obj:
        """Return an object by its path, id, the end of its path, or its address.

        :raises ObjectNotFound: there is none, or several.
        """
        return self._session.resolve(self.index, hex(name) if isinstance(name, int) else name)

    def refs(self, name: str | int | Obj) -> list[Edge]:
        """Return the references on an object: ``kind``, ``holder``, ``field``, ..."""
        address = name.address if not isinstance(name, (str, int)) else self.obj(name).address
        return list(self.book.on.get(address, ()))

    def of_type(self, name: str) -> list[Obj]:
        """Return the objects of a QOM type, with those of the types that inherit from it."""
        objects = self.snapshot.objects.values()
        return [obj for obj in objects if self.index.is_a(obj.address, name)]


class _Console(code.InteractiveConsole):
    """A prompt that answers what went wrong in qmr by a sentence."""

    def showtraceback(self) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, QmrError):
            self.write(f"{error}\n")
        else:
            super().showtraceback()


def run_python(session: Session, commands: list[str] | None) -> int:
    """Run Python on a reading and return the exit code.

    :param commands: of ``-c``; None to read standard input, or a terminal.
    """
    reading = Reading(session)
    if commands is None and sys.stdin.isatty():
        _prompt(reading)
        return 0
    source = "\n".join(commands) if commands is not None else sys.stdin.read()
    try:
        exec(compile(source, "<qmr>", "exec"), reading.names)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except QmrError:
        raise
    except Exception:
        # The user's own program: its traceback is what helps.
        import traceback

        traceback.print_exc()
        return 2
    return 0


def _prompt(reading: Reading) -> None:
    target = reading.snapshot.target
    pid = f" (pid {target.pid})" if target.pid else ""
    banner = (
        f"qmr {__version__} on QEMU {printable(target.qemu_version)}{pid}: {reading!r}\n"
        f"{', '.join(_NAMES)}; obj('nic0'), refs('nic0'), of_type('pci-device'), again()"
    )
    before, sys.displayhook = sys.displayhook, _show
    try:
        with _completion(reading.names):
            _Console(reading.names).interact(banner, "")
    finally:
        sys.displayhook = before


def _show(value: object) -> None:
    """Print what a line came to; a snapshot as a whole would be some hundred kilobytes."""
    if value is None:
        return
    vars(builtins)["_"] = value
    text = repr(value)
    more = len(text) - _SHOWN_MAX
    print(text if more <= 0 else f"{text[:_SHOWN_MAX]}... and {more} characters more")


@contextlib.contextmanager
def _completion(names: dict[str, object]) -> Iterator[None]:
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    before = readline.get_completer()
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
