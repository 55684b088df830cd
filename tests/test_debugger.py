"""What stands between a debugger and the rest, without a debugger."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Callable

import pytest

from qmrinspect.errors import UsageError
from qmrinspect.fronts.gdb.running import Inferior, Interrupted, run_while
from qmrinspect.fronts.gdb.stops import Stop
from qmrinspect.fronts.line import parse, split
from qmrinspect.monitor.base import MonitorLost
from qmrinspect.target.debugger import (
    Signal,
    core_path,
    parse_auxv,
    parse_mappings,
    parse_signal,
    read_ranges,
)
from qmrinspect.target.image import PAGE, Mapping
from qmrinspect.target.malloc import Malloc
from qmrinspect.target.standing import worth_reading
from qmrinspect.verbs.table import VERBS

pytestmark = pytest.mark.unit

ASKED = Stop("signal", "SIGINT")


# Lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  nic0   --json ", ["nic0", "--json"]),
        ("(Object *) 0x55", ["(Object *)", "0x55"]),
        ('$qmr("a b")->parent', ['$qmr("a b")->parent']),
        ("\"a b\" 'c d'", ["a b", "c d"]),
        ("f(a, g(b c))", ["f(a, g(b c))"]),
        ("/machine/it's", ["/machine/it's"]),
        ("a ) b", ["a", ")", "b"]),
    ],
)
def test_a_line_is_split_around_expressions(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize("line", ['"nic0', "'", 'f("x', 'a "b'])
def test_an_open_quote_is_told(line: str) -> None:
    with pytest.raises(UsageError, match="not closed"):
        split(line)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("(Object *) 0x55", "(Object *) 0x55"),
        ("--json (Object *) 0x55", "(Object *) 0x55"),
        ("dev->parent_obj --json", "dev->parent_obj"),
        ("/machine/a b c", "/machine/a b c"),
        ("$1 + 8 --debug", "$1 + 8"),
    ],
)
def test_what_is_left_over_belongs_to_the_object(line: str, text: str) -> None:
    read = parse(VERBS["refs"], line)
    assert read.args.object == text
    assert read.args.json == ("--json" in line)
    assert read.debug == ("--debug" in line)


def test_the_monitor_may_be_named_anywhere() -> None:
    read = parse(VERBS["hunt"], "e1000e --qmp /run/q bochs-display")
    assert (read.qmp, read.args.driver) == ("/run/q", ["e1000e", "bochs-display"])


@pytest.mark.parametrize("line", ["", "nic0 --wrong", "nic0 --qmp"])
def test_wrong_arguments_are_usage_errors(line: str) -> None:
    with pytest.raises(UsageError):
        parse(VERBS["refs"], line)


# Running ---------------------------------------------------------------------------


class FakeInferior:
    """Stops with what it is told, or when it is interrupted."""

    def __init__(self, stop: Stop | None = None) -> None:
        self.stop = stop
        self.asked = threading.Event()
        self.goes = 0

    def interrupter(self) -> Callable[[], None]:
        return self.asked.set

    def go(self) -> Stop:
        self.goes += 1
        if self.stop is not None:
            return self.stop
        assert self.asked.wait(10)
        return ASKED


def test_it_runs_for_as_long_as_the_work_takes() -> None:
    inferior: Inferior = FakeInferior()
    assert run_while(inferior, lambda: 6 * 7) == 42


def test_the_failure_of_the_work_comes_out() -> None:
    def work() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_while(FakeInferior(), work)


@pytest.mark.parametrize(
    ("stop", "kind", "words"),
    [
        (Stop("breakpoint", "breakpoint 3"), Interrupted, "breakpoint 3"),
        (Stop("signal", "SIGUSR2", "main"), Interrupted, "SIGUSR2 in main"),
        (ASKED, Interrupted, "interrupted"),
        (Stop("signal", "SIGABRT", "raise"), MonitorLost, "SIGABRT in raise"),
        (Stop("exit", "exit status 1"), MonitorLost, "exit status 1"),
    ],
)
def test_another_stop_ends_the_work(stop: Stop, kind: type[Exception], words: str) -> None:
    never = threading.Event()
    try:
        with pytest.raises(kind, match=words):
            run_while(FakeInferior(stop), never.wait)
    finally:
        never.set()


# Texts of GDB ----------------------------------------------------------------------


def test_mappings_with_and_without_rights() -> None:
    text = """process 1
