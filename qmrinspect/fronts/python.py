"""The reading as Python objects
-----------------------------

``qmr NAME repl --python``: a Python prompt with the snapshot, its book and its findings, for
questions that no verb asks.
"""

from __future__ import annotations

import code
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import QmrError

if TYPE_CHECKING:
    from ..audit.check import Report
    from ..audit.finding import Finding
    from ..index import Index
    from ..ledger import Book, Edge
    from ..snapshot import Obj, Snapshot
    from ..verbs.verb import Session

__all__ = ["Reading", "run_python"]

_NAMES = "snapshot book findings index reading"


class Reading:
    """One reading, with what the audit makes of it.

    :param session: reads the target.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.report: Report
        self.again()

    def again(self) -> Reading:
        """Read once more; the names of the prompt follow."""
        self.report = self._session.report()
        return self

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


class _Names(dict[str, Any]):
    """The names of the prompt; those of the reading are always of the last one."""

    def __init__(self, reading: Reading) -> None:
        names = ("obj", "refs", "of_type", "again")
        super().__init__({name: getattr(reading, name) for name in names}, reading=reading)
        self["__name__"] = "__console__"

    def __missing__(self, name: str) -> Any:
        if name in _NAMES.split():
            return getattr(self["reading"], name)
        raise KeyError(name)


def run_python(session: Session, commands: list[str] | None) -> int:
    """Run Python on a reading and return the exit code.

    :param commands: of ``-c``; None to read standard input, or a terminal.
    """
    names = _Names(Reading(session))
    if commands is None and sys.stdin.isatty():
        _prompt(names)
        return 0
    source = "\n".join(commands) if commands is not None else sys.stdin.read()
    try:
        exec(compile(source, "<qmr>", "exec"), names)
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


def _prompt(names: _Names) -> None:
    reading: Reading = names["reading"]
    target = reading.snapshot.target
    banner = (
        f"qmr {__version__} on QEMU {target.qemu_version} (pid {target.pid}): "
        f"{len(reading.snapshot.objects)} objects, {len(reading.findings)} findings\n"
        f"{_NAMES.replace(' ', ', ')}; obj('nic0'), refs('nic0'), of_type('pci-device'), again()"
    )
    with _completion(names):
        code.InteractiveConsole(names).interact(banner, "")


@contextlib.contextmanager
def _completion(names: _Names) -> Iterator[None]:
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    completer = rlcompleter.Completer(names)
    before = readline.get_completer()
    readline.set_completer(completer.complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
