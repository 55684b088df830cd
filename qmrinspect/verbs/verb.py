"""What a verb is
--------------

A verb says once what it is called, what it takes and what it answers; the fronts
only read its arguments and print its answer.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Protocol

from ..errors import UsageError
from ..text import printable
from ..tuples import NamedTuple

if TYPE_CHECKING:
    from ..audit.check import Report
    from ..hunt.driver import Driver
    from ..index import Index
    from ..layout import Layout
    from ..monitor.base import Monitor
    from ..search.named import Named
    from ..search.place import Place
    from ..snapshot import Obj, Pointer, Snapshot
    from ..target.image import Target
    from ..trace.recorder import OnEvents
    from ..trace.tracing import Tracing

__all__ = [
    "Answer",
    "Argument",
    "Run",
    "Session",
    "Verb",
    "at_least_0",
    "at_least_1",
    "later",
    "parsed",
    "parser_for",
    "seconds",
]

CLEAN, FINDINGS = 0, 1


class Answer(NamedTuple):
    """What a verb answers.

    :param data: what ``--json`` prints: one JSON value; a list of documents when
        ``stream`` is set (JSON Lines).
    :param lines: the text for people; may be lazy, so that long work shows as it goes.
    :param code: exit code, 0 or 1.
    :param late: asked for the exit code after the last line, where the lines are
        made as the work goes.
    :param interrupted: says, after a Ctrl-C, what is done and how to go on.
    :param raw: the lines are another program's, or for one: they are not broken.
    """

    data: object
    lines: Iterable[str]
    code: int = CLEAN
    stream: bool = False
    late: Callable[[], int] | None = None
    raw: bool = False
    interrupted: Callable[[], str] | None = None

    def json(self) -> Iterator[str]:
        """Yield what ``--json`` prints, a text a document, as they come."""
        import json

        if self.stream:
            assert isinstance(self.data, Iterable)
            yield from map(json.dumps, self.data)
        else:
            yield json.dumps(self.data, indent=1)


class Session(Protocol):
    """What a front gives to its verbs."""

    front: str  # "shell", "gdb" or "repl"

    @property
    def layout_file(self) -> str | None:
        """The user's own layout (``--layout``), None for none."""

    def target(self) -> Target:
        """Return the target; raises TargetError or UsageError when there is none."""

    def snapshot(self) -> Snapshot:
        """Take a new reading, or return the one that a saved snapshot is."""

    def report(self) -> Report:
        """Audit a new reading; what is found must hold in a second reading."""

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        """Return the words that point to objects of the last reading."""

    def place(self, snapshot: Snapshot, address: int) -> Place:
        """Find out what an address belongs to, in the memory of the last reading.

        :raises TargetError: a saved snapshot has no memory.
        """

    def named(
        self, snapshot: Snapshot, name: str | None, address: int | None
    ) -> tuple[Sequence[Named], str | None]:
        """Find what is no object and has a name, and who uses it.

        :param address: an object of that name, whose users that count nothing are found as well.
        :return: what was found, and why nothing can be, None when it can.
        """

    def layout(self) -> Layout | None:
        """Return the layout of the last reading, None when a saved snapshot was read."""

    def resolve(self, index: Index, text: str) -> Obj:
        """Find the object that ``OBJ`` names; inside GDB also by expression."""

    def monitor(self) -> Monitor:
        """Return the monitor of the target, connected."""

    def has_target(self) -> bool:
        """Whether the user named a target, or is inside one."""

    def driver(self) -> Driver:
        """Return what a hunt on the target reads and drives it with."""

    def tracing(self, only: Collection[int] = (), on_events: OnEvents | None = None) -> Tracing:
        """Return what traces the target; see :class:`~qmrinspect.trace.tracing.Tracing`."""

    def say(self, text: str) -> None:
        """Say to the user what is no part of the answer."""

    def confirm(self, question: str) -> bool:
        """Ask on a terminal; False where there is none to ask on."""

    def progress(self, text: str | None) -> None:
        """Show on stderr how far a long work is; None ends it."""


#: What answers a verb.
Run = Callable[["Session", argparse.Namespace], Answer]


def later(package: str, module: str, function: str) -> Run:
    """Return a verb's function, whose module is imported when the verb runs.

    :param package: where the module lies.
    """

    def run(session: Session, args: argparse.Namespace) -> Answer:
        answer: Run = getattr(importlib.import_module(f"{package}.{module}"), function)
        return answer(session, args)

    return run


class Argument(NamedTuple):
    """One argument: as :meth:`argparse.ArgumentParser.add_argument` takes it.

    :param completes: ``object``, ``path``, ``device``, ``driver``, ``space``, ``file``:
        what a front may complete it with, None for nothing.
    """

    names: Sequence[str]
    options: Mapping[str, object]
    completes: str | None = None


class Verb(NamedTuple):
    """One verb.

    :param fronts: where it makes sense.
    :param reports: whether it takes ``--json``.
    """

    name: str
    help: str
    arguments: Sequence[Argument]
    run: Run
    fronts: frozenset[str] = frozenset(("shell", "gdb", "repl"))
    reports: bool = True
    example: str | None = None


def _number(text: str, least: float, kind: Callable[[str], float]) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no number") from None
    if not value >= least or value == float("inf"):
        raise argparse.ArgumentTypeError(f"it takes a number from {least:g}")
    return value


def at_least_0(text: str) -> int:
    """Read a number that is not negative."""
    return int(_number(text, 0, int))


def at_least_1(text: str) -> int:
    """Read a number of things."""
    return int(_number(text, 1, int))


def seconds(text: str) -> float:
    """Read a time, which is not negative."""
    value = _number(text, 0, float)
    if not value:
        raise argparse.ArgumentTypeError("it takes a number of seconds")
    return value


_EMPTY_OPTION = re.compile(r"--[\w-]+=")


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the program: GDB and the REPL go on."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # A script's variable that is not set: no verb means anything by it.
        if any(not word.strip() or _EMPTY_OPTION.fullmatch(word) for word in args or ()):
            self.error("an argument is empty")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", f"see {self.prog} --help")


def parsed(verb: Verb, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a verb; where nothing but its form can be asked for, without a parser.

    :raises UsageError: they make no sense.
    """
    if verb.reports and not verb.arguments and {"--json", "--wide"}.issuperset(words):
        return argparse.Namespace(json="--json" in words, wide="--wide" in words)
    return parser_for(verb).parse_args(words)


def parser_for(verb: Verb, prog: str = "qmr") -> argparse.ArgumentParser:
    """Return the argument parser of one verb."""
    parser = _Parser(prog=f"{prog} {verb.name}", description=verb.help, epilog=verb.example)
    add: Callable[..., object] = parser.add_argument
    for argument in verb.arguments:
        add(*argument.names, **argument.options)
    if verb.reports:
        parser.add_argument("--json", action="store_true", help="print JSON for programs")
        parser.add_argument(
            "--wide", action="store_true", help="show all of a table, however wide it is"
        )
    return parser
