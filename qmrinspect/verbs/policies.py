"""A hunt on several builds
------------------------

``hunt --policies``: the same devices on QEMUs that follow different rules, forecast beside
fact.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..audit.agreement import agreement
from ..documents import HuntRow
from ..errors import UsageError
from ..ledger import POLICIES
from ..report.agreement import agreement_json, agreement_lines
from ..text import printable
from .hunt_options import DEFAULT_ACCEL, DEFAULT_MACHINE
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["hunt_builds"]


def hunt_builds(session: Session, args: argparse.Namespace) -> Answer:
    """Hunt on several builds and compare."""
    builds = _builds(args.builds)
    rows: list[HuntRow] = []

    def documents() -> Iterator[object]:
        for row in _rows(session, args, builds):
            rows.append(row)
            yield row
        yield {"format": "qmr-hunt/1", "agreement": agreement_json(agreement(rows))}

    def lines() -> Iterator[str]:
        for row in _rows(session, args, builds):
            rows.append(row)
            cells = (
                f"{row['build']:<28}",
                f"{row['device']:<28}",
                f"{row['outcome']:<13}",
                row["cause"],
            )
            yield " ".join(cells).rstrip()
        yield from agreement_lines(agreement(rows))

    def code() -> int:
        found = agreement(rows)
        return FINDINGS if any(cell.wrong for cell in found.cells.values()) else CLEAN

    return Answer(documents(), lines(), CLEAN, stream=True, late=code)


def _rows(
    session: Session, args: argparse.Namespace, builds: Sequence[tuple[str, str]]
) -> Iterator[HuntRow]:
    from ..campaign.jobs import plan, run
    from ..campaign.limits import workers_for
    from ..hunt.settings import Settings

    for name, program in builds:
        settings = Settings(
            program,
            args.machine or DEFAULT_MACHINE,
            args.accel or DEFAULT_ACCEL,
            forecast=True,
        )
        planned = plan(settings, args.driver)
        # What a policy decides shows in one cycle; memory that is no object does not depend on it.
        settings = planned.settings._replace(sure=False)
        # Only what is a device, and of the machine's own CPU model, is unplugged by a policy.
        jobs = [job for job in planned.jobs if ":" not in job.driver and not job.cpu]
        done = 0
        try:
            workers = workers_for(settings, args.jobs or 1)
            for one in run(settings, list(enumerate(jobs)), workers):
                done += 1
                session.progress(f"{name}: {done} of {len(jobs)}: {one.job.driver}")
                for row in one.rows:
                    if row["outcome"] != "refused":
                        yield {**row, "build": name}
        finally:
            session.progress(None)


def _builds(given: str | None) -> list[tuple[str, str]]:
    """Return name and program of each build.

    :param given: programs, with commas between; None for those that tools/build_qemu.py made.
    """
    programs = [Path(part) for part in given.split(",") if part] if given else _found()
    if len(programs) < 2:
        raise UsageError(
            "a comparison takes two builds or more",
            "name them: --builds PROGRAM,PROGRAM; tools/build_qemu.py makes one for each policy",
        )
    names = [_name(program) for program in programs]
    return [
        (name if names.count(name) == 1 else f"{name} {i}", os.fspath(program))
        for i, (name, program) in enumerate(zip(names, programs), 1)
    ]


def _found() -> list[Path]:
    """Return what tools/build_qemu.py made, the newest of each version and policy."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    every = Path(home, "qmr", "qemu", "bin").glob("*/*/qemu-system-x86_64")
    newest = {_name(path): path for path in sorted(every, key=os.path.getmtime)}
    policies = {policy.name for policy in POLICIES}
    return [newest[name] for name in sorted(newest) if set(name.split()[1:]) <= policies]


def _name(program: Path) -> str:
    """Return a short name: of the directories that a build is in, or the program's own."""
    if program.parent.parent.parent.name == "bin":
        version = program.parent.parent.name.split("+")[0]
        patch = program.parent.name.rsplit("-", 1)[0]
        return version if patch.endswith("-as") else f"{version} {patch}"
    return printable(str(program))
