"""A hunt through all types
------------------------

``hunt --introspect``: every type of every emulator is made and dropped.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..documents import HuntRow
from ..errors import QmrError, UsageError
from ..hunt.introspect import Total, introspect
from ..hunt.rows import FORMAT, is_bad
from ..report.rows import type_lines, verdict_lines
from ..text import printable
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["hunt_types"]


def hunt_types(session: Session, args: argparse.Namespace) -> Answer:
    """Make and drop the types of one emulator, or of all that are installed."""
    programs = [args.qemu] if args.qemu else _installed()
    totals: list[Total] = []
    failed: list[str] = []
    bad = False

    def rows() -> Iterator[HuntRow]:
        nonlocal bad
        for program in programs:
            counts: Counter[str] = Counter()
            under: dict[str, Counter[str]] = {}
            types = 0
            try:
                for found in introspect(program, args.driver):
                    types = found.types
                    session.progress(f"{os.path.basename(program)}: {types} types")
                    if found.row is None:
                        continue
                    row = found.row
                    counts[row["outcome"]] += 1
                    for policy, outcome in row["under"].items():
                        under.setdefault(policy, Counter())[outcome] += 1
                    bad = bad or is_bad(row)
                    yield row
            except QmrError as error:
                failed.append(f"{program}: {error}")
                continue
            finally:
                session.progress(None)
            clean = types - sum(counts.values())
            totals.append(Total(program, types, {"clean": clean, **counts}, under))

    def documents() -> Iterator[object]:
        yield from rows()
        yield {
            "format": FORMAT,
            "summary": _summary(totals),
            "not_done": failed,
        }

    def lines() -> Iterator[str]:
        for row in rows():
            yield from verdict_lines(row)
        yield from type_lines(totals, failed)

    def code() -> int:
        if args.driver and totals and not any(total.types for total in totals):
            raise UsageError(
                f"no emulator has a device type {printable(args.driver[0])}",
                "qmr qmp qom-list-types implements=device lists those of one",
            )
        if failed and not totals:
            raise UsageError(failed[0], "name an emulator that qmr can read: --qemu PROGRAM")
        return FINDINGS if bad else CLEAN

    return Answer(documents(), lines(), CLEAN, stream=True, late=code)


def _summary(totals: Iterable[Total]) -> list[dict[str, object]]:
    return [
        {
            "emulator": total.emulator,
            "types": total.types,
            **total.outcomes,
            "under": {policy: dict(found) for policy, found in total.under.items()},
        }
        for total in totals
    ]


def _installed() -> list[str]:
    found: dict[str, str] = {}
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        for path in sorted(Path(directory or ".").glob("qemu-system-*")):
            if os.access(path, os.X_OK) and path.is_file():
                found.setdefault(path.name, os.fspath(path))
    if not found:
        raise UsageError("no QEMU is installed", "name one with --qemu")
    return [found[name] for name in sorted(found)]
