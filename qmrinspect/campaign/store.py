"""Campaign files
--------------

A campaign is kept in SQLite, job by job as it is done, so that it survives the death
of the process and goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..closing import Closing
from ..documents import HuntRow
from ..errors import TargetError, UsageError
from ..hunt.rows import Row, is_bad, key
from ..hunt.settings import Job
from ..outfile import open_private, probe
from .jobs import Done, Plan

__all__ = ["Store", "compare"]

FORMAT = "qmr-campaign/1"

_TABLES = """
create table if not exists meta (name text primary key, value text not null);
create table if not exists jobs (
    number integer primary key, driver text not null, cpu text not null, done integer not null,
    error text not null default ''
);
create table if not exists rows (
    job integer not null references jobs(number), place integer not null, row text not null,
    primary key (job, place)
);
"""

# What two runs must have in common to be one campaign.
_SAME = ("qemu", "machine", "accel", "cycles", "guest", "hosts")


class Store(Closing):
    """A campaign file.

    :param path: is made when it does not exist.
    :raises TargetError: it is no campaign, or cannot be written.
    """

    def __init__(self, path: str, create: bool = True) -> None:
        if not create and not Path(path).is_file():
            raise TargetError(f"there is no campaign {path}", "qmr hunt --campaign FILE makes one")
        self.path = path
        if create:
            probe(path)
        try:
            if create:
                # What SQLite puts beside it has the same rights.
                os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            self._base = sqlite3.connect(path, isolation_level=None)
            # A job is done when it is on the disk, whatever kills us afterwards.
            self._base.execute("pragma journal_mode = wal")
            self._base.executescript(_TABLES)
            found = self._meta("format")
        except sqlite3.Error as error:
            raise TargetError(f"{path} cannot be used as a campaign: {error}") from None
        if found not in (None, FORMAT):
            raise TargetError(f"{path} is a campaign of another format, {found}")

    def _meta(self, name: str) -> str | None:
        row = self._base.execute("select value from meta where name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def begin(self, plan: Plan) -> list[tuple[int, Job]]:
        """Write down a plan, or find the one that was begun; return what is left to do.

        :raises UsageError: the file is of a campaign with other settings.
        """
        settings = {name: plan.settings.json()[name] for name in _SAME}
        settings["build"] = _build(plan.settings.qemu)
        if plan.settings.error_paths:
            settings["error_paths"] = True
        wanted = json.dumps({**settings, "jobs": [list(job.json().values()) for job in plan.jobs]})
        known = self._meta("plan")
        if known is not None and known != wanted:
            raise UsageError(
                f"{self.path} is a campaign with other settings or on another QEMU",
                "give the same ones to go on with it, or name another file",
            )
        if known is None:
            with self._writing():
                self._base.execute("insert into meta values ('format', ?)", (FORMAT,))
                self._base.execute("insert into meta values ('plan', ?)", (wanted,))
                self._base.executemany(
                    "insert into jobs (number, driver, cpu, done) values (?, ?, ?, 0)",
                    [(number, *job.json().values()) for number, job in enumerate(plan.jobs)],
                )
        left = self._base.execute("select number, driver, cpu from jobs where not done")
        return [(number, Job(driver, cpu or None)) for number, driver, cpu in left.fetchall()]

    def add(self, done: Done) -> bool:
        """Keep what came of a job; say whether it is new.

        A job that could not be done stays to be done.

        :raises TargetError: the file cannot be written; what it has is whole.
        """
        if done.error is not None:
            with self._writing():
                self._base.execute(
                    "update jobs set error = ? where number = ?", (str(done.error), done.number)
                )
            return True
        with self._writing():
            changed = self._base.execute(
                "update jobs set done = 1, error = '' where number = ? and not done",
                (done.number,),
            )
            if not changed.rowcount:
                return False
            self._base.executemany(
                "insert into rows values (?, ?, ?)",
                [(done.number, place, json.dumps(row)) for place, row in enumerate(done.rows)],
            )
        return True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Write all of what follows, or nothing."""
        try:
            with self._base:
                self._base.execute("begin immediate")
                yield
        except sqlite3.Error as error:
            raise TargetError(
                f"{self.path} cannot be written: {error}",
                "make room, and the same command goes on with what is done",
            ) from None

    def rows(self) -> Iterator[HuntRow]:
        """Yield all rows, in the order of the plan."""
        try:
            for (text,) in self._base.execute("select row from rows order by job, place"):
                yield json.loads(text)
        except (sqlite3.Error, ValueError) as error:
            raise TargetError(f"{self.path} is damaged: {error}") from None

    def left(self) -> int:
        """Return how many jobs are still to be done."""
        return int(self._base.execute("select count(*) from jobs where not done").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def _build(qemu: str) -> list[object]:
    # Another build under the same name is another campaign.
    program = shutil.which(qemu)
    if program is None:
        return []  # it is on the cluster
    stat = os.stat(program)
    return [os.path.realpath(program), stat.st_size, stat.st_mtime_ns]


def compare(rows: Sequence[Row], baseline: Sequence[Row]) -> dict[str, list[Row]]:
    """Sort findings into ``new``, ``fixed`` and ``known``.

    A finding is fixed when its driver was hunted again, and that was not found.
    """
    before = {key(row): row for row in baseline if is_bad(row)}
    now = {key(row): row for row in rows if is_bad(row)}
    hunted = {row["device"] for row in rows if row["outcome"] != "refused"}
    return {
        "new": [row for name, row in now.items() if name not in before],
        "fixed": [
            row for name, row in before.items() if name not in now and row["device"] in hunted
        ],
        "known": [row for name, row in now.items() if name in before],
    }


def baseline_rows(path: str) -> list[Row]:
    """Return the rows of an earlier campaign: a campaign file, or the lines of ``--json``.

    :raises TargetError: it is neither.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if head.startswith(b"SQLite format 3"):
            with Store(path, create=False) as store:
                return list(store.rows())
        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        return [row for row in rows if "device" in row]
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise TargetError(
            f"{path} is neither a campaign nor the output of qmr hunt --json"
        ) from None