Mapped address spaces:

          Start Addr           End Addr       Size     Offset  Perms  objfile
      0x564dd9b02000     0x564dd9f09000   0x407000        0x0  r--p   /usr/bin/qemu system
      0x564ddac8f000     0x564ddacc2000    0x33000        0x0  rw-p
"""
    assert parse_mappings(text) == [
        Mapping(0x564DD9B02000, 0x564DD9F09000, "r--p", 0, "/usr/bin/qemu system"),
        Mapping(0x564DDAC8F000, 0x564DDACC2000, "rw-p", 0, ""),
    ]
    old = "      0x1000     0x2000   0x1000        0x0   /usr/bin/q\n  0x3000 0x4000 0x1000 0x0\n"
    assert [(m.perms, m.path) for m in parse_mappings(old)] == [
        ("rw-p", "/usr/bin/q"),
        ("rw-p", ""),
    ]
    assert parse_mappings("warning: unable to open /proc file") == []


def test_other_texts() -> None:
    auxv = (
        "9    AT_ENTRY             Entry point of program         0x5555\n"
        '15   AT_PLATFORM          String identifying platform    0x7ffe "x86_64"\n'
        "0    AT_NULL              End of vector                  0x0\n"
    )
    assert parse_auxv(auxv) == {9: 0x5555, 0: 0}
    files = "Local core dump file:\n\t`/tmp/a core', file type elf64-x86-64.\n"
    assert core_path(files) == "/tmp/a core"
    assert core_path("Local exec file:\n\t`/bin/x', file type elf64-x86-64.\n") is None
    row = "Signal        Stop\tPrint\tPass to program\nSIGUSR1       No\tYes\tNo\t\tUser\n"
    signal = parse_signal(row, "SIGUSR1")
    assert signal == Signal("SIGUSR1", False, True, False)
    assert signal.command() == "handle SIGUSR1 nostop print nopass"
    assert parse_signal("", "SIGUSR1") is None


# Memory with holes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("holes", "size", "wanted"),
    [
        ((), 3, [(1, 3)]),
        ((2,), 4, [(1, 1), (3, 2)]),
        ((1, 4), 4, [(2, 2)]),
        ((1, 2, 3), 3, []),
    ],
)
def test_holes_are_left_out(holes: Sequence[int], size: int, wanted: list[tuple[int, int]]) -> None:
    def read(address: int, length: int) -> bytes | None:
        first = address // PAGE
        if any(first <= hole < first + length // PAGE for hole in holes):
            return None
        return bytes(length)

    segments, reads = read_ranges(read, [(PAGE, size * PAGE)])
    pages = {at // PAGE + i for at, data in segments for i in range(len(data) // PAGE)}
    assert pages == {page + i for page, count in wanted for i in range(count)}
    assert reads >= len(segments)


def test_a_range_that_is_all_holes_is_given_up() -> None:
    asked = []

    def read(address: int, length: int) -> None:
        asked.append(address)

    assert read_ranges(read, [(PAGE, 1 << 40)])[0] == []
    assert len(asked) < 100_000


def test_of_a_stack_what_was_used_is_read() -> None:
    top = 0x7F0000800000
    guard = Mapping(top - (8 << 20) - PAGE, top - (8 << 20), "---p", 0, "")
    stack = Mapping(guard.end, top, "rw-p", 0, "")
    used = 600 << 10

    def peek(address: int, size: int) -> bytes:
        return bytes(int(address + i >= top - used) for i in range(size))

    whole = [(stack.start, stack.end - stack.start)]
    ((start, size),) = worth_reading(whole, [guard, stack], peek, Malloc())
    assert start + size == top
    assert used <= size < used + (512 << 10)
    # What has something at its far end is no stack that is used from the other.
    assert worth_reading(whole, [guard, stack], lambda _, size: b"\1" * size, Malloc()) == whole
