"""A hunt through all types
------------------------

``hunt --introspect``: every type of every emulator is made and dropped.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import QmrError, UsageError
from ..hunt.introspect import introspect
from ..hunt.rows import FORMAT, is_bad
from ..report.tell import type_lines, verdict_lines
from ..text import printable
from .verb import CLEAN, FINDINGS, Outcome, Session

__all__ = ["hunt_types"]


def hunt_types(session: Session, args: argparse.Namespace) -> Outcome:
    """Make and drop the types of one emulator, or of all that are installed."""
    programs = [args.qemu] if args.qemu else _installed()
    totals: list[dict[str, Any]] = []
    failed: list[str] = []
    bad = False

    def rows() -> Iterator[dict[str, Any]]:
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
                session.progress("")
            totals.append(
                {
                    "emulator": program,
                    "types": types,
                    "clean": types - sum(counts.values()),
                    **counts,
                    "under": {policy: dict(found) for policy, found in under.items()},
                }
            )

    def documents() -> Iterator[Any]:
        yield from rows()
        yield {"format": FORMAT, "summary": totals, "not_done": failed}

    def lines() -> Iterator[str]:
        for row in rows():
            yield from verdict_lines(row)
        yield from type_lines(totals, failed)

    def code() -> int:
        if args.driver and totals and not any(total["types"] for total in totals):
            raise UsageError(
                f"no emulator has a device type {printable(args.driver[0])}",
                "qmr qmp qom-list-types implements=device lists those of one",
            )
        if failed and not totals:
            raise UsageError(failed[0], "name an emulator that qmr can read: --qemu PROGRAM")
        return FINDINGS if bad else CLEAN

    return Outcome(documents(), lines(), CLEAN, stream=True, late=code)


def _installed() -> list[str]:
    found: dict[str, str] = {}
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        for path in sorted(Path(directory or ".").glob("qemu-system-*")):
            if os.access(path, os.X_OK) and path.is_file():
                found.setdefault(path.name, os.fspath(path))
    if not found:
        raise UsageError("no QEMU is installed", "name one with --qemu")
    return [found[name] for name in sorted(found)]
