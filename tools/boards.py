#!/usr/bin/env python3
"""Read every board of every emulator.

Starts each machine type that an emulator names, without firmware and with its CPUs stopped,
audits it, and writes a chapter of docs/boards.md: what the board shows, or why it does not start.
A board that does not start without a kernel or a ROM is given a file of zeros.

    tools/boards.py 11.1=PATH                      # every board of one emulator
    tools/boards.py --board raspi3b 11.1=PATH      # one board
    tools/boards.py --page docs/boards.md --json FILE 7.2=PATH 7.2=PATH2

Emulators of the same name share a chapter.  Of a family of versions (virt-9.0, virt-9.1, ...)
only the newest is read, the rest with --versions.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import chapter  # noqa: E402
from workshop import parser_of  # noqa: E402

from qmrinspect.audit import Report  # noqa: E402
from qmrinspect.errors import QmrError  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

# A version at the end of a machine's name.
VERSION = re.compile(r"-v?\d+\.\d+(?:-\w+)?$")
OPTIONS = ("-serial", "none", "-nic", "user")
# Bytes of a flash, as the boards that need one have it.
FLASH = 32 << 20
# Seconds for a board to come up.
UP = 60.0


class Row(NamedTuple):
    """What one board shows."""

    program: str
    board: str
    reason: str = ""
    objects: int = 0
    exact: int = 0
    not_judged: int = 0
    findings: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()
    policy: str = ""
    layout: str = ""
    seconds: float = 0.0
    given: str = ""


def boards_of(program: str, versions: bool) -> list[str]:
    """Return the machine types of an emulator, without aliases."""
    said = subprocess.run(
        [program, "-machine", "help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    lines = [line for line in said.splitlines()[1:] if line and "(alias of" not in line]
    names = [line.split()[0] for line in lines]
    newest = set(re.findall(r"\(alias of ([^)]+)\)", said))
    return [name for name in names if name != "none" and (versions or _wanted(name, names, newest))]


def _wanted(name: str, names: Sequence[str], newest: set[str]) -> bool:
    if VERSION.search(name) is None or name in newest:
        return True
    family = [n for n in names if VERSION.sub("", n) == VERSION.sub("", name)]
    return not newest.intersection(family) and name == family[0]


def counted(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{n} {text}" for text, n in sorted(Counter(texts).items()))


def row_of(program: str, board: str, report: Report, seconds: float) -> Row:
    index = report.book.index
    snapshot = index.snapshot
    objects = snapshot.objects
    found = [
        f"{f.kind} {objects[f.address].type if f.address in objects else '-'}"
        + (f" {f.observed - f.expected:+d}" if f.observed != f.expected else "")
        for f in report.findings
        if f.severity != "note"
    ]
    rules = [
        f"{edge.rule} {objects[edge.target].type}"
        for edge in report.book.edges
        if edge.rule and edge.target in objects
    ]
    return Row(
        program,
        board,
        "",
        report.objects,
        report.exact,
        len(report.not_judged),
        counted(found),
        counted(rules),
        tuple(sorted({u.kind for u in snapshot.unsearched if not u.absent})),
        report.verdict.policy.name,
        snapshot.target.layout,
        seconds,
    )


def read(program: str, board: str) -> Row:
    """Start a board with as little as it takes, read it, end it."""
    with tempfile.TemporaryDirectory() as place:
        zeros = Path(place) / "zeros"
        zeros.write_bytes(bytes(1 << 16))
        flash = Path(place) / "flash"
        with flash.open("wb") as file:
            file.truncate(FLASH)
        ways: list[tuple[str, ...]] = [()]
        ways += [(option, str(zeros)) for option in ("-kernel", "-bios")]
        ways += [("-drive", f"if=pflash,format=raw,file={flash}"), ("-L", place)]
        first = Row(program, board)
        for way in ways:
            row = _read(program, board, way)
            if not row.reason:
                return row
            first = first if first.reason else row
            # The ROM that it looks for by name.
            for name in re.findall(r"'([\w.-]+\.\w+)'", first.reason):
                shutil.copy(zeros, Path(place) / name)
        return first


def _read(program: str, board: str, way: Sequence[str]) -> Row:
    name = Path(program).name.replace("qemu-system-", "")
    begun = time.monotonic()
    try:
        with Vm(program, board, extra=(*OPTIONS, *way), timeout=UP) as vm:
            report = Reader(Process(vm.pid)).check()
            row = row_of(name, board, report, time.monotonic() - begun)
            return row._replace(given=way[0] if way else "")
    except QmrError as error:
        return Row(name, board, error.text)


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a chapter."""
    good = [row for row in rows if not row.reason]
    clean = [row for row in good if not row.findings]
    yield (
        f"{len(rows)} boards: {len(good)} start and are read, {len(clean)} of them without a "
        f"finding; {sum(row.objects for row in good)} objects, "
        f"{sum(row.exact for row in good)} exact."
    )
    yield ""
    everywhere = set.intersection(*(set(row.rules) for row in good)) if good else set()
    if everywhere:
        yield f"On each of them by rule: {', '.join(sorted(everywhere))}."
        yield ""
    yield "| emulator | board | objects | exact | by rule | findings | not searched for |"
    yield "|---|---|---|---|---|---|---|"
    for row in good:
        given = f" with `{row.given}`" if row.given else ""
        rules = [rule for rule in row.rules if rule not in everywhere]
        cells = (rules, row.findings, row.unsearched)
        lists = " | ".join(", ".join(cell) or "-" for cell in cells)
        yield f"| {row.program} | `{row.board}`{given} | {row.objects} | {row.exact} | {lists} |"
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.reason:
            reasons[row.reason].append(f"{row.program} `{row.board}`")
    if reasons:
        yield ""
        yield "Not read:"
        yield ""
    for reason, places in sorted(reasons.items()):
        yield f"- {', '.join(places)}: {reason}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("qemu", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--board", action="append")
    parser.add_argument("--versions", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--json", type=Path, help="a line for each board is added to it")
    options = parser.parse_args(arguments)
    chapters: dict[str, list[Row]] = defaultdict(list)
    for words in options.qemu:
        title, _, program = words.partition("=")
        for board in options.board or boards_of(program, options.versions):
            row = read(program, board)
            chapters[title].append(row)
            print(title, row.program, board, row.reason or row.findings, flush=True)
            if options.json:
                with options.json.open("a") as file:
                    print(json.dumps({"title": title, **row._asdict()}), file=file)
    for title, rows in chapters.items():
        if options.page:
            chapter.write(
                options.page, title, [f"Made at {chapter.origin()}.", "", *lines_of(rows)]
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
